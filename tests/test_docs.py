"""What the pages of docs/ say of the program holds: messages, files and functions that they name, and the reader of
the store's format."""

import ast
import importlib.util
import json
import pydoc
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
import xxhash
import zarr

from teacher_cache.publish import publish
from teacher_cache.replay.block import replay
from teacher_cache.shards.read import read_block
from tests.support.bright_shards import bright_store, small_policy, spoil_image
from tests.support.filling import fill_store

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def page(name: str) -> str:
    return (DOCS / name).read_text()


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """docs/site/pages.py"""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "site" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_belongs_to_an_item_of_a_list_is_indented_as_the_site_wants_it() -> None:
    """By four spaces, and parted from the next item: fewer end the list there, and the items after it."""
    for path in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        lost = re.findall(r"\n\n( {1,3}\S.{,40})|\n\n {4}\S[^\n]*(?:\n {4}[^\n]+)*\n([-*] .{,40})", text)
        assert not lost, f"{path.relative_to(ROOT)}: {lost[0]}"


# -- what a page names is there ---------------------------------------------------------------------------------------


def test_every_file_of_the_tree_is_named() -> None:
    (tree,) = re.findall(r"```\n(teacher_cache/ .*?)```", page("architecture.md"), re.DOTALL)
    rooms = (ROOT / "teacher_cache", ROOT / "student")
    for path in (path for room in rooms for ending in ("py", "c", "h") for path in room.rglob(f"*.{ending}")):
        if not path.name.startswith("__"):
            assert path.name in tree, f"{path.relative_to(ROOT)} is not in the tree of docs/architecture.md"
    there = {path.name for room in ("teacher_cache", "student", "tools") for path in (ROOT / room).rglob("*")}
    for name in re.findall(r"\w+\.(?:py|[ch])\b", tree):
        assert name in there, f"docs/architecture.md names {name}, which is not there"


def test_walks_name_functions_that_are_there_and_no_file_twice() -> None:
    blocks = re.findall(r"```\n((?:(?:teacher_cache|student)/[\w/]+\.py: .+\n)+)```", page("architecture.md"))
    assert len(blocks) == 3
    for block in blocks:
        steps = [line.split(": ") for line in block.splitlines()]
        assert len({file for file, _ in steps}) == len(steps) >= 8
        for file, functions in steps:
            for function in functions.split(", "):
                assert function in defined(ROOT / file), f"{file} has no {function}"


def defined(path: Path) -> set[str]:
    """A file's functions and classes, and its classes' own as CLASS.NAME."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, kinds):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, kinds)}
    return found


def messages() -> list[str]:
    """Every text in the program, an f-string's parts with a zero character for what is put in between."""
    found = []
    for room in ("teacher_cache", "student"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_messages_of_troubleshooting_are_the_programs() -> None:
    headings = re.findall(r"^### `(.+)`$", page("troubleshooting.md"), re.MULTILINE)
    assert len(headings) == page("troubleshooting.md").count("\n### ") > 25
    known = messages()
    for heading in headings:
        pattern = re.compile(".*".join(map(re.escape, heading.split("..."))), re.DOTALL)
        assert any(pattern.search(text) for text in known), f"nothing says: {heading}"


# -- the reader of docs/store-format.md -------------------------------------------------------------------------------


def test_the_reader_of_the_stores_format(tmp_path: Path) -> None:
    (reader,) = re.findall(r"```python\n(.*?)```", page("store-format.md"), re.DOTALL)
    (tmp_path / "reader.py").write_text(reader)
    store = bright_store(tmp_path, counts=(70, 3), views=4, group=2)
    fill_store(store, views=range(2))
    publish(store, str(tmp_path / "published"), partial=True)
    read = []
    for place in (store.path, tmp_path / "published" / "store"):
        done = subprocess.run(
            [sys.executable, tmp_path / "reader.py", place], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        read.append(done.stdout.splitlines())
    expected, index = [], store.index
    for shard in range(index.num_shards):
        labels = {unit.unit: store.read_labels(unit) for unit in store.units(range(2)) if unit.shard == shard}
        for position in range(int(index.counts[shard])):
            own = labels[position // store.unit_samples][position % store.unit_samples]
            key = index.key(int(index.starts[shard]) + position)
            expected.append(" ".join([index.shards[shard].name, key, *map(str, [*own, -1, -1])]))
    assert read == [expected, expected]


def test_a_digest_and_a_record_are_of_the_bytes_that_the_page_names(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(70,), views=2, policy=small_policy("mix.probability=0.5"))
    spoil_image(store, 66)  # of the second block, which has 6 samples
    fill_store(store, skip_bad=True)
    (unit,) = [unit for unit in store.units() if unit.unit == 1]
    values, records = store.read_unit(unit), zarr.open_group(store.path, mode="r")["records"]
    fields = dict(zip(records.attrs["fields"], records[tuple(unit)].tolist(), strict=True))
    block = read_block(store.index.place(0, 1))
    for replayed in replay(store.policy, store.seed, block, (0, 1), skip_bad=True):
        message = b""
        for position, (pair, mixed) in enumerate(zip(replayed.class_pairs.tolist(), replayed.lambdas, strict=True)):
            message += struct.pack("<2i", *pair)
            if pair == [-2, -2]:
                assert position == 66 - 64
                continue
            assert mixed < 65_536 or pair == [block.classes[position]] * 2
            message += struct.pack("<IQ", mixed, xxhash.xxh3_64_intdigest(replayed.pixels[position].tobytes()))
        assert xxhash.xxh3_64_intdigest(message) == values.digests[0, replayed.view]
    chunks = values.labels.astype("<i2").tobytes() + values.digests.astype("<u8").tobytes()
    assert fields["hash"] == xxhash.xxh3_64_intdigest(chunks)
    assert (fields["committed"], fields["labelled"], fields["skipped"]) == (1, 10, 2)


def test_the_table_of_arrays_is_the_stores(tmp_path: Path) -> None:
    store = bright_store(tmp_path, counts=(64,), views=2)
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\w+)[^|]* \| .* \| (-?\d) \|$", page("store-format.md"), re.MULTILINE)
    assert [name for name, *_ in rows[:3]] == ["labels", "digests", "records"]
    for name, dtype, fill_value in rows[:3]:
        document = json.loads((store.path / name / "zarr.json").read_bytes())
        assert (document["data_type"], document["fill_value"]) == (dtype, int(fill_value)), name
    index = re.findall(r"^\| ([\w, ]+) \| (u?int\d+)(?:, (\w+))? \|", page("store-format.md"), re.MULTILINE)
    told = {}
    for names, first, second in index:
        told |= dict(zip(names.split(", "), [first, second or first], strict=False))
    there = {
        folder.name: json.loads((folder / "zarr.json").read_bytes())["data_type"]
        for folder in (store.path / "index").iterdir()
        if folder.is_dir()
    }
    assert told == there


# -- the site ---------------------------------------------------------------------------------------------------------


def test_the_command_reference_has_every_command_and_option(site: ModuleType) -> None:
    from student.cli import main as student
    from teacher_cache.cli import main as teacher_cache

    text = site.command_reference()
    for name, program in (("teacher-cache", teacher_cache), ("student", student)):
        for command_name, command in program.commands.items():
            _, _, section = text.partition(f"\n### {name} {command_name}\n")
            section = section.partition("\n##")[0]
            assert section, f"{name} {command_name} has no section"
            for option in command.params:
                if isinstance(option, click.Option) and not option.hidden:
                    assert option.opts[0] in section, f"{name} {command_name}: {option.opts[0]}"
    assert "\n### python tools/inspect_cache.py STORE report\n" in text


def test_links_of_the_top_level_lead_to_pages(site: ModuleType) -> None:
    """In README, CONTRIBUTING and CHANGELOG a link is to a file that is there, and on the site to the page of it."""
    for source in site.PAGES.values():
        text = (ROOT / source).read_text()
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
            assert (ROOT / link).exists(), f"{source} links to {link}"
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", site.relinked(text)):
            assert (DOCS / link).exists() or link in site.PAGES, f"{source} on the site links to {link}"


def test_what_the_python_api_lists_is_there() -> None:
    listed = re.findall(r"^::: ([\w.]+)((?:\n {4}.*)*)", page("api.md"), re.MULTILINE)
    assert len(listed) >= 6
    for path, options in listed:
        found = pydoc.locate(path)
        assert found is not None, path
        for member in (re.findall(r"members: \[(.*)\]", options) or [""])[0].split(", "):
            assert not member or hasattr(found, member), f"{path}.{member}"


def test_every_page_is_in_the_navigation() -> None:
    settings = (DOCS / "site" / "mkdocs.yml").read_text()
    for path in PAGES:
        assert re.search(rf"[ :]{re.escape(path.name)}$", settings, re.MULTILINE), f"{path.name} is not in the site"
