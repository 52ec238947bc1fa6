"""Put one channel on the common time grid, causally, and say where it holds a measurement.

Every value of the grid depends on samples taken up to its own time alone. The linear-phase
filters delay the signal by a declared `delay_s`, all channels alike, so that what the model sees
at a time is what a live stream could show it then; labels stay where they are, and the delay is
charged to the detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.signal import firwin, upfirdn

from recordings import Samples, equal_runs


@dataclass(frozen=True)
class Grid:
    """The common grid: step k lies at `start_s + k / rate_hz`."""

    start_s: float
    rate_hz: float
    steps: int

    @property
    def t(self) -> np.ndarray:
        """Times of the steps (T,), seconds."""
        return self.start_s + np.arange(self.steps) / self.rate_hz


@dataclass(frozen=True)
class Resampled:
    """One channel on the grid: values (T,), NaN where missing, and native samples held or stuck."""

    values: np.ndarray
    held: int
    stuck: int


def grid_of(t: np.ndarray, rate_hz: float) -> Grid:
    """Return the grid that covers row times (n,) from the first to the last."""
    return Grid(float(t[0]), rate_hz, int(np.floor((t[-1] - t[0]) * rate_hz + 1e-6)) + 1)


def to_grid(
    samples: Samples,
    rate_hz: float,
    grid: Grid,
    *,
    low_pass_hz: float | None = None,
    delay_s: float = 0.0,
    fill_s: float = 0.0,
    stuck_s: float | None = None,
) -> Resampled:
    """Resample one channel.

    A channel faster than the grid goes through one anti-aliasing FIR filter (Hamming window,
    cut-off `low_pass_hz`, at most 0.8 of the grid's Nyquist frequency), polyphase, with a delay of
    exactly `delay_s`; a slower one holds its last sample. A missing sample is replaced by the last
    one for at most `fill_s`; behind that, and wherever a filter would reach across a longer gap,
    the channel is missing.

    Args:
        samples: the channel's samples, in the recording's time.
        rate_hz: its own rate.
        stuck_s: the very same value for longer than this counts as missing from then on.
    """
    stuck = _stuck(samples.values, rate_hz, stuck_s)
    samples = Samples(samples.t[~stuck], samples.values[~stuck])
    if rate_hz > grid.rate_hz or (low_pass_hz is not None and rate_hz == grid.rate_hz):
        ratio = Fraction(rate_hz / grid.rate_hz).limit_denominator(1000)
        rate_hz = float(ratio) * grid.rate_hz                        # so slots and steps never drift apart
        filled, held = _on_native_grid(samples, rate_hz, grid, fill_s)
        cut_off = min(low_pass_hz or np.inf, 0.4 * grid.rate_hz)
        values = _filter_and_decimate(filled, rate_hz, ratio, grid, cut_off, delay_s)
    else:
        values, held = _hold_on_grid(samples, rate_hz, grid, delay_s, fill_s)
    return Resampled(values, held, int(stuck.sum()))


def _stuck(values: np.ndarray, rate_hz: float, stuck_s: float | None) -> np.ndarray:
    """Return which samples (n,) repeat one value for longer than `stuck_s`."""
    stuck = np.zeros(len(values), bool)
    if stuck_s is not None and len(values):
        longest = int(round(stuck_s * rate_hz))
        runs = equal_runs(values)
        for start, end in runs[runs[:, 1] - runs[:, 0] > longest]:
            stuck[start + longest : end] = True
    return stuck


def _on_native_grid(
    samples: Samples, rate_hz: float, grid: Grid, fill_s: float
) -> tuple[np.ndarray, int]:
    """Return the samples at their native slots (n,), short gaps held, and how many slots were."""
    slots = np.round((samples.t - grid.start_s) * rate_hz).astype(np.int64)
    steps = int(np.ceil((grid.steps - 1) / grid.rate_hz * rate_hz)) + 1
    inside = (slots >= 0) & (slots < steps)
    native = np.full(steps, np.nan)
    native[slots[inside]] = samples.values[inside]
    known, index = np.isfinite(native), np.arange(steps)
    last = np.maximum.accumulate(np.where(known, index, -1))
    near = (last >= 0) & (index - last <= round(fill_s * rate_hz))
    return np.where(near, native[np.maximum(last, 0)], np.nan), int((near & ~known).sum())


def _filter_and_decimate(
    filled: np.ndarray, rate_hz: float, ratio: Fraction, grid: Grid, cut_off: float, delay_s: float
) -> np.ndarray:
    """Return the low-passed signal at the grid's steps, NaN where the filter meets a gap."""
    down, up = ratio.numerator, ratio.denominator
    half = max(round(delay_s * rate_hz * up), up)                    # taps on each side, a sample at least
    taps = firwin(2 * half + 1, cut_off, fs=rate_hz * up) * up
    for phase in range(up):                                          # a constant stays that constant
        taps[phase::up] /= taps[phase::up].sum()
    missing = np.isnan(filled)
    smooth = upfirdn(taps, np.where(missing, 0.0, filled), up, down)[: grid.steps]
    newest = np.arange(grid.steps) * down // up                      # last native slot used
    oldest = newest - 2 * half // up
    count = np.r_[0, np.cumsum(missing)]
    newest = np.minimum(newest, len(filled) - 1)
    holes = count[newest + 1] - count[np.maximum(oldest, 0)]
    return np.where((oldest >= 0) & (holes == 0), smooth, np.nan)


def _hold_on_grid(
    samples: Samples, rate_hz: float, grid: Grid, delay_s: float, fill_s: float
) -> tuple[np.ndarray, int]:
    """Return the last sample at each step's time less the delay (T,), and how many are overdue."""
    t = grid.t - delay_s
    last = np.searchsorted(samples.t, t + 1e-6, side="right") - 1
    known = last >= 0
    if not known.any():
        return np.full(grid.steps, np.nan), 0
    age = np.where(known, t - samples.t[np.maximum(last, 0)], np.inf)
    kept = age < 1 / rate_hz + fill_s - 1e-6
    values = np.where(kept, samples.values[np.maximum(last, 0)], np.nan)
    return values, int((kept & (age > 1.5 / rate_hz)).sum())
