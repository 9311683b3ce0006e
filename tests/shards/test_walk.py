"""One shard walked: the samples that webdataset and tarfile find, and every refusal."""

import io
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import tarfile
import time
import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from teacher_cache.errors import ShardError
from teacher_cache.shards import walk as walk_module
from teacher_cache.shards.class_member import MAX_CLASSES
from teacher_cache.shards.classes import ClassRule
from teacher_cache.shards.fingerprint import Fingerprint, image_fingerprint
from teacher_cache.shards.index import Index, ShardIndex
from teacher_cache.shards.indexing import index_shards
from teacher_cache.shards.read import read_block
from teacher_cache.shards.walk import index_shard, split_name
from tests.support.shard_files import make_image, read_webdataset, write_shards

CLS = ClassRule()
PNG = make_image(0)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> str:
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def images_of(found: ShardIndex) -> list[bytes]:
    content = Path(found.entry.path).read_bytes()
    return [content[offset : offset + size] for offset, size in zip(found.offsets, found.sizes, strict=True)]


def assert_as_webdataset(path: str, rule: ClassRule = CLS) -> ShardIndex:
    """Same samples in the same order, same classes, same image bytes."""
    found = index_shard(path, rule)
    expected = read_webdataset(path)
    assert list(found.keys) == [sample["__key__"] for sample in expected]
    assert found.classes.tolist() == [int(sample["cls"]) for sample in expected]
    images = [next(value for name, value in sample.items() if name in rule.image_extensions) for sample in expected]
    assert images_of(found) == images
    return found


def refused(path: str | Path, *parts: str, rule: ClassRule = CLS) -> str:
    """The refusal's message: one line that names the shard and holds all parts."""
    with pytest.raises(ShardError) as caught:
        index_shard(str(path), rule)
    message = str(caught.value)
    assert "\n" not in message
    for part in (os.path.basename(path), *parts):
        assert part in message, message
    return message


def test_walk_finds_what_webdataset_finds(tmp_path: Path) -> None:
    for path in write_shards(tmp_path, [130, 64, 1, 5]):
        assert_as_webdataset(path)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(tmp_path: Path, format: int) -> None:
    middle = "folder/" * 15  # ustar: over 100 bytes, in its prefix
    long = middle if format == tarfile.USTAR_FORMAT else middle + "x" * 200
    members = [
        ("a.png", PNG),
        ("a.cls", b"1"),
        (long + "/b.png", PNG),
        (long + "/b.cls", b"2"),
        ("c.cls", b"3"),
        ("c.png", PNG),
    ]
    found = assert_as_webdataset(write_tar(tmp_path / "s.tar", members, format))
    assert found.keys == ("a", long.rstrip("/") + "/b" if long.endswith("//") else long + "/b", "c")


def test_pax_names_that_are_no_ascii(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("größe/ä.png", PNG), ("größe/ä.cls", b"1")], tarfile.PAX_FORMAT)
    found = assert_as_webdataset(path)
    assert found.keys == ("größe/ä",)
    index = Index.join([found], ClassRule())
    assert index.key(0) == "größe/ä"
    assert read_block(index.place(0, 0)).images == (PNG,)


def test_pax_size_and_global_header(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made by hand"}
    ) as archive:
        for name, content in (("a.png", PNG), ("a.cls", b"4")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = {"size": str(len(content)), "mtime": "1.5"}
            archive.addfile(member, io.BytesIO(content))
    assert assert_as_webdataset(str(tmp_path / "s.tar")).classes.tolist() == [4]


def test_base_256_size(tmp_path: Path) -> None:
    path = Path(write_tar(tmp_path / "s.tar", [("a.png", PNG), ("a.cls", b"4")], tarfile.GNU_FORMAT))
    content = bytearray(path.read_bytes())
    content[124:136] = b"\x80" + len(PNG).to_bytes(11, "big")
    path.write_bytes(with_checksum(content))
    assert_as_webdataset(str(path))


def with_checksum(content: bytearray) -> bytes:
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


def test_extensions_in_any_case_and_other_members(tmp_path: Path) -> None:
    members = []
    for number, extension in enumerate(["jpg", "JPEG", "Png", "webp", "JPG"]):
        key = f"a.folder/{number}"
        members += [
            (f"{key}.seg.png", b"mask"),
            (f"{key}.{extension}", b"%d" % number * 700),
            (f"{key}.CLS", b"3\n"),
            (f"{key}.json", b"{}"),
        ]
    found = assert_as_webdataset(write_tar(tmp_path / "s.tar", members))
    assert found.keys == tuple(f"a.folder/{number}" for number in range(5))


def test_members_of_no_sample_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, content in [
            ("folder/", b""),
            ("__info__", b"x"),
            ("__meta__/a.png", PNG),
            ("README", b"x"),
            (".hidden.png", PNG),
            ("folder/a.png", PNG),
            ("._a.png", b"x"),
            ("folder/README", b"x"),
            ("folder/a.cls", b"1"),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            archive.addfile(member, io.BytesIO(content))
    assert assert_as_webdataset(str(tmp_path / "s.tar")).keys == ("folder/a",)
    # here webdataset would make a sample with the key "folder/" of it
    path = write_tar(tmp_path / "mac.tar", [("folder/a.png", PNG), ("folder/a.cls", b"1"), ("folder/._a.png", b"x")])
    assert index_shard(path, CLS).keys == ("folder/a",)


@given(st.text(st.sampled_from("ab./_A"), min_size=1, max_size=12))
def test_keys_are_webdatasets(name: str) -> None:
    if "/." in name:  # a hidden file in a folder: the one difference
        return
    key, extension = base_plus_ext(name)
    meta = re.match(r"__[^/]*__($|/)", name)  # skipped by webdataset one step earlier
    expected = None if key is None or meta else (key.encode(), extension.lower().encode())
    assert split_name(name.encode()) == expected


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 511, 512, 513, 5000, 16384, 16385, 70_000]), min_size=1, max_size=12),
    format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    long=st.booleans(),
)
def test_walk_finds_what_tarfile_finds(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], format: int, long: bool
) -> None:
    folder = "f" * 60 + "/" + "g" * 60 + "/" if long else ""
    members = []
    for number, size in enumerate(sizes):
        members += [(f"{folder}{number}.jpg", bytes([number]) * size), (f"{folder}{number}.cls", b"%d" % number)]
    path = write_tar(tmp_path_factory.mktemp("walk") / "s.tar", members, format)
    found = index_shard(path, CLS)
    with tarfile.open(path) as archive:
        expected = [member for member in archive if member.name.endswith(".jpg")]
    assert list(found.keys) == [member.name[:-4] for member in expected]
    assert found.offsets.tolist() == [member.offset_data for member in expected]
    assert found.sizes.tolist() == sizes
    assert found.classes.tolist() == list(range(len(sizes)))


def test_empty_archive_is_a_shard_of_none(tmp_path: Path) -> None:
    index = index_shards([write_tar(tmp_path / "empty.tar", [])], CLS)
    assert (index.num_shards, index.num_samples, index.num_blocks(0), index.class_names) == (1, 0, 0, ())


def test_hash_tells_names_sizes_and_classes_apart_but_not_places(tmp_path: Path) -> None:
    def hash_of(name: str, members: list[tuple[str, bytes]]) -> int:
        (tmp_path / name).mkdir()
        return index_shard(write_tar(tmp_path / name / "s.tar", members), CLS).entry.hash

    base = hash_of("base", [("a.cls", b"1"), ("a.png", PNG)])
    assert hash_of("same", [("a.cls", b"1"), ("a.png", PNG)]) == base
    others = [
        hash_of("name", [("b.cls", b"1"), ("b.png", PNG)]),
        hash_of("class", [("a.cls", b"2"), ("a.png", PNG)]),
        hash_of("size", [("a.cls", b"1"), ("a.png", PNG + b"x")]),
        hash_of("order", [("a.png", PNG), ("a.cls", b"1")]),
        hash_of("more", [("a.cls", b"1"), ("a.json", b""), ("a.png", PNG)]),
    ]
    assert len({base, *others}) == 6


def test_truncation_anywhere_is_refused(tmp_path: Path) -> None:
    """At every member's start and end, inside headers and data, and around the end of the archive."""
    members = [(f"{key}.{extension}", content) for key in "abc" for extension, content in (("cls", b"1"), ("png", PNG))]
    path = write_tar(tmp_path / "whole.tar", members)
    whole = Path(path).read_bytes()
    with tarfile.open(path) as archive:
        headers = {member.offset: member.name for member in archive}
        ends = {member.name: member.offset_data + member.size for member in archive}
    end = max(ends.values())
    end += -end % 512
    assert len(whole) > end + 1024
    assert not any(whole[end:])
    cut = tmp_path / "cut.tar"
    for offset in sorted(
        {at + shift for at in [*headers, *ends.values(), end] for shift in (-600, -100, -1, 0, 1, 100, 512, 513)}
    ):
        if not 0 <= offset < end + 1024:
            continue
        cut.write_bytes(whole[:offset])
        complete = [key for key in "abc" if offset >= ends[f"{key}.png"]]
        last = f"the last whole sample is '{complete[-1]}'" if complete else "no whole sample comes before"
        refused(cut, last, f"copy or write {cut} again")
    cut.write_bytes(whole[: end + 1024])  # two zero blocks are enough
    assert index_shard(str(cut), CLS).keys == ("a", "b", "c")


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_truncation_inside_long_names_is_refused(tmp_path: Path, format: int) -> None:
    path = write_tar(tmp_path / "whole.tar", [("a.png", PNG), ("a.cls", b"1"), ("x" * 300 + ".png", PNG)], format)
    whole = Path(path).read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    for offset in range(last.offset, last.offset_data + last.size, 100):
        (tmp_path / "cut.tar").write_bytes(whole[:offset])
        refused(tmp_path / "cut.tar", "the last whole sample is 'a'")


def test_every_flipped_byte_of_a_header_is_found(tmp_path: Path) -> None:
    path = Path(write_tar(tmp_path / "s.tar", [("a.png", PNG), ("a.cls", b"1")]))
    whole = path.read_bytes()
    second = 512 + len(PNG) + -len(PNG) % 512
    for place in range(second, second + 512):
        if place == second + 155:  # behind the checksum's end mark: stands for nothing
            continue
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        refused(path, f"tar header at byte {second:,}", "no whole sample comes before")


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    first = Path(write_tar(tmp_path / "first.tar", [("a.png", PNG), ("a.cls", b"1")])).read_bytes()
    both = tmp_path / "both.tar"
    both.write_bytes(first + first)
    refused(both, "goes on after its end", "'a'")
    both.write_bytes(first + bytes(1 << 21) + b"\1")
    refused(both, "goes on after its end")
    both.write_bytes(first + bytes(1000))
    assert index_shard(str(both), CLS).keys == ("a",)
    data = first.rstrip(b"\0")
    data += bytes(-len(data) % 512)
    both.write_bytes(data + bytes(512) + data + bytes(1024))
    refused(both, "goes on after its end", "a zero block before")


def test_no_tar_at_all(tmp_path: Path) -> None:
    file = tmp_path / "s.tar"
    file.write_bytes(b"")
    refused(file, "ends at byte 0")
    file.write_bytes(np.random.default_rng(0).bytes(4096))
    refused(file, "tar header at byte 0", "as an uncompressed tar")
    refused(tmp_path / "absent.tar", "cannot be opened (No such file or directory)")
    refused(tmp_path, "cannot be read (Is a directory)")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_the_like_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, content in (("a.png", PNG), ("a.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = kind, "a.png"
        archive.addfile(link)
    what, advice = {
        tarfile.SYMTYPE: ("a symbolic link", "with `tar --dereference --hard-dereference`"),
        tarfile.LNKTYPE: ("a hard link", "with `tar --dereference --hard-dereference`"),
        tarfile.FIFOTYPE: ("a pipe", "as an uncompressed tar of regular files"),
        tarfile.CHRTYPE: ("a device", "as an uncompressed tar of regular files"),
    }[kind]
    found = f"holds {what} 'b.png', which is no regular file, in sample 'b'; the last whole sample is 'a'"
    refused(tmp_path / "s.tar", found, f"write {tmp_path / 's.tar'} again", advice)


def test_header_fields_out_of_range_are_refused(tmp_path: Path) -> None:
    path = Path(write_tar(tmp_path / "s.tar", [("a.png", PNG), ("a.cls", b"1")]))
    whole = path.read_bytes()
    for field, part in (
        (b"\xff" * 12, "negative size"),
        (b"77777777777\0", "before the member 'a.png' does"),
        (b"-0000000005\0", "negative size"),
        (b"no number..\0", "no tar header"),
    ):
        content = bytearray(whole)
        content[124:136] = field
        path.write_bytes(with_checksum(content))
        refused(path, part)


@pytest.mark.parametrize(
    "records",
    [
        b"nonsense",
        b"5 a=b",
        b"99 path=x\n",
        b"20 path\n",
        b"0 path=a\n",
        b"17 size=many.....\n",
        b"22 GNU.sparse.size=5\n\n",
    ],
)
def test_broken_pax_headers_are_refused(tmp_path: Path, records: bytes) -> None:
    header = bytearray(512)
    header[:4], header[156:157], header[257:265] = b"pax\0", b"x", b"ustar\x0000"
    header[124:136] = b"%011o\0" % len(records)
    rest = Path(write_tar(tmp_path / "rest.tar", [("a.png", PNG), ("a.cls", b"1")])).read_bytes()
    (tmp_path / "s.tar").write_bytes(with_checksum(header) + records.ljust(512, b"\0") + rest)
    assert "PAX header" in (message := refused(tmp_path / "s.tar")) or "sparse" in message


@pytest.mark.parametrize(
    ("members", "parts"),
    [
        (["a.png", "a.cls", "b.png", "b.cls", "a.png", "a.cls"], ["'a'", "comes back", "two have one key"]),
        (["a.png", "a.cls", "b.png", "b.cls", "a.png"], ["'a'", "comes back", "two have one key"]),
        (["a.png", "b.png", "a.png", "b.png"], ["'a'", "has no class: no .cls member but .png; write the"]),
        (["a.png", "b.png", "a.txt"], ["'a'", "has no class: no .cls member but .png, .txt; write the"]),
        (["a.cls", "a.png", "b.cls", "a.json"], ["'b'", "has no image"]),
        (["a.png", "a.cls", "a.png"], ["'a'", "two members .png"]),
        (["a.cls", "a.CLS", "a.png"], ["'a'", "two members .cls"]),
        (["a.png", "a.jpg", "a.cls"], ["'a'", "two images (.png, .jpg)", "--image-from png, or --image-from jpg"]),
        (["a.png", "a.cls", "b.cls"], ["'b'", "has no image", "but .cls"]),
        (["a.png", "a.cls", "b.gif", "b.cls"], ["'b'", "has no image", "but .gif, .cls"]),
        (["a.png", "a.txt", "b.png", "b.cls"], ["'a'", "has no class: no .cls member but .png, .txt; write the"]),
        (["a.png", "a.json", "b.png", "b.cls"], ["no .cls member but .png, .json, which has no fields: '{}'"]),
    ],
)  # fmt: skip
def test_samples_that_are_not_whole_are_refused(tmp_path: Path, members: list[str], parts: list[str]) -> None:
    contents = {"png": PNG, "cls": b"1"}
    path = write_tar(tmp_path / "s.tar", [(name, contents.get(name[2:].lower(), b"{}")) for name in members])
    refused(path, *parts)


APART = "; members of a sample must follow each other: tar them sorted (`tar --sort=name`)"


@pytest.mark.parametrize(
    ("members", "part"),
    [
        ("a.png b.png a.cls b.cls", "'a' has its members apart: .png, and behind other samples' .cls"),
        ("a.cls b.cls a.png b.png", "'a' has its members apart: .cls, and behind other samples' .png"),
        ("a.png a.cls b.png c.cls b.cls c.png", "'b' has its members apart: .png, and behind other samples' .cls"),
        ("a.png a.cls b.png b.cls c.png d.png d.cls c.cls", "'c' has its members apart: .png, and behind"),
        ("a.png b.png c.png a.cls b.cls c.cls", "'a' has its members apart: .png, and behind other samples' .cls"),
        ("a.png a.cls b.cls b.png a.json", "'a' has its members apart: .png, .cls, and behind other samples' .json"),
        ("a.png a.cls a.e a.f b.png b.cls a.json", "'a' has its members apart: .png, .cls, .e and 1 more, and behind"),
    ],
)
def test_members_that_are_apart_are_called_so(tmp_path: Path, members: str, part: str) -> None:
    contents = {"png": PNG, "cls": b"1"}
    path = write_tar(tmp_path / "s.tar", [(name, contents.get(name[2:], b"{}")) for name in members.split()])
    refused(path, part, APART)
    if not members.endswith("json"):  # what comes before an archive's damage is told all the same
        Path(path).write_bytes(Path(path).read_bytes().rstrip(b"\0"))
        refused(path, part, APART)


def test_keys_of_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", lambda content: 7)
    members = [(f"{key}.{extension}", b"1") for key in "abc" for extension in ("png", "cls")]
    assert index_shard(write_tar(tmp_path / "s.tar", members), CLS).keys == ("a", "b", "c")
    refused(write_tar(tmp_path / "s.tar", members * 2), "'a' comes back after other samples")


def test_a_whole_shard_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[object] = []
    members = walk_module.members
    monkeypatch.setattr(walk_module, "members", lambda reader: walks.append(reader) or members(reader))
    index_shard(write_shards(tmp_path, [70])[0], CLS)
    assert len(walks) == 1


@pytest.mark.parametrize("extension", ["cls", "json"])
def test_the_walk_keeps_little_of_each_sample(tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lists of names, keys and numbers it was 740 bytes, a gigabyte for a million samples."""
    monkeypatch.setattr(walk_module, "MOST_KNOWN", 1000)
    rule = ClassRule("json:c") if extension == "json" else CLS
    peaks = []
    for number in (2000, 10_000):
        members = []
        for n in range(number):
            content = b'{"c": 1, "id": %d}' % n if extension == "json" else b"%d" % n
            members += [(f"sample-{n:07d}.png", PNG), (f"sample-{n:07d}.{extension}", content)]
        path = write_tar(tmp_path / f"{number}.tar", members)
        index_shard(path, rule)  # what is imported and remembered once
        tracemalloc.start()
        index_shard(path, rule)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 8000 < 120  # 82


def test_a_sample_of_very_many_members_takes_no_square_of_the_time(tmp_path: Path) -> None:
    many = [("a.png", PNG), ("a.cls", b"1"), *((f"a.{number}", b"") for number in range(30_000))]
    path = write_tar(tmp_path / "s.tar", many)
    began = time.process_time()
    assert index_shard(path, CLS).keys == ("a",)
    assert time.process_time() - began < 5  # 0.3 s; with a list of extensions it was half a minute


@pytest.mark.parametrize(
    ("members", "image_from", "part"),
    [
        (
            "22.05.jpg 22.cls",
            None,
            "sample 'f/22' has no image (.jpg, .jpeg, .png, .webp) but .05.jpg, .cls; say --image-from 05.jpg if that "
            "is the image of every sample; else, as a key ends at the first dot of a file name ('22.05.jpg' is member "
            ".05.jpg of sample '22'), rename such files to have one dot",
        ),
        (
            "22.05.jpg 22.05.cls 22.06.jpg 22.06.cls",
            None,
            "has no image (.jpg, .jpeg, .png, .webp) but .05.jpg, .05.cls, .06.jpg and 1 more; as a key ends at the "
            "first dot of a file name ('22.05.jpg' is member .05.jpg of sample '22'), rename such files",
        ),
        (
            "22.jpg 22.05.cls",
            None,
            "has no class: no .cls member but .jpg, .05.cls; as a key ends at the first dot of a file name ('22.05",
        ),
        ("1.left.jpg 1.right.jpg 1.cls", None, "but .left.jpg, .right.jpg, .cls; say --image-from left.jpg if that"),
        ("1.jpg 1.cls", "left.jpg", "has no image (.left.jpg) but .jpg, .cls; --image-from names the member"),
    ],
)
def test_names_of_several_dots_are_explained(tmp_path: Path, members: str, image_from: str | None, part: str) -> None:
    contents = [(f"f/{name}", b"1" if name.endswith("cls") else PNG) for name in members.split()]
    refused(write_tar(tmp_path / "s.tar", contents), part, rule=ClassRule(image_from=image_from))


def test_one_of_several_images_is_chosen(tmp_path: Path) -> None:
    left, right = make_image(1), make_image(2)
    members = [
        (f"{key}.{extension}", content)
        for key in "ab"
        for extension, content in (("jpg", PNG), ("LEFT.jpg", left), ("png", right), ("cls", b"1"))
    ]
    path = write_tar(tmp_path / "s.tar", members)
    for image_from, image in (("jpg", PNG), ("left.jpg", left), ("png", right)):
        found = assert_as_webdataset(path, ClassRule(image_from=image_from))
        assert images_of(found) == [image, image]
    refused(path, "'a' has two images (.jpg, .png): say which counts with --image-from jpg, or --image-from png; every")


@pytest.mark.parametrize("command", ["gzip", "zstd", "xz", "bzip2", "zip"])
def test_compressed_shards_are_called_so(tmp_path: Path, command: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"no {command} here to compress with")
    plain = Path(write_tar(tmp_path / "plain.tar", [("a.png", PNG), ("a.cls", b"1")]))
    shards = [tmp_path / "a shard.tar", tmp_path / "s.tar.gz"]
    options = [] if command == "zip" else ["-c"]
    with open(plain, "rb") as given, open(shards[0], "wb") as out:
        subprocess.run([command, *options], stdin=given, stdout=out, stderr=subprocess.DEVNULL, check=True)
    shards[1].write_bytes(shards[0].read_bytes())
    what, advice = {
        "gzip": ("compressed with gzip", "`gunzip < {} > PLAIN.tar`"),
        "zstd": ("compressed with zstd", "`zstd -d < {} > PLAIN.tar`"),
        "xz": ("compressed with xz", "`xz -d < {} > PLAIN.tar`"),
        "bzip2": ("compressed with bzip2", "`bunzip2 < {} > PLAIN.tar`"),
        "zip": ("a zip", "`unzip {} -d FOLDER && tar --sort=name -cf PLAIN.tar -C FOLDER .`"),
    }[command]
    for shard in shards:
        found = f"shard {shard.name} is {what}, not a plain tar, which alone can be read by byte range: "
        refused(shard, f"{found}run {advice.format(shlex.quote(str(shard)))}")
    if command != "zip":
        found = index_shard(str(unpacked(advice.format(shlex.quote(str(shards[0]))).strip("`"), tmp_path)), CLS)
        assert found.keys == ("a",)


def unpacked(command: str, folder: Path) -> Path:
    """What the command of a message makes."""
    subprocess.run(command, shell=True, cwd=folder, check=True)
    return folder / "PLAIN.tar"


def test_other_files_in_a_shards_place(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (tmp_path / "s.tar").write_bytes(pointer)
    refused(tmp_path / "s.tar", "is a pointer to a file in Git LFS, not a plain tar", ": run `git lfs pull`")
    for key in ("BZh9", "PK\x03\x04"):  # a tar all the same
        path = write_tar(tmp_path / "named.tar", [(f"{key}.png", PNG), (f"{key}.cls", b"1")])
        assert index_shard(path, CLS).keys == (key,)


@pytest.mark.parametrize(
    "options", [["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_are_named_as_they_are(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "a.cls").write_bytes(b"1")
    (tmp_path / "a.png").write_bytes(PNG)
    with open(tmp_path / "big.png", "wb") as file:
        file.seek(4 << 20)
        file.write(b"end")
    command = ["tar", "--sparse", "--sort=name", *options, "-cf", "s.tar", "a.cls", "a.png", "big.png"]
    subprocess.run(command, cwd=tmp_path, check=True)
    refused(
        tmp_path / "s.tar",
        "holds the sparse file 'big.png', whose holes are left out, in sample 'big'; the last whole sample is 'a'",
        f"write {tmp_path / 's.tar'} again with tar without --sparse (-S)",
    )


def test_a_key_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    refused(write_tar(tmp_path / "s.tar", [("\udcff.png", PNG), ("\udcff.cls", b"1")]), r"'\xff'", "not UTF-8")


def one_class(tmp_path: Path, content: bytes, extension: str = "cls") -> str:
    return write_tar(tmp_path / "s.tar", [("a.png", PNG), (f"a.{extension}", content)])


@pytest.mark.parametrize(
    ("content", "rule", "expected"),
    [
        (b"7", CLS, 7),
        (b" 7\n", CLS, 7),
        (b"1", ClassRule("cls", ("cat", "dog")), 1),
        (b"dog", ClassRule("cls", ("cat", "dog")), 1),
        (b"0", ClassRule("cls", ("1", "0")), 0),  # digits are an index, whatever the names are
    ],
)
def test_classes_from_cls(tmp_path: Path, content: bytes, rule: ClassRule, expected: int) -> None:
    assert index_shard(one_class(tmp_path, content), rule).classes.tolist() == [expected]


@pytest.mark.parametrize(
    ("content", "names", "parts"),
    [
        (b"-1", None, ["has class -1"]),
        (b"-1", ("cat", "dog"), ["has class -1, but 0 to 1 are known"]),
        (b"2", ("cat", "dog"), ["has class 2, but 0 to 1 are known"]),
        (b"1000000", None, ["has class 1000000", "allowed without classes.json"]),
        (b"cow", ("cat", "dog"), ["has class 'cow'", "not among 2 class names"]),
        (b"crane", ("crane", "dog", "crane"), ["has class 'crane'", "more than one class"]),
        (b"cow", ("crane", "dog", "crane"), ["has class 'cow', which is not among 3 class names; correct it, or"]),
        (
            b"crown",
            ("crane", "crow", "crane"),
            ["not among 3 class names; correct it ('crow'?), or give all names"],
        ),
        (b"cat", None, ["has class 'cat'", "no classes.json", "--classes"]),
        (b"n01440764", None, ["has class 'n01440764', a name"]),
        (b"nan", None, ["has class 'nan', a name"]),
        (b"1.5", ("cat", "dog"), ["has class '1.5'", "not among 2 class names"]),
        (b"", None, ["has an empty .cls member: a class is digits alone, or a name"]),
        (b" \n", None, ["has an empty .cls member"]),
        (b"\xff", None, ["no text"]),
    ],
)
def test_wrong_classes_are_refused(
    tmp_path: Path, content: bytes, names: tuple[str, ...] | None, parts: list[str]
) -> None:
    refused(one_class(tmp_path, content), "'a'", *parts, rule=ClassRule("cls", names))


@pytest.mark.parametrize(
    ("content", "quoted", "meant"),
    [
        (b"3.0", "3.0", 3),
        (b'"3"', '"3"', 3),
        (b"'3'", "'3'", 3),
        (b"\xef\xbb\xbf3", r"\ufeff3", 3),
        ("3".encode("utf-16"), r"\ufeff3", 3),
        (b"+3", "+3", 3),
        (b"3e0", "3e0", 3),
        (b"[3]", "[3]", 3),
        (b"3,\n", "3,", 3),
        ("\uff17".encode(), "\uff17", 7),
        ("\u0667".encode(), "\u0667", 7),
        (b"3\n4", r"3\n4", None),
        (b"3 4", "3 4", None),
        (b"0,0,1", "0,0,1", None),
        (b"1.5", "1.5", None),
        (b"- 3", "- 3", None),
    ],
)
def test_badly_written_numbers_are_called_so(tmp_path: Path, content: bytes, quoted: str, meant: int | None) -> None:
    path = one_class(tmp_path, content)
    found = f"'a' has class '{quoted}', a badly written number: write the shard again, each class in digits alone, as "
    refused(path, found + str(3 if meant is None else meant))
    if meant is not None:  # names do not make it one of them
        refused(path, found + str(meant), rule=ClassRule("cls", tuple("abcdefgh")))
    names = (content.decode("utf-16" if content.startswith(b"\xff") else "utf-8").strip(), "other")
    if not content.startswith(b"\xff"):  # but a class that is called so is
        assert index_shard(path, ClassRule("cls", names)).classes.tolist() == [0]


@pytest.mark.parametrize("dtype", ["<i8", "<i4", ">i8"])
@pytest.mark.parametrize("number", [0, 3, 200, 999])
def test_classes_as_a_machine_keeps_them_are_called_so(tmp_path: Path, dtype: str, number: int) -> None:
    content = np.array(number, dtype).tobytes()
    found = f"'a' has a class in {len(content)} bytes ('"
    for rule in (CLS, ClassRule("cls", ("cat", "dog"))):
        refused(
            one_class(tmp_path, content),
            found,
            f", as a machine keeps an integer: write the shard again, each class as text, in digits alone, as {number}",
            rule=rule,
        )


def test_classes_from_json(tmp_path: Path) -> None:
    rule = ClassRule("json:label", ("cat", "dog"))
    for label in (1, "1", "dog"):
        path = one_class(tmp_path, json.dumps({"label": label}).encode(), "json")
        assert index_shard(path, rule).classes.tolist() == [1]
    for content in (b"{}", b"[1]", b"3"):
        path = one_class(tmp_path, content, "json")
        refused(path, "'a'", "no field 'label' in its .json member, which has no fields", rule=rule)
    for content in (b"not json", b"\xff", b'{"label": 1'):
        refused(one_class(tmp_path, content, "json"), "'a'", "cannot be read", rule=rule)
    for wrong in (1.5, True, None, [1]):
        refused(one_class(tmp_path, json.dumps({"label": wrong}).encode(), "json"), "neither an integer", rule=rule)
    refused(one_class(tmp_path, b"1"), "no .json member but .png, .cls; leave --class-from out, if that", rule=rule)


@pytest.mark.parametrize(
    ("document", "field", "expected"),
    [
        ({"a": {"label": 1}}, "a.label", 1),
        ({"a": {"label": 0}, "a.label": 1}, "a.label", 1),  # the field of that very name comes first
        ({"a": {"b": {"c": 1}}}, "a.b.c", 1),
        ({"a": {"b.c": 1}}, "a.b.c", 1),
        ({"a.b": {"c": 1}}, "a.b.c", 1),
        ({"a": 5, "a.b": {"c": 1}}, "a.b.c", 1),
        ({"a": {"b": 5}, "a.b": {"c": 1}}, "a.b.c", 1),
        ({"": {"": 1}}, ".", 1),
    ],
)
def test_fields_of_objects_in_objects(tmp_path: Path, document: object, field: str, expected: int) -> None:
    path = one_class(tmp_path, json.dumps(document).encode(), "json")
    assert index_shard(path, ClassRule(f"json:{field}")).classes.tolist() == [expected]


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({"id": 7, "url": "x", "n": 1, "label": 3, "m": 2}, "whose fields are label, id, url and 2 more: say which is"),
        ({"id": 7, "a": {"x": 1, "category_id": 3}}, "whose fields are a.category_id, id, a.x: say which is the class"),
        ({"id": 7}, "whose only field is id: say which is the class with --class-from json:id"),
        ({"id": {}}, "whose only field is id"),
        ([1], "which has no fields: '[1]'; say where the class is with --class-from"),
        ({f"f{number}": number for number in range(1000)}, "whose fields are f0, f1, f2 and 997 more: say which"),
    ],
)
def test_fields_that_there_are_are_told(tmp_path: Path, document: object, part: str) -> None:
    path = one_class(tmp_path, json.dumps(document).encode(), "json")
    refused(path, f"'a' has no class: no .cls member but .png, .json, {part}")
    for field in ("absent", "a.label", "id.x", "." * 2000):
        refused(path, "' in its .json member, " + part, rule=ClassRule(f"json:{field}"))


def test_a_json_member_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    refused(one_class(tmp_path, b"{", "json"), "no .cls member but .png, .json, which cannot be read: '{'")


def test_deep_fields_are_looked_up_or_refused(tmp_path: Path) -> None:
    """Whatever depth the JSON reader takes."""
    for depth in (10, 500, 5000):
        path = one_class(tmp_path, b'{"a":' * depth + b"1" + b"}" * depth, "json")
        rule = ClassRule("json:" + ".".join("a" * depth))
        if depth < 100:
            assert index_shard(path, rule).classes.tolist() == [1]
        else:
            with suppress(ShardError):
                index_shard(path, rule)


@pytest.mark.parametrize(
    ("document", "shown"), [({"label": 3.0}, "3.0"), ({"label": "3.0"}, "3.0"), ({"label": "\ufeff3"}, r"\ufeff3")]
)
def test_badly_written_numbers_in_json(tmp_path: Path, document: object, shown: str) -> None:
    path = one_class(tmp_path, json.dumps(document).encode(), "json")
    refused(path, f"has class '{shown}', a badly written number: write", "as 3", rule=ClassRule("json:label"))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"label":' * 200_000, "nested too deeply"),
        (b'{"label": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"id": ' + b"9" * 5000 + b', "label": 1}', "Exceeds the limit"),
        (b'{"label": ' + b"9" * 4000 + b"}", "has class 9999"),
        (b'{"label": "' + b"9" * 4000 + b'"}', "which is not among 2"),
        (b'{"label": NaN}', "neither an integer nor a name"),
        (b'{"label": -Infinity}', "neither an integer nor a name"),
        (b'{"label": 1e999}', "neither an integer nor a name"),
        (b'{"label": "\xff"}', "cannot be read"),
        (b"\0" * 5000, "cannot be read"),
    ],
)
def test_json_members_of_strangers_are_one_short_line(tmp_path: Path, content: bytes, part: str) -> None:
    rule = ClassRule("json:label", ("cat", "dog"))
    assert len(refused(one_class(tmp_path, content, "json"), "'a'", part, rule=rule)) < 400


@pytest.mark.parametrize("extension", ["cls", "json"])
def test_a_huge_class_member_is_not_read(tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "MAX_CLASS_MEMBER", 1000)
    rule = ClassRule("json:label") if extension == "json" else CLS
    part = f"a .{extension} member of 1,001 bytes, too many for a class"
    refused(one_class(tmp_path, b" " * 1001, extension), "'a'", part, rule=rule)


def test_names_of_strangers_are_shown_once_escaped(tmp_path: Path) -> None:
    forged = "\x1b[2k\rerror: all fine"
    for members in ([(f"a.{forged}", PNG)], [(f"{forged}.png", PNG)], [(f"a.{forged}", PNG)] * 2):
        message = refused(write_tar(tmp_path / "s.tar", members), r"\x1b[2k\rerror: all fine")
        assert message.isprintable()
        assert "\\\\" not in message
    names = ("cat", "dog")
    for name in ("\x1b[31mcat", "\u202edog"):
        escaped = name.encode("unicode_escape").decode()
        refused(
            one_class(tmp_path, name.encode()), f"has class '{escaped}', which is not", rule=ClassRule("cls", names)
        )
        refused(one_class(tmp_path, name.encode()), f"has class '{escaped}', a name")
    many = [(f"a.e{number}", b"") for number in range(100)]
    refused(write_tar(tmp_path / "s.tar", many), "but .e0, .e1, .e2 and 97 more;")


def naive_fingerprint(image: bytes, kind: str) -> int:
    """From its words: xxh3_64 of the size (int64, little-endian) and the 64 bytes that end 2 bytes before the end."""
    hashed = image if kind == "whole" else image[:-2][-64:]
    return xxhash.xxh3_64_intdigest(struct.pack("<q", len(image)) + hashed)


@pytest.mark.parametrize("kind", ["tail", "whole"])
def test_fingerprints_of_images_of_all_sizes(tmp_path: Path, kind: Fingerprint) -> None:
    """Around the tail's length, tar's blocks, the walk's windows; with a class before the image, or after."""
    rng = np.random.default_rng(0)
    sizes = [*range(70), 511, 512, 513, 3500, 4096, 16_384, 16_385, 70_000, 1_100_000, 2, 20_000]
    images = [rng.bytes(size) for size in sizes]
    members = []
    for number, image in enumerate(images):
        pair = [(f"{number}.jpg", image), (f"{number}.cls", b"1")]
        members += pair if number % 2 else pair[::-1]
    found = index_shard(write_tar(tmp_path / "s.tar", members), CLS, kind)
    assert (found.fingerprints.dtype, len(found.fingerprints)) == (np.uint64, len(sizes))
    assert found.fingerprints.tolist() == [naive_fingerprint(image, kind) for image in images]
    assert found.fingerprints.tolist() == [image_fingerprint(image, kind) for image in images]


def test_fingerprints_of_large_images_take_no_read_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = []
    for number in range(50):
        members += [(f"{number}.jpg", bytes([number]) * 100_000), (f"{number}.cls", b"1")]
    path = write_tar(tmp_path / "s.tar", members)
    reads: list[int] = []
    pread = os.pread

    def count(fd: int, size: int, offset: int) -> bytes:
        reads.append(size)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", count)
    index_shard(path, CLS)
    assert len(reads) <= 55
    assert sum(reads[1:-1]) <= 50 * 4096 + (1 << 20)


def walked(file: Path) -> ShardIndex | str:
    """What a shard holds, or the refusal's message."""
    try:
        return index_shard(str(file), CLS)
    except ShardError as error:
        return str(error)


def assert_refused_or_sound(file: Path) -> None:
    """A ShardError of one line, or an index whose every sample lies in the file as its fingerprint says."""
    found = walked(file)
    if isinstance(found, str):
        assert found.isprintable()
        assert file.name in found
        return
    content = file.read_bytes()
    assert len(set(found.keys)) == len(found.keys)
    assert found.entry.num_bytes == len(content)
    assert ((found.classes >= 0) & (found.classes < MAX_CLASSES)).all()
    assert (found.sizes >= 0).all()
    assert (found.offsets + found.sizes <= len(content)).all()
    assert found.fingerprints.tolist() == [naive_fingerprint(image, "tail") for image in images_of(found)]


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=3000), blocks=st.integers(0, 4))
def test_random_bytes_are_refused_or_sound(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, blocks: int
) -> None:
    file = tmp_path_factory.mktemp("random") / "s.tar"
    file.write_bytes(content + bytes(512 * blocks))
    assert_refused_or_sound(file)


@st.composite
def mutated_archives(draw: st.DrawFn) -> bytes:
    """A small archive of any of three formats, with bytes changed (its headers' sums put right or not), moved, cut."""
    stream = io.BytesIO()
    format = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name in draw(
            st.lists(
                st.sampled_from(["a.jpg", "a.cls", "b.png", "b.cls", "é" * 40 + "/" + "é" * 40 + ".jpg"]), max_size=6
            )
        ):
            content = draw(st.sampled_from([b"1", b"7\n", b"x" * 700, b""]))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = bytearray(stream.getvalue()[: draw(st.sampled_from([None, -8192, -9000]))])
    for _ in range(draw(st.integers(0, 4))):
        if not content:
            break
        at = draw(st.integers(0, len(content) - 1))
        change = draw(st.binary(min_size=1, max_size=12))
        if draw(st.booleans()):
            content[at : at + len(change)] = change
        else:
            block = at // 512 * 512
            field = block + draw(st.sampled_from([0, 100, 124, 148, 156, 157, 257, 345]))
            content[field : field + len(change)] = change
            header = content[block : block + 512]
            if len(header) == 512:
                content[block : block + 512] = with_checksum(header)
        if draw(st.integers(0, 5)) == 0:
            del content[at : at + draw(st.sampled_from([1, 511, 512, 1024]))]
    return bytes(content)


@settings(max_examples=300, deadline=None)
@given(content=mutated_archives())
def test_mutated_archives_are_refused_or_sound(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("mutated") / "s.tar"
    file.write_bytes(content)
    assert_refused_or_sound(file)
