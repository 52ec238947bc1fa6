"""A finished run becomes a model and a card; the model scores like the run's own checkpoint."""

import pytest
from project import call, make_datasets

from detection.checkpoint import load_checkpoint
from reports import model_card
from reports.run_folder import RunFolder
from utils import sha256_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_datasets(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def run(home):
    assert call(home, "--out", home / "run", "--set", 'threshold={"method": "false_events_per_hour"}') == 0
    return home / "run"


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes.md").write_text("## Intended use\n\nNone: made by a test.\n")
    return tmp_path / "notes.md"


def test_a_model_and_its_card_are_written(home, run, notes, tmp_path, capsys):
    (tmp_path / "tables.md").write_text("| a table of strangers |\n|---|\n")
    words = [run, "--notes", notes, "--tables", tmp_path / "tables.md", "--out", tmp_path / "models"]
    assert model_card.main(list(map(str, words))) == 0
    model, card = tmp_path / "models" / "tiny.safetensors", (tmp_path / "models" / "tiny.md").read_text()
    assert capsys.readouterr().out.split() == [str(model), str(model.with_suffix(".md"))]
    for told in (
        sha256_of(model), "made by a test", "a table of strangers", "0.5 false events an hour", "Sources", "one.csv",
        "flow_lpm", "torch 2", "amplitude baseline", "untrained LSTM", "random scores",
    ):  # fmt: skip
        assert told in card, told
    assert "training" not in load_checkpoint(model) and "training" in load_checkpoint(RunFolder(run).checkpoint)
    assert model.stat().st_size < RunFolder(run).checkpoint.stat().st_size
    scored = []
    for checkpoint in (model, RunFolder(run).checkpoint):
        out = tmp_path / checkpoint.stem
        assert call(home, "--checkpoint", checkpoint, "--score", home / "raw" / "three.csv", "--out", out) == 0
        scored.append((out / "scores.csv").read_bytes())
    assert scored[0] == scored[1]


def test_what_is_missing_is_named_and_nothing_is_written(run, notes, tmp_path, capsys):
    for words, told in (
        ([tmp_path / "none", "--notes", notes], "not a finished run"),
        ([run, "--notes", tmp_path / "none.md"], "none.md: no such file"),
        ([run, "--notes", notes, "--tables", tmp_path / "none.md"], "none.md: no such file"),
    ):
        assert model_card.main([*map(str, words), "--out", str(tmp_path / "models")]) == 2
        assert told in capsys.readouterr().err and not (tmp_path / "models").exists()
