"""ResMed cards: nights, sessions on one clock, channels by what they are, events stamped at their ends."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from edf_files import write_card, write_empty, write_events, write_session

import collected_data_preprocess
import pure_lstm_anomaly_detection_main as main_script
from config import DatasetConfig, load_dataset_config
from recordings import preprocessing, resmed_card
from recordings.inspection import describe
from recordings.reading import Dialect, read_recording
from recordings.signals import NoSamples
from utils import ROOT, DataError, sha256_of

SHARED = ROOT.parent / "shared"
CARDS = SHARED / "data" / "respiratory" / "resmed_cards"
EXPECTED = SHARED / "reference" / "resmed_cards_expected.json"
START = datetime(2024, 3, 30, 23, 55)
FLOW = {"unit": "L/min", "measures": "airflow", "rate_hz": 25.0}
needs_cards = pytest.mark.skipif(not CARDS.is_dir(), reason="the real cards are not here")


def nights():
    return json.loads(EXPECTED.read_text()) if EXPECTED.is_file() else {}


# ---- real cards -----------------------------------------------------------------------------


@needs_cards
@pytest.mark.parametrize("name", nights())
def test_a_real_night_has_the_sessions_that_an_independent_reader_found(name):
    machine, date = name.split("/")
    (night,) = resmed_card.nights_in(CARDS / machine).values()
    assert night.name == date
    recording, sessions = read_recording(night, ["flow"]), nights()[name]["sessions"]
    flow = recording.channels["flow"]
    borders = np.flatnonzero(np.diff(flow.t) > 1.0) + 1
    for session, t, values in zip(sessions, np.split(flow.t, borders), np.split(flow.values, borders), strict=True):
        assert recording.start + timedelta(seconds=float(t[0])) == datetime.fromisoformat(session["start"])
        assert (len(values), flow.unit) == (session["samples"], session["unit"])
        assert values.mean() == pytest.approx(session["mean"], abs=1e-6)
        assert values.std() == pytest.approx(session["std"], abs=1e-6)


@needs_cards
@pytest.mark.parametrize("name", nights())
def test_a_real_night_has_the_events_that_an_independent_reader_found(name):
    machine, date = name.split("/")
    recording = read_recording(CARDS / machine / "DATALOG" / date, ["flow"])
    clock = [recording.start + timedelta(seconds=e.end_s) for e in recording.annotations]
    found = [(e.label, str(at), e.end_s - e.start_s) for e, at in zip(recording.annotations, clock, strict=True)]
    assert found == [(e["label"], e["end"], e["duration_s"]) for e in nights()[name]["events"]]


@needs_cards
@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "csv"),
    [("aircurve10_vauto", "cpap_aircurve"), ("airsense11_apap", "cpap_airsense"), ("asv_auto", "cpap_asv")],
)
def test_the_windows_of_a_card_are_those_of_its_csv_files(machine, csv):
    """Steps of the CSVs that were made of a card have its values, up to their rounding, and its labels."""
    data = load_dataset_config(ROOT / "dataset_config.json", "cpap_flow")
    channels = data.channels | {
        "mask_pressure_cmh2o": data.channels["flow_lpm"].model_copy(update={"unit": "cmH2O", "measures": "other"})
    }
    data = data.model_copy(update={"annotation_s": 10.0, "early_onset_s": {}, "channels": channels})
    (night,) = resmed_card.nights_in(CARDS / machine).values()
    recording = preprocessing.load_recording(night, night.name, data)
    flow_t = recording.channels["flow_lpm"].t
    starts = flow_t[np.r_[0, np.flatnonzero(np.diff(flow_t) > 1.0) + 1]]
    card = preprocessing.on_grid(recording, data, [])
    for number, start_s in enumerate(starts, start=1):
        name = f"{csv}_{number}"
        part = preprocessing.load_recording(CARDS.parent / f"{name}.csv.gz", name, data)
        segment = preprocessing.on_grid(part, data, [])
        at = round((start_s - card.t[0]) * data.rate_hz)
        same = card.cut(at, at + len(segment))
        known = np.isfinite(segment.values) & np.isfinite(same.values)
        assert known.sum() > 0.99 * np.isfinite(segment.values).sum()
        np.testing.assert_allclose(same.values[known], segment.values[known], atol=0.02)
        np.testing.assert_array_equal(same.label, segment.label)


@needs_cards
@pytest.mark.slow
def test_a_real_card_is_scored_by_the_shipped_model(tmp_path, capsys):
    model = ["--checkpoint", str(ROOT / "models" / "cpap_flow.safetensors"), "--device", "cpu"]
    score = ["--score", str(CARDS / "airsense11_apap"), "--out", str(tmp_path / "out")]
    assert main_script.main([*model, *score]) == 0
    labels = pd.read_csv(tmp_path / "out" / "labels.csv", dtype={"recording": str})
    assert labels["kind"].tolist() == ["obstructive_apnea", "central_apnea", "hypopnea"]
    assert set(labels["recording"]) == {"20241017"}


@needs_cards
@pytest.mark.parametrize(("card", "lost", "note"), [
    ("airsense11_apap", "20241018_023945_BRP.edf", "no flow of the session that began at 02:39:44: its BRP file"),
    ("airsense11_apap", "20241018_055249_EVE.edf", "no events of the session that began at 05:52:56: its EVE file"),
    ("aircurve10_vauto", "20250203_040111_BRP.edf", "no flow of the session that began at 04:01:13: its BRP file"),
    ("aircurve10_vauto", "", ""), ("airsense11_apap", "", ""), ("asv_auto", "", ""),
])  # fmt: skip
def test_a_file_that_is_lost_from_a_real_card_is_noted(tmp_path, card, lost, note):
    (night,) = resmed_card.nights_in(CARDS / card).values()
    copy = tmp_path / night.name
    copy.mkdir()
    for file in night.iterdir():
        if file.name != lost:
            (copy / file.name).symlink_to(file)
    found = [text for text in read_recording(copy, ["flow"]).notes if text.startswith("no ")]
    assert found == ([f"{note} is missing, or empty"] if lost else [])


@pytest.mark.parametrize("names", [["STR.edf"], ["DATALOG/"], ["STR.edf", "DATALOG/20240330/"], ["str.edf", "a.txt"]])
def test_a_card_without_a_night_is_refused_by_that_name(tmp_path, names, capsys):
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            (tmp_path / name).write_bytes(b"0       ")
    assert collected_data_preprocess.main(["--inspect", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a ResMed card without a night: expected DATALOG/<night>/*_BRP.edf" in line


# ---- nights made by the test ----------------------------------------------------------------


def test_sessions_are_joined_on_one_clock_with_gaps_between(tmp_path):
    night = write_card(tmp_path, START)
    write_empty(night, START + timedelta(hours=3))
    recording = read_recording(night)
    assert (recording.name, recording.start) == ("20240330", START)
    flow = recording.channels["flow"]
    assert (flow.unit, len(flow.t)) == ("L/s", 2 * 1200 * 25)
    np.testing.assert_allclose(flow.t, np.r_[0 : 1200 * 25, 1800 * 25 : 3000 * 25] / 25, atol=1e-9)
    assert [(e.start_s, e.end_s, e.label) for e in recording.annotations] == [
        (400, 425, "Central Apnea"), (2100, 2120, "Central Apnea"),
    ]  # fmt: skip
    assert set(recording.channels) == {"flow", "mask_pressure", "leak"}
    assert recording.channels["leak"].values.min() == 0              # -1 is "not computed"
    text = "\n".join(describe(recording))
    assert text.count("Crc16") == 1 and text.count("_BRP.edf") == 1 and "2 sessions" in text
    assert "'spo2' is not read: it has no values" in recording.notes


def test_what_an_oximeter_did_not_measure_is_missing(tmp_path):
    spo2, pulse = np.full(120, 95), np.full(120, 60)
    spo2[:30], pulse[:20], spo2[40], spo2[41] = -1, -1, 0, 127
    write_session(tmp_path / "n", START, 120, spo2=spo2, pulse=pulse)
    recording = read_recording(tmp_path / "n", ["spo2", "pulse"], allow_dead=True)
    assert recording.channels["spo2"].t.tolist() == [t for t in range(30, 120) if t not in (40, 41)]
    assert recording.channels["pulse"].t.tolist() == list(range(20, 120))


def test_a_channel_that_a_night_lacks_is_empty_and_an_unknown_one_is_refused(tmp_path):
    write_session(tmp_path / "n", START, 120, kinds=("BRP",))
    recording = read_recording(tmp_path / "n", ["flow", "spo2"], allow_dead=True)
    assert len(recording.channels["spo2"].t) == 0 and len(recording.channels["flow"].t) == 3000
    with pytest.raises(DataError, match="channel 'spo2' has no values"):
        read_recording(tmp_path / "n", ["flow", "spo2"])
    with pytest.raises(DataError, match="^n: no channel 'thorax'; the night has flow, mask_pressure$"):
        read_recording(tmp_path / "n", ["thorax"])


def test_events_end_at_their_stamps_and_those_without_duration_are_said(tmp_path):
    night = tmp_path / "n"
    write_session(night, START, 600)
    write_events(night, START - timedelta(seconds=30), [(130, 12, "Obstructive Apnea"), (230, 0, "Hypopnea")])
    write_events(night, START + timedelta(seconds=300), [(100, 0, "Hypopnea"), (400, 10, "Central Apnea")])
    write_events(night, START, [(200, None, "CSR Start"), (290, None, "CSR End")], kind="CSL")
    recording = read_recording(night, ["flow"], Dialect(annotation_s=10.0))
    assert [(e.start_s, e.end_s, e.label) for e in recording.annotations] == [
        (88, 100, "Obstructive Apnea"), (190, 200, "Hypopnea"), (200, 290, "CSR"), (390, 400, "Hypopnea"),
    ]  # fmt: skip
    (line,) = [note for note in recording.notes if "without a duration" in note]
    assert line.startswith("2 events without a duration, 'Hypopnea' (2)")
    assert "1 annotation outside the recording, left out: the first 'Central Apnea' at 690 s" in recording.notes


@pytest.mark.parametrize("apart_s", [600.0, 119.0, 60.0])
def test_clocks_may_overlap_by_their_rounding_no_more(tmp_path, apart_s):
    for k in range(2):
        write_session(tmp_path / "n", START + timedelta(seconds=k * apart_s), 120, seed=k, kinds=("BRP",))
    if apart_s == 60:
        with pytest.raises(DataError, match=r"^n: a session of flow starts at 60 s, .* clock set back\?"):
            read_recording(tmp_path / "n")
    else:
        t = read_recording(tmp_path / "n").channels["flow"].t
        assert (np.diff(t) > 0).all() and t[-1] == pytest.approx(apart_s + 119.96)


def test_a_damaged_file_counts_only_where_it_is_wanted(tmp_path):
    night = write_card(tmp_path, START)
    leak = sorted(night.glob("*_PLD.edf"))[1]
    leak.write_bytes(leak.read_bytes()[:300])
    recording = read_recording(night)
    assert any(line.startswith(f"not read: {leak.name}: truncated") for line in recording.notes)
    assert len(read_recording(night, ["flow"]).channels["flow"].t) == 60000
    with pytest.raises(DataError, match=f"^{leak.name}: truncated"):
        read_recording(night, ["leak"])


def test_a_session_that_is_cut_off_is_read_with_a_note(tmp_path):
    night = write_card(tmp_path, START)
    last = sorted(night.glob("*_BRP.edf"))[1]
    last.write_bytes(last.read_bytes()[:-100])
    recording = read_recording(night, ["flow"])
    assert len(recording.channels["flow"].t) == 60000 - 1500
    assert f"{last.name}: cut off: 19 of 20 records are complete and are read" in recording.notes


def test_nights_are_found_on_a_card_in_its_log_and_alone(tmp_path, monkeypatch):
    first = write_card(tmp_path, START)
    second = write_card(tmp_path, START + timedelta(days=1, hours=1))        # begins after midnight
    both = {"20240330": first, "20240331": second}
    assert resmed_card.nights_in(tmp_path) == resmed_card.nights_in(tmp_path / "DATALOG") == both
    assert resmed_card.nights_in(second) == {"20240331": second}
    (tmp_path / "x").mkdir()
    assert resmed_card.nights_in(tmp_path / "x") == {}
    monkeypatch.chdir(second)
    assert list(resmed_card.nights_in(Path("."))) == ["20240331"]


def test_a_folder_of_many_nights_and_one_of_none_are_refused(tmp_path):
    for days in range(3):
        write_session(tmp_path / "flat", START + timedelta(days=days), 120)
    with pytest.raises(DataError, match="^flat: 48 h from its first to its last sample; expected one night"):
        read_recording(tmp_path / "flat")
    (tmp_path / "n").mkdir()
    write_empty(tmp_path / "n", START)
    with pytest.raises(NoSamples, match="^n: no samples in its 1 file; leave this night out"):
        read_recording(tmp_path / "n")


@pytest.mark.parametrize(
    ("names", "maker"),
    [
        (["P-Series/last.txt"], "Philips"), (["12345.001", "12345.002"], "Philips"),
        (["config.pcfg", "therapy.pdat"], "Loewenstein"), (["therapy.psdat"], "Loewenstein"),
    ],
)  # fmt: skip
def test_the_card_of_another_maker_is_one_line_that_says_what_is_supported(tmp_path, capsys, names, maker):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert collected_data_preprocess.main(["--inspect", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"a {maker} card" in line and "supported are ResMed cards (DATALOG/<night>/*_BRP.edf)" in line


@pytest.mark.parametrize(
    ("name", "measures", "channel"),
    [
        ("flow", "airflow", "flow"), ("flow_lpm", "airflow", "flow"), ("nasal", "airflow", "flow"),
        ("mask_pressure_cmh2o", "other", "mask_pressure"), ("mask_pressure_2s", "other", "mask_pressure_2s"),
        ("leak_lpm", "other", "leak"), ("spo2_pct", "oximetry", "spo2"),
        ("flow_limitation", "other", "flow_limitation"),
        ("thorax", "effort", "thorax"), ("leakage", "other", "leakage"), ("Press.40ms", "other", "mask_pressure"),
        ("Press.2s", "other", "therapy_pressure"), ("SpO2.1s", "other", "spo2"), ("Flow.40ms", "airflow", "flow"),
        ("Unknown.2s", "other", "Unknown.2s"),
    ],
)  # fmt: skip
def test_a_channel_of_a_dataset_finds_that_of_the_card(name, measures, channel):
    assert resmed_card.channel_for(name, measures) == channel


# ---- as a user ------------------------------------------------------------------------------


def entry_of(**changes):
    return {
        "description": "made by a test", "raw_dir": "card", "raw_hint": "copy it there", "rate_hz": 5.0,
        "guard_s": 10.0,
        "channels": {"flow_lpm": FLOW, "leak": {"unit": "L/min", "rate_hz": 0.5}}, "annotation_s": 10.0,
        "split": {"train": ["20240330"], "test": ["20240331"], "val_fraction": 0.4},
        "labels": {"Central Apnea": "central_apnea"}, **changes,
    }  # fmt: skip


@pytest.fixture
def card(tmp_path):
    for days in range(2):
        write_card(tmp_path / "card", START + timedelta(days=days))
    return tmp_path / "card"


def preprocess(folder, entry):
    (folder / "d.json").write_text(json.dumps({"nights": entry}))
    arguments = ["--dataset-config", folder / "d.json", "--dataset", "nights", "--out", folder / "out"]
    return collected_data_preprocess.main([str(a) for a in arguments])


def test_a_dataset_takes_a_card_whose_nights_are_named_by_date(card, tmp_path, capsys):
    assert preprocess(tmp_path, entry_of()) == 0
    meta = json.loads((tmp_path / "out" / "nights" / "meta.json").read_text())
    assert [(e["start_s"], e["end_s"]) for e in meta["events"]["20240331"]] == [(400, 425), (2100, 2120)]
    files = [file for night in resmed_card.nights_in(card).values() for file in resmed_card.files_of(night)]
    assert meta["sources"] == {file.name: sha256_of(file) for file in files} and len(files) == 14
    test = pd.read_csv(tmp_path / "out" / "nights" / "test.csv", dtype={"recording": str})
    assert set(test["recording"]) == {"20240331"} and test["flow_lpm"].abs().max() > 20
    assert "20240330: flow_lpm: converted from L/s to L/min" in meta["notes"]


def test_sessions_of_a_night_may_still_be_files_of_their_own(card, tmp_path):
    first, second = sorted(next(card.rglob("20240330")).glob("*_BRP.edf"))
    names = [file.name.removesuffix("_BRP.edf") for file in (first, second)]
    entry = entry_of(
        raw_dir=f"card/DATALOG/{first.parent.name}", file_pattern="{name}_BRP.edf",
        split={"train": names[:1], "test": names[1:], "val_fraction": 0.4},
        channels={"flow_lpm": FLOW | {"source": "Flow.40ms"}},
    )  # fmt: skip
    assert preprocess(tmp_path, entry) == 0


def test_a_night_that_is_not_on_the_card_is_one_line(card, tmp_path, capsys):
    split = {"train": ["20240330"], "test": ["20240401"], "val_fraction": 0.4}
    assert preprocess(tmp_path, entry_of(split=split)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no night '20240401' on the card card; expected of 20240330, 20240331, see split" in line
    assert not (tmp_path / "out").exists()


def test_a_file_of_a_card_alone_refers_to_its_night(card):
    file = next(card.rglob("*_BRP.edf"))
    assert list(read_recording(file).channels) == ["Flow.40ms", "Press.40ms"]
    with pytest.raises(DataError, match="no signal 'flow'; the file has .*; name its folder to read the night of the"):
        read_recording(file, ["flow"])


def test_inspect_describes_every_night(card, capsys):
    assert collected_data_preprocess.main(["--inspect", str(card)]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(\d{8}): ", out, re.MULTILINE) == ["20240330", "20240331"]


def test_a_card_a_night_and_a_copy_of_one_are_scored(card, tmp_path, capsys):
    data = DatasetConfig(**(tiny.DATA | {"channels": {"flow": FLOW}, "labels": {"Central Apnea": "central_apnea"}}))
    (night, _) = resmed_card.nights_in(card).values()
    recording = preprocessing.load_recording(night, "20240330", data)
    values = preprocessing.on_grid(recording, data, []).values[8:5000]
    model = tiny.save_detector(tmp_path / "m.safetensors", [values], tiny.CONFIG, data)
    copied = night.rename(tmp_path / "20240330")
    found = {}
    for name, path, count in (("all", card, 1), ("copy", copied, 1), ("log", card / "DATALOG", 1)):
        arguments = ["--checkpoint", model, "--score", path, "--out", tmp_path / name, "--device", "cpu"]
        assert main_script.main([str(a) for a in arguments]) == 0
        found[name] = pd.read_csv(tmp_path / name / "labels.csv", dtype={"recording": str})
        assert found[name]["recording"].nunique() == count
    assert found["copy"][["start_s", "end_s", "kind"]].to_numpy().tolist() == [
        [400, 425, "central_apnea"], [2100, 2120, "central_apnea"],
    ]  # fmt: skip
    for file in copied.glob("*_EVE.edf"):                            # nobody scored: no label is true or false
        file.unlink()
    arguments = ["--checkpoint", model, "--score", copied, "--out", tmp_path / "plain", "--device", "cpu"]
    assert main_script.main([str(a) for a in arguments]) == 0
    assert json.loads((tmp_path / "plain" / "metrics.json").read_text())["found"]["labelled_recordings"] == 0
