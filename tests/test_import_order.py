"""Imports point down only, so any file can be read knowing just the rows beneath it."""

import ast

import pytest

from utils import ROOT

RANK = {
    "ctrl_c": 0,
    "utils": 0,
    "lazily": 0,
    "locks": 1,
    "grid_journal": 1,
    "config": 1,
    "nab_files": 1,
    "csv_tables": 1,
    "signal_formats": 1,
    "units": 1,
    "tensor_files": 1,
    "checkpoint_content": 3,
    "recordings": 2,
    "windowing": 2,
    "thresholds": 2,
    "metrics": 2,
    "plots": 2,
    "respiratory_simulator": 2,
    "lstm_model": 2,
    "forecasts": 3,
    "resampling": 3,
    "events": 3,
    "trailing": 1,
    "comparisons": 2,
    "anomaly_scores": 3,
    "data_loader": 3,
    "reporting": 4,
    "trainers": 4,
    "detector": 4,
    "evaluation": 4,
    "findings": 5,
    "svg_figures": 3,
    "report_page": 5,
    "collected_data_preprocess": 5,
    "data_preprocess_NAB": 5,
    "score_recordings": 6,
    "pure_lstm_anomaly_detection_main": 7,
    "live_rows": 2,
    "live_detection": 5,
    "stream_detect": 6,
    "replay_recording": 6,
    "export_model": 6,
    "grid_plan": 8,
    "grid_workers": 9,
    "grid_results": 9,
    "grid_progress": 10,
    "grid_drive": 11,
    "grid_search": 12,
    "tail_scores": 1,
    "plain_forecasts": 1,
    "online_lstm": 3,
    "nab_halves": 3,
    "nab_benchmark": 7,
    "nab_vus": 8,
}
NEVER_TORCH = (
    "metrics", "thresholds", "anomaly_scores", "comparisons", "trailing", "windowing", "events", "recordings",
    "resampling", "config", "nab_files", "live_rows", "csv_tables", "signal_formats", "units", "tail_scores",
    "plain_forecasts", "nab_halves",
)  # fmt: skip
MODULES = sorted(ROOT.glob("*.py"))


def imports_of(source: str, *, at_import: bool = False) -> set[str]:
    """Return the top-level names that a module imports, or only those it imports when it is imported."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    if at_import:
        functions = [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]
        later = {id(inner) for function in functions for inner in ast.walk(function)}
        nodes = [node for node in nodes if id(node) not in later]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "flat modules have no relative imports"
            found.add(node.module.partition(".")[0])
    return found


def test_imports_are_seen_wherever_they_stand():
    source = "import a.b, c\nfrom d.e import f\nif c:\n    import g\ndef h():\n    import i\nclass J:\n    import k\n"
    assert imports_of(source) == {"a", "c", "d", "g", "i", "k"}
    assert imports_of(source, at_import=True) == {"a", "c", "d", "g", "k"}


def test_every_module_has_a_rank():
    assert {path.stem for path in MODULES} <= set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_point_down_only(path):
    ours = imports_of(path.read_text()) & set(RANK)
    up = {name for name in ours if RANK[name] >= RANK.get(path.stem, 0)}
    assert not up, f"{path.stem} (row {RANK.get(path.stem)}) imports {', '.join(sorted(up))} of no lower row"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_third_party_imports_stay_where_they_belong(path):
    name, source = path.stem, path.read_text()
    if name != "plots":
        assert "matplotlib" not in imports_of(source)
    if name in NEVER_TORCH:
        assert "torch" not in imports_of(source)
    if RANK.get(name, 9) <= 2 and name != "lstm_model":
        assert "torch" not in imports_of(source, at_import=True)
