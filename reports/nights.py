"""Scored nights in, rows of tables out: respiratory events, rejected candidates, the nights in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from config import BREATHING, load_profile
from detection.breathing_events import APNEAS, HYPOPNEA, PERIODIC, BreathingEvent
from evaluation.event_overlap import LEAST_IOU, intersection_over_union, pair_events, respiratory_measures
from evaluation.nights import ScoredNight, score_night
from evaluation.results import RespiratoryMeasures, RunMetrics
from evaluation.scored_recording import ScoredRecording
from recordings.windowing import EventMeta
from reports.findings import Findings, stamped
from reports.run_folder import RunFiles, RunFolder

RESPIRATORY = (*APNEAS, HYPOPNEA)        # kinds that are counted one by one, found and labelled


def nights_of(findings: Findings) -> dict[str, ScoredNight]:
    """Return the nights of recordings with a channel of breathing, by their names."""
    detector = findings.detector
    channels = dict(zip(detector.channels, detector.resolved.measures, strict=True))
    if not set(channels.values()) & {*BREATHING}:
        return {}
    profile = load_profile(detector.config.events.profile)
    nights = {}
    for recording in findings.recordings:
        steps = [
            (segment.t, segment.values, scored.expected_range, scored.score)
            for segment, scored in ((findings.segments[k], findings.scored[k]) for k in findings.of(recording.name))
        ]
        nights[recording.name] = score_night(
            recording.name, steps, channels, recording.desaturations, detector.rate_hz, profile
        )
    return nights


def add_nights(files: RunFiles, findings: Findings, nights: Mapping[str, ScoredNight]) -> None:
    """Add the nights to their tables."""
    profile = findings.detector.config.events.profile
    for recording in findings.recordings:
        if night := nights.get(recording.name):
            for rows, table in (
                (event_rows(recording, night, profile), files.respiratory),
                (rejected_rows(recording.name, night), files.rejected),
            ):
                table += [row | stamped(findings, {}, recording.name, row["start_s"], row["end_s"]) for row in rows]
            files.nights.append(night.summary)


def measures_of(
    profile: str, recordings: Sequence[ScoredRecording], nights: Mapping[str, ScoredNight], fault_kinds: Sequence[str]
) -> RespiratoryMeasures | None:
    """Return the respiratory events of labelled recordings against their labels; None if none is labelled.

    Periodic breathing is labelled as a whole, and not its events; events in it, or where the signal is labelled as
    lost, count as neither true nor false.
    """
    labelled = [recording for recording in recordings if recording.is_labelled and recording.name in nights]
    if not any(_is_respiratory(event) for recording in labelled for event in recording.labelled):
        return None
    found, wanted, hours = [], [], []
    for recording in labelled:
        unknown = [event for event in recording.labelled if event.kind in (PERIODIC, *fault_kinds)]
        events = [event for event in nights[recording.name].events if not any(map(event.overlaps, unknown))]
        found.append([((event.start_s, event.end_s), event.kind) for event in events])
        wanted.append([((e.start_s, e.end_s), e.kind) for e in recording.labelled if _is_respiratory(e)])
        hours.append(nights[recording.name].summary.breathing_hours)
    return respiratory_measures(profile, found, wanted, hours, [recording.name for recording in labelled])


def with_nights(
    metrics: RunMetrics, recordings: Sequence[ScoredRecording], nights: Mapping[str, ScoredNight]
) -> RunMetrics:
    """Return metrics with those of the nights, if there are any."""
    if not nights:
        return metrics
    respiratory = measures_of(metrics.events.profile, recordings, nights, metrics.fault_kinds)
    summaries = [night.summary for night in nights.values()]
    return metrics.model_copy(update={"respiratory": respiratory, "nights": summaries})


def draw_agreement(run: RunFolder, metrics: RunMetrics) -> None:
    """Draw labelled against found events an hour (Bland and Altman), if several nights are labelled."""
    from reports import plots

    run.bland_altman.unlink(missing_ok=True)                     # of an earlier scoring
    if metrics.respiratory and metrics.respiratory.agreement:
        note = "simulated data" if metrics.simulated else ""
        plots.save(plots.plot_bland_altman(metrics.respiratory.agreement, note), run.bland_altman)


def _is_respiratory(event: EventMeta) -> bool:
    return event.kind in RESPIRATORY


def event_rows(recording: ScoredRecording, night: ScoredNight, profile: str) -> list[dict[str, Any]]:
    """Return the rows of `respiratory_events.csv` of one recording, in time order.

    matched_label and iou are of the label that an event is paired with; is_false is 1 if there is none, empty if nobody
    looked for events.
    """
    labelled = [event for event in recording.labelled if _is_respiratory(event)]
    spans, wanted = [[(e.start_s, e.end_s) for e in several] for several in (night.events, labelled)]
    overlap = intersection_over_union(spans, wanted)
    pairs = dict(pair_events(spans, wanted, LEAST_IOU[0]))
    rows = []
    for k, event in enumerate(night.events):
        j = pairs.get(k)
        rows.append(_row(recording.name, event) | {
            "profile": profile,
            "matched_label": "" if j is None else labelled[j].kind,
            "iou": math.nan if j is None else float(overlap[k, j]),
            "is_false": "" if not recording.is_labelled else int(j is None),
        })  # fmt: skip
    for start_s, end_s in night.periodic:
        rows.append({"recording": recording.name, "kind": PERIODIC, "start_s": start_s, "end_s": end_s,
                     "duration_s": end_s - start_s, "profile": profile})  # fmt: skip
    return sorted(rows, key=lambda row: row["start_s"])


def rejected_rows(recording: str, night: ScoredNight) -> list[dict[str, Any]]:
    """Return the rows of `rejected_events.csv` of one recording."""
    return [_row(recording, event) | {"reason": event.reason} for event in night.rejected]


def _row(recording: str, event: BreathingEvent) -> dict[str, Any]:
    return {"recording": recording, **vars(event), "duration_s": event.duration_s}
