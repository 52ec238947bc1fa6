import json
import math

import numpy as np
import pytest

from detection.events import FoundEvent
from evaluation.evaluate import TestRecording as Recording  # pytest would collect the name
from evaluation.evaluate import (
    evaluate_detector,
    fault_numbers,
    kinds_at_alarms,
    match_recording,
    normal_hours,
    over_seeds,
)
from recordings.windowing import EventMeta
from utils import jsonable

TOLERANCE_S = 5.0
FAULTS = ("dropout",)


def found(start_s, end_s):
    return FoundEvent("night", start_s, end_s, 1.0, start_s, "flow")


def label(start_s, end_s, kind="apnea"):
    return EventMeta(start_s=start_s, end_s=end_s, kind=kind)


def recording(events=(), faults=(), labelled=(), seconds=3600, scores=None, name="night"):
    """Return an hour at 1 Hz; a found event's steps are alarms with score 2, the others have 0."""
    t = np.arange(float(seconds))
    alarm = np.zeros(len(t), bool)
    for start_s, end_s in events:
        alarm |= (t >= start_s) & (t <= end_s)
    score = np.where(alarm, 2.0, 0.0) if scores is None else scores
    return Recording(
        name, t, score, alarm, [found(*e) for e in events], [found(*f) for f in faults], list(labelled)
    )


def evaluate(*recordings):
    return evaluate_detector(recordings, FAULTS, rate_hz=1.0, tolerance_s=TOLERANCE_S, buffer=10)


@pytest.fixture
def nights():
    """Two nights with, at their alarms, 3 of 4 events found, 2 false events and 2 of 3 faults in the mask."""
    first = recording(
        events=[(105, 112), (303, 304), (700, 705), (910, 915)],
        faults=[(1500, 1510), (1700, 1705)],
        labelled=[label(100, 110), label(290, 300), label(500, 510, "cough"), label(1500, 1520, "dropout")],
        name="first",
    )
    second = recording(
        events=[(50, 60), (62, 65), (400, 401)],
        faults=[(200, 210)],
        labelled=[label(48, 61), label(200, 230, "dropout"), label(398, 402, "dropout")],
        seconds=1800,
        name="second",
    )
    return first, second


def test_event_numbers_by_hand(nights):
    numbers = evaluate(*nights)["deployed"]["events"]
    # first: 105 and 303 (within the tolerance) are true, 700 and 910 false; second: all three overlap a label
    assert (numbers["found_events"], numbers["false_events"]) == (7, 2)
    assert numbers["precision"] == pytest.approx(5 / 7)
    assert (numbers["labelled_events"], numbers["matched_events"]) == (4, 3)      # faults are not asked of the score
    assert numbers["recall"] == pytest.approx(3 / 4)
    assert numbers["f1"] == pytest.approx(2 * 5 / 7 * 3 / 4 / (5 / 7 + 3 / 4))
    assert numbers["delay_median_s"] == pytest.approx(np.median([5, 13, 2]))


def test_false_events_are_counted_in_an_hour_outside_labels_and_tolerance(nights):
    first, second = nights
    # 1 Hz, both ends and 5 s of tolerance: 16 + 16 + 16 + 26 s of 3600, and 19 + 36 + 10 s of 1800
    assert normal_hours(first, 1.0, TOLERANCE_S) == pytest.approx((3600 - 74) / 3600)
    assert normal_hours(second, 1.0, TOLERANCE_S) == pytest.approx((1800 - 65) / 3600)
    numbers = evaluate(first, second)["deployed"]["events"]
    assert numbers["normal_hours"] == pytest.approx((5400 - 139) / 3600)
    assert numbers["false_events_per_hour"] == pytest.approx(2 * 3600 / (5400 - 139))


def test_the_table_of_kinds_by_hand(nights):
    table = kinds_at_alarms(nights, FAULTS, TOLERANCE_S)
    assert list(table) == ["apnea", "cough", "dropout"]
    assert {k: (row["labelled"], row["found"]) for k, row in table.items()} == {
        "apnea": (3, 3), "cough": (1, 0), "dropout": (3, 2),
    }  # fmt: skip
    assert table["dropout"]["recall"] == pytest.approx(2 / 3)            # by the mask, not by the score
    assert table["apnea"]["delay_median_s"] == 5 and math.isnan(table["cough"]["delay_median_s"])


def test_fault_numbers_count_what_the_mask_reports(nights):
    assert fault_numbers(nights, FAULTS, TOLERANCE_S) == {"reported": 3, "overlap_a_label": 2, "labelled": 3}


def test_a_labelled_event_is_found_once():
    one = recording(events=[(100, 101), (104, 105)], labelled=[label(100, 110)])
    match = match_recording(one, one.found, TOLERANCE_S)
    assert match.is_true.tolist() == [True, True] and sorted(match.match.tolist()) == [-1, 0]
    numbers = evaluate(one)["deployed"]["events"]
    assert (numbers["precision"], numbers["recall"], numbers["false_events"]) == (1.0, 1.0, 0)


def test_steps_of_labelled_faults_take_no_part_in_step_wise_numbers():
    inside = recording(events=[(100, 109), (500, 519)], labelled=[label(100, 109), label(500, 519, "dropout")])
    point = evaluate(inside)["deployed"]["point"]
    assert point["precision"] == point["recall"] == 1.0
    outside = recording(events=[(100, 109), (500, 519)], labelled=[label(100, 109)])
    assert evaluate(outside)["deployed"]["point"]["precision"] == pytest.approx(10 / 30)


def test_the_one_percent_oracle_by_hand():
    """1000 normal steps with scores 1..1000: 1 % lie above 990.01; one of two events peaks above that."""
    scores = np.zeros(1000 + 2 * 16)
    events = [label(100, 110), label(500, 510)]
    near = np.zeros(len(scores), bool)
    near[100:116] = near[500:516] = True
    scores[~near] = np.arange(1.0, 1001)
    scores[114], scores[505] = 995.0, 980.0                             # the first only in its tolerance
    oracle = evaluate(recording(labelled=events, seconds=len(scores), scores=scores))["oracle"]["oracle_one_percent"]
    assert oracle["threshold"] == pytest.approx(990.01)
    assert oracle["kinds"] == {"apnea": {"labelled": 2, "found": 1, "recall": 0.5}}


def test_every_number_read_off_the_test_span_is_called_oracle(nights):
    results = evaluate(*nights)
    assert list(results) == ["deployed", "oracle"]
    assert all(name.startswith("oracle_") for name in results["oracle"])
    assert "oracle" not in json.dumps(jsonable(results["deployed"]))


def test_the_deployed_numbers_do_not_depend_on_what_the_oracle_sees(nights):
    first, _ = nights
    louder = Recording(first.name, first.t, first.score * 7, first.alarm, first.found, first.faults, first.labelled)
    assert evaluate(first)["deployed"]["events"] == evaluate(louder)["deployed"]["events"]


@pytest.mark.parametrize(
    "one",
    [
        recording(events=[(100, 110)]),
        recording(),
        recording(labelled=[label(100, 110)]),
        recording(labelled=[label(100, 110, "dropout")], faults=[(100, 110)]),
        recording(labelled=[label(100, 110)], scores=np.full(3600, np.nan)),
        recording(labelled=[label(0, 3599)], events=[(0, 3599)]),
    ],
    ids=["no labels", "nothing at all", "no alarms", "faults only", "no scores", "all labelled"],
)
def test_degenerate_recordings_are_evaluated(one):
    results = evaluate(one)
    json.dumps(jsonable(results), allow_nan=False)
    numbers = results["deployed"]["events"]
    assert (numbers["found_events"], numbers["labelled_events"]) == (
        len(one.found), sum(event.kind != "dropout" for event in one.labelled),
    )  # fmt: skip
    if not one.labelled:
        assert math.isnan(numbers["recall"]) and numbers["normal_hours"] == pytest.approx(1.0)
        assert numbers["false_events_per_hour"] == pytest.approx(len(one.found))
        assert results["deployed"]["kinds"] == {}
    if not one.found:
        assert math.isnan(numbers["precision"]) and numbers["false_events"] == 0


# ---- over seeds -----------------------------------------------------------------------------


def test_over_seeds_gives_mean_spread_and_values_of_every_number():
    results = [{"a": {"x": value, "name": "n", "flag": True, "none": None}, "y": 2} for value in (1.0, 2.0, 6.0)]
    summary = over_seeds(results)
    assert summary["a"]["x"]["values"] == [1.0, 2.0, 6.0]
    assert summary["a"]["x"]["mean"] == pytest.approx(3.0)
    assert summary["a"]["x"]["std"] == pytest.approx(math.sqrt((4 + 1 + 9) / 3))
    assert summary["y"] == {"mean": 2.0, "std": 0.0, "values": [2, 2, 2]}
    assert list(summary["a"]) == ["x"]


def test_over_seeds_leaves_out_what_a_seed_lacks():
    assert over_seeds([{"x": 1.0, "y": 2.0}, {"x": 3.0}]) == {"x": {"mean": 2.0, "std": 1.0, "values": [1.0, 3.0]}}
    assert math.isnan(over_seeds([{"x": 1.0}, {"x": math.nan}])["x"]["mean"])
