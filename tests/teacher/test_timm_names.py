"""Names read in timm's source are those that the installed timm registers; what its source does not say, timm says."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
from timm.models import _registry as registry

from teacher_cache.errors import ModelError
from teacher_cache.teacher.models import ModelSpec, check_timm_name
from teacher_cache.teacher.timm_names import registered_models, timm_sources, unknown_model

DEPRECATED = sorted(registry._deprecated_models)
LIKELY = ("resnet10", "resnet", "vit_base", "deit_tiny", "convnext", "efficientnet", "deit_tiny_patch16_22", "regnety")


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where timm is not imported yet."""
    monkeypatch.delitem(sys.modules, "timm")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    """A timm of one's own, found before the installed one."""
    (folder / "timm/models").mkdir(parents=True)
    (folder / "timm/__init__.py").touch()
    for name, source in sources.items():
        (folder / f"timm/models/{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))


def test_the_source_names_the_models_that_are_registered_in_their_order() -> None:
    assert registered_models(timm_sources()) == timm.list_models(include_tags=False)


@pytest.mark.usefixtures("without_timm")
def test_no_model_that_timm_has_is_refused() -> None:
    assert len(DEPRECATED) > 100
    for name in [
        *timm.list_models()[::100],
        *DEPRECATED[::15],
        "tv_resnext50_32x4d",
        "resnet50.a1_in1k",
        "resnet50.no",
    ]:
        assert timm.is_model(name)
        assert unknown_model(name) is None, name


@pytest.mark.usefixtures("without_timm")
@pytest.mark.parametrize("name", [*LIKELY, "resnet10.a1_in1k", "a/b", "re(snet", "models.py"])
def test_what_is_none_of_timms_models_is_refused_in_the_words_of_timms_own_list(name: str) -> None:
    with pytest.raises(ModelError) as refused:
        check_timm_name(ModelSpec(name), "; or walk")
    assert unknown_model(name, "; or walk") == str(refused.value)
    assert name != "models.py" or "write models.py:FUNCTION" in str(refused.value)


@pytest.mark.usefixtures("without_timm")
@pytest.mark.parametrize("name", ["models.py:net", "hf-hub:timm/resnet10", "student.convnet:small_convnet"])
def test_code_and_places_to_fetch_from_are_no_names_of_timms(name: str) -> None:
    assert unknown_model(name) is None


def test_timm_is_asked_itself_where_it_is_imported() -> None:
    assert unknown_model("resnet10") is None


@pytest.mark.usefixtures("without_timm")
def test_where_the_source_says_nothing_timm_is_asked_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, net="def net():\n    pass\n")
    assert timm_sources() == ["def net():\n    pass\n"]
    assert unknown_model("resnet10") is None


@pytest.mark.usefixtures("without_timm")
def test_another_way_to_register_refuses_nothing_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = "@register_model\n@cached\ndef net9(pretrained=False):\n    pass\n"
    others = "\n@register(tags=3)\ndef net10():\n    pass\n\nold = {'net_old' : None, \"net_older\": None}\n# @x\n"
    install(tmp_path, monkeypatch, net=known + others + "# @register_model\n# def net11():\n")
    assert registered_models(timm_sources()) == ["net9"]
    assert [unknown_model(name) for name in ("net9", "net10", "net_old", "net_older")] == [None] * 4
    for name in ("net11", "net_ol"):
        assert (unknown_model(name) or "").startswith(f"timm has no model {name}: did you mean 'net9'?")


def test_timm_may_be_absent() -> None:
    code = "from teacher_cache.teacher.timm_names import timm_sources, unknown_model\n"
    script = f"{code}print(timm_sources(), unknown_model('resnet10'))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys\nsys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n{script}",
        ],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.stdout == "[] None\n", done.stderr
