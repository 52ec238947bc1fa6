"""All of NAB by its own rules: forecasts of online LSTMs, scores, alarms, results, a table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from config import read_json
from evaluation.nab_score import NAB_PROFILES, nab_gains, nab_probation
from nab.alarms import THRESHOLDS, alarm_rows
from nab.blocks import PHASES, Blocks, held_to_rows, probation, scaled_blocks
from nab.forecasts import Arrays, forecasters, kept
from nab.split_halves import random_halves, score_by_halves
from nab.tail_scores import errors_by_lead, overshoot, overshoot_scores, tail_scores
from recordings.nab_files import LABELS
from recordings.nab_series import NabSeries, read_labelled_series
from reports.tables import markdown
from utils import DataError, atomic_path, counted, only_run_here, versions, write_json, write_text

log = logging.getLogger(__name__)

ERROR_FLOOR = 0.05                      # spreads: smaller errors are rounding


@dataclass(frozen=True)
class Setting:
    """The parameters that the cross-validation may choose, beside the threshold.

    in_probation: blocks of one phase in the probationary period, whose number of rows gives the size of a block.
    strangest_share: weight of the most improbable channel; the rest of it has the mean of the channels.
    """

    in_probation: int = 35
    strangest_share: float = 0.5


SIZES = (30, 35, 42)                    # blocks in probation
SHARES = (0.0, 0.5, 1.0)
SETTINGS = sorted((Setting(size, share) for size in SIZES for share in SHARES), key=lambda one: one != Setting())


# ---- the benchmark --------------------------------------------------------------------------


def run_benchmark(nab_root: Path, out: Path, seeds: int) -> str:
    """Write forecasts, alarms and results to `out`; return the table."""
    benchmark = read_benchmark(nab_root)
    results: dict[str, list[DetectorResult]] = {}
    with only_run_here(out):
        for row, folder, scores in detectors(benchmark, out, seeds):
            result = grade(benchmark, scores)
            results.setdefault(row, []).append(result)
            write_alarms_of_profiles(out, folder, benchmark, scores[0], result.thresholds)
            standard, split = result.in_sample["standard"], result.by_setting.mean()
            log.info("%s: %.1f in-sample, %.1f split-half", folder, standard, split)
        numbers = {row: [_columns(one) | {"thresholds": one.thresholds} for one in of] for row, of in results.items()}
        write_json(out / "results.json", {"detectors": numbers, "versions": versions()})
        table = results_table(results)
        write_text(out / "tables.md", table)
    return table


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


def detectors(benchmark: Mapping[str, NabSeries], out: Path, seeds: int) -> Iterator[tuple[str, str, list[Arrays]]]:
    """Yield the row of the table, a folder name and the scores with each of SETTINGS, of all detectors."""
    blocks = {size: {name: scaled_blocks(series, size) for name, series in benchmark.items()} for size in SIZES}
    for forecaster in forecasters(seeds):
        scores = {}
        for size, of_size in blocks.items():
            path = out / "forecasts" / f"{forecaster.folder}_{size}.npz"
            forecasts = kept(path, forecaster, {name: one.values for name, one in of_size.items()})
            scores[size] = {name: block_scores(one, forecasts[name]) for name, one in of_size.items()}
        with_settings = [
            detect(benchmark, blocks[one.in_probation], scores[one.in_probation], one.strangest_share)
            for one in SETTINGS
        ]
        yield forecaster.row, forecaster.folder, with_settings
    yield "range rule", "range", [{name: range_scores(series) for name, series in benchmark.items()}]
    for seed in range(seeds):
        yield "random scores", f"random_seed{seed}", [random_scores(benchmark, seed)]


# ---- forecasts to scores --------------------------------------------------------------------


def block_scores(blocks: Blocks, forecast: np.ndarray) -> np.ndarray:
    """Return how improbable each block's forecast error is (T, 4), by channel, in the past of its phase.

    Args:
        forecast: (T, H, 4) of the blocks' channels.
    """
    scores = np.zeros(blocks.values.shape)
    for phase in range(PHASES):
        errors = errors_by_lead(blocks.values[phase::PHASES], forecast[phase::PHASES]).mean(axis=1)          # (K, 4)
        tails = [tail_scores(size, ERROR_FLOOR, blocks.known) for size in np.abs(errors).T]
        scores[phase::PHASES] = np.stack(tails, axis=1)
    return scores


def row_scores(blocks: Blocks, scores: np.ndarray, strangest_share: float, rows: int) -> np.ndarray:
    """Return the scores of `block_scores` (T, 4) at each of the rows (n,): the mean of the phases' newest blocks."""
    joined = strangest_share * scores.max(axis=1) + (1 - strangest_share) * scores.mean(axis=1)              # (T,)
    phases = [held_to_rows(joined[phase::PHASES], blocks.ends[phase::PHASES], rows) for phase in range(PHASES)]
    return np.mean(phases, axis=0)


def range_scores(series: NabSeries) -> np.ndarray:
    """Return the scores (n,) of the range rule."""
    return overshoot_scores(overshoot(series.value))


def detect(
    benchmark: Mapping[str, NabSeries], blocks: Mapping[str, Blocks], scores: Arrays, strangest_share: float
) -> Arrays:
    """Return the scores (n,) of each series: the higher of its blocks' (T, 4) and the range rule's."""
    return {
        name: np.maximum(
            range_scores(series), row_scores(blocks[name], scores[name], strangest_share, len(series.value))
        )
        for name, series in benchmark.items()
    }


def random_scores(benchmark: Mapping[str, NabSeries], seed: int) -> Arrays:
    """Return scores (n,) that are right by chance only: -log10 of a uniform number, as of a tail probability."""
    generator = np.random.default_rng(seed)
    return {name: -np.log10(1 - generator.random(len(series.value))) for name, series in benchmark.items()}


# ---- alarms and results ---------------------------------------------------------------------


def write_alarms_of_profiles(
    out: Path, folder: str, benchmark: Mapping[str, NabSeries], scores: Arrays, thresholds: Mapping[str, float]
) -> None:
    """Write a detector's alarms at the threshold of the standard profile, and at those of others that differ."""
    for profile, threshold in thresholds.items():
        if profile == "standard":
            write_alarms(out, folder, benchmark, scores, threshold)
        elif threshold != thresholds["standard"]:
            write_alarms(out, f"{folder}_{profile}", benchmark, scores, threshold)


def write_alarms(
    out: Path, detector: str, benchmark: Mapping[str, NabSeries], scores: Arrays, threshold: float
) -> None:
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


def alarm_gains(benchmark: Mapping[str, NabSeries], scores: Arrays) -> np.ndarray:
    """Return the gains (profiles, S, K) of each series at each of THRESHOLDS."""
    found = []
    for name, series in benchmark.items():
        alarms = [alarm_rows(scores[name], probation(series), threshold) for threshold in THRESHOLDS]
        found.append(nab_gains(series.labels, alarms))
    return np.stack(found, axis=1)


def grade(benchmark: Mapping[str, NabSeries], scores: Sequence[Arrays]) -> DetectorResult:
    """Return a detector's results from its scores with each setting, the default one first."""
    gains = [alarm_gains(benchmark, of_setting) for of_setting in scores]                    # (profiles, S, K) each
    windows = sum(len(series.windows) for series in benchmark.values())
    totals = 100 * gains[0].sum(axis=1) / windows                                                    # (profiles, K)
    best = totals.argmax(axis=1)
    standard = np.stack([of_setting[0] for of_setting in gains])                                     # (P, S, K)
    halves = random_halves(list(benchmark))
    return DetectorResult(
        in_sample=dict(zip(NAB_PROFILES, totals.max(axis=1).tolist(), strict=True)),
        thresholds=dict(zip(NAB_PROFILES, THRESHOLDS[best].tolist(), strict=True)),
        best_setting=float(100 * standard.sum(axis=1).max() / windows),
        by_threshold=score_by_halves(standard[:1], windows, halves),
        by_setting=score_by_halves(standard, windows, halves),
    )


def results_table(results: Mapping[str, Sequence[DetectorResult]]) -> str:
    """Return a Markdown table with one row per detector: the mean over seeds and, if there are several, the spread."""
    titles = ("standard", "low FP", "low FN", "best setting", "split-half: threshold", "threshold and setting")
    table = [["detector", *titles]]
    for name, seeds in results.items():
        columns = zip(*(_columns(result).values() for result in seeds), strict=True)
        table.append([name, *(mean_and_spread(column, 1) for column in columns)])
    return markdown(table) + "\n"


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
