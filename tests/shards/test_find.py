"""Patterns and the paths that they stand for."""

from pathlib import Path

import pytest

from teacher_cache.errors import ShardError
from teacher_cache.shards.find import expand_shards


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
    for patterns, part in [
        ([], "no shards given"),
        (["a/t-{0..2}.tar"], r"no shard a/t-2.tar there \(of the pattern a/t-\{0..2\}.tar\)"),
        (["a/x-*.tar"], r"no shard a/x-\*.tar there"),
        (["a/x.tar"], "no shard a/x.tar there"),
        (["a/{0.tar"], "no shard|unbalanced"),
        (["a/t-0.tar", "b/t-0.tar"], "two shards have the file name t-0.tar: a/t-0.tar and b/t-0.tar"),
        (["a/t-0.tar", "a/t-*.tar"], "shard t-0.tar is given twice"),
        (["file:a/t-0.tar"], "is a URL or a pipe"),
        (["pipe:cat a/t-0.tar"], "is a URL or a pipe"),
        (["https://host/{0..3}.tar"], "is a URL or a pipe"),
        (["a"], r"a is a folder: give its shards as a/\*.tar"),
    ]:
        with pytest.raises(ShardError, match=part):
            expand_shards(patterns)
