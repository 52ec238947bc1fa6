"""Hypnograms beside recordings and in annotations, and the indices an hour of sleep that they give."""

import math

import numpy as np
import pandas as pd
import pytest
import tiny
from edf_files import edf_bytes

import pure_lstm_anomaly_detection_main as script
from detection.breathing_events import BreathingEvent
from evaluation.nights import NightPart, summarize_night
from recordings.event_files import TimeAxis
from recordings.reading import Event
from recordings.sleep_stages import read_stages, stage_of
from recordings.windowing import EventMeta
from utils import DataError

AXIS = TimeAxis(0.0, 150.0)              # 5 epochs
WANTED = [(0, 30, "W"), (30, 60, "N1"), (60, 90, "N3"), (90, 120, "R")]      # the fifth is not scored


def read(folder, name, text, annotations=(), axis=AXIS):
    if isinstance(text, bytes):
        (folder / name).write_bytes(text)
    else:
        (folder / name).write_text(text)
    return spans(read_stages(folder / "night.csv", "night", axis, annotations))


def spans(stages):
    return None if stages is None else [(one.start_s, one.end_s, one.kind) for one in stages]


def xml(rows):
    events = "".join(
        f"<ScoredEvent><EventConcept>{concept}</EventConcept><Start>{start}</Start><Duration>30</Duration></ScoredEvent>"
        for start, concept in rows
    )
    return f"<PSGAnnotation><ScoredEvents>{events}</ScoredEvents></PSGAnnotation>"


NOTES = [(0, 30, "Sleep stage W"), (30, 30, "Sleep stage 1"), (35, 12, "Hypopnea"), (60, 30, "Sleep stage N3"),
         (90, 30, "Sleep stage R"), (120, 30, "Sleep stage ?")]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("night.hypnogram.csv", "start_s,duration_s,stage\n0,30,W\n30,30,N1\n60,30,N3\n90,30,REM\n120,30,?\n"),
        ("night.hypnogram.txt", "W\nN1\nN3\nR\n?\n"),
        ("night.hypnogram.csv", "stage\nWake\nN1\nN3\nREM\nunscored\n"),
        ("night.hypnogram.txt", "0\n1\n4\n5\n9\n"),
        ("night.hypnogram.edf", edf_bytes([], NOTES)),
        ("night.annotations.edf", edf_bytes([], NOTES)),
        ("night.annot", "class\tinstance\tchannel\tstart\tstop\tmeta\nW\t.\t.\t0\t30\t.\nN1\t.\t.\t30\t60\t.\n"
         "hypopnea\t.\t.\t35\t47\t.\nN3\t.\t.\t60\t90\t.\nR\t.\t.\t90\t120\t.\n?\t.\t.\t120\t150\t.\n"),
        ("night-nsrr.xml", xml([(0, "Wake|0"), (30, "Stage 1 sleep|1"), (40, "Hypopnea|Hypopnea"),
                                (60, "Stage 4 sleep|4"), (90, "REM sleep|5"), (120, "Unscored|9")])),
    ],
)  # fmt: skip
def test_each_kind_of_hypnogram_says_the_same(tmp_path, name, text):
    assert read(tmp_path, name, text) == WANTED


def test_stages_in_the_recordings_own_annotations(tmp_path):
    own = [Event(start, start + lasts, text) for start, lasts, text in NOTES]
    assert spans(read_stages(tmp_path / "night.edf", "night", AXIS, own)) == WANTED
    beats = [Event(5, 5, "N"), Event(6, 6, "R"), Event(7, 7, "1"), Event(8, 8, "Movement")]
    assert read_stages(tmp_path / "night.edf", "night", AXIS, beats) is None
    assert read_stages(tmp_path / "night.edf", "night", AXIS) is None


def test_zeros_and_ones_are_wake_and_sleep(tmp_path):
    assert read(tmp_path, "night.hypnogram.txt", "0\n1\n1\n0\n1\n")[1:3] == [(30, 60, "SLEEP"), (60, 90, "SLEEP")]
    assert [stage_of(text) for text in ("asleep", "NREM", "N", "Sleep stage M")] == ["SLEEP", "NREM", "NREM", ""]
    assert [stage_of(text, letters=False) for text in ("N", "R", "W", "rem", "Hypopnea")] == [None] * 3 + ["R", None]


def test_stages_are_clipped_and_those_of_a_late_start_lie_on_its_axis(tmp_path):
    table = "start_s,end_s,stage\n-30,30,W\n30,200,N2\n"
    assert read(tmp_path, "night.hypnogram.csv", table) == [(0, 30, "W"), (30, 150, "N2")]
    late = TimeAxis(1000.0, 1060.0)
    assert read(tmp_path, "night.hypnogram.csv", "W\nN2\n", axis=late) == [(1000, 1030, "W"), (1030, 1060, "N2")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("W\nN1\nX9\nR\nR\n", "night.hypnogram.csv: row 3: 'X9' is no stage; expected W, N1, N2"),
        ("W\nN1\n", "2 stages of 30 s are 0.02 h, but the recording has 0.04 h"),
        ("0\n1\n2\n4\n0\n", "row 4: stage 4 may be N3 or REM"),
        ("start_s,end_s,stage\n0,60,W\n30,90,N2\n", "N2 begins at 30 s, before W ends at 60 s"),
        ("start_s,end_s,stage\n500,560,W\n", "no stage within the recording, 0 to 150 s"),
        ("start_s,stage\n0,W\n", "no column of the end"),
        ("\n", "empty; expected a stage for each 30 s"),
    ],
)
def test_a_doubtful_hypnogram_is_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(DataError) as error:
        read(tmp_path, "night.hypnogram.csv", text)
    assert words in str(error.value) and "\n" not in str(error.value)


# ---- indices --------------------------------------------------------------------------------


def night(stages, lost=()):
    """Return two hours at 1 Hz with three events in them."""
    t = np.arange(7200.0)
    flow = np.sin(t)
    flow[[k for start, end in lost for k in range(start, end)]] = np.nan
    events = [BreathingEvent("apnea", "flow", start, start + 20.0, *[math.nan] * 6) for start in (100, 1795, 4000)]
    part = NightPart(t, flow[:, None], np.full((7200, 1), 2.0), events)
    return summarize_night("night", [part], ["airflow"], [], 1.0, [EventMeta(**dict(zip(
        ("start_s", "end_s", "kind"), one, strict=True))) for one in stages])  # fmt: skip


def test_indices_an_hour_of_sleep_by_hand():
    found = night([(0, 1800, "W"), (1800, 3600, "N2"), (3600, 5400, "R")])
    assert found.ahi == 1.5 and found.sleep_hours == 1.0
    assert found.sleep_ahi == 2.0                    # of three, one lies in wakefulness, one ends in N2
    assert found.rem_ahi == found.nrem_ahi == 2.0    # one each, in half an hour


def test_no_denominator_no_number():
    without = night([])
    assert all(math.isnan(getattr(without, name)) for name in ("sleep_hours", "sleep_ahi", "rem_ahi", "nrem_ahi"))
    asleep = night([(0, 7200, "SLEEP")])
    assert asleep.sleep_ahi == 1.5 and math.isnan(asleep.rem_ahi) and math.isnan(asleep.nrem_ahi)
    awake = night([(0, 7200, "W")])
    assert awake.sleep_hours == 0 and math.isnan(awake.sleep_ahi)


def test_sleep_in_which_nothing_was_measured_does_not_count():
    found = night([(0, 3600, "W"), (3600, 7200, "N2")], lost=[(5400, 7200)])
    assert found.sleep_hours == 1.0 and found.sleep_ahi == 2.0       # one event in the half hour that was measured


# ---- as a user calls it ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Score a night with a hypnogram and without, exported for other programs."""
    pytest.importorskip("edfio", reason="pip install -r requirements-formats.txt")
    folder = tmp_path_factory.mktemp("scored")
    for name in ("one", "two"):
        tiny.draw_recording(120, 3, trouble=True).to_csv(folder / f"{name}.csv", index=False)
    (folder / "one.hypnogram.txt").write_text("0\n1\n1\n0\n")
    model, root = tiny.make_checkpoint(tmp_path_factory.mktemp("model")), folder / "out"
    words = ["--checkpoint", model, "--device", "cpu", "--out", root, "--score", folder, "--export", "edf+", "nsrr"]
    assert script.main(list(map(str, words))) == 0
    return root


def test_a_scored_night_has_its_hours_of_sleep(scored):
    nights = pd.read_csv(scored / "nights.csv").set_index("recording")
    assert nights.loc["one", "sleep_hours"] == pytest.approx(1 / 60, abs=1e-4)
    assert nights.loc[["two"], "sleep_hours"].isna().all()
    assert (scored.parent / "one.hypnogram.txt").name in " ".join((scored / "data.json").read_text().split())


def test_a_scored_night_is_exported_as_asked_for(scored):
    names = sorted(path.name for path in (scored / "exports").iterdir())
    ends = ("-annot.csv", "-nsrr.xml", ".annotations.edf")
    assert names == sorted(f"{name}{end}" for name in ("one", "two") for end in ends)
    events = pd.read_csv(scored / "events.csv").query("recording == 'one'")
    found = pd.read_csv(scored / "exports" / "one-annot.csv")
    assert len(events) and len(found) == len(events) + 1             # and the row of the start
    onsets = (pd.to_datetime(found["onset"]) - pd.Timestamp(1970, 1, 1)).dt.total_seconds()
    np.testing.assert_allclose(onsets[1:], np.sort(events["start_s"]), atol=1e-3)


def test_an_export_that_cannot_be_made_stops_before_anything_runs(tmp_path, capsys):
    words = ["--checkpoint", "no.safetensors", "--score", "no.csv", "--export", "excel", "--out", tmp_path / "out"]
    assert script.main(list(map(str, words))) == 2
    assert capsys.readouterr().err == "error: --export excel: expected edf+, annot, nsrr, csv\n"
    assert not (tmp_path / "out").exists()
