"""How time and memory grow with length, channels, window and units: a figure with the slopes.

    python -m benchmarks.growth --quick --out /tmp/growth.png
    python -m benchmarks.growth                                      # docs/growth.png, some minutes

Each point is a process of its own: updates of training (the first ones warm up), and scoring of a recording, which has
no training window. Times are those of the processor, the better of two, so that other work on the machine hardly shows.
A slope is that of a line through the last points, both axes logarithmic: 1 = twice as much for twice the size. Memory
is what a process needs beyond one that only imports the modules and holds the recording.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.long_data import waves
from benchmarks.measure import child, last_json, own_peak_mb, parser_of, seconds_of
from utils import ROOT, keep_freed_memory, run_cli

USUAL = {"length": 20_000, "channels": 4, "window": 250, "hidden": 128}
SIZES = {
    "length": (5_000, 10_000, 20_000, 40_000, 80_000),
    "channels": (1, 2, 4, 8, 16),
    "window": (125, 250, 500, 1000),
    "hidden": (32, 64, 128, 256),
}
QUICK = {"length": (2_000, 4_000), "channels": (1, 2), "window": (125, 250), "hidden": (16, 32)}
NAMES = {
    "length": "length of the recording, steps",
    "channels": "channels",
    "window": "training window, steps",
    "hidden": "units of a layer",
}
FIGURES = {
    "update_s": "a training update, s",
    "score_s": "scoring, s",
    "train_mb": "training, MB",
    "score_mb": "scoring, MB",
}


def point(job: str, size: dict[str, int], threads: int) -> dict[str, float]:
    """Return seconds and peak memory of one job; runs in a process of its own."""
    import torch

    from benchmarks.bench_scoring import make_detector
    from benchmarks.bench_training import build

    keep_freed_memory()
    torch.set_num_threads(threads)
    values = waves(size["length"], size["channels"])
    empty_mb = own_peak_mb()
    if job == "train":
        trainer, windows, _ = build(values / 7, updates=2, epochs=1, hidden=size["hidden"], steps=size["window"])
        trainer._train(windows)
        seconds = min(seconds_of(lambda: trainer._train(windows), time.process_time) for _ in range(2)) / 2
        return {"update_s": seconds, "train_mb": own_peak_mb() - empty_mb}
    detector = make_detector(size["channels"], hidden=size["hidden"])
    seconds = min(seconds_of(lambda: detector.detect([values]), time.process_time) for _ in range(2))
    return {"score_s": seconds, "score_mb": own_peak_mb() - empty_mb}


def measure(sizes: dict[str, Sequence[int]], usual: dict[str, int], threads: int) -> dict[str, dict[str, list]]:
    """Return the figures of every size, the other sizes as usual."""
    found: dict[str, dict[str, list]] = {}
    for what, several in sizes.items():
        found[what] = {"size": list(several)}
        for value in several:
            for job in ("train",) if what == "window" else ("train", "score"):
                size = json.dumps(usual | {what: value})
                done = child(["-m", "benchmarks.growth", "--point", job, size, threads], threads)
                for figure, number in last_json(done.stdout).items():
                    found[what].setdefault(figure, []).append(number)
            print(f"{what} {value}", file=sys.stderr)
    return found


def slope(size: Sequence[float], figure: Sequence[float]) -> float:
    """Return the slope of a line through the last three points, both axes logarithmic."""
    return float(np.polyfit(np.log(size[-3:]), np.log(figure[-3:]), 1)[0])


def draw(found: dict[str, dict[str, list]], path: Path, note: str) -> None:
    """Draw one panel for each size that was changed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    for axes, (what, columns) in zip(figure.subplots(2, 2).flat, found.items(), strict=True):
        for k, (key, name) in enumerate(FIGURES.items()):
            if key in columns:
                label = f"{name}: slope {slope(columns['size'], columns[key]):.2f}"
                axes.loglog(columns["size"], columns[key], marker="osD^"[k], color=f"C{k}", label=label)
        axes.set_xlabel(NAMES[what])
        axes.set_xticks(columns["size"], [f"{size:,}" for size in columns["size"]], minor=False)
        axes.minorticks_off()
        axes.set_ylabel("processor seconds, MB")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.suptitle(note, fontsize=10)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "growth.png", metavar="FILE")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.point:
        job, size, threads = args.point
        print(json.dumps(point(job, json.loads(size), int(threads))))
        return 0
    usual = USUAL | ({"length": 4_000, "hidden": 32} if args.quick else {})
    found = measure(QUICK if args.quick else SIZES, usual, args.threads)
    others = f"else {usual['length']:,} steps, {usual['channels']} channels, windows of {usual['window']} steps"
    draw(found, args.out, f"3 layers, {others}, {usual['hidden']} units, one core")
    for what, columns in found.items():
        slopes = ", ".join(
            f"{name} {slope(columns['size'], columns[key]):.2f}" for key, name in FIGURES.items() if key in columns
        )
        print(f"slope over {NAMES[what]}: {slopes}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_cli(main))
