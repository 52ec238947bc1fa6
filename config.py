"""Typed, frozen configuration: JSON in, checked models out.

Two files, two kinds of fact: `pure_lstm_config*.json` holds what we choose (`ExperimentConfig`),
`dataset_config.json` what the data is (`DatasetConfig`). Every mistake becomes one line that names
the file, the dotted key, what was found and what would be right.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
import unicodedata
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from utils import ROOT, DataError, run_cli

EXPERIMENT_CONFIG = ROOT / "pure_lstm_config.json"
DATASET_CONFIG, SCORING_PROFILES = ROOT / "dataset_config.json", ROOT / "scoring_profiles.json"
FLAT_S = 30.0                                                        # default flatline_s of airflow and effort
MAX_WEIGHTS = 500_000_000                                            # of the LSTM: training holds four numbers each
M = TypeVar("M", bound=BaseModel)
Duration = Annotated[float, Field(le=1e9)]                           # 30 years: numbers of steps stay exact
Measured = Literal["airflow", "effort", "oximetry", "other"]
BREATHING = ("airflow", "effort")                                    # of these
SCORE_COMPONENTS = (
    "amplitude_drop", "error", "transient_error", "level", "pace", "volume_drop", "shared_transient", "joint",
)  # fmt: skip
ROW_LABELS = ("recording", "window", "t_s", "timestamp", "label")
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{k}" for port in ("COM", "LPT") for k in range(10))}
NAB = "NAB"                                                          # entry of dataset_config.json


class Section(BaseModel):
    """A JSON object: unknown keys are errors, types are not converted, values do not change."""

    model_config = ConfigDict(strict=True, defer_build=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Timed(Section):
    """A section with durations: `*_s` in seconds, or `*_rows` in rows of a series.

    The fields are called `*_s` and hold the values as written; `in_seconds` converts rows to seconds.
    """

    _in_rows: frozenset[str] = PrivateAttr(frozenset())

    @model_validator(mode="wrap")
    @classmethod
    def _accept_rows(cls, content: Any, handler: typing.Callable[[Any], Timed]) -> Timed:
        if not isinstance(content, dict):
            return handler(content)
        rows = {key: f"{key.removesuffix('_rows')}_s" for key in content if key.endswith("_rows")}
        rows = {key: name for key, name in rows.items() if name in cls.model_fields}
        twice = [key for key, name in rows.items() if name in content]
        if twice:
            raise ValueError(f"{twice[0]} and {rows[twice[0]]} are both given; expected one of them")
        section = handler({rows.get(key, key): value for key, value in content.items()})
        section._in_rows = frozenset(rows.values())
        return section

    @model_serializer(mode="wrap")
    def _as_written(self, handler: typing.Callable[[Timed], dict[str, Any]]) -> dict[str, Any]:
        content = handler(self)
        return {(rows_key(key) if key in self._in_rows else key): value for key, value in content.items()}

    def in_seconds(self, rate_hz: float) -> typing.Self:
        """Return the section with every duration in seconds, for data of so many rows a second."""
        values = {name: getattr(self, name) for name in self._in_rows}
        section = self.model_copy(update={name: value / rate_hz for name, value in values.items()})
        section._in_rows = frozenset()
        return section


def rows_key(key: str) -> str:
    """Return the name in rows of a duration in seconds."""
    return key.removesuffix("_s") + "_rows"


def _plain_name(name: str) -> str:
    if not name.isprintable() or name.strip() != name or not 0 < len(name) <= 100:
        raise ValueError("expected 1 to 100 printable characters without blanks at the ends")
    first = unicodedata.normalize("NFKC", name)[0]                   # a spreadsheet reads a full-width = as =
    if any(character in name for character in '/\\<>"') or first in ".=+-@":
        raise ValueError("expected a plain name: no path, no markup, not starting with . = + - @")
    if name.partition(".")[0].rstrip().upper() in DEVICES:
        raise ValueError("expected a plain name: this one is a device on Windows")
    return name


def _printable(text: str) -> str:
    if not text.isprintable() or len(text) > 100:
        raise ValueError("expected at most 100 printable characters")
    return text


Name = Annotated[str, AfterValidator(_plain_name)]
Unit = Annotated[str, AfterValidator(_printable)]


# ---- what we choose -------------------------------------------------------------------------


class DatasetChoice(Section):
    """Which windowed dataset an experiment uses."""

    name: Name = Field("simulated", description="entry of dataset_config.json")
    channels: list[str] | None = Field(None, min_length=1, description="channels to use, in this order; null = all")


class ModelConfig(Timed):
    """The stacked LSTM."""

    hidden_units: int = Field(128, gt=0, le=8192, description="units of each LSTM layer")
    num_layers: int = Field(3, gt=0, le=64, description="stacked LSTM layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout between LSTM layers, in training")
    horizon_s: Duration = Field(6.0, gt=0, description="how far ahead every step forecasts, seconds")
    warm_up_s: Duration = Field(10.0, ge=0, description="first seconds of a segment: not in the loss, no score yet")

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        weights = 8 * self.hidden_units**2 * self.num_layers
        if weights > MAX_WEIGHTS:
            raise ValueError(
                f"hidden_units {self.hidden_units} and num_layers {self.num_layers} make about {weights:,} weights; "
                f"expected at most {MAX_WEIGHTS:,}"
            )
        return self


class TrainingConfig(Timed):
    """How the model is fitted."""

    epochs: int = Field(24, gt=0, description="maximum number of epochs")
    updates_per_epoch: int = Field(60, gt=0, description="weight updates in one epoch")
    learning_rate: float = Field(0.001, gt=0, le=1, description="Adam's initial step size")
    batch_size: int = Field(32, gt=0, le=65536, description="windows in one update")
    patience: int = Field(15, gt=0, description="training stops after so many epochs without a better validation loss")
    window_s: Duration = Field(50.0, gt=0, description="length of a training window, seconds")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    schedule: Literal["cosine", "plateau"] = Field(
        "cosine", description="learning rate: down to zero over all epochs, or reduced when the loss stalls"
    )
    lr_factor: float = Field(0.5, gt=0, le=1, description="plateau: factor of a reduction of the learning rate")
    lr_patience: int = Field(4, ge=0, description="plateau: epochs without a better loss before a reduction")
    channel_dropout: float = Field(0.15, ge=0, lt=1, description="probability of hiding a channel in a training window")
    bf16: bool = Field(False, description="bfloat16 autocast, on CUDA only")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of weights, batches and dropout")
    plot_every: int = Field(10, ge=0, description="epochs between progress plots; 0 = none")


class ScoreConfig(Timed):
    """How forecast and observation become one score a step; see detection/anomaly_scores.py."""

    amplitude_s: Duration = Field(9.2, gt=0, description="trailing span of amplitude_drop: its range is compared")
    expected_s: Duration = Field(
        60.0, gt=0, description="the expected range is the median of the forecasts' over this span before the compared"
    )
    baseline_s: Duration = Field(
        180.0, gt=0, description="trailing span of the medians that are subtracted from what is relative to them"
    )
    error_s: Duration = Field(1.0, gt=0, description="trailing span of the error over all leads")
    near_s: Duration = Field(0.2, gt=0, description="largest lead that counts for transient_error")
    transient_s: Duration = Field(0.6, gt=0, description="trailing span of the error of the near leads")
    level_s: Duration = Field(15.0, gt=0, description="trailing span of the mean that counts as the level")
    settle_s: Duration = Field(3.0, gt=0, description="forecasts are not used for so long after a missing value")
    weights: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {
            "amplitude_drop:airflow": 1.0, "amplitude_drop:effort": 0.01, "error:airflow": 0.001, "error:effort": 0.001,
            "transient_error:airflow": 0.03, "transient_error:effort": 0.03, "joint": 0.01,
        },
        min_length=1,
        description="weight of a component (see detection/anomaly_scores.py), or of it on "
        "channels that measure airflow, effort (effort_alone: of belts where no channel measures airflow) or other; "
        "0.01 asks for a hundred times rarer evidence, 0 leaves it out",
    )  # fmt: skip
    calibrate_on: list[Literal["train", "val"]] = Field(
        ["train", "val"], min_length=1, description="splits of normal data that scores and threshold are calibrated on"
    )

    @model_validator(mode="after")
    def _check(self) -> ScoreConfig:
        measures = (*typing.get_args(Measured), "effort_alone")
        known = [*SCORE_COMPONENTS, *(f"{c}:{m}" for c in SCORE_COMPONENTS[:-1] for m in measures)]
        for key in self.weights:
            if key not in known:
                raise ValueError(f"weights: {key!r} is not a component{_nearest(key, known)}")
        if not any(self.weights.values()):
            raise ValueError("weights: all are 0; expected at least one above 0")
        return self


class QuantileParameters(Section):
    q: float = Field(0.9995, gt=0, le=1, description="quantile: which one of the calibration scores")


class GaussianParameters(Section):
    k: float = Field(3.0, ge=0, le=1e100, description="gaussian: standard deviations above the mean")


class PotParameters(Section):
    level: float = Field(0.98, gt=0, lt=1, description="pot: quantile of the calibration scores above which are peaks")
    risk: float = Field(1e-4, gt=0, lt=1, description="pot: share of normal steps above the threshold")
    min_peaks: int = Field(10, ge=5, description="pot: distinct peaks that a fit needs")
    online: bool = Field(False, description="pot: fit again as normal peaks come in")
    max_peaks: int = Field(2000, ge=20, description="pot: peaks kept for that, half of them from calibration")

    @model_validator(mode="after")
    def _check(self) -> PotParameters:
        if self.risk + self.level >= 1:
            raise ValueError(
                f"risk is {self.risk:g}; expected less than 1 - level = {1 - self.level:g}, since the tail only "
                "describes scores above that level"
            )
        return self


class DynamicParameters(Section):
    history: int = Field(2100, ge=10, description="dynamic: normal steps that the threshold is computed from")
    block: int = Field(70, ge=1, description="dynamic: normal steps from one threshold to the next")
    z_min: float = Field(2.0, gt=0, le=100, description="dynamic: lowest candidate, standard deviations above the mean")
    z_max: float = Field(10.0, gt=0, le=100, description="dynamic: highest candidate")
    prune: float = Field(0.13, ge=0, lt=1, description="dynamic: share by which an anomaly exceeds normal scores")

    @model_validator(mode="after")
    def _check(self) -> DynamicParameters:
        if self.z_min > self.z_max:
            raise ValueError(f"z_min is {self.z_min:g}; expected at most z_max = {self.z_max:g}")
        return self


class EventRateParameters(Section):
    rate: float = Field(0.5, gt=0, le=1000, description="false_events_per_hour: events an hour on normal data")


THRESHOLD_METHODS = {
    "false_events_per_hour": EventRateParameters, "quantile": QuantileParameters, "gaussian": GaussianParameters,
    "pot": PotParameters, "dynamic": DynamicParameters,
}  # fmt: skip


def check_parameters(method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return all parameters of a threshold method, defaults filled in.

    Raises: ValueError with the value found and what would be right.
    """
    if method not in THRESHOLD_METHODS:
        raise ValueError(f"threshold method {method!r} is unknown{_nearest(method, THRESHOLD_METHODS)}")
    try:
        return validate(THRESHOLD_METHODS[method], parameters, f"method {method!r}").model_dump()
    except DataError as error:
        raise ValueError(str(error)) from None


class ThresholdConfig(Section):
    """How the alarm threshold is fitted on calibration scores; see detection/thresholds.py."""

    method: Literal["false_events_per_hour", "quantile", "gaussian", "pot", "dynamic"] = Field(
        "false_events_per_hour", description="threshold method"
    )
    parameters: dict[str, float | int | bool] = Field(
        {}, description="parameters of the method, below; missing ones have their defaults"
    )

    @field_validator("parameters")
    @classmethod
    def _check(cls, parameters: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "method" in info.data:                                    # else it is the first mistake
            check_parameters(info.data["method"], parameters)
        return parameters


class EventConfig(Timed):
    """How alarms become events."""

    merge_gap_s: Duration = Field(2.0, ge=0, description="alarms closer than this are one event")
    min_duration_s: Duration = Field(0.0, ge=0, description="shorter events are dropped")
    fault_min_s: Duration = Field(2.0, ge=0, description="shorter runs of missing values are not faults")
    tolerance_s: Duration = Field(5.0, ge=0, description="a labelled event may be found this long after its end")
    profile: str = Field("aasm_1a", description="how respiratory events are scored, of scoring_profiles.json")


class ScoringProfile(Section):
    """How respiratory events are scored, an entry of `scoring_profiles.json`."""

    description: str = Field(description="whose rules these are")
    apnea_reduction: float = Field(gt=0, lt=1, description="share of the expected range that is missing in an apnea")
    hypopnea_reduction: float = Field(gt=0, lt=1, description="and in a hypopnea that a desaturation follows")
    desaturation_points: float | None = Field(gt=0, description="points of saturation; null = none is asked for")
    flow_only_reduction: float = Field(gt=0, lt=1, description="and in a hypopnea where nothing measures saturation")
    flow_alone_counts: bool = Field(False, description="whether that is enough also where saturation is measured")
    min_duration_s: float = Field(gt=0, description="shorter ones are rejected")
    effort_share: float = Field(gt=0, description="of a belt's expected range, from which on there is effort")


class ExperimentConfig(Section):
    """One experiment, `pure_lstm_config*.json`."""

    dataset: DatasetChoice = DatasetChoice()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    score: ScoreConfig = ScoreConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    events: EventConfig = EventConfig()
    grid: dict[str, list[Any]] = Field({}, description="dotted key -> values, for grid_search.py")

    def in_seconds(self, rate_hz: float) -> ExperimentConfig:
        """Return the config with every duration in seconds, for data of so many rows a second."""
        timed = {name: section.in_seconds(rate_hz) for name, section in self if isinstance(section, Timed)}
        return self.model_copy(update=timed)


# ---- what the data is -----------------------------------------------------------------------


class ChannelConfig(Section):
    """One channel of a raw recording."""

    unit: Unit = Field(description="physical unit, as printed on plots")
    measures: Measured = Field(
        "other",
        description="airflow, effort (a belt), oximetry (SpO2 in %: desaturations are found by rule) or other; airflow "
        "left undeclared is warned of",
    )
    source: str | None = Field(None, min_length=1, description="column or signal in the raw file; null = its own name")
    source_unit: Unit | None = Field(None, description="its unit in the raw file; null = what the file says, or `unit`")
    rate_hz: float = Field(gt=0, le=1e5, description="its own sampling rate")
    low_pass_hz: float | None = Field(None, gt=0, description="cut-off frequency before resampling")
    sentinels: list[float] = Field(
        [], description="values that mean 'no measurement'; a value that repeats far from all others is noted"
    )
    flatline_s: Duration | None = Field(
        None, gt=0,
        description="the same value for longer than this means a dead sensor; null = 30 s of airflow or effort, "
        "no limit for others",
    )  # fmt: skip

    @property
    def longest_flat_s(self) -> float | None:
        """How long one value may last; None = without limit.

        A breathing sensor that froze would alarm permanently, and hide the other channels' alarms. No breath is held
        with the same last digit for FLAT_S, and a breathing pause within it is scored before.
        """
        return FLAT_S if self.flatline_s is None and self.measures in BREATHING else self.flatline_s


class SplitConfig(Section):
    """Which recordings train, calibrate and test; fractions are cut from the end of `train`."""

    train: list[Name] = Field(min_length=1, description="recordings to learn from")
    val: list[Name] = Field([], description="recordings to calibrate on")
    test: list[Name] = Field([], description="recordings to test on")
    val_fraction: float = Field(0.0, ge=0, lt=1, description="share of each train recording")
    test_fraction: float = Field(0.0, ge=0, lt=1, description="last share of each train recording")

    @property
    def names(self) -> list[str]:
        """All recordings: training, calibration, test."""
        return [*self.train, *self.val, *self.test]

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"recording {twice[0]!r} is listed more than once")
        if not self.val and self.val_fraction == 0:
            raise ValueError("no calibration data: name recordings in val or set val_fraction > 0")
        if not self.test and self.test_fraction == 0:
            raise ValueError("no test data: name recordings in test or set test_fraction > 0")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction leave nothing to train on; expected less than 1")
        return self


class KnownEvent(Section):
    """A labelled event written into dataset_config.json itself."""

    start_s: Duration = Field(description="seconds from the start of the recording")
    end_s: float
    label: str


class DatasetConfig(Section):
    """One respiratory dataset, an entry of `dataset_config.json`."""

    description: str = Field(description="what the recordings are, one sentence")
    simulated: bool = Field(False, description="whether it is simulated; everything made from it then says so")
    raw_dir: str = Field(description="folder of the raw recordings, or a card, relative to dataset_config.json")
    raw_hint: str = Field(description="what to put there, or the command that makes it")
    file_pattern: str = Field("{name}.csv", description="file of a recording; {name} is replaced")
    time_column: str = Field("t_s", description="CSV: seconds from the start, or timestamps")
    time_format: str | None = Field(
        None, min_length=1, description="CSV: format of timestamps for strptime, such as %d.%m.%Y %H:%M:%S,%f"
    )
    time_unit: str | None = Field(
        None, description="CSV: unit of times that are numbers: s, ms, us, ns, min, h, d or 1/256 s; null = detect it"
    )
    time_zone: str | None = Field(
        None,
        description="CSV: zone of clock times, such as Europe/Berlin, in which they pass changes of the clock; "
        "UTC = there are none",
    )
    row_rate_hz: float | None = Field(None, gt=0, le=1e4, description="CSV without a time column: rows a second")
    delimiter: Literal[",", ";", "\t", "|", " "] | None = Field(
        None, description="CSV: between two cells, a blank for any number of them; null = detect it"
    )
    decimal: Literal[".", ","] | None = Field(None, description="CSV: the decimal sign; null = detect it")
    skip_rows: int | None = Field(None, ge=0, le=150, description="CSV: lines before the header; null = detect it")
    comment: str | None = Field(
        None, min_length=1, max_length=1, description="CSV: sign after which the rest of a line is not read"
    )
    names: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None, min_length=1, description="CSV: names of the columns, where the file has no header, or instead of it"
    )
    encoding: str | None = Field(
        None, description="CSV: encoding of its letters, such as cp932 or gb18030; null = detect it"
    )
    missing: list[str] = Field([], description="CSV: words that mean 'no value', besides usual ones such as -- and n/a")
    annotators: list[Name] | None = Field(
        None, description="WFDB: suffixes of the annotation files; null = those of the known ones that exist"
    )
    annotation_s: Duration = Field(
        0.0, ge=0, description="EDF, WFDB, cards, events files: how long an annotation without a duration lasts"
    )
    channels: dict[Name, ChannelConfig] = Field(min_length=1, description="name -> channel")
    rate_hz: float = Field(gt=0, le=1e4, description="of the common grid")
    delay_s: Duration = Field(0.8, ge=0, le=60, description="delay of the causal filters, charged to the score")
    fill_s: Duration = Field(0.5, ge=0, description="gaps up to this long are filled with the last value")
    window_s: Duration = Field(60.0, gt=0, description="length of a window in the CSVs")
    guard_s: Duration = Field(30.0, ge=0, description="cut from training before another split begins")
    normal_margin_s: Duration = Field(30.0, ge=0, description="distance of normal data from a known anomaly")
    split: SplitConfig = Field(description="which recordings train, calibrate and test")
    labels: dict[str, Name] = Field(
        {}, description="raw label -> kind; an annotation of an EDF or WFDB that is not in here is no event"
    )
    early_onset_s: dict[Name, Annotated[Duration, Field(ge=0)]] = Field(
        {}, description="kind -> how long before its labelled start it may begin, where devices store only the end"
    )
    event_columns: dict[Literal["start", "end", "duration", "label"], str] = Field(
        {}, description="events files: what their columns are called, where that is not one of the usual names"
    )
    fault_kinds: list[Name] = Field([], description="kinds that mean missing signal, looked for as signal_loss")
    events: dict[Name, list[KnownEvent]] = Field(
        {}, description="known anomalies of recordings without an events file: name -> [{start_s, end_s, label}, ...]"
    )

    @field_validator("time_unit")
    @classmethod
    def _check_unit(cls, unit: str | None) -> str | None:
        if unit is not None and not re.fullmatch(r"s|ms|us|ns|min|h|d|1/[1-9]\d* ?s", unit):
            raise ValueError(f"time_unit is {_shown(unit)}; expected s, ms, us, ns, min, h, d or such as 1/256 s")
        return unit

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str | None) -> str | None:
        try:
            "".encode(encoding or "utf-8")
        except LookupError:
            raise ValueError(f"encoding is {_shown(encoding)}; expected such as cp932 or gb18030") from None
        return encoding

    @field_validator("time_zone")
    @classmethod
    def _check_zone(cls, zone: str | None) -> str | None:
        if zone is not None:
            try:
                zoneinfo.ZoneInfo(zone)
            except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
                raise ValueError(f"time_zone is {_shown(zone)}; expected a name such as Europe/Berlin or UTC") from None
        return zone

    @model_validator(mode="after")
    def _check(self) -> DatasetConfig:
        if "{name}" not in self.file_pattern:
            raise ValueError(f"file_pattern is {_shown(self.file_pattern)}; expected {{name}} in it")
        for name in self.channels:
            if name in ROW_LABELS or name.startswith("valid_"):
                raise ValueError(f"channel name {name!r} is reserved by the window format; expected another")
        for name, channel in self.channels.items():
            if channel.low_pass_hz and channel.low_pass_hz >= channel.rate_hz / 2:
                raise ValueError(
                    f"channels.{name}.low_pass_hz is {channel.low_pass_hz:g}; expected less than "
                    f"half of its rate, {channel.rate_hz / 2:g}"
                )
        unknown = [name for name in self.events if name not in self.split.names]
        if unknown:
            raise ValueError(f"events: {unknown[0]!r} is in no split{_nearest(unknown[0], self.split.names)}")
        kinds = list(self.labels.values())
        for key in ("early_onset_s", "fault_kinds"):
            for kind in getattr(self, key):
                if kind not in kinds:
                    raise ValueError(f"{key}: no label maps to {kind!r}{_nearest(kind, kinds)}")
        return self


class NabConfig(Section):
    """The Numenta Anomaly Benchmark, the entry `NAB` of `dataset_config.json`: what its labels do not say."""

    description: str = Field(description="what the series are, one sentence")
    val_fraction: float = Field(gt=0, lt=1, description="share of the normal rows, their end, to calibrate on")
    normal_share: float = Field(
        gt=0, lt=1, description="normal rows end at the first label window, or at this share of the series"
    )
    normal_rows: dict[Name, Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]] = Field(
        {}, description="series -> [first row, row after the last] of its normal rows, where another study fixed them"
    )
    guard_rows: int = Field(ge=0, description="cut from training before another split; at most a tenth of the rows")
    gap_rows: int = Field(gt=0, description="no window of training or calibration crosses a longer gap")
    window_rows: int = Field(gt=0, description="length of a window in the CSVs")
    units: dict[Name, Unit] = Field({}, description="series -> unit; others have none")

    @model_validator(mode="after")
    def _check(self) -> NabConfig:
        for name, (first, end) in self.normal_rows.items():
            if first >= end:
                raise ValueError(f"normal_rows.{name} is [{first}, {end}]; expected the first row before the end")
        return self


# ---- reading --------------------------------------------------------------------------------


def load_profile(name: str) -> ScoringProfile:
    """Return an entry of `scoring_profiles.json`; DataError naming those that there are."""
    profiles = read_json(SCORING_PROFILES)
    if name not in profiles:
        raise DataError(f"events.profile is {name!r}; {SCORING_PROFILES.name} has {', '.join(profiles)}")
    return validate(ScoringProfile, profiles[name], f"{SCORING_PROFILES.name}: {name}")


def load_experiment(path: Path, overrides: typing.Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment config and apply `a.b=value` overrides (values as JSON, else text)."""
    content = read_json(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise DataError(f"--set {override}: expected KEY=VALUE, such as training.epochs=3")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        set_dotted(content, key, value, f"--set {override}")
    return validate(ExperimentConfig, content, path.name)


def load_dataset_config(path: Path, name: str) -> DatasetConfig:
    """Read one entry of dataset_config.json; the entry's name is checked first."""
    names = dataset_names(path)
    if name not in names:
        raise DataError(f"{path.name}: no dataset {name!r}{_nearest(name, names)}")
    check_name(name, f"{path.name}: dataset")
    return validate(DatasetConfig, read_json(path)[name], f"{path.name}: {name}")


def load_nab(path: Path) -> NabConfig:
    """Read the entry NAB of dataset_config.json."""
    content = read_json(path)
    if NAB not in content:
        raise DataError(f"{path.name}: no entry {NAB!r}")
    return validate(NabConfig, content[NAB], f"{path.name}: {NAB}")


def dataset_names(path: Path) -> list[str]:
    """Return the names of all respiratory datasets in dataset_config.json."""
    return [name for name in read_json(path) if name != NAB and not name.startswith("_")]


def read_json(path: Path, if_absent: str = "") -> dict[str, Any]:
    """Read a JSON object.

    Raises: DataError for no file (with the advice `if_absent`) and for what is no such object; for duplicate
    keys, NaN and infinities too, which `json` alone would accept.
    """

    def reject(word: str) -> None:
        raise DataError(f"{path.name}: {word} is not a JSON number; write null or a number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise DataError(f"{path.name}: key {key!r} is given twice in one object")
        return dict(pairs)

    try:
        text = path.read_text(encoding="utf-8-sig")                  # Notepad begins a file with a mark
        content = json.loads(text, parse_constant=reject, object_pairs_hook=unique)
    except FileNotFoundError:
        raise DataError(f"{path.name}: no such file{if_absent and '; ' + if_absent}") from None
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror}); expected a JSON file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path.name}: not UTF-8 text; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path.name}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{path.name}: nested too deeply") from None
    except ValueError:
        raise DataError(f"{path.name}: not JSON: an integer of thousands of digits") from None
    if not isinstance(content, dict):
        raise DataError(f"{path.name}: expected a JSON object, found {_shown(content)}")
    return content


def set_dotted(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set `content['a']['b'] = value` for the key 'a.b', making objects on the way."""
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise DataError(f"{where}: {parent!r} holds a value, not a section")
    for alias in (rows_key(last), f"{last.removesuffix('_rows')}_s"):
        content.pop(alias, None)                                     # of a duration, one spelling at a time
    content[last] = value


def validate(model: type[M], content: Any, where: str) -> M:
    """Return `content` as a `model`, or raise DataError with one line on its first mistake."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{where}: {' '.join(_explain(error, model, content).split())}") from None


def check_name(name: str, where: str) -> None:
    """Raise DataError unless a name is plain: fit for a file's name, a cell of a CSV and a line on a terminal."""
    try:
        _plain_name(name)
    except ValueError as error:
        raise DataError(f"{where} {_shown(name)}: {error}") from None


def _explain(error: ValidationError, model: type[BaseModel], content: Any) -> str:
    """Return pydantic's first error as `dotted.key: what was found; what would be right`.

    Its own text takes several lines, names Python's types and suggests no key.
    """
    first = error.errors()[0]
    location, message = list(first["loc"]), first["msg"]
    if first["type"] == "missing":
        return f"{'.'.join(map(str, location))}: missing; it is required"
    key = _key_in(content, location)
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(str(location[-1]), _fields_at(model, location[:-1]))}"
    message = message.removeprefix("Value error, ")
    found = f"{key} is {_shown(first['input'])}" if key else f"found {_shown(first['input'])}"
    if first["type"] == "value_error":
        place = found if message.startswith("expected") else key
        return f"{place}; {message}" if place == found else f"{place}: {message}" if key else message
    alike = [entry["msg"] for entry in error.errors() if _key_in(content, entry["loc"]) == key]
    return f"{found}; expected {' or '.join(dict.fromkeys(_expected(entry) for entry in alike))}"


def _key_in(content: Any, location: typing.Iterable[int | str]) -> str:
    """Return pydantic's location as a dotted key, as far as it leads into `content` itself."""
    parts = []
    for part in location:
        if isinstance(content, dict) and part not in content and rows_key(str(part)) in content:
            part = rows_key(str(part))
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            break
        parts.append(str(part))
    return ".".join(parts)


def _expected(message: str) -> str:
    """Return what pydantic expected, in the terms of JSON."""
    text = re.sub(r"^(Input should be|(List|Dictionary|String) should have) ", "", message)
    text = re.sub(r"a valid dictionary.*", "an object", text)
    text = re.sub(r" after validation.*", "", text)
    return text.replace("a valid integer", "an integer").replace("a valid ", "a ")


def _fields_at(model: Any, location: list[Any]) -> list[str]:
    """Return the field names of the section that `location` leads to."""
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is not None:
            model = field.annotation
        if typing.get_origin(model) in (dict, list):
            model = typing.get_args(model)[-1]
        if isinstance(model, types.UnionType):
            model = typing.get_args(model)[0]
    return list(getattr(model, "model_fields", {}))


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; expected one of {', '.join(known)}" if known else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- docs/configuration.md ------------------------------------------------------------------

REFERENCE = """# Configuration

This page lists every key of experiments and of datasets, its default and its meaning. It is the output of
`python config.py`.

## Experiments: `pure_lstm_config*.json`

Durations are in seconds; a key that ends in `_s` may be given in rows instead, as `_rows`. `--set training.epochs=3`
overrides a key for one run.

| key | default | meaning |
|---|---|---|
{experiment}

## Datasets: entries of `dataset_config.json`

[formats.md](formats.md#the-entry-in-dataset_configjson) has an example.

| key | default | meaning |
|---|---|---|
{dataset}
"""


def reference(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the table rows of all keys: name, default, meaning."""
    rows = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.default, Section):
            rows += reference(type(field.default), f"{key}.")
            continue
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        rows.append(f"| `{key}` | {default} | {field.description} |")
        if name == "parameters":
            rows += [row for method in THRESHOLD_METHODS.values() for row in reference(method, f"{key}.")]
        elif field.annotation is SplitConfig:
            rows += reference(SplitConfig, f"{key}.")
        elif ChannelConfig in typing.get_args(field.annotation):
            rows += reference(ChannelConfig, f"{key}.NAME.")
    return rows


def main() -> int:
    tables = {"experiment": ExperimentConfig, "dataset": DatasetConfig}
    print(REFERENCE.format(**{name: "\n".join(reference(model)) for name, model in tables.items()}), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_cli(main))
