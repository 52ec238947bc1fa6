"""Time and memory of the two metrics that are slow elsewhere: VUS and the NAB score.

    python -m benchmarks.bench_metrics
    python -m benchmarks.bench_metrics --nab-root ../shared/data/nab --steps 20000 --buffer 100

Times are the best of several runs. Memory is the peak of what a run allocates on top of its input (tracemalloc),
measured in a run of its own, and at the end the peak of the whole process with all imports.
"""

from __future__ import annotations

import argparse
import resource
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from config import read_json
from evaluation import metrics
from evaluation.nab_score import nab_score
from recordings.nab_files import LABELS
from recordings.nab_series import read_labelled_series


def measure(job: Callable[[], object], repeats: int) -> str:
    """Return the best time of `repeats` runs and the peak memory of one more."""
    times_s = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times_s.append(time.perf_counter() - start)
    tracemalloc.start()
    job()
    peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return f"{min(times_s) * 1e3:8.1f} ms {peak_mb:8.1f} MB"


def labelled_series(steps: int, events: int, event_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and noisy scores of `steps` steps with `events` events, possibly touching."""
    rng = np.random.default_rng(0)
    labels = np.zeros(steps, dtype=int)
    for start in rng.integers(steps - event_steps, size=events):
        labels[start:start + event_steps] = 1
    return labels, rng.normal(size=steps) + labels


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nab-root", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/nab",
                        help="folder with data/ and labels/")
    parser.add_argument("--steps", type=int, default=20_000, help="length of the VUS series")
    parser.add_argument("--buffer", type=int, default=100, help="largest VUS buffer, in steps")
    args = parser.parse_args(argv)
    for events, event_steps in ((20, 50), (200, 20), (2000, 2)):
        labels, scores = labelled_series(args.steps, events, event_steps)
        name = f"vus, {args.steps} steps, buffer {args.buffer}, {events} events"
        print(f"{name:44}", measure(partial(metrics.vus, labels, scores, args.buffer), 5))
    if args.nab_root.exists():
        rng = np.random.default_rng(0)
        windows = read_json(args.nab_root / LABELS)
        labels = {name: read_labelled_series(args.nab_root, name, windows).labels for name in windows}
        scores = {name: rng.random(part.n_rows) for name, part in labels.items()}
        print(f"{f'nab_score, {len(scores)} series':44}",
              measure(lambda: nab_score(scores, labels), 3))
    else:
        print(f"nab_score: skipped, {args.nab_root} is absent")
    print(f"{'whole process':44} {'':11} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:8.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
