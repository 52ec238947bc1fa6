"""Seconds of training to one validation loss: every step forecasts, or only the last one of stride-1 windows.

    python -m benchmarks.bench_to_loss --quick

The same network, data, learning rate (constant) and seed. First a network trains as most detectors of this kind do, on
windows of 100 steps drawn at every offset with only the last step's forecasts in the loss, for a fixed time: its best
validation loss is the mark, and the moment it got there its time. Then ours trains, with every step's forecasts in the
loss, until the same validation gives that loss or the same time is over: with the shipped batch, and with batches of
four windows, which hold more forecasts than 32 windows do of which the last step alone counts. Validation itself is
not counted.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.bench_training import BATCH, HIDDEN, HORIZON, LAYERS, STEPS, WARM_UP
from benchmarks.measure import Options, Row, run_part
from benchmarks.small_data import make_small
from config import TrainingConfig
from data_loader import Dataset, TrainingWindows, load_dataset, validation_batches
from lstm_model import StackedLSTM
from trainers import Batches, Trainer
from utils import keep_freed_memory, seed_everything

PART = "to_loss"
CHANNELS = ("flow_lpm", "thorax_au", "abdomen_au", "acc_g")
WINDOW, SMALL_BATCH = 100, 4
EVERY = 1600                             # windows between two validations
ENDLESS = 1_000_000
LEAST = WARM_UP + HORIZON + 1


class Over(Exception):
    """The mark is reached, or the time is over."""


class StopwatchTrainer(Trainer):
    """A trainer that counts its seconds of training, validates as `judge` does, and stops at a mark or a time."""

    def __init__(self, *args, judge: Trainer | None, mark: float, limit_s: float) -> None:
        super().__init__(*args)
        self.judge, self.mark, self.limit_s, self.trained_s, self.best_s = judge, mark, limit_s, 0.0, 0.0

    def _train(self, windows: TrainingWindows) -> float:
        began = time.perf_counter()
        loss = super()._train(windows)
        self.trained_s += time.perf_counter() - began
        return loss

    def validate(self, batches: Batches) -> float:
        return self.judge.validate(batches) if self.judge else super().validate(batches)

    def after_epoch(self, _: Trainer) -> None:
        if self.progress.stale == 0:
            self.best_s = self.trained_s
        if self.progress.best_loss <= self.mark or self.trained_s >= self.limit_s:
            raise Over


def train(
    dataset: Dataset,
    hidden: int,
    seed: int,
    *,
    batch: int,
    limit_s: float,
    mark: float = -float("inf"),
    dense: bool = True,
) -> StopwatchTrainer:
    """Train a new network until its validation loss is at the mark or the time is over."""
    seed_everything(seed)
    network = StackedLSTM(len(dataset.channels), hidden, LAYERS, HORIZON)
    config = TrainingConfig(epochs=ENDLESS, patience=ENDLESS, schedule="plateau", lr_patience=ENDLESS)
    judge = None if dense else Trainer(network, config, WARM_UP, "cpu")
    windows = TrainingWindows(
        dataset.scaled("train"), steps=STEPS if dense else WINDOW, horizon=HORIZON, least=LEAST, batch_size=batch,
        updates=EVERY // batch, channel_dropout=0.15, seed=seed,
    )  # fmt: skip
    validation = validation_batches(
        dataset.scaled("val"), steps=STEPS, horizon=HORIZON, least=LEAST, batch_size=BATCH
    )
    warm_up = WARM_UP if dense else WINDOW - 1
    trainer = StopwatchTrainer(network, config, warm_up, "cpu", judge=judge, mark=mark, limit_s=limit_s)
    try:
        trainer.fit(windows, validation, trainer.after_epoch)
    except Over:
        return trainer
    raise AssertionError("training has no other end")


def rows_of(options: Options) -> list[Row]:
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    limit_s, hidden, minutes = (5.0, 32, 10) if options.quick else (240.0, HIDDEN, 30)
    runs: dict[str, list[StopwatchTrainer]] = {name: [] for name in ("last", "shipped", "small")}
    with tempfile.TemporaryDirectory() as folder:
        datasets = make_small(Path(folder), minutes)
        dataset = load_dataset(datasets / "collected-known-anomaly" / "simulated", CHANNELS)
        for seed in range(options.repeats):
            last = train(dataset, hidden, seed, batch=BATCH, limit_s=limit_s, dense=False)
            again = partial(train, dataset, hidden, seed, limit_s=limit_s, mark=last.progress.best_loss)
            runs["last"].append(last)
            runs["shipped"].append(again(batch=BATCH))
            runs["small"].append(again(batch=SMALL_BATCH))
    seconds = [run.best_s for run in runs["last"]]
    marks = [round(run.progress.best_loss, 3) for run in runs["last"]]
    note = f"{LAYERS} x {hidden} units, simulated recordings; validation losses {marks} after at most {limit_s:g} s"
    what = f"training the last step of stride-1 windows of {WINDOW} steps, {BATCH} a batch, to its best validation loss"
    rows = []
    for name, batch in (("shipped", BATCH), ("small", SMALL_BATCH)):
        behind = [round(run.progress.best_loss - run.mark, 3) for run in runs[name]]
        missed = f"; {batch} windows a batch: at the end {behind} above it" * any(gap > 0 for gap in behind)
        beside = f"every step of windows of {STEPS} steps, {batch} a batch, to the same loss"
        ours = [run.trained_s for run in runs[name]]
        rows.append(Row(PART, what, "s", seconds, beside, ours, ("ratio", ">=", 10.0), note + missed))
    return rows


if __name__ == "__main__":
    raise SystemExit(run_part(rows_of, __doc__))
