"""Run commands of which one has shut something each: `shut.py FOLDER CASES TOLD`, as root without the right to pass
over permissions. CASES: JSON, a list of (place in the folder, its mode meanwhile, command); to TOLD goes a list of
(exit code, output)."""

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner

import student.cli
import teacher_cache.cli
import tools.inspect_cache
import tools.make_shards

PROGRAMS = {
    "teacher-cache": teacher_cache.cli.main,
    "student": student.cli.main,
    "inspect": tools.inspect_cache.main,
    "make_shards": tools.make_shards.main,
}
RIGHTS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def give_up_rights() -> None:
    """Of this process, and of all that it starts."""
    libc = ctypes.CDLL(None)
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # _LINUX_CAPABILITY_VERSION_3
    libc.capget(header, held)
    for right in RIGHTS:
        libc.prctl(24, right, 0, 0, 0)  # PR_CAPBSET_DROP
        for each in (0, 1):  # effective, permitted
            held[each] &= ~(1 << right)
    libc.capset(header, held)


def permissions_count() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0)
        return not os.access(folder, os.X_OK)


def run(place: str, mode: str, command: str) -> tuple[int, str]:
    program, *words = command.replace("{}", place).split()
    before = os.stat(place).st_mode
    os.chmod(place, int(mode, 8))
    try:
        told = CliRunner().invoke(PROGRAMS[program], words)
    finally:
        os.chmod(place, before)
    return told.exit_code, told.output


if __name__ == "__main__":
    folder, cases, told = map(Path, sys.argv[1:])
    if os.geteuid() == 0:
        give_up_rights()
    os.chdir(folder)
    found = [run(*case) for case in json.loads(cases.read_text())] if permissions_count() else None
    told.write_text(json.dumps(found))
