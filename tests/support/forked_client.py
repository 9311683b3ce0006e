"""Ask tests/support/forked.py; imported in no time.

As a program, `python forked_client.py SOCKET -m PROGRAM WORDS ...`, or with a file *.py for -m PROGRAM: runs it there,
and ends as it does.
"""

import json
import os
import socket
import sys


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


if __name__ == "__main__":
    place, program, *words = sys.argv[1:]
    if program == "-m":
        program, *words = words
    question = {"program": program, "words": words, "environment": dict(os.environ), "folder": os.getcwd()}
    sys.exit(ask(place, {"wait": ask(place, question, (0, 1, 2))}))
