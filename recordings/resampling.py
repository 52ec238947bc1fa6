"""Put one channel on the common time grid, causally, and say where it holds a measurement.

Every value of the grid depends on samples taken up to its own time alone. The linear-phase
filters delay the signal by a declared `delay_s`, all channels alike, so that what the model sees
at a time is what a live stream could show it then; labels stay where they are, and the delay is
charged to the detector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import scipy

from recordings.reading import Samples, equal_runs
from recordings.stateful import Stateful
from utils import DataError

MOST_TAPS, MOST_STEPS = 5_000_000, 1_000_000_000
PIECE = 1 << 16                          # steps at once: bounds the memory of what is in between


@dataclass(frozen=True)
class TimeGrid:
    """The common grid: step k lies at `start_s + k / rate_hz`."""

    start_s: float
    rate_hz: float
    steps: int

    @property
    def t(self) -> np.ndarray:
        """Times of the steps (T,), seconds."""
        t = np.arange(self.steps, dtype=float)                       # in place: one such array, not three
        t /= self.rate_hz
        t += self.start_s
        return t


@dataclass(frozen=True)
class Resampled:
    """One channel on the grid: values (T,), NaN where missing, and native samples held or stuck."""

    values: np.ndarray
    held: int
    stuck: int


def grid_of(t: np.ndarray, rate_hz: float) -> TimeGrid:
    """Return the grid that covers row times (n,) from the first to the last."""
    steps = np.floor((t[-1] - t[0]) * rate_hz + 1e-6) + 1
    if not steps <= MOST_STEPS:
        raise DataError(f"{t[-1] - t[0]:g} s at rate_hz {rate_hz:g} are {steps:g} steps; expected at most {MOST_STEPS}")
    return TimeGrid(float(t[0]), rate_hz, int(steps))


def to_grid(
    samples: Samples,
    rate_hz: float,
    grid: TimeGrid,
    *,
    low_pass_hz: float | None = None,
    delay_s: float = 0.0,
    fill_s: float = 0.0,
    flatline_s: float | None = None,
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
        flatline_s: the very same value for longer than this counts as missing from then on.
    """
    stuck = _stuck(samples.values, rate_hz, flatline_s)
    if stuck.any():
        samples = Samples(samples.t[~stuck], samples.values[~stuck])
    if _is_filtered(rate_hz, grid.rate_hz, low_pass_hz):
        ratio = _ratio(rate_hz, grid.rate_hz)
        rate_hz = float(ratio) * grid.rate_hz                        # so slots and steps never drift apart
        filled, held = _on_native_grid(samples, rate_hz, grid, fill_s)
        values = _filter_and_decimate(filled, rate_hz, ratio, grid, _cut_off(low_pass_hz, grid.rate_hz), delay_s)
    else:
        values, held = _hold_on_grid(samples, rate_hz, grid, delay_s, fill_s)
    return Resampled(values, held, int(stuck.sum()))


def _is_filtered(rate_hz: float, grid_hz: float, low_pass_hz: float | None) -> bool:
    """Return whether a channel goes through a filter; one no faster than the grid holds its last sample."""
    return rate_hz > grid_hz or (low_pass_hz is not None and rate_hz == grid_hz)


def _ratio(rate_hz: float, grid_hz: float) -> Fraction:
    return Fraction(rate_hz / grid_hz).limit_denominator(1000)


def _cut_off(low_pass_hz: float | None, grid_hz: float) -> float:
    return min(low_pass_hz or np.inf, 0.4 * grid_hz)


def _stuck(values: np.ndarray, rate_hz: float, flatline_s: float | None) -> np.ndarray:
    """Return which samples (n,) repeat one value for longer than `flatline_s`."""
    stuck = np.zeros(len(values), bool)
    if flatline_s is not None and len(values):
        longest = int(round(flatline_s * rate_hz))
        runs = equal_runs(values)
        for start, end in runs[runs[:, 1] - runs[:, 0] > longest]:
            stuck[start + longest : end] = True
    return stuck


def _on_native_grid(
    samples: Samples, rate_hz: float, grid: TimeGrid, fill_s: float
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
    filled: np.ndarray, rate_hz: float, ratio: Fraction, grid: TimeGrid, cut_off: float, delay_s: float
) -> np.ndarray:
    """Return the low-passed signal at the grid's steps, NaN where the filter meets a gap."""
    down, up = ratio.numerator, ratio.denominator
    taps = _taps(rate_hz, up, cut_off, delay_s)
    half = len(taps) // 2
    missing = np.isnan(filled)
    smooth = scipy.signal.upfirdn(taps, np.where(missing, 0.0, filled), up, down)[: grid.steps]
    newest = np.arange(grid.steps) * down // up                      # last native slot used
    oldest = newest - 2 * half // up
    count = np.r_[0, np.cumsum(missing)]
    newest = np.minimum(newest, len(filled) - 1)
    holes = count[newest + 1] - count[np.maximum(oldest, 0)]
    return np.where((oldest >= 0) & (holes == 0), smooth, np.nan)


def _taps(rate_hz: float, up: int, cut_off: float, delay_s: float) -> np.ndarray:
    """Return the filter (2 * half + 1,) at `up` times the native rate, with a delay of `half` there."""
    half = max(round(delay_s * rate_hz * up), up)                    # taps on each side, a sample at least
    if half > MOST_TAPS:
        raise DataError(
            f"a delay_s of {delay_s:g} at {rate_hz:g} Hz, {up} values between two samples, needs a filter of {half} "
            "taps; choose rates whose ratio is one of small whole numbers"
        )
    taps = scipy.signal.firwin(2 * half + 1, cut_off, fs=rate_hz * up) * up
    for phase in range(up):                                          # a constant stays that constant
        taps[phase::up] /= taps[phase::up].sum()
    return taps


def _hold_on_grid(
    samples: Samples, rate_hz: float, grid: TimeGrid, delay_s: float, fill_s: float
) -> tuple[np.ndarray, int]:
    """Return the last sample at each step's time less the delay (T,), and how many are overdue."""
    values, overdue = np.full(grid.steps, np.nan), 0
    if not len(samples.t):
        return values, 0
    for first in range(0, grid.steps, PIECE):
        last = min(first + PIECE, grid.steps)
        t = grid.start_s + np.arange(first, last) / grid.rate_hz - delay_s
        newest = np.searchsorted(samples.t, t + 1e-6, side="right") - 1
        age = np.where(newest >= 0, t - samples.t[np.maximum(newest, 0)], np.inf)
        kept = age < 1 / rate_hz + fill_s - 1e-6
        values[first:last][kept] = samples.values[newest[kept]]
        overdue += int((kept & (age > 1.5 / rate_hz)).sum())
    return values, overdue


def significant(values: np.ndarray, digits: int = 6) -> np.ndarray:
    """Return values (n,) rounded to so many significant digits: the unit must not decide what is lost."""
    rounded = np.empty_like(values)
    for first in range(0, len(values), PIECE):
        piece = values[first : first + PIECE]
        with np.errstate(divide="ignore"):
            exponent = np.floor(np.log10(np.abs(piece)))
        power = 10.0 ** (digits - 1 - np.where(np.isfinite(exponent), np.maximum(exponent, -300), 0.0))
        rounded[first : first + PIECE] = np.round(piece * power) / power
    return rounded


# ---- one row at a time ----------------------------------------------------------------------


class FilteredChannel(Stateful):
    """One channel faster than the grid, sample by sample; its values on the grid are those of `to_grid`."""

    STATE = ("window", "done", "pending", "last_slot", "last_value")

    def __init__(
        self, rate_hz: float, grid_hz: float, low_pass_hz: float | None, delay_s: float, fill_s: float
    ) -> None:
        ratio = _ratio(rate_hz, grid_hz)
        self.down, self.up, self.rate_hz = ratio.numerator, ratio.denominator, float(ratio) * grid_hz
        taps = _taps(self.rate_hz, self.up, _cut_off(low_pass_hz, grid_hz), delay_s)
        reach = (len(taps) - 1) // self.up + 1                       # native slots
        padded = np.concatenate([taps, np.zeros(reach * self.up - len(taps) + self.up)])
        self.phases = [padded[phase::self.up][:reach][::-1].copy() for phase in range(self.up)]
        self.fill = round(fill_s * self.rate_hz)
        self.window = np.full(reach, np.nan)                         # the last native slots, oldest first
        self.done, self.pending = -1, []                             # last slot in the window; samples behind it
        self.last_slot, self.last_value = -math.inf, math.nan

    def push(self, after_s: float, value: float) -> None:
        """Take a sample, so many seconds after the grid's start."""
        self.pending.append((self.slot_of(after_s), value))

    def slot_of(self, after_s: float) -> int:
        return round(after_s * self.rate_hz)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left that a later step could show."""
        return not self.pending and bool(np.isnan(self.window).all())

    def is_complete(self, step: int, after_s: float) -> bool:
        """Return whether no sample after that time can change a step any more."""
        return self.slot_of(after_s) > step * self.down // self.up

    def value_at(self, step: int) -> float:
        """Return the channel at a step of the grid, NaN = missing; steps come in their order."""
        newest = step * self.down // self.up
        slots = []
        for slot in range(max(self.done + 1, newest - len(self.window) - self.fill), newest + 1):
            while self.pending and self.pending[0][0] <= slot:       # of one slot, the last sample counts
                self.last_slot, self.last_value = self.pending.pop(0)
            slots.append(self.last_value if slot - self.last_slot <= self.fill else math.nan)
        slots = slots[-len(self.window) :]
        if slots:
            self.window[: len(self.window) - len(slots)] = self.window[len(slots) :]
            self.window[len(self.window) - len(slots) :] = slots
        self.done = max(newest, self.done)
        return float(self.phases[step * self.down % self.up] @ self.window)


class HeldChannel(Stateful):
    """One channel no faster than the grid, sample by sample: the last sample holds."""

    STATE = ("pending", "last_s", "last_value", "is_empty")

    def __init__(self, rate_hz: float, grid_hz: float, delay_s: float, fill_s: float) -> None:
        self.grid_hz, self.delay_s, self.longest_s = grid_hz, delay_s, 1 / rate_hz + fill_s - 1e-6
        self.pending: list = []
        self.last_s, self.last_value = -math.inf, math.nan
        self.is_empty = True                                         # nothing is left that a later step could show

    def push(self, after_s: float, value: float) -> None:
        """Take a sample, so many seconds after the grid's start."""
        self.pending.append((after_s, value))
        self.is_empty = False

    def is_complete(self, step: int, after_s: float) -> bool:
        """Return whether no sample after that time can change a step any more."""
        return after_s >= step / self.grid_hz - self.delay_s + 1e-6

    def value_at(self, step: int) -> float:
        """Return the channel at a step of the grid, NaN = missing; steps come in their order."""
        t = step / self.grid_hz - self.delay_s
        while self.pending and self.pending[0][0] <= t + 1e-6:
            self.last_s, self.last_value = self.pending.pop(0)
        holds = t - self.last_s < self.longest_s
        self.is_empty = not holds and not self.pending
        return self.last_value if holds else math.nan


class ResampleStream(Stateful):
    """A recording row by row: its channels on the common grid, as `to_grid` has them.

    Args:
        channels: an object each with rate_hz, low_pass_hz, longest_flat_s and sentinels, as in dataset_config.json.
    """

    STATE = ("start_s", "last_s", "next", "channels", "repeated", "repeats")

    def __init__(self, channels: Sequence[Any], grid_hz: float, delay_s: float, fill_s: float) -> None:
        self.grid_hz = grid_hz
        self.start_s = self.last_s = math.nan                        # of the first and the newest row
        self.next = 0                                                # step
        self.channels: list[FilteredChannel | HeldChannel] = [
            FilteredChannel(one.rate_hz, grid_hz, one.low_pass_hz, delay_s, fill_s)
            if _is_filtered(one.rate_hz, grid_hz, one.low_pass_hz)
            else HeldChannel(one.rate_hz, grid_hz, delay_s, fill_s)
            for one in channels
        ]
        self.most = [
            math.inf if one.longest_flat_s is None else round(one.longest_flat_s * one.rate_hz) for one in channels
        ]
        self.sentinels = [frozenset(one.sentinels) for one in channels]
        self.repeated, self.repeats = [math.nan] * len(channels), [0] * len(channels)

    def push(self, t: float, values: Sequence[float]) -> list[tuple[int, np.ndarray]]:
        """Take a row, its time in s, later than the last one's, and a value a channel, NaN = none.

        Returns: the steps that no later row can change, each with its values (C,), NaN = missing. Steps at which all
        channels are missing may be left out.
        """
        if math.isnan(self.start_s):
            self.start_s = t
        self.last_s, after_s = t, t - self.start_s
        steps = self._complete(after_s)
        for k, value in enumerate(values):
            if value == value and math.isfinite(value) and value not in self.sentinels[k] and not self._stuck(k, value):
                self.channels[k].push(after_s, value)
        return steps

    def finish(self) -> list[tuple[int, np.ndarray]]:
        """Return the steps that are left, at the end of a recording."""
        left = self._last_step(self.last_s - self.start_s)
        return [self._take() for _ in range(self.next, left + 1)]

    def t_of(self, step: int) -> float:
        """Return the time of a step in s."""
        return self.start_s + step / self.grid_hz

    def _complete(self, after_s: float) -> list[tuple[int, np.ndarray]]:
        steps, last = [], self._last_step(after_s)
        while self.next <= last and all(channel.is_complete(self.next, after_s) for channel in self.channels):
            if all(channel.is_empty for channel in self.channels):
                self.next = max(self.next, last - 1)                 # a long gap: nothing to show in between
            steps.append(self._take())
        return steps

    def _last_step(self, after_s: float) -> int:
        return math.floor(after_s * self.grid_hz + 1e-6) if after_s == after_s else -1

    def _take(self) -> tuple[int, np.ndarray]:
        step, self.next = self.next, self.next + 1
        return step, significant(np.array([channel.value_at(step) for channel in self.channels]))

    def _stuck(self, k: int, value: float) -> bool:
        """Return whether channel k has had one value for too long, this one included."""
        self.repeats[k] = self.repeats[k] + 1 if value == self.repeated[k] else 1
        self.repeated[k] = value
        return self.repeats[k] > self.most[k]
