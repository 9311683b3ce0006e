"""Settings in files and in `--set`: whatever stands there, plain values or one line of an error."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from student.real import read_entries
from student.recipe import Recipe, load_recipe
from teacher_cache.errors import PolicyError, RecipeError, ShardError, TeacherCacheError
from teacher_cache.replay.policy import load_policy
from teacher_cache.settings import MAX_NESTING, check_plain, parse_json, parse_override, read_json
from teacher_cache.shards.classes import read_class_names

BAD_TOML: dict[str, bytes] = {
    "deep": b"model_args = " + b"[" * 5000 + b"]" * 5000,
    "deep table": b"[" + b".".join([b"a"] * 500) + b"]",
    "unclosed": b"x = " + b"[" * 3000,
    "huge integer": b"epochs = " + b"9" * 5000,
    "large integer": b"epochs = " + b"9" * 30,
    "infinite": b"lr = inf",
    "not a number": b"lr = nan",
    "no text": b"\xff\xfe",
    "NUL": b"epochs = \0",
    "too long": b"#" * 100_000,
    "not TOML": b"epochs: 3",
}


def one_line(error: TeacherCacheError, *, names: str = "") -> None:
    assert len(str(error)) < 1200
    assert "\n" not in str(error)
    assert names in str(error)


def test_a_folder_is_no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of shards, for instance, that has the word in its name that somebody took for a recipe's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "a file").touch()
    with pytest.raises(RecipeError, match=r"no recipe 'digits', neither .* one: did you mean 'digits_"):
        load_recipe("digits")
    with pytest.raises(RecipeError, match=r"no recipe 'a file/deit', neither a file nor a shipped one"):
        load_recipe("a file/deit")


@pytest.mark.parametrize("bad", BAD_TOML)
@pytest.mark.parametrize(("load", "kind"), [(load_recipe, RecipeError), (load_policy, PolicyError)])
def test_bad_toml_ends_in_one_line(tmp_path: Path, load: Callable[[str], Any], kind: Any, bad: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(BAD_TOML[bad])
    with pytest.raises(kind, match=r"bad\.toml cannot be read: ") as refused:
        load(str(path))
    one_line(refused.value)


@pytest.mark.parametrize("place", ["a\0b", "", ".", "x" * 5000, "\ud800"])
@pytest.mark.parametrize(("load", "kind"), [(load_recipe, RecipeError), (load_policy, PolicyError)])
def test_names_that_are_no_files(load: Callable[[str], Any], kind: Any, place: str) -> None:
    with pytest.raises(kind) as refused:
        load(place)
    one_line(refused.value)


def test_a_base_that_is_no_file(tmp_path: Path) -> None:
    for base in (r"a\u0000b", str(tmp_path), "x" * 5000):
        (tmp_path / "r.toml").write_text(f'base = "{base}"\n')
        with pytest.raises(RecipeError) as refused:
            load_recipe(str(tmp_path / "r.toml"))
        one_line(refused.value)


@pytest.mark.parametrize(
    "override",
    [
        "lr=1e999",
        "lr=nan",
        "epochs=" + "9" * 5000,
        "model_args=" + "[" * 2000,
        "model_args=" + "[" * 40 + "]" * 40,
        "epochs=1000000000000000000",
        "batch_size=1000000000000000000",
        "repeats=100000000000",
        "seed=" + "9" * 19,
        "pool_batches=100000000000",
        "warmup_epochs=10000000000",
        "a." * 200 + "b=1",
        "x" * 200000,
        "=" + "x" * 9999,
        "model_args={a=" * 40 + "1" + "}" * 40,
        "lr='" + "y" * 70000 + "'",
        "epochs=1979-05-27",
        "name=\x00\x1b[31m=",
        "",
    ],
)
def test_impossible_overrides_end_in_one_line(override: str) -> None:
    if override.startswith("name="):
        assert load_recipe("deit_tiny", [override]).name == override.removeprefix("name=")
        return
    with pytest.raises(RecipeError) as refused:
        load_recipe("deit_tiny", [override])
    one_line(refused.value)


@pytest.mark.parametrize(
    "override",
    [
        "size=1000000000000000000000000000000",
        "size=1e999",
        "mean=[nan,0,0]",
        "rand_augment.num_ops=1000000000000",
        "erase.count=1000000000000",
        "size=[" + "9" * 5000 + ",8]",
        "rand_augment.magnitude_std=1e308",
    ],
)
def test_impossible_policies_end_in_one_line(override: str) -> None:
    with pytest.raises(PolicyError) as refused:
        load_policy("deit", [override])
    one_line(refused.value)


def test_a_word_for_a_section_is_answered_with_the_sections_settings() -> None:
    with pytest.raises(PolicyError) as refused:
        load_policy("deit", ["mix=mixup"])
    wanted = "mix is a section: set mix.mixup_alpha, mix.cutmix_alpha, mix.probability and 1 more (got 'mixup')"
    assert str(refused.value) == f"policy deit: {wanted}"


@pytest.mark.parametrize(("override", "got"), [("size=32,48", "'32,48'"), ("mean=0.5", "0.5"), ("crop.scale=", "''")])
def test_what_is_no_list_is_told_to_be_one(override: str, got: str) -> None:
    with pytest.raises(PolicyError) as refused:
        load_policy("deit", [override])
    name = override.partition("=")[0]
    assert str(refused.value) == f"policy deit: {name}: a list in brackets is expected, as [1, 2] (got {got})"


words = st.one_of(st.text(max_size=40), st.text("[]{}=.,\"'-+_0123456789enaif#\n \0", max_size=60))


@settings(max_examples=300, deadline=None)
@given(key=st.one_of(st.sampled_from(sorted(Recipe.model_fields)), words), text=words)
def test_any_override_is_taken_or_refused(key: str, text: str) -> None:
    for load in (load_recipe, load_policy):
        try:
            load("deit_tiny" if load is load_recipe else "deit", [f"{key}={text}"])
        except TeacherCacheError as error:
            one_line(error)


@settings(max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=80), words.map(lambda text: text.encode(errors="surrogatepass"))))
def test_any_file_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    for read in (load_recipe, load_policy, read_class_names, read_entries):
        try:
            read(str(path))
        except TeacherCacheError as error:
            one_line(error, names="any.txt")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100000,
        "[" * 40 + "]" * 40,
        "1" * 5000,
        "9" * 20,
        "NaN",
        "[Infinity]",
        '"\\ud800"',
        '{"\\ud800": 1}',
        "1e999",
        "",
        "{",
        "ÿ",
        '{"a": ' * 40 + "1" + "}" * 40,
    ],
)
def test_bad_json_ends_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ShardError, match=r"the list bad\.json cannot be read \(.*\): give another") as refused:
        read_json(path, "the list bad.json", ShardError, "give another")
    one_line(refused.value)
    with pytest.raises(ShardError, match="cannot be read"):
        parse_json(path.read_bytes(), "the field", ShardError, "give another")
    with pytest.raises(ShardError, match=r"bad\.json"):
        read_class_names(path)


def test_json_of_a_folder_and_of_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher_cache.settings.MAX_JSON_BYTES", 100)
    (tmp_path / "long.json").write_text("[" + "1," * 60 + "1]")
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "long.json", "more than the 100 bytes")):
        with pytest.raises(ShardError, match=why):
            read_json(path, "it", ShardError, "give another")
    with pytest.raises(ShardError, match="at most 100 are read"):
        parse_json("1" * 101, "it", ShardError, "give another")
    assert read_json_of(tmp_path, '{"a": [1, 2.5, "é", null]}') == {"a": [1, 2.5, "é", None]}


def read_json_of(folder: Path, text: str) -> Any:
    (folder / "good.json").write_text(text)
    return read_json(os.fspath(folder / "good.json"), "it", ShardError, "")


def test_values_that_hold_themselves_are_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match=f"nests deeper than {MAX_NESTING}"):
        check_plain({"a": circle})
    for value, why in ((object(), "a object, which no settings"), ({3: 1}, "a int for a name"), ({1, 2}, "a set")):
        with pytest.raises(ValueError, match=why):
            check_plain({"a": value})


def test_an_override_is_toml_or_a_bare_word() -> None:
    found = [parse_override(text, RecipeError) for text in ("a=1", "a.b = [1,2]", "a=x y", "a=none", 'a="1\n"')]
    assert found == [("a", 1), ("a.b", [1, 2]), ("a", "x y"), ("a", None), ("a", '"1\n"')]
