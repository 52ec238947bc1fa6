"""From the scores of recordings to findings: alarms and events by recording, their files and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from config import SCORE_COMPONENTS
from data_loader import Dataset
from detection import thresholds
from detection.anomaly_scores import Scores
from detection.desaturation import depth_of, desaturations
from detection.detector import Detector, Scored
from detection.events import FoundEvent, fault_events, find_events
from evaluation.detector_metrics import detector_metrics, fault_measures
from evaluation.results import LSTM, RANDOM, UNTRAINED, CalibrationEvents, RunMetrics, ThresholdFacts
from evaluation.scored_recording import ScoredRecording
from recordings.wall_clock import clock_at, clocks_at, time_at
from recordings.windowing import EventMeta, Segment, overlap
from reports.drawing import Draw, draw_here, drawing
from reports.recording_view import RecordingView
from reports.run_folder import AROUND_ROWS, AROUND_S, CLOCKS, STAMPS, RunFiles, RunFolder
from trainers import Batches, Trainer

CLOSE_UPS = 4                            # of a recording, on paper; its viewer shows every event
LEAST_SHARE = 0.05                       # of an event's alarms, for a channel to be named


@dataclass(frozen=True)
class Seen:
    """One segment as one detector sees it: score, alarm and the channel that contributed most (T,)."""

    score: np.ndarray
    alarm: np.ndarray
    channel: np.ndarray


@dataclass(frozen=True)
class Findings:
    """What a detector made of some recordings; `scored` has one entry for each of `segments`."""

    detector: Detector
    segments: Sequence[Segment]
    scored: Sequence[Scored]
    recordings: Sequence[ScoredRecording]
    simulated: bool
    fault_kinds: Sequence[str] = ()
    starts: Mapping[str, datetime] = field(default_factory=dict)     # recording -> its clock at time 0
    has_clock: bool = False                                          # whether any recording of the run has one
    stages: Mapping[str, Sequence[EventMeta]] = field(default_factory=dict)      # recording -> its sleep stages

    @property
    def tolerance_s(self) -> float:
        return self.detector.config.events.tolerance_s

    def of(self, recording: str) -> list[int]:
        """Return the places of a recording's segments."""
        return [k for k, segment in enumerate(self.segments) if segment.recording == recording]

    def joined(self, recording: str, name: str) -> np.ndarray:
        """Return an array of `scored` over the steps of a recording (T, ...)."""
        return np.concatenate([getattr(self.scored[k], name) for k in self.of(recording)])

    def values(self, recording: str) -> np.ndarray:
        """Return the physical values (T, C) of a recording."""
        return np.concatenate([self.segments[k].values for k in self.of(recording)])


def is_series(segments: Sequence[Segment]) -> bool:
    """Return whether the segments are rows of series."""
    return segments[0].timestamp is not None


# ---- alarms and events ----------------------------------------------------------------------


def labels_in_test_span(dataset: Dataset) -> dict[str, list[EventMeta]]:
    """Return the labelled events of each test recording, clipped to its test span; {} if no recording has any.

    The span begins with the first test step if training or calibration data lies before it, else with the recording;
    likewise at its end.
    """
    if not any(dataset.meta.events.values()):
        return {}
    tested = {}
    for name in dict.fromkeys(segment.recording for segment in dataset.splits["test"]):
        mine, others = (
            np.array([s.t[[0, -1]] for split in splits for s in dataset.splits[split] if s.recording == name])
            for splits in (["test"], ["train", "val"])
        )
        start_s = mine.min() if (others < mine.min()).any() else -np.inf
        end_s = mine.max() if (others > mine.max()).any() else np.inf
        tested[name] = [
            EventMeta(start_s=max(event.start_s, start_s), end_s=min(event.end_s, end_s), kind=event.kind)
            for event in dataset.meta.events[name]
            if event.end_s >= start_s and event.start_s <= end_s
        ]
    return tested


class RandomScores:
    """Random scores and their threshold, fitted on as many calibration steps, as the detector's is."""

    def __init__(self, detector: Detector, calibration_steps: int) -> None:
        self.random = np.random.default_rng(detector.config.training.seed)
        self.threshold = detector.fit_threshold([self.random.uniform(size=calibration_steps)])

    def of(self, segments: Sequence[Segment]) -> list[np.ndarray]:
        """Return the scores (T,) of segments."""
        return [self.random.uniform(size=len(segment)) for segment in segments]


def recordings_as_seen(
    detector: Detector,
    segments: Sequence[Segment],
    scored: Sequence[Scored],
    labelled: Mapping[str, Sequence[EventMeta]],
    chance: RandomScores,
    untrained: Detector | None = None,
) -> dict[str, list[ScoredRecording]]:
    """Return the test recordings as the LSTM, the baselines without a model and random scores see them.

    Args:
        untrained: a calibrated detector whose LSTM has not been trained, to be compared with too.
    """
    seen = {LSTM: [Seen(s.score, s.alarm, s.channel) for s in scored]}       # its alarms are raised already
    fitted = detector.baseline_thresholds
    others = {name: ([s.baselines[name] for s in scored], fitted[name]) for name in fitted}
    if untrained is not None:
        scores = [one.score for one in untrained.detect([segment.values for segment in segments])]
        others[UNTRAINED] = scores, untrained.threshold
    others[RANDOM] = chance.of(segments), chance.threshold
    for name, (scores, threshold) in others.items():
        seen[name] = [_seen(score, np.zeros(len(score), int), threshold) for score in scores]
    by_rule = found_by_rule(detector, segments)                               # the same for all of them
    return {name: group_recordings(detector, segments, one, labelled, by_rule) for name, one in seen.items()}


def _seen(score: np.ndarray, channel: np.ndarray, threshold: Mapping[str, Any]) -> Seen:
    return Seen(score, thresholds.alarms(score, thresholds.apply(threshold, score)), channel)


def events_on_normal(detector: Detector, segments: Sequence[Segment], scores: Sequence[Scores]) -> CalibrationEvents:
    """Return how many events the threshold leaves on the normal data that it was fitted on, and in how long.

    These are false alarms without a label having been read; on other data there are rather more.
    """
    found = sum(
        len(_events(detector, segment, _seen(part.score, part.channel, detector.threshold)))
        for segment, part in zip(segments, scores, strict=True)
    )
    hours = sum(len(segment) for segment in segments) / detector.rate_hz / 3600
    return CalibrationEvents(events=found, hours=hours, events_per_hour=found / hours)


def found_by_rule(
    detector: Detector, segments: Sequence[Segment]
) -> dict[str, tuple[list[FoundEvent], list[FoundEvent]]]:
    """Return faults and desaturations of each recording: what needs no score."""
    names = dict.fromkeys(segment.recording for segment in segments)
    parts = {name: [segment for segment in segments if segment.recording == name] for name in names}
    return {name: (_faults(name, mine, detector), _desaturations(name, mine, detector)) for name, mine in parts.items()}


def group_recordings(
    detector: Detector,
    segments: Sequence[Segment],
    seen: Sequence[Seen],
    labelled: Mapping[str, Sequence[EventMeta]],
    by_rule: Mapping[str, tuple[list[FoundEvent], list[FoundEvent]]],
) -> list[ScoredRecording]:
    """Return each recording with its alarms, found events and faults, segments joined.

    In series every row counts, also one without a score yet, as the least strange.

    Args:
        labelled: recording -> its labelled events; one that is not in it was never looked through.
        by_rule: recording -> its faults and desaturations.
    """
    recordings = []
    for name, (faults, fallen) in by_rule.items():
        mine = [(segment, one) for segment, one in zip(segments, seen, strict=True) if segment.recording == name]
        t = np.concatenate([segment.t for segment, _ in mine])
        score, alarm = (np.concatenate([getattr(one, key) for _, one in mine]) for key in ("score", "alarm"))
        if is_series(segments):
            score = np.nan_to_num(score, nan=0.0)
        found = [event for segment, one in mine for event in _events(detector, segment, one)]
        events = list(labelled.get(name, []))
        recordings.append(ScoredRecording(name, t, score, alarm, found, faults, events, name in labelled, fallen))
    return recordings


def _events(detector: Detector, segment: Segment, seen: Seen) -> list[FoundEvent]:
    """Return the events that the alarms of a segment make."""
    config = detector.config.events
    gaps = {"merge_gap_s": config.merge_gap_s, "min_duration_s": config.min_duration_s}
    steps = (segment.t, seen.score, seen.alarm, seen.channel)
    return find_events(segment.recording, *steps, detector.channels, **gaps)


def _faults(name: str, segments: Sequence[Segment], detector: Detector) -> list[FoundEvent]:
    """Return the faults of a recording; what lies between two test spans of a series is no fault."""
    spans = [[segment] for segment in segments] if is_series(segments) else [segments]
    least_s, found = detector.config.events.fault_min_s, []
    for parts in spans:
        t, values = (np.concatenate([getattr(part, key) for part in parts]) for key in ("t", "values"))
        found += fault_events(name, t, values, detector.channels, least_s, 1 / detector.rate_hz)
    return found


def _desaturations(name: str, segments: Sequence[Segment], detector: Detector) -> list[FoundEvent]:
    """Return the desaturations of a recording, of every channel that is declared as an oximeter."""
    found = []
    for k, (channel, measures) in enumerate(zip(detector.channels, detector.resolved.measures, strict=True)):
        if measures == "oximetry":
            pieces = [(segment.t, segment.values[:, k]) for segment in segments]
            found += desaturations(name, pieces, channel, detector.rate_hz)
    return found


# ---- files ----------------------------------------------------------------------------------


def write_findings(files: RunFiles, findings: Findings) -> None:
    """Write scores and signals; add the alarms, the labelled events and the recordings to their tables."""
    for segment, scored in zip(findings.segments, findings.scored, strict=True):
        start = findings.starts.get(segment.recording)
        files.add_scores(
            {
                "recording": segment.recording,
                "t_s": segment.t,
                **({} if segment.timestamp is None else {"timestamp": segment.timestamp}),
                **({"clock": clocks_at(start, segment.t)} if findings.has_clock else {}),
                "score": scored.score,
                "threshold": scored.threshold,
                "alarm": scored.alarm.astype(int),
                "label": segment.label,
                "baseline_score": next(iter(scored.baselines.values())),
            }
            | {f"residual_{c}": scored.residual[:, k] for k, c in enumerate(findings.detector.channels)}
        )
    stamps = timestamps_of(findings.segments)
    for recording in findings.recordings:
        files.alarms += _alarm_rows(findings, recording, stamps)
        view = view_of(findings, recording)
        for (start_s, end_s, kind, _), by in zip(view.labelled, _found_by(findings, recording), strict=True):
            row = {"recording": recording.name, "start_s": start_s, "end_s": end_s, "kind": kind, "found_by": by}
            files.labels.append(row | stamped(findings, stamps, recording.name, start_s, end_s))
        about = {
            "name": recording.name,
            "start_s": float(view.t[0]),
            "end_s": float(view.t[-1]),
            "steps": len(view.t),
            "is_labelled": recording.is_labelled,
            "lead_s": view.lead_s,
            **({"start": view.start.isoformat()} if view.start else {}),
        }
        drawn = ("values", "forecast", "score", "threshold")
        signals = {name: np.asarray(getattr(view, name), np.float32) for name in drawn}
        files.add_recording(about, signals | {"t": view.t})


def _alarm_rows(
    findings: Findings, recording: ScoredRecording, stamps: Mapping[tuple[str, float], str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `alarms.csv` of one recording: events of the LSTM, lost signal, desaturations."""
    led = tuple(findings.joined(recording.name, name) for name in ("channel", "component"))
    late = findings.tolerance_s
    by_rule = (("signal_loss", recording.faults), ("oximetry", recording.desaturations))
    for found_by, events in (("lstm", recording.found), *by_rule):
        match = recording.match(events, late)
        for event, k in zip(events, match.match, strict=True):
            row = {"event": event, "matched_label": recording.labelled[k].kind if k >= 0 else "", "found_by": found_by}
            span = event.start_s, event.end_s
            overlapped = (e.kind for e in recording.labelled if overlap(span, (e.start_s, e.end_s + late)))
            row["overlaps"] = row["matched_label"] or next(overlapped, "")
            row |= _explained(findings.detector.channels, recording, event, *led) if found_by == "lstm" else {}
            row |= {"component": depth_of(event), "contributions": ""} if found_by == "oximetry" else {}
            yield row | stamped(findings, stamps, recording.name, event.start_s, event.end_s)


def steps_led(recording: ScoredRecording, event: FoundEvent, leader: np.ndarray) -> np.ndarray:
    """Return how many of an event's alarms each channel, or component, led (n,); the last of them led at least one.

    Args:
        leader: (T,) over the steps of the recording, -1 = none.
    """
    part = slice(*np.searchsorted(recording.t, [event.start_s, np.nextafter(event.end_s, np.inf)]))
    leader = leader[part]
    return np.bincount(leader[recording.alarm[part] & (leader >= 0)], minlength=1)


def _explained(
    channels: Sequence[str], recording: ScoredRecording, event: FoundEvent, channel: np.ndarray, component: np.ndarray
) -> dict[str, str]:
    """Return what an event is due to: the component, and the channels that led its alarms.

    Args:
        channel, component: (T,) of the recording's scores.
    """
    led = steps_led(recording, event, channel)
    share = led / max(led.sum(), 1)
    named = [k for k in np.argsort(-share, kind="stable") if share[k] >= LEAST_SHARE]
    return {
        "component": SCORE_COMPONENTS[steps_led(recording, event, component).argmax()],
        "contributions": ", ".join(f"{channels[k]} {100 * share[k]:.0f} %" for k in named),
    }


def _found_by(findings: Findings, recording: ScoredRecording) -> list[str]:
    """Return what found each labelled event, "" = nothing: `lstm`, or `signal_loss` for kinds that are faults."""
    both = [recording.match(events, findings.tolerance_s).is_found for events in (recording.found, recording.faults)]
    return [
        ("signal_loss" if gone else "") if event.kind in findings.fault_kinds else ("lstm" if hit else "")
        for event, hit, gone in zip(recording.labelled, *both, strict=True)
    ]


def stamped(
    findings: Findings, stamps: Mapping[tuple[str, float], str], recording: str, start_s: float, end_s: float
) -> dict[str, str | None]:
    """Return the columns of an event's times besides the seconds: rows' timestamps, or the clock of a recording."""
    if findings.has_clock:
        start = findings.starts.get(recording)
        return {name: clock_at(start, at) for name, at in zip(CLOCKS, (start_s, end_s), strict=True)}
    return {name: stamps.get((recording, at)) for name, at in zip(STAMPS, (start_s, end_s))} if stamps else {}


def timestamps_of(segments: Sequence[Segment]) -> dict[tuple[str, float], str]:
    """Return the timestamp of each row of series by recording and time; none of recordings."""
    return {
        (segment.recording, t): str(stamp)
        for segment in segments
        if segment.timestamp is not None
        for t, stamp in zip(segment.t.tolist(), segment.timestamp, strict=True)
    }


# ---- pictures -------------------------------------------------------------------------------


def clear_pictures(run: RunFolder) -> None:
    """Make the folders of the pictures; remove the close-ups of an earlier scoring."""
    folder = run.plots / "events"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink(missing_ok=True)
    run.free_response.unlink(missing_ok=True)


def draw_training(run: RunFolder, trainer: Trainer, detector: Detector, validation: Batches, simulated: bool) -> None:
    """Draw the training curve, and forecasts against the truth on the first window of validation data."""
    from reports import plots

    progress, note = trainer.progress, "simulated data" if simulated else ""
    plots.save(plots.plot_history(progress.history, progress.best_epoch, note), run.plots / "training.png")
    x, series = validation[0][0][:1], validation[0][1][0].numpy()        # (1, T, C), (T + H, C)
    detector.model.eval()
    with torch.inference_mode():
        forecast = detector.model(x.to(detector.device))[0][0].float().cpu().numpy()     # (T, H, C)
    rate_hz, horizon, physical = detector.rate_hz, detector.model.horizon, detector.scaler.physical
    origins = range(trainer.warm_up, len(forecast), max(horizon, 1))
    fans = [((origin + 1 + np.arange(horizon)) / rate_hz, physical(forecast[origin])) for origin in origins]
    t = np.arange(len(series)) / rate_hz
    title = f"validation data after epoch {progress.epoch - 1}" + (f" ({note})" if note else "")
    figure = plots.plot_progress(t, physical(series), fans, detector.channels, detector.units, title)
    plots.save(figure, run.plots / "progress.png")


def draw_free_response(run: RunFolder, metrics: RunMetrics) -> None:
    """Draw recall against false events an hour, if something is labelled."""
    curves = {name: one.free_response_curve for name, one in metrics.detectors.items() if one.free_response_curve}
    if curves and (kinds := curves[LSTM].kinds):
        labelled = {kind: metrics.detectors[LSTM].kinds[kind].labelled for kind in kinds}
        from reports import plots

        note = "simulated data" if metrics.simulated else ""
        plots.save(plots.plot_free_response(curves, labelled, note), run.free_response)


def draw_findings(run: RunFolder, findings: Findings) -> None:
    """Draw each recording, and close-ups of a few of its events; a second process takes every other recording."""
    with drawing(sum(map(len, findings.segments))) as apart:
        for k, recording in enumerate(tqdm(findings.recordings, desc="plots", unit="recording", disable=None)):
            draw_recording(run, findings, recording, draw_here if k % 2 else apart)


def draw_recording(run: RunFolder, findings: Findings, recording: ScoredRecording, draw: Draw = draw_here) -> None:
    """Draw one recording, and close-ups of a few of its events: missed, false, and then found ones."""
    rows = np.divide(AROUND_ROWS, findings.detector.rate_hz).tolist()
    before_s, after_s = rows if is_series(findings.segments) else AROUND_S
    stamps, name, view = timestamps_of(findings.segments), recording.name, view_of(findings, recording)
    close_ups = []
    for start_s, end_s, verdict, what in _worth_a_close_up(recording, view)[:CLOSE_UPS]:
        at = time_at(view.start, start_s)
        title = f"{name}: {what} at {stamps.get((name, start_s), f'{start_s:.1f} s')}" + (f", {at}" if at else "")
        close_ups.append((start_s - before_s, end_s + after_s, title, run.close_up(name, start_s, verdict)))
    draw(view, run.overview(name), close_ups)


def _worth_a_close_up(recording: ScoredRecording, view: RecordingView) -> list[tuple[float, float, str, str]]:
    """Return start_s, end_s, verdict and what it is of events: missed, false, then found, the highest scores first."""
    missed = [(s, e, "missed", f"missed {kind}") for s, e, kind, is_found in view.labelled if not is_found]
    by_score = sorted(zip(recording.found, view.found, strict=True), key=lambda pair: -pair[0].peak_score)
    false = [(s, e, "false", f"false alarm ({c})") for _, (s, e, is_true, c) in by_score if is_true is False]
    found = [(s, e, "found", f"found ({c})") for _, (s, e, is_true, c) in by_score if is_true is not False]
    return [*missed, *false, *found]


def view_of(findings: Findings, recording: ScoredRecording) -> RecordingView:
    """Return what the plots of one recording need."""
    detector = findings.detector
    match = recording.match(recording.found, findings.tolerance_s)
    found_by = _found_by(findings, recording)
    return RecordingView(
        name=recording.name,
        t=recording.t,
        values=findings.values(recording.name),
        forecast=findings.joined(recording.name, "forecast"),
        lead_s=((detector.model.horizon - 1) // 2 + 1) / detector.rate_hz,
        score=recording.score,
        threshold=findings.joined(recording.name, "threshold"),
        channels=detector.channels,
        units=detector.units,
        found=[
            (e.start_s, e.end_s, bool(true) if recording.is_labelled else None, e.channel)
            for e, true in zip(recording.found, match.is_true, strict=True)
        ],
        labelled=[(e.start_s, e.end_s, e.kind, bool(by)) for e, by in zip(recording.labelled, found_by, strict=True)],
        faults=[(e.start_s, e.end_s, e.channel) for e in recording.faults],
        note="simulated data" if findings.simulated else "",
        gaps_missing=not is_series(findings.segments),
        start=findings.starts.get(recording.name),
        row_s=1 / detector.rate_hz if is_series(findings.segments) else None,
    )


def compute_metrics(
    detector: Detector,
    dataset: str,
    simulated: bool,
    fault_kinds: Sequence[str],
    seen: Mapping[str, Sequence[ScoredRecording]],
    buffer: int | None,
    series_rows: int | None = None,
) -> RunMetrics:
    """Return the metrics of recordings as the detectors see them.

    Args:
        seen: detector -> recordings; without any, nothing is measured of detectors.
        buffer: of VUS, in steps; None = no VUS.
        series_rows: length of the series that is tested; None = recordings.
    """
    events, rate_hz = detector.config.events, detector.rate_hz
    return RunMetrics(
        dataset=dataset,
        simulated=simulated,
        channels=list(detector.channels),
        seed=detector.config.training.seed,
        rate_hz=rate_hz,
        fault_kinds=list(fault_kinds),
        threshold=ThresholdFacts(**{key: detector.threshold.get(key) for key in ThresholdFacts.model_fields}),
        events=events,
        vus_buffer_steps=buffer,
        detectors={
            name: detector_metrics(several, fault_kinds, rate_hz, events, buffer, series_rows)
            for name, several in seen.items()
        },
        faults=fault_measures(seen.get(LSTM, []), fault_kinds, events.tolerance_s),
    )
