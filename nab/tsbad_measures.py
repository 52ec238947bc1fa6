"""The nine measures of TSB-AD's result files, under its names and in its order, as its code (1.5) computes them.

Areas need no threshold. Each F1 is the best that any threshold could have given: read off the labels, no performance.
"""

from __future__ import annotations

import numpy as np

from evaluation.metrics import (
    affiliation_scores,
    harmonic_mean,
    oracle_point_f1,
    point_scores,
    range_based_scores,
    threshold_free,
)
from recordings.windowing import true_runs

THRESHOLDS = 100                        # evenly spaced from the least to the highest score
AREAS = {"AUC-PR": "auc_pr", "AUC-ROC": "auc_roc", "VUS-PR": "vus_pr", "VUS-ROC": "vus_roc"}


def measures(label: np.ndarray, scores: np.ndarray, buffer: int) -> dict[str, float]:
    """Return the measures, 0..1, of scores (n,), finite, higher = stranger, against label (n,), 0 or 1.

    Args:
        buffer: of VUS, in rows.
    """
    areas = threshold_free(label, scores, buffer)
    found = {column: areas[name] for column, name in AREAS.items()}
    return found | {"Standard-F1": oracle_point_f1(label, scores)} | best_f1(label, scores)


def best_f1(label: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return each of the other F1 at the one of 100 thresholds that is best for it; an alarm is a score above it.

    PA-F1 counts an event with an alarm as alarmed all along, so that it tells detectors little apart. Event-based-F1
    joins the recall of events with the precision of single rows. Sources of the other two: Tatbul et al. 2018 and Huet
    et al. 2022, as in `evaluation.metrics`.
    """
    label = label.astype(bool)
    starts, ends = true_runs(label).T
    adjusted, without_last = scores.copy(), scores.copy()
    without_last[-1] = -np.inf                      # TSB-AD's code leaves the last row of a file out of its event,
    adjusted[label] = np.repeat(highest_in_events(scores, starts, ends), ends - starts)
    adjusted[0] = scores[0]                         # and does not adjust the first one
    highest = highest_in_events(without_last, starts, ends)
    found = [
        {
            "PA-F1": point_scores(label, adjusted > level)["f1"],
            "Event-based-F1": harmonic_mean(point_scores(label, scores > level)["precision"], np.mean(highest > level)),
            "R-based-F1": range_based_scores(label, scores > level)["f1"],
            "Affiliation-F": affiliation_scores(label, scores > level)["f1"],
        }
        for level in distinct_thresholds(scores)
    ]
    return {name: float(np.nanmax([one[name] for one in found])) for name in found[0]}


def highest_in_events(scores: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the highest of the scores (n,) in each event (E,) of the rows from start to end, the latter excluded."""
    return np.maximum.reduceat(np.append(scores, -np.inf), np.stack([starts, ends], axis=1).ravel())[::2]


def distinct_thresholds(scores: np.ndarray) -> np.ndarray:
    """Return those of the 100 thresholds that differ in what they let through: as many alarms are the same alarms."""
    thresholds = np.linspace(scores.min(), scores.max(), THRESHOLDS)
    above = len(scores) - np.searchsorted(np.sort(scores), thresholds, side="right")
    return thresholds[np.unique(above, return_index=True)[1]]
