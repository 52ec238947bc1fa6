"""Arrays in, the geometry of small SVG figures out: what the report page draws.

A panel is as wide as the page and is stretched by the browser, so only lines are drawn in it: texts
stand beside it, at places given in per cent. Lines are thinned to what can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.curves import envelope, margin_of, round_times, signal_range, time_of_day

WIDTH, HEIGHT = 1000, 100                # of a panel's coordinates
TOLERANCE = 1.0                          # of thinning, in coordinates
BUCKETS = 360                            # of a whole recording
MOST_RIGHT = 96.0                        # per cent: further right, a text would leave the page


@dataclass(frozen=True)
class Tick:
    """A text beside a panel, and where, in per cent from the left or the top."""

    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One panel: name and unit, ticks of its height, (style, path) lines."""

    name: str
    unit: str
    ticks: list[Tick]
    lines: list[tuple[str, str]]


@dataclass(frozen=True)
class Span:
    """The span of time that a figure shows, in s."""

    start_s: float
    end_s: float

    def percent(self, t: float) -> float:
        """Return where a time lies, 0 to 100 from the left; times outside lie on the edge."""
        share = (t - self.start_s) / max(self.end_s - self.start_s, 1e-9)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def part(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Return left and width of a span in per cent."""
        left = self.percent(start_s)
        return left, round(self.percent(end_s) - left, 2)

    def x(self, t: np.ndarray) -> np.ndarray:
        """Return the coordinates of times (T,)."""
        return (t - self.start_s) / max(self.end_s - self.start_s, 1e-9) * WIDTH


def signal_panel(
    name: str, unit: str, span: Span, t: np.ndarray, observed: np.ndarray, forecast: np.ndarray | None
) -> Panel:
    """Draw what was observed, and what was expected if it is given, (T,) each, NaN = missing.

    The height fits what was observed; a forecast that runs away is cut at half a range beyond.
    """
    low, high = limits(observed, forecast)
    lines = [("o", path_of(span, t, observed, low, high))]
    if forecast is not None:
        lines.append(("f", path_of(span, t, np.clip(forecast, low, high), low, high)))
    return Panel(name, unit, [Tick(_top(y, low, high), text) for y, text in ticks_of(low, high)], lines)


def score_panel(span: Span, t: np.ndarray, score: np.ndarray, threshold: np.ndarray) -> Panel:
    """Draw scores, the alarms among them and the threshold (T,); the height is the square root of the score.

    A score is a logarithm already, but a peak of 50 would leave a threshold of 2 on the ground.
    """
    known = np.concatenate([score[np.isfinite(score)], threshold[np.isfinite(threshold)], [1e-3]])
    low, high = 0.0, float(np.sqrt(1.1 * known.max()))
    lines = [("s", path_of(span, t, np.sqrt(score), low, high))]
    alarm = score > threshold
    if alarm.any():
        lines.append(("a", path_of(span, t, np.sqrt(np.where(alarm, score, np.nan)), low, high)))
    lines.append(("t", path_of(span, t, np.sqrt(np.maximum(threshold, 0)), low, high)))
    places = [tick for tick in ticks_of(0.0, float(known.max())) if tick[0] > 0][-1:]
    level = float(np.max(threshold[np.isfinite(threshold)], initial=0.0))
    if level > 0 and not any(0.5 < y / level < 2 for y, _ in places):
        places.append((level, f"{level:.3g}"))
    return Panel("score", "", [Tick(_top(np.sqrt(y), low, high), text) for y, text in places], lines)


def limits(observed: np.ndarray, forecast: np.ndarray | None) -> tuple[float, float]:
    """Return the lowest and highest value that a panel shows."""
    low, high = signal_range(observed, observed if forecast is None else forecast)
    margin = margin_of(low, high, 0.06)
    return low - margin, high + margin


def path_of(span: Span, t: np.ndarray, y: np.ndarray, low: float, high: float) -> str:
    """Return a line as an SVG path of whole numbers, with a gap wherever steps or values are missing.

    Args:
        t, y: (T,) times in s and values.
        low, high: values at the bottom and the top.
    """
    if not len(t):
        return ""
    if len(t) > 2 * BUCKETS:
        t, y = envelope(t, y, BUCKETS)
    x, height = span.x(t), (high - y) / (high - low) * HEIGHT
    step = np.diff(t)
    usual = np.median(step) if len(step) else 0.0
    breaks = np.flatnonzero(~np.isfinite(height)).tolist()
    cuts = sorted({0, len(t), *breaks, *(np.flatnonzero(step > 4 * usual + 1e-9) + 1).tolist()})
    parts = []
    for first, last in zip(cuts, cuts[1:], strict=False):
        first += not np.isfinite(height[first])
        if first < last:
            parts.append(_part(x[first:last].tolist(), height[first:last].tolist()))
    return "".join(parts)


def _part(x: list[float], y: list[float]) -> str:
    """Return one unbroken line as a path, relative, which is short; a single step is a short dash."""
    kept = thinned(x, y, TOLERANCE)
    at_x, at_y = round(x[kept[0]]), round(y[kept[0]])
    text = [f"M{at_x} {at_y}l"]
    for k in kept[1:]:
        to_x, to_y = round(x[k]), round(y[k])
        if (to_x, to_y) != (at_x, at_y):
            down = to_y - at_y
            text.append(f"{to_x - at_x}{'' if down < 0 else ' '}{down} ")
            at_x, at_y = to_x, to_y
    if len(text) == 1:
        text.append("1 0")
    return "".join(text).rstrip()


def thinned(x: Sequence[float], y: Sequence[float], tolerance: float) -> list[int]:
    """Return which points of a line are kept, so that it stays within `tolerance` of all of them, along y.

    From a point that is kept, a cone is narrowed by each next one until a point falls out of it.
    """
    kept, anchor, least, most = [0], 0, -np.inf, np.inf
    for k in range(1, len(x)):
        run, rise = x[k] - x[anchor], y[k] - y[anchor]
        if run <= 0 or not least * run <= rise <= most * run:
            if k - 1 != anchor:
                kept.append(k - 1)
                anchor = k - 1
                run, rise = x[k] - x[anchor], y[k] - y[anchor]
            if run <= 0:
                kept.append(k)
                anchor, least, most = k, -np.inf, np.inf
                continue
            least, most = -np.inf, np.inf
        least, most = max(least, (rise - tolerance) / run), min(most, (rise + tolerance) / run)
    if kept[-1] != len(x) - 1:
        kept.append(len(x) - 1)
    return kept


def ticks_of(low: float, high: float) -> list[tuple[float, str]]:
    """Return two to four round numbers between two, with their texts."""
    if not (np.isfinite([low, high]).all() and high > low):
        return []
    power = 10.0 ** np.floor(np.log10(high - low))
    for step in (5 * power, 2 * power, power, power / 2, power / 5):
        first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
        if last - first >= 1:
            numbers = np.arange(first, last + 1)
            numbers = numbers[:: -(-len(numbers) // 4)] * step + 0.0                  # no minus zero
            return [(float(y), f"{y:.10g}".replace("-", "\N{MINUS SIGN}")) for y in numbers]
    return []


def time_ticks(span: Span, most: int = 7) -> list[tuple[float, float]]:
    """Return round times in a span, as (per cent, s)."""
    ticks = [(span.percent(t), t) for t in round_times(span.start_s, span.end_s, most)]
    return [(at, t) for at, t in ticks if at <= MOST_RIGHT]


def clock_ticks(span: Span, zero_s: float, most: int = 7) -> list[Tick]:
    """Return round clock times in a span, where time 0 is `zero_s` after midnight."""
    ticks = time_ticks(Span(span.start_s + zero_s, span.end_s + zero_s), most)
    with_seconds = any(t % 60 for _, t in ticks)
    return [Tick(at, time_of_day(t, with_seconds)) for at, t in ticks]


def clock(t: float, digits: int = 0) -> str:
    """Return a time in s as m:ss or h:mm:ss."""
    units = round(abs(t) * 10**digits)
    whole, rest = divmod(units, 10**digits)
    text = f"{whole % 60:02d}" + (f".{rest:0{digits}d}" if digits else "")
    hours, minutes = divmod(whole // 60, 60)
    text = f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"
    return f"\N{MINUS SIGN}{text}" if t < 0 and units else text


def _top(y: float, low: float, high: float) -> float:
    return round(100 * (high - y) / (high - low), 1)
