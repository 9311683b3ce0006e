"""What has to be run for a row, and that rows share it."""

from collections import Counter

import pytest

from tools.evidence.plan import Plan, RowPlan, make_plan
from tools.evidence.settings import load_settings


@pytest.fixture(scope="module", params=["small", "full"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return make_plan(load_settings(request.param))


def row_of(plan: Plan, experiment: str, arm: str, seed: int | None = 0) -> RowPlan:
    (found,) = [row for row in plan.rows if (row.experiment, row.arm, row.seed) == (experiment, arm, seed)]
    return found


def test_there_is_a_row_for_each_arm_and_seed_and_one_for_each_teacher(plan: Plan) -> None:
    counts = Counter((row.experiment, row.arm) for row in plan.rows)
    for name, experiment in plan.settings.experiments.items():
        for arm in experiment.arms:
            assert counts.pop((name, arm)) == len(plan.settings.seeds)
        for teacher in experiment.teachers:
            assert counts.pop((name, f"teacher {teacher}")) == 1
    assert not counts


def test_what_a_step_needs_comes_before_it_and_names_what_it_reads(plan: Plan) -> None:
    for name, step in plan.steps.items():
        order = plan.needed(name)
        assert order[-1] == name
        made: set[str] = set()
        for each in order:
            assert made.issuperset(plan.steps[each].needs)
            made.add(each)
        read = [word for word in step.words if word.startswith("$OUT/")]
        for word in read:
            kind, thing = word.removeprefix("$OUT/").split("/")[:2]
            assert any(each.startswith(f"{kind}/{thing}/") for each in order), (name, word)


def test_a_student_that_distils_waits_for_its_stores_labels_and_another_does_not(plan: Plan) -> None:
    store = plan.settings.students["none"].store
    none, token = (plan.steps[f"students/{name}-seed1/train"] for name in ("none", "token"))
    assert none.needs == (f"stores/{store}/index",)
    assert token.needs == (f"stores/{store}/fill",)
    assert f"students/{plan.settings.stores[store].teacher}" not in token.command
    online = plan.steps["students/token-online-seed1/train"]
    teacher = plan.settings.stores[store].teacher
    assert f"--checkpoint $OUT/teachers/{teacher}/checkpoint.pt" in online.command
    assert online.estimate_s > token.estimate_s > none.estimate_s / 2


def test_students_of_one_recipe_are_known_by_their_own_settings() -> None:
    settings = load_settings("small")
    token = settings.students["token"]
    other = token.model_copy(update={"set": (*token.set, "distill=none")})
    plan = make_plan(settings.model_copy(update={"students": {**settings.students, "none": other}}))
    found = [plan.steps[f"students/{name}-seed0/train"].needs for name in ("none", "token")]
    assert found == [(f"stores/{token.store}/index",), (f"stores/{token.store}/fill",)]


def test_experiments_share_trainings(plan: Plan) -> None:
    trained = {row_of(plan, "teachers", "by the convnet").train, row_of(plan, "table-3", "hard with token").train}
    trained |= {row_of(plan, "cached-is-online", "cached").train, row_of(plan, "naive", "ours").train}
    assert trained == {"students/token-seed0/train"}
    once = row_of(plan, "naive", "one view for all epochs")
    assert once.train == row_of(plan, "views", next(iter(plan.settings.experiments["views"].arms))).train
    assert once.views == 1


def test_a_row_says_how_many_views_are_in_use(plan: Plan) -> None:
    epochs = plan.settings.students["token"].epochs
    assert row_of(plan, "naive", "ours").views == epochs
    assert row_of(plan, "naive", "labels before mixing").views == epochs
    for name, experiment in plan.settings.experiments.items():
        for curve in experiment.curves if name == "views" else ():
            assert [row_of(plan, name, arm).views for arm in curve.arms] == list(curve.at)


def test_who_is_not_taught_has_no_teacher_beside_it(plan: Plan) -> None:
    teacher = plan.settings.stores[plan.settings.students["none"].store].teacher
    assert row_of(plan, "table-3", "none").teacher is None
    for arm in ("soft", "hard without token", "hard with token"):
        assert row_of(plan, "table-3", arm).teacher == f"teachers/{teacher}/evaluate"
    assert row_of(plan, "naive", "one label an image").teacher == f"teachers/{teacher}/evaluate"
    assert row_of(plan, "teachers", "by the transformer").teacher == "teachers/transformer/evaluate"
    assert row_of(plan, "teachers", "teacher transformer", None).teacher is None


def test_commands_name_no_folder_of_anybodys_and_seeds_alone_tell_seeds_apart(plan: Plan) -> None:
    for step in plan.steps.values():
        assert not any(word.startswith(("/", "~")) for word in step.words)
    one, two = (plan.steps[f"students/token-seed{seed}/train"] for seed in (1, 2))
    assert one.command.replace("seed=1", "seed=2").replace("-seed1", "-seed2") == two.command
    assert one.like == two.like


def test_another_device_is_the_same_step_and_other_settings_are_not() -> None:
    settings = load_settings("small")
    here, there = make_plan(settings), make_plan(settings, "cuda")
    for name, step in here.steps.items():
        assert step.is_done_by(there.steps[name].command)
        assert there.steps[name].is_done_by(step.command)
        assert not step.is_done_by(step.command.replace("$OUT", "$OUT/elsewhere"))
    one, two = (here.steps[f"students/token-{views}-seed0/train"] for views in ("1-view", "16-views"))
    assert not one.is_done_by(two.command)
    assert not one.is_done_by(two.command.replace("16-views", "1-view"))
    train = here.steps["students/token-seed0/train"]
    assert not train.is_done_by(f"{train.command} --on-drift warn".replace("--workers", "--allow-policy --workers"))


def test_of_a_setting_that_is_given_twice_the_last_counts() -> None:
    plan = make_plan(load_settings("full"))
    words = plan.steps["students/sgd-seed0/train"].words
    assert sum(word.startswith("lr=") for word in words) == 1
    assert "lr=0.1" in words
