"""From the scores of recordings to findings: alarms and events by recording, their files and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

import plots
import thresholds
from anomaly_scores import Scores
from config import EventConfig, ExperimentConfig
from data_loader import Dataset
from detector import Detector, Scored
from evaluation import TestRecording, match_recording
from events import FoundEvent, fault_events, find_events
from reporting import RunFolder, write_events, write_scores
from windowing import EventMeta, Segment

ENDS = ("start", "end")
BEFORE_S, AFTER_S = 30.0, 20.0           # of a close-up of a recording
BEFORE_ROWS, AFTER_ROWS = 200, 100       # and of a series


def recordings_as_seen(
    config: ExperimentConfig,
    dataset: Dataset,
    detector: Detector,
    segments: Sequence[Segment],
    scored: Sequence[Scored],
) -> dict[str, list[TestRecording]]:
    """Return the test recordings as the LSTM, the rules without a model and random scores see them."""
    method, parameters = config.threshold.method, dict(config.threshold.parameters)
    random = np.random.default_rng(config.training.seed)
    calibration_steps = sum(len(segment) for segment in dataset.normal(config.score.calibrate_on))
    random_threshold = thresholds.fit(method, random.uniform(size=calibration_steps), **parameters)
    random_scores = [random.uniform(size=len(segment)) for segment in segments]
    scores = {
        "LSTM": ([s.score for s in scored], [s.channel for s in scored], detector.threshold),
        **{name: ([s.rules[name] for s in scored], None, rule) for name, rule in detector.rule_thresholds.items()},
        "random scores": (random_scores, None, random_threshold),
    }
    if dataset.meta.series is not None:                          # every row counts, also one without a score yet
        scores = {
            name: ([np.nan_to_num(one, nan=0.0) for one in series], *rest) for name, (series, *rest) in scores.items()
        }
    return {
        name: group_recordings(config.events, dataset.meta.events, detector, segments, series, channels, threshold)
        for name, (series, channels, threshold) in scores.items()
    }


def events_on_normal(
    config: EventConfig, detector: Detector, segments: Sequence[Segment], scores: Sequence[Scores]
) -> dict[str, float]:
    """Return how many events the threshold leaves on the normal data that it was fitted on, and in how long.

    These are false alarms without a label having been read; on other data there are rather more.
    """
    found = 0
    for segment, part in zip(segments, scores, strict=True):
        _, events = _alarms_and_events(config, detector, segment, part.score, part.channel, detector.threshold)
        found += len(events)
    hours = sum(len(segment) for segment in segments) / detector.rate_hz / 3600
    return {"events": found, "hours": hours, "events_per_hour": found / hours}


def group_recordings(
    config: EventConfig,
    labelled: Mapping[str, Sequence[EventMeta]],
    detector: Detector,
    segments: Sequence[Segment],
    scores: Sequence[np.ndarray],
    channels: Sequence[np.ndarray] | None,
    threshold: Mapping[str, Any],
) -> list[TestRecording]:
    """Return each recording with its alarms, found events and faults, segments joined."""
    recordings = []
    for name in dict.fromkeys(segment.recording for segment in segments):
        mine = [k for k, segment in enumerate(segments) if segment.recording == name]
        alarms, found = [], []
        for k in mine:
            most = channels[k] if channels is not None else np.zeros(len(segments[k]), int)
            alarm, events = _alarms_and_events(config, detector, segments[k], scores[k], most, threshold)
            alarms.append(alarm)
            found += events
        t = np.concatenate([segments[k].t for k in mine])
        score, alarm = np.concatenate([scores[k] for k in mine]), np.concatenate(alarms)
        faults = _faults(name, [segments[k] for k in mine], detector, config.fault_min_s)
        recordings.append(TestRecording(name, t, score, alarm, found, faults, list(labelled.get(name, []))))
    return recordings


def _alarms_and_events(
    config: EventConfig,
    detector: Detector,
    segment: Segment,
    score: np.ndarray,
    channel: np.ndarray,
    threshold: Mapping[str, Any],
) -> tuple[np.ndarray, list[FoundEvent]]:
    """Return the alarms (T,) of a segment at a threshold, and the events that they make."""
    alarm = thresholds.alarms(score, thresholds.apply(threshold, score))
    gaps = {"merge_gap_s": config.merge_gap_s, "min_duration_s": config.min_duration_s}
    return alarm, find_events(segment.recording, segment.t, score, alarm, channel, detector.channels, **gaps)


def _faults(name: str, segments: Sequence[Segment], detector: Detector, least_s: float) -> list[FoundEvent]:
    """Return the faults of a recording; what lies between two test spans of a series is no fault."""
    spans = [[segment] for segment in segments] if segments[0].timestamp is not None else [segments]
    found = []
    for parts in spans:
        t, values = (np.concatenate([getattr(part, key) for part in parts]) for key in ("t", "values"))
        found += fault_events(name, t, values, detector.channels, least_s, 1 / detector.rate_hz)
    return found


def write_findings(
    run: RunFolder,
    detector: Detector,
    segments: Sequence[Segment],
    scored: Sequence[Scored],
    recordings: Sequence[TestRecording],
    tolerance_s: float,
) -> None:
    """Write scores.csv and events.csv."""
    write_scores(
        run,
        [
            {
                "recording": segment.recording,
                "t_s": segment.t,
                **({} if segment.timestamp is None else {"timestamp": segment.timestamp}),
                "score": s.score,
                "threshold": s.threshold,
                "alarm": s.alarm.astype(int),
                "label": segment.label,
            }
            | {f"residual_{c}": s.residual[:, k] for k, c in enumerate(detector.channels)}
            for segment, s in zip(segments, scored, strict=True)
        ],
    )
    stamps = timestamps_of(segments)
    rows = []
    for recording in recordings:
        for found_by, events in (("lstm", recording.found), ("mask", recording.faults)):
            match = match_recording(recording, events, tolerance_s)
            for event, k in zip(events, match.match, strict=True):
                row = {"event": event, "matched_label": recording.labelled[k].kind if k >= 0 else ""}
                ends = {f"{end}_timestamp": stamps.get((event.recording, getattr(event, f"{end}_s"))) for end in ENDS}
                rows.append(row | {"found_by": found_by} | ends)
    write_events(run, rows, timestamps=bool(stamps))


def timestamps_of(segments: Sequence[Segment]) -> dict[tuple[str, float], str]:
    """Return the timestamp of each row of series by recording and time; none of recordings."""
    return {
        (segment.recording, t): str(stamp)
        for segment in segments
        if segment.timestamp is not None
        for t, stamp in zip(segment.t.tolist(), segment.timestamp, strict=True)
    }


def draw_findings(
    run: RunFolder,
    detector: Detector,
    segments: Sequence[Segment],
    scored: Sequence[Scored],
    recordings: Sequence[TestRecording],
    tolerance_s: float,
    simulated: bool,
) -> None:
    """Draw each test recording, and a close-up of each event found or missed."""
    folder = run.plots / "events"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    before_s, after_s, stamps = BEFORE_S, AFTER_S, timestamps_of(segments)
    if segments[0].timestamp is not None:
        before_s, after_s = BEFORE_ROWS / detector.rate_hz, AFTER_ROWS / detector.rate_hz
    for recording in tqdm(recordings, desc="plots", unit="recording", disable=None):
        view = view_of(recording, detector, segments, scored, tolerance_s, simulated)
        plots.save(plots.plot_recording(view), run.plots / f"{recording.name}.png")
        for start_s, end_s, is_true, channel in view.found:
            at = stamps.get((recording.name, start_s), f"{start_s:.1f} s")
            title = f"{recording.name}: {'found' if is_true else 'false alarm'} at {at} ({channel})"
            kind = "found" if is_true else "false"
            figure = plots.plot_event(view, start_s, end_s, title, before_s, after_s)
            plots.save(figure, folder / f"{recording.name}_{start_s:07.1f}_{kind}.png")
        for start_s, end_s, kind, is_found in view.labelled:
            if not is_found:
                at = stamps.get((recording.name, start_s), f"{start_s:.1f} s")
                title = f"{recording.name}: missed {kind} at {at}"
                figure = plots.plot_event(view, start_s, end_s, title, before_s, after_s)
                plots.save(figure, folder / f"{recording.name}_{start_s:07.1f}_missed.png")


def view_of(
    recording: TestRecording,
    detector: Detector,
    segments: Sequence[Segment],
    scored: Sequence[Scored],
    tolerance_s: float,
    simulated: bool,
) -> plots.RecordingView:
    """Return what the plots of one recording need."""
    mine = [k for k, segment in enumerate(segments) if segment.recording == recording.name]
    match = match_recording(recording, recording.found, tolerance_s)
    by_mask = match_recording(recording, recording.faults, tolerance_s)
    return plots.RecordingView(
        name=recording.name,
        t=recording.t,
        values=np.concatenate([segments[k].values for k in mine]),
        forecast=np.concatenate([scored[k].forecast for k in mine]),
        lead_s=((detector.model.horizon - 1) // 2 + 1) / detector.rate_hz,
        score=recording.score,
        threshold=np.concatenate([scored[k].threshold for k in mine]),
        channels=detector.channels,
        units=detector.units,
        found=[
            (e.start_s, e.end_s, bool(true) if recording.labelled else None, e.channel)
            for e, true in zip(recording.found, match.is_true, strict=True)
        ],
        labelled=[
            (e.start_s, e.end_s, e.kind, bool(match.is_found[k] or by_mask.is_found[k]))
            for k, e in enumerate(recording.labelled)
        ],
        faults=[(e.start_s, e.end_s, e.channel) for e in recording.faults],
        note="simulated data" if simulated else "",
        gaps_missing=segments[0].timestamp is None,
    )
