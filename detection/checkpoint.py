"""Checkpoints: one safetensors file of named tensors, with all else as JSON in its metadata; read, checked, written.

A checkpoint may come from anyone. safetensors holds the sizes that a file states against the file itself and runs
nothing; what the values say is checked here, all of it before a model is built from them. A saved state of a stream
(`live.stream`) is a file of the same kind.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, model_validator
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from config import SCORE_COMPONENTS, DatasetConfig, ExperimentConfig, Measured, Name, Section, Unit, validate
from data_loader import Scaler
from detection import thresholds
from detection.comparisons import JOINED, NAMES, SHARED
from detection.detector import Detector, build_model
from detection.resolved import ResolvedConfig, resolve
from lstm_model import StackedLSTM
from utils import DataError, write_bytes

FORMAT = 4
LATER = ("shared_transient", "volume_drop")         # components that earlier checkpoints of this format do not know
OLD = "checkpoint.pt"                    # until format 2, a pickle
NOT_READ = "written by an older version of this program, whose format is no longer read; train the model again"

Positive = Annotated[float, Field(gt=0)]
Score = Annotated[float, Field(ge=-thresholds.LARGEST_SCORE, le=thresholds.LARGEST_SCORE)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


# ---- nested values in a file ----------------------------------------------------------------


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of tensors, arrays and plain values atomically; the same give the same bytes.

    Keys become strings, tuples lists; NaN and infinities stay. A tensor is named by its place, such as "a/b/0".
    """
    tensors: dict[str, np.ndarray] = {}
    plain = _without_tensors(content, "", tensors)
    metadata = json.dumps({"sha256": _sum_of(plain, tensors), "content": plain})     # one: save does not order several
    write_bytes(path, save(tensors, {"json": metadata}))


def read_tensors(path: Path, framework: Literal["pt", "np"] = "pt") -> Any:
    """Return what `write_tensors` wrote, with tensors on the CPU, or with arrays.

    Raises: ValueError in one line if the file cannot be read or is damaged.
    """
    try:
        with safe_open(path, framework, backend="pread") as file:        # mapped, it must not change meanwhile
            found, tensors = json.loads(file.metadata()["json"]), file.get_tensors()
        if found["sha256"] != _sum_of(found["content"], tensors):
            raise ValueError("its checksum is another one")
        content = _with_tensors(found["content"], "", tensors)
        if tensors:
            raise ValueError(f"no place for {next(iter(tensors))!r:.40}")
    except Exception as error:                                   # of safetensors, or of JSON of another kind
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{type(error).__name__}: {reason}") from None
    return content


def _without_tensors(value: Any, place: str, tensors: dict[str, np.ndarray]) -> Any:
    """Return nested values with None in place of each tensor, which is moved into `tensors`."""
    if isinstance(value, Mapping):
        return {str(key): _without_tensors(part, f"{place}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(part, f"{place}/{k}", tensors) for k, part in enumerate(value)]
    if isinstance(value, (Tensor, np.ndarray)):
        tensors[place[1:]] = np.asarray(value.cpu() if isinstance(value, Tensor) else value, order="C")
        return None
    return value.item() if isinstance(value, np.generic) else value


def _with_tensors(value: Any, place: str, tensors: dict[str, Any]) -> Any:
    """Return nested values with the tensors back in their places; those with none are left in `tensors`."""
    if isinstance(value, dict):
        return {key: _with_tensors(part, f"{place}/{key}", tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_tensors(part, f"{place}/{k}", tensors) for k, part in enumerate(value)]
    return tensors.pop(place[1:], None) if value is None else value


def _sum_of(plain: Any, tensors: Mapping[str, Any]) -> str:
    """Return a checksum, which safetensors does not have: a flipped bit is not to become another weight."""
    digest = hashlib.sha256(json.dumps(plain).encode())
    for name in sorted(tensors):
        digest.update(np.asarray(tensors[name]))
    return digest.hexdigest()


# ---- what a checkpoint holds ----------------------------------------------------------------


class Tail(Section):
    knots: list[float]
    scale: Positive


class Calibration(Section):
    """What `anomaly_scores.fit_calibration` returns."""

    tails: list[list[Tail | None]]
    spread: list[Positive]
    means: list[float]
    covariance: list[list[float]]
    components: dict[Literal[SCORE_COMPONENTS], list[Tail | None]]

    @model_validator(mode="after")
    def _with_later_ones(self) -> Calibration:
        """Take comparisons and components that came after this calibration for not fitted."""
        if {len(row) for row in self.tails} != {SHARED}:
            return self
        tails = [[*row, *[None] * (len(NAMES) - SHARED)] for row in self.tails]
        components = {name: [None] * len(tails) for name in LATER} | self.components
        return self.model_copy(update={"tails": tails, "components": components})


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
    hours: float | None = None
    events: Count | None = None
    low: float | None = None
    high: float | None = None


class ScalerState(Section):
    center: list[float]
    scale: list[Positive]


class Checkpoint(Section):
    """The plain values of a checkpoint, without those of training; None = not calibrated yet."""

    model_config = ConfigDict(extra="ignore")

    config: ExperimentConfig
    channels: list[Name] = Field(min_length=1)
    units: list[Unit]
    measures: list[Measured]
    rate_hz: Annotated[float, Field(gt=0, le=1e6)]
    scaler: ScalerState
    calibration: Calibration | None
    threshold: Threshold | None
    baseline_thresholds: dict[str, Threshold]
    series: bool = False
    data: dict[str, Any] = {}
    vus_buffer_steps: Annotated[int, Field(ge=0, le=1000)] | None = None


class SeriesData(Section):
    """What is read of the `data` of a series."""

    model_config = ConfigDict(extra="ignore")

    description: str = ""
    simulated: bool = False
    fault_kinds: list[Name] = []
    channels: dict[str, dict[str, Any]] = {}
    delay_s: float = 0.0
    time_column: str = "timestamp"
    time_format: str | None = None
    delimiter: str | None = None
    decimal: str | None = None


class HistoryRow(Section):
    epoch: Count
    train_loss: float
    val_loss: float
    learning_rate: float
    seconds: float


class TrainingProgress(Section):
    """Where training stands, without the best weights."""

    model_config = ConfigDict(extra="ignore")

    epoch: Count
    best_epoch: Annotated[int, Field(ge=-1, lt=2**53)]
    best_loss: float
    history: list[HistoryRow]
    finished: bool


# ---- writing and reading --------------------------------------------------------------------


def state_of(detector: Detector) -> dict[str, Any]:
    """Return the tensors and plain values from which `detector_from` makes the same detector again."""
    return {
        "format": FORMAT,
        "model": detector.model.state_dict(),
        "config": detector.config.model_dump(),
        "channels": list(detector.channels),
        "units": list(detector.units),
        "measures": list(detector.resolved.measures),
        "rate_hz": float(detector.rate_hz),
        "scaler": {"center": detector.scaler.center.tolist(), "scale": detector.scaler.scale.tolist()},
        "calibration": detector.calibration or None,
        "threshold": detector.threshold or None,
        "baseline_thresholds": detector.baseline_thresholds,
    }


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; what it holds is checked by whoever makes something of it.

    Raises: DataError naming the file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a checkpoint.safetensors")
    try:
        state = read_tensors(path)
        found = state["format"]
    except (LookupError, TypeError, ValueError) as error:
        with path.open("rb") as file:
            is_old = file.read(4) == b"PK\x03\x04"               # a zip around a pickle
        reason = NOT_READ if is_old else f"not a checkpoint of this program ({error}); cut off, damaged, or another's"
        raise DataError(f"{path.name}: {reason}") from None
    if type(found) is int and found < FORMAT:
        raise DataError(f"{path.name}: {NOT_READ}")
    if type(found) is not int or found != FORMAT:
        raise DataError(f"{path.name}: not a checkpoint of this program (format {str(found)[:9]!r}, expected {FORMAT})")
    return state


def load_calibrated(path: Path, device: str) -> tuple[dict[str, Any], Detector]:
    """Read a checkpoint whose training was finished; return its state and its detector.

    Raises: DataError naming the file.
    """
    state = load_checkpoint(path)
    detector = detector_from(state, device, path.name)
    if not detector.threshold:
        raise DataError(f"{path.name}: its training was not finished, it has no threshold; resume the run first")
    return state, detector


def detector_from(state: Mapping[str, Any], device: str, where: str = "checkpoint") -> Detector:
    """Return the detector that a checkpoint's state describes.

    Raises: DataError if something is missing or does not fit together.
    """
    facts = validate(Checkpoint, state, where)
    try:
        _check_facts(facts, where)
        resolved = resolve(facts.config, facts.channels, facts.units, facts.measures, facts.rate_hz)
        model = model_from(resolved, state["model"])
        scaler = Scaler(resolved.channels, np.array(facts.scaler.center), np.array(facts.scaler.scale))
        detector = Detector(model, scaler, resolved, device)
        given = facts.model_dump(exclude_unset=True, include={"calibration", "threshold", "baseline_thresholds"})
        if facts.calibration:
            detector.use_calibration(given["calibration"])
        if facts.threshold:
            detector.threshold, detector.baseline_thresholds = given["threshold"], given["baseline_thresholds"]
            _check_calibrated(detector)
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: not a checkpoint of this program ({type(error).__name__}: {reason})") from None
    return detector


def model_from(resolved: ResolvedConfig, weights: Any) -> StackedLSTM:
    """Return the forecaster of a config with the weights of a checkpoint.

    Raises: ValueError if the weights have other shapes or are not finite; nothing large is allocated before that.
    """
    with torch.device("meta"):
        expected = build_model(resolved).state_dict()
    check_weights(weights, expected)
    model = build_model(resolved)
    model.load_state_dict(weights)
    return model


def recorded_data(state: Mapping[str, Any], detector: Detector, where: str) -> DatasetConfig | None:
    """Return what a checkpoint says of raw recordings, of the detector's channels alone; None = it is of a series.

    Raises: DataError naming the checkpoint.
    """
    if state.get("series"):
        if "data" not in state:
            raise DataError(f"{where}: it does not say what it was trained on; it can be exported, no more")
        return None
    data = validate(DatasetConfig, state.get("data"), f"{where}: data")
    return data.model_copy(update={"channels": {name: data.channels[name] for name in detector.channels}})


# ---- checks ---------------------------------------------------------------------------------


def _check_facts(facts: Checkpoint, where: str) -> None:
    """Raise DataError or ValueError unless the parts of a checkpoint fit together."""
    channels = len(set(facts.channels))
    lengths = [len(part) for part in (facts.channels, facts.units, facts.measures, *vars(facts.scaler).values())]
    if lengths != [channels] * len(lengths):
        raise ValueError(f"channels, units, measures and scaler have {lengths} entries, {channels} different channels")
    if facts.calibration:
        _check_calibration(facts.calibration, channels)
    elif facts.threshold or facts.baseline_thresholds:
        raise ValueError("a threshold without a calibration")
    for name, threshold in {"": facts.threshold, **facts.baseline_thresholds}.items():
        if threshold:
            _check_threshold(threshold, name)
    if facts.series or "channels" not in facts.data:             # without, it can be exported, no more
        validate(SeriesData, facts.data, f"{where}: data")
        return
    dataset = validate(DatasetConfig, facts.data, f"{where}: data")
    unknown = [channel for channel in facts.channels if channel not in dataset.channels]
    if unknown or not math.isclose(dataset.rate_hz, facts.rate_hz):
        found = f"no channel {unknown[0]!r}" if unknown else f"a rate of {dataset.rate_hz:g} Hz"
        raise ValueError(f"data: {found}, but the model has {', '.join(facts.channels)} at {facts.rate_hz:g} Hz")


def _check_calibration(calibration: Calibration, channels: int) -> None:
    """Raise ValueError unless a calibration has a tail for each comparison and component of each channel."""
    widths = {len(row) for row in calibration.tails}
    if (len(calibration.tails), len(calibration.spread)) != (channels, channels) or len(widths) != 1:
        raise ValueError(f"calibration: tails and spread have to be for {channels} channels")
    joint = {"joint"} if calibration.covariance else set()
    if set(calibration.components) != {*SCORE_COMPONENTS[:-1]} | joint:
        raise ValueError(f"calibration: components are {sorted(calibration.components)}")
    for name, tails in calibration.components.items():
        if len(tails) != (1 if name == "joint" else channels):
            raise ValueError(f"calibration: {len(tails)} tails of {name}; expected one a channel, of joint one")
    every = [tail for row in (*calibration.tails, *calibration.components.values()) for tail in row if tail]
    if len({len(tail.knots) for tail in every}) > 1:
        raise ValueError("calibration: its tails have different numbers of knots")
    if any(low > high for tail in every for low, high in pairwise(tail.knots)):
        raise ValueError("calibration: the knots of a tail do not rise")
    used = sum(tail is not None for row in calibration.tails for tail in row[:JOINED])
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
        raise ValueError(f"threshold {name}: a break is outside its history of {len(threshold.history)}")


def _check_calibrated(detector: Detector) -> None:
    """Raise ValueError unless calibration and thresholds are of the detector's comparisons and baselines."""
    widths, expected = {len(row) for row in detector.calibration["tails"]}, len(NAMES)
    if widths != {expected}:
        raise ValueError(f"calibration: tails of {widths} comparisons; expected {expected}")
    names = detector.baseline_scores(np.zeros(1), np.zeros((1, len(detector.channels)))).keys()
    if detector.baseline_thresholds.keys() != names:
        raise ValueError(f"baseline_thresholds are {sorted(detector.baseline_thresholds)}; expected {sorted(names)}")


def check_weights(weights: Any, expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless weights have the names, shapes and types that a model's have, and are finite."""
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError("the weights are no tensors by name")
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise ValueError("the weights have other shapes than the config says")
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32 or not np.isfinite(tensor.cpu().numpy()).all():
            found = tensor.dtype if tensor.dtype != torch.float32 else "not finite"
            raise ValueError(f"the weights {name} are {found}; expected finite torch.float32")


def check_training(
    training: Any, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Mapping[str, Any], where: str
) -> None:
    """Check what training resumes from, before a trainer is restored from it.

    Args:
        schedule: state of a fresh learning-rate schedule.
    Raises: DataError, KeyError, TypeError, ValueError or AttributeError if it is not of this model.
    """
    _check_alike(training["schedule"], schedule, "schedule")
    progress = validate(TrainingProgress, training["progress"], f"{where}: training.progress")
    if len(progress.history) != progress.epoch or not progress.best_epoch < progress.epoch:
        raise ValueError(f"{len(progress.history)} epochs of history; expected {progress.epoch}")
    for weights in (training["model"], *([training["progress"]["best_model"]] if progress.epoch else [])):
        check_weights(weights, model.state_dict())
    _check_alike(training["optimizer"]["param_groups"], optimizer.state_dict()["param_groups"], "optimizer")
    shapes = [parameter.shape for parameter in model.parameters()]
    for place, moments in training["optimizer"]["state"].items():
        step, *means = (moments[key] for key in ("step", "exp_avg", "exp_avg_sq"))
        if [tuple(mean.shape) for mean in means] != [tuple(shapes[int(place)])] * 2 or step.numel() != 1:
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
