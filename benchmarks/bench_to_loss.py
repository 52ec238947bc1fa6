"""Processor seconds of training to one validation loss: every step forecasts, or only the last of stride-1 windows.

    python -m benchmarks.bench_to_loss --quick
    python -m benchmarks.bench_to_loss --threads 1 --figure docs/time_to_loss.png

The same network, data, seed and optimizer, each recipe at a constant learning rate that suits it, and the validation
loss of the moving average of the weights, which needs no schedule: one run shows how low the loss is at any time.
First a network trains as most detectors of this kind do, on windows drawn at every offset with only the last step's
forecasts in the loss; its lowest loss is the mark. The others train until they are there, or as long. Looks at the
validation loss are not counted, and lie 15 % of the time apart.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.bench_training import BATCH, HIDDEN, HORIZON, LAYERS, STEPS, WARM_UP
from benchmarks.measure import Options, Row, parser_of
from benchmarks.small_data import make_small
from config import TrainingConfig
from data_loader import Dataset, TrainingWindows, load_dataset, validation_batches
from lstm_model import StackedLSTM
from trainers import Batches, Trainer
from utils import keep_freed_memory, seed_everything

PART = "to_loss"
CHANNELS = ("flow_lpm", "thorax_au", "abdomen_au", "acc_g")
SESSIONS = {"train": 12, "calibration": 1, "test": 1}
UPDATES, FIRST_S, LONGER = 10, 0.5, 1.15      # updates at a time; the first look, and each later one
AVERAGE = 0.98                                # of the weights: over the last 50 updates

Curve = list[tuple[float, float]]             # (processor seconds, validation loss)


@dataclass(frozen=True)
class Recipe:
    """Windows of an update, and the learning rate."""

    name: str
    batch: int
    steps: int
    warm_up: int                              # first steps whose forecasts are not in the loss
    learning_rate: float

    @property
    def dense(self) -> bool:
        return self.warm_up < self.steps - 1


LAST = Recipe("the last of 100 steps, 32 windows a batch", 32, 100, 99, 0.004)
DENSE = (
    Recipe(f"every step, {BATCH} x {STEPS} steps a batch (shipped)", BATCH, STEPS, WARM_UP, 0.001),
    Recipe("every step, 4 x 60 steps a batch", 4, 60, 10, 0.004),
)


class LastStepHead(nn.Module):
    """A head that in training forecasts from the last step alone; the others would be for nothing."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(hidden[:, -1:] if self.training else hidden)


def train(dataset: Dataset, recipe: Recipe, hidden: int, seed: int, limit_s: float, mark: float = -torch.inf) -> Curve:
    """Train a new network until its validation loss is at the mark or the time is over."""
    seed_everything(seed)
    network = StackedLSTM(len(dataset.channels), hidden, LAYERS, HORIZON)
    if not recipe.dense:
        network.head = LastStepHead(network.head)
    config = TrainingConfig(learning_rate=recipe.learning_rate)
    trainer = Trainer(network, config, recipe.warm_up, "cpu")
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    trainer.optimizer.register_step_post_hook(lambda *_: average.update_parameters(network))
    judge = Trainer(average.module, config, WARM_UP, "cpu")
    windows = TrainingWindows(
        dataset.scaled("train"), steps=recipe.steps, horizon=HORIZON, least=recipe.warm_up + HORIZON + 1,
        batch_size=recipe.batch, updates=UPDATES, channel_dropout=0.15, seed=seed,
    )  # fmt: skip
    validation: Batches = validation_batches(
        dataset.scaled("val"), steps=STEPS, horizon=HORIZON, least=WARM_UP + HORIZON + 1, batch_size=BATCH
    )
    curve, trained_s, look_s = [], 0.0, FIRST_S
    while trained_s < limit_s:
        began = time.process_time()
        trainer._train(windows)
        trained_s += time.process_time() - began
        if trained_s >= min(look_s, limit_s):
            curve.append((trained_s, judge.validate(validation)))
            look_s = LONGER * trained_s
            if curve[-1][1] <= mark:
                break
    return curve


def seconds_to(curve: Curve, mark: float) -> float:
    """Return when a curve is first at a loss; the end of the curve if it never is."""
    return next((seconds for seconds, loss in curve if loss <= mark), curve[-1][0])


def lowest(curve: Curve) -> float:
    return min(loss for _, loss in curve)


def row_of(recipe: Recipe, runs: Sequence[Curve], lasts: Sequence[Curve], marks: Sequence[float], note: str) -> Row:
    """Return the row of one way to train beside training the last step, to marks of each seed."""
    above = [round(lowest(run) - mark, 3) for run, mark in zip(runs, marks, strict=True)]
    missed = f"; {recipe.name}: at the end {above} above it" * any(gap > 0 for gap in above)
    seconds = [seconds_to(run, mark) for run, mark in zip(lasts, marks, strict=True)]
    others = [seconds_to(run, mark) for run, mark in zip(runs, marks, strict=True)]
    what = f"training {LAST.name}, to validation losses {[round(mark, 2) for mark in marks]}, of the processor"
    return Row(PART, what, "s", seconds, recipe.name, others, ("ratio", ">=", 10.0), note + missed)


def plot(runs: dict[Recipe, list[Curve]], path: Path) -> None:
    """Draw loss against processor seconds, a line for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (recipe, curves) in enumerate(runs.items()):
        for number, curve in enumerate(curves):
            label = f"{recipe.name}, learning rate {recipe.learning_rate}" if number == 0 else None
            axes.plot(*zip(*curve, strict=True), color=f"C{colour}", linewidth=1, label=label)
    axes.set(xscale="log", xlabel="training, processor seconds", ylabel="validation loss")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def rows_of(options: Options, figure: Path | None = None) -> list[Row]:
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    limit_s, hidden, minutes = (4.0, 32, 10) if options.quick else (30.0, HIDDEN, 30)
    runs: dict[Recipe, list[Curve]] = {recipe: [] for recipe in (LAST, *DENSE)}
    with tempfile.TemporaryDirectory() as folder:
        datasets = make_small(Path(folder), minutes, SESSIONS)
        dataset = load_dataset(datasets / "collected-known-anomaly" / "simulated", CHANNELS)
        for seed in range(options.repeats):
            runs[LAST].append(train(dataset, LAST, hidden, seed, limit_s))
            mark = lowest(runs[LAST][-1])
            for recipe in DENSE:
                runs[recipe].append(train(dataset, recipe, hidden, seed, limit_s, mark))
    if figure:
        plot(runs, figure)
    note = f"{LAYERS} x {hidden} units, {HORIZON} leads, simulated recordings; last step at most {limit_s:g} s"
    ends = [lowest(curve) for curve in runs[LAST]]
    early = [curve[len(curve) // 2][1] for curve in runs[LAST]]              # at the middle look
    return [row_of(recipe, runs[recipe], runs[LAST], marks, note) for marks in (early, ends) for recipe in DENSE]


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves there")
    args = parser.parse_args()
    rows = rows_of(Options(args.quick, args.repeats, args.threads), args.figure)
    print(json.dumps([asdict(row) for row in rows]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
