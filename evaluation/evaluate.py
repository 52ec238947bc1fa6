"""What a detector's alarms and scores are worth on the test span, beside baselines without a model.

Two kinds of number, kept apart: at the deployed threshold, fitted on calibration data alone, and
`oracle_*` ones, for which a threshold is read off the test span itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.events import FoundEvent
from evaluation import metrics, nab_score
from recordings.windowing import EventMeta, label_steps

ORACLE_SHARE = 0.01                     # of normal time that may lie above the oracle's threshold


@dataclass(frozen=True)
class TestRecording:
    """One test recording as one detector sees it; arrays (T,), score NaN = none yet.

    is_labelled: whether somebody looked for events; else a found event is neither true nor false.
    """

    name: str
    t: np.ndarray
    score: np.ndarray
    alarm: np.ndarray
    found: list[FoundEvent]
    faults: list[FoundEvent]
    labelled: list[EventMeta]
    is_labelled: bool = True


def evaluate_detector(
    recordings: Sequence[TestRecording], fault_kinds: Sequence[str], rate_hz: float, tolerance_s: float, buffer: int
) -> dict[str, Any]:
    """Return {"deployed": ..., "oracle": ...} of one detector over all test recordings.

    Found events are true if they overlap any labelled event; recall counts the labelled events
    that are not faults. Steps of labelled faults take no part in the step-wise numbers.

    Args:
        fault_kinds: kinds that the mask reports, not the score.
        tolerance_s: a labelled event may be found this long after its end.
        buffer: of VUS, in steps.
    """
    label, score, alarm = _joined_steps(recordings, fault_kinds)
    deployed = {
        "events": _event_numbers(recordings, fault_kinds, rate_hz, tolerance_s),
        "kinds": kinds_at_alarms(recordings, fault_kinds, tolerance_s),
        "point": metrics.point_scores(label, alarm),
        "range": metrics.range_based_scores(label, alarm),
        "affiliation": metrics.affiliation_scores(label, alarm),
        "threshold_free": metrics.threshold_free(label, score, buffer),
        "vus_buffer_steps": buffer,
    }
    grid = np.quantile(score[np.isfinite(score)], np.linspace(0.9, 1, 50)) if np.isfinite(score).any() else None
    oracle = {
        "oracle_one_percent": _at_one_percent(recordings, fault_kinds, tolerance_s),
        "oracle_point_f1": metrics.oracle_point_f1(label, score),
        "oracle_event_f1": metrics.oracle_event_f1(label, score, 1 / rate_hz, tolerance_s, grid),
        "oracle_range_f1": metrics.oracle_range_f1(label, score, grid),
        "oracle_affiliation_f1": metrics.oracle_affiliation_f1(label, score, grid),
        "oracle_point_adjusted_f1": metrics.oracle_point_adjusted_f1(label, score, thresholds=grid),
    }
    return {"deployed": deployed, "oracle": oracle}


def kinds_at_alarms(
    recordings: Sequence[TestRecording], fault_kinds: Sequence[str], tolerance_s: float
) -> dict[str, dict[str, float]]:
    """Return labelled and found events of each kind, recall and median delay in s.

    A fault kind counts as found where a fault event overlaps it.
    """
    table: dict[str, dict[str, Any]] = {}
    for recording in recordings:
        match = match_recording(recording, recording.found, tolerance_s)
        faults = match_recording(recording, recording.faults, tolerance_s)
        for k, event in enumerate(recording.labelled):
            row = table.setdefault(event.kind, {"labelled": 0, "found": 0, "delays": []})
            used = faults if event.kind in fault_kinds else match
            row["labelled"] += 1
            row["found"] += int(used.is_found[k])
            row["delays"] += [float(d) for d in used.delay_s[used.match == k]]
    return {
        kind: {
            "labelled": row["labelled"],
            "found": row["found"],
            "recall": row["found"] / row["labelled"],
            "delay_median_s": float(np.median(row["delays"])) if row["delays"] else float("nan"),
        }
        for kind, row in sorted(table.items())
    }


def match_recording(
    recording: TestRecording, found: Sequence[FoundEvent], tolerance_s: float
) -> metrics.EventMatch:
    """Match found events with all the labelled events of a recording."""
    spans = np.array([(event.start_s, event.end_s) for event in found], float).reshape(-1, 2)
    labelled = np.array([(event.start_s, event.end_s) for event in recording.labelled], float)
    return metrics.match_events(spans, labelled.reshape(-1, 2), tolerance_s)


def normal_hours(recording: TestRecording, rate_hz: float, tolerance_s: float) -> float:
    """Return the hours of a recording that lie outside all labelled events and their tolerance."""
    return float((~_near_event(recording, tolerance_s)).sum() / rate_hz / 3600)


def fault_numbers(
    recordings: Sequence[TestRecording], fault_kinds: Sequence[str], tolerance_s: float
) -> dict[str, int]:
    """Return how many stretches the mask reports, how many of them carry a fault's label."""
    reported = labelled = true = 0
    for recording in recordings:
        match = match_recording(recording, recording.faults, tolerance_s)
        reported += len(recording.faults)
        true += int(match.is_true.sum())
        labelled += sum(event.kind in fault_kinds for event in recording.labelled)
    return {"reported": reported, "overlap_a_label": true, "labelled": labelled}


def nab_numbers(recording: TestRecording, rows: int, rate_hz: float) -> dict[str, float]:
    """Return the NAB score of a series, 100 = perfect, 0 = silent, for each of NAB's profiles.

    The first row of each found event is an alarm; where the series was trained on, there is none.

    Args:
        rows: of the whole series, whose row k lies at k / rate_hz.
    """
    alarms = np.zeros(rows, bool)
    alarms[[round(event.start_s * rate_hz) for event in recording.found]] = True
    windows = [(round(event.start_s * rate_hz), round(event.end_s * rate_hz)) for event in recording.labelled]
    windows = np.array(windows, int).reshape(-1, 2)
    return {
        profile: nab_score.nab_series_score(windows, alarms, profile)["score"] for profile in nab_score.NAB_PROFILES
    }


def _event_numbers(
    recordings: Sequence[TestRecording], fault_kinds: Sequence[str], rate_hz: float, tolerance_s: float
) -> dict[str, float]:
    """Return event-wise precision, recall, F1, false events an hour and delay over recordings."""
    hours = sum(normal_hours(recording, rate_hz, tolerance_s) for recording in recordings)
    found = true = labelled = matched = 0
    delays: list[float] = []
    for recording in recordings:
        match = match_recording(recording, recording.found, tolerance_s)
        wanted = np.array([event.kind not in fault_kinds for event in recording.labelled], bool)
        found, true = found + len(match.is_true), true + int(match.is_true.sum())
        labelled, matched = labelled + int(wanted.sum()), matched + int((match.is_found & wanted).sum())
        is_wanted = (match.match >= 0) & (wanted[match.match] if len(wanted) else False)
        delays += [float(d) for d in match.delay_s[is_wanted]]
    precision = true / found if found else float("nan")
    recall = matched / labelled if labelled else float("nan")
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0,
        "false_events_per_hour": (found - true) / hours if hours else float("nan"),
        "false_events": found - true,
        "found_events": found,
        "labelled_events": labelled,
        "matched_events": matched,
        "normal_hours": hours,
        "delay_median_s": float(np.median(delays)) if delays else float("nan"),
    }


def _joined_steps(
    recordings: Sequence[TestRecording], fault_kinds: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return label, score and alarm of all recordings one behind the other, without labelled faults."""
    labels, scores, alarms = [], [], []
    for recording in recordings:
        spans = {True: [], False: []}
        for event in recording.labelled:
            spans[event.kind in fault_kinds].append((event.start_s, event.end_s))
        keep = label_steps(recording.t, spans[True]) == 0
        labels.append(label_steps(recording.t, spans[False])[keep])
        scores.append(recording.score[keep])
        alarms.append(recording.alarm[keep])
    return tuple(np.concatenate(parts) for parts in (labels, scores, alarms))


def _at_one_percent(
    recordings: Sequence[TestRecording], fault_kinds: Sequence[str], tolerance_s: float
) -> dict[str, Any]:
    """Return recall of each kind at the threshold that 1 % of normal test time exceeds.

    An event counts as found if the score is above it between its start and the tolerance.
    """
    normal = [r.score[~_near_event(r, tolerance_s) & np.isfinite(r.score)] for r in recordings]
    scores = np.concatenate(normal)
    if not len(scores):
        return {"threshold": float("nan"), "kinds": {}}
    threshold = float(np.quantile(scores, 1 - ORACLE_SHARE))
    kinds: dict[str, list[bool]] = {}
    for recording in recordings:
        for event in recording.labelled:
            if event.kind not in fault_kinds:
                inside = (recording.t >= event.start_s) & (recording.t <= event.end_s + tolerance_s)
                hit = bool((recording.score[inside] > threshold).any())
                kinds.setdefault(event.kind, []).append(hit)
    return {
        "threshold": threshold,
        "kinds": {
            kind: {"labelled": len(hits), "found": sum(hits), "recall": float(np.mean(hits))}
            for kind, hits in sorted(kinds.items())
        },
    }


def _near_event(recording: TestRecording, tolerance_s: float) -> np.ndarray:
    spans = [(event.start_s, event.end_s + tolerance_s) for event in recording.labelled]
    return label_steps(recording.t, spans).astype(bool)


# ---- over seeds -----------------------------------------------------------------------------


def over_seeds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean, std and values of every number that all of the nested results hold."""
    first = results[0]
    summary: dict[str, Any] = {}
    for key in first:
        values = [result.get(key) for result in results]
        if isinstance(first[key], Mapping):
            summary[key] = over_seeds(values)
        elif all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            summary[key] = {"mean": float(np.mean(values)), "std": float(np.std(values)), "values": values}
    return summary
