"""What each step of a view takes, by each kind of instructions that the native library knows, and by NumPy.

    PYTHONPATH=. python docs/experiments/native_steps.py 'SHARD-PATTERN'     # photographs

Microseconds of one pinned core a view, the least of some turns over 64 pictures at 224 pixels: a crop, its resize and
a flip, and what each operation takes beyond that.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable

import numpy as np

from teacher_cache.replay.block import Block, decode_block, draw_blocks
from teacher_cache.replay.native.library import SWITCH, offered
from teacher_cache.replay.native.views import native_views
from teacher_cache.replay.params import NAMES, DrawnViews
from teacher_cache.replay.policy import load_policy
from teacher_cache.replay.render import render_pixels
from tools.benchmarks.photographs import read_photographs
from tools.benchmarks.row import one_pinned_core

PICTURES, TURNS, SEED = 64, 10, 1
VALUES = {  # of operations, as RandAugment draws them at a magnitude of 9
    **{"posterize": 1, "solarize": 26, "solarize_add": 99, "brightness": 1.8, "contrast": 1.8, "color": 1.8},
    **{"sharpness": 1.8, "hue": 0.1, "rotate": 27.0, "shear_x": 0.27, "shear_y": 0.27},
    **{"translate_x": 0.4, "translate_y": 0.4},
}


def microseconds(drawn: DrawnViews, pictures: list[np.ndarray]) -> float:
    """Of a view, by what the environment asks for."""
    out = np.empty((*drawn.policy.size, 3), np.uint8)
    native = native_views(drawn)
    views = list(drawn)

    def render_all() -> None:
        for number, pixels in enumerate(pictures):
            if native is not None:
                native.render(number, pixels, out)
            else:
                out[:] = render_pixels(pixels, views[number])

    return 1e6 * min(seconds(render_all) for _ in range(TURNS)) / len(pictures)


def seconds(call: Callable[[], None]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def main(pattern: str) -> None:
    images = tuple(read_photographs((pattern,), PICTURES))
    keys = tuple(map(str, range(PICTURES)))
    block = decode_block(Block("photographs.tar", 0, keys, np.zeros(PICTURES, np.int32), images))
    pictures = [block.image(position) for position in range(PICTURES)]
    plain, whole = (
        draw_blocks(load_policy("deit", ["mix=none", *settings]), SEED, [block], [0])
        for settings in (["rand_augment=none", "erase=none"], [])
    )
    rows = {"crop, resize, flip": plain}
    for number, name in enumerate(NAMES):
        values = np.full((PICTURES, 1), float(VALUES.get(name, 0)))
        rows[name] = dataclasses.replace(plain, operations=np.full((PICTURES, 1), number), values=values)
    rows["a view of deit, not mixed"] = whole
    kinds = [*reversed(offered()), "off"]
    print(f"{'':26}", *(f"{kind:>8}" for kind in kinds))
    base: dict[str, float] = {}
    for name, drawn in rows.items():
        found = []
        for kind in kinds:
            os.environ[SWITCH] = kind
            taken = microseconds(drawn, pictures)
            base.setdefault(kind, taken)
            found.append(taken - base[kind] if name in NAMES else taken)
        print(f"{name:26}", *(f"{taken:8.0f}" for taken in found), flush=True)


if __name__ == "__main__":
    with one_pinned_core():
        main(sys.argv[1])
