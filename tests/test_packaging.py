"""What is handed to others: an sdist that has what the build needs, extras that are documented, a release's tag."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COPIED = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def sources_of(*patterns: str) -> list[str]:
    """Files of these patterns, but for what was built."""
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return sorted(
        str(path.relative_to(ROOT)) for path in found if path.is_file() and path.suffix not in (".pyc", ".so")
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of an sdist of the packages, without the folder that holds them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (*COPIED, *sources_of("teacher_cache/**/*", "student/**/*", "tests/*.py")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    code = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = (folder / "dist").iterdir()
    assert archive.name == f"deit_teacher_cache-{PROJECT['project']['version']}.tar.gz"
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def test_an_sdist_has_what_the_build_needs_and_no_part_of_the_tests(sdist: set[str]) -> None:
    (library,) = PROJECT["tool"]["setuptools"]["ext-modules"]
    sources = set(sources_of("teacher_cache/replay/native/*.[ch]"))
    assert sources == {*library["sources"], *library["depends"]}
    assert sdist >= sources
    assert sdist >= set(COPIED) | set(sources_of("teacher_cache/**/*.py", "student/**/*.py"))
    assert sdist >= set(sources_of("teacher_cache/**/*.toml", "student/**/*.toml", "teacher_cache/audit/page/*"))
    assert {name for name in sdist if name.endswith((".so", ".pyc")) or name.startswith("tests")} == set()


def test_every_extra_is_in_the_table_of_the_page_on_installing() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(PROJECT["project"]["optional-dependencies"])


def test_pythons_that_are_named_are_those_that_are_tried() -> None:
    named = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if ":: 3." in line]
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert named == jobs["package"]["strategy"]["matrix"]["python"]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


def test_a_workflow_may_read_and_no_more_than_it_says() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert yaml.safe_load(path.read_text())["permissions"] in ({}, {"contents": "read"}), path.name


def test_a_release_needs_the_tag_of_its_version() -> None:
    version = PROJECT["project"]["version"]

    def check(tag: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "tools/check_tag.py", tag], cwd=ROOT, capture_output=True, text=True)

    assert check(f"v{version}").returncode == 0
    for other in (version, f"v{version}.1", "v9.9.9"):
        refused = check(other)
        told = f"error: the tag is {other}, pyproject.toml has version {version}: tag v{version}, or change it\n"
        assert (refused.returncode, refused.stderr) == (1, told)
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert "tools/check_tag.py" in str(release["version"]["steps"])
    needs = {name: job.get("needs") for name, job in release.items()}
    assert needs == {
        "version": None,
        "wheels": "version",
        "sdist": "version",
        "publish": ["wheels", "sdist"],
        "github": "publish",
    }


def test_ci_has_triton() -> None:
    """Its jobs install the lock file. Without Triton every test of a kernel is skipped, and nobody would see."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert any("make check test" in str(step.get("run")) for step in jobs["check-and-test"]["steps"])
    versions = {entry.strip("\"'") for entry in jobs["check-and-test"]["strategy"]["matrix"]["python"]}
    (line,) = re.findall(r"^(triton==\S+ ;.*) \\$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    marker = Requirement(line).marker
    assert marker is not None
    for version in versions:
        python = {"python_version": version, "python_full_version": f"{version}.0", "sys_platform": "linux"}
        assert marker.evaluate({**python, "platform_machine": "x86_64"})
