"""What a grid costs, and how far it is: estimates before, one progress bar while it runs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from config import ExperimentConfig
from experiment import training_data
from grid.plan import ETA, GridPlan, PlannedRun, until_of
from grid.results import BETTER, criterion_of
from grid.workers import quietly
from utils import DataError

if TYPE_CHECKING:
    from data_loader import Dataset

log = logging.getLogger("grid_search")

STEP_S, SPEED = 5e-5, 3e-11          # scoring and measuring of one step; a multiply-add where it was not measured
TRUST_S = 30.0                       # the estimate made beforehand counts as much as so long a measurement
SETTLED = ("finished", "stopped", "failed")


# ---- cost -----------------------------------------------------------------------------------


def cost_of(config: ExperimentConfig, dataset: Dataset, epochs: int | None = None) -> float:
    """Return multiply-adds of a run: of training for so many epochs (None = all of them, and scoring)."""
    config, per_step = config.in_seconds(dataset.meta.rate_hz), weights_of(config, dataset)
    steps = {name: sum(len(part) for part in dataset.splits[name]) for name in ("val", "test")}
    training = config.training
    window = (training.window_s + config.model.horizon_s) * dataset.meta.rate_hz
    updates = 3 * training.updates_per_epoch * training.batch_size * window       # back costs twice as much
    epoch = per_step * (updates + steps["val"])
    scoring = 0 if epochs else 5 * per_step * (steps["val"] + steps["test"])      # in float64, one step a time
    return epoch * (epochs or training.epochs) + scoring


def weights_of(config: ExperimentConfig, dataset: Dataset) -> float:
    """Return how many weights one step goes through."""
    config = config.in_seconds(dataset.meta.rate_hz)
    channels, hidden, layers = len(dataset.channels), config.model.hidden_units, config.model.num_layers
    lstm = 4 * hidden * (2 * channels + hidden) + (layers - 1) * 8 * hidden * hidden
    return lstm + hidden * channels * max(round(config.model.horizon_s * dataset.meta.rate_hz), 1)


def seconds_per_cost(config: ExperimentConfig, dataset: Dataset, device: str) -> float | None:
    """Return the seconds that a multiply-add takes here, from two updates; None if they fail."""
    from detection.detector import build_model, warm_up_of
    from trainers import Trainer

    config = config.in_seconds(dataset.meta.rate_hz)
    training = config.training.model_copy(update={"updates_per_epoch": 1, "epochs": 2, "patience": 2})
    short = config.model_copy(update={"training": training})
    try:
        windows, validation = training_data(short, dataset)
        model = build_model(config.model, len(dataset.channels), dataset.meta.rate_hz)
        trainer = Trainer(model, training, warm_up_of(config.model, dataset.meta.rate_hz), device)
        with quietly():
            began = trainer.fit(windows, validation[:1], until=1) and time.perf_counter()
            trainer.fit(windows, validation[:1])
        seconds = time.perf_counter() - began
    except (RuntimeError, MemoryError, DataError):
        return None
    windows_seen = 3 * training.batch_size + len(validation[0][0])
    window = (training.window_s + config.model.horizon_s) * dataset.meta.rate_hz
    return seconds / (weights_of(config, dataset) * windows_seen * window)


def task_cost(grid: GridPlan, run: PlannedRun, place: int) -> float:
    """Return the multiply-adds of a run from one rung to the next."""
    dataset = grid.dataset_of(run.config.dataset.channels)
    stops = [0, *(until_of(run, fraction) for fraction in grid.fractions), None]
    before = cost_of(run.config, dataset, stops[place]) if stops[place] else 0.0
    return cost_of(run.config, dataset, stops[place + 1]) - before


def task_seconds(grid: GridPlan, run: PlannedRun, place: int, speed: float | None) -> float:
    """Return about how long a run takes from one rung to the next, where a multiply-add takes `speed` seconds."""
    dataset = grid.dataset_of(run.config.dataset.channels)
    scored = sum(len(part) for name in ("val", "test") for part in dataset.splits[name])
    scoring = STEP_S * scored if place == len(grid.fractions) else 0.0
    return task_cost(grid, run, place) * (speed or SPEED) + scoring


def over_grid(grid: GridPlan, cost: Callable[[PlannedRun, int], float]) -> float:
    """Return the sum of a cost over the whole grid; with halving, as if average configs went on."""
    return sum(cost(run, place) * ETA**-place for run in grid.runs for place in range(len(grid.fractions) + 1))


def speed_here(grid: GridPlan, device: str) -> float | None:
    """Return the seconds of a multiply-add here, from two updates of the grid's middling config."""
    costs = sorted((task_cost(grid, run, 0), k) for k, run in enumerate(grid.runs))
    config = grid.runs[costs[len(costs) // 2][1]].config
    return seconds_per_cost(config, grid.dataset_of(config.dataset.channels), device)


def announce(grid: GridPlan, workers: int, speed: float | None) -> None:
    """Print how many runs of what cost are ahead."""
    configs = len(grid.runs) // len(grid.seeds)
    cost = over_grid(grid, lambda run, place: task_cost(grid, run, place))
    seconds = over_grid(grid, lambda run, place: task_seconds(grid, run, place, speed))
    text = f"{len(grid.runs)} runs: {configs} configs x {len(grid.seeds)} seeds on {grid.config.dataset.name}, "
    text += f"{cost:.2g} multiply-adds"
    text += f"; about {as_time(seconds / workers)} with {workers} at once, judged by two updates here"
    if grid.fractions:
        stops = " and ".join(f"1/{round(1 / fraction)}" for fraction in grid.fractions)
        text += f"; halving after {stops} of the epochs, one config of {ETA} goes on"
    print(text, file=sys.stderr)


def as_time(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def memory_of(grid: GridPlan) -> float:
    """Return the bytes that one worker takes: this process with its data, and the largest run's activations."""
    import psutil

    largest = 0.0
    for run in grid.runs:
        dataset = grid.dataset_of(run.config.dataset.channels)
        config = run.config.in_seconds(dataset.meta.rate_hz)
        steps = config.training.batch_size * config.training.window_s * dataset.meta.rate_hz
        leads = config.model.horizon_s * dataset.meta.rate_hz * len(dataset.channels)
        per_step = 12 * config.model.hidden_units * config.model.num_layers + 6 * leads
        largest = max(largest, 4 * (steps * per_step + 6 * weights_of(config, dataset)))
    return psutil.Process().memory_info().rss + largest


# ---- progress -------------------------------------------------------------------------------


class ProgressDisplay:
    """One progress bar for the whole grid; lines instead where stderr is no terminal."""

    def __init__(self, workers: int, speed: float | None) -> None:
        self.workers, self.speed = workers, speed
        self.failed = self.running = 0
        self.best: tuple[float, float] | None = None             # worth, value
        self.cost_done = self.cost_known = 0.0

    def start(self, grid: GridPlan, last: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin with what the journal holds already."""
        self.grid, self.criterion = grid, criterion_of(grid.runs)
        self.sign = BETTER[self.criterion]
        self.costs: dict[str, float] = {}
        self.began = self.last_at = time.perf_counter()
        settled = [record for record in last.values() if record["status"] in SETTLED]
        self.failed = sum(record["status"] == "failed" for record in settled)
        shape = "{percentage:3.0f}% |{bar}| {elapsed}, {postfix}"
        self.bar = tqdm(total=100, unit="%", bar_format=shape, disable=None)
        self.settled = len(settled)
        for record in last.values():
            self._note(record)

    def rung(self, due: Sequence[PlannedRun], place: int) -> None:
        """Take up the tasks of a rung."""
        self.costs = {run.key: task_seconds(self.grid, run, place, self.speed) for run in due}
        later = range(place + 1, len(self.grid.fractions) + 1)
        ahead = sum(task_seconds(self.grid, run, k, self.speed) * ETA ** (place - k) for run in due for k in later)
        self.cost_left = sum(self.costs.values()) + ahead
        self.show(0)

    def count(self, record: Mapping[str, Any]) -> None:
        """Count a record that is in the journal."""
        cost, self.last_at = self.costs.get(record["key"], 0.0), time.perf_counter()
        self.cost_left, self.cost_done = self.cost_left - cost, self.cost_done + cost
        self.settled += record["status"] in SETTLED
        self.failed += record["status"] == "failed"
        self._note(record)
        if self.bar.disable:
            log.info("%s: %s", record["key"][:12], self.text() if record["status"] != "failed" else record["error"])
        self.show(max(self.running - 1, 0))

    def show(self, running: int) -> None:
        """Draw the bar, with so many runs at work."""
        self.running = running
        total = self.cost_done + self.cost_left
        self.bar.n = 100 * self.cost_done / total if total else 100
        self.bar.set_postfix_str(self.text())

    def text(self) -> str:
        """Return finished, running and failed runs, the best result and the remaining time in words."""
        best = f", best {self.best[1]:.4f}" if self.best else ""
        done = f"{self.settled - self.failed} of {len(self.grid.runs)} done"
        return f"{done}, {self.running} running, {self.failed} failed{best}{self._left()}"

    def _left(self) -> str:
        if self.cost_left <= 0:
            return ""
        pace = (self.last_at - self.began + TRUST_S) / (self.cost_done + TRUST_S * self.workers)
        return f", about {as_time(self.cost_left * pace)} left"

    def _note(self, record: Mapping[str, Any]) -> None:
        value = record.get(self.criterion)
        if value is not None and (self.best is None or self.sign * value > self.best[0]):
            self.best = (self.sign * value, value)
