"""Rendering on a GPU against the CPU: bytes first, then speed. Every line is printed as soon as it is known.

    PYTHONPATH=. python docs/experiments/gpu_render.py          # on a machine with a CUDA device, from a checkout

Without one, `TRITON_INTERPRET=1 ... gpu_render.py --small` runs every line of the bytes on Triton's interpreter.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from unittest import mock

import numpy as np
import torch
import triton

from teacher_cache.replay.block import replay_view
from teacher_cache.replay.gpu.plan import Entries, RenderPlan
from teacher_cache.replay.gpu.render import Batch, Renderer, render_blocks
from teacher_cache.replay.policy import load_policy
from tests.replay import equality
from tests.replay.gpu import on_device
from tests.support import images
from tests.support.decoded import decoded_block

BEGAN = time.perf_counter()
QUEUED_CYCLES = 40_000_000  # about 20 ms, in which launches queue up


def say(line: str) -> None:
    print(f"[{time.perf_counter() - BEGAN:6.1f}s] {line}", flush=True)


def show(lines: Iterable[equality.Compared]) -> int:
    """-> how many comparisons were unequal."""
    unequal = 0
    for line in lines:
        unequal += not line.is_equal
        say(
            f"{'EQUAL  ' if line.is_equal else 'UNEQUAL'} {line.name}: {line.equal} of {line.views}, "
            f"largest difference {line.largest}"
        )
    return unequal


def bytes_at(size: tuple[int, int], sources: list[np.ndarray], num: int, device: torch.device) -> int:
    say(f"-- bytes at {size[0]} x {size[1]}")
    parts: Sequence[Callable[..., Iterator[equality.Compared]]] = (
        equality.crops,
        equality.operations,
        equality.erasing,
    )
    return sum(show(part(sources, size, num, partial(on_device.rendered, device))) for part in parts)


def bytes_of_policies(
    size: tuple[int, int], sources: list[np.ndarray], views: dict[str, int], device: torch.device
) -> int:
    """Whole policies over two blocks, one of which has a skipped sample and odd, tiny pictures."""
    odd = [images.picture(number, *shape) for number, shape in enumerate([(3, 5), (1, 1), (70, 9), (200, 31)])]
    decoded = [decoded_block(sources), decoded_block(odd, frozenset({1}), 1)]
    unequal = 0
    for name, policy in equality.policies(size).items():
        asked = list(range(views.get(name, views["others"])))
        unequal += show(on_device.blocks(policy, decoded, asked, f"{size[0]} x {size[1]}, {name}", device))
    return unequal


def milliseconds(call: Callable[[], object], times: int = 4, repeats: int = 5) -> float:
    """Of the device alone, a call: the launches queue behind a wait. Median."""
    call()
    found = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        torch.cuda._sleep(QUEUED_CYCLES)
        begin.record()
        for _ in range(times):
            call()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / times)
    return float(np.median(found))


def timings(sources: list[np.ndarray], repeats: int, device: torch.device) -> None:
    """The deit policy at 224, a block of 64 pictures, R = repeats views of each."""
    policy = load_policy("deit")
    renderer = Renderer(policy, device)
    block = decoded_block([sources[number % len(sources)] for number in range(64)])
    views = list(range(repeats))
    num = 64 * repeats
    renderer.prepare(equality.SEED, [block], views)  # weights of all sizes are made
    began = time.perf_counter()
    batch = renderer.prepare(equality.SEED, [block], views)
    host = time.perf_counter() - began
    began = time.perf_counter()
    uploaded = renderer.upload(batch)
    torch.cuda.synchronize()
    upload = time.perf_counter() - began
    sizes = [batch.pictures.nbytes / num / 1e3, batch.plan.num_bytes / num / 1e3]
    say(
        f"R = {repeats}: host {1e6 * host / num:.0f} us a view to draw, cut, plan, pack; upload {1e3 * upload:.2f} ms "
        f"({sizes[0]:.0f} kB of picture and {sizes[1]:.1f} kB of entries a view)"
    )
    took = milliseconds(lambda: renderer.render(batch.plan, *uploaded))
    say(f"R = {repeats}: kernels {took:.3f} ms for {num} views = {1e3 * num / took:,.0f} views/s")
    rendered = renderer.render(batch.plan, *uploaded)
    hashed = milliseconds(lambda: renderer.digests(rendered))
    say(f"R = {repeats}: digests {hashed:.3f} ms = {1e3 * num / hashed:,.0f} views/s")
    began = time.perf_counter()
    for _ in range(10):
        renderer.render(batch.plan, *uploaded)
    launching = (time.perf_counter() - began) / 10
    torch.cuda.synchronize()
    say(f"R = {repeats}: the host launches a batch's kernels in {1e3 * launching:.2f} ms")
    by_kernel(renderer, batch, uploaded, num, repeats)
    captured(renderer, batch, uploaded, num, repeats)


def by_kernel(
    renderer: Renderer, batch: Batch, uploaded: tuple[torch.Tensor, torch.Tensor], num: int, repeats: int
) -> None:
    """Microseconds a view, median of five."""
    launch, totals = renderer._launch, []

    for _ in range(5):
        marks = []

        def marked(plan: RenderPlan, entries: Entries, memory: object, marks: list = marks) -> None:
            before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            before.record()
            launch(plan, entries, memory)
            after.record()
            marks.append((entries.kernel, before, after))

        torch.cuda.synchronize()
        torch.cuda._sleep(QUEUED_CYCLES)
        with mock.patch.object(renderer, "_launch", marked):
            renderer.render(batch.plan, *uploaded)
        torch.cuda.synchronize()
        total: dict[str, float] = {}
        for name, before, after in marks:
            total[name] = total.get(name, 0.0) + before.elapsed_time(after)
        totals.append(total)
    shares = {name: 1e3 * float(np.median([total[name] for total in totals])) / num for name in totals[0]}
    say(f"R = {repeats}: us a view by kernel: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))


def captured(
    renderer: Renderer, batch: Batch, uploaded: tuple[torch.Tensor, torch.Tensor], num: int, repeats: int
) -> None:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            renderer.render(batch.plan, *uploaded)
    except RuntimeError as error:
        say(f"R = {repeats}: no CUDA graph of it: {error}")
        return
    took = milliseconds(graph.replay)
    say(f"R = {repeats}: the same as a CUDA graph {took:.3f} ms = {1e3 * num / took:,.0f} views/s")


def drift_is_told(sources: list[np.ndarray], device: torch.device) -> int:
    """One level of one picture changed moves the digest of every view that shows it."""
    policy = load_policy("none", ["size=32"])
    changed = [pixels.copy() for pixels in sources[:3]]
    changed[1] //= 2
    before, after = (
        render_blocks(Renderer(policy, device), equality.SEED, [decoded_block(each)], [0]).digests[0, 0]
        for each in (sources[:3], changed)
    )
    replayed = replay_view(policy, equality.SEED, decoded_block(changed), 0).digest
    say(f"{'EQUAL  ' if before != after == replayed else 'UNEQUAL'} a changed picture moves the digest as on the CPU")
    return int(not before != after == replayed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="few and small views, and no timings")
    parser.add_argument("--seconds", type=float, default=200, help="begin nothing further after so many")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() and not asked.small else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "interpreter"
    say(f"{name}, torch {torch.__version__}, Triton {triton.__version__}, Python {platform.python_version()}")
    small, unequal = asked.small, 0
    sources = equality.pictures(4, 40, 50) if small else equality.pictures(32, 390, 480)
    views = {"deit": 1, "others": 1} if small else {"deit": 6, "others": 2}
    size = (24, 32) if small else (224, 224)
    unequal += bytes_at(size, sources, 4 if small else 32, device)
    unequal += bytes_of_policies(size, sources, views, device)
    if device.type == "cuda":
        for repeats in (3, 16):
            timings(sources, repeats, device)
    unequal += show(on_device.hashes(device))
    unequal += drift_is_told(sources, device)
    for size in ((16, 16), (7, 5)) if small else ((32, 32), (23, 37), (384, 384)):
        if time.perf_counter() - BEGAN < asked.seconds:
            unequal += bytes_of_policies(size, sources[:6], {"others": 1}, device)
    say("all bytes are equal" if not unequal else f"{unequal} comparisons were UNEQUAL")
    raise SystemExit(unequal > 0)


if __name__ == "__main__":
    main()
