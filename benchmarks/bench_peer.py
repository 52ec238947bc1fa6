"""The project beside PyOD's LSTM detector: same series, units, layers and threads.

    python -m benchmarks.bench_peer --peer-venv /tmp/pyod --quick

PyOD is installed into a virtual environment of its own, made if it is not there. It trains for some epochs over its
stride-1 windows and scores the validation series. Ours then trains until its forecasts of one step ahead are at least
as good on the same series, and scores it too; ours forecasts 30 steps ahead, PyOD one. Fitting in PyOD scores the
training series as well; ours calibrates on it, which is counted as scoring.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np

from benchmarks.bench_to_loss import SMALL_BATCH
from benchmarks.bench_training import BATCH
from benchmarks.long_data import waves
from benchmarks.measure import Options, Row, child, last_json, own_peak_mb, run_part
from utils import ROOT, DataError, keep_freed_memory

PART = "peer"
PACKAGES = ("pyod==3.6.7", "torch==2.13.0")
CHANNELS, WINDOW, LAYERS = 4, 100, 3
EVERY, CAP = 160, 60_000                # training windows between two looks at the error, and at most


def ready(folder: Path) -> Path:
    """Return the Python of the peer's virtual environment; make it first if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {' '.join(PACKAGES)} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        quiet = ["--quiet", "--disable-pip-version-check"]
        done = subprocess.run([python, "-m", "pip", "install", *quiet, *PACKAGES], stdout=sys.stderr)
        if done.returncode:
            raise DataError(f"{folder}: pip could not install {' '.join(PACKAGES)}")
    return python


def peer(python: Path, series: Path, epochs: int, hidden: int, threads: int) -> dict[str, float]:
    """Return what `peer_pyod.py` measured."""
    sizes = {"epochs": epochs, "window": WINDOW, "hidden": hidden, "layers": LAYERS, "threads": threads}
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    command = [str(python), str(ROOT / "benchmarks" / "peer_pyod.py"), str(series), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return last_json(done.stdout)


def ours(series: Path, hidden: int, batch: int, mark: float, threads: int) -> dict[str, float]:
    """Train until one step ahead is forecast as well as `mark`, calibrate, score; runs in a process of its own."""
    import torch

    from benchmarks.bench_scoring import make_detector
    from benchmarks.bench_training import HORIZON, STEPS, WARM_UP
    from config import TrainingConfig
    from data_loader import TrainingWindows
    from trainers import Trainer

    keep_freed_memory()
    torch.set_num_threads(threads)
    loaded = np.load(series)
    values = {name: loaded[name].astype(np.float32) for name in ("train", "val")}
    detector = make_detector(CHANNELS, hidden=hidden)
    config = TrainingConfig(schedule="plateau", lr_patience=CAP)     # a constant learning rate
    trainer = Trainer(detector.model, config, WARM_UP, "cpu")
    windows = TrainingWindows(
        [values["train"]], steps=STEPS, horizon=HORIZON, least=WARM_UP + HORIZON + 1, batch_size=batch,
        updates=EVERY // batch, channel_dropout=0.15, seed=0,
    )  # fmt: skip
    fit_s, error, seen = 0.0, float("inf"), 0
    while error > mark and seen < CAP:
        began = time.perf_counter()
        trainer._train(windows)
        fit_s += time.perf_counter() - began
        seen += EVERY
        error = one_step_error(detector.model, values["val"])
    began = time.perf_counter()
    detector.calibrate([values["train"] * detector.scaler.scale])
    calibrated = time.perf_counter()
    detector.detect([values["val"] * detector.scaler.scale])
    score_s = time.perf_counter() - calibrated
    found = {"fit_s": fit_s, "calibrate_s": calibrated - began, "score_s": score_s, "updates": seen // batch}
    return found | {"error": error, "peak_mb": own_peak_mb()}


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
    python = ready(options.peer_venv)
    length, epochs, hidden = (1_500, 1, 32) if options.quick else (8_000, 3, 128)
    found: dict[str, list[dict[str, float]]] = {"peer": [], **{str(batch): [] for batch in (BATCH, SMALL_BATCH)}}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.repeats):
            path = Path(folder) / "series.npz"
            values = (waves(2 * length, CHANNELS, seed=seed) / 7).astype(np.float64)
            np.savez(path, train=values[:length], val=values[length:])
            found["peer"].append(peer(python, path, epochs, hidden, options.threads))
            for batch in (BATCH, SMALL_BATCH):
                mark = found["peer"][-1]["error"]
                command = ["-m", "benchmarks.bench_peer", "--ours", path, hidden, batch, mark, options.threads]
                found[str(batch)].append(last_json(child(command, options.threads).stdout))
    errors = [round(run["error"], 4) for run in found["peer"]]
    note = (
        f"{length} steps x {CHANNELS} channels to train on and as many to score, {LAYERS} x {hidden} units; PyOD "
        f"trains {epochs} epochs on windows of {WINDOW} steps; its mean squared error one step ahead {errors}"
    )

    def row(what: str, unit: str, key: str, batch: int, note: str = "") -> Row:
        theirs, mine = ([run[key] for run in found[name]] for name in ("peer", str(batch)))
        return Row(PART, f"PyOD's LSTMAD: {what}", unit, theirs, f"ours, {batch} windows a batch", mine, note=note)

    def how(batch: int) -> str:
        runs = found[str(batch)]
        missed = sum(run["error"] > their["error"] for run, their in zip(runs, found["peer"], strict=True))
        return f"{note}; {batch} windows a batch: {[run['updates'] for run in runs]} updates" + (
            f", {missed} of {len(runs)} runs did not get there" if missed else ""
        )

    training = [row("training, to the same error", "s", "fit_s", batch, how(batch)) for batch in (BATCH, SMALL_BATCH)]
    return [*training, row("scoring", "s", "score_s", BATCH), row("peak memory", "MB", "peak_mb", BATCH)]


def main() -> int:
    if "--ours" not in sys.argv:
        return run_part(rows_of, __doc__)
    series, hidden, batch, mark, threads = sys.argv[sys.argv.index("--ours") + 1 :]
    with contextlib.redirect_stdout(sys.stderr):
        found = ours(Path(series), int(hidden), int(batch), float(mark), int(threads))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
