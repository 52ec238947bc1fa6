"""One answer of alarms, respiratory events and rules: rows worked out by hand."""

from types import SimpleNamespace

import numpy as np

from config import SCORE_COMPONENTS
from detection.breathing_events import BreathingEvent
from detection.events import FoundEvent
from evaluation.nights import ScoredNight
from evaluation.scored_recording import ScoredRecording
from recordings.windowing import EventMeta
from reports.events import event_rows

T = np.arange(0.0, 600.0)
NAN = float("nan")


def label(kind, start_s, end_s):
    return EventMeta(start_s=start_s, end_s=end_s, kind=kind)


def candidate(kind, start_s, end_s, reason=""):
    return BreathingEvent(kind, "flow", start_s, end_s, 0.9, 0.9, NAN, NAN, NAN, 3.0, reason)


def rows_of(alarms, events=(), rejected=(), periodic=(), labelled=(), is_labelled=True):
    """alarms: (component, start_s, end_s); flow swings by 10 times its range all the time."""
    component, alarm = np.zeros(len(T), int), np.zeros(len(T), bool)
    found = []
    for name, start_s, end_s in alarms:
        inside = (start_s <= T) & (end_s >= T)
        component[inside], alarm[inside] = SCORE_COMPONENTS.index(name), True
        found.append(FoundEvent("night", start_s, end_s, 5.0, start_s, "flow"))
    arrays = {"component": component, "channel": np.zeros(len(T), int), "expected_range": np.full((len(T), 1), 1.0)}
    findings = SimpleNamespace(
        detector=SimpleNamespace(channels=("flow",), resolved=SimpleNamespace(measures=("airflow",))),
        fault_kinds=("sensor_dropout",), tolerance_s=5.0, joined=lambda _, name: arrays[name],
        values=lambda _: 10.0 * (T % 2)[:, None],
    )  # fmt: skip
    recording = ScoredRecording("night", T, 5.0 * alarm, alarm, found, [], list(labelled), is_labelled)
    night = ScoredNight(list(events), list(rejected), list(periodic), None)
    return event_rows(findings, recording, night, "device")


def short(rows):
    return [(row["kind"], row["start_s"], row.get("matched_label", ""), row.get("is_false", "")) for row in rows]


def test_an_event_takes_the_place_of_its_alarms_and_one_label():
    labels = [label("central_apnea", 100, 112), label("hypopnea", 130, 150)]
    alarms = [("amplitude_drop", 108, 112), ("joint", 111, 118)]
    rows = rows_of(alarms, [candidate("apnea", 100, 113), candidate("hypopnea", 250, 262)], labelled=labels)
    assert short(rows) == [("apnea", 100, "central_apnea", 0), ("hypopnea", 250, "", 1)]
    assert rows[0]["iou"] == 12 / 13 and rows[0]["found_by"] == "respiratory" and rows[0]["profile"] == "device"


def test_a_pause_that_a_rule_rejected_takes_its_alarm_but_no_cough():
    rejected = [candidate("apnea", 100, 108, "lasts 8.0 s, less than 10"), candidate("apnea", 300, 308, "too short")]
    rows = rows_of([("volume_drop", 106, 108), ("transient_error", 303, 306)], rejected=rejected)
    assert short(rows) == [("cough", 303, "", 1)]


def test_a_label_is_not_given_away_to_a_jolt_beside_its_event():
    rows = rows_of(
        [("transient_error", 113.5, 115)], [candidate("apnea", 100, 112)], labelled=[label("central_apnea", 100, 115)]
    )
    assert short(rows) == [("apnea", 100, "central_apnea", 0), ("cough", 113.5, "", 0)]     # it overlaps, so not false


def test_pauses_of_labelled_periodic_breathing_are_neither_true_nor_false():
    pauses = [candidate("apnea", start_s, start_s + 12) for start_s in (100, 140, 180)]
    rows = rows_of([], pauses, periodic=[(100, 192)], labelled=[label("periodic_breathing", 100, 192)])
    assert short(rows) == [
        ("apnea", 100, "", ""), ("periodic_breathing", 100, "periodic_breathing", 0), ("apnea", 140, "", ""),
        ("apnea", 180, "", ""),
    ]  # fmt: skip


def test_where_nobody_looked_nothing_is_false():
    rows = rows_of([("pace", 400, 440)], [candidate("apnea", 100, 113)], is_labelled=False)
    assert short(rows) == [("apnea", 100, "", ""), ("tachypnea", 400, "", "")]
