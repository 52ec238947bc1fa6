"""Findings in, nights out: respiratory events, what they say beside their labels, the nights in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config import BREATHING, ScoringProfile, load_profile
from detection.breathing_events import PERIODIC, RESPIRATORY
from evaluation.event_overlap import judged, respiratory_measures
from evaluation.nights import ScoredNight, score_night
from evaluation.results import RespiratoryMeasures, RunMetrics
from evaluation.scored_recording import ScoredRecording
from recordings.windowing import EventMeta
from reports.findings import Findings
from reports.run_folder import RunFolder


def nights_of(findings: Findings, profile: ScoringProfile | None = None) -> dict[str, ScoredNight]:
    """Return the nights of recordings with a channel of breathing, by their names; None = the detector's profile."""
    detector = findings.detector
    channels = dict(zip(detector.channels, detector.resolved.measures, strict=True))
    if not set(channels.values()) & {*BREATHING}:
        return {}
    profile = profile or load_profile(detector.config.events.profile)
    nights = {}
    for recording in findings.recordings:
        steps = [
            (segment.t, segment.values, scored.expected_range, scored.score)
            for segment, scored in ((findings.segments[k], findings.scored[k]) for k in findings.of(recording.name))
        ]
        nights[recording.name] = score_night(
            recording.name, steps, channels, recording.desaturations, detector.rate_hz, profile,
            findings.stages.get(recording.name, ()),
        )  # fmt: skip
    return nights


def measures_of(
    profile: str, recordings: Sequence[ScoredRecording], nights: Mapping[str, ScoredNight], fault_kinds: Sequence[str]
) -> RespiratoryMeasures | None:
    """Return the respiratory events of labelled recordings against their labels; None if none is labelled.

    Periodic breathing is labelled as a whole, and not its events; an event in it, or where the signal is labelled as
    lost, that belongs to no label counts as neither true nor false.
    """
    labelled = [recording for recording in recordings if recording.is_labelled and recording.name in nights]
    if not any(_is_respiratory(event) for recording in labelled for event in recording.labelled):
        return None
    found, wanted, hours = [], [], []
    for recording in labelled:
        events = [((e.start_s, e.end_s), e.kind) for e in nights[recording.name].events]
        known = [((e.start_s, e.end_s), e.kind) for e in recording.labelled if _is_respiratory(e)]
        uncounted = [(e.start_s, e.end_s) for e in recording.labelled if e.kind in (PERIODIC, *fault_kinds)]
        _, counts = judged([span for span, _ in events], [span for span, _ in known], uncounted)
        found.append([event for event, is_counted in zip(events, counts, strict=True) if is_counted])
        wanted.append(known)
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
    run.bland_altman.unlink(missing_ok=True)                     # of an earlier scoring
    if metrics.respiratory and metrics.respiratory.agreement:
        from reports import plots

        note = "simulated data" if metrics.simulated else ""
        plots.save(plots.plot_bland_altman(metrics.respiratory.agreement, note), run.bland_altman)


def _is_respiratory(event: EventMeta) -> bool:
    return event.kind in RESPIRATORY
