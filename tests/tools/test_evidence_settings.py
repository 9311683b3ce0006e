"""Settings of the evidence: what ships can be run, and what cannot be is refused by name."""

from pathlib import Path

import pytest

from student.recipe import load_recipe
from teacher_cache.replay.policy import load_policy
from tools.evidence.errors import EvidenceError
from tools.evidence.settings import load_settings, only_experiments

SCALES = ("small", "full")
LEAST = (1, 2, 3, 4, 6)  # experiments without which nothing is shown


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_has_an_entry_for_every_experiment(scale: str) -> None:
    settings = load_settings(scale)
    experiments = list(settings.experiments.values())
    assert {each.number for each in experiments} == set(range(1, 11))
    assert len(settings.seeds) >= 3
    for each in experiments:
        assert each.arms or each.crops_of or each.left_out, each.title
        if each.number in LEAST:
            assert each.arms
    order = [each.number for each in experiments]
    assert [number for number in dict.fromkeys(order) if number in LEAST] == list(LEAST)
    assert order[: len(LEAST)] == list(LEAST)


@pytest.mark.parametrize("scale", SCALES)
def test_recipes_and_policies_take_the_settings(scale: str) -> None:
    settings = load_settings(scale)
    for teacher in settings.teachers.values():
        recipe = load_recipe(teacher.recipe, (*teacher.set, f"epochs={teacher.epochs}"), model=teacher.model)
        assert recipe.distill == "none"
    for student in settings.students.values():
        recipe = load_recipe(student.recipe, (*student.set, f"epochs={student.epochs}"), model=student.model)
        assert not student.online or recipe.distill != "none"
        assert recipe.policy == settings.stores[student.store].policy
        if recipe.distill == "soft":
            store = settings.stores[student.store]
            assert store.topk
            assert store.tau == recipe.distill_tau
    for store in settings.stores.values():
        load_policy(store.policy, store.set)


def test_an_arm_is_compared_where_its_student_learns_otherwise_in_one_thing_alone() -> None:
    """Of the small scale: the arms of an experiment are of equal length, and have the same model and rate."""
    settings = load_settings("small")
    for name, experiment in settings.experiments.items():
        for comparison in experiment.comparisons:
            one, two = (settings.students[experiment.arms[arm]] for arm in comparison.arms)
            assert (one.epochs, one.set) == (two.epochs, two.set), (name, comparison.arms)


def test_a_base_gives_what_a_table_does_not_say_and_settings_add_up() -> None:
    students = load_settings("small").students
    assert students["token-1-view"].epochs == students["none"].epochs
    assert students["token-1-view"].recipe == "cifar_tiny_distilled"
    assert students["token-12-epochs-1-view"].epochs == 12
    stores = load_settings("full").stores
    assert stores["no-mix"].set == ("rand_augment=none", "rand_augment={magnitude=9,magnitude_std=0.5}", "mix=none")
    assert load_policy("cifar", stores["no-mix"].set) == load_policy("cifar", ["mix=none"])


def changed(folder: Path, *changes: tuple[str, str]) -> str:
    """The small scale's file with other text in places."""
    text = Path("tools/evidence/small.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "changed.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('store = "plain"', 'store = "plane"', "teachers.convnet: there is no stores.plane"),
        ('"no teacher" = "none"', '"no teacher" = "nobody"', "experiments.teachers: there is no students.nobody"),
        ('["soft", "none"], claim', '["soft", "no"], claim', "experiments.table-3 has no arm no"),
        (
            'base = "token"\nonline',
            'base = "token-online"\nonline',
            "its base token-online is not there",
        ),
        ('base = "token"\nonline', 'base = "tokens"\nonline', "students.token-online: its base tokens is not there"),
        ('rewritten = "one_label"\n', "", "rewritten, of and labels go together"),
        ('exactness = { "cached" = "online" }\n', "", "bill has cached, whose times are those of exactness"),
        ("at = [1, 2, 4, 8, 12]", "at = [1, 2, 4, 8]", "5 arms stand at 4 places"),
        ("seeds = [0", "sedes = 1\nseeds = [0", "unknown setting sedes"),
    ],
)
def test_what_is_wrong_is_told_by_name(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=message):
        load_settings(changed(tmp_path, (old, new)))


def test_only_some_experiments() -> None:
    settings = load_settings("small")
    assert list(only_experiments(settings, ["views", "naive"]).experiments) == ["views", "naive"]
    assert only_experiments(settings, []).experiments == settings.experiments
    with pytest.raises(EvidenceError, match="have no experiment crop: there are teachers, table-3, "):
        only_experiments(settings, ["crop"])
