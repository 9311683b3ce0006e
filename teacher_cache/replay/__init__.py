"""Views: settings, random streams, parameters, pixels, mixing, blocks. Knows no teacher, no store, no training."""

BLOCK_SAMPLES = 64  # of a block; here, as who only counts blocks needs no library of pixels
