"""Imports point one way: scripts to folders, later folders to earlier ones, without a circle."""

import ast
import graphlib

import pytest

from utils import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for pattern in ("*.py", "*/*.py")
    for path in sorted(ROOT.glob(pattern))
    if path.parent.name not in ("tests", "benchmarks")
}
SCRIPTS = {name for name, path in MODULES.items() if path.parent == ROOT and
            "ArgumentParser(__doc__)" in path.read_text()}
WITHOUT_TORCH = ("recordings", "evaluation")


def imports_of(path):
    """Return the dotted names that a module imports, wherever the import stands; `from a import b` may be a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


GRAPH = {name: imports_of(path) & MODULES.keys() - {name} for name, path in MODULES.items()}


def room(name):
    """Return the folder of a module; a module on top is a room of its own."""
    return name.partition(".")[0]


def test_no_module_and_no_folder_is_in_a_circle():
    graphlib.TopologicalSorter(GRAPH).prepare()
    rooms = {room(name): set() for name in GRAPH}
    for name, imported in GRAPH.items():
        rooms[room(name)] |= {room(other) for other in imported} - {room(name)}
    graphlib.TopologicalSorter(rooms).prepare()


def test_nothing_imports_a_script():
    assert len(SCRIPTS) >= 7
    for name, imported in GRAPH.items():
        assert not imported & SCRIPTS, name


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_a_folder_of_plain_numbers_never_needs_torch(folder):
    reached, to_see = set(), [name for name in GRAPH if room(name) == folder]
    while to_see:
        name = to_see.pop()
        if name not in reached:
            reached.add(name)
            to_see += GRAPH[name]
    for name in reached - {"utils"}:                             # utils: the process's seeds, threads and device
        assert not {"torch"} & {room(other) for other in imports_of(MODULES[name])}, name


def test_matplotlib_is_imported_where_figures_are_drawn():
    drawing = {name for name, path in MODULES.items() if "matplotlib" in {room(n) for n in imports_of(path)}}
    assert drawing == {"reports.plots"}
