"""The schema of `metrics.json`, in one place: what is measured of a run, and of each of its detectors.

Numbers that have no meaning (recall without a label, ...) are NaN here and null in the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from config import EventConfig, Section, read_json, validate
from utils import write_json

LSTM, UNTRAINED, RANDOM = "LSTM", "untrained LSTM", "random scores"
Number = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(lambda x: math.nan if x is None else x)]


class RangeMeasures(Section):
    """Precision, recall and F1, 0..1."""

    precision: Number
    recall: Number
    f1: Number


class PointMeasures(RangeMeasures):
    """Of single steps, with their counts."""

    true_alarms: int
    false_alarms: int
    missed_steps: int


class EventMeasures(RangeMeasures):
    """Of events: a found one is true if it overlaps a labelled one; recall is of those that are not faults."""

    false_events_per_hour: Number               # of time outside labelled events
    false_events: int
    found_events: int
    labelled_events: int
    matched_events: int                         # labelled ones that a found one counts for
    normal_hours: float
    delay_median_s: Number


class KindMeasures(Section):
    """Of the labelled events of one kind; a fault kind counts as found where signal is lost."""

    labelled: int
    found: int
    recall: float
    delay_median_s: Number


class AreaMeasures(Section):
    """Areas and volumes over all thresholds, 0..1."""

    auc_roc: Number
    auc_pr: Number
    vus_roc: Number
    vus_pr: Number


class FreeResponse(Section):
    """Recall against false events an hour, one entry a rate; the thresholds are read off the test span itself."""

    false_events_per_hour: list[float]          # at most so many
    threshold: list[Number]                     # null: none finds anything at so few
    recall: list[Number]                        # of all labelled events that are not faults
    kinds: dict[str, list[float]]               # kind -> recall

    def at(self, rates: Sequence[float]) -> FreeResponse:
        """Return the points at some of its rates."""
        places = [self.false_events_per_hour.index(rate) for rate in rates]
        picked = {name: [getattr(self, name)[k] for k in places] for name in ("threshold", "recall")}
        kinds = {kind: [recall[k] for k in places] for kind, recall in self.kinds.items()}
        return FreeResponse(false_events_per_hour=list(rates), **picked, kinds=kinds)


class DetectorMetrics(Section):
    """One detector on the test recordings, at its threshold from calibration data unless a name says otherwise."""

    events: EventMeasures
    kinds: dict[str, KindMeasures]
    point: PointMeasures
    range: RangeMeasures
    affiliation: RangeMeasures
    threshold_free: AreaMeasures
    oracle_point_f1: Number                     # the best F1 of steps, its threshold read off the test labels
    free_response: FreeResponse | None = None   # of recordings
    free_response_curve: FreeResponse | None = None     # the same at more rates, as drawn
    nab: dict[str, Number] | None = None        # of a series: profile -> NAB score, 100 = perfect


class FaultMeasures(Section):
    """Lost signal: how many times, how often where a fault is labelled, and the labelled faults."""

    reported: int
    overlap_a_label: int
    labelled: int


class ThresholdFacts(Section):
    """The threshold of the LSTM's score, as it was fitted on calibration data."""

    method: str
    parameters: dict[str, float | int | bool | str]
    value: float
    low: float | None = None                    # of `false_events_per_hour`: the rate lies between these with 90 %,
    high: float | None = None                   # if recordings are like those of calibration


class ForecastLosses(Section):
    """The best validation loss beside those of two forecasts that learn nothing."""

    lstm: float
    best_epoch: int
    last_value: float
    mean: float


class CalibrationEvents(Section):
    """The events that the threshold leaves on the normal data it was fitted on."""

    events: int
    hours: float
    events_per_hour: float


class FoundCounts(Section):
    """What was found in recordings that are scored with a trained model, labelled or not."""

    recordings: int
    labelled_recordings: int
    hours: float
    events: int
    faults: int


class NightSummary(Section):
    """One recording in numbers; indices are an hour of measured breathing, or of oximetry where they need it."""

    recording: str
    hours: float                         # from the first step to the last
    breathing_hours: float               # in which a channel of breathing has a value
    oximetry_hours: float
    lost_percent: Number                 # of the recording: no channel of breathing has a value
    apneas: int
    hypopneas: int
    ahi: Number                          # apneas and hypopneas: an REI, as it is not an hour of sleep
    ahi_low: Number                      # its 95 % interval, for the chance in so many events; not for the rules
    ahi_high: Number
    central_index: Number
    obstructive_index: Number
    mixed_index: Number
    unclassified_index: Number
    hypopnea_index: Number
    longest_event_s: Number
    periodic_percent: Number             # of the measured breathing
    breaths_per_min: Number              # median
    odi3: Number                         # desaturations of at least 3 points
    odi4: Number
    t90_percent: Number                  # of the oximetry below 90 %
    mean_saturation: Number
    lowest_saturation: Number
    hypoxic_burden: Number               # %min an hour
    sleep_hours: Number = math.nan       # scored by somebody, within the recording; NaN = no stages
    sleep_ahi: Number = math.nan         # apneas and hypopneas an hour of sleep with measured breathing
    rem_ahi: Number = math.nan
    nrem_ahi: Number = math.nan


class NightAgreement(Section):
    """Respiratory events of one labelled recording, an hour of measured breathing; pairs of the least IoU."""

    recording: str
    hours: float
    labelled: int
    found: int
    paired: int
    labelled_ahi: Number
    found_ahi: Number
    f1: Number


class Estimate(Section):
    """A number over nights, and its 95 % interval by drawing nights."""

    value: Number
    low: Number
    high: Number


class Agreement(Section):
    """How the nights' events agree with their labels; of AHI, events an hour, unless said otherwise."""

    nights: list[NightAgreement]
    bias: Estimate
    mae: Estimate                               # mean absolute error
    limits: list[Number]                        # of agreement, lower and upper: bias -/+ 1.96 standard deviations
    icc: Estimate                               # ICC(2,1)
    f1: Estimate                                # of events, at the least IoU


class RespiratoryMeasures(Section):
    """Respiratory events against labelled ones, in one-to-one pairs of at least so much overlap (IoU).

    Errors are found minus labelled; onset and duration are medians over the pairs of the least IoU.
    """

    profile: str                                # of scoring_profiles.json
    labelled: int
    found: int
    paired: dict[str, int]                      # least IoU -> pairs
    f1: dict[str, Number]                       # least IoU -> F1
    onset_error_s: Number
    duration_error_s: Number
    kinds: dict[str, dict[str, int]]            # labelled kind -> found kind -> pairs; "" = not found
    ahi_bias: Number                            # events an hour, mean over recordings
    ahi_mae: Number                             # mean absolute error
    agreement: Agreement | None = None          # of several nights


class RunMetrics(Section):
    """`metrics.json`. Without a labelled event in scored recordings, nothing is measured of detectors."""

    dataset: str
    simulated: bool
    channels: list[str]
    seed: int
    rate_hz: float
    fault_kinds: list[str]
    threshold: ThresholdFacts
    events: EventConfig                         # in seconds
    vus_buffer_steps: int | None = None         # null: an older checkpoint does not say
    detectors: dict[str, DetectorMetrics]
    faults: FaultMeasures
    forecast: ForecastLosses | None = None      # these two of a run that trains
    calibration: CalibrationEvents | None = None
    found: FoundCounts | None = None            # of scored recordings
    respiratory: RespiratoryMeasures | None = None      # of labelled recordings of breathing
    nights: list[NightSummary] | None = None    # one a recording of breathing
    cuda_peak_bytes: int | None = None

    @property
    def is_series(self) -> bool:
        return any(one.nab is not None for one in self.detectors.values())


def write_metrics(path: Path, metrics: RunMetrics) -> None:
    """Write `metrics.json`, without what does not apply."""
    write_json(path, metrics.model_dump(exclude_none=True))


def read_metrics(path: Path) -> RunMetrics:
    """Read `metrics.json`; DataError naming the file and what is wrong in it."""
    return validate(RunMetrics, read_json(path), str(path))


def over_seeds(results: Sequence[RunMetrics]) -> dict[str, Any]:
    """Return mean, std and values over the seeds of each number of detectors and forecast, nested as they are."""
    return _spread([one.model_dump(include={"detectors", "forecast"}, exclude_none=True) for one in results])


def _spread(values: Sequence[Any]) -> dict[str, Any]:
    if isinstance(values[0], Mapping):
        return {key: _spread([value[key] for value in values]) for key in values[0]}
    return {"mean": np.mean(values, axis=0).tolist(), "std": np.std(values, axis=0).tolist(), "values": list(values)}
