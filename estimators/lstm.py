"""The detector as a library, with the verbs of the field.

    from estimators.lstm import LSTMDetector

    detector = LSTMDetector(rate_hz=5.0, channels={"flow": "airflow", "thorax": "effort"})
    detector.fit(normal_nights)                      # arrays (T, 2), or DataFrames
    steps = detector.score(night)                    # a row a step: score, threshold, alarm, channel, component
    events = detector.events(night)                  # a row an event, as in events.csv
    live = detector.stream()
    steps = live.update(rows)                        # as they are measured
    detector.save("model.safetensors")               # also for --score, stream_detect.py and export_model.py
    detector = LSTMDetector.load("models/cpap_flow.safetensors")

It is the code of the main script: on the same data it gives the same weights, scores and events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import SCORE_COMPONENTS, DatasetConfig
from detection.checkpoint import load_calibrated, recorded_data
from detection.detector import Detector, DetectorStream, Scored
from detection.resolved import resolve
from estimators.inputs import (
    TIME,
    Values,
    check_columns,
    dataset_config,
    dataset_of,
    divided,
    experiment_config,
    listed,
    names_in,
    raw_recording,
    runs,
    values_of,
)
from evaluation.nights import ScoredNight
from evaluation.results import LSTM
from experiment import Experiment, Fitted, calibrate, new_training, prepare
from recordings.preprocessing import on_grid
from recordings.windowing import Segment, segments_where
from reports.events import event_rows
from reports.findings import Findings, RandomScores, recordings_as_seen
from reports.nights import nights_of
from reports.run_folder import EVENTS
from utils import DataError, resolve_device


class LSTMDetector:
    """Find what a stacked LSTM, trained on normal data, does not expect.

    Parameters
    ----------
    rate_hz : float
        Steps a second. Where nothing breathes every row is a step, whatever its time, and 1.0 will do.
    channels : mapping of str to str, or None
        Name -> what it measures: "airflow", "effort", "oximetry" or "other". None: the columns of the first recording,
        or x0, x1, ... of an array, all "other".
    config : mapping of str to value, or None
        Keys of docs/configuration.md, such as {"training.epochs": 8, "threshold.parameters": {"rate": 1.0}}. The others
        are as in pure_lstm_config.json where something breathes, else as in pure_lstm_config_NAB_fast.json.
    device : {"auto", "cpu", "cuda"}
        Where the LSTM runs.

    Attributes
    ----------
    detector : detection.detector.Detector
        Model, scaler, calibration and threshold; after `fit` or `load`.
    data : config.DatasetConfig or None
        How raw recordings are read and resampled; None where every row is a step.

    Notes
    -----
    A recording is an array (T, C), a row a step, or a DataFrame with the channels among its columns; NaN = missing. A
    DataFrame with a column `t_s`, times in s, is raw where something breathes: it is resampled as a file is, with any
    rate, and its steps are those of the grid. Score 3 means: at least as strange as one in a thousand steps of the
    calibration data, in one channel and one respect. docs/method.md has the formulas.

    References
    ----------
    Malhotra et al., "Long short term memory networks for anomaly detection in time series", ESANN 2015 (forecast errors
    of a stacked LSTM that was trained on normal data).
    """

    def __init__(
        self, rate_hz: float = 1.0, channels: Mapping[str, str] | None = None, config: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:  # fmt: skip
        self.rate_hz, self.channels, self.config, self.device = rate_hz, channels, config, device
        self.detector: Detector | None = None
        self.data: DatasetConfig | None = None                  # of raw recordings; None = every row is a step
        self._training: tuple[Experiment, Fitted] | None = None  # None = loaded

    # ---- fit, save, load --------------------------------------------------------------------

    def fit(
        self, recordings: Values | Sequence[Values], calibration: Values | Sequence[Values] | None = None
    ) -> LSTMDetector:
        """Train the LSTM on normal recordings; fit score and threshold on normal data.

        Parameters
        ----------
        recordings : recording, or sequence of them
            To train on.
        calibration : recording, sequence of them, or None
            To stop training by, and to calibrate on. None: training is stopped by the last 40 % of each recording,
            after a guard, and all of it calibrates (`score.calibrate_on`).

        Returns
        -------
        LSTMDetector
            itself.

        Raises
        ------
        utils.DataError
            If there is too little data, or the config does not fit it.
        """
        recordings = listed(recordings)
        measures = dict(self.channels or dict.fromkeys(names_in(recordings[0]), "other"))
        self.data = dataset_config(self.rate_hz, measures, recordings[0])
        on_given = {} if calibration is None else {"score.calibrate_on": ["val"]}
        config = experiment_config(self.data, on_given | dict(self.config or {}))
        names, units = list(measures), [""] * len(measures)
        try:
            resolved = resolve(config, names, units, list(measures.values()), self.rate_hz)
        except (ValueError, OverflowError) as error:
            raise DataError(f"config: {error}") from None
        guard = resolved.horizon + resolved.warm_up
        train = [part for k, one in enumerate(recordings) for part in self._segments(one, names, f"recording_{k}")]
        if calibration is None:
            train, val = divided(train, guard)
        else:
            known = enumerate(listed(calibration))
            val = [part for k, one in known for part in self._segments(one, names, f"calibration_{k}")]
        if not train or not val:
            raise DataError("too little data: no channel has a value in what is left to train or to calibrate on")
        dataset = dataset_of(self.data, measures, {"train": train, "val": val}, self.rate_hz, guard)
        experiment = prepare(config, dataset)
        fitted = new_training(experiment, resolve_device(self.device))
        fitted.trainer.fit(fitted.windows, fitted.validation)
        calibrate(experiment, fitted.detector)
        self.detector, self._training = fitted.detector, (experiment, fitted)
        return self

    def save(self, path: str | Path) -> Path:
        """Write the checkpoint, with its training; return its path. ValueError if nothing was fitted here."""
        if self._training is None:
            raise ValueError("nothing was fitted here; a model that was loaded has its file already")
        experiment, fitted = self._training
        fitted.save(Path(path), experiment)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> LSTMDetector:
        """Return the detector of a checkpoint, made by `save` or a run.

        Raises
        ------
        utils.DataError
            If it is no checkpoint, or its training was not finished.
        """
        state, detector = load_calibrated(Path(path), resolve_device(device))
        measures = dict(zip(detector.channels, detector.resolved.measures, strict=True))
        one = cls(detector.rate_hz, measures, None, device)
        one.detector, one.data = detector, recorded_data(state, detector, Path(path).name)
        return one

    # ---- score ------------------------------------------------------------------------------

    def score(self, recording: Values) -> pd.DataFrame:
        """Return how strange each step is.

        Parameters
        ----------
        recording : recording
            Anything, normal or not.

        Returns
        -------
        DataFrame
            A row a step: t_s, score (>= 0, higher is stranger, NaN = none yet, or no value), threshold, alarm,
            channel and component (what the score comes from; "" without a score).
        """
        segment = self._segment(recording, list(self._fitted.channels), "recording")
        segments, table = self._parts(segment), unscored(len(segment))
        for part, scored in zip(segments, self._fitted.detect([part.values for part in segments]), strict=True):
            start = np.searchsorted(segment.t, part.t[0])
            for name, column in self._columns(scored).items():
                table[name][start : start + len(part)] = column
        return pd.DataFrame({"t_s": segment.t, **table})

    def events(self, recording: Values) -> pd.DataFrame:
        """Return what was found: the rows of `events.csv`, with kind, extent and evidence; docs/run_folder.md."""
        findings, nights = self._findings(recording)
        [found] = findings.recordings
        night = nights.get(found.name, ScoredNight([], [], [], None))
        rows = event_rows(findings, found, night, self._fitted.config.events.profile)
        table = pd.DataFrame(rows, columns=[name for name in EVENTS if name != "recording"])
        return table.assign(duration_s=table["end_s"] - table["start_s"])

    def night(self, recording: Values) -> pd.Series:
        """Return a recording of breathing in numbers, as in `nights.csv`; ValueError if nothing breathes."""
        _, nights = self._findings(recording)
        if not nights:
            raise ValueError("no channel measures breathing: there is no night in numbers")
        [night] = nights.values()
        return pd.Series(night.summary.model_dump()).drop("recording")

    def stream(self) -> LSTMStream:
        """Return what scores the steps of one recording as they come; the same scores as `score`."""
        return LSTMStream(self)

    # ---- inside -----------------------------------------------------------------------------

    @property
    def _fitted(self) -> Detector:
        if self.detector is None:
            raise ValueError("not fitted: call fit, or load a model")
        return self.detector

    def _columns(self, scored: Scored) -> dict[str, np.ndarray]:
        """Return the columns of scored steps."""
        known = np.isfinite(scored.score)
        channel, component = (
            np.where(known, np.array(names, object)[place], "")
            for names, place in ((self._fitted.channels, scored.channel), (SCORE_COMPONENTS, scored.component))
        )
        return {"score": scored.score, "threshold": scored.threshold, "alarm": scored.alarm, "channel": channel,
                "component": component}  # fmt: skip

    def _segment(self, recording: Values, names: Sequence[str], name: str) -> Segment:
        """Return a whole recording on the grid."""
        if self.data is not None and isinstance(recording, pd.DataFrame) and TIME in recording:
            check_columns(recording, names)
            return on_grid(raw_recording(recording, names, name, self.data), self.data, [])
        values = values_of(recording, names)
        label = np.zeros(len(values), np.int8)
        stamps = np.arange(len(values)).astype(str) if self.data is None else None
        return Segment(name, np.arange(len(values)) / self.rate_hz, values, label, stamps)

    def _parts(self, segment: Segment) -> list[Segment]:
        """Return the parts of a recording in which something has a value; of a series all of it."""
        return [segment] if self.data is None else segments_where(segment, np.ones(len(segment), bool))

    def _segments(self, recording: Values, names: Sequence[str], name: str) -> list[Segment]:
        return self._parts(self._segment(recording, names, name))

    def _findings(self, recording: Values) -> tuple[Findings, dict[str, Any]]:
        detector = self._fitted
        segments = self._segments(recording, list(detector.channels), "recording")
        scored = detector.detect([part.values for part in segments])
        chance = RandomScores(detector, sum(map(len, segments)))
        seen = recordings_as_seen(detector, segments, scored, {}, chance)
        findings = Findings(detector, segments, scored, seen[LSTM], simulated=False)
        return findings, nights_of(findings)


def unscored(steps: int) -> dict[str, np.ndarray]:
    """Return the columns of steps without a score."""
    texts = {name: np.full(steps, "", object) for name in ("channel", "component")}
    numbers = {name: np.full(steps, np.nan) for name in ("score", "threshold")}
    return numbers | {"alarm": np.zeros(steps, bool)} | texts


class LSTMStream:
    """One recording as it is measured, on the grid: rows in, scored steps out, the same as `LSTMDetector.score`."""

    def __init__(self, owner: LSTMDetector) -> None:
        self.owner, self.steps = owner, 0
        self.detector_stream = DetectorStream(owner._fitted)

    def update(self, rows: Values) -> pd.DataFrame:
        """Return the next steps, a row or several (n, C), scored; columns as of `LSTMDetector.score`."""
        owner = self.owner
        values = values_of(np.atleast_2d(rows) if isinstance(rows, np.ndarray) else rows, list(owner._fitted.channels))
        missing, table = np.isnan(values).all(axis=1) & (owner.data is not None), unscored(len(values))
        for start, end in runs(missing):
            if missing[start]:
                self.detector_stream.restart()                   # the segment is over
            else:
                scored = owner._columns(self.detector_stream.update(values[start:end]))
                for name, column in scored.items():
                    table[name][start:end] = column
        t_s = (self.steps + np.arange(len(values))) / owner.rate_hz
        self.steps += len(values)
        return pd.DataFrame({"t_s": t_s, **table})
