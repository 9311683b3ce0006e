"""Stage two: students trained from a store of cached labels."""
