"""VUS-PR on the 14 NAB series that TSB-AD holds, for a causal and an offline score of an LSTM.

    python -m nab.vus --nab-root NAB --out experiments/nab_vus

TSB-AD's files are NAB's less the first row, with a label where this row and the one before it lie in a label window.
The LSTMs learn in the probationary period and stay as they are behind it, so that a long anomaly does not become
normal. A block is as strange as its errors are far from those of the probationary period. The causal score of a row is
the mean over the rows before it, the offline score that over the rows around it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.metrics import suggest_buffer, vus
from nab.benchmark import (
    PLAIN,
    BenchmarkSeries,
    held_to_rows,
    kept,
    lstm_forecasts,
    plain_forecasts,
    read_series,
    scaled_blocks,
)
from nab.tail_scores import errors_by_lead
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

OUT = ROOT / "experiments" / "nab_vus"
IN_PROBATION = 208                      # blocks
HORIZON = 16                            # blocks ahead
LEADS = 8                               # that errors are taken of; the others only help to learn
SPAN = 200                              # rows of a mean
SMALLEST_ERROR = 0.1                    # spreads, under the logarithm
RIDGE = 0.01                            # on the covariance: a few errors that never differ must not decide
TSB_AD = (
    "realKnownCause/ec2_request_latency_system_failure.csv", "realTraffic/occupancy_6005.csv",
    "realKnownCause/nyc_taxi.csv", "artificialWithAnomaly/art_load_balancer_spikes.csv",
    "realTraffic/TravelTime_451.csv", "realTraffic/speed_t4013.csv", "realAdExchange/exchange-3_cpm_results.csv",
    "realKnownCause/ambient_temperature_system_failure.csv", "artificialWithAnomaly/art_increase_spike_density.csv",
    "realKnownCause/rogue_agent_key_hold.csv", "realAWSCloudwatch/ec2_cpu_utilization_5f5533.csv",
    "realKnownCause/cpu_utilization_asg_misconfiguration.csv", "realTweets/Twitter_volume_FB.csv",
    "realTraffic/speed_6005.csv",
)  # fmt: skip


def distances(blocks: np.ndarray, forecast: np.ndarray, known: int) -> np.ndarray:
    """Return how far each block's errors lie from those of the first `known` blocks (K,), 0 where there are none.

    Compared are, for level and spread, the log of the RMS error over the first leads and the mean error.

    Args:
        blocks: (K, 2).
        forecast: (K, H, 2).
    Source: Mahalanobis 1936, "On the generalised distance in statistics"; divided by the root of the dimension.
    """
    channels = zip(blocks.T, np.moveaxis(forecast, 2, 0), strict=True)
    errors = np.stack([errors_by_lead(values, made)[:, :LEADS] for values, made in channels])  # (2, K, leads)
    sizes = np.log(np.sqrt(np.square(errors).mean(axis=2)) + SMALLEST_ERROR)                   # (2, K)
    compared = np.concatenate([sizes, errors.mean(axis=2)]).T                                  # (K, 4)
    usual = compared[:known][np.isfinite(compared[:known]).all(axis=1)]
    off = np.nan_to_num(compared - usual.mean(axis=0))
    precision = np.linalg.inv(np.cov(usual.T) + RIDGE * np.eye(off.shape[1]))
    squared = np.einsum("ti,ij,tj->t", off, precision, off) / off.shape[1]
    return np.sqrt(squared)


def causal(scores: np.ndarray) -> np.ndarray:
    """Return the mean (n,) of each score and those before it."""
    return pd.Series(scores).rolling(SPAN, min_periods=1).mean().to_numpy()


def offline(scores: np.ndarray) -> np.ndarray:
    """Return the mean (n,) of the scores around each: uses later rows."""
    return pd.Series(scores).rolling(SPAN, center=True, min_periods=1).mean().to_numpy()


MEANS = {"causal": causal, "offline": offline}


def distance_to_median(series: BenchmarkSeries) -> np.ndarray:
    """Return |x - median of the probationary period| (n,), the amplitude baseline."""
    return np.abs(series.values - np.median(series.values[: series.probation]))


def vus_pr(series: BenchmarkSeries, scores: np.ndarray) -> float:
    """Return the VUS-PR of a series as TSB-AD has it: no first row, its own labels and buffer."""
    labels = series.label[1:] & series.label[:-1]
    return vus(labels, scores[1:], suggest_buffer(series.values[1:]))[1]


def run(nab_root: Path, out: Path, seeds: int) -> str:
    """Make forecasts below `out`, and scores; return the tables."""
    every = read_series(nab_root)
    missing = [name for name in TSB_AD if name not in every]
    if missing:
        raise DataError(f"{nab_root}: no windows for {missing[0]}; expected the 14 series of TSB-AD")
    series = {name: every[name] for name in TSB_AD}
    blocks = {name: scaled_blocks(one, IN_PROBATION) for name, one in series.items()}
    found: dict[str, list[dict[str, list[float]]]] = {
        "distance to the median": [_graded(series, {name: distance_to_median(one) for name, one in series.items()})]
    }
    for plain in PLAIN:
        found[plain] = [_graded(series, row_distances(series, blocks, plain_forecasts(blocks, plain)))]
    with only_run_here(out):
        for seed in range(seeds):
            forecasts = frozen_forecasts(out, blocks, seed)
            found.setdefault("LSTM", []).append(_graded(series, row_distances(series, blocks, forecasts)))
            means = [f"{word} {np.mean(values):.3f}" for word, values in found["LSTM"][-1].items()]
            log.info("seed %d: VUS-PR %s", seed, ", ".join(means))
        write_json(out / "results.json", {"series": TSB_AD, "vus_pr": found, "versions": versions()})
        write_text(out / "tables.md", tables(found))
    return tables(found)


def _graded(series: Mapping[str, BenchmarkSeries], scores: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Return the VUS-PR of each series for each mean of its scores."""
    return {word: [vus_pr(one, mean(scores[name])) for name, one in series.items()] for word, mean in MEANS.items()}


def frozen_forecasts(out: Path, blocks: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return the forecasts (K, H, 2) of networks that learned in the probationary period only."""
    from nab.online_lstm import OnlineOptions

    options = OnlineOptions(horizon=HORIZON, window=64, warm_up_steps=IN_PROBATION, updates=3, update_every=0)
    keys = {name: hashlib.sha256(values.tobytes()).hexdigest()[:16] for name, values in blocks.items()}
    made_from = {"seed": seed, "options": asdict(options), "blocks": keys}
    path = out / "forecasts" / f"frozen_lstm_seed{seed}.npz"
    return kept(path, made_from, lambda: lstm_forecasts(blocks, seed, options))


def row_distances(series: Mapping[str, BenchmarkSeries], blocks: Mapping[str, np.ndarray],
                  forecasts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return at each row (n,) the distance of its newest block."""
    found = {}
    for name, one in series.items():
        known = one.probation // one.rows_of_block(IN_PROBATION)
        found[name] = held_to_rows(one, distances(blocks[name], forecasts[name], known), IN_PROBATION)
    return found


def tables(found: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> str:
    """Return two Markdown tables: the means of each detector, with the spread of its seeds, and the LSTM's series."""
    lines = ["| score | " + " | ".join(MEANS) + " |", "|---" * (len(MEANS) + 1) + "|"]
    for name, seeds in found.items():
        cells = []
        for word in MEANS:
            means = [np.mean(values[word]) for values in seeds]
            cells.append(f"{np.mean(means):.3f}" + (f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| series, LSTM | " + " | ".join(MEANS) + " |", "|---" * (len(MEANS) + 1) + "|"]
    for k, name in enumerate(TSB_AD):
        cells = [f"{np.mean([values[word][k] for values in found['LSTM']]):.3f}" for word in MEANS]
        lines.append(f"| {name.removesuffix('.csv')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--nab-root", type=Path, required=True, metavar="DIR", help="a copy of NAB: data/ and labels/")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where results go (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="LSTM seeds 0..N-1 (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        if args.seeds < 1:
            raise DataError(f"--seeds {args.seeds}: expected at least 1")
        print(run(args.nab_root, args.out, args.seeds), end="")
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
