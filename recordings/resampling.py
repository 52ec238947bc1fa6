"""Resample one channel to the common time grid, causally, with NaN where it has no measurement.

Every value on the grid depends only on samples up to its own time. The linear-phase filters delay
all channels by the declared `delay_s`, so that the model sees at each time what a live stream
could show it then; labels are not shifted, and the delay is charged to the detector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from recordings.reading import Samples, equal_runs
from recordings.stateful import Stateful
from utils import DataError

MAX_TAPS, MAX_STEPS = 5_000_000, 1_000_000_000
STEPS_AT_ONCE = 1 << 16                  # bounds the memory of intermediate arrays


@dataclass(frozen=True)
class TimeGrid:
    """The common grid: step k is at `start_s + k / rate_hz`."""

    start_s: float
    rate_hz: float
    steps: int

    @property
    def t(self) -> np.ndarray:
        """Times of the steps (T,), seconds."""
        t = np.arange(self.steps, dtype=float)                       # in place, to save memory
        t /= self.rate_hz
        t += self.start_s
        return t


@dataclass(frozen=True)
class Resampled:
    """One channel on the grid: values (T,), NaN = missing; number of held values and of samples in flatlines."""

    values: np.ndarray
    held: int
    flat: int


def grid_of(t: np.ndarray, rate_hz: float) -> TimeGrid:
    """Return the grid that covers row times (n,) from the first to the last."""
    steps = np.floor((t[-1] - t[0]) * rate_hz + 1e-6) + 1
    if not steps <= MAX_STEPS:
        raise DataError(f"{t[-1] - t[0]:g} s at rate_hz {rate_hz:g} are {steps:g} steps; expected at most {MAX_STEPS}")
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
    one for at most `fill_s`; after that, and wherever the filter would span a longer gap, the
    channel is missing.

    Args:
        samples: the channel's samples, in the recording's time.
        rate_hz: its own rate.
        flatline_s: an identical value for longer than this counts as missing from then on.
    """
    flat = _in_flatline(samples.values, rate_hz, flatline_s)
    if flat.any():
        samples = Samples(samples.t[~flat], samples.values[~flat])
    if _is_filtered(rate_hz, grid.rate_hz, low_pass_hz):
        ratio = _ratio(rate_hz, grid.rate_hz)
        rate_hz = float(ratio) * grid.rate_hz                        # so that slots and steps never drift apart
        filled, held = _on_native_grid(samples, rate_hz, grid, fill_s)
        values = _filter_and_decimate(filled, rate_hz, ratio, grid, _cut_off(low_pass_hz, grid.rate_hz), delay_s)
    else:
        values, held = _hold_on_grid(samples, rate_hz, grid, delay_s, fill_s)
    return Resampled(values, held, int(flat.sum()))


def _is_filtered(rate_hz: float, grid_hz: float, low_pass_hz: float | None) -> bool:
    """Return whether a channel goes through a filter; one no faster than the grid holds its last sample."""
    return rate_hz > grid_hz or (low_pass_hz is not None and rate_hz == grid_hz)


def _ratio(rate_hz: float, grid_hz: float) -> Fraction:
    return Fraction(rate_hz / grid_hz).limit_denominator(1000)


def _cut_off(low_pass_hz: float | None, grid_hz: float) -> float:
    return min(low_pass_hz or np.inf, 0.4 * grid_hz)


def _in_flatline(values: np.ndarray, rate_hz: float, flatline_s: float | None) -> np.ndarray:
    """Return which samples (n,) repeat one value for longer than `flatline_s`."""
    flat = np.zeros(len(values), bool)
    if flatline_s is not None and len(values):
        allowed = int(round(flatline_s * rate_hz))
        runs = equal_runs(values)
        for start, end in runs[runs[:, 1] - runs[:, 0] > allowed]:
            flat[start + allowed : end] = True
    return flat


def _on_native_grid(samples: Samples, rate_hz: float, grid: TimeGrid, fill_s: float) -> tuple[np.ndarray, int]:
    """Return the samples at their native slots (n,), with short gaps held, and the number of held slots."""
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
    """Return the low-passed signal at the grid's steps, NaN where the filter spans a gap."""
    down, up = ratio.numerator, ratio.denominator
    taps = _taps(rate_hz, up, cut_off, delay_s)
    half = len(taps) // 2
    missing = np.isnan(filled)
    newest = np.arange(grid.steps) * down // up                      # last native slot used
    smooth = _filtered(np.where(missing, 0.0, filled), _phases(taps, up), newest, down)
    oldest = newest - 2 * half // up
    missing_before = np.r_[0, np.cumsum(missing)]
    newest = np.minimum(newest, len(filled) - 1)
    missing_within = missing_before[newest + 1] - missing_before[np.maximum(oldest, 0)]
    return np.where((oldest >= 0) & (missing_within == 0), smooth, np.nan)


def _taps(rate_hz: float, up: int, cut_off: float, delay_s: float) -> np.ndarray:
    """Return the filter (2 * half + 1,) at `up` times the native rate, with a delay of `half` there."""
    half = max(round(delay_s * rate_hz * up), up)                    # taps on each side, at least one sample
    if half > MAX_TAPS:
        raise DataError(
            f"a delay_s of {delay_s:g} at {rate_hz:g} Hz, upsampled by {up}, needs a filter of {half} taps on each "
            "side; choose rates with a ratio of small whole numbers"
        )
    cycles = 2 * cut_off / (rate_hz * up)                            # of the cut-off, as a share of Nyquist's frequency
    taps = np.hamming(2 * half + 1) * np.sinc(cycles * np.arange(-half, half + 1))
    for phase in range(up):                                          # a constant signal stays constant
        taps[phase::up] /= taps[phase::up].sum()
    return taps


def _phases(taps: np.ndarray, up: int) -> list[np.ndarray]:
    """Return the polyphase parts (R,) of a filter: what the last R native slots, oldest first, are multiplied with."""
    reach = (len(taps) - 1) // up + 1
    padded = np.concatenate([taps, np.zeros(reach * up - len(taps))])
    return [padded[phase::up][::-1].copy() for phase in range(up)]


def _filtered(native: np.ndarray, phases: Sequence[np.ndarray], newest: np.ndarray, down: int) -> np.ndarray:
    """Return native slots (n,) filtered at each step (T,), whose last slot is `newest` (T,); zeros around them."""
    up, reach = len(phases), len(phases[0])
    after = max(int(newest[-1]) + 1 - len(native), 0)
    windows = sliding_window_view(np.pad(native, (reach - 1, after)), reach)         # (., R), one ends at each slot
    smooth = np.empty(len(newest))
    for first in range(up):                                          # steps whose phase is the same
        ends = windows[newest[first] :: down][: len(newest[first::up])] if first < len(newest) else windows[:0]
        smooth[first::up] = np.einsum("tr,r->t", ends, phases[first * down % up])    # no copy of the windows
    return smooth


def _hold_on_grid(
    samples: Samples, rate_hz: float, grid: TimeGrid, delay_s: float, fill_s: float
) -> tuple[np.ndarray, int]:
    """Return the last sample at each step's time minus the delay (T,), and how many are held beyond 1.5 periods."""
    values, held = np.full(grid.steps, np.nan), 0
    if not len(samples.t):
        return values, 0
    for first in range(0, grid.steps, STEPS_AT_ONCE):
        last = min(first + STEPS_AT_ONCE, grid.steps)
        t = grid.start_s + np.arange(first, last) / grid.rate_hz - delay_s
        newest = np.searchsorted(samples.t, t + 1e-6, side="right") - 1
        age = np.where(newest >= 0, t - samples.t[np.maximum(newest, 0)], np.inf)
        valid = age < 1 / rate_hz + fill_s - 1e-6
        values[first:last][valid] = samples.values[newest[valid]]
        held += int((valid & (age > 1.5 / rate_hz)).sum())
    return values, held


def significant(values: np.ndarray) -> np.ndarray:
    """Return values (n,) rounded to 6 significant digits, so that the rounding does not depend on the unit."""
    rounded = np.empty_like(values)
    for first in range(0, len(values), STEPS_AT_ONCE):
        part = values[first : first + STEPS_AT_ONCE]
        with np.errstate(divide="ignore"):
            exponent = np.floor(np.log10(np.abs(part)))
        power = 10.0 ** (5 - np.where(np.isfinite(exponent), np.maximum(exponent, -300), 0.0))
        rounded[first : first + STEPS_AT_ONCE] = np.round(part * power) / power
    return rounded


# ---- one row at a time ----------------------------------------------------------------------


class FilteredChannel(Stateful):
    """One channel faster than the grid, resampled one sample at a time; same values as `to_grid`."""

    STATE = ("window", "done", "pending", "last_slot", "last_value")

    def __init__(
        self, rate_hz: float, grid_hz: float, low_pass_hz: float | None, delay_s: float, fill_s: float
    ) -> None:
        ratio = _ratio(rate_hz, grid_hz)
        self.down, self.up, self.rate_hz = ratio.numerator, ratio.denominator, float(ratio) * grid_hz
        self.phases = _phases(_taps(self.rate_hz, self.up, _cut_off(low_pass_hz, grid_hz), delay_s), self.up)
        self.fill = round(fill_s * self.rate_hz)
        self.window = np.full(len(self.phases[0]), np.nan)           # the last native slots, oldest first
        self.done, self.pending = -1, []                             # last slot in the window; samples after it
        self.last_slot, self.last_value = -math.inf, math.nan

    def push(self, after_s: float, value: float) -> None:
        """Take a sample at `after_s` seconds after the grid's start."""
        self.pending.append((round(after_s * self.rate_hz), value))

    @property
    def is_empty(self) -> bool:
        """Whether all later steps are missing unless another sample comes."""
        return not self.pending and bool(np.isnan(self.window).all())

    def is_complete(self, step: int, after_s: float) -> bool:
        """Return whether no sample after that time can change a step."""
        return round(after_s * self.rate_hz) > step * self.down // self.up

    def value_at(self, step: int) -> float:
        """Return the channel at a step of the grid, NaN = missing; steps must be asked for in order."""
        newest = step * self.down // self.up
        slots = []
        for slot in range(max(self.done + 1, newest - len(self.window) - self.fill), newest + 1):
            while self.pending and self.pending[0][0] <= slot:       # the last sample in a slot counts
                self.last_slot, self.last_value = self.pending.pop(0)
            slots.append(self.last_value if slot - self.last_slot <= self.fill else math.nan)
        slots = slots[-len(self.window) :]
        if slots:
            self.window[: len(self.window) - len(slots)] = self.window[len(slots) :]
            self.window[len(self.window) - len(slots) :] = slots
        self.done = max(newest, self.done)
        return float(self.phases[step * self.down % self.up] @ self.window)


class HeldChannel(Stateful):
    """One channel no faster than the grid, one sample at a time: the last sample is held."""

    STATE = ("pending", "last_s", "last_value", "is_empty")

    def __init__(self, rate_hz: float, grid_hz: float, delay_s: float, fill_s: float) -> None:
        self.grid_hz, self.delay_s, self.longest_s = grid_hz, delay_s, 1 / rate_hz + fill_s - 1e-6
        self.pending: list = []
        self.last_s, self.last_value = -math.inf, math.nan
        self.is_empty = True                                         # as in FilteredChannel

    def push(self, after_s: float, value: float) -> None:
        """Take a sample at `after_s` seconds after the grid's start."""
        self.pending.append((after_s, value))
        self.is_empty = False

    def is_complete(self, step: int, after_s: float) -> bool:
        """Return whether no sample after that time can change a step."""
        return after_s >= step / self.grid_hz - self.delay_s + 1e-6

    def value_at(self, step: int) -> float:
        """Return the channel at a step of the grid, NaN = missing; steps must be asked for in order."""
        t = step / self.grid_hz - self.delay_s
        while self.pending and self.pending[0][0] <= t + 1e-6:
            self.last_s, self.last_value = self.pending.pop(0)
        holds = t - self.last_s < self.longest_s
        self.is_empty = not holds and not self.pending
        return self.last_value if holds else math.nan


class ResampleStream(Stateful):
    """A recording resampled row by row, with the values that `to_grid` gives.

    Args:
        channels: objects with rate_hz, low_pass_hz, longest_flat_s and sentinels, such as `config.ChannelConfig`.
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
        self.max_repeats = [
            math.inf if one.longest_flat_s is None else round(one.longest_flat_s * one.rate_hz) for one in channels
        ]
        self.sentinels = [frozenset(one.sentinels) for one in channels]
        self.repeated, self.repeats = [math.nan] * len(channels), [0] * len(channels)

    def push(self, t: float, values: Sequence[float]) -> list[tuple[int, np.ndarray]]:
        """Take a row: its time in s, later than the previous one, and one value per channel, NaN = none.

        Returns: the steps that no later row can change, with their values (C,), NaN = missing. Steps at which all
            channels are missing may be omitted.
        """
        if math.isnan(self.start_s):
            self.start_s = t
        self.last_s, after_s = t, t - self.start_s
        steps = self._complete(after_s)
        for k, value in enumerate(values):
            if math.isfinite(value) and value not in self.sentinels[k] and not self._in_flatline(k, value):
                self.channels[k].push(after_s, value)
        return steps

    def finish(self) -> list[tuple[int, np.ndarray]]:
        """Return the remaining steps at the end of a recording."""
        last = self._last_step(self.last_s - self.start_s)
        return [self._take() for _ in range(self.next, last + 1)]

    def t_of(self, step: int) -> float:
        """Return the time of a step in s."""
        return self.start_s + step / self.grid_hz

    def _complete(self, after_s: float) -> list[tuple[int, np.ndarray]]:
        steps, last = [], self._last_step(after_s)
        while self.next <= last and all(channel.is_complete(self.next, after_s) for channel in self.channels):
            if all(channel.is_empty for channel in self.channels):
                self.next = max(self.next, last - 1)                 # skip a long gap
            steps.append(self._take())
        return steps

    def _last_step(self, after_s: float) -> int:
        return math.floor(after_s * self.grid_hz + 1e-6) if after_s == after_s else -1

    def _take(self) -> tuple[int, np.ndarray]:
        step, self.next = self.next, self.next + 1
        return step, significant(np.array([channel.value_at(step) for channel in self.channels]))

    def _in_flatline(self, k: int, value: float) -> bool:
        """Return whether channel k has repeated one value for too long, including this one."""
        self.repeats[k] = self.repeats[k] + 1 if value == self.repeated[k] else 1
        self.repeated[k] = value
        return self.repeats[k] > self.max_repeats[k]
