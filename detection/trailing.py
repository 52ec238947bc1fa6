"""Statistics over trailing spans of columns that come piece by piece.

Pieces of any size, down to single rows, give the same, bit for bit. A class keeps no more rows than its longest
span; `state_dict()` is what a later process needs to resume, plain numbers and arrays. Rows (n, K) lie in memory
column by column: numpy goes along a column fast.
"""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np

from recordings.stateful import Stateful

SORTED_LISTS_ROWS = 16                   # pieces of fewer rows update sorted lists: faster than a pass over the span


class SpanSums(Stateful):
    """Sums of the last rows, for several spans at once.

    Rows are added in groups of two, four, eight and so on, and a span is composed of these: unlike differences of a
    running sum, that keeps no rounding error of rows that have left the span.
    """

    STATE = ("past", "seen")

    def __init__(self, columns: int, longest: int) -> None:
        self.past, self.seen = np.zeros((longest - 1, columns)), 0
        self.sums: list[np.ndarray] = []                         # of 1, 2, 4, ... neighbouring rows

    def update(self, rows: np.ndarray) -> None:
        """Take the next rows (n, K), finite."""
        history = _joined(self.past, rows)
        self.seen += len(rows)
        self.sums, width = [history], 1
        while 2 * width <= len(self.past) + 1:
            self.sums.append(self.sums[-1][width:] + self.sums[-1][:-width])
            width *= 2
        self.past = history[len(rows) :].copy()

    def over(self, span: int, columns: slice = slice(None)) -> np.ndarray:
        """Return the sums (n, K) over the last `span` rows, of each new row; NaN before there are so many."""
        n = len(self.sums[0]) - len(self.past)
        total, at = np.zeros((self.past[:, columns].shape[1], n)).T, len(self.past) + 1 - span
        for power, sums in enumerate(self.sums):
            if span >> power & 1:
                total += sums[at : at + n, columns]
                at += 1 << power
        total[: max(span - 1 - (self.seen - n), 0)] = np.nan
        return total


class SpanMax(Stateful):
    """Maximum of the values present in the last `span` rows."""

    STATE = ("past",)

    def __init__(self, columns: int, span: int) -> None:
        self.past = np.full((span - 1, columns), -np.inf)

    def update(self, rows: np.ndarray) -> np.ndarray:
        """Take the next rows (n, K), NaN = missing; return their maxima (n, K), -inf where all is missing."""
        present = np.where(np.isfinite(rows), rows, -np.inf)
        high, span, width = _joined(self.past, present), len(self.past) + 1, 1
        self.past = high[len(rows) :].copy()
        while 2 * width <= span:
            high, width = np.maximum(high[width:], high[:-width]), 2 * width
        return np.maximum(high[span - width :], high[: len(high) - (span - width)])


class SpanRange(SpanMax):
    """Maximum less minimum of the values present in the last `span` rows."""

    def __init__(self, columns: int, span: int) -> None:
        super().__init__(2 * columns, span)

    def update(self, rows: np.ndarray) -> np.ndarray:
        """Take the next rows (n, K), NaN = missing; return their ranges (n, K), -inf where all is missing."""
        high, negated_low = np.split(super().update(np.concatenate([rows.T, -rows.T]).T), 2, axis=1)
        return high + negated_low


class KnownRange(Stateful):
    """Range of the last `span` rows where at least a share of them has a value."""

    STATE = ("present", "range")

    def __init__(self, columns: int, span: int, share: float) -> None:
        self.present, self.range = SpanSums(columns, span), SpanRange(columns, span)
        self.span, self.least = span, share * span

    def update(self, rows: np.ndarray) -> np.ndarray:
        """Take the next rows (n, K), NaN = missing; return their ranges (n, K), NaN where too little is known."""
        self.present.update(np.isfinite(rows).astype(float))
        enough = np.nan_to_num(self.present.over(self.span)) >= self.least
        return np.where(enough, self.range.update(rows), np.nan)


class SpanMedian(Stateful):
    """Median of the values present in the last `span` rows."""

    STATE = ("past", "oldest")

    def __init__(self, columns: int, span: int) -> None:
        self.past, self.oldest = np.full((span, columns), np.nan), 0         # a ring: a row costs no copy
        self.lists: list[list[float]] | None = None                          # the same, sorted; None = out of date

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict()`."""
        super().load_state_dict(state)
        if not 0 <= self.oldest < len(self.past) or np.isinf(self.past).any():
            raise ValueError(f"oldest is {self.oldest}; expected a row of {len(self.past)}, finite or missing")
        self.lists = None

    def update(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take the next rows (n, K), NaN = missing.

        Returns: medians (n, K), NaN where there is no value, and of how many values each is (n, K).
        """
        rows = np.where(np.isfinite(rows), rows, np.nan)
        return self._with_sorted_lists(rows) if len(rows) < SORTED_LISTS_ROWS else self._with_bottleneck(rows)

    def _with_bottleneck(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import bottleneck

        n, span = len(rows), len(self.past)
        history = _joined(np.roll(self.past, -self.oldest, axis=0), rows)
        self.past, self.oldest, self.lists = history[n:].copy(), 0, None
        count = np.cumsum(np.isfinite(history), axis=0)
        median = bottleneck.move_median(history, span, min_count=1, axis=0)
        return median[span:], (count[span:] - count[:n]).astype(float)

    def _with_sorted_lists(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.lists is None:
            self.lists = [sorted(column[np.isfinite(column)].tolist()) for column in self.past.T]
        median, count = np.full(rows.shape, np.nan), np.zeros(rows.shape)
        for row, values in enumerate(rows.tolist()):
            leaving = self.past[self.oldest].tolist()
            for k, ordered in enumerate(self.lists):
                if leaving[k] == leaving[k]:                                 # not NaN
                    del ordered[bisect.bisect_left(ordered, leaving[k])]
                if values[k] == values[k]:
                    bisect.insort(ordered, values[k])
                count[row, k] = size = len(ordered)
                if size:
                    median[row, k] = (ordered[(size - 1) // 2] + ordered[size // 2]) / 2
            self.past[self.oldest] = rows[row]
            self.oldest = (self.oldest + 1) % len(self.past)
        return median, count


class Delay(Stateful):
    """Returns rows `lag` rows late; NaN before there are so many."""

    STATE = ("waiting",)

    def __init__(self, columns: int, lag: int) -> None:
        self.waiting = np.full((lag, columns), np.nan)

    def update(self, rows: np.ndarray) -> np.ndarray:
        """Take the next rows (n, K); return those of `lag` rows before (n, K)."""
        history = _joined(self.waiting, rows)
        self.waiting = history[len(rows) :].copy()
        return history[: len(rows)]


def _joined(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return rows (m, K) and those after them (n, K) in one array, in memory column by column."""
    joined = np.empty((before.shape[1], len(before) + len(after)))
    return np.concatenate([before.T, after.T], axis=1, out=joined).T
