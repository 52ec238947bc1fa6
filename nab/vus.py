"""VUS-PR on the 14 NAB series of TSB-AD, for a causal and an offline score of an LSTM.

    python -m nab.vus --nab-root NAB --out experiments/nab_vus

TSB-AD's files are NAB's without the first row, with a label where both this row and the previous one are in a label
window. The LSTMs learn in the probationary period only, so that a long anomaly does not become normal. The score of a
block is the distance of its errors from those of the probationary period. The causal score of a row is the mean over
the rows up to it, the offline score that over the rows around it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.metrics import suggest_buffer, vus
from nab.benchmark import BASELINES, HORIZON, block_hashes, cached, lstm_forecasts, mean_and_spread, read_benchmark
from nab.blocks import center_and_scale, compressed, held_to_rows, probation
from nab.online_lstm import OnlineOptions
from nab.tail_scores import errors_by_lead
from recordings.nab_series import NabSeries
from utils import (
    ROOT,
    ArgumentParser,
    DataError,
    only_run_here,
    run_cli,
    setup_logging,
    versions,
    write_json,
    write_text,
)

log = logging.getLogger(__name__)

BLOCKS_IN_PROBATION = 208
LEADS = 8                               # used for errors; the LSTMs learn to forecast more
SPAN = 200                              # rows of a mean
ERROR_FLOOR = 0.1                       # spreads, added before the logarithm
RIDGE = 0.01                            # added to the covariance, so that nearly constant errors do not dominate
TSB_AD = (
    "realKnownCause/ec2_request_latency_system_failure.csv", "realTraffic/occupancy_6005.csv",
    "realKnownCause/nyc_taxi.csv", "artificialWithAnomaly/art_load_balancer_spikes.csv",
    "realTraffic/TravelTime_451.csv", "realTraffic/speed_t4013.csv", "realAdExchange/exchange-3_cpm_results.csv",
    "realKnownCause/ambient_temperature_system_failure.csv", "artificialWithAnomaly/art_increase_spike_density.csv",
    "realKnownCause/rogue_agent_key_hold.csv", "realAWSCloudwatch/ec2_cpu_utilization_5f5533.csv",
    "realKnownCause/cpu_utilization_asg_misconfiguration.csv", "realTweets/Twitter_volume_FB.csv",
    "realTraffic/speed_6005.csv",
)  # fmt: skip


def rows_of_block(series: NabSeries) -> int:
    """Return the number of rows in a block."""
    return max(round(probation(series) / BLOCKS_IN_PROBATION), 1)


def level_and_spread(series: NabSeries) -> np.ndarray:
    """Return mean and standard deviation (K, 2) of whole blocks, scaled and compressed as in `nab.blocks`."""
    rows, probationary = rows_of_block(series), probation(series)
    count = len(series.value) // rows
    blocks = series.value[: count * rows].reshape(count, rows)
    means = blocks.mean(axis=1)
    center, scale = center_and_scale(means[: probationary // rows], series.value[:probationary])
    return compressed(np.stack([means - center, blocks.std(axis=1)], axis=1) / scale)


def distances(blocks: np.ndarray, forecast: np.ndarray, known: int) -> np.ndarray:
    """Return the distance of each block's errors from those of the first `known` blocks (K,); 0 without a forecast.

    Compared are the log of the RMS error over the first leads and the mean error, for level and spread.

    Args:
        blocks: (K, 2).
        forecast: (K, H, 2).
    Source: Mahalanobis 1936, "On the generalised distance in statistics"; divided by the root of the dimension.
    """
    errors = errors_by_lead(blocks, forecast)[:, :LEADS]                                       # (K, leads, 2)
    sizes = np.log(np.sqrt(np.square(errors).mean(axis=1)) + ERROR_FLOOR)                      # (K, 2)
    compared = np.concatenate([sizes, errors.mean(axis=1)], axis=1)                            # (K, 4)
    reference = compared[:known][np.isfinite(compared[:known]).all(axis=1)]
    deviation = np.nan_to_num(compared - reference.mean(axis=0))
    precision = np.linalg.inv(np.cov(reference.T) + RIDGE * np.eye(deviation.shape[1]))
    squared = np.einsum("ti,ij,tj->t", deviation, precision, deviation) / deviation.shape[1]
    return np.sqrt(squared)


def causal(scores: np.ndarray) -> np.ndarray:
    """Return the mean (n,) of each score and the previous ones."""
    return pd.Series(scores).rolling(SPAN, min_periods=1).mean().to_numpy()


def offline(scores: np.ndarray) -> np.ndarray:
    """Return the mean (n,) of the scores around each row, including later ones."""
    return pd.Series(scores).rolling(SPAN, center=True, min_periods=1).mean().to_numpy()


MEANS = {"causal": causal, "offline": offline}


def distance_to_median(series: NabSeries) -> np.ndarray:
    """Return |x - median of the probationary period| (n,), the amplitude baseline."""
    return np.abs(series.value - np.median(series.value[: probation(series)]))


def vus_pr(series: NabSeries, scores: np.ndarray) -> float:
    """Return the VUS-PR of a series as in TSB-AD: without the first row, with its labels and buffer."""
    labels = series.label[1:] & series.label[:-1]
    return vus(labels, scores[1:], suggest_buffer(series.value[1:]))[1]


def run_vus(nab_root: Path, out: Path, seeds: int) -> str:
    """Write forecasts and results to `out`; return the tables."""
    every = read_benchmark(nab_root)
    missing = [name for name in TSB_AD if name not in every]
    if missing:
        raise DataError(f"{nab_root}: no windows for {missing[0]}; expected the 14 series of TSB-AD")
    benchmark = {name: every[name] for name in TSB_AD}
    blocks = {name: level_and_spread(series) for name, series in benchmark.items()}
    distance = {name: distance_to_median(series) for name, series in benchmark.items()}
    found: dict[str, list[dict[str, list[float]]]] = {"distance to the median": [_vus_by_mean(benchmark, distance)]}
    for name in BASELINES:
        forecasts = {key: BASELINES[name](values, HORIZON) for key, values in blocks.items()}
        distance = row_distances(benchmark, blocks, forecasts)
        found[name] = [_vus_by_mean(benchmark, distance)]
    with only_run_here(out):
        for seed in range(seeds):
            distance = row_distances(benchmark, blocks, frozen_forecasts(out, blocks, seed))
            found.setdefault("LSTM", []).append(_vus_by_mean(benchmark, distance))
            means = [f"{kind} {np.mean(values):.3f}" for kind, values in found["LSTM"][-1].items()]
            log.info("seed %d: VUS-PR %s", seed, ", ".join(means))
        write_json(out / "results.json", {"series": TSB_AD, "vus_pr": found, "versions": versions()})
        tables = vus_tables(found)
        write_text(out / "tables.md", tables)
    return tables


def _vus_by_mean(benchmark: Mapping[str, NabSeries], scores: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the VUS-PR of each series for each of MEANS of its scores."""
    return {
        kind: [vus_pr(series, mean(scores[name])) for name, series in benchmark.items()]
        for kind, mean in MEANS.items()
    }


def frozen_forecasts(out: Path, blocks: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return the forecasts (K, H, 2) of LSTMs that learned in the probationary period only."""
    options = OnlineOptions(
        members=3, phases=1, horizon=16, window=64, warm_up_blocks=BLOCKS_IN_PROBATION, updates=3, update_every=0
    )
    made_from = {"seed": seed, "options": asdict(options), "blocks": block_hashes(blocks)}
    path = out / "forecasts" / f"frozen_lstm_seed{seed}.npz"
    return cached(path, made_from, lambda: lstm_forecasts(blocks, seed, options))


def row_distances(benchmark: Mapping[str, NabSeries], blocks: Mapping[str, np.ndarray],
                  forecasts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return at each row (n,) the distance of its newest block."""
    found = {}
    for name, series in benchmark.items():
        rows = rows_of_block(series)
        of_blocks = distances(blocks[name], forecasts[name], probation(series) // rows)
        found[name] = held_to_rows(of_blocks, rows * np.arange(1, len(of_blocks) + 1) - 1, len(series.value))
    return found


def vus_tables(found: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> str:
    """Return two Markdown tables: the mean of each detector with the spread of its seeds, and the LSTM's series."""
    lines = ["| score | " + " | ".join(MEANS) + " |", "|---" * (len(MEANS) + 1) + "|"]
    for name, seeds in found.items():
        cells = [mean_and_spread([np.mean(values[kind]) for values in seeds], 3) for kind in MEANS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| series, LSTM | " + " | ".join(MEANS) + " |", "|---" * (len(MEANS) + 1) + "|"]
    for k, name in enumerate(TSB_AD):
        cells = [f"{np.mean([values[kind][k] for values in found['LSTM']]):.3f}" for kind in MEANS]
        lines.append(f"| {name.removesuffix('.csv')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--nab-root", type=Path, required=True, metavar="DIR", help="a copy of NAB: data/ and labels/")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "experiments" / "nab_vus", metavar="DIR",
        help="where results are written (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="LSTM seeds 0..N-1 (default: %(default)s)")
    args = parser.parse_args(argv)
    setup_logging()

    def body() -> int:
        if args.seeds < 1:
            raise DataError(f"--seeds {args.seeds}: expected at least 1")
        print(run_vus(args.nab_root, args.out, args.seeds), end="")
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
