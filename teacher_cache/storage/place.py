"""Places as people write them: paths of this machine, and URLs, which a path would make something else of."""

import os
import re
from pathlib import Path

from teacher_cache.files import URL
from teacher_cache.messages.shown import as_word

ENDPOINTS = {  # of each kind of store the variables that name another server: the first that is set counts
    "S3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "GCS": ("GOOGLE_BASE_URL",),
    "Azure": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURITE_BLOB_STORAGE_URL"),
}

_endpoint: str | None = None  # that was given to the command


class Url(str):
    """A place that is no path of this machine, `s3://bucket/folder`; `/` puts a name behind it, as with a Path."""

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The place without its name; itself where none is above it."""
        return self if self.is_top else Url(self.rstrip("/").rpartition("/")[0])

    @property
    def is_top(self) -> bool:
        """Whether no place is above it: a bucket, a web server, a repository of the Hub."""
        parts = self.rstrip("/").partition("://")[2].split("/")
        return len(parts) <= (1 if self.scheme != "hf" else 3 if parts[0] == "datasets" else 2)

    @property
    def scheme(self) -> str:
        """s3, https, hf ..., in lower case."""
        return self.partition(":")[0].lower()

    @property
    def is_web(self) -> bool:
        """Whether it is a web server's, whose files are only read, and listed by nobody."""
        return self.scheme in ("http", "https")


Place = Path | Url


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is a URL, or was one before a `Path` made one slash of its two."""
    return URL.match(os.fspath(place)) is not None


def to_place(text: str | os.PathLike[str]) -> Place:
    """A place as it was written: a Url, or a Path."""
    url = URL.match(os.fspath(text))
    return Path(text) if url is None else Url(f"{url[1]}://{url[2]}")


def beside(place: Place, ending: str) -> Place:
    """The place whose name is a place's with an ending, STORE.claims beside STORE: the same by whichever path of this
    machine STORE is named. ValueError where a URL names a whole bucket, beside which lies nothing that is one's own."""
    if isinstance(place, Path):
        return Path(os.path.realpath(place) + ending)
    if not is_in_bucket(place):
        raise ValueError(f"{place} is a whole bucket")
    return Url(place.rstrip("/") + ending)


def is_in_bucket(url: Url) -> bool:
    """Whether a URL names something in a bucket, not all of it."""
    return "/" in url.partition("://")[2].strip("/")


def is_endpoint(text: str) -> bool:
    """Whether a text is the URL of a server, with no user, password or query in it."""
    return re.fullmatch(r"https?://[^/@?#\s]+[^@?#\s]*", text) is not None


def use_endpoint(endpoint: str | None) -> None:
    """Let s3:// mean a server, in this process and those it starts, whatever the environment named, and commands that
    messages offer have it, too; None: what the environment names."""
    global _endpoint
    _endpoint = endpoint
    if endpoint is not None:
        for variable in ENDPOINTS["S3"]:
            os.environ.pop(variable, None)
        os.environ["AWS_ENDPOINT_URL"] = endpoint


def as_place(place: object) -> str:
    """A place in a command that a message offers: a word of a shell, with --endpoint behind it where one was given."""
    word = as_word(place)
    return word if _endpoint is None else f"{word} --endpoint {as_word(_endpoint)}"
