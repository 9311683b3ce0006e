"""What is wrong with a training is told all at once, before torch is imported, with what mends it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from student.cli import main
from student.faults import Fault, all_mends
from student.plan import PlanSettings, pass_blocks, plan_faults
from student.preflight import TrainRequest, find_faults, label_faults
from student.recipe import Recipe, load_recipe, relation_faults
from teacher_cache.errors import PlanError
from teacher_cache.publish import publish
from teacher_cache.settings import parse_override
from teacher_cache.store.store import Store
from teacher_cache.teacher.settings import TeacherSettings
from tests.support.bright_shards import bright_store
from tests.support.filling import fill_store
from tests.support.small_runs import ROOT, SMALL, small_recipe, student, validation_shard

THREE = ("--set", "batch_size=600", "--set", "micro_batch=100", "--set", "warmup_epochs=2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """260 samples x 4 views, filled."""
    opened = bright_store(tmp_path_factory.mktemp("filled"))
    fill_store(opened)
    return Store.open(opened.path)


def command(store: Store, out: Path, *arguments: str) -> list[str]:
    model = student("plain").removeprefix("model=")
    given = [str(store.path), "--recipe", SMALL, "--model", model, "--out", str(out)]
    return ["train", *given, "--workers", "0", "--device", "cpu", *arguments]


def mends_of(output: str) -> list[str]:
    return output.splitlines()[-1].partition("are mended by: ")[2].split()


def test_everything_is_told_at_once_a_line_each(store: Store, tmp_path: Path) -> None:
    absent = str(tmp_path / "nothing.tar")
    told = CliRunner().invoke(
        main, command(store, tmp_path / "run", *THREE, "--set", "repeats=9", "--views-used", "8", "--val", absent)
    )
    assert told.exit_code == 1
    lines = told.output.splitlines()
    starts = (
        "error: --val: ",
        "error: --views-used 8 is not within the store's 1 to 4: --views-used 4, or",
        "error: 9 repeats need as many views of a sample, 4 views are in use: --set repeats=4, or",
        "error: an epoch has 260 views (260 samples), less than one global batch of 600: --set batch_size=32",
        "error: warmup_epochs is 2, training has 2 epochs: --set warmup_epochs=0",
        "error: micro_batch is 100, which does not divide the batch_size of 32: --set micro_batch=32",
        "all but 1 of these are mended by: --views-used 4 --set repeats=4 --set batch_size=32 ",
    )
    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        THREE,
        ("--set", "repeats=5", "--set", "batch_size=1024", "--views-used", "9"),
        ("--set", "lr_batch=512", "--set", "lr=5e-4", "--set", "batch_size=512", "--set", "micro_batch=7"),
        ("--set", "policy=deit", "--set", "batch_size=300", "--set", "epochs=1", "--set", "warmup_epochs=5"),
    ],
)
def test_the_offers_together_train(store: Store, tmp_path: Path, wrong: tuple[str, ...]) -> None:
    told = CliRunner().invoke(main, command(store, tmp_path / "run", *wrong))
    assert told.exit_code == 1
    mends = mends_of(told.output)
    assert mends, told.output
    views = ["--views-used"] if "--views-used" in mends else []
    kept = list(wrong[: wrong.index("--views-used")] if views and "--views-used" in wrong else wrong)
    trained = CliRunner().invoke(main, command(store, tmp_path / "run", *kept, *mends))
    assert trained.exit_code == 0, trained.output
    assert (tmp_path / "run" / "results.json").exists()


def test_torch_is_not_imported_to_say_so(store: Store, tmp_path: Path) -> None:
    commands = [
        command(store, tmp_path / "run", *THREE),
        ["finetune", "absent.pt", *command(store, tmp_path / "run", *THREE)[1:]],
        ["train", "--recipe", "deit_tny", str(store.path), "--out", "x"],
        ["train", "--recipe", "deit_tiny", str(tmp_path), "--out", "x"],
    ]
    script = f"""
import sys
from student.cli import main
for words in {commands}:
    print("then", file=sys.stderr)
    try:
        main(words)
    except SystemExit as end:
        print(end.code, sorted({{'torch', 'timm', 'torchvision'}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "1 []\n" * 4, done.stderr
    assert [told.startswith("error: ") for told in done.stderr.split("then\n")[1:]] == [True] * 4


def test_one_fault_is_one_line(store: Store, tmp_path: Path) -> None:
    told = CliRunner().invoke(main, command(store, tmp_path / "run", "--set", "batch_size=600"))
    assert told.output.count("\n") == 1
    assert told.output.endswith("less than one global batch of 600: --set batch_size=32\n")


def test_a_rank_that_is_not_the_first_of_its_machine_is_silent(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    told = CliRunner().invoke(main, command(store, tmp_path / "run", *THREE))
    assert (told.exit_code, told.output) == (1, "")


def test_views_that_are_labelled_are_offered(tmp_path: Path) -> None:
    partly = bright_store(tmp_path)
    fill_store(partly, views=range(2))
    (fault,) = label_faults(partly, range(4), repeats=2)
    assert fault.mend == ("--views-used", "2")
    assert "520 of 1,040 labels that the plan needs are missing" in str(fault)
    (fault,) = label_faults(partly, range(4), repeats=3)
    assert fault.mend == ()
    assert list(label_faults(partly, range(2), repeats=2)) == []
    publish(partly, str(tmp_path / "published"), partial=True)
    (fault,) = label_faults(Store.open(tmp_path / "published"), range(4), repeats=2)
    assert str(fault).endswith("/published/store FOLDER`, then `teacher-cache fill FOLDER --views 2:4`")


@pytest.mark.parametrize(
    ("overrides", "options", "said", "mend"),
    [
        (
            ["distill=none"],
            {"teacher": TeacherSettings("resnet10t")},
            "does not distil, but there is a --teacher",
            ("--set", "distill=hard"),
        ),
        (["distill=soft"], {}, "holds labels alone (topk 0)", ("--set", "distill=hard")),
        (["policy=deit"], {}, "expects a store of policy deit", ("--allow-policy",)),
        (["policy=deit"], {"allow_policy": True}, "", ()),
        ([], {"resolution": (16, 8)}, "--resolution is 16 x 8", ("--resolution", "8x8")),
        (["model=none"], {}, "names no model", ()),
        (["model=none"], {"checkpoint": "resnet10t"}, "", ()),
        ([], {"out": Path(__file__)}, "is a file, where the run's folder shall be", ()),
    ],
)
def test_each_rule(
    store: Store, tmp_path: Path, overrides: list[str], options: dict[str, Any], said: str, mend: tuple[str, ...]
) -> None:
    found = find_faults(
        store,
        load_recipe(SMALL, [student("plain"), *overrides], loose=True),
        TrainRequest(**{"out": tmp_path / "run", **options}),
    )
    assert len(found) == bool(said), found
    if said:
        assert said in str(found[0])
        assert found[0].mend == mend


def test_a_run_does_not_lie_in_a_store(store: Store) -> None:
    place = Path(str(store.path))
    for out, found in ((place, "is a store of labels"), (place / "run", f"lies in the store {place}")):
        (fault,) = find_faults(store, small_recipe(), TrainRequest(out))
        assert str(fault) == f"{out} {found}, where nothing else may be: choose another --out"


def test_a_shard_that_is_not_there_is_missed_before_a_training_begins(tmp_path: Path) -> None:
    store = bright_store(tmp_path)
    fill_store(store)
    paths = [entry.path for entry in store.index.shards]
    Path(paths[-1]).rename(tmp_path / "elsewhere.tar")
    (fault,) = find_faults(store, small_recipe(), TrainRequest(tmp_path / "run"))
    assert str(fault) == (
        f"1 of {len(paths)} shards is not where the store says; the first is {paths[-1]} (No such file or directory): "
        "put the indexed file back, give its place with --shards, or index again"
    )
    Path(paths[-1]).write_bytes(b"other")
    (fault,) = find_faults(store, small_recipe(), TrainRequest(tmp_path / "run"))
    assert re.search(
        r"has 5 bytes, the index says [\d,]+: it is another file than was indexed; put the indexed", str(fault)
    )


def test_what_one_mend_offers_is_taken_up_by_the_next_rule(store: Store, tmp_path: Path) -> None:
    """Labels are looked for in the views that the first mend leaves in use, which are all there."""
    (fault,) = find_faults(store, small_recipe("epochs=16"), TrainRequest(tmp_path / "run", views_in_use=8))
    assert fault.mend == ("--views-used", "4")


def test_validation_shards_of_other_classes(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe()
    own = validation_shard(tmp_path / "own" / "val.tar", 3, list(store.class_names))
    assert find_faults(store, recipe, TrainRequest(tmp_path / "run", (own,))) == []
    other = validation_shard(tmp_path / "other" / "val.tar", 3, ["cat", *store.class_names[1:]])
    (fault,) = find_faults(store, recipe, TrainRequest(tmp_path / "run", (other,)))
    assert "class 0 is cat there and 0 here" in str(fault)


# No range is so wide that a mend could not be: the property is that what is offered is enough.
@given(
    num_samples=st.integers(1, 400),
    batch=st.integers(1, 2000),
    repeats=st.integers(1, 12),
    views=st.integers(0, 12),
    world_size=st.integers(1, 9),
)
def test_a_mended_plan_can_be_planned(num_samples: int, batch: int, repeats: int, views: int, world_size: int) -> None:
    plan = PlanSettings(
        seed=0,
        batch_size=batch,
        world_size=world_size,
        rank=0,
        repeats=repeats,
        order="apart",
        views_in_use=views,
        pool_batches=2,
    )
    found = list(plan_faults(plan, num_samples, 8, "STORE"))
    if any(not fault.mend for fault in found):
        fewest = min(repeats, views if 1 <= views <= 8 else 8, num_samples)
        assert num_samples // fewest * fewest < world_size
        return
    assert list(plan_faults(_with(plan, found), num_samples, 8, "STORE")) == []
    assert bool(found) == (
        not 1 <= views <= 8 or repeats > min(views, num_samples) or batch % world_size > 0
        or pass_blocks(np.array([num_samples])).num_samples // repeats * repeats < batch
    )  # fmt: skip


def _with(plan: PlanSettings, faults: list[Fault]) -> PlanSettings:
    words = all_mends(faults)
    for option, value in zip(words[::2], words[1::2], strict=True):
        key, number = ("views_in_use", int(value)) if option == "--views-used" else parse_override(value, PlanError)
        plan = replace(plan, **{key: number})
    return plan


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    epochs=st.integers(1, 30),
    warmup=st.integers(0, 40),
    batch=st.integers(1, 300),
    micro=st.integers(1, 300),
    lr=st.floats(1e-9, 10),
    min_lr=st.just(0.0) | st.floats(1e-9, 10),
    lr_batch=st.none() | st.integers(1, 1024),
)
def test_a_mended_recipe_is_one(
    epochs: int, warmup: int, batch: int, micro: int, lr: float, min_lr: float, lr_batch: int | None
) -> None:
    numbers = {"epochs": epochs, "warmup_epochs": warmup, "batch_size": batch, "micro_batch": micro, "lr": lr}
    numbers |= {"min_lr": min_lr, "lr_batch": "none" if lr_batch is None else lr_batch}
    overrides = [student("plain"), *(f"{name}={value}" for name, value in numbers.items())]
    loose = load_recipe(SMALL, overrides, loose=True)
    mends = all_mends(relation_faults(loose))[1::2]
    assert isinstance(load_recipe(SMALL, [*overrides, *mends]), Recipe)
