"""Two hosts on one machine: network namespaces of their own, joined by a cable that can be pulled.

As a program, `hosts.py NAMESPACE PROGRAM WORDS ...` (started by tests/support/forked.py): runs it on that host.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.forked import Command, Forks

CLONE_NEWNET = 0x40000000  # linux/sched.h
ADDRESSES = ("10.77.3.1", "10.77.3.2")


@dataclass(frozen=True)
class Host:
    """namespace: also the name of its end of the cable."""

    namespace: str
    address: str

    def start(
        self, forks: Forks, program: str, words: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Command:
        given = {"GLOO_SOCKET_IFNAME": self.namespace, **(environment or {})}
        return forks.start(__file__, [self.namespace, program, *words], given)

    def cable(self, state: str) -> None:
        """ "down": nothing comes in or goes out, and nobody is told; "up"."""
        _ip("-n", self.namespace, "link", "set", self.namespace, state)


def unable() -> str | None:
    """Why this machine has no such hosts; None where it has."""
    if shutil.which("ip") is None:
        return "there is no `ip`"
    name = f"tcx{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if done.returncode:
        return f"`ip netns add` is not allowed: {done.stderr.strip()}"
    _ip("netns", "del", name)
    return None


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    hosts = [Host(f"tc{os.getpid()}{letter}", address) for letter, address in zip("ab", ADDRESSES, strict=True)]
    names = [host.namespace for host in hosts]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for host in hosts:
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.namespace)
            for device in ("lo", host.namespace):
                _ip("-n", host.namespace, "link", "set", device, "up")
        yield hosts[0], hosts[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def move_to(namespace: str) -> None:
    """This process, and those that it starts, see the network of that host from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


if __name__ == "__main__":
    from tests.support.forked import TORCHRUN, fork_ranks, run_program

    namespace, program, *words = sys.argv[1:]
    move_to(namespace)
    if program == TORCHRUN:
        fork_ranks()
    run_program(program, words)
