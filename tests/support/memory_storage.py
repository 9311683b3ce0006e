"""A bucket in memory, a second implementation of the storage's six methods: it counts what it is asked for."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from teacher_cache.errors import ChangedError, StorageError
from teacher_cache.shards import source
from teacher_cache.storage import objects
from teacher_cache.storage.place import Url
from teacher_cache.storage.storage import Entry, Stamp


@dataclass
class Bucket:
    """Objects by URL, and the requests that were made: (method, URL, bytes)."""

    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)  # URLs that are not answered any more
    on_read: Callable[[str], None] = lambda url: None  # called before ranges are given

    def upload(self, folder: Path, url: str) -> None:
        """Put the files of a folder under a URL."""
        for path in sorted(folder.iterdir()):
            self.objects[f"{url}/{path.name}"] = path.read_bytes()

    def reads(self) -> int:
        """How many ranges were asked for."""
        return sum(method == "get_ranges" for method, _, _ in self.requests)


class MemoryStorage:
    is_local = False

    def __init__(self, bucket: Bucket, place: Url) -> None:
        self.place = place
        self._bucket = bucket

    def get(self, name: str) -> bytes | None:
        content = self._bucket.objects.get(self._url(name))
        self._note("get", name, len(content or b""))
        return content

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]], stamp: Stamp | None = None) -> list[bytes]:
        url = self._url(name)
        if url in self._bucket.fails:
            raise StorageError(f"{url}: gave no answer")
        self._bucket.on_read(url)
        content = self._bucket.objects.get(url)
        if content is None:
            raise FileNotFoundError(f"{url} is not there")
        if stamp not in (None, _stamp(content)):
            raise ChangedError(f"{url} was changed")
        found = [content[start : start + length] for start, length in ranges]
        self._note("get_ranges", name, sum(map(len, found)))
        return found

    def put(self, name: str, content: bytes | Path) -> None:
        content = content.read_bytes() if isinstance(content, Path) else content
        self._note("put", name, len(content))
        self._bucket.objects[self._url(name)] = content

    def put_if_absent(self, name: str, content: bytes) -> bool:
        self._note("put_if_absent", name, len(content))
        return self._bucket.objects.setdefault(self._url(name), content) == content

    def list(self, prefix: str = "") -> list[Entry]:
        self._note("list", prefix, 0)
        top, url = f"{self.place}/", self._url(prefix).rstrip("/")
        return sorted(
            Entry(each.removeprefix(top), len(content), _stamp(content))
            for each, content in self._bucket.objects.items()
            if each == url or each.startswith(f"{url}/")
        )

    def delete(self, name: str) -> None:
        self._bucket.objects.pop(self._url(name), None)

    def _url(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _note(self, method: str, name: str, num_bytes: int) -> None:
        self._bucket.requests.append((method, self._url(name), num_bytes))


@contextmanager
def bucket_in_memory() -> Iterator[Bucket]:
    """A bucket that is behind every URL of this process."""
    bucket = Bucket()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "ObjectStorage", lambda place: MemoryStorage(bucket, place))
        source._folder.cache_clear()
        yield bucket
    source._folder.cache_clear()


def _stamp(content: bytes) -> Stamp:
    return hashlib.md5(content).hexdigest(), len(content)
