"""Files of a repository on the Hugging Face Hub, through its own client: read at one commit, written in one commit."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from teacher_cache.errors import ChangedError, StorageError
from teacher_cache.storage.manifest import MANIFEST
from teacher_cache.storage.place import Url
from teacher_cache.storage.storage import AT_ONCE, Entry, Stamp

STALL_S = 30.0  # without an answer, or a byte more of it
WRITE_STALL_S = 60.0  # of what is written, which the Hub checks before it answers
RETRIES, RETRY_S = 3, 1.0  # and how long it is waited before the first, before others longer
_COMMIT = re.compile("[0-9a-f]{40}")
_PLACE = re.compile(r"hf://(datasets/)?(?!(?:datasets|models|spaces)/)([\w.-]+/[\w.-]+?)(?:@([^/]+))?(?:/(.*))?")


class HubStorage:
    """Files under `hf://datasets/OWNER/NAME[@REVISION][/FOLDER]`, read only, all of the commit that the revision was at
    when something was first read; a copy in another process reads the same. Whose token is used the client says
    (HF_TOKEN, or `hf auth login`)."""

    is_local = False

    def __init__(self, place: Url, commit: str | None = None) -> None:
        self.place = place
        self._kind, self._repository, self._revision, self._folder = _parts(place)
        self._commit = commit

    def __reduce__(self) -> tuple[Callable[..., "HubStorage"], tuple[Url, str | None]]:
        return HubStorage, (self.place, self._commit)

    def get(self, name: str) -> bytes | None:
        return None if name not in self._files else self._read(name)

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]], stamp: Stamp | None = None) -> list[bytes]:
        entry = self._files.get(name)
        if entry is None:
            raise FileNotFoundError(f"{self.place / name} is not there: check the place")
        if stamp is not None and entry.stamp != stamp:
            raise ChangedError(f"{self.place / name} is another file than before: give its commit, hf://...@COMMIT/...")

        def read(part: tuple[int, int]) -> bytes:
            start, stop = part[0], min(sum(part), entry.num_bytes)
            return self._read(name, f"bytes={start}-{stop - 1}") if stop > start else b""

        if len(ranges) < 2:
            return [read(part) for part in ranges]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(AT_ONCE, len(ranges))) as threads:
            return list(threads.map(read, ranges))

    def put(self, name: str, content: bytes | Path) -> None:
        raise self._read_only(name)

    def put_if_absent(self, name: str, content: bytes) -> bool:
        raise self._read_only(name)

    def list(self, prefix: str = "") -> list[Entry]:
        name = prefix.rstrip("/")
        return [
            entry
            for entry in self._files.values()
            if not name or entry.name == name or entry.name.startswith(f"{name}/")
        ]

    def delete(self, name: str) -> None:
        raise self._read_only(name)

    @cached_property
    def _files(self) -> dict[str, Entry]:
        """What lies under the place at its commit, which never changes, by name and in order."""
        from huggingface_hub.utils import EntryNotFoundError

        with _answered(self.place):
            if self._commit is None:
                self._commit = _named_commit(self._kind, self._repository, self._revision)
            try:
                files = sorted((file["path"], file["size"], file["oid"]) for file in self._tree())
            except EntryNotFoundError:
                files = []
        names = ((path.removeprefix(self._folder).strip("/"), size, blob) for path, size, blob in files)
        return {name: Entry(name, size, (blob, size)) for name, size, blob in names}

    def _tree(self) -> Iterator[dict[str, Any]]:
        """What the Hub lists of each file under the place, a page after the other."""
        top = f"/{quote(self._folder, safe='')}" if self._folder else ""
        page = f"{_address(self._kind, self._repository)}/tree/{self._commit}{top}?recursive=true"
        while page:
            answer = _ask(page)
            yield from (each for each in answer.json() if each["type"] == "file")
            page = answer.links.get("next", {}).get("url", "")

    def _read(self, name: str, part: str | None = None) -> bytes:
        from huggingface_hub import hf_hub_url

        path = "/".join(part for part in (self._folder, name) if part)
        url = hf_hub_url(self._repository, path, repo_type=self._kind, revision=self._commit)
        with _answered(self.place / name):
            return bytes(_ask(url, part).content)

    def _read_only(self, name: str) -> StorageError:
        return StorageError(
            f"{self.place / name} is read only: fill a folder or a bucket, and `teacher-cache publish` it there"
        )


def pin(place: Url, commits: dict[str, str]) -> Url:
    """A place at the commit that its revision is at now. commits: of each revision that was asked for before, its own.
    StorageError."""
    kind, repository, revision, folder = _parts(place)
    named = f"hf://{'datasets/' if kind == 'dataset' else ''}{repository}"
    at = f"{named}@{revision or 'main'}"
    if at not in commits:
        with _answered(place):
            commits[at] = _named_commit(kind, repository, revision)
    pinned = Url(f"{named}@{commits[at]}")
    return pinned / folder if folder else pinned


def find_repository(place: Url) -> HubStorage | None:
    """What lies under a place now; None where there is no repository, or none that the token may see. StorageError."""
    from huggingface_hub.utils import RepositoryNotFoundError

    kind, repository, revision, _ = _parts(place)
    with _answered(place):
        try:
            commit = _commit_at(kind, repository, revision)
        except RepositoryNotFoundError:
            return None
    return HubStorage(place, commit)


def commit_folder(place: Url, folder: Path, check: Callable[[HubStorage], None]) -> None:
    """Put all files of a folder, a manifest among them, under a place in one commit, which fails where somebody else
    commits meanwhile. The repository is made where there is none. check is given what lies under the place before, and
    raises where it may not. StorageError."""
    from huggingface_hub import CommitOperationAdd, HfApi

    kind, repository, revision, top = _parts(place)
    api = HfApi(library_name="deit-teacher-cache")
    with _answered(place), silence_ends():
        api.create_repo(repository, repo_type=kind, exist_ok=True)
        parent = _commit_at(kind, repository, revision)
    check(HubStorage(place, parent))
    with _answered(place), silence_ends():
        operations = [
            CommitOperationAdd("/".join(part for part in (top, str(path.relative_to(folder))) if part), path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        try:
            api.create_commit(
                repository,
                operations,
                commit_message="Publish a store of a teacher's labels",
                repo_type=kind,
                revision=revision,
                parent_commit=parent,
            )
        except Exception:
            if not _is_committed(place, folder, parent):
                raise


def _is_committed(place: Url, folder: Path, parent: str) -> bool:
    """Whether the revision went on from a commit to what a folder holds: the Hub makes a commit though its answer is
    lost. All of a commit comes at once, so that it is told by the manifest, which has the hashes of the rest."""
    with suppress(StorageError):
        kind, repository, revision, _ = _parts(place)
        with _answered(place):
            commit = _commit_at(kind, repository, revision)
        return commit != parent and HubStorage(place, commit).get(MANIFEST) == (folder / MANIFEST).read_bytes()
    return False


@contextmanager
def silence_ends() -> Iterator[None]:
    """Let the client's own calls, which wait for ever, give up what is silent for WRITE_STALL_S: what moves, however
    slowly, goes on. Its other users in this process, if there are any meanwhile, wait no longer either. Clients before
    1.0 have no such setting, and wait."""
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    if not hasattr(session, "timeout"):
        yield
        return
    before, session.timeout = session.timeout, WRITE_STALL_S
    try:
        yield
    finally:
        session.timeout = before


def _parts(place: Url) -> tuple[str, str, str | None, str]:
    """("dataset" or "model", OWNER/NAME, revision, folder). StorageError for a place that is none of the Hub's."""
    match = _PLACE.fullmatch(place)
    if match is None or ".." in place.split("/"):
        raise StorageError(f"{place} is no place of the Hub: give hf://datasets/OWNER/NAME, with @REVISION and /FOLDER")
    return "dataset" if match[1] else "model", match[2], match[3], (match[4] or "").strip("/")


def _named_commit(kind: str, repository: str, revision: str | None) -> str:
    """The commit that a revision is, or is at."""
    return revision if revision and _COMMIT.fullmatch(revision) else _commit_at(kind, repository, revision)


def _commit_at(kind: str, repository: str, revision: str | None) -> str:
    """The commit that a repository's revision, or main, is at."""
    at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    return str(_ask(_address(kind, repository) + at).json()["sha"])


def _address(kind: str, repository: str) -> str:
    from huggingface_hub import HfApi

    return f"{HfApi().endpoint}/api/{kind}s/{repository}"


def _ask(url: str, part: str | None = None) -> Any:
    """The Hub's answer, all or a part of it, asked for some times more where none comes: its client's own calls to look
    at a repository wait for ever. What is given are words that clients before 1.0 take, too."""
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    headers = {**build_hf_headers(), **({"Range": part} if part else {})}
    answer = http_backoff(
        "GET",
        url,
        max_retries=RETRIES,
        base_wait_time=RETRY_S,
        headers=headers,
        timeout=STALL_S,
    )
    hf_raise_for_status(answer)
    return answer


@contextmanager
def _answered(place: str) -> Iterator[None]:
    """Errors of the client as a StorageError of one line."""
    try:
        yield
    except Exception as error:  # of the client, of HTTP below it, of a network: it has no one class
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise StorageError(
            f"{place}: the Hub answers: {said}: check the name, and `hf auth login` where it is private; then run the "
            "same command again"
        ) from None
