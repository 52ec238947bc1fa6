"""Train and score with PyOD's LSTM detector (LSTMAD); print seconds, errors and peak memory as JSON.

    VENV/bin/python benchmarks/peer_pyod.py series.npz --epochs 1 --window 100 --hidden 128 --layers 3 --threads 1

Runs in PyOD's own virtual environment and imports nothing of this project. `series.npz` holds train and val (T, C),
scaled. Seconds are of the processor, those of training without the scores of the training series. The error is the
mean squared error of forecasts one step ahead, the only ones that this detector makes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from pyod.models.ts_lstm import LSTMAD


class TimedLSTMAD(LSTMAD):
    """The detector, which counts the processor seconds of its training alone."""

    train_s = 0.0

    def _train_model(self, *args):
        began = time.process_time()
        model = super()._train_model(*args)
        self.train_s = time.process_time() - began
        return model


def one_step_error(detector: LSTMAD, values: np.ndarray, window: int, batch: int = 1024) -> float:
    """Return the mean squared error of the forecasts of each step from the `window` steps before it."""
    inputs = torch.from_numpy(values).float().unfold(0, window, 1).transpose(1, 2)[:-1]      # (N, window, C)
    with torch.no_grad():
        forecast = torch.cat([detector.model_(part.contiguous()) for part in inputs.split(batch)]).numpy()
    return float(np.mean((values[window:] - forecast) ** 2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path)
    for name in ("epochs", "window", "hidden", "layers", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    series = np.load(args.series)
    detector = TimedLSTMAD(window_size=args.window, hidden_size=args.hidden, n_layers=args.layers, epochs=args.epochs,
                           lr=0.001, batch_size=32)  # fmt: skip
    detector.fit(series["train"])
    began = time.process_time()
    detector.decision_function(series["val"])
    score_s = time.process_time() - began
    status = Path("/proc/self/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    found = {"train_s": detector.train_s, "score_s": score_s, "peak_mb": peak_kb * 1024 / 1e6}
    print(json.dumps(found | {"error": one_step_error(detector, series["val"], args.window)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
