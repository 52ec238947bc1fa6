"""Folders: what is a recording in them, what is left out by name, and the rest scored where one file is bad."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import tiny
from edf_files import edf_bytes, signal

import collected_data_preprocess
import pure_lstm_anomaly_detection_main as main_script
from recordings.finding import recordings_in
from utils import DataError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "nights"
    home.mkdir()
    return home


def score(model, out, *paths):
    arguments = ["--checkpoint", model, "--device", "cpu", "--out", out, "--score", *paths]
    return main_script.main([str(a) for a in arguments])


def edf_night(path, seconds=60):
    """Write the channels of the tiny model as an EDF."""
    raw = tiny.draw_recording(seconds, 3)
    parts = []
    for name, rate, unit in (("flow", 25, "L/min"), ("belt", 12.5, "a.u."), ("pulse", 1, "bpm")):
        values = raw[name].dropna().to_numpy()
        parts.append(signal(name, np.round(100 * values).astype(int), rate, unit))
    path.write_bytes(edf_bytes(parts, record_s=2.0))


# ---- finding --------------------------------------------------------------------------------


def test_a_folder_holds_every_format_whatever_its_case(folder, caplog):
    rows = "t_s,flow\n0,1\n1,2\n"
    edf = edf_bytes([signal("Flow", np.arange(250), 25)])
    tables = ("a.csv", "b.CSV", "c.Tsv", "d.csv.gz", "e.txt", "f.CSV.GZ")
    signals = ("g.edf", "h.EDF", "i.Bdf", "j.rec", "k.data", "l")
    for name in tables:
        (folder / name).write_text(rows)
    for name in signals:
        (folder / name).write_bytes(edf)
    for name, text in (("notes.txt", "Slept badly, woke 3 times.\n"), ("a.events.csv", ""), ("scan.pdf", "%PDF"),
                       (".hidden.csv", rows), ("README", "x")):  # fmt: skip
        (folder / name).write_text(text)
    (folder / "inner").mkdir()
    caplog.set_level(logging.INFO)
    assert {path.name for path in recordings_in(folder)} == {*tables, *signals}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("left out, as they are no recordings: README, notes.txt, scan.pdf, inner/")


def test_a_wfdb_record_of_segments_is_one_recording(folder, caplog):
    for name, text in (
        ("m.hea", "m/2 1 25 200\n# x\nm_1 100\nm_2 100\n"), ("m_1.hea", "m_1 1 25 100\nm_1.dat 16 1/L\n"),
        ("m_2.hea", "m_2 1 25 100\nm_2.dat 16 1/L\n"), ("m_1.dat", ""), ("m_2.dat", ""), ("m.apn", ""),
    ):  # fmt: skip
        (folder / name).write_text(text)
    caplog.set_level(logging.INFO)
    assert recordings_in(folder) == [folder / "m.hea"] and not caplog.records


@pytest.mark.parametrize(
    ("text", "is_table"),
    [
        ("0.0\t1.5\n0.1\t2.5\n", True), ("22:30:00;1,5\n", True), ("2024-05-01 22:30:00 1.5\n", True), ("", False),
        ("See 1. and 2.\nBest wishes\n", False), ("12\n", False), ("t_s,flow\n1,\n2,3\n", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_text_is_a_table_if_it_ends_in_numbers(folder, text, is_table, encoding):
    (folder / "a.csv").write_text("t_s,x\n0,1\n")
    (folder / "b.txt").write_bytes(text.encode(encoding))
    assert (folder / "b.txt" in recordings_in(folder)) == is_table


def test_a_folder_without_recordings_names_the_formats(folder):
    with pytest.raises(DataError, match=r"no recording in this folder; expected a ResMed card or files .*\*.hea$"):
        recordings_in(folder)


# ---- inspecting and scoring -----------------------------------------------------------------


def test_inspect_takes_a_folder_and_names_files_without_samples(folder, capsys):
    edf_night(folder / "one.edf")
    for name in ("empty_1.edf", "empty_2.EDF"):
        (folder / name).write_bytes(edf_bytes([signal("flow", [], 25)]))
    assert collected_data_preprocess.main(["--inspect", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("one.edf: ") and not err
    assert out.endswith("2 files without samples left out: empty_1.edf, empty_2.EDF\n")
    assert collected_data_preprocess.main(["--inspect", str(folder / "empty_1.edf")]) == 2
    assert capsys.readouterr().err == "error: empty_1.edf: no samples: 1 signal of 0 records; leave it out\n"


def test_bad_files_of_a_folder_are_named_and_the_others_scored(folder, model, tmp_path, capsys):
    tiny.draw_recording(60, 1).to_csv(folder / "good.csv", index=False)
    edf_night(folder / "night.EDF")
    (folder / "bad.csv").write_text("t_s,flow,belt,pulse\n0,a,1,1\n")
    (folder / "cut.edf").write_bytes((folder / "night.EDF").read_bytes()[:500])
    (folder / "none.edf").write_bytes(edf_bytes([], [(1, 1, "apnea")], 0.0, onsets=np.zeros(2), reserved="EDF+D"))
    assert score(model, tmp_path / "out", folder) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: 2 of 4 recordings not scored: bad.csv: ") and "and 1 more, see the log" in line
    assert "1 file without samples left out: none.edf" in err
    assert out.endswith(f"\n\n{tmp_path / 'out'}\n") and "| good |" in out
    assert (tmp_path / "out" / "report.html").is_file()
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["recording"]) == {"good", "night"}
    notes = json.loads((tmp_path / "out" / "data.json").read_text())["notes"]
    assert [note.partition(": ")[2].partition(":")[0] for note in notes] == ["bad.csv", "cut.edf"]


def test_a_bad_file_of_a_pattern_leaves_the_others_one_that_is_named_does_not(folder, model, tmp_path, capsys):
    tiny.draw_recording(60, 1).to_csv(folder / "good.csv", index=False)
    (folder / "bad.csv").write_text("t_s,flow\n0,a\n")
    assert score(model, tmp_path / "first", folder / "*.csv") == 2
    assert (tmp_path / "first" / "report.html").is_file()
    assert score(model, tmp_path / "second", folder / "good.csv", folder / "bad.csv") == 2
    assert not (tmp_path / "second").exists()
    (folder / "good.csv").unlink()
    assert score(model, tmp_path / "third", folder) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: bad.csv: ")
    assert not (tmp_path / "third").exists()
