"""Kill a grid search with SIGKILL at random moments, resume it, and compare with one left alone.

    python -m benchmarks.kill_grid                           # 5 kills, about 2 minutes
    python -m benchmarks.kill_grid --kills 20 --jobs 1 --halving
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.small_data import make_small
from utils import ROOT

OVERRIDES = {
    "grid": json.dumps({"training.learning_rate": [0.001, 0.003], "model.hidden_units": [8, 16]}),
    "training.epochs": 4,
    "training.updates_per_epoch": 5,
    "training.batch_size": 8,
    "model.num_layers": 1,
}


def grid(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "grid_search.py", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def results_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "grid_results.csv").drop(columns="seconds")


def records_of(out: Path) -> list[tuple[str, object, str]]:
    """Return key, rung and status of each journal line that is whole."""
    path = out / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(record["key"], record["until"], record["status"]) for record in records]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--halving", action="store_true")
    args = parser.parse_args(argv)
    chance = random.Random(args.seed)
    ok = True
    with tempfile.TemporaryDirectory() as folder:
        same = ["--datasets", make_small(Path(folder)), "--jobs", args.jobs]
        new = [*same, "--seeds", 2, "--device", "cpu", *(["--halving"] if args.halving else [])]
        new += [text for key, value in OVERRIDES.items() for text in ("--set", f"{key}={value}")]
        whole = Path(folder) / "whole"
        began = time.perf_counter()
        assert grid(*new, "--out", whole).wait() == 0
        seconds = time.perf_counter() - began
        print(f"undisturbed: {len(records_of(whole))} records in {seconds:.1f} s")
        for k in range(args.kills):
            out, enough = Path(folder) / f"killed{k}", chance.randrange(len(records_of(whole)))
            process = grid(*new, "--out", out)
            while len(records_of(out)) < enough or not (out / "runs").exists():
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 1.0))
            process.kill()
            process.wait()
            before = records_of(out)
            assert grid("--resume", out, *same).wait() == 0
            after = records_of(out)
            once = after[: len(before)] == before and len(set(after)) == len(after) == len(records_of(whole))
            identical = results_of(out).equals(results_of(whole))
            ok = ok and once and identical
            print(f"killed with {len(before)} records: each once {once}, identical {identical}")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
