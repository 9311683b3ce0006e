"""Objects of a bucket as a storage, through obstore: S3 and what speaks it, Google's, Azure's; files of a web server."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from teacher_cache.errors import ChangedError, StorageError
from teacher_cache.storage.place import Url
from teacher_cache.storage.storage import AT_ONCE, Entry, Stamp

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

INSTALL = "pip install 'deit-teacher-cache[objects]'"
KINDS = {
    **dict.fromkeys(("s3", "s3a"), "S3"),
    "gs": "GCS",
    **dict.fromkeys(("az", "azure", "adl", "abfs", "abfss"), "Azure"),
    **dict.fromkeys(("http", "https"), "HTTP"),
}
VARIABLES = {
    "S3": "AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, AWS_PROFILE (with boto3) or, for public ones, "
    "AWS_SKIP_SIGNATURE=true",
    "GCS": "GOOGLE_APPLICATION_CREDENTIALS or, for public ones, GOOGLE_SKIP_SIGNATURE=true",
    "Azure": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY, or, for public "
    "ones, AZURE_SKIP_SIGNATURE=true",
}
CONNECT_S = 5
STALL_S = 20  # without a byte
SLOWEST = 1_000_000  # bytes a second that are waited for
WHOLE_S = 1800  # of one answer; a stall is seen sooner
RETRIES, RETRY_S = 5, 45  # no try begins later than this after the first
TRIES = 3  # of reads whose bodies end early, of creates that are refused for what is then not there
NEAR = 1 << 20  # bytes between ranges that are read as one
ABSENT_BUCKET = ("NoSuchBucket", "ContainerNotFound")

Answer = TypeVar("Answer")


class ObjectStorage:
    """Objects under a URL; web servers' files are only read. Made at once, looked at when first asked.

    Credentials are the environment's, and in nothing that this object says or is pickled to. Threads may share it.
    Requests are tried again for about a minute; then StorageError names the object.
    """

    is_local = False

    def __init__(self, place: Url, *, stall_s: float = STALL_S, retry_s: float = RETRY_S) -> None:
        self.place = place
        self._stall_s = stall_s
        self._retry_s = retry_s
        self._kind = _kind(place)
        self._clients: dict[tuple[int, float], ObjectStore] = {}
        self._lock = Lock()
        _obstore(place)

    def __repr__(self) -> str:
        return f"ObjectStorage({str(self.place)!r})"

    def __reduce__(self) -> tuple[Callable[..., "ObjectStorage"], tuple[object, ...]]:
        return _again, (self.place, self._stall_s, self._retry_s)

    def get(self, name: str) -> bytes | None:
        obstore = _obstore(self.place)
        try:
            return self._ask(name, lambda: bytes(obstore.get(self._client(), name).bytes()))
        except FileNotFoundError:
            return None

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]], stamp: Stamp | None = None) -> list[bytes]:
        parts = list(_joined(ranges))
        if not parts:
            self._check(name, self._head(name), stamp)
            return [b""] * len(ranges)
        (start, end), *others = parts
        content, found = self._get_part(name, start, end, stamp)
        read = [(start, content)]
        if others:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(min(AT_ONCE, len(others))) as threads:
                more = threads.map(lambda part: self._get_part(name, *part, found)[0], others)
                read += [(start, content) for (start, _), content in zip(others, more, strict=True)]
        given = []
        for start, length in ranges:
            first, content = next(((first, part) for first, part in reversed(read) if first <= start), (0, b""))
            given.append(content[start - first : start - first + length])
        return given

    def put(self, name: str, content: bytes) -> None:
        self._check_writable(name)
        obstore = _obstore(self.place)
        client = self._client(len(content))
        try:
            self._ask(name, lambda: obstore.put(client, name, content, use_multipart=False))
        except FileNotFoundError:
            raise StorageError(f"{self.place / name} cannot be written: there is no such bucket; check it") from None

    def put_if_absent(self, name: str, content: bytes) -> bool:
        self._check_writable(name)
        obstore = _obstore(self.place)
        exceptions = obstore.exceptions
        refused = exceptions.AlreadyExistsError, exceptions.PreconditionError
        client = self._client(len(content))
        for tried in range(TRIES):
            with suppress(*refused):
                self._ask(name, lambda: obstore.put(client, name, content, mode="create", use_multipart=False), refused)
                return True
            # one whose answer was lost has been tried again, and refused for what it had written itself
            there = self.get(name)
            if there is not None:
                return there == content
            time.sleep(0.1 * 2**tried)  # removed meanwhile, or still being written
        raise StorageError(
            f"{self.place / name} is refused as already there, and is not there: run the same command again"
        )

    def list(self, prefix: str = "") -> list[Entry]:
        prefix = prefix.rstrip("/")
        if self._kind == "HTTP" and not prefix:
            raise StorageError(f"{self.place}: what a web server holds cannot be listed: name the files")
        obstore = _obstore(self.place)
        found: list[ObjectMeta] = []
        if self._kind != "HTTP":
            client = self._client()
            found = self._ask(
                prefix,
                lambda: [meta for page in obstore.list(client, prefix or None, chunk_size=1000) for meta in page],
            )
        if not found and prefix:
            with suppress(FileNotFoundError):
                found = [self._head(prefix)]
        return sorted(Entry(meta["path"], meta["size"], _stamp(meta)) for meta in found)

    def delete(self, name: str) -> None:
        self._check_writable(name)
        obstore = _obstore(self.place)
        with suppress(FileNotFoundError):
            self._ask(name, lambda: obstore.delete(self._client(), name))

    def _head(self, name: str) -> "ObjectMeta":
        obstore = _obstore(self.place)
        return self._ask(name, lambda: obstore.head(self._client(), name))

    def _get_part(self, name: str, start: int, end: int, stamp: Stamp | None) -> tuple[bytes, Stamp]:
        """The bytes of a range as far as there are any, and the stamp of the object that they are of."""
        obstore = _obstore(self.place)

        def get() -> tuple[bytes, Stamp]:
            part = obstore.get(self._client(), name, options={"range": (start, end)})
            found = self._check(name, part.meta, stamp)
            return bytes(part.bytes()), found

        try:
            return self._ask(name, get, (_PastEnd,))
        except _PastEnd:
            return b"", self._check(name, self._head(name), stamp)

    def _check(self, name: str, meta: "ObjectMeta", stamp: Stamp | None) -> Stamp:
        found = _stamp(meta)
        if stamp is not None and found != stamp:
            raise ChangedError(
                f"{self.place / name} was changed while it was read: it is {found}, and was {stamp}; let nothing write "
                "there meanwhile"
            )
        return found

    def _check_writable(self, name: str) -> None:
        if self._kind == "HTTP":
            raise StorageError(f"{self.place / name} is read-only: give a folder or a bucket to write to")

    def _ask(self, name: str, ask: Callable[[], Answer], passed: tuple[type[BaseException], ...] = ()) -> Answer:
        """What a request gives. FileNotFoundError and the errors of passed as they are, others as a StorageError,
        without what obstore tells behind it: answers may quote what was signed."""
        obstore = _obstore(self.place)
        shown = self.place / name if name else self.place
        failed: Exception
        for left in range(TRIES - 1, -1, -1):
            try:
                return ask()
            except passed:
                raise
            except FileNotFoundError as error:
                if not any(code in str(error) for code in ABSENT_BUCKET):
                    failed = FileNotFoundError(f"{shown} is not there: check the place")
                else:
                    failed = StorageError(f"{shown} cannot be reached: there is no such bucket; check its name")
                break
            except (obstore.exceptions.BaseError, ValueError) as error:
                said = str(error)
                if _PastEnd in passed and "status code: 416" in said:
                    failed = _PastEnd()
                    break
                failed = StorageError(f"{shown}: {said.partition(chr(10))[0]}")
                if not left or "after " in said or "status code" in said:
                    break
        raise failed

    def _client(self, num_bytes: int = 0) -> "ObjectStore":
        """The client of this process, which waits as long for an answer as so many bytes may take to be sent."""
        wait_s = self._stall_s
        while wait_s < self._stall_s + num_bytes / SLOWEST:
            wait_s *= 2
        key = os.getpid(), wait_s
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._open(wait_s)
            return self._clients[key]

    def _open(self, wait_s: float) -> "ObjectStore":
        from datetime import timedelta

        from obstore.store import HTTPStore, from_url

        client: Any = {
            "allow_http": True,  # of an endpoint or place that says so
            "connect_timeout": timedelta(seconds=min(CONNECT_S, self._stall_s)),
            "read_timeout": timedelta(seconds=wait_s),
            "timeout": timedelta(seconds=WHOLE_S),
        }
        retry: Any = {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=self._retry_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=200),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        }
        if self._kind == "HTTP":
            return HTTPStore(str(self.place), client_options=client, retry_config=retry)
        return from_url(str(self.place), client_options=client, retry_config=retry)


class _PastEnd(Exception):
    """A range begins behind an object's end."""


def _again(place: Url, stall_s: float, retry_s: float) -> ObjectStorage:
    return ObjectStorage(place, stall_s=stall_s, retry_s=retry_s)


def _obstore(place: Url) -> ModuleType:
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise StorageError(f"{place} needs obstore: {INSTALL}") from None
    return obstore


def _kind(place: Url) -> str:
    """Whose place it is. StorageError for one that is not taken, without a password that may be in it."""
    parts = urlsplit(str(place))
    shown = re.sub(r"//[^/]*@", "//", str(place)).partition("?")[0]
    if place.scheme not in KINDS:
        raise StorageError(
            f"{shown}: nothing here reads {place.scheme}://: give s3://, gs://, az://, https:// or hf://"
        )
    if ":" in parts.netloc.rpartition("@")[0] or ("@" in parts.netloc and not place.scheme.startswith("abfs")):
        raise StorageError(f"{shown} was given with a user: credentials are read from the environment, never a URL")
    if parts.query or parts.fragment or "?" in place or "#" in place:
        raise StorageError(f"{shown} was given with a query: leave out what stands behind its ? or #")
    if ".." in place.split("/"):
        raise StorageError(f"{shown} has a .. in it: give the place itself")
    if not parts.netloc:
        raise StorageError(f"{shown} names no bucket: give {place.scheme}://BUCKET/FOLDER")
    return KINDS[place.scheme]


def _stamp(meta: "ObjectMeta") -> Stamp:
    """The ETag, which Azure quotes in answers but not in listings, else the time of change; and the size."""
    tag = meta["e_tag"]
    return (tag.strip('"') if tag else meta["last_modified"].isoformat()), meta["size"]


def _joined(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, end) of what is read as one, in order."""
    first = last = -1
    for start, length in sorted(ranges):
        if length <= 0:
            continue
        if first >= 0 and start - last <= NEAR:
            last = max(last, start + length)
            continue
        if first >= 0:
            yield first, last
        first, last = start, start + length
    if first >= 0:
        yield first, last
