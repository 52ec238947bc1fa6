"""Calibration scores in, out the threshold that leaves so many events an hour: each of them a false one.

Calibration data is normal, so every event there is false. As the threshold falls, its events appear one after the
other; the level of the k-th is the highest threshold that leaves k of them. Where calibration is long enough to count
the events asked for, the threshold is read off these levels; where it is short, their highest ones are taken for an
exponential tail,

    events an hour above x = K / hours * exp(-(x - level_K) / scale),    scale = mean(level_1..K-1 - level_K),

and the threshold is extrapolated. Sources: Pickands, Annals of Statistics 3, 1975 (exceedances of a high level);
Garwood, Biometrika 28, 1936 (the interval of a Poisson rate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.events import alarm_spans

COUNTED = 10                            # events asked for in all of calibration, from which on they are counted
MOST, LEAST = 30, 5                     # events that the tail is fitted to
PER_HOUR = 12.0                         # of them, at most: at lower levels alarms merge into endless events
LEVELS = 600                            # thresholds tried
CONFIDENCE = 0.9                        # of the interval


@dataclass(frozen=True)
class EventRule:
    """How alarms become events, which a threshold on events an hour has to know: steps a second, and in s."""

    rate_hz: float
    merge_gap_s: float
    min_duration_s: float


def poisson_interval(count: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a Poisson mean of which `count` events were seen (Garwood)."""
    from scipy.special import gammaincinv  # half a quantile of chi-square; scipy.stats is slow

    side = (1 - confidence) / 2
    return (float(gammaincinv(count, side)) if count else 0.0), float(gammaincinv(count + 1, 1 - side))


def fit_rate(recordings: Sequence[np.ndarray], rate: float, rule: EventRule) -> dict:
    """Return the threshold that leaves `rate` events an hour on calibration scores, (T,) each, NaN = no score.

    Returns: "value"; "hours" of calibration and its "events" at the threshold; "low" and "high", events an hour
        between which the true rate lies with a probability of 90 %, if the recordings to come are like these;
        "fallback", empty, or why the value is no more than the highest level there is.
    """
    hours = sum(int(np.isfinite(scores).sum()) for scores in recordings) / rule.rate_hz / 3600
    asked = rate * hours
    tail = int(min(MOST, max(PER_HOUR * hours, LEAST)))
    counted = asked >= COUNTED
    levels, above, highest = event_levels(recordings, rule, int(asked) + 1 if counted else tail)
    fallback = ""
    if counted:
        value = float(above[int(asked)] if len(levels) > asked else levels[-1])
        events = int((levels >= value).sum())
        fallback = "" if len(levels) > asked else f"no threshold leaves more than {events / hours:.3g} events an hour"
        low, high = (end / hours for end in poisson_interval(events, CONFIDENCE))
    elif len(levels) >= LEAST and len(levels) > asked:
        scale = float((levels[:-1] - levels[-1]).mean())
        value = float(levels[-1] + scale * np.log(len(levels) / asked))
        spread = np.exp(1.645 * np.sqrt((1 + np.log(len(levels) / asked) ** 2) / len(levels)))
        events = int((levels >= value).sum())
        low, high = rate / spread, rate * spread
    else:
        value, events = float(above[0] if len(levels) else highest), 0
        low, high = 0.0, poisson_interval(0, CONFIDENCE)[1] / hours
        fallback = f"{len(levels)} events in {hours:.2g} h of calibration; expected at least {LEAST}"
    return {"value": value, "hours": hours, "events": events, "low": float(low), "high": float(high),
            "fallback": fallback}  # fmt: skip


def event_levels(recordings: Sequence[np.ndarray], rule: EventRule, most: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the falling levels of the first `most` events (k,), the thresholds tried above each (k,), the highest.

    A level is the highest threshold tried that leaves so many events.
    """
    t = np.concatenate([np.arange(len(scores)) / rule.rate_hz for scores in recordings])
    score, seams = np.concatenate(list(recordings)), np.cumsum([len(scores) for scores in recordings])[:-1]
    known = score[np.isfinite(score)]
    tried = np.unique(np.quantile(known, 1 - np.append(0.0, np.geomspace(1 / known.size, 1, LEVELS))))[::-1]
    levels: list[float] = []
    above: list[float] = []
    previous = float(tried[0])
    for threshold in tried.tolist():
        first, _ = alarm_spans(t, score > threshold, seams, rule.merge_gap_s, rule.min_duration_s)
        new = min(len(first), most) - len(levels)
        levels += [threshold] * new
        above += [previous] * new
        if len(levels) == most:
            break
        previous = threshold
    return np.array(levels), np.array(above), float(tried[0])
