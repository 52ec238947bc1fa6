"""What of a curve is drawn: fewer points that look the same, and the range that it needs."""

from __future__ import annotations

import numpy as np

TIMES_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
BUCKETS = 1000  # a line of more than twice as many steps is drawn as its envelope


def envelope(t: np.ndarray, y: np.ndarray, buckets: int = BUCKETS) -> tuple[np.ndarray, np.ndarray]:
    """Return a line that looks the same with fewer points: the least and the greatest value of each bucket.

    Args:
        t, y: (T,) times and values, NaN = missing.
    Returns: the line itself if it is short; a NaN wherever a missing step lies between two points that are kept.
    """
    size = -(-len(y) // buckets)
    if size <= 2:
        return t, y
    rows = -(-len(y) // size)
    bucket = np.append(y, np.full(rows * size - len(y), np.nan)).reshape(rows, size)
    gone = np.isnan(bucket)
    least, greatest = np.where(gone, np.inf, bucket).argmin(1), np.where(gone, -np.inf, bucket).argmax(1)
    kept = np.unique((np.arange(rows) * size)[:, None] + np.stack([least, greatest], 1))
    kept = kept[~gone.ravel()[kept]]
    after = np.flatnonzero(np.diff(np.cumsum(gone)[kept])) + 1
    line_t = t[kept]
    return np.insert(line_t, after, (line_t[after - 1] + line_t[after]) / 2), np.insert(y[kept], after, np.nan)


def signal_range(observed: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Return the least and greatest value to show; a forecast that runs away is cut at half a range beyond."""
    low, high = finite_range(observed, finite_range(expected, (0.0, 1.0)))
    least, most = finite_range(expected, (low, high))
    reach = 0.5 * (high - low)
    return min(low, max(least, low - reach)), max(high, min(most, high + reach))


def margin_of(low: float, high: float, share: float) -> float:
    """Return a share of a range, or, of a single value, enough room to show it."""
    return share * (high - low) or 0.05 * abs(high) or 1.0


def finite_range(y: np.ndarray, otherwise: tuple[float, float]) -> tuple[float, float]:
    """Return the least and greatest finite value, or `otherwise` if there is none."""
    finite = y[np.isfinite(y)]
    return (float(finite.min()), float(finite.max())) if len(finite) else otherwise


def round_times(start_s: float, end_s: float, most: int) -> list[float]:
    """Return round times between two, in s: multiples of a second, of minutes or of hours, about `most` of them."""
    length = end_s - start_s
    step = next((s for s in TIMES_S if length / s <= most), 86400.0 * max(np.ceil(length / 86400 / most), 1))
    return [float(k * step) for k in range(int(np.ceil(start_s / step - 1e-9)), int(np.floor(end_s / step + 1e-9)) + 1)]


def time_of_day(seconds: float, with_seconds: bool) -> str:
    """Return seconds from midnight as hh:mm or hh:mm:ss."""
    whole = round(seconds) % 86400
    text = f"{whole // 3600:02d}:{whole // 60 % 60:02d}"
    return f"{text}:{whole % 60:02d}" if with_seconds else text
