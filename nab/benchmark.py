"""All of NAB by its own rules: forecasts of online LSTMs, scores, alarms, results, tables."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from config import read_json
from evaluation.nab_score import NAB_PROFILES, nab_gains, nab_probation
from nab.alarms import THRESHOLDS, alarm_rows
from nab.blocks import PHASES, Blocks, held_to_rows, interleave, probation, scaled_blocks
from nab.online_lstm import OnlineOptions, forecast_online
from nab.plain_forecasts import autoregression, past_mean, persistence
from nab.split_halves import random_halves, score_by_halves
from nab.tail_scores import errors_by_lead, overshoot, overshoot_scores, tail_scores
from recordings.nab_files import LABELS
from recordings.nab_series import NabSeries, read_labelled_series
from utils import DataError, atomic_path, counted, only_run_here, versions, write_json, write_text

log = logging.getLogger(__name__)

LSTM_OPTIONS = OnlineOptions(phases=PHASES)
UNTRAINED = replace(LSTM_OPTIONS, updates=0, update_every=0)
HORIZON = LSTM_OPTIONS.horizon
SERIES_AT_ONCE = 15                     # of similar length, as one tensor program
ERROR_FLOOR = 0.05                      # spreads: smaller errors are rounding
HALVES = 20                             # random splits of the cross-validation
BASELINES = {"past mean": past_mean, "persistence": persistence, "AR(16)": autoregression}
Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """The parameters that the cross-validation may choose, beside the threshold.

    in_probation: blocks of one phase in the probationary period, whose number of rows gives the size of a block.
    strangest_share: weight of the most improbable channel; the rest of it has the mean of the channels.
    """

    in_probation: int = 35
    strangest_share: float = 0.5


SIZES = (30, 35, 42)
SETTINGS = (Setting(), *(setting for size in SIZES for share in (0.0, 0.5, 1.0)
                         if (setting := Setting(size, share)) != Setting()))


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
        if probation(series) < max(SIZES):
            rows = counted(len(series.value), "row")
            least = next(n for n in range(10_000) if nab_probation(n) >= max(SIZES))
            raise DataError(f"{path}: {rows}; expected at least {least}, to learn from the first 15 %")
    return benchmark


def forecast_scores(series: NabSeries, blocks: Blocks, forecast: np.ndarray, strangest_share: float) -> np.ndarray:
    """Return how improbable the forecast's errors are at each row (n,): the mean of the phases.

    A block is scored at its last row, and its score is held until the next one of its phase.

    Args:
        forecast: (T, H, 4) of the blocks' channels.
    """
    phases = []
    for phase in range(PHASES):
        errors = errors_by_lead(blocks.values[phase::PHASES], forecast[phase::PHASES]).mean(axis=1)          # (K, 4)
        tails = np.stack([tail_scores(size, ERROR_FLOOR, blocks.known) for size in np.abs(errors).T], axis=1)
        scores = strangest_share * tails.max(axis=1) + (1 - strangest_share) * tails.mean(axis=1)
        phases.append(held_to_rows(scores, blocks.ends[phase::PHASES], len(series.value)))
    return np.mean(phases, axis=0)


def detect(benchmark: Mapping[str, NabSeries], forecasts: Scores | None, setting: Setting) -> Scores:
    """Return the scores (n,) of each series, the higher of its forecasts' and the range rule's.

    Args:
        forecasts: (T, H, 4) of each series' blocks of the setting's size; None = the range rule alone.
    """
    found = {}
    for name, series in benchmark.items():
        found[name] = overshoot_scores(overshoot(series.value))
        if forecasts is not None:
            blocks = scaled_blocks(series, setting.in_probation)
            of_forecasts = forecast_scores(series, blocks, forecasts[name], setting.strangest_share)
            found[name] = np.maximum(found[name], of_forecasts)
    return found


def random_scores(benchmark: Mapping[str, NabSeries], seed: int) -> Scores:
    """Return scores (n,) that are right by chance only: -log10 of a uniform number, as of a tail probability."""
    generator = np.random.default_rng(seed)
    return {name: -np.log10(1 - generator.random(len(series.value))) for name, series in benchmark.items()}


# ---------------------------------------------------------------- forecasts, computed once

def lstm_forecasts(blocks: Mapping[str, np.ndarray], seed: int, options: OnlineOptions) -> Scores:
    """Return the forecasts (T, H, C) of online LSTMs for each series' blocks (T, C)."""
    names = sorted(blocks, key=lambda name: -len(blocks[name]))
    groups = [names[first : first + SERIES_AT_ONCE] for first in range(0, len(names), SERIES_AT_ONCE)]
    found: Scores = {}
    with tqdm(desc=f"LSTMs, seed {seed}", total=sum(len(blocks[group[0]]) for group in groups), disable=None) as bar:
        for group in groups:
            made = forecast_online([blocks[name] for name in group], options, seed, bar.update)
            found.update(zip(group, made, strict=True))
    return {name: found[name] for name in blocks}


def baseline_forecasts(blocks: Mapping[str, np.ndarray], name: str) -> Scores:
    """Return the forecasts (T, H, C) of one of BASELINES, for each phase and channel separately."""
    make = BASELINES[name]
    return {
        series: interleave([make(values[phase::PHASES], HORIZON) for phase in range(PHASES)])
        for series, values in blocks.items()
    }


def block_hashes(blocks: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return a short hash of each series' blocks."""
    return {name: hashlib.sha256(values.tobytes()).hexdigest()[:16] for name, values in blocks.items()}


def cached(path: Path, made_from: Mapping, make: Callable[[], Scores]) -> Scores:
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

def write_alarms(out: Path, detector: str, benchmark: Mapping[str, NabSeries], scores: Scores,
                 threshold: float) -> None:
    """Write a detector's alarms at a threshold in NAB's layout: timestamp,value,anomaly_score,label,score.

    `anomaly_score` is 1 where the detector alarms, else 0, because alarms of other thresholds are other alarms: NAB's
    scorer, which chooses a threshold itself, then finds these. It ignores the column `score`.
    """
    for name, series in benchmark.items():
        category, _, file = name.partition("/")
        alarms = np.zeros(len(series.value), dtype=int)
        alarms[alarm_rows(scores[name], probation(series), threshold)] = 1
        columns = {
            "timestamp": series.timestamps,
            "value": series.value,
            "anomaly_score": alarms,
            "label": series.label,
            "score": scores[name].round(4),
        }
        with atomic_path(out / detector / category / f"{detector}_{file}") as temporary:
            pd.DataFrame(columns).to_csv(temporary, index=False)


@dataclass(frozen=True)
class DetectorResult:
    """NAB scores of one detector with one seed.

    in_sample and thresholds: by profile, with the best threshold on the labels. best_setting: the best standard score
    of any setting. Chosen on half the series: by_threshold (R,) the threshold, by_setting (R,) the setting as well.
    """

    in_sample: dict[str, float]
    thresholds: dict[str, float]
    best_setting: float
    by_threshold: np.ndarray
    by_setting: np.ndarray


COLUMNS = (*NAB_PROFILES, "best_setting", "by_threshold", "by_setting")


def alarm_gains(benchmark: Mapping[str, NabSeries], scores: Scores) -> np.ndarray:
    """Return the gains (profiles, S, K) of each series at each of THRESHOLDS."""
    found = []
    for name, series in benchmark.items():
        alarms = [alarm_rows(scores[name], probation(series), threshold) for threshold in THRESHOLDS]
        found.append(nab_gains(series.labels, alarms))
    return np.stack(found, axis=1)


def grade(benchmark: Mapping[str, NabSeries], gains: Sequence[np.ndarray]) -> DetectorResult:
    """Return a detector's results from its `alarm_gains` with each setting, the default one first."""
    windows = sum(len(series.windows) for series in benchmark.values())
    totals = 100 * gains[0].sum(axis=1) / windows                                                    # (profiles, K)
    best = totals.argmax(axis=1)
    standard = np.stack([of_setting[0] for of_setting in gains])                                     # (P, S, K)
    halves = random_halves(list(benchmark), HALVES)
    return DetectorResult(
        in_sample=dict(zip(NAB_PROFILES, totals.max(axis=1).tolist(), strict=True)),
        thresholds=dict(zip(NAB_PROFILES, THRESHOLDS[best].tolist(), strict=True)),
        best_setting=float(100 * standard.sum(axis=1).max() / windows),
        by_threshold=score_by_halves(standard[:1], windows, halves),
        by_setting=score_by_halves(standard, windows, halves),
    )


def results_table(results: Mapping[str, Sequence[DetectorResult]]) -> str:
    """Return a Markdown table with one row per detector: the mean over seeds and, if there are several, the spread."""
    lines = [
        "| detector | standard | low FP | low FN | best setting | split-half: threshold | threshold and setting |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, seeds in results.items():
        cells = [mean_and_spread([_columns(result)[column] for result in seeds], 1) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _columns(result: DetectorResult) -> dict[str, float]:
    return result.in_sample | {
        "best_setting": result.best_setting,
        "by_threshold": float(result.by_threshold.mean()),
        "by_setting": float(result.by_setting.mean()),
    }


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Return `mean ± standard deviation`, or the value itself if there is one only."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


# ---------------------------------------------------------------- the benchmark

def run_benchmark(nab_root: Path, out: Path, seeds: int) -> str:
    """Write forecasts, alarms and results to `out`; return the table."""
    benchmark = read_benchmark(nab_root)
    rows: dict[str, list[DetectorResult]] = {}
    with only_run_here(out):
        for row, detector, candidates in _detectors(benchmark, out, seeds):
            rows.setdefault(row, []).append(_run_detector(out, detector, benchmark, candidates))
        detectors = {
            name: [_columns(result) | {"thresholds": result.thresholds} for result in results]
            for name, results in rows.items()
        }
        write_json(out / "results.json", {"detectors": detectors, "versions": versions()})
        table = results_table(rows)
        write_text(out / "tables.md", table)
    return table


def _detectors(benchmark: Mapping[str, NabSeries], out: Path,
               seeds: int) -> Iterator[tuple[str, str, Iterator[Scores]]]:
    """Yield the row of the table, a folder name and the scores with each of SETTINGS, of all detectors."""
    blocks = {
        size: {name: scaled_blocks(series, size).values for name, series in benchmark.items()} for size in SIZES
    }

    def scores(source: str, made_from: dict, make: Callable[[Mapping[str, np.ndarray]], Scores]) -> Iterator[Scores]:
        forecasts = {}
        for setting in SETTINGS:
            size = setting.in_probation
            if size not in forecasts:
                key = made_from | {"blocks": block_hashes(blocks[size])}
                path = out / "forecasts" / f"{source}_{size}.npz"
                forecasts[size] = cached(path, key, partial(make, blocks[size]))
            yield detect(benchmark, forecasts[size], setting)

    for row, options in (("LSTM", LSTM_OPTIONS), ("untrained LSTM", UNTRAINED)):
        for seed in range(seeds):
            source = f"{row.replace(' ', '_').lower()}_seed{seed}"
            make = partial(lstm_forecasts, seed=seed, options=options)
            yield row, source, scores(source, {"seed": seed, "options": asdict(options)}, make)
    for row in BASELINES:
        source = row.replace(" ", "_").replace("(", "").replace(")", "").lower()
        yield row, source, scores(source, {"horizon": HORIZON}, partial(baseline_forecasts, name=row))
    yield "range rule", "range", iter([detect(benchmark, None, Setting())])
    for seed in range(seeds):
        yield "random scores", f"random_seed{seed}", iter([random_scores(benchmark, seed)])


def _run_detector(out: Path, detector: str, benchmark: Mapping[str, NabSeries],
                  candidates: Iterator[Scores]) -> DetectorResult:
    """Write a detector's alarms at the threshold of each profile and return its results."""
    default = next(candidates)
    others = [alarm_gains(benchmark, scores) for scores in candidates]
    result = grade(benchmark, [alarm_gains(benchmark, default), *others])
    for profile in reversed(NAB_PROFILES):             # the standard one last: its name is the detector's own
        same = result.thresholds[profile] == result.thresholds["standard"] and profile != "standard"
        folder = detector if profile == "standard" else f"{detector}_{profile}"
        if not same:
            write_alarms(out, folder, benchmark, default, result.thresholds[profile])
    log.info("%s: %.1f in-sample, %.1f split-half", detector, result.in_sample["standard"], result.by_setting.mean())
    return result
