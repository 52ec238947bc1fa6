"""From a config with lists to the runs of a grid, all checked before the first of them starts; and `grid.json`."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from config import ExperimentConfig, Section, read_json, set_dotted, validate
from data_loader import dataset_folder
from experiment import prepare
from utils import DataError, counted, sha256_of, write_json

if TYPE_CHECKING:
    from data_loader import Dataset
    from recordings.windowing import Meta

MOST_RUNS, MOST_RUNS_EVER = 10_000, 1_000_000        # without --yes, and with it
REDUCTION = 3                                        # --halving: one config of so many continues after a rung
DATA_FILES = ("meta.json", "train.csv", "val.csv", "test.csv")
LOSS_DEPENDS_ON = (                                  # what a validation loss is an average over
    "model.horizon_s", "model.warm_up_s", "training.window_s", "training.batch_size", "dataset.channels",
)  # fmt: skip


@dataclass(frozen=True)
class PlannedRun:
    """One training: a permutation of the grid with one seed."""

    key: str                                                     # hash of config, seed and data
    number: int                                                  # of the permutation, from 0
    values: dict[str, Any]                                       # dotted key -> value
    config: ExperimentConfig                                     # with the seed in it, without the grid

    @property
    def seed(self) -> int:
        return self.config.training.seed

    def pause_after(self, rung: float | None) -> int | None:
        """Return the epochs after which the run pauses, for a share of them; None = it runs to its end."""
        return None if rung is None else math.ceil(round(self.config.training.epochs * rung, 6))


@dataclass(frozen=True)
class GridPlan:
    """A planned grid: what `grid.json` keeps, and the runs that follow from it."""

    config: ExperimentConfig
    seeds: list[int]
    rungs: list[float]                                           # shares of the epochs at which --halving pauses
    device: str
    data: Path
    fingerprint: str                                             # of the data
    meta: Meta
    runs: list[PlannedRun]                                       # the seeds of a permutation side by side

    @functools.cached_property
    def criterion(self) -> str:
        """The measure that ranks the configs: the loss if it means the same in all runs, else the skill."""
        return "val_skill" if loss_differs_by(self.runs) else "val_loss"

    @functools.cached_property
    def shared_validation(self) -> dict[str, Any]:
        return shared_validation_of(self.runs, list(self.meta.channels), self.meta.rate_hz)

    def __str__(self) -> str:
        configs = len(self.runs) // len(self.seeds)
        text = f"{counted(len(self.runs), 'run')} on {self.config.dataset.name}: {counted(configs, 'config')} with "
        text += counted(len(self.seeds), "seed") + " each" * (configs > 1)
        rungs = " and ".join(f"1/{round(1 / rung)}" for rung in self.rungs)
        return f"{text}; the best third of the configs continues after {rungs} of the epochs" if rungs else text


def plan(
    config: ExperimentConfig, seeds: list[int], halving: bool, device: str, datasets: Path, where: str, yes: bool
) -> GridPlan:
    """Return the grid of a config, all of its runs checked against their data; nothing is written.

    Args:
        where: what mistakes are reported of, such as the config's file name.
        yes: allow more than 10,000 runs.
    Raises: DataError on the first mistake.
    """
    check_lists(config, len(seeds), where, yes)
    data = dataset_folder(config.dataset.name, datasets).resolve()
    fingerprint = files_fingerprint(data)
    runs = plan_runs(config, seeds, fingerprint, where, yes)
    for run in runs[:: len(seeds)]:
        try:
            dataset = read_dataset(str(data), channels_of(run.config), fingerprint)
            prepare(run.config, dataset)
        except DataError as error:
            raise DataError(f"{where}: grid: {show(run.values)}: {error}") from None
    rungs = rungs_of(min(run.config.training.epochs for run in runs)) if halving else []
    return GridPlan(config, seeds, rungs, device, data, fingerprint, dataset.meta, runs)


# ---- data -----------------------------------------------------------------------------------


def files_fingerprint(folder: Path) -> str:
    """Return a hash of the windowed dataset in a folder."""
    digests = "".join(sha256_of(folder / name) for name in DATA_FILES if (folder / name).is_file())
    return hashlib.sha256(digests.encode()).hexdigest()


def channels_of(config: ExperimentConfig) -> tuple[str, ...] | None:
    return tuple(config.dataset.channels) if config.dataset.channels else None


@functools.lru_cache(maxsize=8)
def read_dataset(folder: str, channels: tuple[str, ...] | None, fingerprint: str) -> Dataset:
    """Read a dataset once a process; it has to be the one that the grid was planned with."""
    from data_loader import load_dataset

    if files_fingerprint(Path(folder)) != fingerprint:
        raise DataError(f"{folder} on {socket.gethostname()}: not the data that this grid was planned with")
    return load_dataset(Path(folder), channels)


# ---- permutations ---------------------------------------------------------------------------


def plan_runs(
    config: ExperimentConfig, seeds: Sequence[int], fingerprint: str, where: str, yes: bool = False
) -> list[PlannedRun]:
    """Return all runs of a grid, the seeds of a permutation side by side; arguments and errors as in `plan`."""
    check_lists(config, len(seeds), where, yes)
    runs: dict[str, PlannedRun] = {}
    base = json.dumps(config.model_dump(exclude={"grid"}))
    permutations = itertools.product(*config.grid.values())
    for number, chosen in enumerate(permutations):
        values = dict(zip(config.grid, chosen, strict=True))               # dotted key -> value
        one = permuted(base, values, f"{where}: grid")
        for seed in seeds:
            seeded = one.model_copy(update={"training": one.training.model_copy(update={"seed": seed})})
            key = key_of(seeded, fingerprint)
            if key in runs:
                raise DataError(f"{where}: grid: {show(runs[key].values)} and {show(values)} are the same config")
            runs[key] = PlannedRun(key, number, values, seeded)
    return list(runs.values())


def check_lists(config: ExperimentConfig, seeds: int, where: str, yes: bool) -> None:
    """Raise DataError unless the lists of a grid can be permuted."""
    if not config.grid:
        raise DataError(f'{where}: grid: empty; name what to vary, such as {{"model.hidden_units": [64, 128]}}')
    for key, values in config.grid.items():
        if not values:
            raise DataError(f"{where}: grid.{key}: the list is empty; give it at least one value, or leave the key out")
        if not key or not all(key.split(".")):
            raise DataError(f"{where}: grid.{key}: expected a dotted key, such as model.hidden_units")
        if key.split(".")[0] == "grid":
            raise DataError(f"{where}: grid.{key}: a grid cannot vary itself")
        if key in ("dataset.name", "training.seed"):
            raise DataError(f"{where}: grid.{key}: set by --dataset NAME (one grid each) and --seeds N")
        for other in config.grid:
            if other.startswith(f"{key}."):
                raise DataError(f"{where}: grid.{other}: {key!r} is in the grid as well and would override it")
    runs = math.prod(len(values) for values in config.grid.values()) * seeds
    if runs > MOST_RUNS_EVER:
        raise DataError(f"{where}: grid: {runs:,} runs; expected at most {MOST_RUNS_EVER:,}")
    if runs > MOST_RUNS and not yes:
        raise DataError(f"{where}: grid: {runs:,} runs; confirm more than {MOST_RUNS:,} with --yes")


def permuted(base: str, values: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Return a config, given as JSON without its grid, with the values of one permutation, validated again."""
    content = json.loads(base)
    fixed = content["dataset"]["name"], content["training"]["seed"]
    for key, value in values.items():
        set_dotted(content, key, value, where)
    one = validate(ExperimentConfig, content, where)
    if (one.dataset.name, one.training.seed) != fixed:
        raise DataError(f"{where}: {show(values)} changes dataset.name or training.seed; use --dataset, --seeds")
    return one


def key_of(config: ExperimentConfig, fingerprint: str) -> str:
    """Return the hash that names a run: of its config, seed included, and of its data."""
    content = json.dumps([config.model_dump(exclude={"grid"}), fingerprint], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def show(values: Mapping[str, Any]) -> str:
    """Return a permutation as `a.b=1, c.d=2`."""
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def rungs_of(epochs: int) -> list[float]:
    """Return the shares of the epochs at which weak configs are stopped: 1/9 and 1/3, if these differ."""
    shares = [k for k in (2, 1) if math.ceil(epochs / REDUCTION**k) < math.ceil(epochs / REDUCTION ** (k - 1))]
    if not shares:
        raise DataError(f"--halving: training.epochs is {epochs}; there is no earlier epoch to stop at")
    return [REDUCTION**-k for k in shares]


# ---- what can be compared -------------------------------------------------------------------


def loss_differs_by(runs: Sequence[PlannedRun]) -> list[str]:
    """Return the keys that make the validation losses of these runs averages over different things."""
    return [key for key in LOSS_DEPENDS_ON if len({json.dumps(attrgetter(key)(run.config)) for run in runs}) > 1]


def training_differs(runs: Sequence[PlannedRun]) -> bool:
    """Return whether any two permutations differ in what they train."""
    parts = {"include": {"dataset", "model", "training"}, "exclude": {"training": {"seed"}}}
    return len({json.dumps(run.config.model_dump(**parts)) for run in runs}) > 1


def shared_validation_of(runs: Sequence[PlannedRun], channels: Sequence[str], rate_hz: float) -> dict[str, Any]:
    """Return the leads, warm-up, window and channels that all runs have: what their skill is measured on.

    Args:
        channels: of the dataset, for runs that name none.
        rate_hz: of the dataset.
    """
    chosen = [run.config.dataset.channels or list(channels) for run in runs]
    configs = [run.config.in_seconds(rate_hz) for run in runs]
    return {
        "horizon_s": min(config.model.horizon_s for config in configs),
        "warm_up_s": max(config.model.warm_up_s for config in configs),
        "window_s": max(config.training.window_s for config in configs),
        "channels": [name for name in channels if all(name in several for several in chosen)],
    }


# ---- grid.json ------------------------------------------------------------------------------


class PlanFile(Section):
    """`grid.json`."""

    format: Literal[1]
    command: list[str]
    config: ExperimentConfig
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(min_length=1)
    halving: bool
    device: Literal["auto", "cpu", "cuda"]
    fingerprint: str
    runs: int


def write_plan(grid: GridPlan, out: Path) -> None:
    facts = {name: getattr(grid, name) for name in ("config", "seeds", "device", "fingerprint")}
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    content = PlanFile(format=1, command=command, halving=bool(grid.rungs), runs=len(grid.runs), **facts)
    write_json(out / "grid.json", content.model_dump())


def read_plan(out: Path, datasets: Path) -> GridPlan:
    """Return the grid that a folder was made for; its data has to be the same still.

    Raises: DataError if the folder is not that of a grid, or the data has changed.
    """
    if not (out / "grid.json").is_file():
        raise DataError(f"{out}: no grid.json there; --resume needs the folder of a grid search")
    made = validate(PlanFile, read_json(out / "grid.json"), f"{out / 'grid.json'}")
    grid = plan(made.config, made.seeds, made.halving, made.device, datasets, "grid.json", True)
    if grid.fingerprint != made.fingerprint:
        raise DataError(f"{grid.data}: no longer the data that {out} was made with; start a new grid")
    return grid
