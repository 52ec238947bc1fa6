"""Scoring speed: one recording, 16 at once, and a live stream step by step.

    python -m benchmarks.bench_scoring --quick

Beside them: the same network over windows of 100 steps at stride 1, as most detectors of this kind score, which only
forecasts and scores nothing; and the floor, the matrix products of one pass at the rate of the fastest product here.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from benchmarks.floors import best_product_rate, clock_of, forward_flops
from benchmarks.long_data import RATE_HZ, waves
from benchmarks.measure import Options, Row, paired, run_part, seconds_of
from config import EXPERIMENT_CONFIG, load_experiment
from data_loader import Scaler
from detection.detector import Detector, DetectorStream, build_model
from detection.resolved import resolve
from lstm_model import StackedLSTM
from utils import keep_freed_memory

PART = "scoring"
CHANNELS, WINDOW, BATCH = 4, 100, 256


def make_detector(channels: int = CHANNELS, calibration_steps: int = 6_000, hidden: int = 128) -> Detector:
    """Return a calibrated detector with the shipped config and untrained weights, which are as fast as trained ones."""
    torch.manual_seed(0)
    config = load_experiment(EXPERIMENT_CONFIG, [f"model.hidden_units={hidden}"])
    names = [f"channel_{k}" for k in range(channels)]
    scaler = Scaler(tuple(names), np.zeros(channels), np.full(channels, 7.0))
    measures = ["airflow", *["effort"] * (channels - 1)]
    resolved = resolve(config, names, ["a.u."] * channels, measures, RATE_HZ)
    detector = Detector(build_model(resolved), scaler, resolved, "cpu")
    detector.calibrate([waves(calibration_steps, channels, seed=1)])
    return detector


def stream(detector: Detector, values: np.ndarray) -> None:
    """Score values (T, C) one step at a time."""
    stream_of = DetectorStream(detector)
    for k in range(len(values)):
        stream_of.update(values[k : k + 1])


@torch.inference_mode()
def stride_one(model: StackedLSTM, values: np.ndarray) -> None:
    """Forecast from the last step of every window (BATCH at a time) of 100 steps of scaled values (T, C)."""
    windows = torch.from_numpy(values).unfold(0, WINDOW, 1).transpose(1, 2)              # (N, 100, C)
    for batch in windows.split(BATCH):
        hidden = model.lstm(torch.cat([batch, torch.ones_like(batch)], dim=2))[0][:, -1]
        model.head(hidden)


def rows_of(options: Options) -> list[Row]:
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    length, streamed, windowed = (2_000, 200, 500) if options.quick else (50_000, 2_000, 5_000)
    detector = make_detector()
    one, many = [waves(length, CHANNELS)], [waves(length // 8, CHANNELS, seed=k) for k in range(16)]
    model = detector.model.float().eval()

    def rate(steps: int, job) -> float:
        return steps / seconds_of(job, clock_of(options.threads))

    def floor() -> float:
        return best_product_rate() / forward_flops(model, 1)

    jobs = {
        "one recording": lambda: rate(length, lambda: detector.detect(one)),
        "one recording, comparisons only": lambda: rate(length, lambda: detector.compare(one)),
        "16 recordings at once": lambda: rate(16 * (length // 8), lambda: detector.detect(many)),
        "a stream, step by step": lambda: rate(streamed, lambda: stream(detector, one[0][:streamed])),
    }
    stride = partial(rate, windowed - WINDOW + 1, lambda: stride_one(model, waves(windowed, CHANNELS) / 7))
    figures = paired([*jobs.values(), stride, floor], options.repeats)
    *ours, peer, bound = figures
    note = f"3 x 128 units, {CHANNELS} channels, 30 leads, {options.threads} threads; {length} steps in one recording"
    rows = []
    wanted = {"one recording": (30.0, None), "16 recordings at once": (None, 1 / 3)}         # by peer, by floor
    for what, values in zip(jobs, ours, strict=True):
        beside = partial(Row, PART, what, "steps/s", values)
        by_peer, by_floor = (least and ("ratio", ">=", least) for least in wanted.get(what, (None, None)))
        rows.append(beside(f"stride-1 windows of {WINDOW} steps, forecasts only", peer, target=by_peer, note=note))
        rows.append(beside("matrix products alone", bound, target=by_floor))
    return rows


if __name__ == "__main__":
    raise SystemExit(run_part(rows_of, __doc__))
