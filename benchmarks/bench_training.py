"""Training speed: forecasts a second, and the share of the machine's rate of matrix products.

    python -m benchmarks.bench_training --quick

The counted operations are the matrix products of LSTM and head: forward and backward (three times the forward) in
training, forward in validation. The time is that of whole epochs: drawing windows, loss, clipping, Adam, validation.
"""

from __future__ import annotations

import statistics

import torch

from benchmarks.floors import best_product_rate, forward_flops, product_rate
from benchmarks.long_data import waves
from benchmarks.measure import Options, Row, run_part
from config import TrainingConfig
from data_loader import TrainingWindows, validation_batches
from lstm_model import StackedLSTM
from trainers import Trainer
from utils import keep_freed_memory, seed_everything

PART = "training"
STEPS, HORIZON, WARM_UP, CHANNELS = 250, 30, 50, 4                   # 50 s, 6 s and 10 s at 5 Hz
BATCH = 32
HIDDEN, LAYERS = 128, 3


def build(
    values, *, updates: int, epochs: int, hidden: int = HIDDEN, layers: int = LAYERS, steps: int = STEPS, **changes
) -> tuple[Trainer, TrainingWindows, list]:
    """Return a trainer, training windows and validation batches for scaled values (T, C), validation last."""
    seed_everything(0)
    border = round(0.8 * len(values))
    shape = {"steps": steps, "horizon": HORIZON, "least": WARM_UP + HORIZON + 1, "batch_size": BATCH}
    windows = TrainingWindows([values[:border]], updates=updates, channel_dropout=0.15, seed=0, **shape)
    validation = validation_batches([values[border:]], **shape)
    model = StackedLSTM(values.shape[1], hidden, layers, HORIZON)
    return Trainer(model, TrainingConfig(epochs=epochs, **changes), WARM_UP, "cpu"), windows, validation


def epoch_flops(trainer: Trainer, windows: TrainingWindows, validation: list) -> int:
    """Return the operations of the matrix products of one epoch."""
    steps = windows.windows.shape[2] - windows.horizon
    trained = len(windows) * windows.batch_size * steps
    validated = sum(len(x) for x, _ in validation) * steps
    return 3 * forward_flops(trainer.model, trained) + forward_flops(trainer.model, validated)


def rows_of(options: Options) -> list[Row]:
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    length, updates = (6_000, 3) if options.quick else (60_000, 60)
    trainer, windows, validation = build(waves(length, CHANNELS) / 7, updates=updates, epochs=options.repeats + 1)
    rates: list[tuple[float, float]] = []
    trainer.fit(windows, validation, lambda _: rates.append((product_rate(), best_product_rate())))
    flops = epoch_flops(trainer, windows, validation)
    forecasts = len(windows) * BATCH * (STEPS - WARM_UP) * HORIZON * CHANNELS
    seconds = [row["seconds"] for row in trainer.progress.history[1:]]                 # the first one warms up
    speed = [flops / s for s in seconds]
    plain, best = ([rate[k] for rate in rates[1:]] for k in (0, 1))
    note = (
        f"{LAYERS} x {HIDDEN} units, {CHANNELS} channels, {HORIZON} leads, {BATCH} windows of {STEPS} steps a batch, "
        f"{options.threads} threads, {statistics.median(seconds):.2f} s an epoch of {updates} updates"
    )
    giga = [s / 1e9 for s in speed]
    return [
        Row(PART, "target forecasts", "M forecasts/s", [forecasts / s / 1e6 for s in seconds], note=note),
        Row(PART, "matrix products of an epoch", "GFLOP/s", giga, "torch.mm of 1024 x 1024", [r / 1e9 for r in plain],
            ("ratio", ">=", 0.5), note),
        Row(PART, "matrix products of an epoch", "GFLOP/s", giga, "oneDNN's product of 1024 x 1024",
            [r / 1e9 for r in best], ("ratio", ">=", 0.5), note),
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(run_part(rows_of, __doc__))
