"""A test recording as one detector sees it: scores and alarms, events found and labelled, faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.events import FoundEvent
from evaluation.metrics import EventMatch, match_events
from recordings.windowing import EventMeta, label_steps


@dataclass(frozen=True)
class ScoredRecording:
    """Arrays (T,) of the test steps, score NaN = none yet; steps without any value are not in them.

    is_labelled: whether somebody looked for events; else a found event is neither true nor false.
    """

    name: str
    t: np.ndarray
    score: np.ndarray
    alarm: np.ndarray
    found: list[FoundEvent]
    faults: list[FoundEvent]
    labelled: list[EventMeta]
    is_labelled: bool = True
    desaturations: Sequence[FoundEvent] = ()

    def match(
        self, found: Sequence[FoundEvent], tolerance_s: float, labelled: Sequence[EventMeta] | None = None
    ) -> EventMatch:
        """Match found events, or faults, with labelled ones; None = with all of them."""
        both = found, self.labelled if labelled is None else labelled
        return match_events(*([(event.start_s, event.end_s) for event in events] for events in both), tolerance_s)

    def normal_hours(self, rate_hz: float, tolerance_s: float) -> float:
        """Return the hours outside all labelled events and their tolerance."""
        near = label_steps(self.t, [(event.start_s, event.end_s + tolerance_s) for event in self.labelled])
        return float((near == 0).sum() / rate_hz / 3600)


def segment_starts(t: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return which steps at t (T,) begin a segment (T,): the first one, and those after missing steps."""
    return np.diff(t, prepend=-np.inf) * rate_hz > 1.5
