"""What one run is measured by."""

import numpy as np
import pytest
import torch
from project import CONFIG, make_datasets

from config import ExperimentConfig
from data_loader import load_dataset
from detection.detector import build_model
from experiment import prepare
from grid import engines
from grid.engines import reason_of, skill_of
from utils import DataError

SHARED = {"horizon_s": 1.0, "warm_up_s": 2.0, "window_s": 20.0, "channels": ["thorax_au", "flow_lpm"]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = make_datasets(tmp_path_factory.mktemp("home"))
    return load_dataset(root / "datasets" / "collected-known-anomaly" / "tiny")


def make_trained(dataset, constant=False):
    """A model of random weights with a horizon of 2 s; constant = it forecasts the last value."""
    experiment = prepare(ExperimentConfig.model_validate(CONFIG), dataset)
    torch.manual_seed(0)
    model = build_model(experiment.resolved)
    if constant:
        torch.nn.init.zeros_(model.head.weight)
        torch.nn.init.zeros_(model.head.bias)
    return experiment, model


def naive_skill(model, dataset, horizon, warm_up, length):
    """Window by window, step by step, lead by lead, in the dataset's order of channels."""
    squares = np.zeros((2, 2))
    for segment in dataset.scaled("val"):
        for start in range(0, max(len(segment) - horizon, 1), length):
            window = segment[start : start + length + horizon]
            if len(window) < warm_up + horizon + 1:
                continue
            with torch.no_grad():
                forecast = model(torch.from_numpy(window)[None])[0][0].numpy()
            for t in range(warm_up, len(window) - 1):
                for h in range(min(horizon, len(window) - 1 - t, max(length + horizon - 1 - t, 0))):
                    if t < length:
                        target = window[t + 1 + h]
                        squares[0] += np.nan_to_num((target - forecast[t, h]) ** 2)
                        squares[1] += np.nan_to_num((target - window[t]) ** 2)
    return np.mean(1 - squares[0] / squares[1])


def test_the_skill_is_what_it_says_over_shared_leads(dataset):
    experiment, model = make_trained(dataset)
    expected = naive_skill(model, dataset, horizon=5, warm_up=10, length=100)
    skill = skill_of(experiment, model.state_dict(), SHARED, "cpu")
    assert skill == pytest.approx(expected, rel=1e-4) and expected < 0


def test_the_last_value_has_no_skill(dataset):
    experiment, model = make_trained(dataset, constant=True)
    assert skill_of(experiment, model.state_dict(), SHARED, "cpu") == pytest.approx(0.0, abs=1e-9)


def test_no_shared_channel_is_no_skill(dataset):
    experiment, model = make_trained(dataset)
    assert skill_of(experiment, model.state_dict(), SHARED | {"channels": []}, "cpu") is None


def test_a_run_computes_with_one_thread(tmp_path, monkeypatch):
    def job(task):
        return {"threads": torch.get_num_threads()}

    torch.set_num_threads(2)
    assert engines.attempt(job, {"key": "a", "folder": str(tmp_path / "a")})["threads"] == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("x.csv: bad"), "x.csv: bad"),
        (MemoryError(), "out of memory: MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory: CUDA out of memory."),
        (RuntimeError("one\n  two"), "RuntimeError: one two"),
    ],
)
def test_every_error_is_one_line(error, line):
    assert reason_of(error) == line
