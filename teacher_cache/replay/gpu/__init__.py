"""The pixel specification on a CUDA device: the bytes that replay/ makes, held to it by tests and by digests."""
