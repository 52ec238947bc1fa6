import numpy as np
import pytest
import torch
from breaths import cut

from config import ExperimentConfig, ModelConfig, TrainingConfig, validate
from data_loader import Scaler
from detection import forecasts, thresholds
from detection.checkpoint import detector_from, load_checkpoint, model_from, state_of, write_tensors
from detection.detector import (
    Detector,
    DetectorStream,
    build_model,
)
from detection.resolved import resolve
from utils import DataError

RATE = 5.0
CONFIG = ExperimentConfig(
    model=ModelConfig(hidden_units=8, num_layers=2, horizon_s=2.0, warm_up_s=2.0),
    training=TrainingConfig(window_s=4.0),
)
FIELDS = ("score", "threshold", "alarm", "channel", "component", "residual", "forecast")


def draw_breathing(length, seed):
    """Return physical values (T, C) of a flow in L/min and a belt, with a missing stretch."""
    random, t = np.random.default_rng(seed), np.arange(length)[:, None]
    values = np.sin(2 * np.pi * t / 20 + np.array([0.0, 1.0])) + 0.1 * random.normal(size=(length, 2))
    values = values * np.array([30.0, 0.5]) + np.array([0.0, 7.0])
    values[length // 2 : length // 2 + 20, 1] = np.nan
    return values


def make_detector(config=CONFIG):
    torch.manual_seed(0)
    scaler = Scaler(("flow", "belt"), np.array([0.0, 7.0]), np.array([20.0, 0.4]))
    resolved = resolve(config, scaler.channels, ("L/min", "a.u."), ("airflow", "effort"), RATE)
    return Detector(build_model(resolved), scaler, resolved, "cpu")


@pytest.fixture(scope="module")
def calibrated():
    detector = make_detector()
    detector.calibrate([draw_breathing(1500, seed) for seed in (1, 2)])
    return detector


@pytest.fixture(scope="module")
def recordings():
    parts = [draw_breathing(length, seed=length) for length in (900, 300, 1060, 20)]
    parts[0][600:700, 0] = 0.0
    parts[2][500] *= 5
    return parts


# ---- scoring --------------------------------------------------------------------------------


def test_everything_has_one_value_a_step(calibrated, recordings):
    for scored, values in zip(calibrated.detect(recordings), recordings, strict=True):
        assert all(len(getattr(scored, field)) == len(values) for field in FIELDS)
        assert scored.residual.shape == scored.forecast.shape == values.shape
        assert (scored.alarm == (scored.score > scored.threshold)).all()
        assert scored.alarm.dtype == bool and np.isfinite(scored.threshold).all()


def test_recordings_scored_together_equal_one_by_one(calibrated, recordings):
    compared = calibrated.compare(recordings)
    for comparisons, together, values in zip(compared, calibrated.detect(recordings), recordings, strict=True):
        (alone,) = calibrated.compare([values])
        np.testing.assert_allclose(comparisons.features, alone.features, rtol=0, atol=1e-5)
        (alone,) = calibrated.detect([values])
        np.testing.assert_allclose(together.residual, alone.residual, rtol=0, atol=1e-5)
        np.testing.assert_allclose(together.score, alone.score, rtol=0, atol=1e-4)   # a tail of even breaths is steep
        for name, rule in together.baselines.items():
            np.testing.assert_allclose(rule, alone.baselines[name], rtol=0, atol=1e-4)


def test_more_recordings_than_go_together_keep_their_order(calibrated):
    lengths = [40 + 7 * (k * 5 % 19) for k in range(19)]
    scored = calibrated.detect([draw_breathing(length, seed=length) for length in lengths])
    assert [len(one.score) for one in scored] == lengths


@pytest.mark.parametrize("sizes", [[1], [2], [7], [16], [1000], [1, 190, 3, 60]], ids=str)
@pytest.mark.parametrize("method", ["quantile", "dynamic"])
def test_streaming_gives_what_detect_gives(calibrated, recordings, sizes, method, monkeypatch):
    values = recordings[2]
    monkeypatch.setattr(forecasts, "MIN_BURN_IN", 50)                # so that there are several blocks
    if method == "dynamic":                                          # one that moves along
        with_scores = [one.score for one in calibrated.detect([draw_breathing(1500, seed) for seed in (1, 2)])]
        monkeypatch.setattr(calibrated, "threshold", thresholds.fit("dynamic", with_scores, history=200, block=20))
    (expected,) = calibrated.detect([values])
    got = stream_of(DetectorStream(calibrated), values, sizes)
    for field in FIELDS:
        atol = 1e-4 if field in ("score", "threshold") else 1e-5         # a tail of even breaths is steep
        np.testing.assert_allclose(got[field], getattr(expected, field), rtol=1e-6, atol=atol)
    assert method == "quantile" or len(np.unique(got["threshold"])) > 3


def stream_of(stream, values, sizes):
    """Return what a stream gives for values (T, C) that come in pieces."""
    parts = [stream.update(part) for part in np.split(values, np.cumsum(cut(len(values), sizes))[:-1])]
    return {field: np.concatenate([getattr(part, field) for part in parts]) for field in FIELDS}


def test_a_score_depends_on_no_later_step(calibrated, recordings):
    changed = recordings[0].copy()
    changed[500:] = changed[500:] * 3 + 1
    (before,), (after,) = calibrated.detect([recordings[0]]), calibrated.detect([changed])
    np.testing.assert_array_equal(before.score[:500], after.score[:500])
    assert not np.array_equal(before.score[500:], after.score[500:])


def test_residual_and_forecast_are_in_physical_units(calibrated, recordings):
    values = recordings[0]
    (scored,) = calibrated.detect([values])
    horizon = calibrated.model.horizon
    with torch.inference_mode():
        scaled = torch.from_numpy(calibrated.scaler.scaled(values))
        made = calibrated.scaler.physical(calibrated.model(scaled[None])[0][0].numpy())        # (T, H, C)
    t = 450
    errors = [values[t] - made[t - 1 - h, h] for h in range(horizon)]
    np.testing.assert_allclose(scored.residual[t], np.sqrt(np.mean(np.square(errors), axis=0)), rtol=1e-3)
    lead = (horizon - 1) // 2
    np.testing.assert_allclose(scored.forecast[t], made[t - 1 - lead, lead], rtol=1e-3, atol=1e-3)


# ---- calibration ----------------------------------------------------------------------------


def test_alarms_on_calibration_data_are_as_rare_as_the_quantile_says():
    rule = CONFIG.threshold.model_copy(update={"method": "quantile", "parameters": {"q": 0.9}})
    config = CONFIG.model_copy(update={"threshold": rule})
    detector, normal = make_detector(config), [draw_breathing(1500, seed) for seed in (1, 2)]
    detector.calibrate(normal)
    scored = detector.detect(normal)
    with_score = np.concatenate([s.score for s in scored])
    share = np.concatenate([s.alarm for s in scored]).sum() / np.isfinite(with_score).sum()
    assert share == pytest.approx(0.1, abs=0.002)


def test_too_little_calibration_data_says_where_more_is_needed():
    with pytest.raises(DataError, match=r"calibration: .* at least .*val"):
        make_detector().calibrate([draw_breathing(40, seed=1)])


# ---- checkpoints ----------------------------------------------------------------------------


def test_a_saved_detector_scores_the_very_same(tmp_path, calibrated, recordings):
    write_tensors(tmp_path / "checkpoint.safetensors", state_of(calibrated) | {"data": {}})
    again = detector_from(load_checkpoint(tmp_path / "checkpoint.safetensors"), "cpu")
    assert (again.channels, again.units) == (("flow", "belt"), ("L/min", "a.u."))
    assert again.resolved.measures == ("airflow", "effort")
    for before, after in zip(calibrated.detect(recordings), again.detect(recordings), strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]


# ---- sizes ----------------------------------------------------------------------------------


def resolved_for(config, rate=RATE, channels=("flow", "belt")):
    measures = ("airflow", "effort", "effort")[: len(channels)]
    return resolve(config, channels, ("L/min", "a.u.", "a.u.")[: len(channels)], measures, rate)


def test_spans_follow_the_rate_and_never_vanish():
    config = ExperimentConfig(model=ModelConfig(horizon_s=6.0, warm_up_s=10.0))
    resolved = resolved_for(config)
    spans = resolved.spans
    assert (resolved.horizon, resolved.warm_up, resolved.window, resolved.min_steps) == (30, 50, 250, 81)
    assert (spans.warm_up, spans.settle, spans.near, spans.transient, spans.error) == (50, 15, 1, 3, 5)
    assert (spans.amplitude, spans.expected, spans.baseline) == (46, 300, 900)
    slow = resolved_for(config, 0.05).spans
    assert min(slow.settle, slow.near, slow.transient, slow.error, slow.expected) == 1 and slow.amplitude == 2
    near = config.model_copy(update={"score": config.score.model_copy(update={"near_s": 99.0})})
    assert resolved_for(near).spans.near == 30
    assert resolved_for(ExperimentConfig(model=ModelConfig(warm_up_s=0.0))).warm_up == 0


def test_rows_and_seconds_resolve_to_the_same_steps():
    in_rows = validate(ExperimentConfig, {"model": {"horizon_rows": 12}, "score": {"amplitude_rows": 6}}, "x")
    in_seconds = validate(ExperimentConfig, {"model": {"horizon_s": 2.4}, "score": {"amplitude_s": 1.2}}, "x")
    rows, seconds = resolved_for(in_rows), resolved_for(in_seconds)
    assert (rows.horizon, rows.spans) == (seconds.horizon, seconds.spans) == (12, rows.spans)


def test_build_model_takes_its_sizes_from_the_config_and_checks_weights():
    model = build_model(resolved_for(CONFIG))
    assert (model.channels, model.horizon, model.lstm.hidden_size, model.lstm.num_layers) == (2, 10, 8, 2)
    same = model_from(resolved_for(CONFIG), model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))
    for channels, rate in ((("a", "b", "c"), RATE), (("a", "b"), 2 * RATE)):
        with pytest.raises(ValueError, match="other shapes"):
            model_from(resolved_for(CONFIG, rate, channels), model.state_dict())
