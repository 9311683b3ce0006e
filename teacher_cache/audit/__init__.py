"""What the teacher said, of what, and where it is at odds with the ground truth. Functions that return plain JSON."""

VIEWS_SAMPLED = 100_000  # whose parameters are looked at, unless told otherwise
