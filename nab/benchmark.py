"""All of NAB by its own rules: blocks, forecasts of LSTMs that learn online, scores, grades, tables."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from config import read_json
from evaluation.nab_score import NAB_PROFILES, nab_probation, nab_score
from nab.plain_forecasts import autoregression, past_mean, persistence
from nab.split_halves import gain_curve, random_halves, score_by_halves
from nab.tail_scores import keep_peaks, mean_error, overshoot, range_scores, tail_scores
from recordings import nab_series
from recordings.nab_files import LABELS
from recordings.nab_series import SeriesLabels
from utils import (
    ROOT,
    DataError,
    atomic_path,
    only_run_here,
    versions,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from nab.online_lstm import OnlineOptions

log = logging.getLogger(__name__)

OUT = ROOT / "experiments" / "nab"
BLOCKS_IN_PROBATION = 35                # rows of a block = probationary rows / this
HORIZON = 8                             # blocks ahead
NARROWEST = 0.02                        # of the probationary range: a smaller spread of blocks counts as this
LINEAR_UP_TO = 2.0                      # spreads; beyond, the scaled value grows with the logarithm
ERROR_FLOOR = 0.05                      # spreads: smaller errors are rounding
REFRACTORY_SHARE = 5                         # an alarm silences lesser ones for probationary rows / this
HALVES = 20                             # random ones of the cross-validation
PLAIN = {"past_mean": past_mean, "persistence": persistence, "ar16": autoregression}


@dataclass(frozen=True)
class BenchmarkSeries:
    """A series of the benchmark: timestamps (n,) as its file has them, values (n,), label windows in rows."""

    timestamps: np.ndarray
    values: np.ndarray
    labels: SeriesLabels

    @property
    def probation(self) -> int:
        return nab_probation(len(self.values))

    def rows_of_block(self, in_probation: int) -> int:
        """Return how many rows a block has if the probationary period has about so many blocks."""
        return max(round(self.probation / in_probation), 1)

    @property
    def label(self) -> np.ndarray:
        """1 in label windows, else 0 (n,)."""
        label = np.zeros(len(self.values), dtype=int)
        for first, last in self.labels.windows:
            label[first : last + 1] = 1
        return label


@dataclass(frozen=True)
class Setting:
    """What the cross-validation may choose.

    leads: an error is that of the mean of so many forecasts. spread_share: of the score where a block's spread is
    stranger than its level; 0 = the level alone counts, 1 = the stranger of the two.
    """

    leads: int = 8
    spread_share: float = 0.5


SETTINGS = tuple(Setting(leads, share) for leads in (4, 8) for share in (0.0, 0.5, 1.0))


# ---------------------------------------------------------------- series in, scores out

def read_series(nab_root: Path) -> dict[str, BenchmarkSeries]:
    """Return the series that the label file names, by 'category/file.csv'.

    Raises: DataError naming the file and what is wrong with it.
    """
    if not (nab_root / LABELS).is_file():
        raise DataError(f"{nab_root}: no {LABELS}; expected a copy of NAB with data/ and labels/")
    labels = read_json(nab_root / LABELS)
    if not labels:
        raise DataError(f"{nab_root / LABELS}: names no series; expected NAB's own label file")
    return {name: _read_one(nab_root / "data" / name, name, labels) for name in labels}


def _read_one(path: Path, name: str, labels: Mapping[str, Any]) -> BenchmarkSeries:
    read = nab_series.read_series(path, name)
    rows = len(read.values)
    wrong = np.flatnonzero(np.isnan(read.values))
    if wrong.size:
        raise DataError(f"{path}: row {wrong[0] + 2}: no value ({wrong.size} such rows); expected a number in each row")
    if nab_probation(rows) < BLOCKS_IN_PROBATION:
        least = next(n for n in range(10_000) if nab_probation(n) >= BLOCKS_IN_PROBATION)
        raise DataError(f"{path}: {rows} rows; expected at least {least}, to learn from 15 % of them")
    windows = nab_series.label_windows(labels, name, read.times)
    return BenchmarkSeries(read.timestamp, read.values, SeriesLabels(rows, windows))


def scaled_blocks(series: BenchmarkSeries, in_probation: int = BLOCKS_IN_PROBATION) -> np.ndarray:
    """Return level and spread (K, 2) of whole blocks: mean and standard deviation, scaled.

    Center and scale are those of the means in the probationary period; rows within it are not scored, and what comes
    behind it changes nothing before. Values far outside are compressed, so that one spike does not blind a network.
    """
    rows = series.rows_of_block(in_probation)
    count = len(series.values) // rows
    blocks = series.values[: count * rows].reshape(count, rows)
    means = blocks.mean(axis=1)
    known = means[: series.probation // rows]
    range_so_far = np.ptp(series.values[: series.probation])
    center = np.median(known)
    scale = max(known.std(), NARROWEST * range_so_far, 1e-6 * abs(center), 1e-9)
    scaled = np.stack([means - center, blocks.std(axis=1)], axis=1) / scale
    return np.sign(scaled) * LINEAR_UP_TO * np.log1p(np.abs(scaled) / LINEAR_UP_TO)


def forecast_scores(series: BenchmarkSeries, forecast: np.ndarray, setting: Setting) -> np.ndarray:
    """Return how improbable the forecast's errors are, at each row (n,), 0 in the probationary period.

    A block is scored at its last row, and holds its score until the next one.

    Args:
        forecast: (K, H, 2) of `scaled_blocks`.
    """
    first = series.probation // series.rows_of_block(BLOCKS_IN_PROBATION)
    level, spread = (
        tail_scores(np.abs(mean_error(values, made[:, : setting.leads])), ERROR_FLOOR, first)
        for values, made in zip(scaled_blocks(series).T, np.moveaxis(forecast, 2, 0), strict=True)
    )
    share = setting.spread_share
    tails = np.maximum(level, (1 - share) * level + share * spread)
    return _graded(series, held_to_rows(series, tails, BLOCKS_IN_PROBATION))


def held_to_rows(series: BenchmarkSeries, of_blocks: np.ndarray, in_probation: int) -> np.ndarray:
    """Return at each row (n,) what the newest whole block (K,) has; 0 before the first."""
    newest_block = (np.arange(len(series.values)) + 1) // series.rows_of_block(in_probation) - 1
    return np.where(newest_block >= 0, of_blocks[newest_block], 0.0)


def out_of_range_scores(series: BenchmarkSeries) -> np.ndarray:
    """Return how far each row (n,) lies outside the range of the rows before it, as a score."""
    return _graded(series, range_scores(overshoot(series.values)))


def _graded(series: BenchmarkSeries, scores: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(scores)) < series.probation, 0.0, scores)


def detect(series: Mapping[str, BenchmarkSeries], forecasts: Mapping[str, np.ndarray] | None, setting: Setting,
           with_range: bool) -> dict[str, np.ndarray]:
    """Return the scores (n,) of each series: of its forecasts, of the range rule, or the higher of the two.

    An alarm keeps lesser ones quiet for a fifth of the probationary period.

    Args:
        forecasts: (K, H, 2) of each series' blocks; None = the range rule alone.
    """
    found = {}
    for name, one in series.items():
        parts = [out_of_range_scores(one)] if with_range else []
        if forecasts is not None:
            parts.append(forecast_scores(one, forecasts[name], setting))
        found[name] = keep_peaks(np.max(parts, axis=0), max(one.probation // REFRACTORY_SHARE, 1))
    return found


# ---------------------------------------------------------------- forecasts, made once

def lstm_forecasts(blocks: Mapping[str, np.ndarray], seed: int,
                   options: OnlineOptions | None = None) -> dict[str, np.ndarray]:
    """Return the forecasts (K, H, 2) of LSTMs that learn online, for each series' blocks (K, 2)."""
    from nab.online_lstm import forecast_online

    with tqdm(desc=f"LSTMs, seed {seed}", unit="block", disable=None) as bar:

        def show(done: int, steps: int) -> None:
            bar.total = steps
            bar.update(done - bar.n)

        found = forecast_online(list(blocks.values()), options or _lstm_options(), seed, show)
    return dict(zip(blocks, found, strict=True))


def _lstm_options() -> OnlineOptions:
    from nab.online_lstm import OnlineOptions

    return OnlineOptions(horizon=HORIZON)


def plain_forecasts(blocks: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the forecasts (K, H, 2) of one of PLAIN, made for level and spread apart."""
    return {
        series: np.stack([PLAIN[name](channel, HORIZON) for channel in values.T], axis=2)
        for series, values in blocks.items()
    }


def kept(path: Path, made_from: Mapping, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file; make and write them if it is not there or was made from something else."""
    text = json.dumps(made_from, sort_keys=True)
    if path.exists():
        try:
            with np.load(path) as file:
                if str(file["made_from"]) == text:
                    log.info("%s: taken as it is", path)
                    return {name: file[name] for name in file.files if name != "made_from"}
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s: damaged (%s); making it again", path, error)
    arrays = make()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, made_from=np.array(text), **arrays)
    return arrays


# ---------------------------------------------------------------- files and tables

def write_scores(
    out: Path, detector: str, series: Mapping[str, BenchmarkSeries], scores: Mapping[str, np.ndarray]
) -> None:
    """Write a detector's scores in NAB's layout: timestamp,value,anomaly_score,label; scores in 0..1, same order."""
    for name, one in series.items():
        category, _, file = name.partition("/")
        columns = {
            "timestamp": one.timestamps,
            "value": one.values,
            "anomaly_score": scores[name] / (1 + scores[name]),
            "label": one.label,
        }
        with atomic_path(out / detector / category / f"{detector}_{file}") as temporary:
            pd.DataFrame(columns).to_csv(temporary, index=False)


@dataclass(frozen=True)
class Result:
    """What one detector scores: in-sample by profile, as NAB does it, and on halves not chosen on (R,)."""

    in_sample: dict[str, float]
    by_halves: np.ndarray


def grade(nab_root: Path, series: Mapping[str, BenchmarkSeries], scores: Mapping[str, np.ndarray],
          others: Sequence[Mapping[str, np.ndarray]]) -> Result:
    """Return a detector's results; `others` are its scores with the other settings the halves may choose."""
    windows = sum(len(one.labels.windows) for one in series.values())
    candidates = [
        {name: gain_curve(one.labels, every[name]) for name, one in series.items()} for every in (scores, *others)
    ]
    profiles = nab_score(scores, {name: one.labels for name, one in series.items()})
    halves = random_halves(list(series), HALVES)
    return Result({key: profiles[key]["score"] for key in NAB_PROFILES}, score_by_halves(candidates, windows, halves))


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """Return a Markdown table: one row a detector, mean and, of several seeds, spread."""
    lines = [
        "| detector | standard | low FP | low FN | split-half |",
        "|---|---|---|---|---|",
    ]
    for name, seeds in results.items():
        in_sample = [[result.in_sample[profile] for result in seeds] for profile in NAB_PROFILES]
        by_halves = [result.by_halves.mean() for result in seeds]
        lines.append(f"| {name} | " + " | ".join(map(_mean_and_spread, [*in_sample, by_halves])) + " |")
    return "\n".join(lines) + "\n"


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


# ---------------------------------------------------------------- the benchmark

def run(nab_root: Path, out: Path, seeds: int) -> str:
    """Make forecasts, scores and results below `out`; return the table."""
    series = read_series(nab_root)
    blocks = {name: scaled_blocks(one) for name, one in series.items()}
    keys = {name: hashlib.sha256(values.tobytes()).hexdigest()[:16] for name, values in blocks.items()}
    with only_run_here(out):
        rows = {"range rule": [_run_detector(nab_root, out, "range", series, None, True)]}
        for source, options, make in _sources(blocks, seeds):
            made_from = {"source": source, "options": options, "blocks": keys}
            forecasts = kept(out / "forecasts" / f"{source}.npz", made_from, make)
            kind = source.partition("_seed")[0]
            for with_range in (False, True):
                detector = f"{source}_range" if with_range else source
                result = _run_detector(nab_root, out, detector, series, forecasts, with_range)
                rows.setdefault(f"{kind} + range rule" if with_range else kind, []).append(result)
        write_json(out / "results.json", {"detectors": _plain(rows), "versions": versions()})
        write_text(out / "tables.md", table(rows))
    return table(rows)


def _sources(blocks: Mapping[str, np.ndarray], seeds: int) -> list[tuple[str, dict, Callable]]:
    """Return name, parameters and maker of all forecasts."""
    lstm = asdict(_lstm_options())
    networks = [(f"lstm_seed{seed}", lstm, partial(lstm_forecasts, blocks, seed)) for seed in range(seeds)]
    return networks + [(name, {"horizon": HORIZON}, partial(plain_forecasts, blocks, name)) for name in PLAIN]


def _run_detector(nab_root: Path, out: Path, detector: str, series: Mapping[str, BenchmarkSeries],
                  forecasts: Mapping[str, np.ndarray] | None, with_range: bool) -> Result:
    """Write a detector's scores and return its results, in the split halves with any of SETTINGS."""
    scores = detect(series, forecasts, Setting(), with_range)
    write_scores(out, detector, series, scores)
    settings = [setting for setting in SETTINGS if setting != Setting() and forecasts is not None]
    others = [detect(series, forecasts, setting, with_range) for setting in settings]
    result = grade(nab_root, series, scores, others)
    log.info("%s: %.1f in-sample, %.1f split-half", detector, result.in_sample["standard"], result.by_halves.mean())
    return result


def _plain(rows: Mapping[str, Sequence[Result]]) -> dict:
    """Return the results as plain values: for each detector, the seeds' scores."""
    return {
        name: [{"in_sample": result.in_sample, "split_half": result.by_halves.tolist()} for result in seeds]
        for name, seeds in rows.items()
    }
