"""A trained model in, an ONNX file out: the graph node by node, checked by onnxruntime against the detector."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from locks import only_writer_of
from utils import DataError, atomic_path, git_commit, sha256_of

if TYPE_CHECKING:                                                # heavy imports wait for the work
    from onnx import ModelProto, NodeProto
    from onnxruntime import InferenceSession
    from torch import nn

    from data_loader import Scaler
    from detection.detector import Detector
    from lstm_model import StackedLSTM

MODEL, README = "model.onnx", "README.md"
INPUTS, OUTPUTS = ("values", "hidden", "cell"), ("forecast", "next_hidden", "next_cell")
OPSET, IR_VERSION = 17, 8                # of ONNX 1.12, 2022: small devices often have older runtimes
MAX_BYTES = 2**31 - 2**20                # of weights: one ONNX file holds less than 2 GiB
TOLERANCE = 1e-5                         # in scaled units
CHECKED_BATCHES = (1, 3)
CHECKED_PIECES = ((308,), (1, 7, 300))   # steps of each call


# ---- the graph ------------------------------------------------------------------------------


def build_onnx(model: StackedLSTM, scaler: Scaler) -> ModelProto:
    """Return `model` with its scaler as an ONNX model; one LSTM node a layer.

    Built by hand: torch's exporter needs one more package, onnxscript, and its former one, without it, is deprecated.

    Inputs: values (B, T, C), physical, NaN = missing; hidden, cell (layers, B, D).
    Outputs: forecast (B, T, H, C), physical; next_hidden, next_cell (layers, B, D).
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    layers, units = model.lstm.num_layers, model.lstm.hidden_size
    state = [layers, "batch", units]
    shapes = {
        "values": ["batch", "steps", model.channels],
        "forecast": ["batch", "steps", model.horizon, model.channels],
    }
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name, state)) for name in names]
        for names in (INPUTS, OUTPUTS)
    )
    weights = constants(model, scaler)
    initializers = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes(layers, units)), "stacked_lstm", inputs, outputs, initializers)
    onnx_model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="export_model.py"
    )
    checker.check_model(onnx_model, full_check=True)
    return onnx_model


def constants(model: StackedLSTM, scaler: Scaler) -> dict[str, np.ndarray]:
    """Return the tensors of the graph by name.

    A center is the sum of two 32-bit numbers: at 96.2 % with a scale of 1 %, one alone is off by 3e-6.
    """
    from lstm_model import INPUT_LIMIT

    center = scaler.center.astype(np.float32)
    tensors = {
        "center": center,
        "center_rest": (scaler.center - center).astype(np.float32),
        "scale": scaler.scale.astype(np.float32),
        "zero": np.zeros((), np.float32),
        "lowest": np.array(-INPUT_LIMIT, np.float32),
        "highest": np.array(INPUT_LIMIT, np.float32),
        "direction_axis": np.array([1]),
        "horizon_axis": np.array([2]),
        "forecast_shape": np.array([0, 0, model.horizon, model.channels]),           # 0 = as it is
        "head_weight": model.head.weight.detach().cpu().numpy().T,                   # (D, H*C)
        "head_bias": model.head.bias.detach().cpu().numpy(),
    }
    for layer in range(model.lstm.num_layers):
        tensors |= lstm_constants(model.lstm, layer)
    return tensors


def lstm_constants(lstm: nn.LSTM, layer: int) -> dict[str, np.ndarray]:
    """Return W (1, 4D, inputs), R (1, 4D, D) and B (1, 8D) of a layer, its gates in ONNX's order."""

    def reordered(name: str) -> np.ndarray:
        i, f, c, o = np.split(getattr(lstm, f"{name}_l{layer}").detach().cpu().numpy(), 4)
        return np.concatenate([i, o, f, c])[None]

    return {
        f"W{layer}": reordered("weight_ih"),
        f"R{layer}": reordered("weight_hh"),
        f"B{layer}": np.concatenate([reordered("bias_ih"), reordered("bias_hh")], axis=1),
    }


def nodes(layers: int, units: int) -> Iterator[NodeProto]:
    """Yield the nodes: scaling, the computation of `StackedLSTM.forward`, and scaling back."""
    from onnx import TensorProto
    from onnx.helper import make_node

    yield make_node("Sub", ["values", "center"], ["above_center"])
    yield make_node("Sub", ["above_center", "center_rest"], ["centered"])
    yield make_node("Div", ["centered", "scale"], ["scaled"])
    yield make_node("IsNaN", ["values"], ["missing"])
    yield make_node("Not", ["missing"], ["present"])
    yield make_node("Where", ["missing", "zero", "scaled"], ["filled"])
    yield make_node("Clip", ["filled", "lowest", "highest"], ["clipped"])
    yield make_node("Cast", ["present"], ["mask"], to=TensorProto.FLOAT)
    yield make_node("Concat", ["clipped", "mask"], ["with_mask"], axis=2)                     # (B, T, 2C)
    yield make_node("Transpose", ["with_mask"], ["layer0"], perm=[1, 0, 2])                   # (T, B, 2C)
    for name in ("hidden", "cell"):
        yield make_node("Split", [name], [f"{name}{k}" for k in range(layers)], axis=0)       # (1, B, D) each
    for k in range(layers):
        inputs = [f"layer{k}", f"W{k}", f"R{k}", f"B{k}", "", f"hidden{k}", f"cell{k}"]
        outputs = [f"directions{k}", f"next_hidden{k}", f"next_cell{k}"]
        yield make_node("LSTM", inputs, outputs, hidden_size=units)                           # (T, 1, B, D)
        yield make_node("Squeeze", [outputs[0], "direction_axis"], [f"layer{k + 1}"])         # (T, B, D)
    for name in ("next_hidden", "next_cell"):
        yield make_node("Concat", [f"{name}{k}" for k in range(layers)], [name], axis=0)      # (layers, B, D)
    yield make_node("MatMul", [f"layer{layers}", "head_weight"], ["weighted"])
    yield make_node("Add", ["weighted", "head_bias"], ["flat"])                               # (T, B, H*C)
    yield make_node("Reshape", ["flat", "forecast_shape"], ["step_first"])
    yield make_node("Transpose", ["step_first"], ["change"], perm=[1, 0, 2, 3])               # (B, T, H, C)
    yield make_node("Unsqueeze", ["clipped", "horizon_axis"], ["network_input"])
    yield make_node("Add", ["network_input", "change"], ["scaled_forecast"])
    yield make_node("Mul", ["scaled_forecast", "scale"], ["spread"])
    yield make_node("Add", ["spread", "center_rest"], ["spread_rest"])
    yield make_node("Add", ["spread_rest", "center"], ["forecast"])


# ---- the check ------------------------------------------------------------------------------


def largest_differences(content: bytes, detector: Detector, where: str) -> tuple[float, float]:
    """Return the largest differences between onnxruntime and the detector: of forecasts, of states.

    Random recordings with missing values, missing segments and spikes go through the detector's model as a
    whole in 64 bits, and through onnxruntime as a whole and in pieces with the state carried along.
    The difference of a forecast is in scaled units, that of a state is a share of the larger of 1 and the state.

    Raises: DataError if one is above TOLERANCE (plus, for a forecast, the last place of a 32-bit value).
    """
    import torch

    scaler, worst, session = detector.scaler, [0.0, 0.0], open_session(content)
    reference = copy.deepcopy(detector.model).cpu().double().eval()
    with np.errstate(over="ignore", invalid="ignore"):
        for batch, pieces in itertools.product(CHECKED_BATCHES, CHECKED_PIECES):
            values = draw_values(batch, sum(pieces), scaler)
            with torch.inference_mode():
                scaled, expected_state = reference(torch.from_numpy(scaler.scaled(values)).double())
            expected = scaler.physical(scaled.numpy())
            forecast, *state = run_onnx(session, values, pieces, detector.model)
            last_place = np.spacing(np.abs(expected).astype(np.float32)) / scaler.scale
            pairs = [(np.abs(forecast - expected) / scaler.scale, TOLERANCE + last_place)]
            for part, tensor in zip(state, expected_state):
                pairs.append((np.abs(part - tensor.numpy()) / np.maximum(1.0, np.abs(tensor.numpy())), TOLERANCE))
            for k, (difference, limit) in enumerate(pairs):
                worst[min(k, 1)] = np.maximum(worst[min(k, 1)], difference.max())
                if not (difference <= limit).all():                                  # NaN too
                    raise DataError(
                        f"{where}: onnxruntime differs from the detector by {difference.max():.1e} in "
                        f"{OUTPUTS[k]}, more than {TOLERANCE:g}; nothing was written"
                    )
    return float(worst[0]), float(worst[1])


def draw_values(batch: int, length: int, scaler: Scaler) -> np.ndarray:
    """Return seeded random physical values (B, T, C) in 32 bits, with spikes and missing values."""
    random = np.random.default_rng(batch)
    shape = (batch, length, len(scaler.channels))
    scaled = np.sin(np.arange(length) / 3.0)[None, :, None] + random.normal(size=shape)
    scaled[random.random(shape) < 0.02] *= 30.0                                      # spikes
    scaled[random.random(shape) < 0.1] = np.nan
    scaled[:, length // 2 : length // 2 + 20, 0] = np.nan
    return scaler.physical(scaled).astype(np.float32)


def open_session(content: bytes) -> InferenceSession:
    """Return an ONNX model ready to run on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_onnx(
    session: InferenceSession, values: np.ndarray, pieces: Sequence[int], model: StackedLSTM
) -> list[np.ndarray]:
    """Return forecasts (B, T, H, C) and last states of values (B, T, C), passed in pieces of so many steps."""
    state = [np.zeros((model.lstm.num_layers, len(values), model.lstm.hidden_size), np.float32)] * 2
    parts = []
    for piece in np.split(values, np.cumsum(pieces)[:-1], axis=1):
        forecast, *state = session.run(list(OUTPUTS), dict(zip(INPUTS, [piece, *state])))
        parts.append(forecast)
    return [np.concatenate(parts, axis=1), *state]


# ---- metadata and README --------------------------------------------------------------------


def facts_of(detector: Detector, state: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return what a user of the file needs to know, as plain values."""
    from lstm_model import INPUT_LIMIT

    data, model = state.get("data"), detector.model
    return {
        "channels": list(detector.channels),
        "units": list(detector.units),
        "measures": list(detector.resolved.measures),
        "center": detector.scaler.center.tolist(),
        "scale": detector.scaler.scale.tolist(),
        "rate_hz": detector.rate_hz,
        "horizon": model.horizon,
        "warm_up": detector.spans.warm_up,
        "num_layers": model.lstm.num_layers,
        "hidden_units": model.lstm.hidden_size,
        "input_limit": INPUT_LIMIT,
        "series_of_rows": bool(state.get("series")),
        "simulated": isinstance(data, dict) and data.get("simulated") is True,
        "commit": git_commit(),
        "checkpoint_sha256": sha256_of(checkpoint),
    }


def readme(facts: dict[str, Any], forecast_difference: float, state_difference: float) -> str:
    """Return the README of the ONNX file."""
    layers, units, horizon = facts["num_layers"], facts["hidden_units"], facts["horizon"]
    rate, channels = facts["rate_hz"], len(facts["channels"])
    grid, step = f"{rate:g} Hz", f"The grid is {rate:g} Hz, a step {1 / rate:g} s."
    if facts["series_of_rows"]:
        grid, step = "one row a step", "A step is a row of the series."
    origin = "Trained on **simulated** recordings. " if facts["simulated"] else ""
    escaped = str.maketrans({"|": "\\|", "`": "\\`", "<": "&lt;"})
    names = [[text.translate(escaped) for text in facts[key]] for key in ("channels", "units")]
    columns = zip(*names, facts["center"], facts["scale"])
    table = "\n".join(f"| {k} | {c} | {u} | {m:.9g} | {s:.9g} |" for k, (c, u, m, s) in enumerate(columns))
    typical = ", ".join(f"{value:.4g}" for value in facts["center"])
    return f"""# {MODEL}: an LSTM that forecasts the next {horizon} steps at every step

{origin}{step}
All tensors are float32; `batch` (recordings side by side) and `steps` are free.

| input | shape | |
|---|---|---|
| `values` | (batch, steps, {channels}) | measured values in the units below, not scaled; **NaN = missing** |
| `hidden`, `cell` | ({layers}, batch, {units}) | zeros at the start of a recording, then those of the previous call |

| output | shape | |
|---|---|---|
| `forecast` | (batch, steps, {horizon}, {channels}) | `forecast[b, t, h]` is for step t + 1 + h; same units, no NaN |
| `next_hidden`, `next_cell` | ({layers}, batch, {units}) | the state after the last step, for the next call |

Pieces of any length give the same forecasts as the whole recording, if the state is carried along. The first
{facts["warm_up"]} steps of a recording are warm-up: their forecasts are unreliable.

| | channel | unit | center | scale |
|---|---|---|---|---|
{table}

The model itself computes (value - center) / scale, clips it to ±{facts["input_limit"]:g}, and scales the forecast
back. Pass NaN in the channel of a sensor that fails; the others are forecast as before. Pass a step without any
measurement as NaN; do not leave it out.

```python
import numpy as np
import onnxruntime

model = onnxruntime.InferenceSession("{MODEL}", providers=["CPUExecutionProvider"])
state = dict.fromkeys(["hidden", "cell"], np.zeros(({layers}, 1, {units}), np.float32))
for measured in [[{typical}]] * 5:  # one step at a time
    values = np.array(measured, np.float32).reshape(1, 1, {channels})
    forecast, state["hidden"], state["cell"] = model.run(None, {{"values": values, **state}})
    print(forecast[0, 0, 0])  # the next step of every channel
```

Not in this file:

- Resampling of raw signals to one causal grid ({grid}), as for training (`recordings/resampling.py`,
  `dataset_config.json`). A sensor's own codes for a missing value have to become NaN.
- Scores, threshold, alarms and events (`detection/`): they compare forecasts with measured values; their
  calibration is in the checkpoint.

Checked on random recordings at export: onnxruntime's forecasts differ from the detector's by at most
{forecast_difference:.1e} of a channel's scale, its states by {state_difference:.1e} (share of the larger of 1 and the
state). The file's `metadata_props` hold the numbers above in full, as JSON. Opset {OPSET}.
Commit {facts["commit"] or "unknown"};
SHA-256 of the checkpoint {facts["checkpoint_sha256"]}.
"""


# ---- export ---------------------------------------------------------------------------------


def export(checkpoint: Path, folder: Path, force: bool = False) -> str:
    """Write the ONNX file and its README into `folder`; return one line about them.

    Raises: DataError if the checkpoint cannot be used, a file exists already, a package is missing, or
        onnxruntime and the detector differ; OSError if the folder cannot be written. Nothing is written then.
    """
    check_packages()
    from detection.detector import Detector, load_checkpoint

    targets = [folder / MODEL, folder / README]
    state = load_checkpoint(checkpoint)
    taken = [target for target in targets if target.is_dir() or (target.exists() and not force)]
    if taken:
        raise DataError(f"{taken[0]}: exists already; name another --out, or replace it with --force")
    detector = Detector.from_state(state, "cpu", checkpoint.name)
    if not detector.threshold:
        raise DataError(f"{checkpoint.name}: its training is not finished; resume the run first")
    size = 4 * sum(parameter.numel() for parameter in detector.model.parameters())
    if size > MAX_BYTES:
        raise DataError(f"{checkpoint.name}: {size / 2**30:.1f} GiB of weights; expected less than 2 in an ONNX file")
    facts = facts_of(detector, state, checkpoint)
    onnx_model = build_onnx(detector.model, detector.scaler)
    onnx_model.producer_version = facts["commit"] or ""
    for key, value in facts.items():
        onnx_model.metadata_props.add(key=key, value=json.dumps(value))
    content = onnx_model.SerializeToString()
    differences = largest_differences(content, detector, checkpoint.name)
    with (
        only_writer_of(targets[0]),
        only_writer_of(targets[1]),
        atomic_path(targets[0]) as model_file,                   # renamed last
        atomic_path(targets[1]) as readme_file,
    ):
        model_file.write_bytes(content)
        readme_file.write_text(readme(facts, *differences), encoding="utf-8")
    return (
        f"{targets[0]}: {len(content) / 1e6:.2f} MB; onnxruntime differs from the detector by at most "
        f"{differences[0]:.1e} of a channel's scale, its state by {differences[1]:.1e}"
    )


def check_packages() -> None:
    """Raise DataError if a package that only this script needs is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise DataError(f"{error.name} is missing; pip install -r requirements-export.txt") from None
