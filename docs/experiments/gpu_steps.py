"""Where the steps of a training on a GPU spend their time: of the host by cProfile, of the device by torch's profiler.

    PYTHONPATH=. python docs/experiments/gpu_steps.py deit --shards 'photos-*.tar'     # DeiT-Ti at 224 pixels, R = 3
    PYTHONPATH=. python docs/experiments/gpu_steps.py resnet                           # ResNet-18 at 32 pixels, R = 1

First its rate, and that of the same steps on one resident batch, in turns; then where its own steps' time goes. Stores
are made in runs/gpu_steps. `--device cpu --tiny` runs every line in seconds; its figures say nothing.
"""

import argparse
import cProfile
import pstats
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from tools.benchmarks import gpu
from tools.benchmarks.renderer import kernel_names
from tools.benchmarks.row import Bench, now_s, torch_threads
from tools.benchmarks.scale import FULL, TINY
from tools.benchmarks.training import Training

TURNS, ROWS = 3, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", choices=("deit", "resnet"))
    parser.add_argument("--shards", action="append", default=[])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    bench = Bench(
        scale=TINY if asked.tiny else FULL,
        repeats=TURNS,
        scratch=Path("runs/gpu_steps").resolve(),
        shards=tuple(asked.shards),
        device=torch.device(asked.device),
    )
    with torch_threads(1):
        if asked.student == "deit":
            training, batch = deit(bench)
        else:
            training, batch = gpu.small_training(bench), bench.scale.small_batch
        steps = training.steps_within(bench.scale.gpu_turn_s)
        for turn in range(TURNS + 1):
            own, resident = batch / training.loader_s(steps), batch / training.resident_s(steps)
            if turn:
                print(f"{own:,.0f} views/s, resident {resident:,.0f}: {own / resident:.3f}", flush=True)
        profile_host(partial(training.loader_s, steps))
        profile_device(bench.device, partial(training.loader_s, steps))
        training.close()


def deit(bench: Bench) -> tuple[Training, int]:
    recipe = bench.scale.recipe
    batch = gpu.student_batch(bench, recipe)
    store = gpu.training_views(bench)
    return Training(bench, store, batch, gpu.workers(bench), recipe=recipe, repeats=3), batch


def profile_host(work: partial[float]) -> None:
    profiler = cProfile.Profile()
    profiler.runcall(work)
    for order in ("tottime", "cumtime"):
        pstats.Stats(profiler).sort_stats(order).print_stats(ROWS)


def profile_device(device: torch.device, work: partial[float]) -> None:
    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiled:
        started = now_s(device)
        work()
        seconds = now_s(device) - started
    own = kernel_names()
    taken = {event.key: event.device_time_total * 1e-6 for event in profiled.key_averages() if event.key in own}
    print(f"kernels that render or hash: {100 * sum(taken.values()) / seconds:.2f} % of {seconds:.3f} s")
    print(profiled.key_averages().table(sort_by="self_cuda_time_total", row_limit=ROWS, max_name_column_width=60))
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy = end = 0.0
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    if spans:
        print(f"the device is busy for {100 * busy / (end - spans[0][0]):.1f} % of the time")


if __name__ == "__main__":
    main()
