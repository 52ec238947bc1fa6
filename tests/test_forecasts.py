import numpy as np
import pytest
import torch
from breaths import cut

from detection import forecasts
from detection.forecasts import Forecaster, ForecastStream, network_input
from lstm_model import INPUT_LIMIT, StackedLSTM

BURN_IN, BLOCK = 40, 320
EXACT = {"rtol": 0, "atol": 1e-6}        # the same bits with oneDNN; elsewhere, 32-bit rounding


@pytest.fixture
def forecaster(monkeypatch):
    monkeypatch.setattr(forecasts, "MIN_BURN_IN", BURN_IN)
    torch.manual_seed(0)
    return Forecaster(StackedLSTM(2, 8, 2, horizon=3), "cpu", window=10)


def draw_scaled(length, seed=0):
    random = np.random.default_rng(seed)
    scaled = random.normal(size=(length, 2)).astype(np.float32)
    scaled[random.random(scaled.shape) < 0.05] = np.nan
    return scaled


def changes_in_blocks(forecaster, recordings):
    """Return the forecast changes (T, H, C) of recordings that go through the network in blocks."""
    parts = [[] for _ in recordings]
    for blocks in forecaster.blocks([len(scaled) for scaled in recordings]):
        scaled = [recordings[block.recording][block.start : block.last] for block in blocks]
        for block, changes in zip(blocks, forecaster.changes(blocks, scaled), strict=True):
            parts[block.recording].append(changes)
    return [np.concatenate(part) for part in parts]


def changes_in_pieces(stream, scaled, sizes):
    return np.concatenate([stream.update(part) for part in np.split(scaled, np.cumsum(cut(len(scaled), sizes))[:-1])])


def test_blocks_hold_every_step_once_and_in_order(forecaster, monkeypatch):
    monkeypatch.setattr(forecasts, "MAX_FORECASTS_PER_PASS", 3 * 6 * (BURN_IN + BLOCK))
    lengths = [BLOCK, 1, 5 * BLOCK + 7, 2 * BLOCK - 1]
    passes = list(forecaster.blocks(lengths))
    assert [len(blocks) for blocks in passes] == [2, 3, 2, 3]
    for k, length in enumerate(lengths):
        own = [block for blocks in passes for block in blocks if block.recording == k]
        assert [step for block in own for step in range(block.first, block.last)] == list(range(length))
        assert all(block.start == max(block.first - BURN_IN, 0) for block in own)


def test_a_pass_on_a_cpu_leaves_work_for_other_threads(forecaster):
    sizes = [len(blocks) for blocks in forecaster.blocks([13 * BLOCK])]
    assert sum(sizes) == 13 and len(sizes) == 4 and max(sizes) - min(sizes) <= 1
    assert [len(blocks) for blocks in forecaster.blocks([BLOCK] * 40)] == [8] * 5


def test_blocks_of_one_pass_have_about_the_same_length(forecaster):
    steps = [block.last - block.start for blocks in forecaster.blocks([2 * BLOCK + 9] * 4) for block in blocks]
    assert steps == [BLOCK] * 4 + [BURN_IN + BLOCK] * 4 + [BURN_IN + 9] * 4


def test_the_burn_in_is_two_training_windows_or_the_least():
    model = StackedLSTM(1, 4, 1, horizon=1)
    assert Forecaster(model, "cpu", window=10).burn_in == 512
    assert Forecaster(model, "cpu", window=1000).burn_in == 2000


@pytest.mark.parametrize("sizes", [[1], [2], [7], [16], [1000], [1, BURN_IN, 3, BLOCK, 60]], ids=str)
def test_a_stream_gets_what_blocks_side_by_side_get(forecaster, sizes):
    recordings = [draw_scaled(length, seed=length) for length in (2 * BLOCK + 70, 50, BLOCK, BLOCK - BURN_IN)]
    for scaled, whole in zip(recordings, changes_in_blocks(forecaster, recordings), strict=True):
        np.testing.assert_allclose(changes_in_pieces(ForecastStream(forecaster), scaled, sizes), whole, **EXACT)


def test_a_block_does_not_depend_on_steps_before_its_burn_in(forecaster):
    scaled = draw_scaled(2 * BLOCK)
    changed = scaled.copy()
    changed[: BLOCK - BURN_IN] += 1
    (before,), (after,) = changes_in_blocks(forecaster, [scaled]), changes_in_blocks(forecaster, [changed])
    np.testing.assert_array_equal(before[BLOCK:], after[BLOCK:])
    assert not np.allclose(before[BLOCK - BURN_IN : BLOCK], after[BLOCK - BURN_IN : BLOCK])


def test_after_the_burn_in_the_state_is_that_of_one_pass_without_blocks(forecaster):
    scaled = draw_scaled(2 * BLOCK)
    carried, _ = forecaster.run(scaled[None], None)
    np.testing.assert_allclose(changes_in_blocks(forecaster, [scaled])[0], carried[0], rtol=0, atol=1e-5)


def test_a_recording_gets_the_same_whatever_it_is_batched_with(forecaster):
    scaled = draw_scaled(BLOCK)
    (alone,) = changes_in_blocks(forecaster, [scaled])
    beside = changes_in_blocks(forecaster, [draw_scaled(BLOCK, seed=k) * 100 for k in range(20)] + [scaled])[-1]
    np.testing.assert_allclose(beside, alone, **EXACT)


@pytest.mark.parametrize("at", [0, 1, BLOCK - BURN_IN, BLOCK - BURN_IN + 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_a_saved_stream_resumes_with_the_same_forecasts(forecaster, at):
    scaled = draw_scaled(2 * BLOCK)
    whole, first, second = ForecastStream(forecaster), ForecastStream(forecaster), ForecastStream(forecaster)
    expected = changes_in_pieces(whole, scaled, [16])
    for k in range(at):
        first.update(scaled[k : k + 1])
    second.load_state_dict(first.state_dict())
    np.testing.assert_allclose(changes_in_pieces(second, scaled[at:], [1]), expected[at:], **EXACT)


OTHER_STATES = [{"hidden": np.zeros((2, 1, 9))}, {"cell": np.zeros((1, 1, 8))}, {"seen": BLOCK - 1}]


@pytest.mark.parametrize("change", OTHER_STATES, ids=["units", "layers", "place"])
def test_a_state_of_another_model_is_refused(forecaster, change):
    stream = ForecastStream(forecaster)
    with pytest.raises(ValueError, match="the state is of another model"):
        stream.load_state_dict(stream.state_dict() | change)


def test_changes_are_added_to_what_the_network_sees(forecaster):
    scaled = draw_scaled(30)
    scaled[3], scaled[5, 0] = 1e6, -np.inf
    change, _ = forecaster.run(scaled[None], None)
    with torch.inference_mode():
        expected, _ = forecaster.model(torch.from_numpy(scaled)[None])
    np.testing.assert_allclose(network_input(scaled)[:, None] + change[0], expected[0].numpy(), rtol=0, atol=1e-5)
    assert np.abs(network_input(scaled)).max() == INPUT_LIMIT and network_input(scaled).dtype == float
