"""Nights with labels in, how well found and labelled events agree over them out: by night, and with intervals.

Sources: Bland and Altman, Lancet 327, 1986 (limits of agreement); Shrout and Fleiss, Psychological Bulletin 86, 1979
(ICC(2,1): two-way random effects, single measures, absolute agreement); Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, ch. 13 (percentile intervals; what is drawn is nights, since events of a night are not independent).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.results import Agreement, Estimate, NightAgreement

LIMITS_SD = 1.96                         # standard deviations between the bias and a limit of agreement
RESAMPLES, SEED, COVERAGE = 2000, 0, 95.0
LEAST_NIGHTS = 2                         # from which on they agree or do not


def agreement_of(nights: Sequence[NightAgreement]) -> Agreement | None:
    """Return how nights agree with their labels; None of fewer than two that have a rate.

    Errors are found minus labelled, an hour; the interval of a number that too few draws have is NaN.
    """
    nights = [night for night in nights if night.hours > 0]
    if len(nights) < LEAST_NIGHTS:
        return None
    rates = rates_of(nights)
    counts = np.array([[night.labelled, night.found, night.paired] for night in nights])    # (n, 3)
    draws = np.random.default_rng(SEED).integers(len(nights), size=(RESAMPLES, len(nights)))

    def estimate(function, values: np.ndarray) -> Estimate:
        """Return a function of all nights' values (n, ...), which takes nights last but one, and its interval."""
        drawn = function(values[draws])
        known = drawn[np.isfinite(drawn)]
        sides = (50 - COVERAGE / 2, 50 + COVERAGE / 2)
        low, high = np.percentile(known, sides) if len(known) > RESAMPLES / 2 else (np.nan, np.nan)
        return Estimate(value=float(function(values)), low=float(low), high=float(high))

    errors = rates[:, 1] - rates[:, 0]
    spread = LIMITS_SD * float(errors.std(ddof=1))
    return Agreement(
        nights=nights,
        bias=estimate(ahi_bias, rates),
        mae=estimate(ahi_mae, rates),
        limits=[float(errors.mean()) - spread, float(errors.mean()) + spread],
        icc=estimate(intraclass_correlation, rates),
        f1=estimate(f1_of, counts),
    )


def rates_of(nights: Sequence[NightAgreement]) -> np.ndarray:
    """Return labelled and found events an hour (n, 2) of the nights that have a rate."""
    return np.array([[night.labelled_ahi, night.found_ahi] for night in nights if night.hours > 0]).reshape(-1, 2)


def ahi_bias(rates: np.ndarray) -> np.ndarray:
    """Return found minus labelled events an hour (...), the mean over n nights of rates (..., n, 2)."""
    return (rates[..., 1] - rates[..., 0]).mean(axis=-1)


def ahi_mae(rates: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference (...) over n nights of rates (..., n, 2)."""
    return np.abs(rates[..., 1] - rates[..., 0]).mean(axis=-1)


def intraclass_correlation(ratings: np.ndarray) -> np.ndarray:
    """Return ICC(2,1) (...) of ratings (..., n, k) of n subjects by k raters, at most 1; NaN where nothing varies."""
    n, k = ratings.shape[-2:]
    mean = ratings.mean(axis=(-2, -1), keepdims=True)
    rows, columns = (ratings.mean(axis=axis, keepdims=True) - mean for axis in (-1, -2))
    between = k * (rows**2).sum(axis=(-2, -1)) / (n - 1)                                     # mean squares
    raters = n * (columns**2).sum(axis=(-2, -1)) / (k - 1)
    rest = ((ratings - mean - rows - columns) ** 2).sum(axis=(-2, -1)) / ((n - 1) * (k - 1))
    total = between + (k - 1) * rest + k * (raters - rest) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 1e-12, (between - rest) / total, np.nan)


def f1_of(counts: np.ndarray) -> np.ndarray:
    """Return F1 (...) of labelled, found and paired events (..., n, 3) of n nights together; NaN without an event."""
    labelled, found, paired = np.moveaxis(counts.sum(axis=-2), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * paired / (labelled + found)
