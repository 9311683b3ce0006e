"""What the teacher said, of what, and where it is at odds with the ground truth. Functions that return plain JSON."""
