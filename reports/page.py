"""Make the report page of a run folder: one self-contained file, report.html, from what lies in the folder.

    python -m reports.page experiments/simulated            # of one run
    python -m reports.page experiments/simulated-seeds      # of several: a table over them, and links to their pages

The page needs no network and no script. The main script writes it at the end of every run; made again, it is
the same to the byte.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import logging
import math
import shlex
import time
import tokenize
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd

from config import read_json
from evaluation.results import LSTM, RANDOM, UNTRAINED, DetectorMetrics, KindMeasures, RunMetrics, read_metrics
from recordings.wall_clock import clock_at, seconds_of_day, time_at
from reports.run_folder import (
    ALARMS,
    AROUND_ROWS,
    AROUND_S,
    EXPLAINED,
    HISTORY,
    LABELS,
    MISFITS,
    RUNS,
    SIGNALS,
    STAMPS,
    RunFolder,
    Table,
    deployed_rows,
    forecast_rows,
    free_response_rows,
    night_rows,
    read_runs,
    respiratory_tables,
    series_rows,
)
from reports.svg_figures import (
    Panel,
    Span,
    Tick,
    clock,
    clock_ticks,
    score_panel,
    signal_panel,
    ticks_of,
    time_ticks,
)
from utils import ArgumentParser, DataError, counted, only_run_here, run_cli, write_text

log = logging.getLogger(__name__)

TEMPLATE = "page_template.html"
COMPONENTS = {
    "amplitude_drop": "less movement than expected",
    "error": "a large forecast error",
    "transient_error": "a sudden forecast error",
    "level": "an unusual level",
    "joint": "an odd combination of channels",
}
VERDICTS = {
    "hit": "found as labelled",
    "false": "false alarm",
    "plain": "found",
    "missed": "missed",
    "fault": "fault",
    "desaturation": "desaturation",
}
FREE_RESPONSE = (
    "free response: the share found with the threshold that leaves at most so many false events an hour. A curve to "
    "compare detectors by: the thresholds are read off the test recordings themselves."
)
MOST_CLOSE_UPS = 600                     # on a page: false alarms and misses first
UNREADABLE = (EOFError, LookupError, OSError, RuntimeError, ValueError,          # what numpy and zipfile raise
              zipfile.BadZipFile, zlib.error, tokenize.TokenError)
MOST_SIGNALS = 4_000_000_000             # bytes of signals.npz, unpacked
MOST_PIXELS = 50_000_000                 # of a picture
FEW = 20                                 # events, below which a share is told as "3 of 10"


# ---- reading --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunView:
    """What lies in a finished run folder, read and checked."""

    folder: RunFolder
    metrics: RunMetrics
    data: dict[str, Any]
    config: dict[str, Any]
    made: dict[str, Any]
    events: pd.DataFrame
    labels: pd.DataFrame
    history: pd.DataFrame | None
    signals: Mapping[str, np.ndarray]

    @property
    def is_series(self) -> bool:
        return bool(self.data["is_series"])


def read_run(root: Path) -> RunView:
    """Read a finished run.

    Raises: DataError naming the file that is missing, or that does not fit.
    """
    folder = RunFolder(root)
    if not folder.metrics.is_file():
        known = folder.config.is_file()
        what, advice = ("not finished", f"resume it with --resume {root}, or ") if known else ("no run folder", "")
        raise DataError(f"{root}: {what}, there is no metrics.json; {advice}name a finished run")
    metrics = read_metrics(folder.metrics)
    data, config, made = (read_json(path) for path in (folder.data, folder.config, folder.run))
    stamps = STAMPS if data.get("is_series") else ()
    events = _read_table(folder.alarms, (*ALARMS, *EXPLAINED, *stamps), ("start_s", "end_s"))
    labels = _read_table(folder.labels, (*LABELS, *stamps), ("start_s", "end_s"))
    history = _read_table(folder.history, HISTORY, HISTORY) if folder.history.is_file() else None
    return RunView(folder, metrics, data, config, made, events, labels, history, _read_signals(folder.signals))


def _read_table(path: Path, columns: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Read a CSV as text, some columns as finite numbers; DataError naming file, row and column."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; score the run again with --resume {path.parent}")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: not a readable CSV: {' '.join(str(error).split())}") from None
    missing = [column for column in columns if column not in frame]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; score the run again with --resume {path.parent}")
    for column in numbers:
        values = pd.to_numeric(frame[column], errors="coerce").to_numpy(float)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            found = frame[column].iloc[wrong[0]][:40]
            raise DataError(f"{path}: row {wrong[0] + 2}: {column} is {found!r}; expected a number")
        frame[column] = values
    return frame


def _read_signals(path: Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; score the run again with --resume {path.parent}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > MOST_SIGNALS:
                raise ValueError(f"{size / 1e9:.3g} GB unpacked; expected at most {MOST_SIGNALS / 1e9:g}")
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
    except UNREADABLE as error:
        raise DataError(f"{path}: not readable: {' '.join(str(error).split())[:120]}; score the run again") from None


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of numbers; its header has to promise the bytes that are there, before they are allocated."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, kind = read(file)
        promised, found = math.prod(shape) * kind.itemsize, entry.file_size - file.tell()
    if kind.kind != "f" or promised != found:
        raise ValueError(f"{entry.filename} has {found} bytes of {kind}; its header promises {promised} of floats")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def check_run(run: RunView) -> None:
    """Raise DataError if the files of a run do not tell of the same recordings and events."""
    names = [recording["name"] for recording in run.data["recordings"]]
    for path, table in ((run.folder.alarms, run.events), (run.folder.labels, run.labels)):
        strange = table[~table["recording"].isin(names)]
        if len(strange):
            found = strange["recording"].iloc[0][:60]
            raise DataError(f"{path}: row {strange.index[0] + 2}: recording {found!r} is not in data.json")
    found = int((run.events["found_by"] == "lstm").sum())
    scored = run.metrics.found
    wanted = scored.events if scored else run.metrics.detectors[LSTM].events.found_events
    if found != wanted:
        raise DataError(
            f"{run.folder.alarms}: {found} events found by the LSTM, but metrics.json says {wanted}; "
            f"score the run again with --resume {run.folder.root}"
        )
    channels = len(run.data["channels"])
    for k in range(len(names)):
        shapes = [run.signals[f"{name}_{k}"].shape for name in SIGNALS]
        steps = shapes[0][0]
        if not steps or shapes != [(steps,), (steps, channels), (steps, channels), (steps,), (steps,)]:
            raise DataError(f"{run.folder.signals}: the arrays of {names[k]!r} have other shapes than data.json says")


# ---- what was found -------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """An event found or missed, or lost signal; `key` is its anchor, `verdict` one of VERDICTS."""

    key: str
    verdict: str
    recording: str
    start_s: float
    end_s: float
    when: str
    kind: str = ""
    channel: str = ""
    why: str = ""
    contributions: str = ""
    peak: str = ""

    @property
    def code(self) -> str:
        return self.key.upper()

    @property
    def words(self) -> str:
        """What it is, in words: for links and descriptions."""
        kind = f": {self.kind}" if self.kind else ""
        return f"{self.code}, {VERDICTS[self.verdict]}{kind}, {self.when}"


@dataclass(frozen=True)
class Mark:
    """A span of a figure, in per cent: a shade, or a link to a finding."""

    style: str
    left: float
    width: float
    finding: Finding | None = None


@dataclass(frozen=True)
class Drawing:
    """A figure: panels below each other, shaded spans over all of them, ticks of the time below."""

    panels: list[Panel]
    shades: list[Mark]
    links: list[Mark]
    ticks: list[Tick]


class RecordingPage:
    """One recording of a run with its findings; arrays (T,) and (T, C)."""

    def __init__(self, run: RunView, place: int) -> None:
        self.run, self.place, self.key = run, place, f"r{place + 1}"
        self.about: dict[str, Any] = run.data["recordings"][place]
        self.name: str = self.about["name"]
        self.span = Span(self.about["start_s"], self.about["end_s"])
        self.found: list[Finding] = []
        self.missed: list[Finding] = []
        self.faults: list[Finding] = []
        self.desaturations: list[Finding] = []
        self.labelled: list[tuple[float, float, bool]] = []
        self.drawn: set[str] = set()                             # keys of the findings that get a close-up

    @property
    def length(self) -> str:
        steps = self.about["steps"]
        if self.run.is_series:
            return f"{steps} rows"
        first, last = (clock_at(self.start, t).partition(".")[0] for t in (self.span.start_s, self.span.end_s))
        return f"{clock(steps / self.run.data['rate_hz'])} long" + (f", {first} to {last}" if self.start else "")

    @property
    def start(self) -> datetime | None:
        """The clock at time 0; None if the recording has none."""
        return start_of(self.about)

    @property
    def findings(self) -> list[Finding]:
        """What has a close-up, in time order."""
        return sorted(self.found + self.missed, key=lambda finding: finding.start_s)

    @property
    def summary(self) -> str:
        """How many of each verdict there are, in words."""
        counts = {word: sum(one.verdict == verdict for one in self.found) for verdict, word in VERDICTS.items()}
        counts |= {"missed": len(self.missed), "false alarms": counts.pop("false alarm")}
        counts |= {"faults": len(self.faults), "desaturations": len(self.desaturations)}
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing found"

    def signal(self, name: str) -> np.ndarray:
        return self.run.signals[f"{name}_{self.place}"]

    def overview(self) -> Drawing:
        """Draw the score of the whole recording, with a link for each finding."""
        panel = score_panel(self.span, self.signal("t"), self.signal("score"), self.signal("threshold"))
        linked = self.findings + self.faults
        links = [Mark(one.verdict, *self.span.part(one.start_s, one.end_s), one) for one in linked]
        return Drawing([panel], self._shades(self.span), links, self._ticks(self.span))

    def channels(self) -> Drawing:
        """Draw all channels over the whole recording."""
        panels = self._panels(self.span, slice(None), forecast=False)
        return Drawing(panels, self._shades(self.span, self.found), [], self._ticks(self.span))

    def picture_of(self, finding: Finding) -> str:
        """Return where the picture of a finding lies in the run folder."""
        verdict = {"false": "false", "missed": "missed"}.get(finding.verdict, "found")
        path = self.run.folder.close_up(self.name, finding.start_s, verdict)
        return path.relative_to(self.run.folder.root).as_posix()

    def close_up(self, finding: Finding) -> Drawing:
        """Draw a finding with its surroundings: every channel, its forecast, and the score."""
        before, after = AROUND_ROWS if self.run.is_series else AROUND_S
        unit = 1 / self.run.data["rate_hz"] if self.run.is_series else 1.0
        span = Span(finding.start_s - before * unit, finding.end_s + after * unit)
        t = self.signal("t")
        part = slice(np.searchsorted(t, span.start_s), np.searchsorted(t, span.end_s, side="right"))
        panels = self._panels(span, part, forecast=True)
        panels.append(score_panel(span, t[part], self.signal("score")[part], self.signal("threshold")[part]))
        return Drawing(panels, self._shades(span, self.found), [], self._ticks(span))

    def _panels(self, span: Span, part: slice, forecast: bool) -> list[Panel]:
        t, values, expected = self.signal("t")[part], self.signal("values")[part], self.signal("forecast")[part]
        return [
            signal_panel(c["name"], c["unit"], span, t, values[:, k], expected[:, k] if forecast else None)
            for k, c in enumerate(self.run.data["channels"])
        ]

    def _shades(self, span: Span, found: Sequence[Finding] = ()) -> list[Mark]:
        marks = [("label" if hit else "nolabel", start_s, end_s) for start_s, end_s, hit in self.labelled]
        marks += [(one.verdict, one.start_s, one.end_s) for one in found]
        return [Mark(style, *span.part(s, e)) for style, s, e in marks if s <= span.end_s and e >= span.start_s]

    def _ticks(self, span: Span) -> list[Tick]:
        if self.run.is_series:
            rate = self.run.data["rate_hz"]
            rows = ticks_of(span.start_s * rate, span.end_s * rate)
            return [Tick(span.percent(row / rate), f"row {text}") for row, text in rows if row >= 0]
        if self.start is not None:
            return clock_ticks(span, seconds_of_day(self.start))
        return [Tick(at, clock(t)) for at, t in time_ticks(span)]

    def words_on(self, finding: Finding) -> str:
        """What a close-up shows, in words."""
        if finding.verdict == "missed":
            near = [o.code for o in self.found if o.start_s <= finding.end_s and o.end_s >= finding.start_s]
            also = f" {_and(near)} overlaps it, but counts for another label." if near else ""
            return f"Labelled {finding.when}: {finding.kind}. No event counts for it.{also}"
        told = f"Event from {finding.when}, highest score {float(finding.peak):.2f}."
        return told + (f" Labelled: {finding.kind}." if finding.kind else "")


def recordings_of(run: RunView) -> list[RecordingPage]:
    """Return the recordings of a run with the events found and missed in them, and lost signal."""
    recordings = [RecordingPage(run, k) for k in range(len(run.data["recordings"]))]
    by_name = {recording.name: recording for recording in recordings}
    counts = {"e": 0, "f": 0, "d": 0, "m": 0}

    def finding(letter: str, verdict: str, row: Mapping[str, Any], kind: str, *about: str) -> Finding:
        counts[letter] += 1
        ends, when = (row["start_s"], row["end_s"]), _when(row, run, by_name[row["recording"]].start)
        return Finding(f"{letter}{counts[letter]}", verdict, row["recording"], *ends, when, kind, *about)

    for row in run.events.to_dict("records"):
        recording, why = by_name[row["recording"]], COMPONENTS.get(row["component"], row["component"])
        about = (_plain(row["overlaps"]), row["channel"], why, row["contributions"], row["peak_score"])
        if row["found_by"] == "signal_loss":
            recording.faults.append(finding("f", "fault", row, *about))
        elif row["found_by"] == "oximetry":
            recording.desaturations.append(finding("d", "desaturation", row, *about))
        else:
            verdict = "hit" if row["overlaps"] else "false"
            recording.found.append(finding("e", verdict if recording.about["is_labelled"] else "plain", row, *about))
    for row in run.labels.to_dict("records"):
        recording = by_name[row["recording"]]
        recording.labelled.append((row["start_s"], row["end_s"], bool(row["found_by"])))
        if not row["found_by"]:
            recording.missed.append(finding("m", "missed", row, _plain(row["kind"])))
    findings = [(recording, one) for recording in recordings for one in recording.findings]
    first = sorted(findings, key=lambda pair: pair[1].verdict not in ("false", "missed"))
    for recording, one in first[:MOST_CLOSE_UPS]:
        recording.drawn.add(one.key)
    return recordings


def start_of(about: Mapping[str, Any]) -> datetime | None:
    """Return the clock at time 0 of a recording in `data.json`; None if it has none."""
    return datetime.fromisoformat(about["start"]) if about.get("start") else None


def _when(row: Mapping[str, Any], run: RunView, start: datetime | None) -> str:
    """Return when an event was: timestamps of rows, or time from the start, and the clock where there is one."""
    if run.is_series:
        return f"{row[STAMPS[0]]} to {row[STAMPS[1]]}"
    first, last = (time_at(start, row[name]) for name in ("start_s", "end_s"))
    return f"{clock(row['start_s'], 1)} to {clock(row['end_s'], 1)}" + (f" ({first} to {last})" if start else "")


def _plain(kind: str) -> str:
    return kind.replace("_", " ")


# ---- the verdict ----------------------------------------------------------------------------


def verdict_of(metrics: RunMetrics, is_series: bool) -> list[str]:
    """Return what a run amounts to, in sentences; the first one is the verdict."""
    if not metrics.detectors:
        found = metrics.found
        amount = f"{found.hours:.1f} hours of {counted(found.recordings, 'recording')}"
        if is_series:
            amount = f"{found.hours * 3600 * metrics.rate_hz:.0f} rows of {found.recordings} series"
        per_hour = "" if is_series or not found.hours else f", {found.events / found.hours:.1f} an hour"
        return [
            f"The LSTM found {counted(found.events, 'event')} in {amount}{per_hour}.",
            "Nothing is labelled here: whether they are true, and what was missed, is not known.",
        ]
    first = _series_verdict(metrics.detectors) if is_series else _breathing_verdict(metrics)
    return [first, *_where_baselines_lead(metrics.detectors)]


def _breathing_verdict(metrics: RunMetrics) -> str:
    lstm = metrics.detectors[LSTM]
    groups = _groups(lstm.kinds, metrics.fault_kinds)
    if not groups:
        found = counted(lstm.events.found_events, "event")
        return f"No event is labelled in the test recordings; the LSTM found {found}."
    parts = [_share(lstm.kinds, kinds, name) for name, kinds in groups.items()]
    text = f"The LSTM found {_and(parts)} at {_per_hour(lstm)}"
    for name in [name for name in metrics.detectors if name not in (LSTM, RANDOM)][:1]:
        baseline = metrics.detectors[name]
        shares = [_share(baseline.kinds, kinds) for kinds in groups.values()]
        text += f"; the {name} found {_and(shares)} at {_per_hour(baseline)}"
    return f"{text}."


def _groups(kinds: Iterable[str], fault_kinds: Sequence[str]) -> dict[str, list[str]]:
    """Return what labelled kinds are called together: apneas, hypopneas, the others."""
    groups: dict[str, list[str]] = {"apneas": [], "hypopneas": [], "others": []}
    for kind in kinds:
        if kind not in fault_kinds:
            name = "hypopneas" if kind.endswith("hypopnea") else "apneas" if kind.endswith("apnea") else "others"
            groups[name].append(kind)
    if groups["others"]:
        name = "other labelled events" if groups["apneas"] or groups["hypopneas"] else "labelled events"
        groups[name] = groups.pop("others")
    return {name: members for name, members in groups.items() if members}


def _share(kinds: Mapping[str, KindMeasures], members: Sequence[str], name: str = "") -> str:
    found, labelled = (sum(getattr(kinds[kind], key) for kind in members) for key in ("found", "labelled"))
    if labelled < FEW:
        return f"{found} of {labelled} {name}".rstrip()
    share = f"{100 * found / labelled:.0f}\N{NO-BREAK SPACE}%"
    return f"{share} of {labelled} {name}" if name else share


def _series_verdict(detectors: Mapping[str, DetectorMetrics]) -> str:
    events, others = detectors[LSTM].events, [name for name in detectors if name != LSTM]
    best = _most_precise(detectors, [name for name in others if name not in (UNTRAINED, RANDOM)])
    windows = counted(events.labelled_events, "label window")
    return (
        f"The LSTM found {events.matched_events} of {windows} with {counted(events.found_events, 'event')}, of "
        f"which {events.false_events} are false; its average precision is {_precision(detectors[LSTM])}, the best "
        f"amplitude baseline, {best}, has {_precision(detectors[best])}."
    )


def _where_baselines_lead(detectors: Mapping[str, DetectorMetrics]) -> list[str]:
    """Return sentences on where a detector without training is ahead of the LSTM."""
    lstm, others = detectors[LSTM], [name for name in detectors if name != LSTM]
    sentences, kinds = [], []
    for kind, row in lstm.kinds.items():
        better = max(others, key=lambda name: detectors[name].kinds[kind].found)
        most = detectors[better].kinds[kind].found
        if most > row.found:
            kinds.append(f"{_plain(kind)} ({row.found} of {row.labelled}; {better} {most})")
    if kinds:
        sentences.append(f"Found more often without training: {_and(kinds)}.")
    ahead = _most_precise(detectors, detectors)
    if ahead != LSTM:
        both = f"{_precision(detectors[ahead])} against {_precision(lstm)}"
        sentences.append(f"By average precision a baseline is ahead of the LSTM: {ahead}, {both}.")
    return sentences


def _per_hour(one: DetectorMetrics) -> str:
    rate = one.events.false_events_per_hour
    return "an unknown number of false events" if math.isnan(rate) else f"{rate:.1f} false events an hour"


def _precision(one: DetectorMetrics) -> str:
    value = one.threshold_free.auc_pr
    return "unknown" if math.isnan(value) else f"{value:.2f}"


def _most_precise(detectors: Mapping[str, DetectorMetrics], names: Iterable[str]) -> str:
    """Return the first of the detectors whose average precision is the highest; an unknown one counts as 0."""
    return max(names, key=lambda name: np.nan_to_num(detectors[name].threshold_free.auc_pr))


def _and(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


# ---- the page -------------------------------------------------------------------------------


def write_report(root: Path) -> Path:
    """Write `report.html` of a run folder, or of a folder of several runs; log how large it is, return its path.

    Raises: DataError naming what is missing in the folder or does not fit together; then nothing is written.
    """
    began = time.perf_counter()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected the folder of a run")
    folder = RunFolder(root)
    if not any(path.is_file() for path in (root / RUNS, folder.metrics, folder.config, folder.log)):
        raise DataError(f"{root}: no run folder, there is no metrics.json; name a finished run")
    try:
        with only_run_here(root):                                # not while a run is changing its files
            several = (root / RUNS).is_file()
            page = _render("several", several_page(root)) if several else _render("one", run_page(read_run(root)))
    except (*MISFITS, jinja2.TemplateError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{root}: its files do not fit together ({type(error).__name__}: {reason}); score the run again with "
            f"--resume {root}"
        ) from None
    write_text(folder.report, page)
    log.info("%s: %.1f MB in %.1f s", folder.report, len(page.encode()) / 1e6, time.perf_counter() - began)
    return folder.report


def _render(kind: str, content: Mapping[str, Any]) -> str:
    return _template().render(kind=kind, **content)


@functools.cache
def _template() -> jinja2.Template:
    """Compile the template, once for all pages of a process: it takes longer than to fill it."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    blocks = {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, **blocks)
    return environment.get_template(TEMPLATE)


def run_page(run: RunView) -> dict[str, Any]:
    """Return what the page of one run shows."""
    check_run(run)
    recordings, metrics = recordings_of(run), run.metrics
    first, *remarks = verdict_of(metrics, run.is_series)
    return {
        "title": "New recordings" if metrics.found else f"{run.data['dataset']}, seed {metrics.seed}",
        "simulated": bool(run.data["simulated"]),
        "is_scored": metrics.found is not None,
        "is_series": run.is_series,
        "verdict": first,
        "remarks": remarks,
        "facts": _facts(run),
        "tables": [*_nights(metrics), *(_result_tables({run.data["dataset"]: [metrics]}) if metrics.detectors else [])],
        "curves": _curves(run),
        "tolerance_s": metrics.events.tolerance_s,
        "fault_kinds": [_plain(kind) for kind in metrics.fault_kinds],
        "calibration": None if run.is_series else metrics.calibration,
        "recordings": recordings,
        "false_alarms": [one for recording in recordings for one in recording.found if one.verdict == "false"],
        "missed": [one for recording in recordings for one in recording.missed],
        "faults": sum(len(recording.faults) for recording in recordings),
        "desaturations": sum(len(recording.desaturations) for recording in recordings),
        "is_labelled": any(recording.about["is_labelled"] for recording in recordings),
        "lead_s": f"{run.data['recordings'][0]['lead_s']:g}" if not run.is_series else "",
        "training": _training(run),
        "forecast": forecast_rows({run.data["dataset"]: [metrics]}) if metrics.forecast else None,
        "data": run.data,
        "channels": _channel_table(run.data["channels"], run.is_series),
        "row": duration_text(1 / run.data["rate_hz"]),
        "splits": _split_table(run.data),
        "description": run.data["description"][:1].upper() + run.data["description"][1:],
        "dropped": list(Counter(map(_reason, run.data["dropped"])).items()),
        "config": _flat(run.config),
        "made": run.made,
        "command": shlex.join(run.made["command"]),
        "threshold": metrics.threshold,
    }


def several_page(root: Path) -> dict[str, Any]:
    """Return what the page of a folder of several runs shows: tables over the runs, and their links."""
    runs, results = [], {}
    for folder in read_runs(root).folders:
        run = RunFolder(root / folder)
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise DataError(f"{root / RUNS}: folder {folder!r} leads out of this one")
        if not run.metrics.is_file():
            raise DataError(f"{run.root}: not finished, there is no metrics.json; resume it with --resume {root}")
        metrics = read_metrics(run.metrics)
        results.setdefault(metrics.dataset, []).append(metrics)
        link = quote(f"{folder}/report.html") if run.report.is_file() else None
        runs.append((folder, link, verdict_of(metrics, metrics.is_series)))
    losses = ("Validation loss, beside forecasts that learn nothing", forecast_rows(results))
    return {
        "title": ", ".join(results) if len(results) < 4 else f"{len(results)} series",
        "simulated": any(one.simulated for seeds in results.values() for one in seeds),
        "runs": runs,
        "seeds": len(next(iter(results.values()))),
        "tables": [*_result_tables(results), losses],
    }


def _facts(run: RunView) -> list[tuple[str, str]]:
    """Return the few numbers that stand on top of a page."""
    metrics = run.metrics
    threshold = (f"threshold ({metrics.threshold.method})", f"{metrics.threshold.value:.2f}")
    if not metrics.detectors:
        found = metrics.found
        rows = f"{found.hours * 3600 * metrics.rate_hz:.0f}"
        amount = ("rows scored", rows) if run.is_series else ("hours scored", f"{found.hours:.1f}")
        what = "series" if run.is_series else "recordings"
        return [
            ("events found", str(found.events)), amount, (what, str(found.recordings)), ("faults", str(found.faults)),
            threshold,
        ]  # fmt: skip
    lstm = metrics.detectors[LSTM]
    events = lstm.events
    facts = [
        ("labelled events found", f"{events.matched_events} of {events.labelled_events}"),
        ("false events", f"{events.false_events} of {events.found_events}"),
    ]
    if run.is_series:
        facts.append(("NAB score", _number(lstm.nab["standard"], 0)))
        facts.append(("rows tested", str(sum(recording["steps"] for recording in run.data["recordings"]))))
    else:
        facts.append(("false events an hour", _number(events.false_events_per_hour, 2)))
        facts.append(("normal hours tested", _number(events.normal_hours, 1)))
        facts.append(("median delay", f"{_number(events.delay_median_s, 1)} s"))
    return [*facts, ("average precision", _number(lstm.threshold_free.auc_pr, 2)), threshold]


def _number(value: float, places: int) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.{places}f}".replace("-", "\N{MINUS SIGN}")


def duration_text(seconds: float) -> str:
    """Return a duration in its largest unit, such as `5 min` or `1 d`."""
    units = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
    size, unit = next(((size, unit) for size, unit in units if seconds >= size), (1.0, "s"))
    return f"{seconds / size:.4g} {unit}"


def _channel_table(channels: Sequence[Mapping[str, Any]], is_series: bool) -> Table:
    rows = [[c["name"], c["unit"] or "none", c["measures"], f"{c['rate_hz']:.6g}"] for c in channels]
    table = [["channel", "unit", "measures", "own rate, 1/s"], *rows]
    return [row[:2] for row in table] if is_series else table


def _split_table(data: Mapping[str, Any]) -> Table:
    names = {"train": "training", "val": "calibration"}
    table = [["split", "series", "rows"] if data["is_series"] else ["split", "recordings", "steps", "hours"]]
    for name, split in data["splits"].items():
        hours = [] if data["is_series"] else [f"{split['hours']:.2f}"]
        table.append([names.get(name, name), split["recordings"], split["steps"], *hours])
    return table


def _result_tables(results: Mapping[str, Sequence[RunMetrics]]) -> list[tuple[str, Table]]:
    """Return the tables of datasets, one result a seed each, with their captions; none without a row."""
    if any(one.is_series for seeds in results.values() for one in seeds):
        rows = [[row[0].strip("*"), *row[1:]] for row in series_rows(results)]
        return [("Results at the deployed threshold", rows)]
    tables = []
    for name, seeds in results.items():
        for caption, first, (header, *rows) in (
            ("at the deployed threshold", "measure", deployed_rows(seeds)),
            (FREE_RESPONSE, "kind", free_response_rows(seeds)),
            *((title, "", rows) for title, rows in respiratory_tables(seeds).items()),
        ):
            shown = [[first or header[0], *header[1:]], *([_plain(row[0]), *row[1:]] for row in rows)]
            tables += [(f"{name}, {caption}", shown)] if rows else []
    return tables


def _nights(metrics: RunMetrics) -> list[tuple[str, Table]]:
    """Return the table of the nights with its caption, if there are any."""
    return [("The nights in numbers", night_rows(metrics.nights))] if metrics.nights else []


def _training(run: RunView) -> list[dict[str, Any]]:
    """Return the pictures of the training, if the run has trained."""
    if run.history is None or not len(run.history):
        return []
    losses, epochs = run.history["val_loss"].to_numpy(), run.history["epoch"].to_numpy()
    best = run.metrics.forecast.best_epoch
    curve = (
        f"Training curve: loss on training and validation data over {len(losses)} epochs. The validation loss goes "
        f"from {losses[0]:.3f} at epoch {epochs[0]:.0f} to {run.metrics.forecast.lstm:.3f} at epoch {best}, its "
        f"lowest, and ends at {losses[-1]:.3f}."
    )
    names = ", ".join(c["name"] for c in run.data["channels"])
    window = f"A window of validation data, {names}: forecasts after the last epoch, drawn over what was observed."
    pictures = {"training": curve, "progress": window}
    return [_picture(run.folder.plots / f"{name}.png", alt) for name, alt in pictures.items()]


def _curves(run: RunView) -> list[dict[str, Any]]:
    """Return the pictures of the free-response curves and of the nights' agreement with their labels, if there are."""
    pictures = {
        run.folder.free_response: "Recall against false events an hour, a panel for all kinds and for each of them, a "
        "line a detector.",
        run.folder.bland_altman: "Respiratory events an hour, found less labelled, against the mean of both, a dot a "
        "night, with the bias and the limits of agreement.",
    }
    return [_picture(path, alt) for path, alt in pictures.items() if path.is_file()]


def _picture(path: Path, alt: str) -> dict[str, Any]:
    """Return the attributes of an image that holds a PNG as it is.

    Raises: DataError if it is missing, or no PNG.
    """
    from PIL import Image

    try:
        content = path.read_bytes()
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            size = image.size
            if math.prod(size) > MOST_PIXELS:
                raise ValueError(f"{size[0]} x {size[1]} pixels")
            image.load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; score the run again with --resume {path.parent.parent}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise DataError(f"{path}: not a readable PNG; score the run again with --resume {path.parent.parent}") from None
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"src": uri, "width": size[0], "height": size[1], "alt": alt}


def _reason(line: str) -> str:
    """Return the reason in a line such as `name: 3 to 4 s, 5 steps: reason`."""
    return line.partition(" steps: ")[2] or line.partition(" step: ")[2] or line.rsplit(": ", 2)[-1]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return a nested config as (dotted key, value as JSON)."""
    rows = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", json.dumps(value, ensure_ascii=False)))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a finished run, or of several")
    args = parser.parse_args(argv)
    return run_cli(lambda: print(write_report(args.run)) or 0)


if __name__ == "__main__":
    raise SystemExit(main())
