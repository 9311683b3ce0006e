"""A shard far away, walked as fast as it comes: large ranges are on their way while earlier ones are walked."""

from collections import deque
from functools import partial

from teacher_cache.shards.source import Read
from teacher_cache.storage.ahead import Ahead

WINDOW = 8 << 20  # bytes of a request: 0.1 s of one connection to an object store, which is some times its latency
AHEAD = 6  # requests on their way: one connection alone is slower than a machine's link


class AheadReader:
    """Byte ranges of a shard of so many bytes, all of which is read, in windows. It holds AHEAD + 1 windows at most."""

    def __init__(self, read: Read, size: int) -> None:
        self.size = size
        self.window = WINDOW  # what a walk says of members changes nothing here
        self._read = read
        self._number = -1  # of the window that is here
        self._start, self._data = 0, b""
        self._coming: deque[tuple[int, Ahead[bytes]]] = deque()

    def read(self, offset: int, size: int) -> bytes:
        """Return size bytes, fewer only at the shard's end."""
        at = offset - self._start
        if at < 0 or at + size > len(self._data):
            return self._across(offset, size)
        return self._data[at : at + size]

    def _across(self, offset: int, size: int) -> bytes:
        """Bytes that are not, or not all, in the window that is here."""
        parts, end = [], min(offset + size, self.size)
        while offset < end:
            self._turn_to(offset // WINDOW)
            part = self._data[offset - self._start : end - self._start]
            if not part:  # it became shorter
                break
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _turn_to(self, number: int) -> None:
        if number == self._number:
            return
        while self._coming and self._coming[0][0] != number:
            self._coming.popleft()
        first = self._coming[-1][0] + 1 if self._coming else number
        windows = -(-self.size // WINDOW)
        for each in range(first, min(number + 1 + AHEAD, windows)):
            start = each * WINDOW
            length = min(WINDOW, self.size - start)
            self._coming.append((each, Ahead(partial(self._read, start, length))))
        self._data = b""  # its memory is free before the next one's is needed
        self._number, coming = self._coming.popleft()
        self._start, self._data = number * WINDOW, coming.result()
