"""Wall time of a grid: a plain loop, --jobs 1 and --jobs 2, one torch thread in each.

    python -m benchmarks.bench_grid                          # 6 configs x 2 seeds on an hour, about 2 minutes
    python -m benchmarks.bench_grid --full                   # 24 x 2 on the embedded recordings, about an hour

The loop calls run_experiment in this process and keeps nothing else: what --jobs 1 takes longer is the grid's
own work (plan, skill, journal, tables, figures). For --full the recordings have to be preprocessed first.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.small_data import make_small
from utils import ROOT, keep_freed_memory

SMALL = {"training.learning_rate": [0.001, 0.003], "model.hidden_units": [16, 24, 32]}
FULL = {"training.learning_rate": [0.0005, 0.001, 0.002, 0.004], "model.hidden_units": [16, 24, 32],
        "training.clip_norm": [0.5, 1.0]}  # fmt: skip


def arguments_of(args: argparse.Namespace) -> list[str]:
    """Return the config overrides of the grid that is timed."""
    values = {
        "grid": json.dumps(FULL if args.full else SMALL),
        "training.epochs": args.epochs,
        "training.updates_per_epoch": args.updates,
        "training.batch_size": 16,
        "model.num_layers": 1,
    }
    return [text for key, value in values.items() for text in ("--set", f"{key}={value}")]


def loop(out: Path, overrides: Sequence[str], datasets: Path) -> None:
    """Run the grid's configs one after the other, without the grid search."""
    import torch
    from threadpoolctl import threadpool_limits

    from config import EXPERIMENT_CONFIG, load_experiment
    from experiment import load_all, run_experiment
    from grid.plan import plan
    from reports.run_folder import new_run

    keep_freed_memory()
    torch.set_num_threads(1)
    config = load_experiment(EXPERIMENT_CONFIG, overrides)
    grid = plan(config, [0, 1], False, "cpu", datasets, "bench", False)
    with threadpool_limits(1):
        for key, experiment in load_all({run.key: run.config for run in grid.runs}, datasets).items():
            run_experiment(experiment, new_run(out / key[:12]), "cpu", plots=False)


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its wall time and the CPU time of it and its children, in s."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="24 configs x 2 seeds, on the embedded recordings")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--updates", type=int, default=20, help="updates an epoch")
    parser.add_argument("--datasets", type=Path, help="where windowed datasets are")
    parser.add_argument("--no-loop", action="store_true", help="without the plain loop")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    arguments = arguments_of(args)
    if args.loop:
        loop(args.loop, arguments[1::2], args.datasets)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        datasets = args.datasets or (ROOT / "datasets" if args.full else make_small(root))
        size = ["--epochs", str(args.epochs), "--updates", str(args.updates), "--datasets", str(datasets)]
        size += ["--full"] if args.full else []
        plain = [sys.executable, "-m", "benchmarks.bench_grid", "--loop", str(root / "loop"), *size]
        seconds = {} if args.no_loop else {"plain loop": timed(plain)}
        for jobs in (1, 2):
            more = ["--jobs", str(jobs), "--seeds", "2", "--device", "cpu", "--datasets", str(datasets)]
            out = ["--out", str(root / f"jobs{jobs}")]
            seconds[f"--jobs {jobs}"] = timed([sys.executable, "grid_search.py", *arguments, *more, *out])
        tables = [pd.read_csv(root / f"jobs{jobs}" / "grid_results.csv").drop(columns="seconds") for jobs in (1, 2)]
    runs = len(tables[0])
    print(f"| {runs} runs | wall, s | a run, s | CPU, s |\n|---|---|---|---|")
    for name, (wall, cpu) in seconds.items():
        print(f"| {name} | {wall:.1f} | {wall / runs:.2f} | {cpu:.1f} |")
    print(f"\n--jobs 2 is {seconds['--jobs 1'][0] / seconds['--jobs 2'][0]:.2f} times as fast as --jobs 1; "
          f"results identical: {tables[0].equals(tables[1])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
