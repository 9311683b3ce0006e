"""`python -m student ...`, for torchrun."""

from student.cli import main

if __name__ == "__main__":  # rendering processes import this module too
    main(prog_name="python -m student")
