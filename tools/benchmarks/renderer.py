"""What the renderer costs the device: its kernels alone, and its share of a device that trains a student beside it."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from teacher_cache.messages.shown import counted
from teacher_cache.rendering.crew import AT_ONCE_BYTES
from teacher_cache.replay import BLOCK_SAMPLES
from teacher_cache.replay.block import decode_block
from teacher_cache.replay.policy import load_policy
from tools.benchmarks.rendering import SEED, as_blocks, photographs
from tools.benchmarks.row import Bench, Measurement, UnavailableError, now_s

LAUNCHES = 10  # of a turn


def kernels_rate(bench: Bench, repeats: int) -> Measurement:
    """Views a second of DeiT's whole policy, mixed and erased, of as many whole blocks as a device renders at once;
    their pictures and plan lie on the device."""
    device, images = bench.device, photographs(bench)
    renderer = open_renderer(bench)
    num_blocks = blocks_at_once(repeats, bench.scale.view_px)
    num_views = num_blocks * BLOCK_SAMPLES * repeats
    blocks = as_blocks([images[number % len(images)] for number in range(num_blocks * BLOCK_SAMPLES)])
    batch = renderer.prepare(SEED, [decode_block(block) for block in blocks], list(range(repeats)))
    uploaded = renderer.upload(batch)
    renderer.render(batch.plan, *uploaded)  # kernels are compiled

    def rate(turn: int) -> float:
        started = now_s(device)
        for _ in range(LAUNCHES):
            renderer.render(batch.plan, *uploaded)
        return LAUNCHES * num_views / (now_s(device) - started)

    found, _ = bench.turns(rate, None)
    blocks_said = counted(num_blocks, "block")
    return Measurement(
        found, note=f"{blocks_said} of {BLOCK_SAMPLES} pictures, R = {repeats}; launches are in it, digests not"
    )


def blocks_at_once(repeats: int, view_px: int) -> int:
    """Whole blocks of so many views of each picture, view_px square, that a device renders at once; at least one."""
    return max(1, AT_ONCE_BYTES // (BLOCK_SAMPLES * repeats * 3 * view_px**2))


def open_renderer(bench: Bench) -> Any:
    """UnavailableError where there is no Triton or no CUDA device."""
    if bench.device.type != "cuda":
        raise UnavailableError("no CUDA device is here: the CPU renders")
    if importlib.util.find_spec("triton") is None:
        raise UnavailableError("Triton is not installed: pip install triton, or torch for CUDA, which brings it")
    from teacher_cache.replay.gpu.render import Renderer

    return Renderer(load_policy("deit", [f"size={bench.scale.view_px}"]), bench.device)


def kernel_names() -> frozenset[str]:
    """Of all kernels that render or hash; none where there is no Triton."""
    if importlib.util.find_spec("triton") is None:
        return frozenset()
    from teacher_cache.replay.gpu import hash_kernels, kernels

    return frozenset(
        name for module in (kernels, hash_kernels) for name, found in vars(module).items() if is_kernel(found)
    )


def is_kernel(found: object) -> bool:
    from triton.runtime.jit import KernelInterface

    return isinstance(found, KernelInterface)


def renderers_share(device: torch.device, work: Callable[[], object]) -> float:
    """The share of a work's time in which the device renders. UnavailableError where no kernel of the renderer ran."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        started = now_s(device)
        work()
        seconds = now_s(device) - started
    taken = {event.key: event.device_time_total * 1e-6 for event in profiled.key_averages()}
    return share_of(taken, kernel_names(), seconds)


def share_of(taken: Mapping[str, float], names: frozenset[str], seconds: float) -> float:
    """taken: seconds by kernel's name."""
    rendering = [taken[name] for name in names & taken.keys()]
    if not rendering:
        raise UnavailableError("no kernel of the renderer ran: the CPU renders")
    return sum(rendering) / seconds
