import json
import math

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import EventConfig
from data_loader import Dataset
from detection.events import FoundEvent, find_events
from evaluation.detector_metrics import detector_metrics, fault_measures
from evaluation.free_response import RATES, alarm_spans, free_response
from evaluation.results import RunMetrics, over_seeds, read_metrics, write_metrics
from evaluation.scored_recording import ScoredRecording, segment_starts
from recordings.windowing import EventMeta
from reports.findings import labels_in_test_span
from utils import DataError, jsonable

EVENTS = EventConfig(merge_gap_s=0.0)                                # tolerance 5 s
FAULTS = ("dropout",)

few = settings(max_examples=40, derandomize=True, deadline=None, database=None)


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
    return ScoredRecording(
        name, t, score, alarm, [found(*e) for e in events], [found(*f) for f in faults], list(labelled)
    )


def evaluate(*recordings, buffer=10):
    return detector_metrics(recordings, FAULTS, 1.0, EVENTS, buffer)


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


def test_event_measures_by_hand(nights):
    measures = evaluate(*nights).events
    # first: 105 and 303 (within the tolerance) are true, 700 and 910 false; second: all three overlap a label
    assert (measures.found_events, measures.false_events) == (7, 2)
    assert measures.precision == pytest.approx(5 / 7)
    assert (measures.labelled_events, measures.matched_events) == (4, 3)          # faults are not asked of the score
    assert measures.recall == pytest.approx(3 / 4)
    assert measures.f1 == pytest.approx(2 * 5 / 7 * 3 / 4 / (5 / 7 + 3 / 4))
    assert measures.delay_median_s == pytest.approx(np.median([5, 13, 2]))


def test_false_events_are_counted_in_an_hour_outside_labels_and_tolerance(nights):
    first, second = nights
    # 1 Hz, both ends and 5 s of tolerance: 16 + 16 + 16 + 26 s of 3600, and 19 + 36 + 10 s of 1800
    assert first.normal_hours(1.0, 5.0) == pytest.approx((3600 - 74) / 3600)
    assert second.normal_hours(1.0, 5.0) == pytest.approx((1800 - 65) / 3600)
    measures = evaluate(first, second).events
    assert measures.normal_hours == pytest.approx((5400 - 139) / 3600)
    assert measures.false_events_per_hour == pytest.approx(2 * 3600 / (5400 - 139))


def test_the_measures_of_kinds_by_hand(nights):
    kinds = evaluate(*nights).kinds
    assert list(kinds) == ["apnea", "cough", "dropout"]
    assert {kind: (one.labelled, one.found) for kind, one in kinds.items()} == {
        "apnea": (3, 3), "cough": (1, 0), "dropout": (3, 2),
    }  # fmt: skip
    assert kinds["dropout"].recall == pytest.approx(2 / 3)               # by the mask, not by the score
    assert kinds["apnea"].delay_median_s == 5 and math.isnan(kinds["cough"].delay_median_s)


def test_fault_measures_count_what_the_mask_reports(nights):
    measures = fault_measures(nights, FAULTS, 5.0)
    assert (measures.reported, measures.overlap_a_label, measures.labelled) == (3, 2, 3)


def test_a_labelled_event_is_found_once():
    one = recording(events=[(100, 101), (104, 105)], labelled=[label(100, 110)])
    match = one.match(one.found, 5.0)
    assert match.is_true.tolist() == [True, True] and sorted(match.match.tolist()) == [-1, 0]
    measures = evaluate(one).events
    assert (measures.precision, measures.recall, measures.false_events) == (1.0, 1.0, 0)


def test_steps_of_labelled_faults_take_no_part_in_step_wise_measures():
    inside = recording(events=[(100, 109), (500, 519)], labelled=[label(100, 109), label(500, 519, "dropout")])
    point = evaluate(inside).point
    assert point.precision == point.recall == 1.0
    outside = recording(events=[(100, 109), (500, 519)], labelled=[label(100, 109)])
    assert evaluate(outside).point.precision == pytest.approx(10 / 30)


# ---- several segments ----------------------------------------------------------------------


def stretches_of(*recordings):
    """Return (labels, scores, alarms) of each segment between faults and missing steps, step by step."""
    segments = []
    for one in recordings:
        before = -math.inf
        for t, score, alarm in zip(one.t, one.score, one.alarm, strict=True):
            kinds = [event.kind for event in one.labelled if event.start_s <= t <= event.end_s]
            if not set(kinds) & set(FAULTS):
                if t - before > 1:
                    segments.append(([], [], []))
                for part, value in zip(segments[-1], (int(bool(kinds)), score, alarm), strict=True):
                    part.append(value)
                before = t
    return segments


def touching_recordings(seed):
    """Return two short recordings whose events touch their seam, the first with a fault and missing steps inside."""
    random = np.random.default_rng(seed)
    labelled = [label(4, 6), label(12, 20), label(15, 17, "dropout"), label(36, 39)], [label(0, 0), label(2, 5)]
    recordings = []
    for name, events in zip(("first", "second"), labelled, strict=True):
        t = np.arange(40.0)
        t = t[(t < 25) | (t > 27)] if name == "first" else t
        score = np.round(random.random(len(t)), 1)
        recordings.append(ScoredRecording(name, t, score, score > 0.6, [], [], events))
    return recordings


@pytest.mark.parametrize("seed", range(6))
def test_recordings_whose_events_touch_the_seam_are_measured_apart(seed):
    recordings = touching_recordings(seed)
    segments = stretches_of(*recordings)
    assert [len(labels) for labels, *_ in segments] == [15, 7, 12, 40]  # 0-14, 18-24, 28-39; all of the second
    ours = evaluate(*recordings, buffer=7)
    by_score, by_alarm = ([(part[0], part[k]) for part in segments] for k in (1, 2))
    areas = ours.threshold_free
    assert (areas.vus_roc, areas.vus_pr) == pytest.approx(naive.vus(by_score, 7), abs=1e-12)
    precision = naive.range_recall([(alarms, labels) for labels, alarms in by_alarm], 0)
    recall = naive.range_recall(by_alarm, 0.2)
    assert (ours.range.precision, ours.range.recall) == pytest.approx((precision, recall), abs=1e-12)
    assert (ours.affiliation.precision, ours.affiliation.recall) == pytest.approx(naive.affiliation(by_alarm), abs=1e-9)
    hits = sum(label and alarm for labels, alarms in by_alarm for label, alarm in zip(labels, alarms, strict=True))
    assert ours.point.true_alarms == hits


# ---- free response --------------------------------------------------------------------------


@few
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.sets(st.integers(0, 60)),
       st.sampled_from([0.0, 1.0, 2.0, 3.5]), st.sampled_from([0.0, 1.0, 2.5]))  # fmt: skip
def test_alarm_spans_are_the_events_of_each_stretch(alarm, missing, merge_gap_s, min_duration_s):
    alarm, t = np.array(alarm), np.array([t for t in range(101) if t not in missing], float)[: len(alarm)]
    starts = segment_starts(t, 1.0)
    seams = np.flatnonzero(starts)[1:]
    first, last = alarm_spans(t, alarm, seams, merge_gap_s, min_duration_s)
    expected = []
    for part in np.split(np.arange(len(t)), seams):
        gaps = {"merge_gap_s": merge_gap_s, "min_duration_s": min_duration_s}
        events = find_events("a", t[part], t[part], alarm[part], np.zeros(len(part), int), ["flow"], **gaps)
        expected += [(event.start_s, event.end_s) for event in events]
    assert list(zip(t[first], t[last], strict=True)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_free_response_equals_a_sweep_of_all_thresholds(seed):
    """Two recordings, one with a gap, with labels that touch their ends; events found and matched one by one."""
    random, events = np.random.default_rng(seed), EventConfig(merge_gap_s=3.0, min_duration_s=1.0, tolerance_s=2.0)
    labels = (
        [label(0, 9), label(100, 110, "cough"), label(200, 220), label(205, 215, "dropout"), label(293, 299)],
        [label(1, 5, "cough"), label(120, 129), label(131, 140), label(250, 260)],
    )
    recordings = []
    for name, labelled in zip("ab", labels, strict=True):
        t = np.arange(300.0)
        t = t[(t < 60) | (t > 61)] if name == "a" else t
        rare = random.choice([0, 1, 2, 3, 4, 5], p=[0.4, 0.2, 0.15, 0.1, 0.1, 0.05], size=len(t)).astype(float)
        rare = np.maximum(rare, np.roll(rare, 1))
        for event in labelled[::2]:
            rare[(t >= event.start_s + 2) & (t <= event.end_s)] += random.integers(0, 3)
        recordings.append(ScoredRecording(name, t, rare, rare > 4, [], [], labelled))

    def events_at(threshold):
        false = hits = 0
        for one in recordings:
            gap = int(np.flatnonzero(np.diff(one.t) > 1.5)[0]) + 1 if one.name == "a" else 0
            made = []
            for part in (slice(0, gap), slice(gap, None)):
                steps = (one.t[part], one.score[part], one.score[part] > threshold, np.zeros(len(one.t[part]), int))
                made += find_events(one.name, *steps, ["flow"], merge_gap_s=3.0, min_duration_s=1.0)
            match = one.match(made, 2.0)
            false += (~match.is_true).sum()
            hits += sum(f for e, f in zip(one.labelled, match.is_found, strict=True) if e.kind != "dropout")
        return false, hits

    hours = 20.0                                                         # as if it were this long: 2 to 40 false ones
    ours = free_response(recordings, FAULTS, 1.0, hours, events)
    thresholds = np.unique(np.concatenate([one.score for one in recordings]))
    assert ours.recall == pytest.approx(naive.free_response(events_at, thresholds, 8, hours, RATES))
    assert ours.false_events_per_hour == list(RATES) and sorted(ours.recall) == ours.recall
    for k, threshold in enumerate(ours.threshold):                       # each point is one that a threshold gives
        assert math.isnan(threshold) or events_at(threshold)[1] / 8 == pytest.approx(ours.recall[k])
        assert 6 * ours.kinds["apnea"][k] + 2 * ours.kinds["cough"][k] == pytest.approx(8 * ours.recall[k])


def test_free_response_by_hand():
    """One hour at 1 Hz: peaks 9 (apnea), 8 (false), 7 (cough, after its end), 6, 5 (false), 4 (apnea)."""
    scores = np.zeros(3600)
    for at, peak in ((105, 9), (700, 8), (213, 7), (900, 6), (1100, 5), (305, 4)):
        scores[at] = peak
    one = recording(labelled=[label(100, 110), label(200, 210, "cough"), label(300, 310)], scores=scores)
    curve = free_response([one], (), 1.0, 1.0, EVENTS)
    assert curve.recall == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3])    # 3 false events before the peak of 4
    assert curve.kinds == {"apnea": [0.5] * 5, "cough": [0.0, 0.0, 0.0, 1.0, 1.0]}
    assert 8 <= curve.threshold[0] < 9 and 6 <= curve.threshold[-1] < 7


def test_alarms_without_end_do_not_count_as_events_found_for_nothing():
    """Below 0.5 everything alarms: one event, no false one; random scores pass many false ones before that."""
    scores = np.random.default_rng(0).random(3600)
    one = recording(labelled=[label(100, 110)], scores=scores)
    merged = EventConfig(merge_gap_s=10.0)
    assert free_response([one], (), 1.0, one.normal_hours(1.0, 5.0), merged).recall == [0.0] * 5


def test_free_response_without_scores_or_labels():
    silent = recording(labelled=[label(100, 110)], scores=np.full(3600, np.nan))
    assert free_response([silent], (), 1.0, 1.0, EVENTS).recall == [0.0] * 5
    unlabelled = free_response([recording(events=[(5, 9)])], (), 1.0, 1.0, EVENTS)
    assert all(map(math.isnan, unlabelled.recall)) and unlabelled.kinds == {}


# ---- labelled events of the test span -------------------------------------------------------


@pytest.fixture
def dataset_of(make_meta, make_segment):
    """Return a dataset: recording a to be split in time, its test at 40 to 60 s, and b, all of it test."""

    def make(events, test=((40.0, 101),)):
        splits = {
            "train": [make_segment("a", 0.0, 101)],
            "val": [make_segment("a", 25.0, 51)],
            "test": [*(make_segment("a", *span) for span in test), make_segment("b", 10.0, 51)],
        }
        return Dataset(make_meta(events=events), ("a", "b"), None, splits)

    return make


def test_only_labels_of_the_test_span_count_clipped_to_it(dataset_of):
    labels = [label(1, 5), label(35, 39.9), label(38, 42), label(50, 55, "cough"), label(58, 70)]
    own = [label(0, 5), label(30, 90)]
    tested = labels_in_test_span(dataset_of({"a": labels, "b": own, "c": [label(1, 2)]}))
    assert tested["a"] == [label(40, 42), label(50, 55, "cough"), label(58, 70)]
    assert tested["b"] == own                                            # signal may be lost at both of its ends
    assert tested.keys() == {"a", "b"} and labels_in_test_span(dataset_of({"a": [], "b": []})) == {}


def test_labels_in_a_loss_between_two_test_segments_count(dataset_of):
    labels = [label(45, 48, "dropout")]
    assert labels_in_test_span(dataset_of({"a": labels, "b": []}, test=((40.0, 21), (50.0, 21))))["a"] == labels


# ---- the whole of it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one",
    [
        recording(events=[(100, 110)]),
        recording(),
        recording(labelled=[label(100, 110)]),
        recording(labelled=[label(100, 110, "dropout")], faults=[(100, 110)]),
        recording(labelled=[label(100, 110)], scores=np.full(3600, np.nan)),
        recording(labelled=[label(0, 3599)], events=[(0, 3599)]),
        recording(labelled=[label(0, 3599, "dropout")]),
    ],
    ids=["no labels", "nothing at all", "no alarms", "faults only", "no scores", "all labelled", "all faulty"],
)
def test_degenerate_recordings_are_evaluated(one):
    results = evaluate(one)
    json.dumps(jsonable(results.model_dump()), allow_nan=False)
    measures = results.events
    assert (measures.found_events, measures.labelled_events) == (
        len(one.found), sum(event.kind != "dropout" for event in one.labelled),
    )  # fmt: skip
    if not one.labelled:
        assert math.isnan(measures.recall) and measures.normal_hours == pytest.approx(1.0)
        assert measures.false_events_per_hour == pytest.approx(len(one.found))
        assert results.kinds == {}
    if not one.found:
        assert math.isnan(measures.precision) and measures.false_events == 0


@pytest.fixture
def run_metrics(nights):
    def make(seed=0, **changes):
        silent = recording(labelled=[label(1, 2)])
        content = {
            "dataset": "tiny", "simulated": True, "channels": ["flow"], "seed": seed, "rate_hz": 1.0,
            "fault_kinds": list(FAULTS), "threshold": {"method": "quantile", "parameters": {"q": 0.9}, "value": 3.0},
            "events": EVENTS, "vus_buffer_steps": 10, "faults": fault_measures(nights, FAULTS, 5.0),
            "detectors": {"LSTM": evaluate(*nights), "random scores": evaluate(silent)},
            "forecast": {"lstm": seed + 1.5, "best_epoch": 3, "last_value": 2.0, "mean": 4.0},
        }  # fmt: skip
        return RunMetrics(**(content | changes))

    return make


def test_metrics_come_back_from_their_file_as_they_were(run_metrics, tmp_path):
    for changes in ({}, {"vus_buffer_steps": None, "detectors": {}, "forecast": None}):
        metrics = run_metrics(**changes)
        write_metrics(tmp_path / "metrics.json", metrics)
        text = (tmp_path / "metrics.json").read_text()
        assert "NaN" not in text and '"found": null' not in text and '"nab"' not in text
        back = read_metrics(tmp_path / "metrics.json")
        assert json.dumps(jsonable(back.model_dump())) == json.dumps(jsonable(metrics.model_dump()))


def test_metrics_that_do_not_fit_the_schema_are_refused(run_metrics, tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, run_metrics())
    text = path.read_text()
    for before, after, words in (
        ('"recall": 0.75', '"recall": "few"', "detectors.LSTM.events.recall is 'few'; expected a number"),
        ('"found_events": 7', '"found_events": 7.5', "found_events is 7.5; expected an integer"),
        ('"kinds"', '"sorts"', "detectors.LSTM.kinds: missing"),
    ):
        path.write_text(text.replace(before, after, 1))
        with pytest.raises(DataError, match=words):
            read_metrics(path)


def test_over_seeds_gives_mean_spread_and_values_of_every_number(run_metrics):
    summary = over_seeds([run_metrics(seed) for seed in (0, 1, 5)])
    assert list(summary) == ["detectors", "forecast"]
    loss = summary["forecast"]["lstm"]
    assert loss["values"] == [1.5, 2.5, 6.5] and loss["mean"] == pytest.approx(3.5)
    assert loss["std"] == pytest.approx(math.sqrt((4 + 1 + 9) / 3))
    assert summary["forecast"]["mean"] == {"mean": 4.0, "std": 0.0, "values": [4.0, 4.0, 4.0]}
    lstm = summary["detectors"]["LSTM"]
    assert lstm["kinds"]["apnea"]["recall"] == {"mean": 1.0, "std": 0.0, "values": [1.0, 1.0, 1.0]}
    assert lstm["free_response"]["recall"]["mean"] == run_metrics().detectors["LSTM"].free_response.recall
    assert math.isnan(summary["detectors"]["random scores"]["events"]["precision"]["mean"])
