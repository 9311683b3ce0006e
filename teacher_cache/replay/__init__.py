"""A view: settings, random streams, recipes, pixels, mixing, blocks. Knows no teacher, no store, no training."""
