"""All of NAB by its own rules: blocks of rows, forecasts of online LSTMs, scores, results, tables."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from config import read_json
from evaluation.nab_score import NAB_PROFILES, nab_probation, nab_score
from nab.online_lstm import OnlineOptions, forecast_online
from nab.plain_forecasts import autoregression, past_mean, persistence
from nab.split_halves import gain_curve, random_halves, score_by_halves
from nab.tail_scores import errors_by_lead, keep_peaks, overshoot, overshoot_scores, tail_scores
from recordings.nab_files import LABELS
from recordings.nab_series import NabSeries, read_labelled_series
from utils import DataError, atomic_path, counted, only_run_here, versions, write_json, write_text

log = logging.getLogger(__name__)

BLOCKS_IN_PROBATION = 35                # rows of a block = probationary rows / this
HORIZON = 8                             # blocks ahead
LSTM_OPTIONS = OnlineOptions(horizon=HORIZON)
MIN_SPREAD = 0.02                       # of the blocks, as a share of the probationary range
LINEAR_UP_TO = 2.0                      # spreads; beyond, the scaled value grows logarithmically
ERROR_FLOOR = 0.05                      # spreads: smaller errors are rounding
REFRACTORY_SHARE = 5                    # an alarm suppresses lower ones for probationary rows / this
HALVES = 20                             # random splits of the cross-validation
BASELINES = {"past_mean": past_mean, "persistence": persistence, "ar16": autoregression}


@dataclass(frozen=True)
class Setting:
    """The parameters that the cross-validation may choose.

    leads: number of forecasts that an error is averaged over. spread_share: weight of a block's spread where it is
    more improbable than its level; 0 = the level alone counts, 1 = the higher score of the two.
    """

    leads: int = 8
    spread_share: float = 0.5


SETTINGS = tuple(Setting(leads, share) for leads in (4, 8) for share in (0.0, 0.5, 1.0))


# ---------------------------------------------------------------- series in, scores out

def read_benchmark(nab_root: Path) -> dict[str, NabSeries]:
    """Return the series of the label file by 'category/file.csv'.

    Raises: DataError naming the file, if it cannot be read, lacks a value or is too short.
    """
    if not (nab_root / LABELS).is_file():
        raise DataError(f"{nab_root}: no {LABELS}; expected a copy of NAB with data/ and labels/")
    labels = read_json(nab_root / LABELS)
    if not labels:
        raise DataError(f"{nab_root / LABELS}: no series; expected NAB's own label file")
    benchmark = {name: read_labelled_series(nab_root, name, labels) for name in labels}
    for name, series in benchmark.items():
        path, missing = nab_root / "data" / name, np.flatnonzero(np.isnan(series.value))
        if missing.size:
            found = counted(missing.size, "such row")
            raise DataError(f"{path}: row {missing[0] + 2}: no value ({found}); expected a number in each row")
        if probation(series) < BLOCKS_IN_PROBATION:
            rows = counted(len(series.value), "row")
            least = next(n for n in range(10_000) if nab_probation(n) >= BLOCKS_IN_PROBATION)
            raise DataError(f"{path}: {rows}; expected at least {least}, to learn from the first 15 %")
    return benchmark


def probation(series: NabSeries) -> int:
    """Return the number of rows in the probationary period."""
    return nab_probation(len(series.value))


def rows_of_block(series: NabSeries, in_probation: int) -> int:
    """Return the number of rows in a block, for about `in_probation` blocks in the probationary period."""
    return max(round(probation(series) / in_probation), 1)


def scaled_blocks(series: NabSeries, in_probation: int = BLOCKS_IN_PROBATION) -> np.ndarray:
    """Return level and spread (K, 2) of whole blocks: mean and standard deviation, scaled.

    Center and scale are those of the means in the probationary period, whose rows are not graded, so that later rows
    do not change earlier blocks. Extreme values are compressed, so that a single spike does not saturate a network.
    """
    rows, probationary = rows_of_block(series, in_probation), probation(series)
    count = len(series.value) // rows
    blocks = series.value[: count * rows].reshape(count, rows)
    means = blocks.mean(axis=1)
    known = means[: probationary // rows]
    center = np.median(known)
    scale = max(known.std(), MIN_SPREAD * np.ptp(series.value[:probationary]), 1e-6 * abs(center), 1e-9)
    scaled = np.stack([means - center, blocks.std(axis=1)], axis=1) / scale
    return np.sign(scaled) * LINEAR_UP_TO * np.log1p(np.abs(scaled) / LINEAR_UP_TO)


def forecast_scores(series: NabSeries, forecast: np.ndarray, setting: Setting) -> np.ndarray:
    """Return how improbable the forecast's errors are at each row (n,); 0 in the probationary period.

    A block is scored at its last row, and its score is held until the next one.

    Args:
        forecast: (K, H, 2) of `scaled_blocks`.
    """
    first = probation(series) // rows_of_block(series, BLOCKS_IN_PROBATION)
    level, spread = (
        tail_scores(np.abs(errors_by_lead(values, made[:, : setting.leads]).mean(axis=1)), ERROR_FLOOR, first)
        for values, made in zip(scaled_blocks(series).T, np.moveaxis(forecast, 2, 0), strict=True)
    )
    share = setting.spread_share
    tails = np.maximum(level, (1 - share) * level + share * spread)
    return _zero_in_probation(series, held_to_rows(series, tails, BLOCKS_IN_PROBATION))


def held_to_rows(series: NabSeries, block_scores: np.ndarray, in_probation: int) -> np.ndarray:
    """Return at each row (n,) the score of the newest complete block (K,); 0 before the first."""
    newest_block = (np.arange(len(series.value)) + 1) // rows_of_block(series, in_probation) - 1
    return np.where(newest_block >= 0, block_scores[newest_block], 0.0)


def _zero_in_probation(series: NabSeries, scores: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(scores)) < probation(series), 0.0, scores)


def detect(benchmark: Mapping[str, NabSeries], forecasts: Mapping[str, np.ndarray] | None, setting: Setting,
           with_range: bool) -> dict[str, np.ndarray]:
    """Return the scores (n,) of each series: of its forecasts, of the range rule, or the higher of the two.

    An alarm suppresses lower ones for a fifth of the probationary period.

    Args:
        forecasts: (K, H, 2) of each series' blocks; None = the range rule alone.
        with_range: use the range rule, which scores values outside the range of all earlier ones.
    """
    found = {}
    for name, series in benchmark.items():
        parts = [_zero_in_probation(series, overshoot_scores(overshoot(series.value)))] if with_range else []
        if forecasts is not None:
            parts.append(forecast_scores(series, forecasts[name], setting))
        found[name] = keep_peaks(np.max(parts, axis=0), max(probation(series) // REFRACTORY_SHARE, 1))
    return found


# ---------------------------------------------------------------- forecasts, computed once

def lstm_forecasts(blocks: Mapping[str, np.ndarray], seed: int, options: OnlineOptions) -> dict[str, np.ndarray]:
    """Return the forecasts (K, H, 2) of online LSTMs for each series' blocks (K, 2)."""
    with tqdm(desc=f"LSTMs, seed {seed}", unit="block", disable=None) as bar:

        def show(done: int, steps: int) -> None:
            bar.total = steps
            bar.update(done - bar.n)

        found = forecast_online(list(blocks.values()), options, seed, show)
    return dict(zip(blocks, found, strict=True))


def baseline_forecasts(blocks: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the forecasts (K, H, 2) of one of BASELINES, for level and spread separately."""
    return {
        series: np.stack([BASELINES[name](channel, HORIZON) for channel in values.T], axis=2)
        for series, values in blocks.items()
    }


def block_hashes(blocks: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return a short hash of each series' blocks."""
    return {name: hashlib.sha256(values.tobytes()).hexdigest()[:16] for name, values in blocks.items()}


def cached(path: Path, made_from: Mapping, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file; compute and write them if it is missing or was made from something else."""
    text = json.dumps(made_from, sort_keys=True)
    if path.exists():
        try:
            with np.load(path) as file:
                if str(file["made_from"]) == text:
                    log.info("%s: forecasts reused", path)
                    return {name: file[name] for name in file.files if name != "made_from"}
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s: damaged (%s); computing it again", path, error)
    arrays = make()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, made_from=np.array(text), **arrays)
    return arrays


# ---------------------------------------------------------------- files and tables

def write_scores(
    out: Path, detector: str, benchmark: Mapping[str, NabSeries], scores: Mapping[str, np.ndarray]
) -> None:
    """Write a detector's scores in NAB's layout: timestamp,value,anomaly_score,label; scores mapped to 0..1."""
    for name, series in benchmark.items():
        category, _, file = name.partition("/")
        columns = {
            "timestamp": series.timestamps,
            "value": series.value,
            "anomaly_score": scores[name] / (1 + scores[name]),
            "label": series.label,
        }
        with atomic_path(out / detector / category / f"{detector}_{file}") as temporary:
            pd.DataFrame(columns).to_csv(temporary, index=False)


@dataclass(frozen=True)
class DetectorResult:
    """NAB scores of one detector: in-sample by profile, as NAB computes them, and split-half ones (R,)."""

    in_sample: dict[str, float]
    by_halves: np.ndarray


def grade(benchmark: Mapping[str, NabSeries], scores: Mapping[str, np.ndarray],
          others: Sequence[Mapping[str, np.ndarray]]) -> DetectorResult:
    """Return a detector's results; `others` are its scores with the other settings that a half may choose."""
    windows = sum(len(series.windows) for series in benchmark.values())
    candidates = [
        {name: gain_curve(series.windows, candidate[name]) for name, series in benchmark.items()}
        for candidate in (scores, *others)
    ]
    profiles = nab_score(scores, {name: series.labels for name, series in benchmark.items()})
    by_halves = score_by_halves(candidates, windows, random_halves(list(benchmark), HALVES))
    return DetectorResult({key: profiles[key]["score"] for key in NAB_PROFILES}, by_halves)


def results_table(results: Mapping[str, Sequence[DetectorResult]]) -> str:
    """Return a Markdown table with one row per detector: the mean over seeds and, if there are several, the spread."""
    lines = ["| detector | standard | low FP | low FN | split-half |", "|---|---|---|---|---|"]
    for name, seeds in results.items():
        in_sample = [[result.in_sample[profile] for result in seeds] for profile in NAB_PROFILES]
        by_halves = [result.by_halves.mean() for result in seeds]
        cells = [mean_and_spread(values, 1) for values in (*in_sample, by_halves)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Return `mean ± standard deviation`, or the value itself if there is one only."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


# ---------------------------------------------------------------- the benchmark

def run_benchmark(nab_root: Path, out: Path, seeds: int) -> str:
    """Write forecasts, scores and results to `out`; return the table."""
    benchmark = read_benchmark(nab_root)
    blocks = {name: scaled_blocks(series) for name, series in benchmark.items()}
    hashes = block_hashes(blocks)
    with only_run_here(out):
        rows = {"range rule": [_run_detector(out, "range", benchmark, None, True)]}
        for source, options, make in _forecast_sources(blocks, seeds):
            made_from = {"source": source, "options": options, "blocks": hashes}
            forecasts = cached(out / "forecasts" / f"{source}.npz", made_from, make)
            kind = source.partition("_seed")[0]
            for with_range in (False, True):
                detector = f"{source}_range" if with_range else source
                result = _run_detector(out, detector, benchmark, forecasts, with_range)
                rows.setdefault(f"{kind} + range rule" if with_range else kind, []).append(result)
        detectors = {
            name: [{"in_sample": result.in_sample, "split_half": result.by_halves.tolist()} for result in seeds]
            for name, seeds in rows.items()
        }
        write_json(out / "results.json", {"detectors": detectors, "versions": versions()})
        table = results_table(rows)
        write_text(out / "tables.md", table)
    return table


def _forecast_sources(blocks: Mapping[str, np.ndarray], seeds: int) -> list[tuple[str, dict, Callable]]:
    """Return name, parameters and function of all forecasts."""
    networks = [
        (f"lstm_seed{seed}", asdict(LSTM_OPTIONS), partial(lstm_forecasts, blocks, seed, LSTM_OPTIONS))
        for seed in range(seeds)
    ]
    return networks + [(name, {"horizon": HORIZON}, partial(baseline_forecasts, blocks, name)) for name in BASELINES]


def _run_detector(out: Path, detector: str, benchmark: Mapping[str, NabSeries],
                  forecasts: Mapping[str, np.ndarray] | None, with_range: bool) -> DetectorResult:
    """Write a detector's scores and return its results; each split half may choose any of SETTINGS."""
    scores = detect(benchmark, forecasts, Setting(), with_range)
    write_scores(out, detector, benchmark, scores)
    settings = [setting for setting in SETTINGS if setting != Setting() and forecasts is not None]
    others = [detect(benchmark, forecasts, setting, with_range) for setting in settings]
    result = grade(benchmark, scores, others)
    log.info("%s: %.1f in-sample, %.1f split-half", detector, result.in_sample["standard"], result.by_halves.mean())
    return result
