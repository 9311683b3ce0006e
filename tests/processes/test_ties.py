"""Ranks that end with torchrun; that processes end with their parent is in test_processes.py."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RANK = """
import os, sys, time
from teacher_cache.errors import RankError
from teacher_cache.processes.ties import follow_launcher
launcher = int(sys.argv[1])
print("started", flush=True)
while sys.argv[2] == "dies" and os.getppid() == launcher:
    time.sleep(0.01)
try:
    follow_launcher()
except RankError as error:
    print(error, flush=True)
else:
    print("followed", flush=True)
"""
LAUNCHER = """
import os, subprocess, sys, time
environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
words = [sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]]
rank = subprocess.Popen(words, env=environment, start_new_session=sys.argv[3] == "own")
time.sleep(600) if sys.argv[2] == "dies" else rank.wait()
"""


@pytest.mark.parametrize("session", ["own", "torchrun's"])
@pytest.mark.parametrize("launcher_does", ["lives", "dies"])
def test_a_rank_whose_torchrun_died_before_it_could_be_followed_ends(launcher_does: str, session: str) -> None:
    words = [sys.executable, "-c", LAUNCHER, RANK, launcher_does, session]
    launcher = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "started\n"
    if launcher_does == "dies":
        launcher.kill()
    told = launcher.stdout.readline()
    launcher.stdout.close()
    launcher.wait()
    died = "torchrun was ended while this rank started: run the same command again\n"
    assert told == (died if launcher_does == "dies" else "followed\n")
