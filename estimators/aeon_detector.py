"""The LSTM detector as one of aeon's: `pip install "aeon>=1.6"` (the extra `adapters`).

    from estimators.aeon_detector import LSTMSeriesAnomalyDetector

    scores = LSTMSeriesAnomalyDetector().fit(normal, axis=0).predict(series, axis=0)      # (T,)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from estimators.lstm import LSTMDetector
from utils import DataError

try:
    from aeon.anomaly_detection.series.base import BaseSeriesAnomalyDetector
except ImportError:
    raise DataError('estimators.aeon_detector needs aeon; pip install "aeon>=1.6"') from None


class LSTMSeriesAnomalyDetector(BaseSeriesAnomalyDetector):
    """Anomaly scores of a series by the forecasts of a stacked LSTM that was trained on normal data.

    Parameters
    ----------
    config : mapping of str to value, or None
        As of `estimators.lstm.LSTMDetector`.
    device : {"auto", "cpu", "cuda"}
        Where the LSTM runs.

    Notes
    -----
    Scores are >= 0 and higher where a step is stranger; steps without a score yet (the LSTM's warm-up) have 0.
    """

    _tags = {
        "anomaly_output_type": "anomaly_scores",
        "capability:univariate": True,
        "capability:multivariate": True,
        "capability:missing_values": True,
        "fit_is_empty": False,
        "learning_type:semi_supervised": True,
    }

    def __init__(self, config: Mapping[str, Any] | None = None, device: str = "auto") -> None:
        self.config, self.device = config, device
        super().__init__(axis=0)

    def _fit(self, X: np.ndarray, y: Any = None) -> LSTMSeriesAnomalyDetector:
        self.detector_ = LSTMDetector(config=self.config, device=self.device).fit(np.asarray(X, float))
        return self

    def _predict(self, X: np.ndarray) -> np.ndarray:
        return np.nan_to_num(self.detector_.score(np.asarray(X, float))["score"].to_numpy(), nan=0.0)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        """Return a model and spans small enough for the series of aeon's checks, which have 20 rows."""
        rows = {f"model.{name}_rows": 1 for name in ("horizon", "warm_up")} | {"training.window_rows": 4}
        spans = ("amplitude", "expected", "baseline", "error", "transient", "level")
        rows |= {f"score.{name}_rows": 1 for name in spans}
        quick = {"training.epochs": 1, "training.updates_per_epoch": 2, "model.hidden_units": 4, "model.num_layers": 1}
        score = {"score.weights": {"error": 1.0}, "threshold.method": "gaussian", "threshold.parameters": {}}
        return {"config": rows | quick | score}
