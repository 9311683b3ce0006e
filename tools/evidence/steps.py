"""From settings to steps: the commands of both stages, each of which is run once, and what has to end before it."""

import re
from dataclasses import dataclass
from pathlib import Path

from student.recipe import Recipe, load_recipe
from tools.evidence.settings import Settings, Store, Student

ROOT = Path(__file__).resolve().parents[2]
START_S = 12.0  # of a process, before it does anything
EVALUATES = 3.0  # times as many views a second as in training
PROGRAMS = {  # the first word of a step -> its module
    "teacher-cache": "teacher_cache",
    "student": "student",
    "evidence": "tools.evidence",
    "inspect": "tools.inspect_cache",
}
HOW = ("--workers", "--device")  # what `how` begins with


@dataclass(frozen=True)
class Step:
    """A command, run once. words hold $DATA and $OUT for the user's folders; how: options that do not change what comes
    out, but how it is run; makes: a file under $OUT that its standard output becomes, if any; estimate_s: from the
    speeds of the settings; like: steps of the same name take as long."""

    name: str
    words: tuple[str, ...]
    how: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    makes: str | None = None
    estimate_s: float = START_S
    like: str = ""

    @property
    def command(self) -> str:
        """As it is typed in a shell that knows DATA and OUT."""
        return " ".join([self._what(), *map(_quoted, self.how)])

    def is_done_by(self, command: str) -> bool:
        """Whether a command does the same, perhaps on another device."""
        what = self._what()
        return command == what or command.startswith(tuple(f"{what} {option} " for option in HOW))

    def _what(self) -> str:
        module = PROGRAMS[self.words[0]]
        shown = f"python -m {module}" if module.startswith("tools.") else self.words[0]
        return " ".join([shown, *map(_quoted, self.words[1:])])


class Steps:
    """The steps of settings, made as they are asked for, by name. device: as the commands take it.

    Methods give the names of the steps that make what they are called after.
    """

    def __init__(self, settings: Settings, device: str | None) -> None:
        self.settings = settings
        self.made: dict[str, Step] = {}
        self._recipes: dict[Student, Recipe] = {}
        self._device = ("--device", device) if device else ()
        self._rendering = ("--workers", str(settings.workers), "--render", settings.render)
        self._val = tuple(word for pattern in settings.data.val for word in ("--val", f"$DATA/{pattern}"))

    def _add(self, step: Step) -> str:
        self.made.setdefault(step.name, step)
        return step.name

    def teacher_of(self, store: str) -> str | None:
        """Whose labels a store holds, or those that it was rewritten from."""
        found = self.settings.stores[store]
        return self.settings.stores[found.of].teacher if found.of else found.teacher

    def teacher(self, name: str) -> tuple[str, str]:
        """The steps that train and evaluate a teacher."""
        teacher = self.settings.teachers[name]
        out = f"$OUT/teachers/{name}"
        words = ("student", "train", f"$OUT/stores/{teacher.store}", "--recipe", teacher.recipe)
        overrides = _overrides((*teacher.set, f"epochs={teacher.epochs}", "seed=0"))
        train = self._add(
            Step(
                f"teachers/{name}/train",
                (*words, "--model", teacher.model, *overrides, "--out", out),
                how=self._training(),
                needs=(self.index(teacher.store),),
                estimate_s=START_S + teacher.epochs * self.settings.data.samples / teacher.trains_at,
                like=f"teachers/{name}/train",
            )
        )
        return train, self._evaluation(f"teachers/{name}", out, train, teacher.trains_at, teacher.model)

    def student(self, name: str, seed: int) -> tuple[str, str]:
        """The steps that train and evaluate a student of a seed."""
        student = self.settings.students[name]
        store, folder = student.store, f"students/{name}-seed{seed}"
        needs = [self.store(store) if self.distils(student) else self.index(store)]
        words: tuple[str, ...] = ("student", "train", f"$OUT/stores/{store}")
        if student.tuned_from:
            needs.append(self.student(student.tuned_from, seed)[0])
            source = f"$OUT/students/{student.tuned_from}-seed{seed}/checkpoint.pt"
            words = ("student", "finetune", source, f"$OUT/stores/{store}")
            words += ("--reset-heads",) if student.reset_heads else ()
        named = ("--model", student.model) if student.model else ()
        overrides = _overrides((*student.set, f"epochs={student.epochs}", f"seed={seed}"))
        options = ("--recipe", student.recipe, *named, *overrides)
        if student.views_used:
            options += ("--views-used", str(student.views_used))
        views = student.epochs * self.settings.data.samples
        seconds = views / student.trains_at
        teacher = self.teacher_of(store)
        if student.online and teacher:
            options += ("--teacher", self.settings.teachers[teacher].model)
            options += ("--checkpoint", f"$OUT/teachers/{teacher}/checkpoint.pt")
            seconds += views / self.settings.teachers[teacher].fills_at
        train = self._add(
            Step(
                f"{folder}/train",
                (*words, *options, "--out", f"$OUT/{folder}"),
                how=self._training(),
                needs=tuple(needs),
                estimate_s=START_S + seconds,
                like=f"students/{name}/train",
            )
        )
        return train, self._evaluation(folder, f"$OUT/{folder}", train, student.trains_at, student.model)

    def _training(self) -> tuple[str, ...]:
        return (*self._rendering, "--checkpoint-every", f"{self.settings.checkpoint_every_s:g}", *self._device)

    def _evaluation(self, folder: str, out: str, train: str, trains_at: float, model: str | None = None) -> str:
        named = ("--model", model) if model else ()
        return self._add(
            Step(
                f"{folder}/evaluate",
                ("student", "evaluate", f"{out}/checkpoint.pt", *named, *self._val, "--json"),
                how=("--workers", str(self.settings.workers), *self._device),
                needs=(train,),
                makes=f"{folder}.json",
                estimate_s=START_S + self.settings.data.samples / trains_at / EVALUATES,
                like=f"{folder.rsplit('-seed', 1)[0]}/evaluate",
            )
        )

    def index(self, name: str) -> str:
        store = self.settings.stores[name]
        out = f"$OUT/stores/{name}"
        if store.of:
            return self._add(
                Step(
                    f"stores/{name}/index",
                    ("teacher-cache", "index", "--like", f"$OUT/stores/{store.of}", "--store", out),
                    needs=(self.index(store.of),),
                )
            )
        shards = (f"$DATA/{pattern}" for pattern in self.settings.data.train)
        group = ("--group", str(store.group)) if store.group else ()
        options = ("--policy", store.policy, *_overrides(store.set), "--views", str(store.views), *group)
        return self._add(Step(f"stores/{name}/index", ("teacher-cache", "index", *shards, "--store", out, *options)))

    def store(self, name: str) -> str:
        """The step that gives a store its labels."""
        store = self.settings.stores[name]
        if store.of and store.labels and store.rewritten:
            return self._rewriting(name, store)
        if store.teacher is None:
            return self.index(name)
        teacher = self.settings.teachers[store.teacher]
        topk = ("--topk", str(store.topk)) if store.topk else ()
        tau = ("--tau", f"{store.tau:g}") if store.tau else ()
        words = ("teacher-cache", "fill", f"$OUT/stores/{name}", "--teacher", teacher.model, "--checkpoint")
        return self._add(
            Step(
                f"stores/{name}/fill",
                (*words, f"$OUT/teachers/{store.teacher}/checkpoint.pt", *topk, *tau),
                how=(*self._rendering, *self._device),
                needs=(self.index(name), self.teacher(store.teacher)[0]),
                estimate_s=START_S + store.views * self.settings.data.samples / teacher.fills_at,
                like=f"stores/{name}/fill",
            )
        )

    def _rewriting(self, name: str, store: Store) -> str:
        assert store.rewritten is not None
        assert store.of is not None
        assert store.labels is not None
        places = (f"$OUT/stores/{each}" for each in (store.of, store.labels, name))
        return self._add(
            Step(
                f"stores/{name}/rewrite",
                ("evidence", "rewrite", store.rewritten, *places),
                needs=(self.index(name), self.store(store.of), self.store(store.labels)),
            )
        )

    def status(self, store: str) -> str:
        words = ("teacher-cache", "status", f"$OUT/stores/{store}", "--json")
        return self._add(
            Step(f"stores/{store}/status", words, needs=(self.store(store),), makes=f"stores/{store}.status.json")
        )

    def audit(self, store: str) -> str:
        words = ("inspect", f"$OUT/stores/{store}", "summary", "--json")
        return self._add(
            Step(f"stores/{store}/audit", words, needs=(self.store(store),), makes=f"stores/{store}.audit.json")
        )

    def check(self, store: str) -> str:
        """The step that lets a store's teacher give a part of its labels once more."""
        teacher = self.teacher_of(store)
        assert teacher is not None, f"{store} has no teacher"
        model, share = self.settings.teachers[teacher].model, self.settings.checked_share
        words = ("evidence", "check", f"$OUT/stores/{store}", "--teacher", model, "--checkpoint")
        views = self.settings.stores[store].views * self.settings.data.samples
        return self._add(
            Step(
                f"stores/{store}/check",
                (*words, f"$OUT/teachers/{teacher}/checkpoint.pt", "--fraction", f"{share:g}"),
                how=self._device,
                needs=(self.store(store),),
                makes=f"stores/{store}.check.json",
                estimate_s=START_S + share * views / self.settings.teachers[teacher].fills_at,
            )
        )

    def distils(self, student: Student) -> bool:
        """Whether it learns from a teacher: the recipe says so, unless a setting of the student does."""
        return self.recipe_of(student).distill != "none"

    def recipe_of(self, student: Student) -> Recipe:
        """A recipe's file is named from the top of the repository, where steps are run. It is read once: every row and
        measure asks for it."""
        if student not in self._recipes:
            file = ROOT / student.recipe
            name = str(file) if file.is_file() else student.recipe
            self._recipes[student] = load_recipe(name, student.set, model=student.model)
        return self._recipes[student]


def _overrides(settings: tuple[str, ...]) -> tuple[str, ...]:
    """--set for each setting; of one that is given twice the last."""
    last = {setting.partition("=")[0]: setting for setting in settings}
    return tuple(word for setting in last.values() for word in ("--set", setting))


def _quoted(word: str) -> str:
    """In double quotes where a shell would read more than $DATA and $OUT in it."""
    if re.fullmatch(r"[\w$%+=:,./@-]+", word):
        return word
    return '"' + re.sub(r'(["\\`])', r"\\\1", word) + '"'
