"""A dataset's sheet tells what was put into it, and is refused where the dataset is not whole."""

import pytest
from project import make_datasets

from recordings.windowing import read_meta
from reports import data_sheet


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_datasets(tmp_path_factory.mktemp("home")) / "datasets" / "collected-known-anomaly" / "tiny"


def test_the_sheet_tells_what_the_dataset_holds(dataset, tmp_path, capsys):
    out = tmp_path / "sheet.md"
    assert data_sheet.main([str(dataset), "--out", str(out)]) == 0
    text, meta = out.read_text(), read_meta(dataset)
    assert capsys.readouterr().out == f"{out}\n"
    hours = sum(span.steps for span in meta.splits["test"]) / 5 / 3600
    for told in (
        "two channels of breathing, made by a test. Simulated data.",
        "| central_apnea | 1 | 20 | 20 | 20 |",                       # 90 to 110 s
        "| sensor_dropout | 1 | 10 | 10 | 10 |",                      # 60 to 70 s
        "| one |  | 0.03 | 0.00 | 0.00 | 0 |",                        # 120 s
        f"| all |  | 0.03 | 0.03 | {hours:.2f} | 2 |",
        "kinds of labels that are faults | sensor_dropout",
        *meta.sources.values(), *meta.hashes.values(), *meta.dropped,
    ):  # fmt: skip
        assert told in text, told
    belt = next(line for line in text.splitlines() if line.startswith("| thorax_au"))
    assert "| effort |" in belt and belt.split(" | ")[-3] == "100.0%"
    lost = float(belt.split(" | ")[-1].rstrip("% |"))                 # 10 s, and the filter's length, of about 250 s
    assert 94 < lost < 96.5


def test_notes_are_taken_over_and_faults_are_named(dataset, tmp_path, capsys):
    (tmp_path / "notes.md").write_text("Volunteers of a test.\n")
    assert data_sheet.main([str(dataset), "--notes", str(tmp_path / "notes.md"), "--out", str(tmp_path / "a.md")]) == 0
    assert "## Notes\n\nVolunteers of a test.\n" in (tmp_path / "a.md").read_text()
    capsys.readouterr()
    for words, told in (
        ([tmp_path / "none"], "meta.json: no such file"),
        ([dataset, "--notes", tmp_path / "none.md"], "none.md: no such file"),
    ):
        assert data_sheet.main([*map(str, words), "--out", str(tmp_path / "b.md")]) == 2
        assert told in capsys.readouterr().err and not (tmp_path / "b.md").exists()
