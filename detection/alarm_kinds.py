"""An alarm that no respiratory event explains in, its kind out: cough, motion, tachypnea, or other.

The kind follows from the component that led most of the alarm's steps. `pace` is tachypnea. A transient is a cough if
airflow swings by twice what was expected of a breath; a transient of another sensor, while the air flows as expected,
is motion. An airflow channel alone cannot show motion: what is no cough there is `other`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COUGH, MOTION, TACHYPNEA, OTHER, ANOMALY = "cough", "motion", "tachypnea", "other", "anomaly"
COUGH_SHARE = 2.0                        # range of airflow in a cough, at least, over that expected of a breath


def kind_of_alarm(
    component: str, leads: str, values: np.ndarray, expected: np.ndarray, measures: Sequence[str]
) -> str:
    """Return the kind of an alarm.

    Args:
        component: of the score (`config.SCORE_COMPONENTS`), which led most of the alarm's steps.
        leads: what the channel measures that contributed most.
        values: (n, C) from a second before the alarm to a second after it, NaN = missing.
        expected: (C,) range that was expected of each channel there, in its unit, NaN = unknown.
        measures: what each of the C channels measures; without any of breathing, an alarm is an `anomaly`.
    """
    if not {"airflow", "effort"} & set(measures):
        return ANOMALY
    if component == "pace":
        return TACHYPNEA
    if component not in ("transient_error", "shared_transient"):
        return OTHER
    airflow = [k for k, what in enumerate(measures) if what == "airflow"]
    if any(_range(values[:, k]) >= COUGH_SHARE * expected[k] for k in airflow):
        return COUGH
    return OTHER if leads == "airflow" else MOTION


def _range(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.ptp(known)) if len(known) else np.nan
