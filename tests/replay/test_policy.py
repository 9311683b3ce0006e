from pathlib import Path

import pytest
from click.testing import CliRunner

from teacher_cache.cli import main
from teacher_cache.errors import PolicyError
from teacher_cache.replay.policy import OPERATIONS, AutoAugment, Crop, Policy, load_policy, shipped_policies


def test_shipped_policies_survive_json() -> None:
    assert shipped_policies() == ["cifar", "deit", "digits", "none", "transfer"]
    for name in shipped_policies():
        policy = load_policy(name)
        assert policy.name == name
        assert Policy.from_json(policy.to_json()) == policy


def test_deit_is_the_published_recipe() -> None:
    policy = load_policy("deit")
    assert policy.size == (224, 224)
    assert policy.flip == 0.5
    assert policy.jitter is None
    assert policy.crop == Crop(kind="random_resized", scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bicubic")
    assert policy.rand_augment is not None
    assert policy.rand_augment.operations == OPERATIONS
    assert len(OPERATIONS) == 15
    assert policy.rand_augment.magnitude == 9
    assert policy.rand_augment.interpolation == "bicubic"
    assert policy.erase is not None
    assert policy.erase.probability == 0.25
    assert policy.erase.mode == "pixel"
    assert policy.mix is not None
    assert (policy.mix.mixup_alpha, policy.mix.cutmix_alpha) == (0.8, 1.0)


def test_policy_files_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('size = [24, 40]\ncrop = {kind = "center"}\n')
    policy = load_policy(str(file), ["crop.crop_pct=0.875", "flip=0.5", "jitter.hue=0.1", "name=other"])
    assert policy.name == "other"
    assert policy.size == (24, 40)
    assert policy.flip == 0.5
    assert policy.crop.crop_pct == 0.875
    assert policy.jitter is not None
    assert policy.jitter.hue == 0.1
    overridden = load_policy("deit", ["size=32", "crop.scale=[0.25,1]", "mix=none", "rand_augment.magnitude=7"])
    assert overridden.size == (32, 32)
    assert overridden.crop.scale == (0.25, 1.0)
    assert overridden.mix is None
    assert overridden.rand_augment is not None
    assert overridden.rand_augment.magnitude == 7
    assert load_policy("deit", ["crop.kind=center"]).crop == Crop(kind="center", crop_pct=1.0)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("colour=1", "unknown setting colour: `teacher-cache policies deit` has them all$"),
        ("crop.zoom=1", "unknown setting crop.zoom"),
        ("crop.sclae=1", "unknown setting crop.sclae: did you mean 'crop.scale'"),
        ("magnitude=9", "unknown setting magnitude: did you mean 'rand_augment.magnitude'"),
        ("flip=2", "flip: .*less than or equal to 1"),
        ("flip=true", "flip: .*valid number"),
        ("flip=nan", "flip: .*finite"),
        ("size=0", "size.*greater than or equal to 1"),
        ("size=[8]", "size"),
        ("crop=none", "crop"),
        ("crop.kind=middle", "crop.kind"),
        ("crop.scale=[1,0.5]", "crop.scale: 1.0 is above 0.5"),
        ("crop.scale=[0,1]", "crop.scale.0"),
        ("crop.crop_pct=0.9", "crop_pct is not a setting of kind 'random_resized'"),
        ("rand_augment.operations=['Cutout']", "rand_augment.operations.0: no operation 'Cutout'"),
        ("rand_augment.operations=['Solarise']", "'Solarise': did you mean 'SolarizeAdd'"),
        ("rand_augment.operations=[]", "rand_augment.operations: names no operation"),
        ("rand_augment.magnitude=11", "rand_augment.magnitude"),
        ("jitter.hue=0.6", "jitter.hue"),
        ("jitter.hue=0", "jitter: jitters nothing"),
        ("erase.mode=blur", "erase.mode"),
        ("erase.count=0", "erase.count"),
        ("mix.mixup_alpha=0", "mix.mixup_alpha"),
        ("std=[0,1,1]", "std.0"),
        ("std=[1e-300,1,1]", "std.0: is no number that a float32 holds"),
        ("mix.mixup_alpha=1e300", "mix.mixup_alpha: is no number that a float32 holds"),
        ("mix.cutmix_alpha=1e-300", "mix.cutmix_alpha: is no number that a float32 holds"),
        ("crop.ratio=[1e-300,1]", "crop.ratio.0: .*greater than or equal to 0.001"),
        ("crop.ratio=[1,1e300]", "crop.ratio.1: .*less than or equal to 1000"),
        ("erase.aspect=[1e-9,1]", "erase.aspect.0: .*greater than or equal to 0.001"),
        ("version=2", "version 2, but this program reads 3, whose pixels are others: use the release that wrote it"),
        ("size.height=3", "size is not a section"),
        ("size", "not of the form key=value"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(setting: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said) as raised:
        load_policy("deit", [setting])
    assert "\n" not in str(raised.value)


def test_a_crop_of_a_picture_blown_up_beyond_all_memory_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"crop\.crop_pct: .*greater than or equal to 0\.01"):
        load_policy("deit", ["crop.kind=center", "crop.crop_pct=1e-30"])


@pytest.mark.parametrize("name", shipped_policies())
def test_a_policy_that_is_shown_is_a_file_of_it(tmp_path: Path, name: str) -> None:
    shown = CliRunner().invoke(main, ["policies", name, "--set", "size=[24,40]"])
    assert shown.exit_code == 0, shown.output
    (tmp_path / "shown.toml").write_text(shown.output)
    assert load_policy(str(tmp_path / "shown.toml")) == load_policy(name, ["size=[24,40]"])
    assert name in CliRunner().invoke(main, ["policies"]).output.split()


def test_auto_augment_stands_in_rand_augments_place() -> None:
    policy = load_policy("deit", ["rand_augment=none", "auto_augment.magnitude_std=0.5"])
    assert policy.auto_augment == AutoAugment(magnitude_std=0.5, interpolation="bicubic")
    assert Policy.from_json(policy.to_json()) == policy
    with pytest.raises(
        PolicyError, match=r"has both rand_augment and auto_augment; leave one out \(--set rand_augment"
    ):
        load_policy("deit", ["auto_augment.magnitude_std=0"])
    with pytest.raises(PolicyError, match=r"auto_augment\.num_ops"):
        load_policy("deit", ["rand_augment=none", "auto_augment.num_ops=2"])


def test_a_mix_of_nothing_and_an_absent_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="mix: has neither mixup_alpha nor cutmix_alpha"):
        load_policy("deit", ["mix.mixup_alpha=none", "mix.cutmix_alpha=none"])
    with pytest.raises(
        PolicyError,
        match=r"a shipped one: did you mean 'deit' or 'digits'\? `teacher-cache policies` lists",
    ):
        load_policy("diet")
    with pytest.raises(PolicyError, match=r"setting flap: did you mean 'flip'\?; unknown setting sise.*has them"):
        load_policy("deit", ["flap=1", "sise=3"])
    with pytest.raises(PolicyError, match=r"setting 'flap' is not of the form key=value; setting 'sise' is not"):
        load_policy("deit", ["flap", "size=3", "sise"])
    with pytest.raises(PolicyError, match=r"\.0: no operation 'Invrt': did .*; .*\.1: no operation 'Rotat': "):
        load_policy("deit", ["rand_augment.operations=['Invrt','Rotat']"])
    (tmp_path / "broken.toml").write_text("size = ")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(str(tmp_path / "broken.toml"))
    with pytest.raises(PolicyError, match="version 7"):
        Policy.from_json(load_policy("none").to_json() | {"version": 7})
