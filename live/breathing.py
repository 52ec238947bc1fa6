"""Scored steps in, respiratory events out, each as soon as no later step can change it.

The rules are those of `detection/breathing_events.py`, which look at a part of the segment: the steps from the first
that still may belong to an event, and before them as many as its evidence looks back to. That gives what they give on
the whole segment, with two exceptions: a stretch that never breathes normally for half an hour is judged then and not
at its end, and what comes before the first value of an oximeter is judged by the airflow alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from config import ScoringProfile
from detection.breathing_events import (
    AFTER_S,
    APNEA_WINDOW_S,
    BASELINE_S,
    PERIODIC,
    BreathingEvent,
    PeriodicStream,
    night_of,
    oximeter_of,
)
from recordings.stateful import Stateful

EVERY_S = 5.0                            # between two looks at the rules
LONGEST_S = 1800.0                       # that is waited for the end of what may be one event: bounds the memory


class BreathingStream(Stateful):
    """The respiratory events, and spans of periodic breathing, of one segment from its steps in pieces of any size.

    Args:
        channels: what each of the C channels measures, by its name.
    """

    STATE = ("rows", "start", "seen", "is_measured", "periodic")

    def __init__(self, channels: Mapping[str, str], rate_hz: float, profile: ScoringProfile) -> None:
        self.channels, self.profile, self.oximeter = channels, profile, oximeter_of(channels)
        self.every, self.wait, self.longest = (round(span_s * rate_hz) for span_s in (EVERY_S, AFTER_S, LONGEST_S))
        self.history = round((BASELINE_S + APNEA_WINDOW_S) * rate_hz) + 2    # that evidence looks back from an event
        self.rows = np.empty((0, 2 * len(channels) + 2))         # time, score, values, expected ranges
        self.new: list[np.ndarray] = []                          # rows (n, 2C + 2) that come after these
        self.start, self.seen = 0, 0                             # row at which events may begin; steps of the segment
        self.is_measured = False                                 # whether the oximeter has had a value
        self.periodic = PeriodicStream()

    def update(
        self, t: np.ndarray, values: np.ndarray, expected: np.ndarray, score: np.ndarray
    ) -> list[BreathingEvent]:
        """Take the next steps; return the events that are settled.

        Args:
            t, score: (n,) times in s, evenly spaced, and scores.
            values, expected: (n, C) in the channels' units, and the range that was expected of them, NaN = missing.
        """
        rows, settled, done = np.column_stack([t, score, values, expected]), [], 0
        while done < len(rows):
            piece = rows[done : done + self.every - self.seen % self.every]
            self.new.append(piece)
            self.seen, done = self.seen + len(piece), done + len(piece)
            if self.seen % self.every == 0:
                settled += self._settle(is_over=False)
        return settled

    def close(self) -> list[BreathingEvent]:
        """Return the remaining events when the segment is over."""
        return self._settle(is_over=True)

    def _settle(self, is_over: bool) -> list[BreathingEvent]:
        """Return the events that are settled, and forget the rows that no later one needs."""
        self._join()
        count, t = len(self.rows), self.rows[:, 0]
        if count < 2 or (count - self.start <= self.wait and not is_over):
            return []
        values, expected = np.split(self.rows[:, 2:], 2, axis=1)
        if self.oximeter is not None:
            self.is_measured |= bool(np.isfinite(values[:, self.oximeter]).any())
        about = self.channels, self.rows[:, 1], self.profile, self.is_measured, self.start
        night = night_of(t, values, expected, *about)
        admitted, _ = night.events()
        is_cut = is_over or count - self.start > self.longest
        border_s = math.inf if is_cut else self._border_s(t, night.candidates)
        events = [event for event in admitted if event.end_s < border_s]
        self.start = int(np.searchsorted(t, border_s))
        spans = self.periodic.update(events, math.inf if is_over else min(border_s, t[-self.wait]))
        forgotten = max(self.start - self.history, 0)
        self.rows, self.start = self.rows[forgotten:].copy(), self.start - forgotten
        return events + [BreathingEvent(PERIODIC, "", *span, *[math.nan] * 6) for span in spans]

    def _border_s(self, t: np.ndarray, candidates: Sequence[BreathingEvent]) -> float:
        """Return the time before which everything is settled: no candidate that later steps can change reaches there.

        Candidates that overlap decide together which of them is admitted.
        """
        border_s = float(t[-self.wait])                          # later: a desaturation may still follow
        for event in sorted(candidates, key=lambda event: event.end_s, reverse=True):
            if event.end_s >= border_s:
                border_s = min(border_s, event.start_s)
        return border_s

    def _join(self) -> None:
        self.rows, self.new = np.concatenate([self.rows, *self.new]), []

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to resume."""
        self._join()
        return super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict()`. Raises ValueError if it does not fit."""
        rows = state.get("rows")
        most = self.history + self.longest + self.every
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or len(rows) > most:
            raise ValueError(f"rows are {np.shape(rows)}; expected at most {most} rows")
        self.rows, self.new = np.empty((len(rows), self.rows.shape[1])), []
        super().load_state_dict(state)
        if not 0 <= self.start <= len(rows):
            raise ValueError(f"start is {self.start}; expected one of {len(rows)} rows")
