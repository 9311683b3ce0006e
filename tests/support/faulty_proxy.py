"""A network that fails when it is told to: what a client and a server say is handed on, but for faults."""

import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import unquote


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    lost: the server gets it, its answer gets lost. reset: as lost, and the client is told. cut: the answer ends after
    so many bytes of its body. stalled: after so many bytes of its body nothing more comes; None: nothing at all. late:
    its answer comes after so many seconds. busy: it is answered 503, and the server never hears of it.
    """

    kind: str
    method: str = ""  # of the request that it waits for; any
    num_bytes: int | None = None
    seconds: float = 0.0


class FaultyProxy:
    """Stands before a server. `requests`: the first line of each that came, without escapes. `faults`: what happens to
    the next ones, in order; each to one. `trouble`: what happens to any other, by its first line. `after`: is called
    with the first line of a request that has been answered, before its answer is handed on."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.faults: deque[Fault] = deque()
        self.trouble: Callable[[str], Fault | None] = lambda line: None
        self.requests: list[str] = []
        self.after: Callable[[str], object] = lambda line: None
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self._listener.getsockname())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._threads[0].join(60)  # it starts the others
        for thread in self._threads:
            thread.join(60)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            fault: Fault | None = None
            line = ""
            answer = b""  # as far as it has come, where it is not handed on at once
            handed = 0
            ends = [client, server]
            while not self._ended.is_set():
                ready = select.select(ends, [], [], 0.05)[0]
                if client in ready:
                    if not (said := _receive(client)):
                        return
                    if fault is None:
                        line, fault = self._note(said) or (line, None)
                        answer, handed = b"", 0
                    if fault is not None and fault.kind == "busy":
                        client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                        return
                    server.sendall(said)
                if server in ready:
                    if not (said := _receive(server)):
                        if fault is None or fault.kind != "stalled":
                            return
                        ends.remove(server)  # and the client is left to wait
                        continue
                    self.after(line)
                    if fault is None:
                        client.sendall(said)
                        continue
                    if fault.kind == "reset":
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if fault.kind in ("lost", "reset"):
                        return
                    if fault.kind == "late":
                        self._ended.wait(fault.seconds)
                        client.sendall(said)
                        fault = None
                        continue
                    answer += said
                    allowed = answer[: _allowed(answer, fault)]
                    client.sendall(allowed[handed:])
                    handed = len(allowed)
                    if len(allowed) < len(answer) and fault.kind == "cut":
                        return

    def _note(self, said: bytes) -> tuple[str, Fault | None] | None:
        """Note a request that begins, and take the fault that waits for it. None for a body that goes on."""
        line = said.partition(b"\r\n")[0].decode(errors="replace")
        if not line.endswith("HTTP/1.1"):
            return None
        with self._lock:
            self.requests.append(unquote(line))
            if self.faults and line.startswith(self.faults[0].method):
                return line, self.faults.popleft()
            return line, self.trouble(line)


def _allowed(answer: bytes, fault: Fault) -> int:
    """How many bytes of an answer go through."""
    head = answer.find(b"\r\n\r\n")
    return 0 if head < 0 or fault.num_bytes is None else head + 4 + fault.num_bytes


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except ConnectionError:
        return b""
