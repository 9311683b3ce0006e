"""Evidence: trainings on real pictures that show, or do not show, what the project claims; a run a row.

    python -m tools.evidence run small --data FOLDER --out FOLDER [--plan] [--jobs 2] [--device cuda]
    python -m tools.evidence page

Settings say what is run (settings.py), from which steps (steps.py) and rows (plan.py) follow. Each step is a command of
the two stages in a process of its own (process.py), run at most once and taken up where it was stopped (run.py). What
has ended is a row under docs/evidence/ (table.py), and the page there is made of these rows alone (compare.py, page.py,
plots.py).
"""
