import json
import sys

import numpy as np
import pytest
import torch

from config import ExperimentConfig, ModelConfig
from data_loader import Scaler
from detection import onnx_export
from detection.checkpoint import state_of, write_tensors
from detection.detector import Detector, build_model
from detection.onnx_export import build_onnx, open_session, run_onnx
from detection.resolved import resolve
from export_model import main
from utils import sha256_of

pytestmark = pytest.mark.slow

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -r requirements-export.txt")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime: pip install -r requirements-export.txt")

RATE, UNITS, HORIZON = 5.0, 8, 10
SCALER = Scaler(("flow", "belt", "spo2_pct"), np.array([0.1, 7.0, 96.224]), np.array([20.0, 0.4, 1.15]))
MODELS = {
    "one layer": {"num_layers": 1},
    "two layers": {"num_layers": 2},
    "three layers, trained with dropout": {"num_layers": 3, "dropout": 0.5},
}


def make_detector(scaler=SCALER, **model):
    """Return an untrained detector whose states reach far: weights larger than torch draws them."""
    torch.manual_seed(0)
    sizes = {"hidden_units": UNITS, "num_layers": 2, "horizon_s": HORIZON / RATE, "warm_up_s": 2.0}
    config = ExperimentConfig(model=ModelConfig(**sizes | model))
    units, measures = ("L/min", "a.u.", "%"), ("airflow", "effort", "other")
    resolved = resolve(config, scaler.channels, units, measures, RATE)
    network = build_model(resolved)
    with torch.no_grad():
        for weights in network.parameters():
            weights *= 2
    return Detector(network, scaler, resolved, "cpu")


def draw_breathing(batch, length):
    """Return physical values (B, T, C) in 32 bits, some of them missing, infinite or extreme."""
    random, t = np.random.default_rng(length), np.arange(length)[:, None]
    scaled = np.sin(2 * np.pi * t / 20 + np.arange(3)) + 0.3 * random.normal(size=(batch, length, 3))
    scaled[random.random(scaled.shape) < 0.05] = np.nan
    if length >= 100:
        scaled[:, 50:70, 1] = np.nan
        scaled[0, 80] = np.nan
        scaled[:, 90, 0], scaled[:, 91, 0], scaled[:, 95] = 40.0, -40.0, np.inf
    return (scaled * SCALER.scale + SCALER.center).astype(np.float32)


@pytest.fixture(scope="module")
def calibrated():
    detector = make_detector()
    detector.calibrate([draw_breathing(1, length)[0].astype(float) for length in (1500, 1501)])
    return detector


@pytest.fixture
def checkpoint(tmp_path, calibrated):
    path = tmp_path / "run" / "checkpoint.safetensors"
    write_tensors(path, state_of(calibrated) | {"data": {"simulated": True}, "series": False})
    return path


def session_of(detector):
    return open_session(build_onnx(detector.model, detector.scaler).SerializeToString())


# ---- the same numbers as torch --------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 300])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_forecasts_and_states_are_those_of_torch(model, batch, length):
    detector = make_detector(**model)
    network = detector.model.eval()
    values = draw_breathing(batch, length)
    state = torch.rand(2, network.lstm.num_layers, batch, UNITS)
    with torch.inference_mode():
        expected, next_state = network(torch.from_numpy(SCALER.scaled(values)), tuple(state))
    given = {"values": values, "hidden": state[0].numpy(), "cell": state[1].numpy()}
    forecast, hidden, cell = session_of(detector).run(None, given)
    assert forecast.shape == (batch, length, HORIZON, 3) and forecast.dtype == np.float32
    np.testing.assert_allclose((forecast - SCALER.center) / SCALER.scale, expected.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(hidden, next_state[0].numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(cell, next_state[1].numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_pieces_with_the_state_carried_along_give_the_same(model, batch):
    detector = make_detector(**model)
    values, session = draw_breathing(batch, 300), session_of(detector)
    whole = run_onnx(session, values, (300,), detector.model)
    for pieces in ((1,) * 300, (7, 1, 192, 100)):
        for piece, one in zip(run_onnx(session, values, pieces, detector.model), whole, strict=True):
            scale = SCALER.scale if one.ndim == 4 else 1.0
            np.testing.assert_allclose(piece / scale, one / scale, rtol=0, atol=1e-5)


def test_a_missing_value_is_nan_and_not_the_center():
    detector = make_detector()
    values = np.broadcast_to(SCALER.center.astype(np.float32), (1, 5, 3)).copy()
    present = run_onnx(session_of(detector), values, (5,), detector.model)[0]
    values[0, 2, 1] = np.nan
    missing = run_onnx(session_of(detector), values, (5,), detector.model)[0]
    assert np.isfinite(missing).all()
    np.testing.assert_array_equal(missing[0, :2], present[0, :2])
    assert (np.abs(missing[0, 2] - present[0, 2]) / SCALER.scale).max() > 1e-3


def test_a_center_far_from_zero_costs_no_more_than_rounding():
    scaler = Scaler(("pascal",), np.array([101325.123]), np.array([10.0]))
    detector = make_detector(scaler)
    values = np.array([101325.125, 101335.5, 101310.0], np.float32)[None, :, None]
    with torch.inference_mode():
        expected, (hidden, _) = detector.model.double()(torch.from_numpy((values - scaler.center) / scaler.scale))
    forecast, found, _ = run_onnx(session_of(make_detector(scaler)), values, (3,), detector.model)
    np.testing.assert_allclose(found, hidden.numpy(), rtol=0, atol=1e-6)
    physical = scaler.physical(expected.numpy())
    assert (np.abs(forecast - physical) <= 0.55 * np.spacing(np.float32(101325.0))).all()       # half is rounding


def test_the_check_allows_for_the_last_place_of_large_values():
    detector = make_detector(Scaler(("pascal",), np.array([101325.123]), np.array([10.0])))
    content = build_onnx(detector.model, detector.scaler).SerializeToString()
    forecasts, states = onnx_export.largest_differences(content, detector, "here")
    assert 1e-5 < forecasts < 2e-3 and states < 1e-5


# ---- the file -------------------------------------------------------------------------------


def dimensions(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("layers", [1, 3])
def test_the_graph_has_one_lstm_a_layer_and_free_batch_and_steps(layers):
    written = build_onnx(make_detector(num_layers=layers).model, SCALER)
    onnx.checker.check_model(written, full_check=True)
    assert [n.op_type for n in written.graph.node].count("LSTM") == layers
    assert [(o.domain, o.version) for o in written.opset_import] == [("", 17)]
    state = [layers, "batch", UNITS]
    assert {v.name: dimensions(v) for v in written.graph.input} == {
        "values": ["batch", "steps", 3], "hidden": state, "cell": state
    }  # fmt: skip
    assert {v.name: dimensions(v) for v in written.graph.output} == {
        "forecast": ["batch", "steps", HORIZON, 3], "next_hidden": state, "next_cell": state
    }  # fmt: skip
    kinds = {v.type.tensor_type.elem_type for v in [*written.graph.input, *written.graph.output]}
    assert kinds == {onnx.TensorProto.FLOAT}


def test_the_written_file_describes_itself(checkpoint, capsys):
    assert main(["--checkpoint", str(checkpoint)]) == 0
    folder = checkpoint.parent / "onnx"
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "model.onnx"]
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "model.onnx" in printed and "at most" in printed
    written = onnx.load(folder / "model.onnx")
    facts = {entry.key: json.loads(entry.value) for entry in written.metadata_props}
    assert facts["channels"] == ["flow", "belt", "spo2_pct"] and facts["units"] == ["L/min", "a.u.", "%"]
    assert (facts["center"], facts["scale"]) == (SCALER.center.tolist(), SCALER.scale.tolist())
    assert (facts["rate_hz"], facts["horizon"], facts["warm_up"]) == (RATE, HORIZON, 10)
    assert facts["checkpoint_sha256"] == sha256_of(checkpoint) and facts["simulated"] is True
    weights = sum(parameter.numel() for parameter in make_detector().model.parameters())
    assert 4 * weights < (folder / "model.onnx").stat().st_size < 4 * weights + 8000


def test_the_readme_names_the_channels_and_its_example_runs(checkpoint, capsys, monkeypatch):
    assert main(["--checkpoint", str(checkpoint)]) == 0
    text = (checkpoint.parent / "onnx" / "README.md").read_text()
    assert "| 0 | flow | L/min | 0.1 | 20 |\n| 1 | belt | a.u. | 7 | 0.4 |" in text
    assert "Trained on **simulated** recordings. The grid is 5 Hz, a step 0.2 s.\n" in text
    example = text.split("```python\n")[1].split("```")[0]
    assert len(example.splitlines()) <= 10
    monkeypatch.chdir(checkpoint.parent / "onnx")
    capsys.readouterr()
    names = {}
    exec(example, names)
    assert capsys.readouterr().out.count("\n") == 5 and names["forecast"].shape == (1, 1, HORIZON, 3)


def test_the_readme_of_a_series_is_about_rows(checkpoint, calibrated):
    write_tensors(checkpoint, state_of(calibrated) | {"data": {"simulated": False}, "series": True})
    assert main(["--checkpoint", str(checkpoint)]) == 0
    text = (checkpoint.parent / "onnx" / "README.md").read_text()
    assert "A step is a row of the series." in text and "Hz" not in text and "simulated" not in text


# ---- what is refused ------------------------------------------------------------------------


def refused(capsys, *arguments):
    """Return the one line on stderr of a call that ends with exit code 2."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def torch_order(lstm, layer):
    """Return the constants of a layer with the gates as torch has them, which is wrong."""
    ih, hh = (getattr(lstm, f"weight_{kind}_l{layer}").detach().numpy()[None] for kind in ("ih", "hh"))
    bias = [getattr(lstm, f"bias_{kind}_l{layer}").detach().numpy()[None] for kind in ("ih", "hh")]
    return {f"W{layer}": ih, f"R{layer}": hh, f"B{layer}": np.concatenate(bias, axis=1)}


def test_a_file_that_computes_something_else_is_not_written(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(onnx_export, "lstm_constants", torch_order)
    message = refused(capsys, "--checkpoint", checkpoint)
    assert "checkpoint.safetensors: onnxruntime differs from the detector" in message
    assert [file.name for file in checkpoint.parent.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_missing_package_names_the_requirements(checkpoint, capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    message = refused(capsys, "--checkpoint", checkpoint)
    assert message == f"error: {name} is missing; pip install -r requirements-export.txt\n"


@pytest.mark.parametrize("name", ["model.onnx", "README.md"])
def test_existing_files_are_replaced_only_with_force(tmp_path, checkpoint, capsys, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    assert f"{name}: exists already" in refused(capsys, "--checkpoint", checkpoint, "--out", out)
    assert [file.read_text() for file in out.iterdir()] == ["mine"]
    assert main(["--checkpoint", str(checkpoint), "--out", str(out), "--force"]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "model.onnx"]
    assert (out / name).read_bytes() != b"mine"


@pytest.mark.parametrize("name", ["model.onnx", "README.md"])
def test_a_folder_in_the_place_of_a_file_is_never_replaced(tmp_path, checkpoint, capsys, name):
    (tmp_path / name).mkdir()
    before = sorted(tmp_path.iterdir())
    assert f"{name}: exists already" in refused(capsys, "--checkpoint", checkpoint, "--out", tmp_path, "--force")
    assert sorted(tmp_path.iterdir()) == before


def test_more_weights_than_a_file_holds_are_refused(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(onnx_export, "MAX_BYTES", 1000)
    assert "GiB of weights; expected less than 2" in refused(capsys, "--checkpoint", checkpoint)
