"""VUS-PR on the 14 NAB series of TSB-AD, for a causal and an offline score of an LSTM.

    python -m nab.vus --nab-root NAB --out experiments/nab_vus

TSB-AD's files are NAB's without the first row, with a label where both this row and the previous one are in a label
window. The LSTMs learn in the probationary period only (`nab.frozen_lstm`); scores are those of `nab.fusion`. A
baseline's forecasts take the place of the LSTM's, or it is one part of the score alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.metrics import suggest_buffer, vus
from nab.benchmark import mean_and_spread, read_benchmark
from nab.blocks import probation
from nab.frozen_lstm import LEADS, Learned, error_coordinates, learn, level_and_spread, rows_of_block, run, untrained
from nab.fusion import FUSED, Fusion, fused_score, parts_of
from nab.plain_forecasts import BASELINES
from nab.split_halves import random_halves
from nab.tail_scores import errors_by_lead
from recordings.nab_series import NabSeries
from reports.tables import markdown
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

TSB_AD = (
    "realKnownCause/ec2_request_latency_system_failure.csv", "realTraffic/occupancy_6005.csv",
    "realKnownCause/nyc_taxi.csv", "artificialWithAnomaly/art_load_balancer_spikes.csv",
    "realTraffic/TravelTime_451.csv", "realTraffic/speed_t4013.csv", "realAdExchange/exchange-3_cpm_results.csv",
    "realKnownCause/ambient_temperature_system_failure.csv", "artificialWithAnomaly/art_increase_spike_density.csv",
    "realKnownCause/rogue_agent_key_hold.csv", "realAWSCloudwatch/ec2_cpu_utilization_5f5533.csv",
    "realKnownCause/cpu_utilization_asg_misconfiguration.csv", "realTweets/Twitter_volume_FB.csv",
    "realTraffic/speed_6005.csv",
)  # fmt: skip
FUSIONS = {                             # to choose from, the one that is used first
    "causal": (FUSED["causal"], Fusion(errors=1), Fusion(errors=1, states=1), Fusion(errors=1, states=1, deviation=1)),
    "offline": (FUSED["offline"], Fusion(errors=1), Fusion(errors=1, shift=1), Fusion(errors=2, shift=1),
                Fusion(errors=1, states=1, shift=1), Fusion(errors=1, deviation=1, shift=1)),
}  # fmt: skip
PARTS_ALONE = {"states alone": Fusion(states=1), "deviation alone": Fusion(deviation=1), "shift alone": Fusion(shift=1)}
Found = dict[str, dict[Fusion, list[float]]]           # kind -> fusion -> VUS-PR of each series


def vus_pr(series: NabSeries, scores: np.ndarray) -> float:
    """Return the VUS-PR of a series as in TSB-AD: without the first row, with its labels and buffer."""
    labels = series.label[1:] & series.label[:-1]
    return vus(labels, scores[1:], suggest_buffer(series.value[1:]))[1]


def lstm_outputs(blocks: np.ndarray, known: int, seed: int, updated: bool) -> Learned:
    """Return what the networks, or those that never learned, make of blocks (K, C, 2), the first `known` of them."""
    return run(learn(blocks[:known], seed) if updated else untrained(blocks, seed), blocks)


def baseline_outputs(blocks: np.ndarray, known: int, name: str) -> Learned:
    """Return the errors' coordinates of one of BASELINES, which needs no known blocks and has no states."""
    forecasts = BASELINES[name](blocks.reshape(len(blocks), -1), LEADS).reshape(len(blocks), LEADS, *blocks.shape[1:])
    errors = error_coordinates(errors_by_lead(blocks, forecasts))
    return Learned(errors, np.full((len(blocks), 1, 1), np.nan))


def detectors(seeds: int) -> Iterator[tuple[str, Callable[[np.ndarray, int], Learned]]]:
    """Yield the name of each detector and what makes its outputs from blocks and the number of those known."""
    for name in BASELINES:
        yield name, partial(baseline_outputs, name=name)
    for row, updated in (("untrained LSTM", False), ("LSTM", True)):
        for seed in range(seeds):
            yield row, partial(lstm_outputs, seed=seed, updated=updated)


def grade(benchmark: Mapping[str, NabSeries], make: Callable[[np.ndarray, int], Learned]) -> Found:
    """Return the VUS-PR of each series with each of FUSIONS, and of parts alone."""
    found: Found = {kind: {} for kind in FUSIONS}
    for series in benchmark.values():
        learned_rows = probation(series)
        blocks = level_and_spread(series.values, learned_rows)
        outputs = make(blocks, learned_rows // rows_of_block(learned_rows))
        parts = parts_of(series.values, outputs, learned_rows)
        for kind, fusions in FUSIONS.items():
            for fusion in dict.fromkeys((*fusions, *PARTS_ALONE.values())):
                scores = fused_score(parts, kind, fusion, learned_rows)
                found[kind].setdefault(fusion, []).append(vus_pr(series, scores))
    return found


def chosen_elsewhere(found: Mapping[Fusion, Sequence[float]], kind: str) -> float:
    """Return the mean VUS-PR with the fusion chosen on half of the series and graded on the other; 20 random halves."""
    of_fusion = np.array([found[fusion] for fusion in FUSIONS[kind]])                                  # (F, S)
    halves = random_halves(list(TSB_AD))
    sides = np.concatenate([halves, ~halves])
    return float(np.mean([of_fusion[of_fusion[:, on].mean(axis=1).argmax(), ~on].mean() for on in sides]))


def run_vus(nab_root: Path, out: Path, seeds: int) -> str:
    """Write results to `out`; return the tables."""
    every = read_benchmark(nab_root)
    missing = [name for name in TSB_AD if name not in every]
    if missing:
        raise DataError(f"{nab_root}: no windows for {missing[0]}; expected the 14 series of TSB-AD")
    benchmark = {name: every[name] for name in TSB_AD}
    results: dict[str, list[Found]] = {}
    with only_run_here(out):
        for name, make in detectors(seeds):
            results.setdefault(name, []).append(grade(benchmark, make))
            latest = results[name][-1]
            means = (f"{kind} {np.mean(latest[kind][fusions[0]]):.3f}" for kind, fusions in FUSIONS.items())
            log.info("%s: VUS-PR %s", name, ", ".join(means))
            write_json(out / "results.json", _as_json(results))
        tables = vus_tables(results, random_vus(benchmark, seeds))
        write_text(out / "tables.md", tables)
    return tables


def random_vus(benchmark: Mapping[str, NabSeries], seeds: int) -> list[float]:
    """Return the mean VUS-PR of random scores, one a seed."""
    return [np.mean([vus_pr(series, np.random.default_rng(seed).random(len(series.values)))
                     for series in benchmark.values()]) for seed in range(seeds)]  # fmt: skip


def _as_json(results: Mapping[str, Sequence[Found]]) -> dict:
    vus_of = {name: [{kind: [{"weights": fusion._asdict(), "vus_pr": values} for fusion, values in of.items()]
                      for kind, of in found.items()} for found in seeds]
              for name, seeds in results.items()}  # fmt: skip
    return {"series": TSB_AD, "vus_pr": vus_of, "versions": versions()}


def vus_tables(results: Mapping[str, Sequence[Found]], by_chance: Sequence[float]) -> str:
    """Return Markdown tables, means with the spread of the seeds: detectors, parts alone, the LSTM's series."""
    columns = ("errors alone", "fused", "fusion chosen elsewhere")
    detectors = [["forecasts", *(f"{kind}, {column}" for kind in FUSIONS for column in columns)]]
    for name, seeds in results.items():
        cells = []
        for kind, fusion in FUSED.items():
            cells += [_mean_cell(seeds, kind, Fusion(errors=1)), _mean_cell(seeds, kind, fusion)]
            cells += [mean_and_spread([chosen_elsewhere(found[kind], kind) for found in seeds], 3)]
        detectors.append([name, *cells])
    lstm = results["LSTM"]
    parts = [["without forecasts", *FUSIONS]]
    for name, fusion in PARTS_ALONE.items():
        absent = ("shift alone", "causal")
        parts.append([name, *("" if (name, kind) == absent else _mean_cell(lstm, kind, fusion) for kind in FUSIONS)])
    parts.append(["random scores", *2 * [mean_and_spread(by_chance, 3)]])
    series = [["series, LSTM", *FUSIONS]]
    for k, name in enumerate(TSB_AD):
        means = (np.mean([found[kind][fusion][k] for found in lstm]) for kind, fusion in FUSED.items())
        series.append([name.removesuffix(".csv"), *(f"{mean:.3f}" for mean in means)])
    return "\n\n".join(map(markdown, (detectors, parts, series))) + "\n"


def _mean_cell(seeds: Sequence[Found], kind: str, fusion: Fusion) -> str:
    return mean_and_spread([np.mean(found[kind][fusion]) for found in seeds], 3)


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
