"""The ten NAB series that cost a detector most, as one figure: values, label windows, alarms.

    python -m benchmarks.plot_nab --nab-root NAB --out experiments/nab --figure docs/nab_costliest.png

Reads what nab_benchmark.py wrote. The alarms are those at the threshold that is best in-sample.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.nab_score import nab_score
from nab.benchmark import probation, read_benchmark
from recordings.nab_series import NabSeries
from reports import plots
from utils import DataError, run_cli, setup_logging

COUNT = 10
PANEL_HEIGHT, WIDTH = 1.05, 11.25        # inches


def read_scores(out: Path, detector: str, series: dict[str, NabSeries]) -> dict[str, np.ndarray]:
    """Return a detector's scores (n,) of each series. Raises DataError naming the file that is missing."""
    scores = {}
    for name in series:
        category, _, file = name.partition("/")
        path = out / detector / category / f"{detector}_{file}"
        if not path.exists():
            raise DataError(f"{path}: missing; `python nab_benchmark.py --out {out}` writes it")
        scores[name] = pd.read_csv(path)["anomaly_score"].to_numpy()
    return scores


def plot_costliest(series: dict[str, NabSeries], scores: dict[str, np.ndarray], title: str) -> Figure:
    """Return the figure of the series that lose most of their windows' points, or alarm for nothing."""
    result = nab_score(scores, {name: one.labels for name, one in series.items()})["standard"]
    windows = sum(len(one.windows) for one in series.values())
    cost = {name: 100 * len(one.windows) / windows - result["series"][name] for name, one in series.items()}
    worst = sorted(cost, key=lambda name: -cost[name])[:COUNT]
    figure = Figure(figsize=(WIDTH, PANEL_HEIGHT * len(worst) + 0.4), layout="constrained")
    for axes, name in zip(figure.subplots(len(worst), 1, squeeze=False)[:, 0], worst, strict=True):
        _draw(axes, series[name], scores[name] >= result["threshold"])
        axes.set_title(f"{name}: {cost[name]:.1f} points lost", fontsize=plots.SMALL, loc="left", pad=2)
    figure.suptitle(title, fontsize=plots.TEXT)
    return figure


def _draw(axes: Axes, series: NabSeries, alarms: np.ndarray) -> None:
    """Draw values, windows and the probationary period (both shaded), and the alarms that are graded."""
    rows = np.arange(len(series.value))
    axes.plot(rows, series.value, **plots.OBSERVED | {"linewidth": 0.6})
    axes.axvspan(0, probation(series), facecolor="#e8e8e8")
    inside = np.zeros(len(rows), dtype=bool)
    for first, last in series.windows:
        axes.axvspan(first, last, **plots.LABELLED[True])
        inside[first : last + 1] = True
    top = series.value.max()
    for right in (True, False):
        found = rows[alarms & (inside == right)]
        style = plots.FOUND[right]
        axes.plot(found, np.full(len(found), top), "v" if right else "x", color=style["edgecolor"], markersize=5)
    axes.margins(x=0)
    axes.tick_params(labelsize=7)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nab-root", type=Path, required=True, metavar="DIR", help="a copy of NAB")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="what nab_benchmark.py wrote")
    parser.add_argument("--detector", default="lstm_seed0", help="a folder of --out (default: %(default)s)")
    parser.add_argument("--figure", type=Path, required=True, metavar="PNG", help="where the figure goes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        series = read_benchmark(args.nab_root)
        title = f"{args.detector}: triangles are alarms in a label window, crosses false alarms; grey is not graded"
        scores = read_scores(args.out, args.detector, series)
        plots.save(plot_costliest(series, scores, title), args.figure)
        print(args.figure)
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
