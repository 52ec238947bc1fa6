"""Seconds of training to one validation loss: every step forecasts, or only the last one of stride-1 windows.

    python -m benchmarks.bench_to_loss --quick

The same network, data, batch size, learning rate (constant) and seed. Ours trains for a fixed number of updates; its
best validation loss is the mark. Then a new network trains as most detectors of this kind do, on windows of 100 steps
drawn at every offset with only the last step's forecasts in the loss, until the same validation gives the same loss,
or until it has had CAP times the seconds. Validation itself is not counted.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from benchmarks.bench_training import BATCH, HIDDEN, HORIZON, LAYERS, STEPS, WARM_UP
from benchmarks.measure import Options, Row, run_part
from benchmarks.small_data import make_small
from config import TrainingConfig
from data_loader import TrainingWindows, load_dataset, validation_batches
from lstm_model import StackedLSTM
from trainers import Batches, Trainer
from utils import keep_freed_memory, seed_everything

PART = "to_loss"
CHANNELS = ("flow_lpm", "thorax_au", "abdomen_au", "acc_g")
WINDOW, CAP = 100, 15.0


class Reached(Exception):
    """The mark is reached, or the time is over."""


class StopwatchTrainer(Trainer):
    """A trainer that counts its seconds of training, validates as `judge` does, and stops at a mark."""

    def __init__(self, *args, judge: Trainer | None = None, mark: float = -float("inf"), cap_s: float = float("inf")):
        super().__init__(*args)
        self.judge, self.mark, self.cap_s, self.trained_s = judge, mark, cap_s, 0.0

    def _train(self, windows: TrainingWindows) -> float:
        began = time.perf_counter()
        loss = super()._train(windows)
        self.trained_s += time.perf_counter() - began
        return loss

    def validate(self, batches: Batches) -> float:
        return self.judge.validate(batches) if self.judge else super().validate(batches)

    def stop(self, _: Trainer) -> None:
        if self.progress.best_loss <= self.mark or self.trained_s >= self.cap_s:
            raise Reached


def build_windows(segments, steps: int, updates: int, seed: int) -> TrainingWindows:
    return TrainingWindows(
        segments, steps=steps, horizon=HORIZON, least=WARM_UP + HORIZON + 1, batch_size=BATCH, updates=updates,
        channel_dropout=0.15, seed=seed,
    )  # fmt: skip


def compare(dataset, epochs: int, hidden: int, seed: int) -> tuple[float, float, bool, float]:
    """Return seconds of ours, seconds of last-step-only training, whether it got there, and the mark."""
    validation = validation_batches(
        dataset.scaled("val"), steps=STEPS, horizon=HORIZON, least=WARM_UP + HORIZON + 1, batch_size=BATCH
    )
    config = TrainingConfig(epochs=100_000, patience=100_000, schedule="plateau", lr_patience=100_000)

    def model() -> StackedLSTM:
        seed_everything(seed)
        return StackedLSTM(len(dataset.channels), hidden, LAYERS, HORIZON)

    ours = StopwatchTrainer(model(), config, WARM_UP, "cpu")
    ours.fit(build_windows(dataset.scaled("train"), STEPS, 20, seed), validation, until=epochs)
    mark, network = ours.progress.best_loss, model()
    judge = Trainer(network, config, WARM_UP, "cpu")
    last = StopwatchTrainer(network, config, WINDOW - 1, "cpu", judge=judge, mark=mark, cap_s=CAP * ours.trained_s)
    try:
        last.fit(build_windows(dataset.scaled("train"), WINDOW, 60, seed), validation, last.stop)
    except Reached:
        return ours.trained_s, last.trained_s, last.progress.best_loss <= mark, last.progress.best_loss - mark
    raise AssertionError("training has no other end")


def rows_of(options: Options) -> list[Row]:
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    epochs, hidden, minutes = (3, 32, 10) if options.quick else (12, HIDDEN, 20)
    with tempfile.TemporaryDirectory() as folder:
        datasets = make_small(Path(folder), minutes)
        dataset = load_dataset(datasets / "collected-known-anomaly" / "simulated", CHANNELS)
        runs = [compare(dataset, epochs, hidden, seed) for seed in range(options.repeats)]
    ours, last = [run[0] for run in runs], [run[1] for run in runs]
    behind = [f"{run[3]:.3f}" for run in runs if not run[2]]
    note = f"{epochs * 20} updates of {BATCH} windows of {STEPS} steps, {LAYERS} x {hidden} units, simulated recordings"
    if behind:
        note += (
            f"; {len(behind)} of {len(runs)} runs had not reached the mark after {CAP:g} times the seconds and were "
            f"{', '.join(behind)} above it: the ratio is a lower bound"
        )
    what = f"last-step-only training on stride-1 windows of {WINDOW} steps, to the same validation loss"
    return [Row(PART, what, "s", last, "every step forecasts", ours, ("ratio", ">=", 10.0), note)]


if __name__ == "__main__":
    raise SystemExit(run_part(rows_of, __doc__))
