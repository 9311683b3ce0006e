"""Restart markers put into shards' JPEGs: the same pixels, and what cannot have them is left as it is."""

import io
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from teacher_cache.errors import ShardError
from teacher_cache.replay.decode import decode, decode_part, restarts_of
from teacher_cache.replay.header import jpeg_frame
from tests.support import images
from tests.support.images import SAMPLINGS, marked_jpeg, photographs, picture, sampled_jpeg
from tests.support.shard_files import read_webdataset, write_shard
from tools import make_shards
from tools.restart_markers import JPEGTRAN, RestartMarkers, restart_interval, with_restarts

needs_jpegtran = pytest.mark.skipif(
    shutil.which(JPEGTRAN) is None, reason="needs jpegtran: libjpeg-turbo-progs of Debian and Ubuntu"
)
ODD = {
    "png": images.png(picture(1)),
    "webp": images.webp(picture(2)),
    "inks": images.cmyk_jpeg(picture(3)),
    "cut short": images.jpeg(picture(4))[:-300],
    "damaged": images.jpeg(picture(5))[:-300] + b"\xff\xd9",
    "no image": b"\xff\xd8 nothing",
    "empty": b"",
}


def run(*words: object) -> Result:
    return CliRunner().invoke(make_shards.main, list(map(str, words)))


@needs_jpegtran
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", [*SAMPLINGS, "grey"])
def test_marked_pictures_have_the_same_pixels_and_parts(sampling: str, progressive: bool) -> None:
    pixels = photographs()["china"][:250, :333]
    grey = images.grey_jpeg(pixels) if sampling == "grey" else None
    image = grey or sampled_jpeg(pixels, sampling, progressive=progressive)
    marked = with_restarts(image)
    assert marked is not None
    whole = decode(marked)
    assert np.array_equal(whole, decode(image))
    restarts = restarts_of(marked)
    assert restarts is not None
    part = restarts.part((120, 150, 20, 30))
    assert part is not None
    assert part.height * part.width < 250 * 333 / 4
    found = decode_part(part)
    assert found is not None
    inside = found[120 - part.top :, 150 - part.left :][:20, :30]
    assert np.array_equal(inside, whole[120:140, 150:180])
    assert with_restarts(marked) == marked


@needs_jpegtran
def test_notes_and_profiles_are_kept() -> None:
    profile, exif = b"a profile" * 100, Image.Exif()
    exif[0x0112] = 6
    marked = with_restarts(images.jpeg(picture(1), icc_profile=profile, exif=exif, comment=b"a note"))
    assert marked is not None
    with Image.open(io.BytesIO(marked)) as opened:
        assert (opened.info["icc_profile"], opened.info["comment"]) == (profile, b"a note")
        assert opened.getexif()[0x0112] == 6


@needs_jpegtran
@pytest.mark.parametrize("kind", ODD)
def test_what_cannot_have_markers_is_left(kind: str) -> None:
    assert with_restarts(ODD[kind]) is None
    markers = RestartMarkers()
    assert markers.mark(ODD[kind]) is ODD[kind]
    assert (markers.marked, markers.left) == (0, 1)


@pytest.mark.parametrize(
    ("width", "sampling", "interval"),
    [
        *((480, "4:4:4", 3), (480, "4:2:0", 2), (500, "4:2:0", 2), (375, "4:2:2", 2), (496, "4:1:1", 1)),
        *((376, "4:4:4", 47), (496, "4:4:4", 31), (1000, "4:4:4", 5), (24, "4:4:4", 3), (16, "4:2:0", 1)),
    ],
)
def test_markers_are_24_pixels_apart_or_more_and_divide_a_row(width: int, sampling: str, interval: int) -> None:
    image = sampled_jpeg(picture(0, 8, width), sampling)
    frame = jpeg_frame(image)
    assert frame is not None
    assert restart_interval(image, frame) == interval


@needs_jpegtran
@pytest.mark.parametrize("command", ["folder", "reshuffle"])
def test_shards_with_restart_markers(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_shards, "READ_TOGETHER", 7)  # several times, and some that are left over
    pictures = {f"{number}": marked_jpeg(picture(number), "4:4:4") for number in range(3)}
    pictures |= {f"{number}": images.jpeg(picture(number, 80, 100 + number)) for number in range(3, 20)}
    files = {f"{key}.jpg": image for key, image in pictures.items()} | {"20.png": ODD["png"], "21.JPEG": ODD["damaged"]}
    if command == "folder":
        for name, image in files.items():
            (tmp_path / "in" / f"class{len(name) % 2}").mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / f"class{len(name) % 2}" / name).write_bytes(image)
        source = [tmp_path / "in"]
    else:
        samples = [
            {"__key__": name.split(".")[0], name.split(".")[1]: image, "cls": b"1", "txt": b"\xff\xd8 no image"}
            for name, image in files.items()
        ]
        source = [write_shard(tmp_path / "a.tar", samples[:9]), write_shard(tmp_path / "b.tar", samples[9:])]
    done = run(command, *source, tmp_path / "out", "--restart")
    assert done.exit_code == 0, done.output
    assert "restart markers: in 20 images; 2 left as they are: no JPEGs of 8 bits, grey or of three colours, that" in (
        done.output
    )
    plain = run(command, *source, tmp_path / "plain")
    assert "restart markers" not in plain.output
    found, expected = (read_webdataset(tmp_path / out / "train-0000.tar") for out in ("out", "plain"))
    assert [sample["__key__"] for sample in found] == [sample["__key__"] for sample in expected]
    for sample, original in zip(found, expected, strict=True):
        assert sample.keys() == original.keys()
        for extension in sample.keys() & {"jpg", "JPEG", "png"}:
            assert np.array_equal(decode(sample[extension]), decode(original[extension]))
            has_markers = restarts_of(sample[extension]) is not None
            assert has_markers == (extension == "jpg")
            assert has_markers or sample[extension] == original[extension]
        assert sample.get("txt") == original.get("txt")
    again = run(command, *source, tmp_path / "again", "--restart")
    assert again.exit_code == 0
    assert (tmp_path / "again" / "train-0000.tar").read_bytes() == (tmp_path / "out" / "train-0000.tar").read_bytes()


def test_without_jpegtran_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for words in (["folder", tmp_path], ["reshuffle", tmp_path / "*.tar"], ["torchvision", "CIFAR10", tmp_path]):
        done = run(*words, tmp_path / "out", "--restart")
        assert (done.exit_code, len(done.output.splitlines())) == (1, 1)
        said = r"error: restart markers are put in by jpegtran, which is not found: install libjpeg-turbo-progs .*"
        assert re.fullmatch(said, done.output.rstrip("\n"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ShardError, match="restart markers are put in by jpegtran"):
        RestartMarkers()


@pytest.mark.parametrize("does", ["exit 1", "kill -SEGV $$", "cat /dev/null", "no program"])
def test_a_jpegtran_that_does_not_work_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    program = tmp_path / JPEGTRAN
    program.write_text(f"#!/bin/sh\n{does}\n" if does != "no program" else "#!/nowhere/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "1.jpg").write_bytes(images.jpeg(picture(1)))
    done = run("folder", tmp_path / "in", tmp_path / "out", "--restart")
    assert (done.exit_code, len(done.output.splitlines())) == (1, 1)
    assert f"put in by jpegtran, and {program} puts none into a picture: install libjpeg-turbo-progs" in done.output
    assert not (tmp_path / "out").exists()


@needs_jpegtran
def test_a_jpegtran_that_is_killed_is_no_picture_that_has_no_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture is tried by the real one, as it works."""
    real = shutil.which(JPEGTRAN)
    program = tmp_path / JPEGTRAN
    program.write_text(f'#!/bin/sh\n[ -e {tmp_path}/tried ] && kill -9 $$\n: > {tmp_path}/tried\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    shard = write_shard(tmp_path / "a.tar", [{"__key__": "0", "jpg": images.jpeg(picture(1)), "cls": b"1"}])
    done = run("reshuffle", shard, tmp_path / "out", "--restart")
    assert done.output == "error: sample '0': jpegtran was ended by signal 9: run the same again\n"
    assert not list((tmp_path / "out").iterdir())


@needs_jpegtran
def test_each_of_several_images_of_a_sample_gets_markers(tmp_path: Path) -> None:
    """`index --image-from left.jpg` may choose any."""
    image = images.jpeg(picture(1))
    shard = write_shard(tmp_path / "a.tar", [{"__key__": "0", "left.jpg": image, "right.jpg": image, "cls": b"1"}])
    done = run("reshuffle", shard, tmp_path / "out", "--restart")
    assert "restart markers: in 2 images\n" in done.output
    [sample] = read_webdataset(tmp_path / "out" / "train-0000.tar")
    assert {restarts_of(sample[name]) is not None for name in ("left.jpg", "right.jpg")} == {True}


class OneThread:
    """A data set of files that may be read by one thread alone, as many are."""

    def __init__(self, root: Path) -> None:
        self.targets = [0] * 40
        self._files = [root / f"{number}.jpg" for number in range(40)]
        self._thread = threading.get_ident()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        assert threading.get_ident() == self._thread
        return Image.open(self._files[position]), 0


@needs_jpegtran
def test_data_sets_of_torchvision_are_read_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets, "OneThread", OneThread, raising=False)
    for number in range(40):
        (tmp_path / f"{number}.jpg").write_bytes(images.jpeg(picture(number)))
    done = run("torchvision", "OneThread", tmp_path, tmp_path / "out", "--restart")
    assert "restart markers: in 40 images\n" in done.output


def test_files_are_not_compared_with_what_has_markers(tmp_path: Path) -> None:
    done = run("folder", tmp_path, tmp_path / "out", "--restart", "--again")
    assert done.exit_code == 2
    assert "--again compares images with their files, which --restart changes: give one of the two" in done.output


@pytest.mark.parametrize(
    "does",
    {
        "other pixels": "sys.stdout.buffer.write(open({other!r}, 'rb').read())",
        "no markers": "sys.stdout.buffer.write(image)",
        "nothing": "",
        "an image that no decoder reads": "sys.stdout.buffer.write(open({other!r}, 'rb').read()[:-2])",
        "a warning": "sys.stdout.buffer.write(open({same!r}, 'rb').read()); sys.stderr.write('Corrupt JPEG data')",
        "a failure": "sys.stdout.buffer.write(open({same!r}, 'rb').read()); sys.exit(2)",
    }.values(),
)
def test_only_what_has_the_same_pixels_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """By stand-ins for jpegtran."""
    places = {"other": tmp_path / "other.jpg", "same": tmp_path / "same.jpg"}
    for number, place in enumerate(places.values()):
        place.write_bytes(marked_jpeg(picture(number + 1)))
    image = sampled_jpeg(picture(2), "4:2:0")
    assert np.array_equal(decode(image), decode(places["same"].read_bytes()))
    program = does.format(**{name: str(place) for name, place in places.items()})
    (tmp_path / JPEGTRAN).write_text(f"#!{sys.executable}\nimport sys\nimage = sys.stdin.buffer.read()\n{program}\n")
    (tmp_path / JPEGTRAN).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert with_restarts(image) is None
    (tmp_path / JPEGTRAN).write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write(open({str(places['same'])!r}, 'rb').read())\n"
    )
    assert with_restarts(image) == places["same"].read_bytes()
