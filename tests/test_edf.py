"""EDF and BDF files as people have them: odd headers are read with a note, times are right, doubts are refused."""

import shutil
from collections import Counter
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from edf_files import edf_bytes, signal, tal
from hypothesis import given, settings
from hypothesis import strategies as st

from config import DatasetConfig
from recordings.edf import is_edf, read_edf
from recordings.preprocessing import load_recording, on_grid
from recordings.reading import Dialect, name_of, read_recording
from recordings.signals import NoSamples, indices_of, unique_names
from utils import ROOT, DataError

FLOW = np.random.default_rng(0).integers(-3000, 3000, 250)           # 10 s at 25 Hz
SPO2 = np.arange(10) + 9500
CASES = ROOT.parent / "shared" / "cases"


def signals(**other):
    return [signal("Flow", FLOW, 25), signal("SpO2", SPO2, 1, "%", **other)]


def read(path, content, wanted=None):
    path.write_bytes(content)
    return read_edf(path, wanted)


def check_flow(found, count=250):
    np.testing.assert_allclose(found.signals["Flow"].values, FLOW[:count] / 100, atol=1e-9)
    np.testing.assert_array_equal(found.signals["Flow"].t, np.arange(count) / 25)


# ---- headers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "note"),
    [
        ({"patient": "Muñoz"}, "not plain ASCII"),
        ({"patient": "Müller".encode()}, "not plain ASCII"),
        ({"date": "30/03/24", "time": "23:55:00"}, "'30/03/24', is read as 2024-03-30"),
        ({"date": "30-03-24"}, "is read as 2024-03-30"),
        ({"date": "03.30.24"}, "'03.30.24', is read as 2024-03-30"),
        ({"date": "01.01.85"}, "is read as 2024-03-30"),
        ({"records": "-1"}, "the header says '-1' records; the 10 complete ones in the file are read"),
        ({"records": "0"}, "the header says '0' records; the 10"),
        ({"records": ""}, "the header says '' records; the 10"),
        ({"records": "8"}, "bytes behind the last of 8 records are not read"),
        ({"bytes": "768,0"}, None),
    ],
    ids=str,
)
def test_a_detail_of_the_header_is_read_with_a_note(tmp_path, head, note):
    found = read(tmp_path / "a.edf", edf_bytes(signals(), [], **head))
    check_flow(found, 200 if head.get("records") == "8" else 250)
    assert found.start == datetime(2024, 3, 30, 23, 55)
    assert [line for line in found.notes if note and note in line] if note else not found.notes


@pytest.mark.parametrize(
    "head",
    [
        {"date": "00.00.00", "time": "00.00.00"}, {"date": "XX.XX.XX", "recording": "X"}, {"time": "25.00.00"},
        {"date": "31.02.24", "recording": "Startdate X X X X"}, {"date": "", "time": "", "recording": ""},
    ],
)  # fmt: skip
def test_a_start_that_is_none_gives_no_clock(tmp_path, head):
    found = read(tmp_path / "a.edf", edf_bytes(signals(), [], **head))
    check_flow(found)
    assert found.start is None and "no clock" in found.notes[0]


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"physical_min": 0, "physical_max": 0}, "physical minimum and maximum are both 0"),
        ({"digital_min": 0, "digital_max": 0}, "digital minimum is 0, its digital maximum 0"),
        ({"digital_min": 9, "digital_max": -9}, "digital minimum is 9, its digital maximum -9"),
        ({"physical_max": "n/a"}, "'n/a'"), ({"physical_max": ""}, "''"), ({"physical_max": "nan"}, "'nan'"),
        ({"physical_max": "1,000"}, "'1,000'"),
    ],
)  # fmt: skip
def test_a_fault_of_another_signal_leaves_the_wanted_one(tmp_path, other, fault):
    path = tmp_path / "a.edf"
    found = read(path, edf_bytes(signals(**other)))
    check_flow(found)
    assert list(found.signals) == ["Flow"] and "'SpO2' is not read" in found.notes[0] and fault in found.notes[0]
    assert read_edf(path, ["Flow"]).notes == []
    with pytest.raises(DataError, match="^a.edf: signal 'SpO2' has no scale: "):
        read_edf(path, ["SpO2"])


def test_a_file_in_which_no_signal_has_a_scale_says_why(tmp_path):
    content = edf_bytes([signal("Flow", FLOW, 25, physical_min=0, physical_max=0)])
    with pytest.raises(DataError, match="^a.edf: no signal can be read: 'Flow': its physical minimum and maximum are"):
        read(tmp_path / "a.edf", content)


def test_decimal_commas_are_read_and_thousands_are_not_taken_for_them(tmp_path):
    limits = {"physical_min": "-327,67", "physical_max": "327,67"}
    found = read(tmp_path / "a.edf", edf_bytes([signal("Flow", FLOW, 25, **limits)]))
    check_flow(found)
    assert found.notes == ["the header has decimal commas, such as '-327,67'"]


def test_an_inverted_signal_keeps_its_sign(tmp_path):
    limits = {"physical_min": "327.67", "physical_max": "-327.67"}
    found = read(tmp_path / "a.edf", edf_bytes([signal("Flow", FLOW, 25, **limits)]), ["Flow"])
    np.testing.assert_allclose(found.signals["Flow"].values, -FLOW / 100, atol=1e-9)


@pytest.mark.parametrize("unit", ["°C", "µV", "L/min"])
def test_units_in_latin_1_are_units(tmp_path, unit):
    found = read(tmp_path / "a.edf", edf_bytes([signal("T", FLOW, 25, unit.encode("latin-1"))]))
    assert found.signals["T"].unit == unit


@pytest.mark.parametrize("name", ["night.rec", "night.EDF", "night.data", "night", "night.csv", "night.BDF"])
def test_a_file_is_recognised_by_its_content(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(edf_bytes(signals(), bdf=name.endswith("BDF")))
    recording = read_recording(path, ["Flow"])
    np.testing.assert_allclose(recording.channels["Flow"].values, FLOW / 100, atol=1e-9)
    assert recording.start == datetime(2024, 3, 30, 23, 55)
    assert name_of(path) == ("night.data" if name == "night.data" else "night")


def test_a_table_that_begins_with_a_zero_is_no_edf(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("0       ,1.5\n" + "1       ,2.5\n" * 100)
    assert not is_edf(path) and not is_edf(tmp_path / "absent")


@pytest.mark.parametrize("bdf", [False, True])
def test_a_truncated_file_is_read_as_far_as_records_are_complete(tmp_path, bdf):
    content = edf_bytes(signals(), [], bdf=bdf)
    for lost, complete in ((1, 9), (200, 8)):
        found = read(tmp_path / "a.edf", content[:-lost])
        complete = len(found.signals["Flow"].values) // 25
        check_flow(found, 25 * complete)
        assert f"cut off: {complete} of 10 records are complete and are read" in found.notes


@given(st.lists(st.sampled_from(["Flow", "Flow.1", "Flow.2", "Flow.1.1", "", "signal 2", "x"]), max_size=8))
def test_names_are_distinct_and_a_label_that_occurs_once_is_its_name(labels):
    names = unique_names(labels)
    assert len(set(names)) == len(names) == len(labels)
    for label, name in zip(labels, names, strict=True):
        alone = labels.count(label) == 1
        assert name == label or not alone or not label
        assert indices_of([name], labels, "f") == {name: names.index(name)}
        if label and not alone and label not in names:
            with pytest.raises(DataError, match=f"f: {labels.count(label)} signals are called"):
                indices_of([label], labels, "f")


# ---- times ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0.5, 0.25, 0.999999, 3600.125])
def test_a_start_within_a_second_is_that_of_the_first_record(tmp_path, first):
    content = edf_bytes(signals(), [(first + 4, 2, "apnea")], onsets=first + np.arange(10))
    found = read(tmp_path / "a.edf", content)
    check_flow(found)
    assert (found.start - datetime(2024, 3, 30, 23, 55)).total_seconds() == pytest.approx(first, abs=1e-3)
    assert [(round(a.at_s, 3), a.duration_s, a.text) for a in found.annotations] == [(4, 2, "apnea")]


@pytest.mark.parametrize("bdf", [False, True])
def test_a_recording_with_gaps_keeps_them(tmp_path, bdf):
    onsets = np.r_[0:4, 10:13, 100.5, 101.5, 102.5]
    content = edf_bytes(signals(), [(11, 2, "apnea")], onsets=onsets, bdf=bdf, reserved="BDF+D" if bdf else "EDF+D")
    found = read(tmp_path / "a.edf", content)
    t = (onsets[:, None] + np.arange(25) / 25).ravel()
    np.testing.assert_allclose(found.signals["Flow"].t, t, atol=1e-12)
    np.testing.assert_allclose(found.signals["Flow"].values, FLOW / 100, atol=1e-9)
    np.testing.assert_allclose(found.signals["SpO2"].t, onsets)
    assert found.notes == [f"{'BDF' if bdf else 'EDF'}+D: 2 gaps between records, 93.5 s in total"]
    assert [(a.at_s, a.text) for a in found.annotations] == [(11, "apnea")]


@pytest.mark.parametrize(
    ("onsets", "told"),
    [([0, 1, 1.5], "record 3 starts at 1.5 s, the one before at 1 s"), ([0, 5, 3], "record 3 starts at 3 s")],
)
def test_records_that_overlap_are_refused(tmp_path, onsets, told):
    content = edf_bytes([signal("Flow", FLOW[:75], 25)], [], onsets=onsets, reserved="EDF+D")
    with pytest.raises(DataError, match=f"^a.edf: {told}"):
        read(tmp_path / "a.edf", content)


def test_a_recording_with_gaps_needs_the_time_of_each_record(tmp_path):
    content = edf_bytes(signals(), [], reserved="EDF+D").replace(tal(3.0), b"\0" * len(tal(3.0)))
    with pytest.raises(DataError, match="^a.edf: record 4 has no time; expected one in a recording with gaps"):
        read(tmp_path / "a.edf", content)
    with pytest.raises(DataError, match="record 1 has no time"):
        read(tmp_path / "a.edf", edf_bytes(signals(), reserved="EDF+D"))


def test_times_of_records_that_disagree_with_edf_plus_c_are_noted(tmp_path):
    found = read(tmp_path / "a.edf", edf_bytes(signals(), [], onsets=np.arange(10) * 3.0))
    check_flow(found)
    assert found.notes == ["the records' times are off by up to 18 s; they are read without gaps"]


def test_odd_annotations_are_read_or_counted(tmp_path):
    notes = [("+1", 2, "a\x14b"), ("+2,5", "1,5", "c"), ("soon", None, "d"), ("+4", "", "e"), ("5", 1, "é")]
    found = read(tmp_path / "a.edf", edf_bytes(signals(), notes))
    annotations = [(a.at_s, a.duration_s, a.text) for a in found.annotations]
    expected = [(1, 2, "a"), (1, 2, "b"), (2.5, 1.5, "c"), (4, None, "e"), (5, 1, "é")]
    assert annotations == expected and found.notes == ["unreadable and left out: 1 annotation"]


# ---- files without samples ------------------------------------------------------------------


def test_files_without_samples_say_what_they_hold(tmp_path):
    path = tmp_path / "a.edf"
    with pytest.raises(NoSamples, match="^a.edf: no signals, only 2 annotations: 'apnea' \\(2\\); name the recording"):
        read(path, edf_bytes([], [(1, 2, "apnea"), (3, 1, "apnea")], 0.0, onsets=np.zeros(3), reserved="EDF+D"))
    with pytest.raises(NoSamples, match="^a.edf: no samples: 1 signal of 0 records; leave it out$"):
        read(path, edf_bytes([signal("Flow", [], 25)]))
    with pytest.raises(DataError, match="the duration of a record is 0 s"):
        content = edf_bytes([signal("Flow", FLOW, 25)], [])
        read(path, content.replace(b"10      1       ", b"10      0       "))


# ---- other readers --------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    rates=st.lists(st.sampled_from([1, 5, 25, 100, 256]), min_size=1, max_size=4),
    gain=st.sampled_from([0.01, 0.002, 1.0]), records=st.integers(1, 5), bdf=st.booleans(), plus=st.booleans(),
)  # fmt: skip
def test_samples_are_those_of_pyedflib(tmp_path_factory, rates, gain, records, bdf, plus):
    pyedflib = pytest.importorskip("pyedflib", reason="pip install -r requirements-dev.txt")
    path = tmp_path_factory.mktemp("edf") / ("a.bdf" if bdf else "a.edf")
    random = np.random.default_rng(len(rates))
    parts = [signal(f"s{k}", random.integers(-30000, 30000, records * r), r, "mV", gain) for k, r in enumerate(rates)]
    notes = [(0.5, 0.25, "apnea")] if plus else None
    path.write_bytes(edf_bytes(parts, notes, bdf=bdf))
    found = read_edf(path)
    with pyedflib.EdfReader(str(path)) as file:
        assert file.getSignalLabels() == list(found.signals)
        for k, one in enumerate(found.signals.values()):
            np.testing.assert_allclose(one.values, file.readSignal(k), rtol=1e-9, atol=1e-9)
            assert file.getSampleFrequency(k) == rates[k]
        assert file.getStartdatetime() == found.start
        spans = list(zip(*file.readAnnotations()[:2], strict=True))
        assert [(a.at_s, a.duration_s) for a in found.annotations] == spans


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_header_cases_are_read_as_mne_reads_them(tmp_path):
    mne = pytest.importorskip("mne", reason="MNE is not installed")
    for file in sorted((CASES / "edf_header_details").glob("*.edf")):
        raw = mne.io.read_raw_edf(shutil.copy(file, tmp_path), units={}, verbose="error")
        np.testing.assert_allclose(read_edf(file).signals["Flow"].values, raw.get_data("Flow")[0], atol=1e-9)


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
def test_the_cases_of_edf_are_read(tmp_path):
    for file in sorted((CASES / "edf_header_details").glob("*.edf")):
        recording = read_recording(file, ["Flow"])
        values = recording.channels["Flow"].values
        assert (round(values.min(), 2), round(values.max(), 2)) == (-36.45, 37.08)
        assert [(e.start_s, e.end_s) for e in recording.annotations if e.label == "apnea"] == [(400, 425)]
    half = read_recording(CASES / "edf_start_subsecond" / "half.edf")
    assert half.start == datetime(2024, 3, 30, 23, 55, 0, 500000)
    names = list(read_recording(CASES / "edf_duplicate_label_collision" / "dup.edf").channels)
    assert Counter(names) == Counter(["Flow.1", "Flow.2", "Flow.3"])
    for name, spans in {"beyond": [(400, 425), (590, 600)], "negative": [(400, 425)], "after": [(400, 425)]}.items():
        recording = read_recording(CASES / "edf_annotation_outside" / f"{name}.edf", ["Flow"], Dialect())
        assert [(e.start_s, e.end_s) for e in recording.annotations if e.label == "apnea"] == spans
        assert any(line.startswith("1 annotation ") for line in recording.notes)


def test_a_recording_with_gaps_gives_the_windows_of_its_csv(tmp_path):
    onsets = np.r_[0:60, 90:150] * 1.0
    flow = np.round(3000 * np.sin(np.arange(120 * 25) / 16)).astype(int)
    content = edf_bytes([signal("flow", flow, 25)], [(100, 10, "apnea")], onsets=onsets, reserved="EDF+D")
    (tmp_path / "edf.edf").write_bytes(content)
    t = (onsets[:, None] + np.arange(25) / 25).ravel()
    pd.DataFrame({"t_s": t, "flow": flow / 100}).to_csv(tmp_path / "csv.csv", index=False)
    (tmp_path / "csv.events.csv").write_text("start_s,end_s,label\n100,110,apnea\n")
    data = DatasetConfig(
        description="x", raw_dir=".", raw_hint="x", rate_hz=5.0, split={"train": ["a"], "val": ["b"], "test": ["c"]},
        channels={"flow": {"unit": "L/min", "measures": "airflow", "rate_hz": 25.0}}, labels={"apnea": "apnea"},
    )  # fmt: skip
    one, other = (
        on_grid(load_recording(tmp_path / f"{name}.{name}", name, data), data, []) for name in ("edf", "csv")
    )
    np.testing.assert_allclose(one.values, other.values, atol=1e-9)
    np.testing.assert_array_equal(one.label, other.label)
    assert np.isnan(one.values[310:440]).all() and len(one) == 750
