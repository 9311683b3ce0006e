"""Fingerprints of images: what they are of, and what they tell apart."""

import numpy as np
import pytest
import xxhash

from teacher_cache.shards.fingerprint import Fingerprint, fingerprint, hashed_part, image_fingerprint, read_kind

IMAGE = np.random.default_rng(0).bytes(1000)
KINDS: tuple[Fingerprint, ...] = ("tail", "whole")


def changed(at: int) -> bytes:
    return IMAGE[:at] + bytes([IMAGE[at] ^ 1]) + IMAGE[at + 1 :]


def test_the_formula_is_xxh3_of_size_and_the_64_bytes_before_the_last_two() -> None:
    expected = xxhash.xxh3_64_intdigest((1000).to_bytes(8, "little") + IMAGE[934:998])
    assert image_fingerprint(IMAGE, "tail") == expected == fingerprint(1000, IMAGE[934:998])
    assert image_fingerprint(IMAGE, "whole") == xxhash.xxh3_64_intdigest((1000).to_bytes(8, "little") + IMAGE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 65, 66, 67, 1000])
def test_the_part_read_from_a_file_and_the_image_in_memory_give_the_same(kind: Fingerprint, size: int) -> None:
    image = IMAGE[:size]
    start, length = hashed_part(size, kind)
    assert 0 <= start <= start + length <= size
    assert fingerprint(size, image[start : start + length]) == image_fingerprint(image, kind)


def test_tails_see_their_64_bytes_and_whole_ones_all() -> None:
    for at in (934, 960, 997):
        assert image_fingerprint(changed(at), "tail") != image_fingerprint(IMAGE, "tail")
    for at in (0, 933, 998, 999):
        assert image_fingerprint(changed(at), "tail") == image_fingerprint(IMAGE, "tail")
        assert image_fingerprint(changed(at), "whole") != image_fingerprint(IMAGE, "whole")
    assert image_fingerprint(b"x" + IMAGE, "tail") != image_fingerprint(IMAGE, "tail")  # another size


def test_kinds_are_read_as_they_are_written_and_no_others() -> None:
    assert [read_kind(kind) for kind in KINDS] == list(KINDS)
    for stranger in ("middle", None, 1, ["tail"]):
        with pytest.raises(ValueError, match="known are tail and whole"):
            read_kind(stranger)
