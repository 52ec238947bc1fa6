"""The project beside PyOD's LSTM detector: same series, units, layers and threads.

    python -m benchmarks.bench_peer --peer-venv /tmp/pyod --quick

PyOD is installed into a virtual environment of its own, made if it is not there. It trains for some epochs over its
stride-1 windows and scores the validation series. Ours then trains until its forecasts of one step ahead are at least
as good on the same series: as shipped, with 30 leads and large batches; with small batches and a higher learning rate;
and so with one lead alone, which is what PyOD learns. Seconds are of the processor. The first one is calibrated and
scores the series too. Neither calibration nor PyOD's scores of the training series are counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bench_training import BATCH, HORIZON, STEPS, WARM_UP
from benchmarks.long_data import waves
from benchmarks.measure import Options, Row, child, last_json, own_peak_mb, ready, run_part, seconds_of
from utils import ROOT, DataError, keep_freed_memory

PART = "peer"
PACKAGES = ("pyod==3.6.7", "torch==2.13.0")
CHANNELS, WINDOW, LAYERS = 4, 100, 3
CAP_S = 120.0                           # training, at most


@dataclass(frozen=True)
class Way:
    """One way for ours to train: leads, the windows of an update, updates between two looks at the error."""

    horizon: int
    batch: int
    steps: int
    warm_up: int
    learning_rate: float
    updates: int


WAYS = {
    "ours, as shipped": Way(HORIZON, BATCH, STEPS, WARM_UP, 0.001, 5),
    "ours, 4 windows of 60 steps a batch": Way(HORIZON, 4, 60, 10, 0.004, 20),
    "ours, the same at one lead": Way(1, 4, 60, 10, 0.004, 20),
}
SHIPPED = next(iter(WAYS))


def peer(python: Path, series: Path, epochs: int, hidden: int, threads: int) -> dict[str, float]:
    """Return what `peer_pyod.py` measured."""
    sizes = {"epochs": epochs, "window": WINDOW, "hidden": hidden, "layers": LAYERS, "threads": threads}
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    command = [str(python), str(ROOT / "benchmarks" / "peer_pyod.py"), str(series), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return last_json(done.stdout)


def ours(series: Path, hidden: int, name: str, mark: float, threads: int) -> dict[str, float]:
    """Train until one step ahead is forecast as well as `mark`, calibrate, score; runs in a process of its own."""
    import torch

    from config import TrainingConfig
    from data_loader import TrainingWindows
    from lstm_model import StackedLSTM
    from trainers import Trainer
    from utils import seed_everything

    keep_freed_memory()
    torch.set_num_threads(threads)
    seed_everything(0)
    loaded = np.load(series)
    values = {split: loaded[split].astype(np.float32) for split in ("train", "val")}
    way = WAYS[name]
    model = StackedLSTM(CHANNELS, hidden, LAYERS, way.horizon)
    trainer = Trainer(model, TrainingConfig(learning_rate=way.learning_rate), way.warm_up, "cpu")
    windows = TrainingWindows(
        [values["train"]], steps=way.steps, horizon=way.horizon, least=way.warm_up + way.horizon + 1,
        batch_size=way.batch, updates=way.updates, channel_dropout=0.15, seed=0,
    )  # fmt: skip
    train_s, error, updates = 0.0, float("inf"), 0
    while error > mark and train_s < CAP_S:
        began = time.process_time()
        trainer._train(windows)
        train_s += time.process_time() - began
        updates += way.updates
        error = one_step_error(model, values["val"])
    found = {"train_s": train_s, "updates": updates, "error": error}
    if name == SHIPPED:
        found["score_s"] = scoring_seconds(model, values, hidden)
    return found | {"peak_mb": own_peak_mb()}


def scoring_seconds(model, values: dict[str, np.ndarray], hidden: int) -> float:
    """Return the processor seconds of scoring the validation series, calibrated on the training series."""
    from benchmarks.bench_scoring import make_detector

    detector = make_detector(CHANNELS, hidden=hidden)
    detector.model.load_state_dict(model.state_dict())
    detector.calibrate([values["train"] * detector.scaler.scale])
    return seconds_of(lambda: detector.detect([values["val"] * detector.scaler.scale]), time.process_time)


def one_step_error(model, values: np.ndarray) -> float:
    """Return the mean squared error one step ahead, of the steps that the peer forecasts too."""
    import torch

    model.eval()
    with torch.inference_mode():
        forecast = model(torch.from_numpy(values[None]))[0][0, :, 0].numpy()                 # (T, C)
    return float(np.mean((values[WINDOW:] - forecast[WINDOW - 1 : -1]) ** 2))


def rows_of(options: Options) -> list[Row]:
    if options.peer_venv is None:
        raise DataError("--peer-venv: needed to measure the peer; expected a folder for its virtual environment")
    python = ready(options.peer_venv, PACKAGES)
    length, epochs, hidden = (1_500, 1, 32) if options.quick else (4_000, 2, 128)
    theirs: list[dict[str, float]] = []
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.repeats):
            path = Path(folder) / "series.npz"
            values = (waves(2 * length, CHANNELS, seed=seed) / 7).astype(np.float64)
            np.savez(path, train=values[:length], val=values[length:])
            theirs.append(peer(python, path, epochs, hidden, options.threads))
            for name in WAYS:
                command = ["-m", "benchmarks.bench_peer", "--ours", path, hidden, name, theirs[-1]["error"]]
                found[name].append(last_json(child([*command, options.threads], options.threads).stdout))
    errors = [round(run["error"], 4) for run in theirs]
    note = (
        f"{length} steps x {CHANNELS} channels to train on and as many to score, {LAYERS} x {hidden} units; PyOD "
        f"trains {epochs} epochs on windows of {WINDOW} steps; its mean squared error one step ahead {errors}"
    )

    def row(what: str, unit: str, key: str, name: str, note: str = "") -> Row:
        peers, mine = ([run[key] for run in runs] for runs in (theirs, found[name]))
        return Row(PART, f"PyOD's LSTMAD: {what}", unit, peers, name, mine, note=note)

    def how(name: str) -> str:
        runs = found[name]
        missed = sum(run["error"] > their["error"] for run, their in zip(runs, theirs, strict=True))
        return f"{note}; {name}: {[run['updates'] for run in runs]} updates" + (
            f", {missed} of {len(runs)} runs did not get there" if missed else ""
        )

    training = [row("training, to the same error", "s", "train_s", name, how(name)) for name in WAYS]
    return [*training, row("scoring", "s", "score_s", SHIPPED), row("peak memory", "MB", "peak_mb", SHIPPED)]


def main() -> int:
    if "--ours" not in sys.argv:
        return run_part(rows_of, __doc__)
    series, hidden, name, mark, threads = sys.argv[sys.argv.index("--ours") + 1 :]
    with contextlib.redirect_stdout(sys.stderr):
        found = ours(Path(series), int(hidden), name, float(mark), int(threads))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
