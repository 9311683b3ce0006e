"""Files of weights: any flipped bit is found before loading or changes nothing, and so is a file that was cut."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from teacher_cache.errors import CheckpointError
from teacher_cache.messages.recognise import no_checkpoint
from teacher_cache.storage.place import Url
from teacher_cache.teacher.weights import (
    DIGEST,
    content_sha256,
    read_checkpoint,
    read_metadata,
    read_normalisation,
)
from tests.support.memory_storage import bucket_in_memory

CONTENT = {"model": {"w": torch.arange(300.0), "b": torch.ones(2, 3)}, "epoch": 3, "mean": [0.5, 0.4, 0.3]}


def written(folder: Path) -> Path:
    torch.save(CONTENT, folder / "whole.pt")
    return folder / "whole.pt"


def same(found: dict[str, Any]) -> bool:
    weights = all(torch.equal(found["model"][name], value) for name, value in CONTENT["model"].items())
    return weights and (found["epoch"], found["mean"], len(found)) == (3, [0.5, 0.4, 0.3], 3)


def check_line(error: CheckpointError, name: str) -> None:
    assert "\n" not in str(error)
    assert name in str(error)


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_flipped_bits_in_a_checkpoint_are_found_or_change_nothing(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        contents_at = archive.start_dir
        stored = next(member for member in archive.infolist() if member.filename.endswith("data/0"))
    draw = random.Random(0)
    weights = range(content.index(CONTENT["model"]["w"].numpy().tobytes()) * 8, (stored.header_offset + 1200) * 8)
    places = draw.sample(weights, 40)
    anywhere = draw.sample(range(len(content) * 8), 60) + draw.sample(range(contents_at * 8, len(content) * 8), 60)
    refused = 0
    for place in places + anywhere:
        path.write_bytes(flip(content, place))
        try:
            assert same(read_checkpoint(str(path))), f"bit {place} changes what is loaded"
        except CheckpointError as error:
            refused += 1
            check_line(error, "whole.pt")
        else:
            assert place not in places, f"bit {place} of the weights is not found"
    assert refused > 80


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_short_says_so(tmp_path: Path, share: float) -> None:
    path = written(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"whole\.pt is cut short or damaged .*copy it again from where it came"):
        read_checkpoint(str(path))


def test_a_member_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("whole/data/7", b"few bytes")
        archive.infolist()[-1].file_size = archive.infolist()[-1].compress_size = 10**13
    with pytest.raises(CheckpointError, match=r"lists more than the [0-9,]+ bytes of the file"):
        read_checkpoint(str(path))


class Called:
    """What is pickled as the call of something that torch lets a file call."""

    def __init__(self, function: Callable[[int], object], size: int) -> None:
        self._call = function, (size,)

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return self._call


def test_a_file_of_some_bytes_claims_no_gigabytes(tmp_path: Path) -> None:
    """By a tensor that says one value many times, wherever it is, or what is made by its size alone."""
    path, many = str(tmp_path / "x.pt"), torch.zeros(1).expand(2**20, 2**20)
    for content in ({"model": {"weight": many}}, {"optimizer": {"state": [({"exp_avg": many},)]}}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"of shape \(1048576, 1048576\) in [0-9,]+ bytes, the same values "):
            read_checkpoint(path)
    torch.save({"model": Called(torch.FloatTensor, 2**30)}, path)
    with pytest.raises(CheckpointError, match=r"of shape \(1073741824,\) in [0-9,]+ bytes, the same values again"):
        read_checkpoint(path)
    torch.save({"model": Called(bytearray, 2**40)}, path)
    with pytest.raises(CheckpointError, match="holds a bytearray, which may claim any memory: whoever trusts it"):
        read_checkpoint(path)
    rows = torch.arange(6).reshape(2, 3)
    content = {"a row": rows[0].expand(1, -1), "a part": rows[1:], "turned": rows.T, "none": rows[:0].expand(0, 3)}
    content["a mask"] = torch.ones(1).expand(2, 3)
    content["itself"] = content
    torch.save(content, path)
    assert read_checkpoint(path).keys() == content.keys()


def test_a_compressed_member_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("whole/data/7", b"0" * 1000)
    with pytest.raises(CheckpointError, match=r"damaged \(the entry of whole/data/7\)"):
        read_checkpoint(str(path))


def test_a_file_without_checksums_says_how_it_was_written(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = written(tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(CheckpointError, match=r"has no checksums.*without torch\.serialization\.set_crc32_options"):
        read_checkpoint(str(path))


def test_a_file_of_torch_before_its_zips_is_read(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(str(tmp_path / "old.pt")))


def test_flipped_bits_in_our_safetensors_are_found(tmp_path: Path) -> None:
    state, metadata = CONTENT["model"], {"deit_teacher_cache": "1", "mean": "[0.5, 0.4, 0.3]"}
    path = tmp_path / "ours.safetensors"
    save_file(state, path, metadata | {DIGEST: content_sha256(state, metadata)})
    content = path.read_bytes()
    assert torch.equal(read_checkpoint(str(path))["w"], state["w"])
    draw = random.Random(0)
    for place in draw.sample(range(len(content) * 8), 60) + draw.sample(range(64, 2000), 60):
        path.write_bytes(flip(content, place))
        try:
            found = read_checkpoint(str(path))
            sealed = read_metadata(str(path))
        except CheckpointError as error:
            check_line(error, "ours.safetensors")
            continue
        assert all(torch.equal(found[name], value) for name, value in state.items())
        assert DIGEST not in sealed or {**sealed, DIGEST: ""} == {**metadata, DIGEST: ""}


@pytest.mark.parametrize("mean", ["abc", [1, 2], [0.1, 0.2, "0.3"], [0.1, 0.2, float("nan")], {"r": 1}, 0.5])
def test_a_mean_that_is_none_is_refused(tmp_path: Path, mean: Any) -> None:
    torch.save({"model": {}, "mean": mean}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt says mean = .*three numbers are expected, give --mean"):
        read_normalisation(str(tmp_path / "odd.pt"))


def test_a_weight_that_is_called_mean_is_no_mean(tmp_path: Path) -> None:
    torch.save({"mean": torch.zeros(3), "std": [1, 2, 3.0]}, tmp_path / "bare.pt")
    assert read_normalisation(str(tmp_path / "bare.pt")) == {"std": (1, 2, 3.0)}


def test_weights_at_a_url_are_fetched_once_and_named_by_it(tmp_path: Path) -> None:
    path = written(tmp_path)
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors", {"a": "b"})
    with bucket_in_memory() as bucket:
        bucket.upload(tmp_path, "s3://bucket/far")
        url = "s3://bucket/far/whole.pt"
        assert same(read_checkpoint(url))
        assert read_normalisation(url)["mean"] == (0.5, 0.4, 0.3)
        assert [method for method, _, _ in bucket.requests].count("get") == 1
        assert read_checkpoint("s3://bucket/far/w.safetensors")["w"].tolist() == [1, 1, 1]
        assert read_metadata("s3://bucket/far/w.safetensors") == {"a": "b"}
        for name, content, found in (
            ("cut.pt", path.read_bytes()[:-50], "cut short or damaged"),
            ("text.pt", b"hello", "cannot be read as plain weights: it begins with b'hello'"),
            ("x.safetensors", b"hello", "cannot be read as plain weights"),
            ("absent.pt", None, "is absent: check the place"),
        ):
            url = f"s3://bucket/far/{name}"
            if content is not None:
                bucket.objects[url] = content
            with pytest.raises(CheckpointError, match=rf"^checkpoint {url} .*{found}") as told:
                read_checkpoint(url)
            check_line(told.value, url)
            assert (no_checkpoint(Url(url)) is None) == (content is not None)
