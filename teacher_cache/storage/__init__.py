"""Where bytes lie: a folder, an object store, the Hugging Face Hub. One seam of six methods; nothing above it knows."""
