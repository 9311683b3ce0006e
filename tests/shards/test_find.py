"""Patterns and the paths that they stand for."""

import os
from contextlib import suppress
from pathlib import Path

import braceexpand
import pytest

from teacher_cache.errors import ShardError
from teacher_cache.shards.find import _count as count_names
from teacher_cache.shards.find import expand_shards
from tests.support.memory_storage import bucket_in_memory


def test_expand_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/t-0.tar", "a/t-1.tar", "a/t-10.tar", "b/s-0.tar", "b/[x].tar"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert expand_shards(["a/t-{0..1}.tar"]) == ["a/t-0.tar", "a/t-1.tar"]
    assert expand_shards(["a/*.tar", "b/s-0.tar"]) == [
        "b/s-0.tar",
        "a/t-0.tar",
        "a/t-1.tar",
        "a/t-10.tar",
    ]
    assert expand_shards(["{a,b}/*-0.tar"]) == ["b/s-0.tar", "a/t-0.tar"]
    assert expand_shards(["**/t-1?.tar"]) == ["a/t-10.tar"]
    assert expand_shards(["b/[x].tar"]) == ["b/[x].tar"]
    Path("link.tar").symlink_to("a/t-0.tar")  # a name of its own
    assert expand_shards(["link.tar", "a/t-0.tar"]) == ["link.tar", "a/t-0.tar"]
    (tmp_path / "b" / "t-0.tar").touch()
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "zarr.json").write_text('{"attributes": {"teacher_cache": {}}}')
    for patterns, part in [
        ([], "no shards given"),
        (["a/t-{0..2}.tar"], r"no shard a/t-2.tar there \(of the pattern a/t-\{0..2\}.tar\)"),
        (["a/photos-*.jpg"], r"no shard a/photos-\*.jpg there$"),
        (["a/x-*.tar"], r"no shard a/x-\*.tar there \(.*/a has t-0.tar and t-1.tar and t-10.tar\)"),
        (["a/x.tar"], "no shard a/x.tar there"),
        (["a/{0.tar"], "no shard|unbalanced"),
        (["a/t-0.tar", "b/t-0.tar"], "two shards have the file name t-0.tar: a/t-0.tar and b/t-0.tar"),
        (["a/t-0.tar", "a/t-*.tar"], "shard t-0.tar is given twice"),
        (
            ["file:a/t-0.tar"],
            "file:a/t-0.tar is a pipe, or a URL that nothing here reads: .* give local paths, or s3://",
        ),
        (["pipe:cat a/t-0.tar"], "is a pipe, or a URL that nothing here reads"),
        (["ftp://host/{0..3}.tar"], "nothing here reads ftp://: give a path, s3://, gs://, az://, https://"),
        (["https://host/t-*.tar"], "https://host: .* cannot be listed"),
        (["https://host/t-0.tar?X-Signature=secret"], "https://host/t-0.tar was given with more behind it"),
        (["a"], r"a is a folder: give its shards as a/\*.tar"),
        (
            ["images"],
            "images is a folder without shards: `python tools/make_shards.py folder images OUT` makes some of",
        ),
        (["store"], "store is a store of labels: shards, .tar files of images, go here"),
    ]:
        with pytest.raises(ShardError, match=part):
            expand_shards(patterns)


def test_what_would_be_waited_for_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    for pattern in (f"{tmp_path}/a.tar", f"{tmp_path}/*.tar", "/dev/zero"):
        with pytest.raises(ShardError, match="is no regular file, but a pipe or a device: write it to a file"):
            expand_shards([pattern])


@pytest.mark.parametrize(
    "pattern",
    [
        "t-{0..9999999999}.tar",
        "s3://set/t-{0..9999999999}.tar",
        "t-{-9..9999999}.tar",
        "t-{9999999..0..-3}.tar",
        "{a,b{0..999}{0..1999}}.tar",
        "{x{0..999}{a..z}{a..z},y}{0,1}",
        f"t-{{0..{'9' * 5000}}}",
        "{a,b}" * 40,
        "{{0..9999999}}",
    ],
)
def test_a_pattern_that_stands_for_too_many_is_refused_before_it_is_expanded(pattern: str) -> None:
    with pytest.raises(ShardError, match=r"stands for more than 1,048,576 shards: correct its numbers"):
        expand_shards([pattern])


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "t",
            "{a}",
            "{a,b}",
            "{a,{b,c},}",
            "{0..9}",
            "{9..0..2}",
            "{a..e}",
            "{a{0..2},b{c,d}}{1,2}",
            "{{0..3}}",
            "{}",
        ),
        *(r"\{0..9\}", r"{a\,b,c}", "{a,b}}", "{-2..2}", "{0..9..4}x{1..2}", "{a.b}", "{}"),
    ],
)
def test_names_of_a_pattern_are_counted_as_they_are_expanded(pattern: str) -> None:
    with suppress(ValueError):
        assert count_names(pattern) == len(list(braceexpand.braceexpand(pattern)))


def test_urls_expand_as_paths_do_with_one_listing_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = (
        "a/t-0.tar",
        "a/t-1.tar",
        "a/t-10.tar",
        "a/.t-2.tar",
        "b/s-0.tar",
        "b/c/u-0.tar",
        "b/c/d/v-0.tar",
        "b/x.txt",
    )
    with bucket_in_memory() as bucket:
        for name in names:
            Path(name).parent.mkdir(exist_ok=True, parents=True)
            Path(name).touch()
            bucket.objects[f"s3://set/{name}"] = b""
        for patterns in (
            ["a/*.tar"],
            ["a/t-{0..1}.tar", "b/s-*.tar"],
            ["{a,b}/*-0.tar"],
            ["*/t-1?.tar"],
            ["**/*.tar"],
            ["b/**/*.tar"],
            ["b/*/*.tar"],
            ["a/t-[!0]*.tar"],
            ["a/t-{0,1}*.tar", "b/{c,c/d}/*.tar"],
        ):
            expected = [f"s3://set/{path}" for path in expand_shards(patterns)]
            assert expected
            bucket.requests.clear()
            assert expand_shards([f"s3://set/{pattern}" for pattern in patterns]) == expected
            listed = [url for method, url, _ in bucket.requests if method == "list"]
            assert len(listed) == len(set(listed)) == len(bucket.requests)


def test_an_object_whose_name_reads_as_a_pattern_is_found_as_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with bucket_in_memory() as bucket:
        for name in ("set [1]/t-0.tar", "set [1]/t-1.tar", "what?.tar", "a/t*.tar", "a/t2.tar"):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).touch()
            bucket.objects[f"s3://set/{name}"] = b""
        for pattern in ("set [1]/t-0.tar", "set [1]/t-{0,1}.tar", "set [[]1]/t-*.tar", "what?.tar"):
            expected = [f"s3://set/{path}" for path in expand_shards([pattern])]
            assert expected
            assert expand_shards([f"s3://set/{pattern}"]) == expected
        assert expand_shards(["s3://set/a/t*.tar"]) == ["s3://set/a/t*.tar", "s3://set/a/t2.tar"]  # in one listing
        with pytest.raises(ShardError, match=r"^no shard s3://set/set \[1\]/t-2.tar there$"):
            expand_shards(["s3://set/set [1]/t-2.tar"])


def test_urls_that_are_refused() -> None:
    with bucket_in_memory() as bucket:
        bucket.objects = {"s3://set/a/t-0.tar": b"", "s3://set/b/t-0.tar": b""}
        assert expand_shards(["s3://set/{0..2}.tar"]) == [f"s3://set/{number}.tar" for number in range(3)]
        assert expand_shards(["s3:/set/0.tar"]) == ["s3://set/0.tar"]  # as a Path leaves it
        for patterns, part in [
            (["s3://set/a/x-*.tar"], r"no shard s3://set/a/x-\*.tar there"),
            (
                ["s3://set/a/{t,x}-*.tar"],
                r"no shard s3://set/a/x-\*.tar there \(of the pattern s3://set/a/\{t,x\}-\*.tar\)",
            ),
            (["s3://set/a/t-0.tar", "s3://set/a/*.tar"], r"shard t-0.tar is given twice \(s3://set/a/t-0.tar\)"),
            (
                ["s3://set/*/t-0.tar"],
                "two shards have the file name t-0.tar: s3://set/a/t-0.tar and s3://set/b/t-0.tar",
            ),
            (["s3://set/a/"], r"s3://set/a/ is a folder: give its shards as s3://set/a/\*.tar"),
        ]:
            with pytest.raises(ShardError, match=part):
                expand_shards(patterns)
