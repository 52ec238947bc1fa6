"""The report page of a run folder: an index, report.html, and a viewer of each recording, viewer/NAME.html.

    python -m reports.page experiments/simulated            # of one run
    python -m reports.page experiments/simulated-seeds      # of several: a table over them, and links to their pages
    python -m reports.page experiments/cohort               # of many scored recordings: the same

No page needs a network. The main script writes them at the end of every run; made again, they are the same to the byte.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import logging
import math
import shlex
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np

from config import read_json
from evaluation.results import LSTM, NightSummary, RunMetrics, read_metrics
from recordings.wall_clock import clock_at, has_date
from reports.run_folder import COHORT, FAILED, MISFITS, RUNS, RunFolder, night_folder, read_runs
from reports.run_view import RunView, read_run, start_of
from reports.tables import (
    NIGHT_NUMBERS,
    Table,
    deployed_rows,
    forecast_rows,
    free_response_rows,
    respiratory_tables,
    series_rows,
)
from reports.verdict import verdict_of
from reports.viewer import Finding, clock, findings_of, render, viewer_page
from utils import ArgumentParser, DataError, atomic_path, only_run_here, run_cli, write_text

log = logging.getLogger(__name__)

VERDICTS = {"hit": "found as labelled", "false": "false", "plain": "found", "missed": "missed", "fault": "signal lost",
            "desaturation": "desaturations"}  # fmt: skip
FREE_RESPONSE = (
    "free response: the share found with the threshold that leaves at most so many false events an hour. A curve to "
    "compare detectors by: the thresholds are read off the test recordings themselves."
)
MOST_LISTED = 300                        # events on the index: false alarms and misses, or the most certain ones
MOST_PIXELS = 50_000_000                 # of a picture
MOST_BARS = 366                          # of a trend: nights of a year
TRENDS = ("ahi", "odi3", "periodic_percent", "lost_percent")             # numbers of nights that are drawn as bars


# ---- recordings -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A recording on the index: a link to its viewer, and cells of the table, each a text and what it is sorted by."""

    name: str
    link: str
    findings: list[Finding] = field(repr=False)
    cells: list[tuple[str, float | str]]


@dataclass(frozen=True)
class Bar:
    """A night in a picture of a number over nights: its height, and the ends of an interval, in per cent."""

    name: str
    link: str
    text: str
    height: float
    interval: tuple[float, float] | None


def recording_rows(run: RunView) -> tuple[list[str], list[Row]]:
    """Return the titles of the table of recordings, and its rows, in the order of the run."""
    nights = {night.recording: night for night in run.metrics.nights or []}
    first, numbers = _first_title(run.recordings, run.is_series, nights), _numbers(nights)
    everything = [findings_of(run, place) for place in range(len(run.recordings))]
    verdicts = [v for v in VERDICTS if any(one.verdict == v for findings in everything for one in findings)]
    rows = []
    for about, findings in zip(run.recordings, everything, strict=True):
        counts = Counter(one.verdict for one in findings)
        cells = [_begin(about, run.is_series) for _ in first] + [(str(counts[v]), counts[v]) for v in verdicts]
        cells += [_cell(nights.get(about["name"]), name) for name in numbers]
        rows.append(Row(about["name"], viewer_link(run.folder, about["name"]), findings, cells))
    return [*first, *(VERDICTS[v] for v in verdicts), *(NIGHT_NUMBERS[name][0] for name in numbers)], rows


def _first_title(
    recordings: Sequence[Mapping[str, Any]], is_series: bool, nights: Mapping[str, NightSummary]
) -> list[str]:
    """Return the title of what `_begin` tells; none where the hours of the nights tell it already."""
    if is_series or any(map(start_of, recordings)):
        return ["rows" if is_series else "start"]
    return [] if nights else ["length"]


def _numbers(nights: Mapping[str, NightSummary]) -> list[str]:
    """Return the numbers that a night has a value for."""
    return [name for name in NIGHT_NUMBERS if any(not math.isnan(getattr(n, name)) for n in nights.values())]


def _begin(about: Mapping[str, Any], is_series: bool) -> tuple[str, float | str]:
    """Return when a recording starts, or how long it is where it has no clock."""
    if is_series:
        return str(about["steps"]), about["steps"]
    start, length_s = start_of(about), about["end_s"] - about["start_s"]
    if start is None:
        return clock(length_s), length_s
    text = clock_at(start, about["start_s"])[: 16 if has_date(start) else 5]
    return text, text


def _cell(night: NightSummary | None, name: str) -> tuple[str, float]:
    value = math.nan if night is None else getattr(night, name)
    return ("-", -1.0) if math.isnan(value) else (f"{value:.{NIGHT_NUMBERS[name][1]}f}", value)


def viewer_link(folder: RunFolder, recording: str) -> str:
    return quote(folder.viewer(recording).relative_to(folder.root).as_posix())


def trends_of(
    recordings: Sequence[Mapping[str, Any]], nights: Mapping[str, NightSummary], link: Callable[[str], str]
) -> list[tuple[str, str, list[Bar]]]:
    """Return the pictures of several nights: title, greatest value, and bars in the order of their clocks.

    Args:
        recordings: of `data.json`.
        nights: by their recordings.
        link: from a recording to the page that its bars lead to.
    """
    known = [about for about in recordings if about["name"] in nights]
    if not 2 <= len(known) <= MOST_BARS:
        return []
    starts = [start_of(about) for about in known]
    if all(start and has_date(start) for start in starts):
        known.sort(key=lambda about: start_of(about).replace(tzinfo=None))
    ordered, pictures = [nights[about["name"]] for about in known], []
    for name in TRENDS:
        values = [getattr(night, name) for night in ordered]
        ends = [night.ahi_high for night in ordered] if name == "ahi" else []
        most = max((v for v in [*values, *ends] if not math.isnan(v)), default=0.0)
        if most > 0:
            bars = [_bar(night, name, most, link(night.recording)) for night in ordered]
            pictures.append((NIGHT_NUMBERS[name][0], f"{most:.3g}", bars))
    return pictures


def _bar(night: NightSummary, name: str, most: float, link: str) -> Bar:
    value, ends = getattr(night, name), (night.ahi_low, night.ahi_high)
    known = name == "ahi" and not any(map(math.isnan, ends))
    text = "no value" if math.isnan(value) else f"{value:.1f}" + (f" ({ends[0]:.1f} to {ends[1]:.1f})" if known else "")
    height = 0.0 if math.isnan(value) else 100 * value / most
    interval = (100 * ends[0] / most, 100 * (ends[1] - ends[0]) / most) if known else None
    return Bar(night.recording, link, text, height, interval)


def events_that_matter(rows: Sequence[Row]) -> tuple[list[tuple[Row, Finding]], int]:
    """Return what to look at first, and how many there are: false and missed events, or, without labels, all found.

    Most certain ones first; of MOST_LISTED at most, missed ones get half if there are as many.
    """
    pairs = [(row, one) for row in rows for one in row.findings]
    false, missed = ([pair for pair in pairs if pair[1].verdict == verdict] for verdict in ("false", "missed"))
    if not false and not missed:
        false = [pair for pair in pairs if pair[1].verdict == "plain"]
    false.sort(key=lambda pair: -pair[1].confidence if not math.isnan(pair[1].confidence) else 0.0)
    room = MOST_LISTED - min(len(missed), MOST_LISTED // 2)
    listed = false[:room] + missed[: MOST_LISTED - len(false[:room])]
    return listed, len(false) + len(missed)


# ---- the page -------------------------------------------------------------------------------


def write_report(root: Path) -> Path:
    """Write `report.html` of a run folder and its viewers, or of a folder of several; return the page's path.

    Raises: DataError naming what is missing in the folder or does not fit together; then nothing is written.
    """
    began = time.perf_counter()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected the folder of a run")
    folder = RunFolder(root)
    if not any(path.is_file() for path in (root / RUNS, root / COHORT, folder.metrics, folder.config, folder.log)):
        raise DataError(f"{root}: no run folder, there is no metrics.json; name a finished run")
    try:
        with only_run_here(root):                                # not while a run is changing its files
            if (root / RUNS).is_file():
                write_text(folder.report, _page(kind="several", **several_page(root)))
            elif (root / COHORT).is_file():
                write_text(folder.report, _page(kind="cohort", **cohort_page(root)))
            else:
                _write_run_pages(read_run(root))
    except (*MISFITS, jinja2.TemplateError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{root}: its files do not fit together ({type(error).__name__}: {reason}); score the run again with "
            f"--resume {root}"
        ) from None
    log.info("%s: %.1f s", folder.report, time.perf_counter() - began)
    return folder.report


def _write_run_pages(run: RunView) -> None:
    """Write the viewers and the index of a run, all of them or none; remove viewers of recordings that are gone."""
    titles, rows = recording_rows(run)
    page = _page(kind="one", **run_page(run, titles, rows))
    with contextlib.ExitStack() as renamed:
        for place, row in enumerate(rows):
            path = renamed.enter_context(atomic_path(run.folder.viewer(row.name), durable=False))
            path.write_text(viewer_page(run, place, row.findings), encoding="utf-8")
    kept = {run.folder.viewer(row.name) for row in rows}
    for stale in set(run.folder.viewers.glob("*.html")) - kept:
        stale.unlink()
    write_text(run.folder.report, page)


def _page(**content: Any) -> str:
    return render("report.html", ("report.js",), ("style.css", "report.css"), **content)


def run_page(run: RunView, titles: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the page of one run shows."""
    metrics = run.metrics
    listed, total = events_that_matter(rows)
    first, *remarks = verdict_of(metrics, run.is_series)
    nights = {night.recording: night for night in metrics.nights or []}
    return {
        "title": "New recordings" if metrics.found else f"{run.data['dataset']}, seed {metrics.seed}",
        "simulated": bool(run.data["simulated"]),
        "is_scored": metrics.found is not None,
        "is_series": run.is_series,
        "verdict": first,
        "remarks": remarks,
        "facts": _facts(run),
        "tables": _result_tables({run.data["dataset"]: [metrics]}) if metrics.detectors else [],
        "curves": _curves(run.folder),
        "tolerance_s": metrics.events.tolerance_s,
        "fault_kinds": [kind.replace("_", " ") for kind in metrics.fault_kinds],
        "calibration": None if run.is_series else metrics.calibration,
        "titles": titles,
        "rows": rows,
        "failed": [],
        "trends": trends_of(run.recordings, nights, partial(viewer_link, run.folder)),
        "listed": listed,
        "matter": total,
        "verdicts": VERDICTS,
        "is_labelled": any(recording["is_labelled"] for recording in run.recordings),
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


def cohort_page(root: Path) -> dict[str, Any]:
    """Return what the page of a cohort shows: its nights in numbers, and links to their pages."""
    folder = RunFolder(root)
    metrics, data = read_metrics(folder.metrics), read_json(folder.data)
    nights = {night.recording: night for night in metrics.nights or []}
    first, numbers = _first_title(data["recordings"], data["is_series"], nights), _numbers(nights)

    def link(recording: str) -> str:
        return quote((night_folder(root, recording) / "report.html").relative_to(root).as_posix())

    return {
        "title": f"{metrics.found.recordings} recordings",
        "simulated": metrics.simulated,
        "is_scored": True,
        "is_series": data["is_series"],
        "facts": [
            ("hours scored", f"{metrics.found.hours:.1f}"),
            ("alarms", str(metrics.found.events)),
            *([("median REI", f"{np.nanmedian([n.ahi for n in nights.values()]):.1f}")] if "ahi" in numbers else []),
            ("score threshold", f"{metrics.threshold.value:.2f}"),
        ],
        "failed": _failed(root / FAILED),
        "titles": [*first, *(NIGHT_NUMBERS[name][0] for name in numbers)],
        "rows": [
            Row(one["name"], link(one["name"]), [], [*(_begin(one, data["is_series"]) for _ in first),
                *(_cell(nights.get(one["name"]), name) for name in numbers)])
            for one in data["recordings"]
        ],
        "trends": trends_of(data["recordings"], nights, link),
        "tables": [(title, rows) for title, rows in respiratory_tables([metrics]).items() if len(rows) > 1],
        "curves": _curves(folder),
    }  # fmt: skip


def _failed(path: Path) -> list[tuple[str, str]]:
    """Return the recordings that could not be scored, and why."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["recording"], row["reason"]) for row in csv.DictReader(file)]


def _facts(run: RunView) -> list[tuple[str, str]]:
    """Return the few numbers that stand on top of a page."""
    metrics = run.metrics
    threshold = ("score threshold", f"{metrics.threshold.value:.2f}")
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
    if run.is_series and not events.labelled_events:
        facts = [("events found", str(events.found_events))]         # nobody said which are true
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
            shown = [[first or header[0], *header[1:]], *([row[0].replace("_", " "), *row[1:]] for row in rows)]
            tables += [(f"{name}, {caption}", shown)] if rows else []
    return tables


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


def _curves(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the pictures of the free-response curves and of the nights' agreement with their labels, if there are."""
    pictures = {
        folder.free_response: "Recall against false events an hour, a panel for all kinds and for each of them, a "
        "line a detector.",
        folder.bland_altman: "Respiratory events an hour, found less labelled, against the mean of both, a dot a "
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
