import json

import numpy as np
import pandas as pd
import pytest

from recordings.windowing import (
    Segment,
    chronological_borders,
    csv_columns,
    fit_scaler,
    label_steps,
    normal_steps,
    read_meta,
    read_windows,
    segments_where,
    true_runs,
    write_windows,
)
from utils import DataError

CHANNELS = ["a", "b"]


@pytest.fixture
def write(tmp_path, make_meta, write_meta):
    """Write segments as train.csv with a meta.json that fits; return the file and its meta."""

    def of(segments, window_steps=50):
        spans = write_windows(tmp_path / "train.csv", segments, CHANNELS, window_steps)
        rows = {"train": sum(span.steps for span in spans), "val": 0, "test": 0}
        meta = make_meta(rows=rows, splits={"train": spans, "val": [], "test": []})
        write_meta(tmp_path, meta)
        return tmp_path / "train.csv", meta

    return of


# ---------------------------------------------------------------- by hand

def test_true_runs_by_hand():
    assert true_runs(np.array([1, 1, 0, 0, 1, 0, 1], bool)).tolist() == [[0, 2], [4, 5], [6, 7]]
    assert true_runs(np.zeros(3, bool)).tolist() == [] and true_runs(np.ones(3, bool)).tolist() == [[0, 3]]
    assert true_runs(np.zeros(0, bool)).shape == (0, 2)


def test_normal_and_label_steps_by_hand():
    t = np.arange(10.0)
    assert label_steps(t, [(2.0, 4.0), (7.5, 7.6)]).tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert label_steps(t, []).tolist() == [0] * 10
    assert np.flatnonzero(normal_steps(t, [(4.0, 5.0)], 2.0)).tolist() == [0, 1, 8, 9]
    assert normal_steps(t, [], 2.0).all()
    assert not normal_steps(t, [(0.0, 1.0), (8.0, 9.0)], 4.0).any()


def test_borders_by_hand_cut_the_guard_from_the_training_side():
    assert chronological_borders(0, 1000, 0.2, 0.3, 30) == {"train": (0, 470), "val": (500, 670), "test": (700, 1000)}
    assert chronological_borders(0, 1000, 0.4, 0.0, 30) == {"train": (0, 570), "val": (600, 1000)}
    assert chronological_borders(0, 1000, 0.0, 0.4, 30) == {"train": (0, 570), "test": (600, 1000)}
    assert chronological_borders(100, 1100, 0.0, 0.0, 30) == {"train": (100, 1100)}
    shifted = chronological_borders(100, 1100, 0.2, 0.3, 30)
    assert shifted == {"train": (100, 570), "val": (600, 770), "test": (800, 1100)}


@pytest.mark.parametrize("seed", range(30))
def test_no_split_shares_a_step_and_each_keeps_its_guard(seed):
    rng = np.random.default_rng(seed)
    rate, steps = rng.choice([1.0, 3.0, 5.0, 12.5]), int(rng.integers(500, 3000))
    guard, fractions = rng.uniform(0, 20), rng.uniform(0.1, 0.4, 2)
    t = rng.uniform(0, 50) + np.arange(steps) / rate
    borders = chronological_borders(t[0], t[-1] + 0.5 / rate, *fractions, guard)
    parts = [t[(t >= first) & (t < last)] for first, last in (borders[s] for s in ("train", "val", "test"))]
    for earlier, later in zip(parts, parts[1:], strict=False):
        assert later[0] - earlier[-1] > guard - 1e-9
    assert parts[0][0] == t[0] and parts[2][-1] == t[-1]


# ---------------------------------------------------------------- segments and windows

def test_segments_end_at_gaps_and_where_no_channel_has_a_value(make_segment):
    segment = make_segment(steps=20)
    segment.values[3] = np.nan                                       # both channels
    segment.values[8, 0] = np.nan                                    # one of them
    keep = np.ones(20, bool)
    keep[12:15] = False
    parts = segments_where(segment, keep)
    assert [(round(p.t[0] * 5), len(p)) for p in parts] == [(0, 3), (4, 8), (15, 5)]
    assert segments_where(segment, np.zeros(20, bool)) == []


def test_write_then_read_gives_the_same(write, make_segment):
    rng = np.random.default_rng(0)
    segments = []
    for name, start, steps in (("a", 0.0, 120), ("a", 50.0, 33), ("b", 1000.2, 50), ("NA", 0.0, 7), ("007", 0.0, 1)):
        segment = make_segment(name, start, steps)
        segment.values[:] = rng.normal(size=(steps, 2)) * [1e-6, 1e4]
        segment.values[rng.random((steps, 2)) < 0.2] = np.nan
        segment.values[0, 0], segment.values[-1, 1] = 0.5, np.nan
        segment.label[steps // 2 :] = 1
        segments.append(segment)
    path, meta = write(segments)
    back = read_windows(path, meta, CHANNELS)
    assert [s.recording for s in back] == ["a", "a", "b", "NA", "007"]
    for segment, other in zip(segments, back, strict=True):
        np.testing.assert_array_equal(other.t, np.round(segment.t, 6))
        np.testing.assert_array_equal(other.values, segment.values.astype(np.float32))
        np.testing.assert_array_equal(other.label, segment.label)
    swapped = read_windows(path, meta, ["b"])
    np.testing.assert_array_equal(swapped[0].values[:, 0], segments[0].values[:, 1].astype(np.float32))


def test_windows_cross_no_recording_or_gap_and_no_step_is_repeated(write, make_segment):
    segments = [make_segment("a", 0.0, 120), make_segment("a", 100.0, 60), make_segment("b", 0.0, 50)]
    path, meta = write(segments)
    frame = pd.read_csv(path)
    assert list(frame.columns) == csv_columns(CHANNELS)
    assert list(frame.columns) == ["recording", "window", "t_s", "a", "b", "valid_a", "valid_b", "label"]
    assert frame.groupby("window").size().tolist() == [50, 50, 20, 50, 10, 50]
    for _, window in frame.groupby("window"):
        assert window["recording"].nunique() == 1
        np.testing.assert_allclose(np.diff(window["t_s"]), 0.2)
        assert (np.diff(window.index) == 1).all()
    assert not frame.duplicated(["recording", "t_s"]).any()
    assert [(s.recording, s.start_s, s.end_s, s.steps) for s in meta.splits["train"]] == [
        ("a", 0.0, 23.8, 120), ("a", 100.0, 111.8, 60), ("b", 0.0, 9.8, 50),
    ]


def test_neighbouring_windows_join_again(write, make_segment):
    path, meta = write([make_segment("a", 0.0, 173)], window_steps=10)
    (segment,) = read_windows(path, meta, CHANNELS)
    assert len(segment) == 173


def test_two_recordings_that_follow_on_do_not_join(write, make_segment):
    path, meta = write([make_segment("a", 0.0, 10), make_segment("b", 2.0, 10)])
    assert [len(s) for s in read_windows(path, meta, CHANNELS)] == [10, 10]


def test_a_single_missing_step_parts_two_segments(write, make_segment):
    path, meta = write([make_segment("a", 0.0, 10), make_segment("a", 2.2, 10)])
    assert [len(s) for s in read_windows(path, meta, CHANNELS)] == [10, 10]


def test_a_value_marked_as_not_valid_is_missing(write, make_segment):
    path, meta = write([make_segment(steps=3)])
    edit(path, 3, "1,1,0", "1,0,0")
    (segment,) = read_windows(path, meta, CHANNELS)
    assert np.argwhere(np.isnan(segment.values)).tolist() == [[1, 1]]


def test_a_missing_value_is_an_empty_cell(write, make_segment):
    segment = make_segment(steps=2)
    segment.values[:] = [[1.25, np.nan], [np.nan, 3.0]]
    path, _ = write([segment])
    assert path.read_text().splitlines()[1:] == ["a,0,0.0,1.25,,1,0,0", "a,0,0.2,,3.0,0,1,0"]


def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path, make_segment):
    path = tmp_path / "train.csv"
    write_windows(path, [make_segment()], CHANNELS, 50)
    before = path.read_bytes()

    def broken():
        yield make_segment()
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_windows(path, broken(), CHANNELS, 50)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- the scaler

def one_channel(*columns):
    return [Segment("a", np.arange(len(c)) / 5, np.array(c, float)[:, None], np.zeros(len(c))) for c in columns]


def test_scaler_by_hand():
    scaler = fit_scaler(one_channel([1, 3, np.nan], [1, 3]), ["flow"])
    assert (scaler.center, scaler.scale) == ([2.0], [1.0])


def test_scaler_is_not_moved_by_a_few_wild_values():
    values = np.random.default_rng(0).normal(5, 2, 10_000)
    wild = values.copy()
    wild[:20] = 1e6
    for column in (values, wild):
        scaler = fit_scaler(one_channel(column), ["flow"])
        assert scaler.center[0] == pytest.approx(5, abs=0.1) and scaler.scale[0] == pytest.approx(2, abs=0.1)


def test_scaler_of_a_nearly_constant_channel_is_greater_than_zero():
    column = np.zeros(1000)
    column[5] = 1
    assert fit_scaler(one_channel(column), ["flow"]).scale[0] == pytest.approx(column.std())


@pytest.mark.parametrize(("column", "found"), [([np.nan, np.nan], "has no value"), ([3, 3, np.nan], "constant at 3")])
def test_scaler_refuses_a_channel_that_cannot_be_scaled(column, found):
    with pytest.raises(DataError, match=f"channel 'flow' .*{found} in the training data"):
        fit_scaler(one_channel(column), ["flow"])


# ---------------------------------------------------------------- damaged files

def edit(path, row, old, new):
    lines = path.read_text().splitlines()
    assert old in lines[row - 1]
    lines[row - 1] = lines[row - 1].replace(old, new)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("row", "old", "new", "expected"),
    [
        (1, "t_s", "time", "no column 't_s'"),
        (1, "valid_b", "b_valid", "no column 'valid_b'"),
        (4, "a,0,0.4", "a,0,0.1", "row 4: t_s does not increase"),
        (4, "a,0,0.4", "a,0,", "no recording or no time"),
        (4, "a,0,", ",0,", "no recording or no time"),
        (4, "200.0,201.0", "200.0,text", "train.csv: "),
        (4, "200.0,201.0", "200.0,", "row 4: b has no value, but valid_b is 1"),
        (4, "200.0,201.0", "inf,201.0", "row 4: a has no value, but valid_a is 1"),
        (4, "1,1,0", "2,1,0", "row 4: valid_a is 2; expected 0 or 1"),
        (4, "1,1,0", "1,1,5", "row 4: label is 5; expected 0 or 1"),
        (4, "1,1,0", "1,1,", "train.csv: "),
        (4, "200.0,201.0", "200,0,201.0", "train.csv: "),            # a decimal comma
    ],
)
def test_an_edited_csv_is_one_line(write, make_segment, row, old, new, expected):
    path, meta = write([make_segment(steps=20)])
    edit(path, row, old, new)
    with pytest.raises(DataError) as caught:
        read_windows(path, meta, CHANNELS)
    line = str(caught.value)
    assert line.startswith("train.csv: ") and expected in line and "\n" not in line


@pytest.mark.parametrize("keep", [0, 30, 300, 700])
def test_a_truncated_csv_is_one_line(write, make_segment, keep):
    path, meta = write([make_segment(steps=40)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="^train.csv: ") as caught:
        read_windows(path, meta, CHANNELS)
    assert "\n" not in str(caught.value)


def test_a_missing_csv_names_the_remedy(tmp_path, make_meta):
    with pytest.raises(DataError, match="train.csv: no such file; preprocess the dataset again"):
        read_windows(tmp_path / "train.csv", make_meta(), CHANNELS)


def test_meta_comes_back_as_written(tmp_path, make_meta, write_meta):
    write_meta(tmp_path, make_meta())
    assert read_meta(tmp_path) == make_meta()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 99}, "format is 99"),
        ({"format": "1"}, "format is '1'; expected an integer"),
        ({"rate_hz": 0.0}, "greater than 0"),
        ({"scaler": {"center": [0.0], "scale": [1.0, 1.0]}}, "scaler.center needs 2 numbers, one per channel"),
        ({"scaler": {"center": [0.0, 0.0], "scale": [1.0, 0.0]}}, "scaler.scale is [1.0, 0.0]; expected 1e-30"),
        ({"scaler": {"center": [0.0, None], "scale": [1.0, 1.0]}}, "scaler.center.1 is None; expected a number"),
        ({"chanels": {}}, "chanels: unknown key; did you mean 'channels'?"),
        ({"channels": {}, "scaler": {"center": [], "scale": []}}, "channels is {}; expected at least 1 item"),
    ],
)
def test_an_edited_meta_is_one_line(tmp_path, make_meta, write_meta, changes, expected):
    path = write_meta(tmp_path, make_meta())
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError) as caught:
        read_meta(tmp_path)
    line = str(caught.value)
    assert line.startswith("meta.json: ") and expected in line and "\n" not in line


def test_a_truncated_or_missing_meta_is_one_line(tmp_path, make_meta, write_meta):
    path = write_meta(tmp_path, make_meta())
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match="^meta.json: line .* not JSON"):
        read_meta(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="no such file; run the dataset's preprocessing script first"):
        read_meta(tmp_path)
