"""A tar's members by their headers alone: what tarfile finds, and no byte more read than that takes."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teacher_cache.shards import tar as tar_module
from teacher_cache.shards.tar import DamageError, OtherFileError, Reader, members
from teacher_cache.storage.local import read_range

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
CONTENTS = {
    "a.jpg": b"x" * 1000,
    "a.cls": b"1",
    "empty.jpg": b"",
    "block.jpg": bytes(512),
    "large.jpg": b"y" * 40_000,
    "last.cls": b"2",
}


def write_tar(path: Path, contents: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield Reader(descriptor)
    finally:
        os.close(descriptor)


def found_in(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    with reading(path) as reader:
        return {name.decode(): content[offset : offset + size] for name, offset, size in members(reader)}


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_tarfiles(tmp_path: Path, form: int) -> None:
    long_names = {f"{'folder/' * 16}{'n' * 90}.jpg": b"long", f"{'m' * 120}.cls": b"longer"} if form else {}
    contents = {**CONTENTS, **long_names}
    assert found_in(write_tar(tmp_path / "a.tar", contents, form)) == contents


def test_folders_hold_no_bytes(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert found_in(tmp_path / "a.tar") == {}


@pytest.mark.parametrize("window", [512, 1 << 20])
def test_a_window_gives_the_files_bytes_wherever_it_is(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_module, "NEAR_WINDOW", window)
    content = bytes(range(256)) * 40
    (tmp_path / "bytes").write_bytes(content)
    with reading(tmp_path / "bytes") as reader:
        for offset, size in ((0, 10), (500, 600), (300, 10), (9000, 2000), (10_235, 50), (20_000, 5), (0, 9999)):
            assert reader.read(offset, size) == content[offset : offset + size]


def test_large_members_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{number}.jpg": bytes(1 << 20) for number in range(8)})
    read: list[int] = []
    pread = os.pread

    def count(descriptor: int, size: int, offset: int) -> bytes:
        found = pread(descriptor, size, offset)
        read.append(len(found))
        return found

    monkeypatch.setattr(os, "pread", count)
    with reading(path) as reader:
        assert len(list(members(reader))) == 8
    assert sum(read) < 1.2 * (1 << 20)  # the first window, and a header at each member's tail


def test_a_range_is_read_to_its_end_or_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bytes").write_bytes(bytes(range(100)))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: pread(descriptor, min(size, 7), offset))
    with reading(tmp_path / "bytes") as reader:
        assert read_range(reader.fd, 10, 80) == bytes(range(10, 90))
        assert read_range(reader.fd, 90, 80) == bytes(range(90, 100))
        assert read_range(reader.fd, 200, 5) == b""


def test_damage_says_where_and_what_mends_it(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a b.tar", CONTENTS)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with reading(path) as reader, pytest.raises(DamageError, match=r"ends 512 bytes before the member 'a\.jpg'") as cut:
        list(members(reader))
    assert cut.value.member == b"a.jpg"
    assert cut.value.advice(str(path)) == f"copy or write '{path}' again, as an uncompressed tar"
    path.write_bytes(b"\x1f\x8b" + whole)
    with reading(path) as reader, pytest.raises(OtherFileError, match="compressed with gzip") as other:
        list(members(reader))
    assert other.value.advice("x.tar") == "run `gunzip < x.tar > PLAIN.tar`"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_extended_header_has_a_member(tmp_path: Path, form: int) -> None:
    """An archive that closes after the header of a long name has lost what it names."""
    name = "x" * 200 + ".jpg"
    content = write_tar(tmp_path / "whole.tar", {name: b"7" * 512}, form).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(content[:1024] + bytes(1024))  # the extended header and what is in it
    with (
        reading(cut) as reader,
        pytest.raises(DamageError, match=r"closes at byte 1,024 where a member should") as lost,
    ):
        list(members(reader))
    assert lost.value.member == name.encode()
