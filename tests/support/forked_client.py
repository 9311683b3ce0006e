"""Ask tests/support/forked.py; imported in no time.

As a program, `python forked_client.py SOCKET -m PROGRAM WORDS ...`, or with -c CODE or a file *.py for -m PROGRAM: runs
it there, and ends as it does. Python's other options are ignored. SIGTERM is handed on to it.
"""

import json
import os
import signal
import socket
import sys
import time


def ask(place, question, descriptors=()):
    """The number that is answered."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        content = json.dumps(question).encode() + b"\n"
        if descriptors:
            content = content[socket.send_fds(connection, [content], list(descriptors)) :]
        if content:  # an answered question's connection is closed, and takes nothing, not even no bytes
            connection.sendall(content)
        return int(connection.makefile().readline())


def ended(process):
    """Whether it is a zombie: to wait for one that runs would keep everybody else waiting."""
    with open(f"/proc/{process}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"


if __name__ == "__main__":
    place, *words = sys.argv[1:]
    while words[0] in ("-S", "-m"):
        words = words[1:]
    question = {"program": words[0], "words": words[1:], "environment": dict(os.environ), "folder": os.getcwd()}
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(signal.SIGTERM))  # handed on once it is known to whom
    process = ask(place, question, (0, 1, 2))
    while not ended(process):
        for number in asked[:]:
            os.kill(process, number)
            asked.remove(number)
        time.sleep(0.02)
    sys.exit(ask(place, {"wait": process}))
