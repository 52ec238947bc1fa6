import numpy as np
import pytest
import torch

import data_loader
from data_loader import Scaler, TrainingWindows, check_splits_apart, load_dataset, validation_batches
from recordings.windowing import ScalerMeta, write_windows
from utils import DataError

SPLITS = ("train", "val", "test")


def numbered(*lengths, channels=2):
    """Return segments whose values say which segment, step and channel they are."""
    return [
        (1000 * k + np.arange(length)[:, None] + 0.25 * np.arange(channels)).astype(np.float32)
        for k, length in enumerate(lengths)
    ]


@pytest.fixture
def windows():
    def make(segments, **changes):
        shape = {"steps": 8, "horizon": 3, "least": 5, "batch_size": 16}
        options = shape | {"updates": 20, "channel_dropout": 0.0, "seed": 0} | changes
        return TrainingWindows(segments, **options)

    return make


@pytest.fixture
def dataset_folder(tmp_path, make_segment, make_meta, write_meta):
    """Write train, val and test of recordings a, b and a (20 s later) and return the folder."""

    def make(**splits):
        content = {
            "train": [make_segment("a", 0.0, 60)],
            "val": [make_segment("b", 0.0, 40)],
            "test": [make_segment("a", 40.0, 50)],
        } | splits
        spans = {split: write_windows(tmp_path / f"{split}.csv", content[split], ["a", "b"], 20) for split in SPLITS}
        rows = {split: sum(span.steps for span in spans[split]) for split in SPLITS}
        write_meta(tmp_path, make_meta(splits=spans, rows=rows, events={"a": [], "b": []}))
        return tmp_path

    return make


# ---------------------------------------------------------------- the dataset


def test_a_dataset_is_found_or_named_where_it_is(tmp_path):
    folder = tmp_path / "mine" / "made" / "tiny"
    folder.mkdir(parents=True)
    (folder / "meta.json").touch()
    assert data_loader.dataset_folder("tiny", folder.parent) == folder
    with pytest.raises(DataError, match=r"under .*mine, but under .*made: name that one"):
        data_loader.dataset_folder("tiny", tmp_path / "mine")
    with pytest.raises(DataError, match="did you mean 'tiny'"):
        data_loader.dataset_folder("tinny", tmp_path / "mine")

def test_dataset_is_scaled_by_the_scaler_in_meta(dataset_folder):
    dataset = load_dataset(dataset_folder())
    assert dataset.channels == ("a", "b")
    (scaled,) = dataset.scaled("train")
    step = 100.0 * np.arange(60)
    np.testing.assert_allclose(scaled, np.column_stack([step, (step + 1 - 1) / 2]))
    assert scaled.dtype == np.float32


def test_channels_come_in_the_order_asked_for_with_their_own_scaler(dataset_folder):
    folder = dataset_folder()
    swapped, one = load_dataset(folder, ["b", "a"]), load_dataset(folder, ["b"])
    whole = load_dataset(folder).scaled("test")[0]
    np.testing.assert_array_equal(swapped.scaled("test")[0], whole[:, ::-1])
    np.testing.assert_array_equal(one.scaled("test")[0], whole[:, 1:])
    assert one.scaler.center.tolist() == [1.0] and one.scaler.scale.tolist() == [2.0]


def test_scaling_and_back_is_the_same_and_missing_stays_missing():
    scaler = Scaler.of(["x", "y"], ScalerMeta(center=[1.0, -3.0], scale=[2.0, 0.5]), ["y", "x"])
    values = np.array([[1.5, np.nan], [-3.0, 7.0]])
    scaled = scaler.scaled(values)
    np.testing.assert_array_equal(scaled, np.array([[9.0, np.nan], [0.0, 3.0]], np.float32))
    np.testing.assert_allclose(scaler.physical(scaled), values)


@pytest.mark.parametrize("later", ["val", "test"])
@pytest.mark.parametrize(("start_s", "fine"), [(11.6, False), (15.6, False), (15.8, True), (30.0, True)])
def test_training_within_the_guard_of_a_later_split_is_refused(dataset_folder, make_segment, later, start_s, fine):
    # training is at 0 to 11.8 s, the guard is 4 s
    folder = dataset_folder(**{"test": [], later: [make_segment("a", start_s, 20)]})
    if fine:
        load_dataset(folder)
    else:
        with pytest.raises(DataError, match=f"^tiny: train and {later} of a are less than the guard of 4 s apart"):
            load_dataset(folder)


def test_the_guard_holds_on_both_sides_but_not_between_recordings(make_segment, make_meta):
    train = [make_segment("a", 100.0, 20)]                           # 100 to 103.8 s
    for start, name, fine in ((92.0, "a", True), (93.0, "a", False), (101.0, "a", False), (101.0, "b", True)):
        splits = {"train": train, "val": [make_segment(name, start, 20)], "test": []}
        if fine:
            check_splits_apart(splits, make_meta())
        else:
            with pytest.raises(DataError):
                check_splits_apart(splits, make_meta())


# ---------------------------------------------------------------- training windows

def test_every_window_is_consecutive_steps_of_one_segment(windows):
    lengths = (30, 11, 50)
    for x, series in windows(numbered(*lengths)):
        assert x.shape == (16, 8, 2) and series.shape == (16, 11, 2)
        assert (series.diff(dim=1) == 1).all()                       # no jump from one segment to the next
        segment, step = (series[:, 0, 0] // 1000).int(), series[:, 0, 0] % 1000
        assert (step + 11 <= torch.tensor(lengths)[segment]).all()
        torch.testing.assert_close(x, series[:, :8])
        torch.testing.assert_close(series[:, :, 1], series[:, :, 0] + 0.25)


def test_every_offset_is_drawn_and_about_equally_often(windows):
    starts = torch.cat([series[:, 0, 0] for _, series in windows(numbered(30, 11), updates=300)])
    values, counts = starts.unique(return_counts=True)
    assert values.tolist() == [*range(20), 1000]
    assert counts.min() > 0.6 * 4800 / 21 and counts.max() < 1.4 * 4800 / 21


def test_windows_are_views_of_one_tensor(windows):
    loader = windows(numbered(3000, 2000), steps=500, horizon=30)
    assert loader.windows.data_ptr() == loader.steps.data_ptr()
    assert loader.windows.untyped_storage().nbytes() == 5000 * 2 * 4
    assert loader.windows.shape == (5000 - 530 + 1, 2, 530)


def test_the_same_seed_draws_the_same_and_every_pass_draws_anew(windows):
    def passes(seed):
        loader = windows(numbered(60, 40), seed=seed, channel_dropout=0.3)
        return [torch.cat([x.nan_to_num(-1) for x, _ in loader]) for _ in range(2)]

    (a1, a2), (b1, b2), (c1, _) = passes(1), passes(1), passes(2)
    assert torch.equal(a1, b1) and torch.equal(a2, b2)
    assert not torch.equal(a1, a2) and not torch.equal(a1, c1)


def test_drawing_leaves_the_global_generator_alone(windows):
    state = torch.random.get_rng_state()
    list(windows(numbered(60), channel_dropout=0.3))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_pass_has_as_many_batches_as_its_length(windows):
    loader = windows(numbered(60), updates=7)
    assert len(loader) == len(list(loader)) == 7


def test_short_segments_are_padded_and_too_short_ones_ignored(windows):
    loader = windows(numbered(4, 5), least=5)
    assert loader.steps.shape == (11, 2)
    _, series = next(iter(loader))
    assert (series[:, :5, 0] == torch.arange(1000, 1005)).all() and series[:, 5:].isnan().all()


def test_only_too_short_segments_is_one_line(windows):
    for segments, longest in ((numbered(4, 3), 4), ([], 0)):
        with pytest.raises(DataError, match=f"the longest has {longest} steps?, but warm-up and horizon need 5"):
            windows(segments)


def test_missing_values_stay_missing(windows):
    (segment,) = numbered(30)
    segment[10:20, 1] = np.nan
    for x, series in windows([segment]):
        inside = (series[:, :, 0] >= 10) & (series[:, :, 0] < 20)
        assert torch.equal(series[:, :, 1].isnan(), inside) and torch.equal(x[:, :, 1].isnan(), inside[:, :8])


# ---------------------------------------------------------------- channel dropout

@pytest.mark.parametrize("channels", [2, 3])
def test_channel_dropout_never_takes_all_channels_and_spares_the_series(windows, channels):
    lost, total = 0, 0
    for x, series in windows(numbered(60, channels=channels), channel_dropout=0.6, updates=50):
        missing = x.isnan()
        assert not missing.all(dim=2).any() and not series.isnan().any()
        torch.testing.assert_close(x[~missing], series[:, :8][~missing])
        assert ((missing.int().diff(dim=1) == 1).sum(dim=1) <= 1).all()     # one interval per channel and window
        lost, total = lost + int(missing.any(dim=1).any(dim=1).sum()), total + len(x)
    assert 0.2 < lost / total < 0.95


def test_channel_dropout_spares_a_single_channel_and_is_off_at_0(windows):
    for loader in (windows(numbered(60)), windows(numbered(60, channels=1), channel_dropout=0.9)):
        for x, series in loader:
            torch.testing.assert_close(x, series[:, :8])


# ---------------------------------------------------------------- validation batches

@pytest.mark.parametrize("lengths", [(30,), (11,), (27, 35), (8 + 8 + 3,), (100, 12, 6)])
def test_validation_covers_every_origin_once(lengths):
    segments = numbered(*lengths)
    batches = validation_batches(segments, steps=8, horizon=3, least=4, batch_size=3)
    assert max(len(x) for x, _ in batches) <= 3
    x, series = (torch.cat(part) for part in zip(*batches, strict=True))
    assert x.shape[1:] == (8, 2) and series.shape[1:] == (11, 2)
    torch.testing.assert_close(x, series[:, :8], equal_nan=True)
    whole = ~series[:, 3:, 0].isnan()                                # an origin's H targets are all there
    origins = x[:, :, 0][whole[:, :8]]
    expected = np.concatenate([segment[: len(segment) - 3, 0] for segment in segments if len(segment) > 3])
    left = set(expected.tolist()) - set(origins.tolist())
    assert len(origins) == len(origins.unique()) and set(origins.tolist()) <= set(expected.tolist())
    tails = {float(v) for s in segments for v in s[:, 0] if len(s) - 3 - (v % 1000 // 8 * 8) < 1}
    assert left <= tails                                             # only tails shorter than `least` are left


def test_validation_batches_are_the_same_every_time():
    a, b = (validation_batches(numbered(50, 20), steps=8, horizon=3, least=5, batch_size=4) for _ in range(2))
    for (x, series), (x2, series2) in zip(a, b, strict=True):
        torch.testing.assert_close(x, x2, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(series, series2, rtol=0, atol=0, equal_nan=True)


def test_tails_shorter_than_least_are_ignored():
    (batch,) = validation_batches(numbered(22), steps=8, horizon=3, least=7, batch_size=9)
    assert batch[1][:, 0, 0].tolist() == [0, 8]                      # 16 to 22 has 6 steps


def test_no_calibration_segment_long_enough_is_one_line():
    message = "^no calibration segment is long enough: the longest has [0-9]+ steps, but warm-up and horizon need 5"
    with pytest.raises(DataError, match=message):
        validation_batches(numbered(4, 2), steps=8, horizon=3, least=5, batch_size=4)
