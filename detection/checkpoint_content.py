"""What a checkpoint has to hold, checked in one place before anything is made of it: types, lengths, numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from config import DatasetConfig, Name, Section, Unit, validate
from detection import thresholds

Positive = Annotated[float, Field(gt=0)]
Score = Annotated[float, Field(ge=-thresholds.LARGEST_SCORE, le=thresholds.LARGEST_SCORE)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class Tail(Section):
    knots: list[float]
    scale: Positive


class Calibration(Section):
    """What `anomaly_scores.fit_calibration` returns."""

    tails: list[list[Tail | None]]
    spread: list[Positive]
    means: list[float]
    covariance: list[list[float]]
    components: dict[Literal["amplitude_drop", "error", "transient_error", "level", "joint"], list[Tail | None]]


class Threshold(Section):
    """What `thresholds.fit` returns; what a method needs besides is checked by the method."""

    method: Literal[thresholds.METHODS]
    parameters: dict[str, float | int | bool]
    value: float
    n_scores: Count
    fallback: str
    mean: float | None = None
    std: float | None = None
    level_value: Score | None = None
    peaks: Count | None = None
    shape: float | None = None
    scale: float | None = None
    excesses: list[Annotated[float, Field(gt=0, le=2 * thresholds.LARGEST_SCORE)]] | None = None
    history: list[Score] | None = None
    breaks: list[Count] | None = None


class ScalerState(Section):
    center: list[float]
    scale: list[Positive]


class Facts(Section):
    """The plain values of a checkpoint beside its config and weights."""

    model_config = ConfigDict(extra="ignore")

    channels: list[Name] = Field(min_length=1)
    units: list[Unit]
    measures: list[Literal["airflow", "effort", "other"]]
    rate_hz: Annotated[float, Field(gt=0, le=1e6)]
    scaler: ScalerState
    calibration: Calibration | dict[str, Any]
    threshold: Threshold | dict[str, Any]
    rule_thresholds: dict[str, Threshold]
    series: bool = False
    vus_buffer_steps: Annotated[int, Field(ge=0, le=1000)] | None = None     # None: written before it was kept


class SeriesData(Section):
    """What is read of the `data` of a series."""

    model_config = ConfigDict(extra="ignore")

    description: str = ""
    simulated: bool = False
    fault_kinds: list[Name] = []
    channels: dict[str, dict[str, Any]] = {}
    delay_s: float = 0.0


class HistoryRow(Section):
    epoch: Count
    train_loss: float
    val_loss: float
    learning_rate: float
    seconds: float


class TrainingProgress(Section):
    """Where training stands, without the best weights."""

    epoch: Count
    best_epoch: Annotated[int, Field(ge=-1, lt=2**53)]
    best_loss: float
    history: list[HistoryRow]
    finished: bool


# ---- facts ----------------------------------------------------------------------------------


def check_facts(state: Mapping[str, Any], where: str) -> None:
    """Check all of a checkpoint but config, weights and training.

    Raises: DataError naming the key; KeyError or ValueError if parts do not fit together.
    """
    for key in Facts.model_fields:
        if key not in ("series", "vus_buffer_steps"):
            state[key]                                               # a missing one is named by itself
    for key, model in (("calibration", Calibration), ("threshold", Threshold)):
        if state[key] != {}:
            validate(model, state[key], f"{where}: {key}")
    facts = validate(Facts, state, where)
    channels = len(set(facts.channels))
    lengths = [len(part) for part in (facts.channels, facts.units, facts.measures, *vars(facts.scaler).values())]
    if lengths != [channels] * len(lengths):
        raise ValueError(f"channels, units, measures and scaler have {lengths} entries, {channels} different channels")
    if isinstance(facts.calibration, Calibration):
        _check_calibration(facts.calibration, channels)
    elif facts.threshold or facts.rule_thresholds:
        raise ValueError("a threshold without a calibration")
    for name, threshold in {"": facts.threshold, **facts.rule_thresholds}.items():
        if isinstance(threshold, Threshold):
            _check_threshold(threshold, name)
    _check_data(facts, state.get("data", {}), where)


def _check_calibration(calibration: Calibration, channels: int) -> None:
    """Raise ValueError unless a calibration has a tail for each comparison and component of each channel."""
    widths = {len(row) for row in calibration.tails}
    if (len(calibration.tails), len(calibration.spread)) != (channels, channels) or len(widths) != 1:
        raise ValueError(f"calibration: tails and spread have to be for {channels} channels")
    joint = {"joint"} if calibration.covariance else set()
    if set(calibration.components) != {"amplitude_drop", "error", "transient_error", "level"} | joint:
        raise ValueError(f"calibration: components are {sorted(calibration.components)}")
    for name, tails in calibration.components.items():
        if len(tails) != (1 if name == "joint" else channels):
            raise ValueError(f"calibration: {len(tails)} tails of {name}; expected one a channel, of joint one")
    every = [tail for row in (*calibration.tails, *calibration.components.values()) for tail in row if tail]
    if len({len(tail.knots) for tail in every}) > 1:
        raise ValueError("calibration: its tails have different numbers of knots")
    if any(low > high for tail in every for low, high in pairwise(tail.knots)):
        raise ValueError("calibration: the knots of a tail do not rise")
    used = sum(tail is not None for row in calibration.tails for tail in row[:-1])          # all but the level
    sizes = {len(calibration.means), len(calibration.covariance), *map(len, calibration.covariance)}
    if calibration.covariance or calibration.means:
        if sizes != {used}:
            raise ValueError(f"calibration: means and covariance have to be of {used} comparisons")
        np.linalg.cholesky(np.array(calibration.covariance))         # LinAlgError, a ValueError, if it is none


def _check_threshold(threshold: Threshold, name: str) -> None:
    """Raise ValueError unless a threshold has what its method needs."""
    chosen = thresholds.check_parameters(threshold.method, threshold.parameters)
    needed = {"pot": ["level_value", "peaks"], "dynamic": ["history", "breaks"]}.get(threshold.method, [])
    needed = [*needed, *(["excesses"] if chosen.get("online") else [])]
    missing = [key for key in needed if getattr(threshold, key) is None]
    if missing:
        raise ValueError(f"threshold {name}: {threshold.method} without {missing[0]}")
    if threshold.method == "dynamic" and not max(threshold.breaks, default=0) < len(threshold.history):
        raise ValueError(f"threshold {name}: a break lies behind its history of {len(threshold.history)}")


def _check_data(facts: Facts, data: Any, where: str) -> None:
    """Raise DataError or ValueError unless `data` says of each channel how it was recorded."""
    if facts.series or not isinstance(data, dict) or "channels" not in data:     # without, it can be exported, no more
        validate(SeriesData, data, f"{where}: data")
        return
    dataset = validate(DatasetConfig, data, f"{where}: data")
    unknown = [channel for channel in facts.channels if channel not in dataset.channels]
    if unknown or not math.isclose(dataset.rate_hz, facts.rate_hz):
        found = f"no channel {unknown[0]!r}" if unknown else f"a rate of {dataset.rate_hz:g} Hz"
        raise ValueError(f"data: {found}, but the model has {', '.join(facts.channels)} at {facts.rate_hz:g} Hz")


# ---- weights and training -------------------------------------------------------------------


def check_weights(weights: Any, expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless weights have the names, shapes and types that a model's have, and are finite."""
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError("the weights are no tensors by name")
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise ValueError("the weights have other shapes than the config says")
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            found = tensor.dtype if tensor.dtype != torch.float32 else "not finite"
            raise ValueError(f"the weights {name} are {found}; expected finite torch.float32")


def check_training(
    training: Any, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Mapping[str, Any], where: str
) -> None:
    """Check what training goes on from, before a trainer takes it over.

    Args:
        schedule: state of a fresh learning-rate schedule.
    Raises: DataError, KeyError, TypeError, ValueError or AttributeError if it is not of this model.
    """
    _check_alike(training["schedule"], schedule, "schedule")
    progress = dict(training["progress"])
    best = progress.pop("best_model")
    validate(TrainingProgress, progress, f"{where}: training.progress")
    if len(progress["history"]) != progress["epoch"] or not progress["best_epoch"] < progress["epoch"]:
        raise ValueError(f"{len(progress['history'])} epochs of history; expected {progress['epoch']}")
    for weights in (training["model"], *([best] if progress["epoch"] else [])):
        check_weights(weights, model.state_dict())
    _check_alike(training["optimizer"]["param_groups"], optimizer.state_dict()["param_groups"], "optimizer")
    shapes = [parameter.shape for parameter in model.parameters()]
    for place, moments in training["optimizer"]["state"].items():
        step, *means = (moments[key] for key in ("step", "exp_avg", "exp_avg_sq"))
        if [tuple(mean.shape) for mean in means] != [tuple(shapes[place])] * 2 or step.numel() != 1:
            raise ValueError(f"optimizer: the moments of parameter {place} have other shapes than the model")
        if not all(part.is_floating_point() and torch.isfinite(part).all() for part in (step, *means)):
            raise ValueError(f"optimizer: the moments of parameter {place} are not finite")


def _check_alike(value: Any, mine: Any, where: str) -> None:
    """Raise ValueError unless nested plain values have the keys, lengths and types of mine, and are finite."""
    if isinstance(mine, dict) and isinstance(value, dict) and value.keys() == mine.keys():
        for key in mine:
            _check_alike(value[key], mine[key], f"{where}.{key}")
    elif isinstance(mine, (list, tuple)) and isinstance(value, (list, tuple)) and len(value) == len(mine):
        for one, other in zip(value, mine, strict=True):
            _check_alike(one, other, where)
    elif _is_number(mine) and _is_number(value):
        if not math.isfinite(value) and math.isfinite(mine):
            raise ValueError(f"{where} is {value}")
    elif type(value) is not type(mine) or isinstance(mine, (dict, list, tuple)):
        raise ValueError(f"{where} is not what it is in a new training")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_memory(parts: Sequence[tuple[str, float]], most: float = 4e9) -> None:
    """Raise ValueError if a part, (what it is, bytes), is more than `most`."""
    for what, size in parts:
        if not size <= most:
            raise ValueError(f"{what} needs {size / 1e9:.3g} GB of memory; expected at most {most / 1e9:g}")
