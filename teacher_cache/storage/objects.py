"""Objects of a bucket as a storage, through obstore: S3 and what speaks it, Google's, Azure's; a web server's files."""

import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread, current_thread, main_thread
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from teacher_cache.errors import ChangedError, StorageError
from teacher_cache.storage.credentials import (
    CREDENTIALS,
    METADATA,
    aws_profile,
    azure_settings,
    check_sendable,
    hide,
    is_given,
)
from teacher_cache.storage.place import ENDPOINTS, Url, is_endpoint
from teacher_cache.storage.storage import AT_ONCE, NEAR, PART_BYTES, PARTS_AHEAD, Entry, Stamp, cut, joined

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

CONNECT_S = 5
STALL_S = 20  # without a byte
RETRIES, RETRY_S = 5, 45  # no request is sent again later than this after it was first
WHOLE_S = 1800  # of one answer; a stall is seen sooner
SLOWEST = 1_000_000  # bytes a second that an upload may have
TRIES = 3  # of what obstore does not try again, and of creates that are refused for what is then not there
PAUSE_S = 0.1  # before the second of them, double before the third

AGAIN = "check the network and the endpoint, then run the same command again: what is written stays"
PAST_END = "status code: 416", "Wanted range starting at"  # the second where the answer is nothing, and no refusal
BROKEN = {"Connect": "no connection", "Interrupted": "the connection broke", "Decode": "the connection broke"}

Answer = TypeVar("Answer")

_opened_in: int | None = None  # the process in which obstore's threads are, which no fork takes along


class ObjectStorage:
    """Objects under a URL; a web server's files are only read. Nothing is asked before the first call; threads may
    share it, and so may processes that are started anew: a fork of one that has asked already is refused.

    Credentials are the environment's, and in nothing that this object is shown as or pickled to. What is not answered
    is asked again for about a minute, then it is a StorageError that names the object; in bodies `stall_s` seconds
    without a byte count as no answer, and no request is sent again after `retry_s`.
    """

    is_local = False

    def __init__(self, place: Url, *, stall_s: float = STALL_S, retry_s: float = RETRY_S) -> None:
        self.place = place
        self._stall_s = stall_s
        self._retry_s = retry_s
        self._kind = _kind(place)
        self._obstore = _import_obstore(place)
        self._clients: dict[float, ObjectStore] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"ObjectStorage({str(self.place)!r})"

    def __reduce__(self) -> tuple[Callable[..., "ObjectStorage"], tuple[object, ...]]:
        return _again, (self.place, self._stall_s, self._retry_s)

    def get(self, name: str) -> bytes | None:
        try:
            return self._ask(name, lambda client: bytes(self._obstore.get(client, self._key(name)).bytes()))
        except FileNotFoundError:
            return None

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]], stamp: Stamp | None = None) -> list[bytes]:
        parts = joined(ranges, NEAR)
        if not parts:
            self._check(name, self._head(name), stamp)
            return [b""] * len(ranges)
        (start, end), *others = parts
        content, found = self._get_part(name, start, end, stamp)
        read = [(start, content)]
        if others:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(min(AT_ONCE, len(others))) as threads:
                more = threads.map(lambda part: self._get_part(name, part[0], part[1], found)[0], others)
                read += [(start, content) for (start, _), content in zip(others, more, strict=True)]
        return [cut(read, start, length) for start, length in ranges]

    def put(self, name: str, content: bytes | Path) -> None:
        self._check_writable(name)
        if isinstance(content, Path):
            how = {"chunk_size": PART_BYTES, "max_concurrency": PARTS_AHEAD}
            at_once = min(content.stat().st_size, PARTS_AHEAD * PART_BYTES)  # by the same link
            self._ask(name, lambda client: self._obstore.put(client, name, content, **how), at_once)
            return
        self._ask(name, lambda client: self._obstore.put(client, name, content, use_multipart=False), len(content))

    def put_if_absent(self, name: str, content: bytes) -> bool:
        self._check_writable(name)
        exceptions = self._obstore.exceptions
        refused = exceptions.AlreadyExistsError, exceptions.PreconditionError

        def create(client: "ObjectStore") -> None:
            self._obstore.put(client, name, content, mode="create", use_multipart=False)

        for tried in range(TRIES):
            with suppress(*refused):
                self._ask(name, create, len(content), refused)
                return True
            # one whose answer was lost is sent again, and refused for what it has written itself
            there = self.get(name)
            if there is not None:
                return there == content
            time.sleep(PAUSE_S * 2**tried)  # removed meanwhile, or still being written
        raise StorageError(
            f"{self.place / name} is refused as already there, and is not there: run the same command again"
        )

    def list(self, prefix: str = "") -> list[Entry]:
        name = prefix.rstrip("/")
        if self._kind == "HTTP" and (prefix.endswith("/") or not name):
            raise StorageError(f"{self._url(prefix)}: a web server's folders cannot be listed: name the files")
        found: Sequence[ObjectMeta] = []
        if self._kind != "HTTP":
            found = self._ask(name, lambda client: self._pages(client, name))
        if not found and name:
            with suppress(FileNotFoundError):
                meta = self._head(name)
                return [Entry(name, meta["size"], _stamp(meta))]
        # without a name: what consoles make of a folder that somebody has made there
        return sorted(Entry(meta["path"], meta["size"], _stamp(meta)) for meta in found if meta["path"])

    def delete(self, name: str) -> None:
        self._check_writable(name)
        with suppress(FileNotFoundError):
            self._ask(name, lambda client: self._obstore.delete(client, name), what="removing")

    def _pages(self, client: "ObjectStore", folder: str) -> Sequence["ObjectMeta"]:
        pages = self._obstore.list(client, folder or None, chunk_size=1000)
        return [meta for page in pages for meta in page]

    def _head(self, name: str) -> "ObjectMeta":
        return self._ask(name, lambda client: self._obstore.head(client, self._key(name)))

    def _get_part(self, name: str, start: int, end: int, stamp: Stamp | None) -> tuple[bytes, Stamp]:
        """The bytes of a range as far as there are any, and the stamp of the object that they are of."""

        def get(client: "ObjectStore") -> tuple[bytes, Stamp]:
            try:
                part = self._obstore.get(client, self._key(name), options={"range": (start, end)})
            except self._obstore.exceptions.BaseError as error:
                if any(said in str(error) for said in PAST_END):
                    raise _PastEndError from None
                raise
            return bytes(part.bytes()), self._check(name, part.meta, stamp)

        try:
            return self._ask(name, get, passed=(_PastEndError, ChangedError))
        except _PastEndError:
            return b"", self._check(name, self._head(name), stamp)

    def _check(self, name: str, meta: "ObjectMeta", stamp: Stamp | None) -> Stamp:
        found = _stamp(meta)
        if stamp is not None and found != stamp:
            raise ChangedError(
                f"{self._url(name)} was changed while it was read: let nothing write there, then run the same command "
                "again"
            )
        return found

    def _check_writable(self, name: str) -> None:
        if self._kind == "HTTP":
            raise StorageError(f"{self._url(name)} is read-only: give a folder or a bucket to write to")

    def _key(self, name: str) -> str:
        """A name that is read, as obstore takes it: what it asks of a web server it escapes itself."""
        return unquote(name) if self._kind == "HTTP" else name

    def _url(self, name: str) -> Url:
        return self.place / name if name else self.place

    def _ask(
        self,
        name: str,
        ask: Callable[["ObjectStore"], Answer],
        num_bytes: int | None = None,
        passed: tuple[type[Exception], ...] = (),
        what: str = "access",
    ) -> Answer:
        """What a request gives, which writes so many bytes or none; what: its name where it is denied. The errors of
        passed go through; what else goes wrong is a FileNotFoundError or StorageError with nothing behind it, as
        answers may quote what was signed."""
        failure: Exception | None = None
        begun = time.monotonic()
        for tried in range(TRIES):
            if tried:
                time.sleep(PAUSE_S * 2 ** (tried - 1))
            try:
                return _waited(lambda: ask(self._client(num_bytes)))
            except StorageError:
                raise
            except passed:
                raise
            except (self._obstore.exceptions.BaseError, OSError, ValueError) as error:
                failure = self._failure(name, error, num_bytes, what)
                broke_off = "body error" in str(error) and time.monotonic() - begun < self._retry_s
                if not broke_off and not _may_be_sent_again(str(error)):
                    break  # what may help has been tried already
            except BaseException as error:
                if not _is_panic(error):
                    raise
                told = hide(str(error).partition("\n")[0])
                failure = StorageError(
                    f"{self._url(name)}: obstore, which was asked for it, broke down ({told}): check "
                    f"{CREDENTIALS[self._kind]}"
                )
                break
        assert failure is not None
        raise failure

    def _failure(self, name: str, error: Exception, num_bytes: int | None, what: str) -> Exception:
        """What is told of an error of obstore's, whose first line has addresses in it, and all others all there is."""
        url, said = self._url(name), str(error)
        variables = CREDENTIALS[self._kind]
        status = re.search(r"(?:status code: |\(code: )(\d+[\w -]*)", said)
        code = re.search(r"<Code>(\w+)</Code>", said)
        broken = re.search(r"HttpError \{\s*kind: (\w+)", said)
        answer = ", ".join(found[1] for found in (status, code) if found)
        if isinstance(error, FileNotFoundError) and num_bytes is None and not _is_of_bucket(said):
            return FileNotFoundError(f"{url} is not there: check the place")
        if isinstance(error, FileNotFoundError) or _is_of_bucket(said):
            return StorageError(f"{url}: there is no such bucket: check its name and the endpoint")
        if isinstance(error, self._obstore.exceptions.InvalidPathError):
            reason = said.partition("\n")[0]
            return StorageError(f"{url}: a name there cannot be read ({reason}): rename it, or choose another place")
        if METADATA in said:
            return StorageError(f"{url}: no credentials were found: set {variables}")
        if answer.startswith(("401", "403")):
            what = what if num_bytes is None else "writing"
            hidden = "; where nothing may be listed, what is absent is refused too" if what == "access" else ""
            return StorageError(f"{url}: {what} is denied ({answer}): check {variables}{hidden}")
        if "Received redirect" in said:
            region = "the bucket is in another region: set AWS_REGION to it"
            return StorageError(f"{url}: {region if self._kind == 'S3' else 'it is elsewhere: check the endpoint'}")
        if answer:
            return StorageError(f"{url}: the server answers {answer}: {AGAIN}")
        if isinstance(error, self._obstore.exceptions.NotSupportedError):
            return StorageError(f"{url}: the server gives no parts of files: copy it, and name the copy")
        if broken:
            lost = f"no answer within {self._wait_s(num_bytes):g} s" if broken[1] == "Timeout" else ""
            return StorageError(f"{url}: {lost or BROKEN.get(broken[1], 'no answer')}: {AGAIN}")
        first = re.sub(r"^Generic \w+ error: ", "", said.partition("\n")[0])
        return StorageError(f"{url}: {hide(first)}: check {variables}")

    def _wait_s(self, num_bytes: int | None) -> float:
        """How long an answer is waited for, which comes when all has been sent: the double of a slow upload."""
        wait_s = self._stall_s
        while wait_s < 2 * (num_bytes or 0) / SLOWEST:
            wait_s *= 2
        return wait_s

    def _client(self, num_bytes: int | None) -> "ObjectStore":
        global _opened_in
        wait_s = self._wait_s(num_bytes)
        with self._lock:
            if _opened_in not in (None, os.getpid()):
                raise StorageError(f"{self.place} was used before this process was forked: start a process anew for it")
            if wait_s not in self._clients:
                self._clients[wait_s] = self._open(wait_s)
                _opened_in = os.getpid()
            return self._clients[wait_s]

    def _open(self, wait_s: float) -> "ObjectStore":
        from datetime import timedelta

        from obstore.store import HTTPStore, from_url

        client: Any = {
            "allow_http": True,  # where the place or the endpoint says so
            "connect_timeout": timedelta(seconds=min(CONNECT_S, self._stall_s)),
            "read_timeout": timedelta(seconds=wait_s),  # of an upload it is the whole time
            "timeout": timedelta(seconds=WHOLE_S),
        }
        backoff: Any = {
            "init_backoff": timedelta(milliseconds=200),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        }
        retry: Any = {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=self._retry_s),
            "backoff": backoff,
        }
        url = str(self.place)
        if self._kind == "HTTP":
            return HTTPStore(url, client_options=client, retry_config=retry)
        given: dict[str, Any] = {}
        check_sendable(self._kind)
        for variable in ENDPOINTS[self._kind]:
            if (endpoint := os.environ.get(variable)) and not is_endpoint(endpoint):
                raise StorageError(f"{url}: {variable} is no URL of a server, http(s)://HOST: correct it")
        if self._kind == "S3":
            given["config"] = {"disable_bulk_delete": "true"}  # not every server knows it
        if self._kind == "Azure":
            given["config"] = azure_settings(url)
        if not is_given(self._kind):
            provider = aws_profile() if self._kind == "S3" else None
            if provider is not None:
                given["credential_provider"] = provider
            elif not _answers(METADATA):
                raise StorageError(f"{url}: no credentials were found: set {CREDENTIALS[self._kind]}")
        return from_url(_escaped(self.place), client_options=client, retry_config=retry, **given)


class _PastEndError(Exception):
    """A range begins behind an object's end."""


def _again(place: Url, stall_s: float, retry_s: float) -> ObjectStorage:
    return ObjectStorage(place, stall_s=stall_s, retry_s=retry_s)


def _import_obstore(place: Url) -> ModuleType:
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise StorageError(f"{place} needs obstore: {INSTALL}") from None
    return obstore


def _kind(place: Url) -> str:
    """Whose place it is. StorageError for one that is not taken, without a password that may be in it."""
    parts = urlsplit(str(place))
    shown = re.split(r"[?#]", re.sub(r"//[^/]*@", "//", str(place)))[0]
    user = parts.netloc.rpartition("@")[0]
    if place.scheme not in KINDS:
        raise StorageError(
            f"{shown}: nothing here reads {place.scheme}://: give a path, s3://, gs://, az://, https:// or hf://"
        )
    if user and (":" in user or not place.scheme.startswith("abfs")):  # abfs://CONTAINER@ACCOUNT.HOST
        raise StorageError(f"{shown} was given with a user: leave it out, credentials come from the environment")
    if "?" in place or "#" in place:
        raise StorageError(f"{shown} was given with more behind it: leave out its ? or # and what follows")
    if ".." in place.split("/"):
        raise StorageError(f"{shown} has a .. in it: give the place itself")
    if not parts.hostname:
        server = KINDS[place.scheme] == "HTTP"
        raise StorageError(
            f"{shown} names no {'server' if server else 'bucket'}: give {place.scheme}://"
            f"{'HOST' if server else 'BUCKET'}/FOLDER"
        )
    kind = KINDS[place.scheme]
    if kind != "HTTP" and "//" in parts.path:
        raise StorageError(f"{shown} has a // in it: give it with one slash")
    if kind != "HTTP" and re.search(r"[\x00-\x1f\x7f]", place):
        raise StorageError(f"{place!r} has a control character in it: choose a name without")
    return kind


def _escaped(place: Url) -> str:
    """A bucket's place with its keys as a URL has them, of which obstore makes keys again."""
    before, slashes, after = place.partition("://")
    bucket, slash, key = after.partition("/")
    return f"{before}{slashes}{bucket}{slash}{quote(key)}"


def _may_be_sent_again(error: str) -> bool:
    """Whether obstore did not send again what may help again: a request without an answer, which may have been carried
    out (ours may be, twice), and one of a batch, as Azure's deletes are, of which the server says that it is busy."""
    had_none = re.search("kind: (Timeout|Interrupted)", error) is not None and "retries: 0" in error
    return had_none or re.search(r"\(code: (429|5\d\d)\)", error) is not None


def _is_panic(error: BaseException) -> bool:
    """Whether obstore's Rust code gave up, which is no Exception, and of a class that no module has."""
    return (type(error).__module__, type(error).__name__) == ("pyo3_runtime", "PanicException")


def _is_of_bucket(said: str) -> bool:
    """Whether an answer says that the bucket itself is absent."""
    return re.search("<Code>(NoSuchBucket|ContainerNotFound)</Code>", said) is not None


def _stamp(meta: "ObjectMeta") -> Stamp:
    """The ETag, which Azure quotes in answers but not in listings, else the time of change; and the size."""
    tag = meta["e_tag"]
    return tag.strip('"') if tag else meta["last_modified"].isoformat(), meta["size"]


def _answers(host: str) -> bool:
    try:
        socket.create_connection((host, 80), timeout=1).close()
    except OSError:
        return False
    return True


def _waited(call: Callable[[], Answer]) -> Answer:
    """What a call gives. In the main thread another makes it: Ctrl-C would have to wait until obstore answers."""
    if current_thread() is not main_thread():
        return call()
    given: list[Answer] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            given.append(call())
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return given[0]
