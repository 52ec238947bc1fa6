"""Checkpoints: what is written comes back exactly; what is damaged or does not fit is refused in one line."""

import json
import math
import os
import pickle
import sys

import numpy as np
import pytest
import tiny
import torch
import warm

from detection.checkpoint import LATER, detector_from, load_calibrated, load_checkpoint, read_tensors, write_tensors
from detection.comparisons import NAMES
from experiment import resumed_config
from utils import ROOT, DataError

pytestmark = pytest.mark.robustness

GIGABYTE = 1 << 30
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def state(checkpoint):
    return load_checkpoint(checkpoint)


@pytest.fixture
def night(tmp_path):
    return tmp_path / "night.safetensors"


def test_a_calibration_from_before_volumes_and_jolts_scores_as_it_did(night, state):
    values = np.random.default_rng(0).normal(size=(600, 3)) * state["scaler"]["scale"]
    calibration = state["calibration"]
    earlier = [row[: NAMES.index("shared_transient")] for row in calibration["tails"]]
    components = {name: tails for name, tails in calibration["components"].items() if name not in LATER}
    old = {**calibration, "tails": earlier, "components": components}
    write_tensors(night, state | {"calibration": old})
    again, before = load_calibrated(night, "cpu")[1], detector_from(state, "cpu")
    np.testing.assert_array_equal(again.detect([values])[0].score, before.detect([values])[0].score)


# ---- the file -------------------------------------------------------------------------------


def test_nested_values_come_back_with_their_types_and_every_bit(tmp_path):
    tensors = {
        "weights": torch.tensor([1e-45, 0.1, -0.0]), "step": torch.tensor(3.0), "random": torch.ones(3).byte(),
        "none": torch.zeros(0, 3, dtype=torch.float64), "flags": torch.tensor([True, False]),
    }  # fmt: skip
    plain = {"a": [0.1 + 0.2, 5e-324, NAN, INF, -INF, 2**60, True, None], "b": {"": "é\ud800\n\"/", "nested": [[], {}]}}
    turned = np.arange(6.0).reshape(2, 3).T
    content = {"tensors": tensors, "list": [{"x": turned}, turned[0]], "plain": plain, "tuple": (1, np.float32(0.1))}
    write_tensors(tmp_path / "a", content)
    found = read_tensors(tmp_path / "a")
    assert json.dumps(found["plain"]) == json.dumps(plain) and found["tuple"] == [1, float(np.float32(0.1))]
    for name, tensor in tensors.items():
        assert found["tensors"][name].dtype == tensor.dtype and found["tensors"][name].shape == tensor.shape
        assert found["tensors"][name].numpy().tobytes() == tensor.numpy().tobytes()
    arrays = read_tensors(tmp_path / "a", "np")["list"]
    np.testing.assert_array_equal(arrays[0]["x"], turned)
    np.testing.assert_array_equal(arrays[1], turned[0])
    before = (tmp_path / "a").read_bytes()
    write_tensors(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def written(header, data=b""):
    """Return a file whose header says this."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(shape, *, offsets=(0, 4), dtype="F32", text='{"sha256": "", "content": {"a": null}}', name="a"):
    about = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return written({"__metadata__": {"json": text}, name: about}, bytes(4))


FILES = {
    "empty": b"", "text": b"not a checkpoint", "zeros": bytes(1000), "a zip": b"PK\x05\x06" + bytes(100),
    "no JSON": written(b"{" * 50), "a huge header": (10**15).to_bytes(8, "little") + b"{}", "no metadata": written({}),
    "metadata of numbers": written({"__metadata__": {"json": 3}}),
    "other metadata": written({"__metadata__": {"x": "{}"}}),
    "metadata cut off": one([1], text='{"sha256": '), "nested deeply": one([1], text="[" * 100_000),
    "a list": one([1], text="[1, 2]"), "a larger tensor": one([10**6, 10**5], offsets=(0, 4 * 10**11)),
    "a shape too large": one([2**40, 2**40]), "offsets behind the file": one([1], offsets=(4, 8)),
    "an unknown dtype": one([1], dtype="F33"), "another sum": one([1]), "no place": one([1], name="b/c"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_or_crafted_file_is_refused_by_name(night, kind):
    night.write_bytes(FILES[kind])
    with pytest.raises(DataError, match=r"^night\.safetensors: not a checkpoint of this program") as error:
        load_checkpoint(night)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("place", ["b", "a/0/x", "c/1"])
def test_a_tensor_without_a_place_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.setattr("detection.checkpoint._sum_of", lambda *_: "")
    (tmp_path / "a").write_bytes(one([1], name=place, text='{"sha256": "", "content": {"a": 3, "c": [1, 2]}}'))
    with pytest.raises(ValueError, match=f"no place for '{place}'"):
        read_tensors(tmp_path / "a")


def test_every_cut_and_flipped_bit_is_refused(night, checkpoint):
    content = checkpoint.read_bytes()
    for end in (4, 8, 100, len(content) // 2, len(content) - 1):
        night.write_bytes(content[:end])
        with pytest.raises(DataError, match="night.safetensors: not a checkpoint"):
            load_checkpoint(night)
    for place in (9, len(content) // 3, len(content) - 2000, len(content) - 1):
        night.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError, match="night.safetensors: "):
            load_calibrated(night, "cpu")


class Touch:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_is_not_run(tmp_path, save):
    trap = tmp_path / "trap"
    save({"format": 2, "model": Touch(trap)}, tmp_path / "evil.pt")
    told = "older version of this program.*train the model again" if save is torch.save else "not a checkpoint"
    with pytest.raises(DataError, match=rf"^evil\.pt: .*{told}"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Touch(trap)))
    assert trap.exists()                                         # the trap would have worked


@pytest.mark.parametrize("place", ["checkpoint.pt", "seed1/checkpoint.pt"])
def test_a_run_of_an_older_version_is_not_resumed(tmp_path, place):
    (tmp_path / "seed1").mkdir()
    for name in ("config.json", "metrics.json", place):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=f"{place}: written by an older version of this program.*train the model again"):
        resumed_config(tmp_path, [])


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.safetensors: no such file"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("found", [5, "4", 4.0, None, torch.full((1,), 3), torch.ones(2), torch.ones(0)], ids=str)
def test_another_format_is_refused(night, state, found):
    write_tensors(night, state | {"format": found})
    with pytest.raises(DataError, match=r"^night\.safetensors: not a checkpoint of this program"):
        load_checkpoint(night)


def test_an_older_format_says_train_again(night, state):
    write_tensors(night, state | {"format": 3})
    with pytest.raises(DataError, match=r"^night\.safetensors: written by an older version .* train the model again"):
        load_checkpoint(night)


# ---- what a checkpoint says -----------------------------------------------------------------

WEIGHT = "model/lstm.weight_ih_l0"
KEYS = ("model", "config", "channels", "units", "measures", "rate_hz", "scaler", "calibration", "threshold",
        "baseline_thresholds")  # fmt: skip
TAMPERED = [
    *((key, ..., key) for key in KEYS),
    (WEIGHT, torch.full((24, 6), NAN), "finite"), (WEIGHT, torch.zeros(24, 6, dtype=torch.int64), "torch.int64"),
    (WEIGHT, torch.zeros(24, 6, dtype=torch.float64), "torch.float64"), (WEIGHT, torch.zeros(24, 5), "other shapes"),
    (WEIGHT, torch.zeros(24, 6).half(), "torch.float16"), (WEIGHT, ..., "other shapes"),
    (WEIGHT, 3.0, "no tensors"), ("model", [], "no tensors"), ("model", {}, "other shapes"),
    ("model", None, "no tensors"), ("model/more", torch.zeros(2), "other shapes"),
    ("channels", ["flow", "flow", "pulse"], "different"),
    ("channels", ["=x", "belt", "pulse"], "plain name"), ("channels", ["a/../b", "belt", "pulse"], "plain name"),
    ("channels", "abc", "channels"), ("channels", 3, "channels"), ("channels", ["flow"], "entries"),
    ("channels", torch.zeros(3), "channels"), ("units", ["a\x1b[2J", "", ""], "printable"),
    ("units", ["L/min"], "entries"),
    ("measures", ["x"] * 3, "measures"), ("measures", [], "entries"), ("rate_hz", 1e12, "rate_hz"),
    ("rate_hz", 0.0, "rate_hz"), ("rate_hz", NAN, "rate_hz"), ("rate_hz", True, "rate_hz"),
    ("rate_hz", "fast", "rate_hz"),
    ("rate_hz", None, "rate_hz"), ("scaler/scale", [1.0, -1.0, 1.0], "scale"), ("scaler/scale", [1.0], "entries"),
    ("scaler/center", [0.0, INF, 0.0], "center"), ("scaler/center", ..., "center"), ("scaler", None, "scaler"),
    ("scaler", [1.0, 2.0], "scaler"), ("calibration", 7, "calibration"), ("calibration", [], "calibration"),
    ("calibration", {"tails": []}, "calibration.spread: missing"), ("calibration/spread", [1.0, NAN, 1.0], "spread"),
    ("calibration/spread", [1.0], "3 channels"), ("calibration/tails/0/0/knots", [1.0] * 3, "calibration"),
    ("calibration/tails/0/0/scale", 0.0, "scale"), ("calibration/tails/0/0/knots/0", 1e9, "do not rise"),
    ("calibration/tails/0/0", None, "comparisons"), ("calibration/means", [], "comparisons"),
    ("calibration/components/amplitude_drop", [], "tails of amplitude_drop"),
    ("calibration/components/odd", [], "calibration"), ("calibration", None, "without a calibration"),
    ("threshold/value", NAN, "value"), ("threshold/value", "3", "value"), ("threshold/value", torch.ones(2), "value"),
    ("threshold/method", "magic", "method"), ("threshold/method", "dynamic", "q: unknown"),
    ("threshold", [1.0], "threshold"),
    ("threshold", {}, "threshold"), ("threshold", None, "resume the run"),
    ("threshold/parameters", {"q": 7.0}, "less than or equal to 1"), ("threshold/n_scores", -1, "n_scores"),
    ("baseline_thresholds", {}, "baseline_thresholds"), ("baseline_thresholds/odd", {}, "baseline_thresholds"),
    ("config", 7, "config"), ("config", {"model": {"hiden_units": 8}}, "hidden_units"),
    ("config/model/hidden_units", 10**9, "hidden_units"), ("config/model/num_layers", 10**6, "num_layers"),
    ("config/model/horizon_s", 1e9, "GB of memory"), ("config/score/baseline_s", 1e9, "expected at most 1000000"),
    ("config/score/level_s", -1.0, "level_s"), ("config/score/amplitude_s", [9.0], "amplitude_s"),
    ("config/model/warm_up_s", 1e308, ""), ("data/rate_hz", 7.0, "7 Hz"), ("data/channels", {}, "data: channels"),
    ("data", 7, "data"), ("series", "yes", "series"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "told"), TAMPERED, ids=lambda value: str(value)[:30])
def test_a_tampered_checkpoint_is_refused(night, state, path, value, told):
    tiny.put(state, path, value)
    write_tensors(night, state)
    with pytest.raises(DataError, match=r"^night\.safetensors: ") as error:
        load_calibrated(night, "cpu")
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["pot", "dynamic"])
def test_a_moving_threshold_needs_what_it_continues_from(state, method):
    parameters, parts, told = {
        "pot": ({"online": True}, {"level_value": 1.0, "peaks": 3}, "excesses"),
        "dynamic": ({}, {"history": [1.0] * 20, "breaks": [20]}, "outside its history"),
    }[method]
    about = {"method": method, "parameters": parameters, "value": 1.0, "n_scores": 9, "fallback": ""}
    with pytest.raises(DataError, match=told):
        detector_from(state | {"threshold": about | parts}, "cpu")


HUGE = """
import resource, sys
from pathlib import Path
from detection.checkpoint import load_calibrated
from utils import DataError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
for path in map(Path, sys.argv[2:]):
    try:
        load_calibrated(path, "cpu")
    except DataError as error:
        print(error)
"""


def test_huge_checkpoints_do_not_take_the_memory(tmp_path, checkpoint):
    tampered = [
        {"config/model/hidden_units": 10**9}, {"config/model/hidden_units": 8192, "config/model/num_layers": 64},
        {"config/model/horizon_s": 1e12}, {"config/model/horizon_s": 1.7e308}, {"config/score/baseline_s": 1e12},
        {"rate_hz": 1e12}, {"config/model/num_layers": 64},
    ]  # fmt: skip
    paths = [tmp_path / f"{k}.safetensors" for k in range(len(tampered) + 2)]
    for path, changes in zip(paths, tampered):
        state = load_checkpoint(checkpoint)
        for place, value in changes.items():
            tiny.put(state, place, value)
        write_tensors(path, state)
    paths[-2].write_bytes(FILES["a larger tensor"])
    paths[-1].write_bytes(FILES["a huge header"])
    command = [sys.executable, "-c", HUGE, str(GIGABYTE), *map(str, paths)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = warm.run(command, cwd=ROOT, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [path.name for path in paths]
