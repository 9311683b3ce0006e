"""Blocks' views, rendered by processes on the CPU or on a device: the same bytes, asked for in the same way."""
