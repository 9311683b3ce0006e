"""Operations of a user's own: their file, their place in the policy, their pixels."""

import dataclasses
import hashlib
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from timm.data.auto_augment import LEVEL_TO_ARG

from teacher_cache.errors import PolicyError
from teacher_cache.replay.block import Block, replay, view_params
from teacher_cache.replay.operations import open_operations
from teacher_cache.replay.params import Operation
from teacher_cache.replay.policy import OPERATIONS, TAKEN_NAMES, Policy, bind_operations, load_policy
from teacher_cache.replay.render import render_pixels
from tests.support import images
from tests.support.own_operations import darken, roll

OWN = str(Path(__file__).parents[1] / "support" / "own_operations.py")
SHA256 = hashlib.sha256(Path(OWN).read_bytes()).hexdigest()
NAMES = ("darken", "roll")
SETTINGS = ["size=24", "rand_augment.probability=1", "mix=none", "erase=none"]


def own_policy(*settings: str) -> Policy:
    return load_policy("deit", [*SETTINGS, *settings], open_operations(f"{OWN}:operations"))


def block() -> Block:
    pictures = tuple(images.png(images.picture(seed, 40, 50)) for seed in range(3))
    return Block("train-0000.tar", 0, ("a", "b", "c"), np.arange(3, dtype=np.int32), pictures)


def written(path: Path, body: str) -> str:
    path.write_text(body)
    return f"{path}:operations"


# The file


def test_a_file_is_known_by_its_hash_and_gives_operations_by_name() -> None:
    opened = open_operations(f"{OWN}:operations")
    assert opened.sha256 == SHA256
    assert opened.names == NAMES
    pixels = images.picture(0, 20, 20)
    assert np.array_equal(opened.functions["roll"](pixels, 0.5), roll(pixels, 0.5))
    assert open_operations(f"{OWN}:others").names == ("Turn",)


def test_a_relative_path_is_that_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "mine.py", "def operations(): return {'same': lambda pixels, level: pixels}")
    monkeypatch.chdir(tmp_path)
    opened = open_operations("mine.py:operations")
    monkeypatch.chdir("/")
    assert opened.names == ("same",)


def test_another_process_reads_the_file_again_and_refuses_a_changed_one(tmp_path: Path) -> None:
    spec = written(tmp_path / "mine.py", "def operations(): return {'same': lambda pixels, level: pixels}")
    opened = open_operations(spec)
    assert opened.names == ("same",)  # its functions, of no module that could be imported, are loaded
    sent = pickle.dumps(load_policy("deit", SETTINGS, opened))
    assert pickle.loads(sent).own_functions.keys() == {"same"}
    stamp = (tmp_path / "mine.py").stat()
    written(tmp_path / "mine.py", "def operations(): return {'same': lambda pixels, level: 1    }")
    os.utime(tmp_path / "mine.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as old and as long as before
    with pytest.raises(PolicyError, match=r"mine.py changed while it was in use \(sha256 .*\): put it back"):
        _ = pickle.loads(sent).own_functions


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def operations(:", "cannot be loaded: SyntaxError"),
        ("import nothing_of_this_name", "cannot be loaded: ModuleNotFoundError: No module"),
        ("raise SystemExit(2)", "cannot be loaded: SystemExit: 2"),
        ("def operations(): exit(3)", r"function operations\(\) of .* failed: SystemExit: 3"),
        ("def blurs(): return {}", "have no function operations: there is blurs"),
        ("operations = 3", "have no function operations: there is none"),
        ("def operations(level): return {}", r"function operations\(\) of .* failed: TypeError"),
        ("def operations(): return [abs]", "returned a list, a dict of operations by name is expected"),
        ("def operations(): return {}", "returned an empty dict"),
        ("def operations(): return {'soft': 3}", "gives a int for 'soft', a function of pixels and level"),
        ("def operations(): return {3: abs}", "names an operation 3: a string is expected"),
        ("def operations(): return {'Rotate': abs}", "own_operations.names: 'Rotate' is an operation of timm"),
        ("def operations(): return {'GaussianBlur': abs}", "'GaussianBlur' is an operation of timm"),
        ("def operations(): return {'hue': abs}", "'hue' is an operation of timm or of this program already"),
        ("def operations(): return {'two words': abs}", "'two words' is no name for an operation"),
        ("def operations(): return {'class': abs}", "'class' is no name for an operation"),
        ("def operations(): return {'': abs}", "'' is no name for an operation"),
    ],
)
def test_what_gives_no_operations_is_refused(tmp_path: Path, body: str, said: str) -> None:
    spec = written(tmp_path / "mine.py", body)
    with pytest.raises(PolicyError, match=said) as raised:
        load_policy("deit", operations=open_operations(spec))
    assert "\n" not in str(raised.value)


def test_what_names_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"none.py cannot be read \(No such file or directory\)"):
        open_operations(f"{tmp_path}/none.py:operations")
    with pytest.raises(
        PolicyError, match=r"^operations s3://bucket/mine\.py are no file of this machine: copy them here"
    ):
        open_operations("s3://bucket/mine.py:operations")
    for spec in ("mine.py", "mine.py:", ":operations", "mine.py:a b"):
        with pytest.raises(PolicyError, match=f"operations '{spec}' are not of the form FILE.py:FUNCTION"):
            open_operations(spec)


def test_the_names_of_timms_operations_are_taken() -> None:
    assert {*OPERATIONS, *LEVEL_TO_ARG} <= TAKEN_NAMES
    drawn_views = [view_params(own_policy(), 0, "s", "k", view, (40, 50)) for view in range(200)]
    jittered = load_policy("cifar", ["jitter.hue=0.1", "jitter.brightness=0.1", "rand_augment.probability=1"])
    drawn_views += [view_params(jittered, 0, "s", "k", view, (40, 50)) for view in range(200)]
    assert {operation.name for params in drawn_views for operation in params.operations} - {*NAMES} <= TAKEN_NAMES


# The policy


def test_the_policy_holds_function_hash_and_names() -> None:
    policy = own_policy()
    section = {"function": "operations", "sha256": SHA256, "names": list(NAMES)}
    assert policy.to_json()["own_operations"] == section
    assert policy.rand_augment is not None
    assert policy.rand_augment.operations == (*OPERATIONS, *NAMES)
    assert OWN not in str(policy.to_json())
    read = Policy.from_json(policy.to_json())
    assert read == policy
    assert hash(read) == hash(policy)
    assert read != load_policy("deit", SETTINGS)
    assert policy.own_functions.keys() == {*NAMES}


def test_a_policy_without_own_operations_is_written_as_ever() -> None:
    assert "own_operations" not in load_policy("deit").to_json()
    assert load_policy("deit").own_functions == {}
    settings = Policy.from_json(load_policy("deit").to_json() | {"own_operations": None})
    assert settings == load_policy("deit")


def test_a_list_that_names_own_operations_is_kept() -> None:
    policy = own_policy("rand_augment.operations=['Rotate','roll','roll']")
    assert policy.rand_augment is not None
    assert policy.rand_augment.operations == ("Rotate", "roll", "roll")
    policy = own_policy("rand_augment.operations=['Rotate']")
    assert policy.rand_augment is not None
    assert policy.rand_augment.operations == ("Rotate", *NAMES)


def test_impossible_policies_are_refused() -> None:
    opened = open_operations(f"{OWN}:operations")
    with pytest.raises(PolicyError, match="policy none has no section rand_augment, to which --ops adds operations"):
        load_policy("none", operations=opened)
    for wrong, offered in (("Blur", "`teacher-cache policies"), ("darkn", "did you mean 'darken'?")):
        with pytest.raises(PolicyError, match=rf"operations.1: no operation '{wrong}': {re.escape(offered)}.*; --ops"):
            own_policy(f"rand_augment.operations=['roll','{wrong}']")
    with pytest.raises(PolicyError, match=r"own_operations are RandAugment's, but there is no section rand_augment"):
        Policy.from_json(own_policy().to_json() | {"rand_augment": None})
    for sha256 in ("", "0" * 63, "Z" * 64):
        section = {"function": "operations", "sha256": sha256, "names": ["roll"]}
        with pytest.raises(PolicyError, match=r"own_operations.sha256"):
            Policy.from_json(own_policy().to_json() | {"own_operations": section})
    with pytest.raises(PolicyError, match=r"own_operations.names: names an operation twice"):
        load_policy(
            "deit", [f"own_operations={{function='operations',sha256='{SHA256}',names=['roll','roll']}}"], opened
        )


def refusal(policy: Policy, given: str | None) -> str:
    with pytest.raises(PolicyError) as raised:
        bind_operations(policy, None if given is None else open_operations(given), "S")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_policys_operations_are_bound_to_its_own_file_only(tmp_path: Path) -> None:
    policy = Policy.from_json(own_policy().to_json())
    assert bind_operations(policy, open_operations(f"{OWN}:operations"), "S").own_functions.keys() == {*NAMES}
    assert refusal(policy, None) == (
        f"S has operations of its own (darken, roll; function operations of a file with sha256 {SHA256[:12]}): "
        "give --ops FILE.py:operations"
    )
    assert refusal(policy, f"{OWN}:others") == (
        f"S: --ops {OWN}:others, but the policy's operations are those of function operations: name that one"
    )
    changed = written(tmp_path / "mine.py", Path(OWN).read_text() + "\n")
    assert refusal(policy, changed) == (
        f"S: --ops {changed} has sha256 {open_operations(changed).sha256[:12]}, the policy's file had {SHA256[:12]}: "
        "give the file as it was, or index a new store with this one"
    )
    values = policy.to_json()  # as if the function had given other operations when the store was made
    values["own_operations"]["names"] = values["rand_augment"]["operations"] = ["roll", "zoom"]
    assert refusal(Policy.from_json(values), f"{OWN}:operations") == (
        f"S: --ops {OWN}:operations gives darken, roll, the policy has roll, zoom: the function must give the same "
        "operations every time"
    )


def test_a_changed_file_is_refused_before_it_runs(tmp_path: Path) -> None:
    changed = written(tmp_path / "mine.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "has sha256" in refusal(own_policy(), changed)
    assert not (tmp_path / "ran").exists()


def test_operations_given_in_vain_are_refused() -> None:
    opened = open_operations(f"{OWN}:operations")
    with pytest.raises(PolicyError, match=r"^S has no operations of its own: leave --ops /.*:operations out"):
        bind_operations(load_policy("deit"), opened, "S")
    section = f"own_operations={{function='others',sha256='{SHA256}',names=['Turn']}}"
    with pytest.raises(PolicyError, match=r"policy deit has operations of its own \(.*\): give --ops FILE.py:others"):
        load_policy("deit", [section])


def test_a_policy_without_its_file_does_not_render() -> None:
    unbound = Policy.from_json(own_policy().to_json())
    with pytest.raises(PolicyError, match=r"policy deit has operations of its own .*: give --ops FILE.py:operations"):
        next(replay(unbound, 0, block(), [0]))


# View parameters and pixels


def test_levels_are_magnitudes_over_ten_with_either_sign() -> None:
    policy = own_policy("rand_augment.operations=['roll','darken']", "rand_augment.magnitude_std=0")
    drawn_views = [view_params(policy, 0, "s", "k", view, (40, 50)) for view in range(300)]
    drawn = [operation for params in drawn_views for operation in params.operations]
    assert {operation.name for operation in drawn} == {*NAMES}
    assert {abs(operation.value) for operation in drawn} == {round(0.9 * 2**20) / 2**20}
    assert 240 < sum(operation.value > 0 for operation in drawn) < 360
    noisy = own_policy("rand_augment.operations=['roll']", "rand_augment.magnitude_std=5")
    values = [view_params(noisy, 0, "s", "k", view, (40, 50)).operations[0].value for view in range(300)]
    assert min(values) == -1
    assert max(values) == 1
    assert 0 in values


def test_pixels_are_the_functions() -> None:
    policy = own_policy("rand_augment.operations=['roll','darken']", "crop.kind=center", "flip=none")
    source = images.picture(0, 24, 24)
    for view in range(20):
        params = view_params(policy, 0, "s", "k", view, (24, 24))
        expected = source
        for name, level in params.operations:
            assert level is not None
            expected = {"roll": roll, "darken": darken}[name](expected, level)
        assert np.array_equal(render_pixels(source, params, policy.own_functions), expected)


def test_own_operations_move_the_digest() -> None:
    policy = own_policy("rand_augment.operations=['roll']")
    other = load_policy("deit", [*SETTINGS, "rand_augment.operations=['Invert']"])
    assert next(replay(policy, 0, block(), [0])).digest != next(replay(other, 0, block(), [0])).digest
    assert next(replay(policy, 0, block(), [3])).digest == list(replay(policy, 0, block(), range(4)))[3].digest


def bound(tmp_path: Path, body: str, *settings: str) -> Policy:
    spec = written(tmp_path / "mine.py", f"import numpy as np\n{body}\ndef operations(): return {{'mine': mine}}")
    return load_policy("deit", [*SETTINGS, "rand_augment.operations=['mine']", *settings], open_operations(spec))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def mine(pixels, level): raise KeyError('no\\nluck')", r"failed: KeyError: 'no\\nluck'"),
        ("def mine(pixels, level): raise SystemExit", "failed: SystemExit:"),
        ("def mine(pixels): return pixels", r"failed: TypeError: mine\(\) takes 1 positional argument"),
        ("def mine(pixels, level): return None", r"returned a NoneType, expected \(24, 24, 3\) of uint8"),
        ("def mine(pixels, level): return pixels[:20]", r"returned an array \(20, 24, 3\) of uint8, expected"),
        ("def mine(pixels, level): return pixels / 2", r"returned an array \(24, 24, 3\) of float64, expected"),
    ],
)
def test_an_operation_that_fails_is_named_with_shard_key_and_view(tmp_path: Path, body: str, said: str) -> None:
    policy = bound(tmp_path, body)
    where = r"shard train-0000.tar, key a, view 5: operation mine at level -?0\.\d+ "
    with pytest.raises(PolicyError, match=f"^{where}{said}.*; correct it and index a new store$") as raised:
        next(replay(policy, 0, block(), [5]))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        "def mine(pixels, level):\n    pixels[:] = 255 - pixels\n    return pixels",
        "kept = np.empty((24, 24, 3), np.uint8)\ndef mine(pixels, level): return np.subtract(255, pixels, out=kept)",
        "def mine(pixels, level): return (255 - pixels[::-1])[::-1]",
    ],
    ids=["in place", "always the same array", "strides"],
)
def test_an_operation_shares_no_memory_with_a_view(tmp_path: Path, body: str) -> None:
    policy = bound(tmp_path, body, "erase.probability=1", "rand_augment.num_ops=1")
    source = images.picture(0, 40, 50)
    source.flags.writeable = False
    drawn_views = [view_params(policy, 0, "s", "k", view, (40, 50)) for view in range(4)]
    views = [render_pixels(source, params, policy.own_functions) for params in drawn_views]
    for view, params in zip(views, drawn_views, strict=True):
        inverted = dataclasses.replace(params, operations=(Operation("invert"),))
        assert np.array_equal(view, render_pixels(source, inverted))
        assert view.flags.c_contiguous
