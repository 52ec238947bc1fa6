"""The LSTM detector as one of PyOD's: `pip install pyod` (the extra `adapters`).

    from estimators.pyod_detector import LSTMOutlierDetector

    detector = LSTMOutlierDetector(contamination=0.01).fit(X)        # rows in the order of time
    detector.decision_scores_, detector.labels_, detector.predict(X_new)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from estimators.lstm import LSTMDetector
from utils import DataError

try:
    from pyod.models.base import BaseDetector
except ImportError:
    raise DataError("estimators.pyod_detector needs PyOD; pip install pyod") from None


class LSTMOutlierDetector(BaseDetector):
    """Outliers among rows that follow each other in time, by the forecasts of a stacked LSTM.

    Parameters
    ----------
    contamination : float
        Share of the rows given to `fit` that are labelled as outliers, in (0, 0.5].
    config : mapping of str to value, or None
        As of `estimators.lstm.LSTMDetector`.
    device : {"auto", "cpu", "cuda"}
        Where the LSTM runs.

    Attributes
    ----------
    detector_ : estimators.lstm.LSTMDetector
        The detector.
    decision_scores_, threshold_, labels_
        As PyOD has them: scores (T,) of the rows given to `fit`, higher is stranger; their quantile; 0 or 1.

    Notes
    -----
    The order of rows is that of time, unlike in most detectors of PyOD. Rows without a score yet (the LSTM's warm-up)
    have 0, the least. The threshold is PyOD's; `detector_` has its own, which does not depend on the contamination.
    """

    def __init__(
        self, contamination: float = 0.1, config: Mapping[str, Any] | None = None, device: str = "auto"
    ) -> None:
        super().__init__(contamination=contamination)
        self.config, self.device = config, device

    def fit(self, X: np.ndarray, y: Any = None) -> LSTMOutlierDetector:
        """Train on the first 60 % of rows X (T, C), stop by the others, calibrate on all; y is ignored."""
        X = np.asarray(X, float)
        self._set_n_classes(y)
        self.detector_ = LSTMDetector(config=self.config, device=self.device).fit(X)
        self.decision_scores_ = self.decision_function(X)
        self._process_decision_scores()
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the scores (T,) of rows X (T, C), a series of their own."""
        return np.nan_to_num(self.detector_.score(np.asarray(X, float))["score"].to_numpy(), nan=0.0)
