"""What is run as evidence: teachers, stores, students, and the experiments that compare them. One TOML file a scale.

A table may name another one of its kind as its `base` and say only what differs; its `set` comes after the base's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from teacher_cache.settings import read_settings, validated
from tools.evidence.errors import EvidenceError

FOLDER = Path(__file__).parent
LOOPS = 20  # bases of bases

Count = Annotated[int, Field(strict=True, ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Speed = Annotated[float, Field(gt=0)]  # views a second, once measured where `measured_on` says
Head = Literal["class", "distill", "fused"]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Table):
    """Shards, as patterns under the folder that the command line gives, and what is said of them."""

    what: str  # for the page: "CIFAR-10, 5,000 of its 50,000 training pictures"
    train: tuple[str, ...]
    val: tuple[str, ...]
    samples: Count  # of the training shards


class Teacher(Table):
    """A trained teacher. model: as `fill --teacher` and `train --model` take it."""

    model: str
    recipe: str
    store: Name  # whose views it is trained on; no label of it is read
    epochs: Count
    set: tuple[str, ...] = ()
    trains_at: Speed
    fills_at: Speed


class Store(Table):
    """A store. teacher: who fills it, absent for one whose labels nobody reads.

    rewritten: a naive cache's labels in the place of `of`'s, the same views with the same digests: those that the
    teacher gives the whole, unaugmented picture ("one_label"), or the crop that covers most of a mixed view before it
    is mixed ("larger_crop"); `labels` is the store where these stand.
    """

    policy: str = "cifar"
    views: Count
    group: Count | None = None
    set: tuple[str, ...] = ()
    teacher: Name | None = None
    topk: Count | None = None
    tau: float | None = None
    rewritten: Literal["one_label", "larger_crop"] | None = None
    of: Name | None = None
    labels: Name | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.rewritten is None) != (self.of is None) or (self.of is None) != (self.labels is None):
            raise ValueError("rewritten, of and labels go together")
        if self.rewritten and (self.teacher or self.set or self.topk):
            raise ValueError("a rewritten store has the policy of `of` and the labels of `labels`, nothing of its own")
        return self


class Student(Table):
    """A trained student, once for each seed. model: code that takes the recipe's place, as `train --model` takes it.

    online: its store's teacher is asked while it trains, no label is read.

    tuned_from: another student, whose trained model of the same seed it starts from.
    """

    recipe: str
    store: Name
    epochs: Count
    model: str | None = None
    set: tuple[str, ...] = ()
    views_used: Count | None = None
    online: bool = False
    tuned_from: Name | None = None
    reset_heads: bool = False
    trains_at: Speed


class Comparison(Table):
    """Is the first arm better than the second? claim: what the paper, or we, say of it; said on the page beside what
    was found."""

    arms: tuple[str, str]
    heads: tuple[Head, Head] = ("fused", "fused")
    claim: Literal["better", "equal", "open"] = "open"


class Curve(Table):
    """A line of the plot: arms in order with what they are on the horizontal axis."""

    label: str
    arms: tuple[str, ...]
    at: tuple[float, ...]

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.arms) != len(self.at):
            raise ValueError(f"{len(self.arms)} arms stand at {len(self.at)} places")
        return self


class Experiment(Table):
    """Arms that are compared. arms: name on the page -> student; teachers: whose own accuracy is a row, too."""

    number: Annotated[int, Field(strict=True, ge=1, le=10)]
    title: str
    question: str
    paper: str = ""
    arms: dict[str, Name] = {}
    teachers: tuple[Name, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    curves: tuple[Curve, ...] = ()
    axis: str = ""
    exactness: dict[str, str] = {}  # arm whose losses are compared -> arm they shall equal, bit for bit
    bill: dict[str, str] = {}  # arms of one store -> the same online, in `exactness` too: the cost of all together
    bytes_of: tuple[Name, ...] = ()  # stores whose bytes a view are measured
    crops_of: tuple[Name, ...] = ()  # stores whose agreement by crop area and lambda is measured
    taught: tuple[str, ...] = ()  # arms of which is measured how often they answer as their teacher
    reasons: str = ""  # why a claim of the paper does not show, where rows tell; for the page
    left_out: str = ""  # what of the experiment has no row here, and why

    @model_validator(mode="after")
    def _timed(self) -> Self:
        if untimed := sorted(self.bill.items() - self.exactness.items()):
            raise ValueError(f"bill has {untimed[0][0]}, whose times are those of exactness: name it there too")
        return self


class Settings(Table):
    """One scale. order: the experiments' numbers as they are run."""

    name: Name
    what: str
    not_shown: str  # what rows of this scale cannot show, for the page
    measured_on: str  # where the speeds were measured that a plan begins with
    data: Data
    seeds: tuple[Annotated[int, Field(strict=True, ge=0)], ...]
    threads: Count | None = None  # torch's in each process; absent: as the commands choose
    workers: Annotated[int, Field(strict=True, ge=0)] = 2
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 60
    render: Literal["auto", "cpu", "gpu"] = "cpu"
    checked_share: Annotated[float, Field(gt=0, le=1)] = 0.1  # of an exactness experiment's labels, given once more
    teachers: dict[Name, Teacher]
    stores: dict[Name, Store]
    students: dict[Name, Student]
    experiments: dict[Name, Experiment]

    @model_validator(mode="after")
    def _named(self) -> Self:
        if faults := list(_unknown_names(self)):
            raise ValueError("; ".join(faults))
        return self


def load_settings(name_or_path: str) -> Settings:
    """A shipped scale ("small", "full") or a TOML file. EvidenceError."""
    values = read_settings(name_or_path, FOLDER, "settings of the evidence", EvidenceError)
    for kind in ("teachers", "stores", "students"):
        tables = values.get(kind)
        if isinstance(tables, dict):
            values[kind] = {name: _with_bases(tables, name, kind) for name in tables}
    return validated(Settings, values, f"settings {name_or_path}", EvidenceError)


def _with_bases(tables: Mapping[str, Any], name: str, kind: str) -> Any:
    """A table with all that its bases say and it does not."""
    chain: list[dict[str, Any]] = []
    wanted: Any = name
    while wanted is not None:
        table = tables.get(wanted) if isinstance(wanted, str) else None
        if not isinstance(table, dict) or len(chain) == LOOPS:
            raise EvidenceError(f"{kind}.{name}: its base {wanted} is not there, or based on itself: name another")
        chain.append(table)
        wanted = table.get("base")
    merged: dict[str, Any] = {}
    for table in reversed(chain):
        overrides = [*merged.get("set", ()), *table.get("set", ())]
        merged = {**merged, **table, **({"set": overrides} if overrides else {})}
    merged.pop("base", None)
    return merged


def _unknown_names(settings: Settings) -> list[str]:
    """What is named and not there."""
    named = [(f"teachers.{name}", "stores", teacher.store) for name, teacher in settings.teachers.items()]
    for name, store in settings.stores.items():
        named += [(f"stores.{name}", "teachers", store.teacher)] if store.teacher else []
        named += [(f"stores.{name}", "stores", other) for other in (store.of, store.labels) if other]
    for name, student in settings.students.items():
        named.append((f"students.{name}", "stores", student.store))
        named += [(f"students.{name}", "students", student.tuned_from)] if student.tuned_from else []
    wrong = []
    for name, experiment in settings.experiments.items():
        place = f"experiments.{name}"
        named += [(place, "students", student) for student in experiment.arms.values()]
        named += [(place, "teachers", teacher) for teacher in experiment.teachers]
        named += [(place, "stores", store) for store in (*experiment.bytes_of, *experiment.crops_of)]
        arms = [arm for comparison in experiment.comparisons for arm in comparison.arms]
        arms += [*experiment.taught, *(arm for curve in experiment.curves for arm in curve.arms)]
        arms += [arm for pair in (*experiment.exactness.items(), *experiment.bill.items()) for arm in pair]
        wrong += [f"{place} has no arm {arm}" for arm in arms if arm not in experiment.arms]
    known: dict[str, Any] = {kind: getattr(settings, kind) for kind in ("teachers", "stores", "students")}
    return wrong + [f"{place}: there is no {kind}.{name}" for place, kind, name in named if name not in known[kind]]


def only_experiments(settings: Settings, names: Sequence[str]) -> Settings:
    """The same with these experiments alone, with all where none is named. EvidenceError for one that is not there."""
    for name in names:
        if name not in settings.experiments:
            there = ", ".join(settings.experiments)
            raise EvidenceError(f"settings {settings.name} have no experiment {name}: there are {there}")
    kept = {name: each for name, each in settings.experiments.items() if not names or name in names}
    return settings.model_copy(update={"experiments": kept})
