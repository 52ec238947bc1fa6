"""Oxygen saturation in, desaturations out, by a rule that anyone can read: no model, no calibration.

A desaturation is a fall of 3 points or more below the highest saturation that was held for 3 s within the last 5
minutes, for at least 3 s; falls less than 10 s apart are one. Its depth tells the two counts of sleep medicine apart,
those of at least 3 and of at least 4 points (Berry et al., J. Clin. Sleep Med. 8, 2012). A saturation that stays low
for longer than 5 minutes is the new level. Everything looks back only, so a stream finds the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detection.events import Change, EventStream, FoundEvent, ended
from detection.trailing import SpanMax
from recordings.stateful import Stateful

LEAST, DEEP = 3.0, 4.0                  # points of saturation
ROUNDING = 0.05                         # points: what resampling leaves of whole numbers
HELD_S, BASELINE_S = 3.0, 300.0
MERGE_GAP_S, MIN_DURATION_S = 10.0, 3.0


class DesaturationStream(Stateful):
    """The desaturations of one oximeter, from its steps in pieces of any size.

    `peak_score` of an event is its depth in points, `peak_t_s` the time of the lowest saturation.
    """

    STATE = ("held", "highest", "events")

    def __init__(self, recording: str, channel: str, rate_hz: float) -> None:
        steps = [max(round(span * rate_hz), 1) for span in (HELD_S, BASELINE_S)]
        self.held, self.highest = (SpanMax(1, span) for span in steps)
        self.events = EventStream(recording, [channel], merge_gap_s=MERGE_GAP_S, min_duration_s=MIN_DURATION_S)

    def update(self, t: np.ndarray, saturation: np.ndarray) -> list[Change]:
        """Take the next steps at t (n,) in s, saturation (n,) in %, NaN = missing; return what begins and is over."""
        held = -self.held.update(-saturation[:, None])                       # the least of the last 3 s
        highest = self.highest.update(np.where(np.isfinite(held), held, np.nan))[:, 0]
        drop = np.where(np.isfinite(highest), highest - saturation, np.nan)
        alarm = drop >= LEAST - ROUNDING
        return self.events.update(t, drop, alarm, np.zeros(len(t), int))

    def close(self) -> list[Change]:
        """Return what is over when the recording ends, or has a gap."""
        return self.events.close()


def desaturations(
    recording: str, pieces: Sequence[tuple[np.ndarray, np.ndarray]], channel: str, rate_hz: float
) -> list[FoundEvent]:
    """Return the desaturations of one channel over a recording's segments, (t (T,), saturation (T,)) each."""
    changes: list[Change] = []
    for t, saturation in pieces:
        stream = DesaturationStream(recording, channel, rate_hz)
        changes += [*stream.update(t, saturation), *stream.close()]
    return ended(changes)


def depth_of(event: FoundEvent) -> str:
    """Return the count of sleep medicine that a desaturation belongs to."""
    return f">= {DEEP if event.peak_score >= DEEP - ROUNDING else LEAST:g} %"
