"""How much memory there is, and what lacks."""

import os
from pathlib import Path

import pytest

from teacher_cache.processes import memory
from teacher_cache.processes.memory import available_memory, memory_lacking


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A system of 64 GB available, whose control groups are these files under /sys/fs/cgroup."""
    known = {"proc/meminfo": "MemTotal: 99999999 kB\nMemAvailable: 64000000 kB\n", "proc/self/cgroup": groups}
    for name, text in {**known, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(place: str, limit: str, used: int, of_files: tuple[int, int] = (0, 0), *, version: int = 2) -> dict[str, str]:
    inactive, active = of_files
    if version == 2:
        statistics = f"anon {used}\ninactive_file {inactive}\nactive_file {active}\n"
        return {
            f"{place}memory.max": f"{limit}\n",
            f"{place}memory.current": f"{used}\n",
            f"{place}memory.stat": statistics,
        }
    statistics = f"cache 1\ninactive_file 1\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n"
    return {
        f"memory/{place}memory.limit_in_bytes": f"{limit}\n",
        f"memory/{place}memory.usage_in_bytes": f"{used}\n",
        f"memory/{place}memory.stat": statistics,
    }


def test_the_system_says_how_much_there_is() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = available_memory()
    assert available is not None
    assert 0 < available <= total


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 64_000_000 * 1024),
        ("", {}, 64_000_000 * 1024),
        ("0::/\n", group("", "max", 5000), 64_000_000 * 1024),
        ("0::/\n", group("", "9000", 5000), 4000),
        ("0::/\n", group("", "9000", 5000, (1000, 200)), 5200),
        ("0::/\n", group("", "9000", 9500), 0),
        ("0::/\n", group("", "9000", 5000, (1000, 200)) | {"memory.stat": "anon 1\n"}, 4000),
        # of a job's step, whose job is limited; of one whose own limit is less
        ("0::/job/step\n", {**group("job/", "9000", 5000), **group("job/step/", "max", 4000)}, 4000),
        ("0::/job/step\n", {**group("job/", "9000", 5000), **group("job/step/", "5000", 3000)}, 2000),
        # in a container that does not see the host's folders
        ("0::/kubepods/pod\n", group("", "9000", 5000), 4000),
        ("8:pids:/\n4:memory:/docker/a\n0::/\n", group("", "9000", 5000, (0, 300), version=1), 4300),
        ("4:memory:/job\n0::/\n", group("job/", "9000", 5000, version=1), 4000),
        ("4:cpu,memory:/\n", group("", str(2**63 - 4096), 5000, version=1), 64_000_000 * 1024),
        ("4:cpu:/a\n", group("a/", "9000", 5000, version=1), 64_000_000 * 1024),
    ],
)
def test_what_a_container_or_job_may_take_counts(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert available_memory(system(tmp_path, groups, files)) == expected


def test_lacking_is_one_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000_000)
    assert memory_lacking(2_000_000_000, "the pool") is None
    said = "the pool needs 2.5 GB of memory in this rank, 2.0 GB are available"
    assert memory_lacking(2_500_000_000, "the pool") == said


def test_every_rank_of_the_machine_takes_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000_000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_lacking(500_000_000, "the pool") is None
    said = "the pool needs 0.6 GB of memory in each of 4 ranks here, 2.0 GB are available to all of them"
    assert memory_lacking(600_000_000, "the pool") == said
    assert memory_lacking(600_000_000, "the pool", in_each_rank=False) is None


def test_nothing_lacks_where_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert memory_lacking(10**18, "the pool") is None
