"""Peak memory of preprocessing, training, scoring and the main script on one long recording.

    python -m benchmarks.bench_memory --quick
    python -m benchmarks.bench_memory --job train --root /tmp/long               # one job alone, on data already there

Each job runs in a process of its own, which reports the most memory it has had. Beside it: the process with the same
imports and nothing to do. The recording is raw at the rate of the grid, so that a row is a step; the data itself are
its times and values as float64. How memory grows is that of twice the steps, without the data itself.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.long_data import RATE_HZ, waves, write_raw
from benchmarks.measure import Options, Row, child, last_json, own_peak_mb, parser_of, run_part
from utils import keep_freed_memory

PART = "memory"
CHANNELS = 4
LIMIT_MB, GROWTH = 1500.0, 1.3


def preprocess(root: Path, steps: int) -> None:
    import collected_data_preprocess

    config = ["--dataset-config", str(root / "dataset_config.json"), "--dataset", "long"]
    collected_data_preprocess.main([*config, "--out", str(root / "datasets/collected-known-anomaly"), "--force"])


def train(root: Path, steps: int) -> None:

    from config import EXPERIMENT_CONFIG, load_experiment
    from data_loader import load_dataset
    from experiment import prepare, start_training

    config = load_experiment(EXPERIMENT_CONFIG, ["training.epochs=1", "training.updates_per_epoch=4"])
    dataset = load_dataset(root / "datasets/collected-known-anomaly/long")
    fitted = start_training(prepare(config, dataset), root / "none", "cpu")
    fitted.trainer.fit(fitted.windows, fitted.validation)


def score(root: Path, steps: int) -> None:
    from benchmarks.bench_scoring import make_detector

    make_detector(CHANNELS).detect([waves(steps, CHANNELS)])


def main_script(root: Path, steps: int) -> None:
    import pure_lstm_anomaly_detection_main as script

    updates = [text for key in ("epochs=1", "updates_per_epoch=4") for text in ("--set", f"training.{key}")]
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", f"{folder}/run", "--datasets", str(root / "datasets"), "--dataset", "long"]
        assert script.main([*out, *updates, "--device", "cpu"]) == 0


def nothing(root: Path, steps: int) -> None:
    import pure_lstm_anomaly_detection_main
    import trainers
    from detection import detector

    assert detector and pure_lstm_anomaly_detection_main and trainers


JOBS: dict[str, Callable[[Path, int], None]] = {
    "nothing": nothing,
    "preprocess": preprocess,
    "train": train,
    "score": score,
    "main": main_script,
}
NAMES = {
    "preprocess": "peak of preprocessing",
    "train": "peak of training",
    "score": "peak of scoring the whole recording",
    "main": "peak of the main script: train, calibrate, score, report",
}


def peak_mb(job: str, root: Path, steps: int, threads: int) -> float:
    """Return the most memory that a job has had, in a process of its own."""
    arguments = ["-m", "benchmarks.bench_memory", "--job", job, "--root", root, "--steps", steps]
    return last_json(child(arguments, threads).stdout)


def data_mb(steps: int) -> float:
    return steps * (CHANNELS + 1) * 8 / 1e6


def rows_of(options: Options) -> list[Row]:
    longest = 40_000 if options.quick else 2_000_000
    sizes = (longest // 2, longest)
    peaks: dict[str, list[float]] = {name: [] for name in JOBS}
    with tempfile.TemporaryDirectory() as folder:
        for steps in sizes:
            root = Path(folder) / str(steps)
            write_raw(root, steps, CHANNELS, RATE_HZ)
            for job in JOBS:
                peaks[job].append(peak_mb(job, root, steps, options.threads))
    rows = []
    bare = [peaks["nothing"][1]]
    for job, name in NAMES.items():
        half, whole = peaks[job]
        growth = (whole - data_mb(sizes[1])) / (half - data_mb(sizes[0]))
        note = f"{longest:,} steps x {CHANNELS} channels, {data_mb(longest):.0f} MB as float64; measured once"
        rows += [
            Row(PART, name, "MB", [whole], "a process with the imports alone", bare, ("value", "<", LIMIT_MB), note),
            Row(PART, f"{name}: twice the steps", "times", [growth], target=("value", "<", GROWTH)),
        ]
    return rows


def main() -> int:
    if "--job" not in sys.argv:
        return run_part(rows_of, __doc__)
    parser = parser_of(None)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    if args.job != "preprocess":                                     # the one script that does not do so itself
        keep_freed_memory()
    with contextlib.redirect_stdout(sys.stderr):
        JOBS[args.job](args.root, args.steps)
    print(json.dumps(own_peak_mb()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
