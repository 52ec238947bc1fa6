"""The detector as a library: the same scores and events as the scripts', arrays or DataFrames in and out."""

import importlib
import sys

import numpy as np
import pandas as pd
import pytest
import tiny

import pure_lstm_anomaly_detection_main as script
from detection import anomaly_scores, thresholds
from estimators.lstm import LSTMDetector
from utils import DataError

QUICK = {"training.epochs": 2, "training.updates_per_epoch": 5, "model.hidden_units": 8, "model.num_layers": 1}


def wave(rows, seed=0, spike=None):
    random, t = np.random.default_rng(seed), np.arange(rows)
    values = np.sin(t / 9)[:, None] * [1.0, 2.0] + 0.1 * random.normal(size=(rows, 2))
    if spike is not None:
        values[spike : spike + 30] += 6
    return values


@pytest.fixture(scope="module")
def fitted():
    return LSTMDetector(config=QUICK).fit(wave(1500))


def test_calibration_that_is_given_is_all_that_calibrates(fitted):
    given = LSTMDetector(config=QUICK).fit(wave(900), calibration=wave(600, seed=5))
    (calibrated_on,) = given._training[0].normal
    np.testing.assert_array_equal(calibrated_on, wave(600, seed=5))
    guard = sum(getattr(fitted.detector.resolved, part) for part in ("horizon", "warm_up"))
    assert sum(map(len, fitted._training[0].normal)) == pytest.approx(1500 - guard, abs=2)


def test_a_loaded_model_scores_as_the_main_script_does(tmp_path, blank_pictures):
    model, night = tiny.make_checkpoint(tmp_path), tiny.draw_recording(130, 3, trouble=True)
    night.to_csv(tmp_path / "night.csv", index=False)
    out = tmp_path / "out"
    assert script.main(["--checkpoint", str(model), "--score", str(tmp_path / "night.csv"), "--out", str(out)]) == 0
    detector, scores = LSTMDetector.load(model), pd.read_csv(out / "scores.csv")
    steps = detector.score(night).set_index("t_s")
    ours = steps.loc[scores["t_s"]]
    np.testing.assert_allclose(ours["score"], scores["score"], atol=1e-6)
    assert (ours["alarm"].to_numpy() == scores["alarm"].to_numpy()).all() and ours["alarm"].any()
    assert steps.loc[~steps.index.isin(scores["t_s"]), "score"].isna().all()
    events, ours = pd.read_csv(out / "events.csv"), detector.events(night)
    assert list(ours["kind"]) == list(events["kind"]) and len(events)
    np.testing.assert_allclose(ours[["start_s", "end_s"]], events[["start_s", "end_s"]], atol=1e-3)
    numbers = pd.read_csv(out / "nights.csv").iloc[0]
    for name in ("hours", "ahi", "lost_percent"):
        assert detector.night(night)[name] == pytest.approx(numbers[name], abs=1e-3, nan_ok=True)


def test_what_is_fitted_finds_what_is_strange(fitted):
    steps = fitted.score(wave(1500, 1, spike=900))
    assert len(steps) == 1500 and list(steps) == ["t_s", "score", "threshold", "alarm", "channel", "component"]
    assert steps["score"][900:940].max() > 2 * steps["score"][100:890].max()
    assert steps["alarm"][900:940].any() and set(steps["channel"][905:910]) <= {"x0", "x1"}
    events = fitted.events(wave(1500, 1, spike=900))
    assert ((events["start_s"] < 935) & (events["end_s"] >= 900)).any() and set(events["kind"]) == {"anomaly"}


def test_a_data_frame_is_read_by_its_names(fitted):
    values = wave(800, 2)
    frame = pd.DataFrame({"x1": values[:, 1], "note": 0.0, "x0": values[:, 0]})
    pd.testing.assert_frame_equal(fitted.score(frame), fitted.score(values))


@pytest.mark.parametrize("piece", [1, 77])
def test_a_stream_gives_the_scores_of_the_whole(fitted, piece):
    values = wave(200, 3, spike=150)
    values[175] = np.nan
    live = fitted.stream()
    parts = pd.concat([live.update(values[k : k + piece]) for k in range(0, 200, piece)], ignore_index=True)
    pd.testing.assert_frame_equal(parts, fitted.score(values), check_exact=False, atol=1e-5)


def test_a_stream_begins_anew_after_a_gap_in_breathing(tmp_path):
    detector = LSTMDetector.load(tiny.make_checkpoint(tmp_path))
    values = np.column_stack([np.sin(np.arange(300) / 3 + k) for k in range(len(detector.channels))])
    values[150:160] = np.nan
    live = detector.stream()
    parts = pd.concat([live.update(values[k : k + 40]) for k in range(0, 300, 40)], ignore_index=True)
    pd.testing.assert_frame_equal(parts, detector.score(values), check_exact=False, atol=1e-5)


def test_a_saved_model_is_the_same_again_and_so_is_a_second_training(fitted, tmp_path):
    values, path = wave(600, 4), fitted.save(tmp_path / "model.safetensors")
    pd.testing.assert_frame_equal(LSTMDetector.load(path).score(values), fitted.score(values))
    pd.testing.assert_frame_equal(LSTMDetector(config=QUICK).fit(wave(1500)).score(values), fitted.score(values))


def test_raw_breathing_is_resampled_and_kept_apart_from_calibration():
    night = tiny.draw_recording(240, 5)
    detector = LSTMDetector(2.0, {"flow": "airflow", "belt": "effort"}, QUICK).fit(night)
    assert detector.detector.resolved.measures == ("airflow", "effort")
    steps = detector.score(night)
    assert np.diff(steps["t_s"]) == pytest.approx(0.5) and steps["score"].notna().sum() > 300


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LSTMDetector().fit([]), "no recording is given"),
        (lambda: LSTMDetector(config=QUICK).fit(wave(40)), "too little data"),
        (lambda: LSTMDetector(config={"training.epoch": 1}).fit(wave(900)), "training.epoch: unknown key"),
        (lambda: LSTMDetector(5.0, {"flow": "wind"}, QUICK).fit(wave(900)), "flow|measures"),
        (lambda: LSTMDetector(config=QUICK).fit(np.full((900, 1), np.inf)), "infinite"),
        (lambda: LSTMDetector(config=QUICK).fit(pd.DataFrame({"x": [0.0] * 899 + [np.inf]})), "infinite"),
        (lambda: LSTMDetector(config=QUICK).fit(pd.DataFrame({"x": ["1", "2", "off"]})), "'x', row 2: found 'off'"),
    ],
)
def test_wrong_input_is_one_clear_line(call, message):
    with pytest.raises(DataError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_misuse_is_named(fitted):
    with pytest.raises(ValueError, match="not fitted"):
        LSTMDetector().score(wave(10))
    with pytest.raises(ValueError, match="no channel measures breathing"):
        fitted.night(wave(400))
    for wrong in (wave(100)[:, :1], pd.DataFrame({"x0": [1.0]})):
        with pytest.raises(DataError, match="expected"):
            fitted.score(wrong)


# ---- adapters -------------------------------------------------------------------------------


def test_pyod_takes_it_as_one_of_its_own():
    pytest.importorskip("pyod")
    from estimators.pyod_detector import LSTMOutlierDetector

    values = wave(1200, spike=700)
    detector = LSTMOutlierDetector(contamination=0.03, config=QUICK).fit(values)
    assert detector.decision_scores_.shape == detector.labels_.shape == (1200,)
    assert detector.labels_[700:740].any() and detector.labels_.mean() == pytest.approx(0.03, abs=0.01)
    new = wave(600, 1, spike=400)
    scores = detector.decision_function(new)
    assert scores[400:430].max() > 1.5 * scores[:400].max() and detector.predict(new)[400:430].any()
    probability = detector.predict_proba(new)
    assert probability.shape == (600, 2) and ((probability >= 0) & (probability <= 1)).all()
    assert LSTMOutlierDetector(**detector.get_params()).get_params() == detector.get_params()


def test_aeon_takes_it_as_one_of_its_own(monkeypatch):
    checking = pytest.importorskip("aeon.testing.estimator_checking")
    from estimators.aeon_detector import LSTMSeriesAnomalyDetector

    detector = LSTMSeriesAnomalyDetector(config=QUICK)
    scores = detector.fit(wave(1200), axis=0).predict(wave(600, 1, spike=400), axis=0)
    assert scores.shape == (600,) and scores[400:430].max() > 2 * scores[:400].max()
    np.testing.assert_array_equal(scores, detector.predict(wave(600, 1, spike=400).T, axis=1))
    for module, least in ((anomaly_scores, "MIN_CALIBRATION_STEPS"), (thresholds, "MIN_SCORES")):
        monkeypatch.setattr(module, least, 2)                                # aeon's checks have series of 20 rows
    results = checking.check_estimator(LSTMSeriesAnomalyDetector, raise_exceptions=False)
    assert len(results) > 15 and set(results.values()) == {"PASSED"}, results


@pytest.mark.parametrize(("module", "package"), [("pyod_detector", "pyod"), ("aeon_detector", "aeon")])
def test_an_adapter_without_its_library_says_so(monkeypatch, module, package):
    for known in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"estimators.{module}", raising=False)
    with pytest.raises(DataError, match=f'pip install "?{package}'):
        importlib.import_module(f"estimators.{module}")
