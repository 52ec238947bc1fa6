"""What a detector's scores, alarms and events are worth on test recordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from config import EventConfig
from evaluation import metrics, nab_score
from evaluation.free_response import CURVE, RATES, free_response
from evaluation.results import (
    AreaMeasures,
    DetectorMetrics,
    EventMeasures,
    FaultMeasures,
    KindMeasures,
    PointMeasures,
    RangeMeasures,
)
from evaluation.scored_recording import ScoredRecording, segment_starts
from recordings.windowing import label_steps


def detector_metrics(
    recordings: Sequence[ScoredRecording],
    fault_kinds: Sequence[str],
    rate_hz: float,
    events: EventConfig,
    buffer: int | None,
    series_rows: int | None = None,
) -> DetectorMetrics:
    """Return what one detector is worth over all test recordings.

    Found events are true if they overlap any labelled event; recall counts the labelled events that are not faults.
    Steps of labelled faults take no part in the measures of steps, and what lies before and after them, or after
    missing steps, is a segment of its own; `metrics` says how segments are combined.

    Args:
        fault_kinds: kinds of events that are found in the signal, not by the score.
        events: in seconds.
        buffer: of VUS, in steps; None = no VUS.
        series_rows: length of the series that the one recording is the test span of; None = recordings.
    """
    found, lost = (
        [one.match(getattr(one, name), events.tolerance_s) for one in recordings] for name in ("found", "faults")
    )
    delays = [                                                   # of each labelled event: kind, s, NaN = missed
        (event.kind, float((by_loss if event.kind in fault_kinds else by_score).delay_s[k]))
        for one, by_score, by_loss in zip(recordings, found, lost, strict=True)
        for k, event in enumerate(one.labelled)
    ]
    hours = sum(one.normal_hours(rate_hz, events.tolerance_s) for one in recordings)
    curve = nab = None
    if series_rows is None:
        curve = free_response(recordings, fault_kinds, rate_hz, hours, events, CURVE)
    else:
        nab = nab_scores(recordings[0], series_rows, rate_hz)
    label, score, alarm, seams = _joined_steps(recordings, fault_kinds, rate_hz)
    return DetectorMetrics(
        events=_event_measures(
            np.concatenate([match.is_true for match in found]),
            [delay for kind, delay in delays if kind not in fault_kinds],
            hours,
        ),
        kinds={
            kind: _kind_measures([delay for name, delay in delays if name == kind])
            for kind in sorted({kind for kind, _ in delays})
        },
        point=PointMeasures(**metrics.point_scores(label, alarm)),
        range=RangeMeasures(**metrics.range_based_scores(label, alarm, seams)),
        affiliation=RangeMeasures(**metrics.affiliation_scores(label, alarm, seams)),
        threshold_free=AreaMeasures(**metrics.threshold_free(label, score, buffer, seams)),
        oracle_point_f1=metrics.oracle_point_f1(label, score),
        free_response=curve and curve.at(RATES),
        free_response_curve=curve,
        nab=nab,
    )


def _event_measures(is_true: np.ndarray, delays_s: Sequence[float], hours: float) -> EventMeasures:
    """Return the measures of found events, true or not, and of labelled ones with the delay of each, NaN = missed."""
    false, labelled, matched = int((~is_true).sum()), len(delays_s), int(np.isfinite(delays_s).sum())
    precision, recall = metrics.ratio(is_true.sum(), is_true.size), metrics.ratio(matched, labelled)
    return EventMeasures(
        precision=precision,
        recall=recall,
        f1=metrics.harmonic_mean(precision, recall),
        false_events_per_hour=metrics.ratio(false, hours),
        false_events=false,
        found_events=is_true.size,
        labelled_events=labelled,
        matched_events=matched,
        normal_hours=hours,
        delay_median_s=_median(delays_s),
    )


def _kind_measures(delays_s: Sequence[float]) -> KindMeasures:
    labelled, found = len(delays_s), int(np.isfinite(delays_s).sum())
    return KindMeasures(labelled=labelled, found=found, recall=found / labelled, delay_median_s=_median(delays_s))


def _median(delays_s: Sequence[float]) -> float:
    known = [delay for delay in delays_s if np.isfinite(delay)]
    return float(np.median(known)) if known else metrics.NAN


def _joined_steps(
    recordings: Sequence[ScoredRecording], fault_kinds: Sequence[str], rate_hz: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return label, score and alarm of all recordings end to end, without labelled faults, and their seams."""
    parts = []
    for one in recordings:
        label, fault = (
            label_steps(one.t, [(e.start_s, e.end_s) for e in one.labelled if (e.kind in fault_kinds) == is_fault])
            for is_fault in (False, True)
        )
        keep = fault == 0
        parts.append([label[keep], one.score[keep], one.alarm[keep], segment_starts(one.t[keep], rate_hz)])
    label, score, alarm, starts = (np.concatenate(several) for several in zip(*parts, strict=True))
    return label, score, alarm, np.flatnonzero(starts)[1:]


def fault_measures(
    recordings: Sequence[ScoredRecording], fault_kinds: Sequence[str], tolerance_s: float
) -> FaultMeasures:
    """Return how many faults are reported, how many of them overlap a label, and how many are labelled."""
    return FaultMeasures(
        reported=sum(len(one.faults) for one in recordings),
        overlap_a_label=sum(int(one.match(one.faults, tolerance_s).is_true.sum()) for one in recordings),
        labelled=sum(event.kind in fault_kinds for one in recordings for event in one.labelled),
    )


def nab_scores(recording: ScoredRecording, rows: int, rate_hz: float) -> dict[str, float]:
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
