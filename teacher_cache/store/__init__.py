"""The store: one Zarr group of index, policy, teacher, labels, digests and records."""
