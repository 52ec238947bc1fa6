"""From a config with lists to the runs of a grid, checked before the first of them starts."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from config import ExperimentConfig, Section, expand_grid, read_json, set_dotted, validate
from experiment import check_choices, check_lengths, dataset_folder
from utils import DataError, sha256_of, write_json

if TYPE_CHECKING:
    from data_loader import Dataset

MOST_RUNS, MOST_RUNS_EVER = 10_000, 1_000_000        # without --yes, and with it
ETA = 3                                              # --halving: one config of three goes on at a rung
DATA_FILES = ("meta.json", "train.csv", "val.csv", "test.csv")
LOSS_DEPENDS_ON = {                                  # what a validation loss is an average over
    "model.horizon_s": lambda config: config.model.horizon_s,
    "model.warm_up_s": lambda config: config.model.warm_up_s,
    "training.window_s": lambda config: config.training.window_s,
    "training.batch_size": lambda config: config.training.batch_size,
    "dataset.channels": lambda config: config.dataset.channels,
}


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


def files_fingerprint(folder: Path) -> str:
    """Return a hash of the windowed dataset in a folder."""
    digests = "".join(sha256_of(folder / name) for name in DATA_FILES if (folder / name).is_file())
    return hashlib.sha256(digests.encode()).hexdigest()


def key_of(config: ExperimentConfig, fingerprint: str) -> str:
    """Return the hash that names a run: of its config, seed included, and of its data."""
    content = json.dumps([config.model_dump(exclude={"grid"}), fingerprint], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


# ---- permutations ---------------------------------------------------------------------------


def plan_runs(
    config: ExperimentConfig, seeds: Sequence[int], fingerprint: str, where: str, yes: bool = False
) -> list[PlannedRun]:
    """Return all runs of a grid, seeds of a permutation side by side.

    Args:
        where: what the user's mistakes are reported of, such as the config's file name.
        yes: allow more than 10,000 runs.
    Raises: DataError on the first mistake in the grid.
    """
    check_lists(config, len(seeds), where, yes)
    base = json.dumps(config.model_dump(exclude={"grid"}))
    for key, values in config.grid.items():                      # each value by itself: the plainest message
        for value in values:
            permuted(config, base, {key: value}, where)
    runs: list[PlannedRun] = []
    known: dict[str, dict[str, Any]] = {}
    for number, values in enumerate(expand_grid(config)):
        one = permuted(config, base, values, where)
        for seed in seeds:
            seeded = one.model_copy(update={"training": one.training.model_copy(update={"seed": seed})})
            runs.append(PlannedRun(key_of(seeded, fingerprint), number, values, seeded))
            if runs[-1].key in known:
                raise DataError(f"{where}: grid: {show(known[runs[-1].key])} and {show(values)} are the same config")
            known[runs[-1].key] = values
    return runs


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
        if key == "dataset.name":
            raise DataError(f"{where}: grid.{key}: a grid has one dataset; use --dataset, and one grid each")
        if key == "training.seed":
            raise DataError(f"{where}: grid.{key}: seeds are repetitions, not choices; use --seeds N")
        for other in config.grid:
            if other.startswith(f"{key}."):
                raise DataError(f"{where}: grid.{other}: {key!r} is in the grid as well and would override it")
    runs = math.prod(len(values) for values in config.grid.values()) * seeds
    if runs > MOST_RUNS_EVER:
        raise DataError(f"{where}: grid: {runs:,} runs; more than {MOST_RUNS_EVER:,} are not planned")
    if runs > MOST_RUNS and not yes:
        raise DataError(f"{where}: grid: {runs:,} runs; say --yes if more than {MOST_RUNS:,} are meant")


def permuted(config: ExperimentConfig, base: str, values: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Return the config with the values of one permutation, validated again.

    Args:
        base: the config without its grid, as JSON.
    """
    content, place = json.loads(base), f"{where}: grid"
    for key, value in values.items():
        set_dotted(content, key, value, place)
    one = validate(ExperimentConfig, content, place)
    if one.dataset.name != config.dataset.name or one.training.seed != config.training.seed:
        raise DataError(f"{place}: {show(values)} changes dataset.name or training.seed; use --dataset, --seeds")
    return one


def show(values: Mapping[str, Any]) -> str:
    """Return a permutation as `a.b=1, c.d=2`."""
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def check_runs(runs: Sequence[PlannedRun], dataset_of: Callable[[Sequence[str] | None], Dataset], where: str) -> None:
    """Raise DataError unless each run fits its data; what several share is checked once."""
    checked: set[str] = set()

    def first_time(*facts: Any) -> bool:
        text = json.dumps(facts)
        is_new = text not in checked
        checked.add(text)
        return is_new

    for run in runs:
        model, channels = run.config.model, run.config.dataset.channels
        spans = [channels, model.horizon_s, model.warm_up_s]
        try:
            dataset = dataset_of(channels)
            if first_time(spans, run.config.threshold.model_dump(), run.config.score.model_dump()):
                check_choices(run.config, dataset)
            if first_time(spans):
                check_lengths(run.config, dataset)
        except DataError as error:
            raise DataError(f"{where}: grid: {show(run.values)}: {error}") from None


# ---- what can be compared -------------------------------------------------------------------


def loss_differs_by(runs: Sequence[PlannedRun]) -> list[str]:
    """Return the keys that make the validation losses of these runs averages over different things."""
    return [
        key
        for key, value_of in LOSS_DEPENDS_ON.items()
        if len({json.dumps(value_of(run.config)) for run in runs}) > 1
    ]


def training_differs(runs: Sequence[PlannedRun]) -> bool:
    """Return whether any two permutations differ in what they train."""
    parts = {json.dumps([run.config.dataset.model_dump(), run.config.model.model_dump(),
                         run.config.training.model_dump(exclude={"seed"})]) for run in runs}  # fmt: skip
    return len(parts) > 1


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


# ---- the whole grid ------------------------------------------------------------------------


@dataclass(frozen=True)
class GridPlan:
    """A planned grid: what `grid.json` keeps, and the runs that follow from it."""

    config: ExperimentConfig
    seeds: list[int]
    fractions: list[float]                                       # of the epochs, where --halving pauses
    device: str
    data: Path
    fingerprint: str
    runs: list[PlannedRun]
    dataset_of: Callable[[Sequence[str] | None], Dataset]

    @functools.cached_property
    def simulated(self) -> bool:
        return self.dataset_of(self.config.dataset.channels).meta.simulated

    @functools.cached_property
    def shared_validation(self) -> dict[str, Any]:
        meta = self.dataset_of(self.config.dataset.channels).meta
        return shared_validation_of(self.runs, list(meta.channels), meta.rate_hz)


def plan(
    config: ExperimentConfig, seeds: list[int], halving: bool, device: str, datasets: Path, where: str, yes: bool
) -> GridPlan:
    """Return the grid of a config, all of its runs checked; nothing is written.

    Raises: DataError on the first mistake.
    """
    check_lists(config, len(seeds), where, yes)
    data = dataset_folder(config.dataset.name, datasets).resolve()
    fingerprint = files_fingerprint(data)
    runs = plan_runs(config, seeds, fingerprint, where, yes)

    @functools.cache
    def read(channels: tuple[str, ...] | None) -> Dataset:
        from data_loader import load_dataset

        return load_dataset(data, channels)

    def dataset_of(channels: Sequence[str] | None) -> Dataset:
        return read(tuple(channels) if channels else None)

    check_runs(runs, dataset_of, where)
    fractions = rungs(min(run.config.training.epochs for run in runs)) if halving else []
    return GridPlan(config, seeds, fractions, device, data, fingerprint, runs, dataset_of)


def rungs(epochs: int) -> list[float]:
    """Return the shares of the epochs at which hopeless configs are stopped: 1/9 and 1/3, if these differ."""
    shares = [k for k in (2, 1) if math.ceil(epochs / ETA**k) < math.ceil(epochs / ETA ** (k - 1))]
    if not shares:
        raise DataError(f"--halving: training.epochs is {epochs}; there is no earlier epoch to stop at")
    return [ETA**-k for k in shares]


def until_of(run: PlannedRun, fraction: float | None) -> int | None:
    """Return the epoch at which a run pauses at a rung; None = it goes to its end."""
    return None if fraction is None else math.ceil(round(run.config.training.epochs * fraction, 6))


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
    content = PlanFile(
        format=1,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        config=grid.config,
        seeds=grid.seeds,
        halving=bool(grid.fractions),
        device=grid.device,
        fingerprint=grid.fingerprint,
        runs=len(grid.runs),
    )
    write_json(out / "grid.json", content.model_dump())


def read_plan(out: Path, datasets: Path) -> GridPlan:
    """Return the grid that a folder was made for; its data has to be the same still."""
    if not (out / "grid.json").is_file():
        raise DataError(f"{out}: no grid.json there; --resume needs the folder of a grid search")
    made = validate(PlanFile, read_json(out / "grid.json"), f"{out / 'grid.json'}")
    grid = plan(made.config, made.seeds, made.halving, made.device, datasets, "grid.json", True)
    if grid.fingerprint != made.fingerprint:
        raise DataError(f"{grid.data}: no longer the data that {out} was made with; start a new grid")
    return grid
