"""Breathing with noise and imperfect forecasts of it, and their comparison, for several tests."""

import numpy as np

from config import SCORE_COMPONENTS
from detection.comparisons import ComparisonStream, Spans

HORIZON = 30
SPANS = Spans(
    warm_up=10, settle=15, near=1, transient=3, error=5, amplitude=45, expected=150, baseline=300, level=60
)  # 5 Hz


def breathe(length, seed, channels=2, horizon=HORIZON):
    """Return breathing with noise (T, C) and imperfect forecasts of it (T, H, C)."""
    random, t = np.random.default_rng(seed), np.arange(length + horizon)[:, None]
    clean = np.sin(2 * np.pi * t / 20 + np.arange(channels)) * np.exp(0.1 * np.sin(t / 150))
    observed = clean[:length] + 0.1 * random.normal(size=(length, channels))
    ahead = np.arange(length)[:, None] + 1 + np.arange(horizon)
    forecast = 0.9 * clean[ahead] + 0.05 * random.normal(size=(length, horizon, channels))
    return observed, forecast


def new_comparisons(measures, horizon=HORIZON, spans=SPANS, unused=()):
    """Return what compares a recording with its forecasts; every component but the unused ones has a weight."""
    weights = {name: np.full(len(measures), float(name not in unused)) for name in SCORE_COMPONENTS}
    return ComparisonStream(measures, horizon, spans, weights)


def compare(observed, forecast, spans=SPANS, pieces=None, measures=("airflow", "effort", "effort"), unused=()):
    """Return the arrays of the comparison, piece by piece where their lengths are given."""
    stream = new_comparisons(measures[: observed.shape[1]], forecast.shape[1], spans, unused)
    parts, first = [], 0
    for n in pieces if pieces is not None else [len(observed)]:
        parts.append(stream.update(observed[first : first + n], forecast[first : first + n]))
        first += n
    return [np.concatenate([getattr(p, k) for p in parts]) for k in vars(parts[0])]


def cut(length, sizes):
    """Return the lengths of pieces, one size after the other, again and again, that make `length` in all."""
    pieces = []
    while sum(pieces) < length:
        pieces.append(min(sizes[len(pieces) % len(sizes)], length - sum(pieces)))
    return pieces
