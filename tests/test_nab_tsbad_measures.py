"""TSB-AD's measures: the values that its own code gave, and one case worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from nab.tsbad_measures import best_f1, distinct_thresholds, measures

CASES = Path(__file__).resolve().parents[2] / "shared" / "reference" / "metric_cases.json"
NAMES = {
    "AUC-PR": "auc_pr", "AUC-ROC": "auc_roc", "VUS-PR": "vus_pr", "VUS-ROC": "vus_roc", "PA-F1": "pa_f1_best",
    "Event-based-F1": "event_f1_best", "R-based-F1": "range_f1_best", "Affiliation-F": "affiliation_f1_best",
}  # fmt: skip


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is absent")
def test_measures_are_those_of_its_own_code():
    arrays = np.load(CASES.with_suffix(".npz"))
    for case in json.loads(CASES.read_text()):
        found = measures(arrays[f"label_{case['case']}"], arrays[f"score_{case['case']}"], case["window"])
        expected = {name: case[theirs] for name, theirs in NAMES.items()}
        assert {name: found[name] for name in NAMES} == pytest.approx(expected, abs=1e-9), case["kind"]
        assert found["Standard-F1"] == pytest.approx(case["point_f1_best"], abs=2e-5)


def test_best_f1_worked_out_by_hand():
    """Two events; above 5, rows 1 and 7 alarm, one in each; between 0 and 5, row 4 is a false alarm too."""
    label = np.array([0, 1, 1, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0, 9, 0, 0, 5, 0, 0, 9, 0, 0], float)
    found = best_f1(label, scores)
    assert found["PA-F1"] == pytest.approx(1.0)                              # above 5: both events, no false alarm
    assert found["Event-based-F1"] == pytest.approx(1.0)
    covered = np.mean([0.2 + 0.8 / 2, 0.2 + 0.8 / 4])                        # recall above 5; all alarms are in events
    assert found["R-based-F1"] == pytest.approx(2 * covered / (1 + covered))


def test_the_last_row_is_no_part_of_an_event_in_event_based_f1():
    """As in TSB-AD's code: of two events, the one that only the last row alarms in counts as missed."""
    label, scores = np.array([0, 1, 1, 0, 0, 1, 1]), np.array([0, 0, 9, 0, 0, 0, 9.0])
    assert best_f1(label, scores)["Event-based-F1"] == pytest.approx(2 / 3)
    assert best_f1(label, scores)["PA-F1"] == pytest.approx(1.0)


def test_thresholds_between_the_same_scores_count_once():
    found = distinct_thresholds(np.array([0.0, 0.0, 0.5, 1.0]))
    assert [int(np.sum(np.array([0, 0, 0.5, 1]) > level)) for level in sorted(found)] == [2, 1, 0]
