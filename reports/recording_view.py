"""What is drawn of one recording: arrays and marks, without the library that draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np


@dataclass(frozen=True)
class RecordingView:
    """One recording as a figure needs it: T steps, C channels, times in s, values in physical units.

    `forecast` (T, C) is what was expected `lead_s` before; NaN = missing in every array. `found` holds
    (start_s, end_s, is_true, channel), is_true None where nothing is labelled; `labelled` holds
    (start_s, end_s, kind, is_found); `faults` holds (start_s, end_s, channel). `gaps_missing`: whether
    steps that are not there count as missing, or were used elsewhere, such as for training. `start`: the clock at
    time 0, which the axis shows; `row_s`: of a series, the usual time of a row, whose axis counts rows.
    """

    name: str
    t: np.ndarray
    values: np.ndarray
    forecast: np.ndarray
    lead_s: float
    score: np.ndarray
    threshold: np.ndarray
    channels: tuple[str, ...]
    units: tuple[str, ...]
    found: Sequence[tuple[float, float, bool | None, str]] = ()
    labelled: Sequence[tuple[float, float, str, bool]] = ()
    faults: Sequence[tuple[float, float, str]] = ()
    note: str = ""
    gaps_missing: bool = True
    start: datetime | None = None
    row_s: float | None = None
