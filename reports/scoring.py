"""Score recordings with a trained model: files in, a run folder out; no training data needed.

`pure_lstm_anomaly_detection_main.py --checkpoint F --score FILE...` is its command line.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from config import BREATHING, DatasetConfig, check_name
from detection.checkpoint import load_calibrated, recorded_data
from detection.detector import Detector
from evaluation.nights import ScoredNight
from evaluation.results import LSTM, FoundCounts, RunMetrics, read_metrics, write_metrics
from evaluation.scored_recording import ScoredRecording
from recordings import event_files, preprocessing
from recordings.file_names import FileNames
from recordings.finding import expanded, left_out_line
from recordings.nab_series import read_series
from recordings.reading import Recording, name_of
from recordings.resmed_card import has_events, is_night
from recordings.series_files import SeriesColumns
from recordings.signals import NoSamples
from recordings.windowing import EventMeta, Segment, segments_where
from reports.drawing import Draw, drawing
from reports.events import add_events
from reports.exports import export_run
from reports.findings import (
    Findings,
    RandomScores,
    clear_pictures,
    compute_metrics,
    draw_free_response,
    draw_recording,
    recordings_as_seen,
    write_findings,
)
from reports.nights import draw_agreement, nights_of, with_nights
from reports.page import write_report
from reports.run_folder import CLOCKS, STAMPS, RunFolder, at_work_in, run_files, write_data, write_run
from reports.tables import markdown, night_rows, respiratory_tables
from utils import DataError, counted, log_to_file, sha256_of, write_json

log = logging.getLogger(__name__)

MARK = ".scoring"                        # in a folder, until all of it is there
TOGETHER = 16                           # recordings that are scored together, and
STEPS_AT_ONCE = 200_000                  # their steps, at most: bounds the memory
MOST_PRINTED = 40                        # nights on a console


class NotAllScored(DataError):
    """Some recordings of a folder could not be read; the others are scored in the run folder `root`."""

    def __init__(self, root: Path, refused: Sequence[str], asked: int, place: str = "the log") -> None:
        more = f" (and {len(refused) - 1} more, see {place})" if refused[1:] else ""
        super().__init__(f"{len(refused)} of {counted(asked, 'recording')} not scored: {refused[0]}{more}")
        self.root = root


@dataclass(frozen=True)
class ToScore:
    """A file to score: segments, labelled events (None = nobody looked), what was filled in it, its clock at time 0."""

    file: Path
    segments: list[Segment]
    events: list[EventMeta] | None
    filled: list[str]
    start: datetime | None = None
    stages: list[EventMeta] | None = None                # of sleep; None = nobody scored them


@dataclass(frozen=True)
class Checked:
    """Steps of each recording that can be scored, whether one has a clock, why others cannot be, and the first few."""

    steps: dict[str, int]
    has_clock: bool
    refused: list[str]
    first: dict[str, ToScore]


def score_files(
    checkpoint: Path, files: Sequence[Path], root: Path, device: str, names: FileNames | None = None,
    profile: str | None = None, export: Sequence[str] = (), pictures: bool = True,
) -> Path:
    """Score raw recordings with a trained model; no training data needed. Returns the run folder.

    Every file is read and checked before the folder is made. Then all but the first few are read again, and scored a
    few at a time: memory holds those few, and of labelled recordings the scores, which the numbers are made from.

    Args:
        export: formats of files for other programs, beside the CSV that every run of recordings has.
    Raises: DataError if a file that is named cannot be read, or none can; NotAllScored, when all others are scored,
        if one of a folder or of a pattern cannot.
    """
    began = time.perf_counter()
    state, detector = load_calibrated(checkpoint, device)
    if profile is not None:
        detector.use_profile(profile)
    paths, data = files_to_score(files), recorded_data(state, detector, checkpoint.name)
    names = names or FileNames()
    names.check(detector.channels)
    if data is None and export:
        raise DataError("--export: only the events of recordings are exported; this model is of a series")
    data, columns = data and names.dataset(data), names.series(state["data"], detector.channels)

    def read(name: str, file: Path) -> ToScore:
        if data is None:
            return _series_to_score(name, file, columns, detector)
        return _recording_to_score(name, file, data, detector)

    checked, checked_at = _check(paths, files, read), time.perf_counter()

    def read_again(name: str, file: Path) -> ToScore:
        return checked.first.pop(name, None) or read(name, file)

    run, paths = RunFolder(root), {name: paths[name] for name in checked.steps}
    again = is_cut_off(run)
    with at_work_in(root, new=not again), _marked(root), log_to_file(run.log):
        if again:
            log.warning("%s: a scoring was cut off here; it starts over", root)
        log.info("scoring %s with %s on %s", counted(len(paths), "recording"), checkpoint, device)
        clear_pictures(run)
        for line in checked.refused:
            log.error("not scored: %s", line)
        with drawing(sum(checked.steps.values())) if pictures else contextlib.nullcontext() as draw:
            results = _score_in_groups(run, state, detector, checkpoint, paths, checked, read_again, draw)
        ended = time.perf_counter()
        seconds = {"checking": checked_at - began, "scoring and reporting": ended - checked_at, "total": ended - began}
        write_run(run, seed=results.seed, device=device, seconds=seconds, simulated=results.simulated)
        write_metrics(run.metrics, results)
        draw_free_response(run, results)
        draw_agreement(run, results)
        if data is not None:
            export_run(run, export)
        write_json(run.config, detector.config.model_dump())     # late: a folder with it alone would be one that trains
        write_report(run.root)
    if checked.refused:
        raise NotAllScored(root, checked.refused, len(paths) + len(checked.refused))
    return root


def scored_answer(root: Path) -> str:
    """Return what is printed of scored recordings: agreement with labels, the nights if they are few, the folder."""
    metrics = read_metrics(RunFolder(root).metrics)
    tables = [*respiratory_tables([metrics]).values()]
    if metrics.nights and len(metrics.nights) <= MOST_PRINTED:
        tables.append(night_rows(metrics.nights))
    return "\n\n".join([*(markdown(table) for table in tables if len(table) > 1), str(root)])


def _check(paths: dict[str, Path], given: Sequence[Path], read: Callable[[str, Path], ToScore]) -> Checked:
    """Read every file once; the first recordings, as many as are scored together, are kept."""
    steps, has_clock, refused, empty, first = {}, False, [], [], {}
    for name, file in tqdm(paths.items(), desc="check", unit="file", disable=None):
        try:
            part = read(name, file)
            steps[name] = sum(len(segment) for segment in part.segments)
            has_clock |= part.start is not None
            if next(groups_of(steps)) == list(steps):
                first[name] = part
        except DataError as error:
            if file in given:
                raise
            if isinstance(error, NoSamples):
                empty.append(file)
            else:
                refused.append(str(error))
    if empty:
        log.info("%s", left_out_line(empty))
    if not steps:
        raise DataError(refused[0] if refused else left_out_line(empty))
    return Checked(steps, has_clock, refused, first)


@contextlib.contextmanager
def _marked(root: Path) -> Iterator[None]:
    """Mark a folder as one of a scoring that is not over; the mark stays if it is cut off."""
    (root / MARK).touch()
    yield
    (root / MARK).unlink()


def is_cut_off(run: RunFolder) -> bool:
    """Return whether a folder is that of a scoring that was killed: the report, its last file, is missing."""
    is_training = run.checkpoint.is_file() or (run.config.is_file() and not run.metrics.is_file())
    return (run.root / MARK).is_file() and not run.report.is_file() and not is_training


def _score_in_groups(
    run: RunFolder, state: dict[str, Any], detector: Detector, checkpoint: Path, paths: dict[str, Path],
    checked: Checked, read: Callable[[str, Path], ToScore], draw: Draw | None,
) -> RunMetrics:  # fmt: skip
    """Score, write and draw recordings group by group; return their metrics."""
    steps, has_clock = checked.steps, checked.has_clock
    simulated, fault_kinds = bool(state["data"].get("simulated")), state["data"].get("fault_kinds", [])
    chance, filled = RandomScores(detector, sum(steps.values())), []
    labelled: dict[str, list[ScoredRecording]] = {}
    nights: dict[str, ScoredNight] = {}
    counts = {"labelled_recordings": 0, "events": 0, "faults": 0}
    times = STAMPS if state.get("series") else CLOCKS if has_clock else ()
    with (
        run_files(run, times) as files,
        tqdm(total=len(paths), desc="recordings", unit="recording", disable=None) as bar,
    ):
        for names in groups_of(steps):
            parts = {name: read(name, paths[name]) for name in names}
            segments = [segment for part in parts.values() for segment in part.segments]
            scored = detector.detect([segment.values for segment in segments])
            events = {name: part.events for name, part in parts.items() if part.events is not None}
            seen = recordings_as_seen(detector, segments, scored, events, chance)
            starts = {name: part.start for name, part in parts.items() if part.start}
            stages = {name: part.stages for name, part in parts.items() if part.stages}
            about = simulated, fault_kinds, starts, has_clock, stages
            findings = Findings(detector, segments, scored, seen[LSTM], *about)
            write_findings(files, findings)
            found = nights_of(findings)
            add_events(files, findings, found)
            nights |= found
            for recording in findings.recordings:
                if draw:
                    draw_recording(run, findings, recording, draw)
                counts["events"] += len(recording.found)
                counts["faults"] += len(recording.faults)
                bar.update()
            counts["labelled_recordings"] += len(events)
            for name, several in seen.items():
                labelled.setdefault(name, []).extend(r for r in several if r.is_labelled)
            for line in (line for part in parts.values() for line in part.filled):
                log.info("%s", line)
                filled.append(line)
    write_data(run, _scored_facts(state, detector, checkpoint, paths, steps, filled, checked.refused), files.recordings)
    seen = labelled if any(recording.labelled for recording in labelled[LSTM]) else {}
    dataset, buffer = detector.config.dataset.name, state.get("vus_buffer_steps")
    results = compute_metrics(detector, dataset, simulated, fault_kinds, seen, buffer)
    found = FoundCounts(recordings=len(paths), hours=sum(steps.values()) / detector.rate_hz / 3600, **counts)
    return with_nights(results.model_copy(update={"found": found}), labelled[LSTM], nights)


def _scored_facts(
    state: dict[str, Any], detector: Detector, checkpoint: Path, paths: dict[str, Path], steps: dict[str, int],
    filled: list[str], refused: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Return what `data.json` says of scored recordings."""
    data, rate = state["data"], detector.rate_hz
    own, dataset = data.get("channels", {}), recorded_data(state, detector, checkpoint.name)
    read = dict.fromkeys(one for name, file in paths.items() for one in preprocessing.files_read(name, file, dataset))
    total = sum(steps.values())
    return {
        "dataset": detector.config.dataset.name,
        "description": f"recordings scored with a model that was trained on: {data.get('description', '')}",
        "simulated": bool(data.get("simulated")),
        "is_series": bool(state.get("series")),
        "rate_hz": rate,
        "delay_s": data.get("delay_s", 0.0),
        "guard_s": None,
        "channels": [
            {"name": c, "unit": unit, "measures": measures, "rate_hz": own.get(c, {}).get("rate_hz", rate)}
            for c, unit, measures in zip(detector.channels, detector.units, detector.resolved.measures, strict=True)
        ],
        "splits": {"test": {"recordings": len(paths), "steps": total, "hours": total / rate / 3600}},
        "dropped": [],
        "filled": filled,
        "notes": [f"not scored: {line}" for line in refused],
        "sources": {str(file): sha256_of(file) for file in [*read, checkpoint]},
    }


def groups_of(steps: dict[str, int]) -> Iterator[list[str]]:
    """Yield recordings that are scored together: many short ones, but few long ones."""
    group: list[str] = []
    for name in steps:
        if group and (len(group) == TOGETHER or sum(steps[n] for n in group) + steps[name] > STEPS_AT_ONCE):
            yield group
            group = []
        group.append(name)
    if group:
        yield group


def files_to_score(given: Sequence[Path]) -> dict[str, Path]:
    """Return the files that --score names, by the names of their recordings: files, folders, cards and patterns.

    Files of events stand beside recordings and are none themselves. A night of a card is its folder.

    Raises: DataError if something leads to no file, or two files to one name.
    """
    found: dict[str, Path] = {}
    for path in given:
        files = [file for file in expanded(path) if not name_of(file).endswith(event_files.NAME_ENDS)]
        if not files and not (path.is_file() and len(given) > 1):
            raise DataError(f"{path}: a file of labelled events, no recording")
        for file in files:
            name = name_of(file)
            check_name(name, "--score: the name of a recording,")
            if found.setdefault(name, file) != file:
                both = f"{found[name]} and {file}"
                raise DataError(f"--score: two files have the same name, {both}; score them one after the other")
    if not found:
        raise DataError("--score: only files of labelled events are named; name the recordings beside them")
    return found


def _recording_to_score(name: str, file: Path, data: DatasetConfig, detector: Detector) -> ToScore:
    """Return a raw recording on the detector's grid; its events are known if their file is beside it."""
    filled: list[str] = []
    read = preprocessing.load_recording(file, name, data, allow_dead=True, own_kinds=True)
    recording = _without_dead(read, data, filled)
    _check_length(file, recording.duration_s, detector)
    filled += [f"{name}: {note}" for note in recording.notes]
    segment = preprocessing.on_grid(recording, data, filled)
    segments = segments_where(segment, segment.label >= 0)
    if not segments:
        raise DataError(f"{file.name}: no channel of the model has a value long enough to be used")
    is_scored = is_night(file) and has_events(file)                  # by the device, which may have found nothing
    is_labelled = bool(recording.events) or event_files.file_of(file, name) is not None or is_scored
    events = preprocessing.labelled_events(recording) if is_labelled else None
    return ToScore(file, segments, events, filled, recording.start, preprocessing.stages_of(recording, data))


def _without_dead(recording: Recording, data: DatasetConfig, filled: list[str]) -> Recording:
    """Return a recording whose dead channels have no samples; note them in `filled`.

    A flat airflow or belt from start to end is a sensor that is off; a flat SpO2 may be true.
    """
    channels = {}
    for channel, samples in recording.channels.items():
        values, breathes = samples.values, data.channels[channel].measures in BREATHING
        if not len(values) or (breathes and values.min() == values.max()):
            why = f"never changes, {values[0]:g}" if len(values) else "has no value"
            filled.append(f"{recording.name}: {channel}: {why}; it counts as missing from start to end")
            samples = replace(samples, t=samples.t[:0], values=values[:0])
        channels[channel] = samples
    return replace(recording, channels=channels)


def _series_to_score(name: str, file: Path, columns: SeriesColumns, detector: Detector) -> ToScore:
    """Return a series of rows as one segment without labels."""
    series = read_series(file, name, columns)
    if not 0.8 < series.period_s * detector.rate_hz < 1.25:
        raise DataError(
            f"{file.name}: a row every {series.period_s:g} s, but the model was trained on a row every "
            f"{1 / detector.rate_hz:g} s; train one on such data"
        )
    _check_length(file, len(series.values) / detector.rate_hz, detector)
    return ToScore(file, [series.segment(0, len(series.values))], None, [])


def _check_length(file: Path, duration_s: float, detector: Detector) -> None:
    least = (detector.spans.warm_up + detector.model.horizon + 1) / detector.rate_hz
    if duration_s < least:
        raise DataError(f"{file.name}: {duration_s:g} s long; the model's warm-up and horizon need {least:g} s")
