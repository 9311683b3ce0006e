"""Places as people write them."""

from pathlib import Path

import pytest

from teacher_cache.storage.place import Url, beside, is_endpoint, is_url, to_place


def test_a_url_is_no_path() -> None:
    for written in ("s3://bucket/a/b", Path("s3://bucket/a/b"), "s3:/bucket/a/b", Url("s3://bucket/a/b")):
        assert is_url(written)
        place = to_place(written)
        assert isinstance(place, Url)
        assert place == "s3://bucket/a/b"
    for written in ("bucket/a", "/s3/a", "a:b", "s3:bucket", "./s3:/a", Path("a"), "a/s3://b"):
        assert not is_url(written)
        assert to_place(written) == Path(written)


def test_a_bucket_without_a_name_does_not_get_the_folders() -> None:
    assert to_place("s3:///folder") == "s3:///folder"
    assert to_place("s3://bucket//folder") == "s3://bucket//folder"


def test_names_of_a_url() -> None:
    url = Url("HTTPS://host/a/b/")
    assert (url / "c/d", url.name, url.parent, url.scheme) == ("HTTPS://host/a/b/c/d", "b", "HTTPS://host/a", "https")
    for part in (url / "c", url.parent):
        assert type(part) is Url


def test_what_no_place_is_above() -> None:
    for top in ("s3://bucket", "https://host/", "hf://datasets/someone/store", "hf://someone/model@1234/"):
        assert Url(top).is_top
        assert Url(top).parent == top
    for below in ("s3://bucket/store", "https://host/a/", "hf://datasets/someone/labels/store", "hf://someone/model/x"):
        assert not Url(below).is_top


@pytest.mark.parametrize("url", ["s3://bucket/cache", "s3://bucket/cache/", "s3://bucket/a/cache"])
def test_a_place_beside_another(url: str) -> None:
    claims = beside(Url(url), ".claims")
    assert type(claims) is Url
    assert (claims.name, claims.parent) == ("cache.claims", Url(url).parent)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/"])
def test_nothing_lies_beside_a_whole_bucket(url: str) -> None:
    with pytest.raises(ValueError, match="is a whole bucket"):
        beside(Url(url), ".claims")


def test_a_place_beside_another_is_the_same_by_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before there is anything."""
    (tmp_path / "stores" / "cache").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "stores" / "cache")
    (tmp_path / "folder").symlink_to(tmp_path / "stores")
    monkeypatch.chdir(tmp_path / "stores" / "cache")
    expected = tmp_path / "stores" / "cache.claims"
    names = [".", "../cache", "../cache/", tmp_path / "link", tmp_path / "folder" / "cache"]
    assert [beside(Path(name), ".claims") for name in names] == [expected] * 5
    assert beside(Path("../new"), ".claims") == tmp_path / "stores" / "new.claims"


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("http://127.0.0.1:9000", True),
        ("https://account.r2.example.com", True),
        ("https://host/under/a/path/", True),
        ("host:9000", False),
        ("ftp://host", False),
        ("http://", False),
        ("http://user@host", False),
        ("http://user:word@host", False),
        ("https://host/?key=x", False),
        ("https://host name", False),
        ("", False),
    ],
)
def test_what_an_endpoint_is(text: str, endpoint: bool) -> None:
    assert is_endpoint(text) == endpoint
