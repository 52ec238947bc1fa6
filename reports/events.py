"""Alarms, respiratory events and what rules found in, one answer out: the rows of `events.csv`, an event each.

A respiratory event takes the place of the alarms that it overlaps; an alarm in a candidate that a rule rejected (a
pause of 8 s, say) goes with it, into `rejected_events.csv`. Every other alarm gets a kind of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from config import SCORE_COMPONENTS
from detection.alarm_kinds import kind_of_alarm
from detection.breathing_events import PERIODIC, RESPIRATORY
from detection.desaturation import depth_of
from detection.detector import Detector
from detection.events import FoundEvent
from evaluation.event_overlap import intersection_over_union, judged
from evaluation.nights import ScoredNight
from evaluation.scored_recording import ScoredRecording
from recordings.windowing import EventMeta, overlap
from reports.findings import Findings, stamped, steps_led, timestamps_of
from reports.run_folder import RunFiles

PAUSES = ("amplitude_drop", "volume_drop", "joint")      # raised by a pause: a candidate explains their alarm
AROUND_S = 1.0                           # of an alarm, that its kind is told from
Row = dict[str, Any]


def add_events(files: RunFiles, findings: Findings, nights: Mapping[str, ScoredNight]) -> None:
    """Add events, rejected candidates and nights to their tables."""
    stamps, profile = timestamps_of(findings.segments), findings.detector.config.events.profile
    for recording in findings.recordings:
        night = nights.get(recording.name, ScoredNight([], [], [], None))
        events, rejected = event_rows(findings, recording, night, profile), map(vars, night.rejected)
        for rows, table in ((events, files.events), (rejected, files.rejected)):
            for row in rows:
                about = {"recording": recording.name, "duration_s": row["end_s"] - row["start_s"]}
                table.append(about | row | stamped(findings, stamps, recording.name, row["start_s"], row["end_s"]))
        if night.summary:
            files.nights.append(night.summary)


def event_rows(findings: Findings, recording: ScoredRecording, night: ScoredNight, profile: str) -> list[Row]:
    """Return the rows of `events.csv` of one recording, in time order.

    matched_label and iou are of the label that an event is paired with, one to one; is_false is 1 without any, empty if
    nobody looked for events or there is nothing to compare with.
    """
    faults, labels = findings.fault_kinds, recording.labelled
    respiratory = [e for e in labels if e.kind in RESPIRATORY]
    periodic = [e for e in labels if e.kind == PERIODIC]
    uncounted = [e for e in labels if e.kind in (PERIODIC, *faults)]     # pauses in these are not labelled one by one
    rows = [vars(event) | {"found_by": "respiratory", "profile": profile} for event in night.events]
    taken = _judge(rows, recording, respiratory, uncounted)
    spans = [
        {"kind": PERIODIC, "start_s": start_s, "end_s": end_s, "found_by": "respiratory", "profile": profile}
        for start_s, end_s in night.periodic
    ]
    _judge(spans, recording, periodic, respiratory)
    left = [e for e in labels if e.kind not in faults and not any(e is one for one in taken)]
    rows += spans + list(_alarms(findings, recording, night, left))
    rows += [_found(event, "signal_loss", "signal_loss") for event in recording.faults]
    for event in recording.desaturations:
        points = {"component": depth_of(event), "desaturation": event.peak_score, "confidence": math.nan}
        rows.append(_found(event, "desaturation", "oximetry") | points)
    return sorted(rows, key=lambda row: row["start_s"])


def _found(event: FoundEvent, kind: str, found_by: str) -> Row:
    return {"kind": kind, "start_s": event.start_s, "end_s": event.end_s, "channel": event.channel,
            "confidence": event.peak_score, "found_by": found_by}  # fmt: skip


def _judge(
    rows: Sequence[Row], recording: ScoredRecording, labelled: Sequence[EventMeta], uncounted: Sequence[EventMeta]
) -> list[EventMeta]:
    """Pair rows with labels by their overlap and say which are false; return the labels that are taken."""
    spans = [(row["start_s"], row["end_s"]) for row in rows]
    wanted, unknown = ([(e.start_s, e.end_s) for e in events] for events in (labelled, uncounted))
    pairs, counts = judged(spans, wanted, unknown)
    iou = intersection_over_union(spans, wanted)
    for k, row in enumerate(rows):
        if k in pairs:
            row |= {"matched_label": labelled[pairs[k]].kind, "iou": float(iou[k, pairs[k]]), "is_false": 0}
        elif recording.is_labelled and counts[k]:
            row["is_false"] = 1
    return [labelled[j] for j in pairs.values()]


def _alarms(
    findings: Findings, recording: ScoredRecording, night: ScoredNight, labelled: Sequence[EventMeta]
) -> Iterator[Row]:
    """Yield the rows of the alarms that respiratory events leave.

    An alarm starts late and ends early, so that overlapping a label is enough; each label still counts for one alarm.
    """
    admitted = [*((e.start_s, e.end_s) for e in night.events), *night.periodic]
    rejected = [(e.start_s, e.end_s) for e in night.rejected]
    led, expected = (findings.joined(recording.name, name) for name in ("component", "expected_range"))
    values, left = findings.values(recording.name), []
    for event in recording.found:
        component = SCORE_COMPONENTS[steps_led(recording, event, led).argmax()]
        span = event.start_s, event.end_s
        explained_by = admitted + (rejected if component in PAUSES else [])
        if not any(overlap(span, other) for other in explained_by):
            left.append((event, component))
    kind = partial(_kind, findings.detector, recording.t, values, expected)
    match = recording.match([event for event, _ in left], findings.tolerance_s, labelled)
    late = findings.tolerance_s
    for (event, component), j in zip(left, match.match, strict=True):
        row = _found(event, kind(event, component), "alarm") | {"component": component}
        span = event.start_s, event.end_s
        if j >= 0:
            label = labelled[j]
            iou = float(intersection_over_union([span], [(label.start_s, label.end_s)])[0, 0])
            row |= {"matched_label": label.kind, "iou": iou, "is_false": 0}
        elif recording.is_labelled:
            row["is_false"] = int(not any(overlap(span, (e.start_s, e.end_s + late)) for e in recording.labelled))
        yield row


def _kind(
    detector: Detector, t: np.ndarray, values: np.ndarray, expected: np.ndarray, event: FoundEvent, component: str
) -> str:
    first, start, end = np.searchsorted(t, [event.start_s - AROUND_S, event.start_s, event.end_s + AROUND_S])
    measures = detector.resolved.measures
    leads = measures[detector.channels.index(event.channel)]
    return kind_of_alarm(component, leads, values[first : end + 1], expected[start], measures)
