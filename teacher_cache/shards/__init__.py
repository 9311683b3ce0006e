"""Shards: a tar's bytes -> samples -> blocks."""
