"""pyproject.toml, the pinned requirements, the lock file and the files that are there say the same."""

import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from utils import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = {"dependencies": "requirements.txt", "formats": "requirements-formats.txt", "grid": "requirements-grid.txt",
         "export": "requirements-export.txt", "dev": "requirements-dev.txt"}  # fmt: skip


def pins(name):
    """Return package -> version of a requirements file."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(match.groups() for line in lines if (match := re.match(r"([\w.-]+)==([\w.]+)", line)))


def bounds(extra):
    """Return package -> versions that pyproject.toml allows."""
    project = PROJECT["project"]
    texts = project["dependencies"] if extra == "dependencies" else project["optional-dependencies"][extra]
    asked = map(Requirement, texts)
    return {one.name: one.specifier for one in asked if one.name != project["name"]}


@pytest.mark.parametrize("extra", FILES)
def test_the_pinned_versions_are_among_those_allowed(extra):
    allowed, pinned = bounds(extra), pins(FILES[extra])
    assert allowed.keys() == pinned.keys()
    assert not [name for name, version in pinned.items() if version not in allowed[name]]


def test_the_lock_has_the_pinned_versions_with_hashes():
    text, locked = (ROOT / "requirements.lock").read_text(), pins("requirements.lock")
    for name in FILES.values():
        assert {package.lower(): version for package, version in pins(name).items()}.items() <= locked.items()
    assert text.count("--hash=sha256:") > len(locked) and "://" not in text


def test_all_modules_and_folders_are_installed():
    tools = PROJECT["tool"]["setuptools"]
    scripts = {path.stem for path in ROOT.glob("*.py") if "ArgumentParser(__doc__)" in path.read_text()}
    assert set(tools["py-modules"]) == {path.stem for path in ROOT.glob("*.py")} - scripts
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert set(tools["packages"]) == folders


def test_every_file_that_modules_read_is_in_what_is_built(tmp_path):
    pytest.importorskip("setuptools")
    tools, clone = PROJECT["tool"]["setuptools"], tmp_path / "clone"
    wanted = [*ROOT.glob("*.json"), *(ROOT / f"{name}.py" for name in tools["py-modules"])]
    wanted += [path for name in tools["packages"] for path in (ROOT / name).rglob("*.*") if path.suffix != ".pyc"]
    for path in (*wanted, *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))):
        (clone / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, clone / path.relative_to(ROOT))
    build = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "-d", "built"]
    subprocess.run(build, cwd=clone, check=True, timeout=100)
    assert not [path.name for path in wanted if not (clone / "built" / path.relative_to(ROOT)).is_file()]


def test_the_interpreter_is_the_one_that_the_script_asks_for():
    asked = SpecifierSet(PROJECT["project"]["requires-python"])
    assert "3.11" in asked and "3.10" not in asked
    assert "sys.version_info < (3, 11)" in (ROOT / "cmd_script.sh").read_text()
