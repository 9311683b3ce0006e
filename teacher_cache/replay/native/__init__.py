"""The pixel specification in C, for the CPU."""
