"""Which names of models a file may say, and which the person who runs the program says."""

from pathlib import Path

import pytest

from teacher_cache.errors import CheckpointError, TeacherError
from teacher_cache.teacher.names import (
    LONGEST_NAME,
    OWN_MODELS,
    GivenModel,
    check_usable,
    is_timm_name,
    is_usable,
    without_folder,
)

CODE = ("models.py:net", "package.module:net", "hf-hub:timm/resnet10t", "hf_hub:a/b", "local-dir:/data/model")


@pytest.mark.parametrize("name", CODE)
def test_code_and_places_to_fetch_from_are_the_persons_alone(name: str) -> None:
    assert not is_usable(name)
    assert is_usable(GivenModel(name))
    assert check_usable(GivenModel(name), "f.toml", "--model", TeacherError) == name
    with pytest.raises(CheckpointError) as refused:
        check_usable(name, "c.pt", "--model", CheckpointError)
    assert str(refused.value).startswith(f"c.pt asks for the model '{name}': only the command line names code")
    assert str(refused.value).endswith(f"add --model {name} if you trust it")


@pytest.mark.parametrize("name", [*OWN_MODELS, "resnet10t", "deit_tiny_patch16_224.fb_in1k"])
def test_a_file_may_name_models_of_timm_and_our_own(name: str) -> None:
    assert check_usable(name, "f.toml", "--model", TeacherError) == name


def test_a_name_is_offered_as_a_shell_takes_it_and_only_if_it_can_be_read() -> None:
    with pytest.raises(TeacherError, match=r"add --teacher 'my models\.py:net; rm x' if you trust it"):
        check_usable("my models.py:net; rm x", "s", "--teacher", TeacherError)
    with pytest.raises(TeacherError, match=r"see --teacher$"):
        check_usable("m.py:" + "n" * LONGEST_NAME, "s", "--teacher", TeacherError)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("/home/me/models.py:net", "models.py:net"),
        ("local-dir:/home/me/net/", "local-dir:net"),
        ("hf_hub:owner/net", "hf_hub:owner/net"),
        ("package.module:net", "package.module:net"),
        ("regnety_160.deit_in1k", "regnety_160.deit_in1k"),
    ],
)
def test_a_name_for_people_has_no_folder(name: str, bare: str) -> None:
    assert without_folder(GivenModel(name)) == bare


def test_what_is_a_file_is_no_name_of_timms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("resnet10t", "deit_tiny_patch16_224.fb_in1k", "hf-hub:timm/resnet10t", "local-dir:/data/model"):
        assert is_timm_name(name)
    for file in ("runs/checkpoint", "absent.pt", "absent.pth.tar", "w.safetensors", "./resnet10t"):
        assert not is_timm_name(file)
    Path("resnet10t").touch()
    assert not is_timm_name("resnet10t")
