"""What `student` prints around its commands: recipes, errors of one line."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from torch.distributed.run import get_args_parser

from student.cli import main
from student.recipe import load_recipe, shipped_recipes


def run(*words: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == exit_code, result.output
    return result


def test_every_recipe_that_is_listed_can_be_shown_and_read_again(tmp_path: Path) -> None:
    heading, *rows = run("recipes").output.splitlines()
    assert heading.split()[0] == "recipe"
    names = [row.split()[0] for row in rows]
    assert names == list(shipped_recipes())
    for name in names:
        shown = tmp_path / f"{name}.toml"
        shown.write_text(run("recipes", "show", name, "--set", "epochs=7").output)
        assert load_recipe(str(shown)) == load_recipe(name, ["epochs=7"])


def test_a_recipe_of_no_name_is_refused_in_a_line() -> None:
    refused = run("recipes", "show", "hard-2view", exit_code=1)
    assert refused.output.startswith("error: ")
    assert refused.output.count("\n") == 1


def test_results_of_a_folder_that_is_no_run_are_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.json").write_text(json.dumps({}))
    refused = run("results", tmp_path / "notes", exit_code=1)
    assert str(tmp_path / "notes") in refused.output.replace("\n", "")


@pytest.mark.parametrize("name", ["train", "finetune", "evaluate"])
def test_torchrun_takes_no_option_for_one_of_its_own(name: str) -> None:
    """It looks for its options behind the program's name, too, where some beginnings of theirs are errors."""
    options = [option for option in main.commands[name].params if isinstance(option, click.Option)]
    for option in options:
        assert any(map(is_left_alone, option.opts)), option.opts


def is_left_alone(option: str) -> bool:
    try:
        return get_args_parser().parse_args(["-m", "student", option]).training_script_args == [option]
    except SystemExit:
        return False


def test_a_run_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a variable of the shell that is not set."""
    monkeypatch.chdir(tmp_path)
    for words in (["train", "store"], ["finetune", "model.pt", "store"]):
        done = CliRunner().invoke(main, [*words, "--recipe", "deit_tiny", "--out", ""])
        assert done.exit_code == 2
        assert "Invalid value for '--out': it is empty" in done.output


def test_a_pool_on_a_gpu_is_asked_for_where_one_may_render(tmp_path: Path) -> None:
    """The option would do nothing, and nobody be told."""
    for words in (["train", "store"], ["finetune", "model.pt", "store"]):
        asked = [*words, "--recipe", "deit_tiny", "--out", str(tmp_path / "out"), "--device-pool", "2"]
        done = CliRunner().invoke(main, [*asked, "--render", "cpu"])
        assert done.exit_code == 2
        assert "--device-pool is of a GPU that renders: leave out --render cpu, or leave it out" in done.output
        assert CliRunner().invoke(main, asked).exit_code == 1  # there is no store
