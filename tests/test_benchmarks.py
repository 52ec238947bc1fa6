"""The arithmetic of the measurements; the measurements themselves run with `python -m benchmarks.run`."""

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.bench_to_loss import LastStepHead, lowest, seconds_to
from benchmarks.floors import forward_flops
from benchmarks.growth import slope
from benchmarks.long_data import waves, write_raw
from benchmarks.measure import Row, last_json
from benchmarks.run import table
from config import load_dataset_config
from lstm_model import StackedLSTM
from recordings.reading import read_recording
from trainers import forecast_loss
from utils import ROOT

pytestmark = pytest.mark.slow


def test_a_ratio_is_the_median_of_pairs_from_one_repeat():
    row = Row("part", "what", "s", [1.0, 2.0, 30.0], "peer", [2.0, 8.0, 10.0])
    assert (row.value, row.other, row.ratio) == (2.0, 8.0, 0.5)                  # of 0.5, 0.25 and 3
    assert row.spread == pytest.approx(29 / 2)
    assert Row("part", "what", "s", [1.0]).ratio is None


@pytest.mark.parametrize(
    ("target", "met"),
    [(("value", "<", 2.1), True), (("value", "<", 2.0), False), (("ratio", ">=", 0.5), True),
     (("ratio", ">=", 0.51), False), (None, None)],
)  # fmt: skip
def test_a_target_is_met_or_missed(target, met):
    row = Row("part", "what", "s", [2.0], "peer", [4.0], target)
    assert row.met is met
    assert Row(**json.loads(json.dumps(asdict(row)))).value == row.value
    assert ("**missed**" in table([row])) == (met is False)


def test_operations_of_a_step_by_hand():
    model = StackedLSTM(channels=2, hidden_units=3, num_layers=2, horizon=5)
    first, second, head = 12 * (4 + 3), 12 * (3 + 3), 10 * 3                     # 4 gates of 3 units; 2C inputs
    assert forward_flops(model, 7) == 7 * 2 * (first + second + head)
    assert isinstance(model.lstm, nn.LSTM)


def test_a_slope_is_the_exponent():
    size = np.array([1, 2, 4, 8, 16])
    assert slope(size, 3 * size**1.5) == pytest.approx(1.5)
    assert slope(size, [9, 9, 1, 1, 1]) == pytest.approx(0.0)                    # the last three points count


def test_a_long_recording_reads_back(tmp_path):
    config = load_dataset_config(write_raw(tmp_path, 3000, channels=2), "long")
    recording = read_recording(tmp_path / "recording.csv", list(config.channels))
    expected = waves(3000, 2, rate_hz=25.0)
    for k, samples in enumerate(recording.channels.values()):
        np.testing.assert_allclose(samples.values, expected[:, k], atol=6e-4)
        np.testing.assert_allclose(samples.t, np.arange(3000) / 25, atol=1e-9)


def test_time_to_a_loss_is_that_of_the_first_look_below_it():
    curve = [(1.0, -2.0), (2.0, -2.6), (4.0, -2.5), (8.0, -2.9)]
    assert lowest(curve) == -2.9
    assert [seconds_to(curve, mark) for mark in (-2.5, -2.6, -2.9)] == [2.0, 2.0, 8.0]
    assert seconds_to(curve, -3.0) == 8.0                                        # never: as long as it trained


def test_a_last_step_head_trains_on_the_last_step_alone():
    torch.manual_seed(0)
    network = StackedLSTM(2, 4, 1, 3)
    x, series = torch.randn(2, 5, 2), torch.randn(2, 8, 2)
    whole = forecast_loss(network(x)[0], series, warm_up=4)
    network.head = LastStepHead(network.head)
    assert torch.allclose(forecast_loss(network(x)[0], series, warm_up=4), whole)
    assert network.train()(x)[0].shape == network.eval()(x)[0].shape


def test_a_part_prints_its_rows_as_json():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_preprocessing", "--quick", "--repeats", "1", "--threads", "1"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [Row(**row) for row in last_json(done.stdout)]
    assert rows[0].what == "raw CSV read to windowed CSV written" and rows[0].value > 1000
    assert all(row.ratio > 0 for row in rows)
