"""`python -m teacher_cache ...`, for torchrun."""

from teacher_cache.cli import main

if __name__ == "__main__":  # rendering processes import this module too
    main(prog_name="python -m teacher_cache")
