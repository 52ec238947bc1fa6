"""Exported events, as other programs and this one's own readers find them again."""

import csv
import json
import sys
from datetime import datetime
from xml.etree import ElementTree

import numpy as np
import pytest

from recordings.edf import read_header
from recordings.event_files import TimeAxis, read_annotations
from reports import exports
from reports.run_folder import RunFolder
from utils import DataError

COLUMNS = ("recording", "kind", "start_s", "end_s", "channel", *exports.EVIDENCE)
EVENTS = [                               # kind, start, end, channel, reduction
    ("central_apnea", 400.2, 412.6, "flow", "0.98"), ("signal_loss", 12.0, 20.4, "belt, left", ""),
    ("obstructive_apnea", 500.0, 520.4, "flow", "0.91"), ("hypopnea", 600.0, 633.2, "flow", "0.4"),
    ("desaturation", 420.0, 455.0, "spo2", ""), ("periodic_breathing", 400.2, 633.2, "", ""),
    ("belt_slip", 900.0, 901.4, "belt, left", ""), ("other", 1000.2, 1000.2, "flow", ""),
]  # fmt: skip
STARTS = {
    "dated": datetime(2024, 3, 30, 23, 59, 59, 500000), "time of day": datetime(1900, 1, 1, 22, 0, 0, 250000),
    "never set": datetime(1979, 12, 31, 23, 50), "none": None,
}  # fmt: skip


def write_run(root, recordings, rows=EVENTS, **data):
    """Write what an export needs of a run: recording -> its clock at time 0."""
    root.mkdir()
    with (root / "events.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for name in recordings:
            for row in rows:
                cells = dict(zip(COLUMNS[1:6], row, strict=True))
                table.writerow({"recording": name, **cells})
    about = [
        {"name": name, "start_s": 0.0, "end_s": 1800.0} | ({"start": start.isoformat()} if start else {})
        for name, start in recordings.items()
    ]
    (root / "data.json").write_text(json.dumps({"is_series": False, "recordings": about} | data))
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = write_run(tmp_path_factory.mktemp("exports") / "run", STARTS)
    pytest.importorskip("edfio", reason="pip install -r requirements-formats.txt")
    exports.export_runs(root, list(exports.FORMATS))
    return RunFolder(root)


def expected(name):
    """Return start, duration and what `name` of `Names` says, in time order."""
    rows = sorted(EVENTS, key=lambda row: row[1])
    return [(a, b - a, getattr(exports.names_of(kind), name).partition("|")[0]) for kind, a, b, *_ in rows]


def assert_same(found, wanted, within_s=1e-3):
    assert [text for *_, text in found] == [text for *_, text in wanted]
    np.testing.assert_allclose([row[:2] for row in found], [row[:2] for row in wanted], atol=within_s)


@pytest.mark.parametrize("recording", STARTS)
@pytest.mark.parametrize("kind, name", [("edf+", "text"), ("annot", "luna"), ("nsrr", "concept"), ("csv", "text")])
def test_own_readers_find_the_same_events(run, recording, kind, name):
    axis = TimeAxis(0.0, 1800.0, STARTS[recording])
    read = read_annotations(run.export(recording, exports.FORMATS[kind][0]), axis)
    found = [(e.start_s, e.end_s - e.start_s, e.label) for e in read if e.label != "Recording starts"]
    assert_same(found, expected(name))


@pytest.mark.parametrize("recording", STARTS)
@pytest.mark.parametrize("kind", ["edf+", "csv"])
def test_mne_finds_the_same_onsets(run, recording, kind):
    mne = pytest.importorskip("mne", reason="pip install -r requirements-dev.txt")
    read = mne.read_annotations(run.export(recording, exports.FORMATS[kind][0]))
    rows = zip(read.onset, read.duration, map(str, read.description), strict=True)
    assert_same([row for row in rows if row[2] != "Recording starts"], expected("text"))
    if kind == "csv":
        dated = {"dated": STARTS["dated"], "never set": STARTS["never set"]}.get(recording)
        assert (read.orig_time.replace(tzinfo=None) if read.orig_time else None) == dated


def test_mne_puts_the_csv_on_a_recording(run):
    mne = pytest.importorskip("mne", reason="pip install -r requirements-dev.txt")
    for recording in ("dated", "none"):
        raw = mne.io.RawArray(np.zeros((1, 9000)), mne.create_info(["flow"], 5.0), verbose="error")
        if start := STARTS[recording]:
            raw.set_meas_date((int((start - datetime(1970, 1, 1)).total_seconds()), 500000))
        raw.set_annotations(mne.read_annotations(run.export(recording, "-annot.csv")))
        assert raw.annotations.onset[2] == pytest.approx(400.2, abs=1e-6)


def test_pyedflib_finds_the_same_annotations(run):
    pyedflib = pytest.importorskip("pyedflib", reason="pip install -r requirements-dev.txt")
    with pyedflib.EdfReader(str(run.export("dated", ".annotations.edf"))) as file:
        assert_same(list(zip(*file.readAnnotations(), strict=True)), expected("text"))
        assert file.getStartdatetime().replace(microsecond=0) == datetime(2024, 3, 30, 23, 59, 59)


def test_the_header_of_an_edf_states_only_a_clock_that_is_known(run):
    starts = {name: read_header(run.export(name, ".annotations.edf")).start for name in STARTS}
    assert starts == {"dated": datetime(2024, 3, 30, 23, 59, 59), "time of day": datetime(1985, 1, 1, 22),
                      "never set": datetime(1985, 1, 1, 23, 50), "none": datetime(1985, 1, 1)}  # fmt: skip


def test_nsrr_has_its_epochs_concepts_and_places(run):
    root = ElementTree.parse(run.export("dated", "-nsrr.xml")).getroot()
    first, second, *_ = root.iter("ScoredEvent")
    assert (root.tag, root.findtext("EpochLength")) == ("PSGAnnotation", "30")
    assert [child.text for child in first] == [None, "Recording Start Time", "0", "1800.000", "00.00.00 23.59.59"]
    assert [child.text for child in second] == [
        "Respiratory|Respiratory", "Signal artifact|SIGNAL-ARTIFACT", "12.000", "8.400", "belt, left",
    ]  # fmt: skip


def test_luna_gets_the_evidence(run):
    lines = run.export("none", ".annot").read_text().splitlines()
    assert lines[0] == "class\tinstance\tchannel\tstart\tstop\tmeta"
    assert "apnea_central\t.\tflow\t400.200\t412.600\treduction=0.98" in lines
    assert "periodic_breathing\t.\t.\t400.200\t633.200\t." in lines


def test_a_recording_without_events_can_be_read_by_mne(tmp_path):
    mne = pytest.importorskip("mne", reason="pip install -r requirements-dev.txt")
    root = write_run(tmp_path / "run", {"quiet": None}, rows=[])
    exports.export_run(RunFolder(root))
    assert [path.name for path in (root / "exports").iterdir()] == ["quiet-annot.csv"]      # always, and alone
    assert mne.read_annotations(root / "exports" / "quiet-annot.csv").description.tolist() == ["Recording starts"]


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    series = write_run(tmp_path / "series", {}, is_series=True)
    (cut := write_run(tmp_path / "cut", {"one": None}) / "events.csv").write_text("recording,start_s\none,5\n")
    monkeypatch.setitem(sys.modules, "edfio", None)
    for arguments, words in (
        ([tmp_path / "nothing"], "needs edfio: pip install -r requirements-formats.txt"),
        ([tmp_path / "nothing", "--formats", "annot"], "no data.json; expected the folder of a finished run"),
        ([series, "--formats", "annot"], "holds series; only the events of recordings are exported"),
        ([cut.parent, "--formats", "annot"], "data.json and events.csv are not of one run (KeyError"),
        ([series, "--formats", "edf"], "--export edf: expected edf+, annot, nsrr, csv"),
    ):  # fmt: skip
        assert exports.main(list(map(str, arguments))) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("exports"))


def test_formats_are_checked_before_anything_is_written(monkeypatch):
    monkeypatch.setitem(sys.modules, "edfio", None)
    exports.check_formats(["annot", "nsrr", "csv"])
    with pytest.raises(DataError, match=r"^--export edf\+ needs edfio"):
        exports.check_formats(["csv", "edf+"])
