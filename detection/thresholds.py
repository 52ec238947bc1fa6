"""Thresholds on an anomaly score: fitted on calibration scores, stored as plain values, frozen.

    state = fit("pot", calibration_scores, risk=1e-4)     # a dict for the checkpoint
    threshold = apply(state, scores)                      # (T,) one value a step
    alarm = alarms(scores, threshold)                     # (T,) bool, NaN never alarms

Scores are one float a step, higher = more anomalous, NaN where there is none. Every method is equivariant: add a
constant to the scores or multiply them by a positive one, and the threshold changes in the same way. The parameters of
the methods are described in `config.py`.

| method | threshold | how it may change after the fit |
| - | - | - |
| false_events_per_hour | leaves `rate` events an hour on calibration data, see `event_rate` | never |
| quantile | quantile q of the calibration scores | never |
| gaussian | mean + k * std | never |
| pot | exceeded with probability `risk` by the generalised Pareto tail | never; with online=True at new peaks |
| dynamic | what separates the outliers of the recent normal steps | once per `block` normal steps |

Neither changing threshold learns from a step that alarmed. An anomaly thus causes no jump when it leaves the history,
and a lasting change keeps alarming until the threshold is fitted again.
"""

import logging
from collections.abc import Sequence

import numpy as np

from config import THRESHOLD_METHODS, check_parameters
from detection.event_rate import EventRule, fit_rate
from recordings.stateful import checked_like

log = logging.getLogger(__name__)

METHODS = tuple(THRESHOLD_METHODS)
MIN_SCORES = 10        # fewer finite calibration scores than this is an error
LARGEST_SCORE = 1e150  # squares and sums of larger scores overflow
Z_STEP = 0.5           # dynamic: distance of the candidate thresholds, in standard deviations
MAX_RUNS = 5           # dynamic: a candidate with more runs above it separates no outliers
REFIT_SHARE = 0.05     # online pot: refit when this share of the kept peaks is new
SMALL_SHAPE = 1e-8     # below it the generalised Pareto tail is computed as its exponential limit


# ---- fit, apply, alarms ---------------------------------------------------------------------


def fit(method: str, scores: np.ndarray | Sequence, rule: EventRule | None = None, **parameters) -> dict:
    """Return the threshold fitted on `scores` as plain values, ready for JSON or a checkpoint.

    Args:
        method: one of METHODS.
        scores: (T,) calibration scores of normal data, or a list of such arrays, one a recording;
            NaN = no score. `dynamic` and `false_events_per_hour` keep recordings apart, the others pool them.
        rule: how alarms become events; `false_events_per_hour` needs it.
        parameters: those that should differ from the default.
    Returns: {"method", "parameters" (all of them), "value" (in the unit of the scores; where the
        threshold starts if it changes), "n_scores" (finite ones), "fallback" (empty, or why there
        is less than the method promises), ...} and what the method found.
    Raises: ValueError for an unknown method or parameter, a value out of range, fewer than
        MIN_SCORES finite scores, infinite scores or scores beyond LARGEST_SCORE.

    Constant scores are no error but a warning: the threshold is that constant, and anything above
    it alarms.
    """
    chosen = check_parameters(method, parameters)
    several = isinstance(scores, (list, tuple)) and len(scores) > 0 and np.ndim(scores[0]) > 0
    recordings = [_as_scores(recording) for recording in (scores if several else [scores])]
    pooled = np.concatenate([recording[~np.isnan(recording)] for recording in recordings])
    _check_calibration(pooled, sum(map(len, recordings)))
    if pooled.min() == pooled.max():
        log.warning("all %d calibration scores are %g; any higher score will alarm", len(pooled), pooled[0])
    if method == "false_events_per_hour":
        found = fit_rate(recordings, chosen["rate"], rule)
        if found["fallback"]:
            log.warning("false_events_per_hour: %s; the threshold is %.4g", found["fallback"], found["value"])
    else:
        found = _fit_dynamic(recordings, **chosen) if method == "dynamic" else _POOLED_FITS[method](pooled, **chosen)
    return {"method": method, "parameters": chosen, "n_scores": len(pooled), "fallback": "", **found}


def apply(state: dict, scores: np.ndarray) -> np.ndarray:
    """Return the threshold of each step (T,), in the unit of the scores, for one recording.

    Args:
        state: what `fit` returned.
        scores: (T,) scores of one recording from its first step, NaN = no score. Infinite scores
            are compared (+inf alarms) but never learnt.
    The threshold of step t depends on the state and on scores before t only. Steps without a score
    have a threshold too. Raises ValueError if scores are not one-dimensional.
    """
    return ThresholdStream(state).update(scores)


def alarms(scores: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    """Return which steps alarm (T,) bool: score > threshold; equal or NaN does not.

    `threshold` is (T,) or one number. Raises ValueError if the shapes differ.
    """
    scores, threshold = np.asarray(scores, float), np.asarray(threshold, float)
    if threshold.ndim and threshold.shape != scores.shape:
        raise ValueError(f"threshold has shape {threshold.shape}; expected that of the scores, {scores.shape}")
    return scores > threshold


def _as_scores(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, float)
    if scores.ndim != 1:
        raise ValueError(f"scores have shape {scores.shape}; expected one score a step, (T,)")
    return scores


def _check_calibration(scores: np.ndarray, steps: int) -> None:
    """Raise ValueError unless a threshold can be fitted on the calibration scores without NaN (N,)."""
    infinite = int(np.isinf(scores).sum())
    if infinite:
        raise ValueError(f"infinite calibration scores: {infinite} of {steps}; expected finite ones or NaN")
    if len(scores) < MIN_SCORES:
        raise ValueError(f"finite calibration scores: {len(scores)} of {steps}; expected at least {MIN_SCORES}")
    largest = float(np.abs(scores).max())
    if largest > LARGEST_SCORE:
        raise ValueError(f"calibration scores reach {largest:g}; expected at most {LARGEST_SCORE:g} in size")


# ---- quantile, gaussian ---------------------------------------------------------------------


def _fit_quantile(scores: np.ndarray, q: float) -> dict:
    """Return the quantile q of the scores, linear between two of them."""
    if q < 1 and len(scores) * (1 - q) < 1:
        log.warning("quantile %g of only %d calibration scores: the threshold is close to the highest of them",
                    q, len(scores))
    return {"value": float(np.quantile(scores, q))}


def _fit_gaussian(scores: np.ndarray, k: float) -> dict:
    """Return mean + k * std, where std divides by the number of scores."""
    if scores.min() == scores.max():       # a rounded mean could lie below the constant itself
        mean, std = float(scores[0]), 0.0
    else:
        mean, std = float(scores.mean()), float(scores.std())
    return {"value": mean + k * std, "mean": mean, "std": std}


# ---- peaks over threshold -------------------------------------------------------------------


class TailError(ValueError):
    """No generalised Pareto tail can be fitted; the message says why."""


def fit_pareto(excesses: np.ndarray, min_peaks: int = 10) -> tuple[float, float]:
    """Return (shape, scale) of the generalised Pareto distribution of maximum likelihood for excesses (N,) > 0.

    Shape is in [-1, 1), scale in the unit of the excesses. The work is bounded, one grid and one
    bracketed search; scipy's `genpareto.fit` has no such bound, and returns shapes below -1.

    Raises: TailError if there are fewer than `min_peaks` distinct excesses, if most of them are
        negligible beside the largest, or if the shape reaches 1, a tail without a mean.
    Source: Grimshaw 1993 reduces the two parameters to theta = shape / scale: given theta, the best
        shape is mean(log(1 + theta * excess)). Siffer et al. 2017 search all roots of its
        derivative between bounds; we maximise the same reduced likelihood on a grid and
        polish the best point. Shapes below -1 have no maximum likelihood and are left out.
    """
    from scipy.optimize import brentq, minimize_scalar

    distinct = len(np.unique(excesses))
    if distinct < min_peaks:
        raise TailError(f"distinct peaks: {distinct} of {len(excesses)}; expected at least {min_peaks}")
    largest = float(excesses.max())
    y = excesses / largest                                   # (N,) in (0, 1]
    if np.median(y) < 1e-12:
        raise TailError("most peaks are negligible beside the largest")
    low, high = -1 + 1e-9, float(np.expm1(2) / np.median(y))  # shape(high) >= 1: half the logs are >= 2
    if _shape(low, y) < -1:
        low = brentq(lambda theta: _shape(theta, y) + 1, low, 0.0, maxiter=100)
    grid = np.concatenate([-1 + np.geomspace(1e-6, 1 - 1e-3, 30), [0.0], np.geomspace(1e-3, high, 40)])
    grid = np.concatenate([[low], grid[grid > low]])
    costs = [_pareto_cost(theta, y) for theta in grid]
    best = int(np.argmin(costs))
    bracket = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    polished = minimize_scalar(_pareto_cost, args=(y,), bounds=bracket, method="bounded", options={"maxiter": 60})
    theta = float(polished.x if polished.fun < costs[best] else grid[best])
    shape = _shape(theta, y)
    if shape >= 1:
        raise TailError(f"tail without a mean (shape {shape:.2f})")
    scale = shape / theta if abs(theta) > SMALL_SHAPE else float(y.mean())
    return shape, scale * largest


def _shape(theta: float, y: np.ndarray) -> float:
    """Return the most likely shape given theta = shape / scale."""
    return float(np.log1p(theta * y).mean())


def _pareto_cost(theta: float, y: np.ndarray) -> float:
    """Return the least negative log likelihood per excess of all distributions with this theta."""
    shape = _shape(theta, y)
    scale = shape / theta if abs(theta) > SMALL_SHAPE else float(y.mean())
    return float(np.log(scale)) + 1 + shape


def _tail_quantile(level: float, excesses: np.ndarray, peaks: int, steps: int, risk: float,
                   min_peaks: int) -> tuple[float, float, float]:
    """Return (threshold, shape, scale): what a step exceeds with probability `risk`.

    `peaks` of `steps` scores were above `level`; `excesses` are all or some of theirs. Raises
    TailError if no tail fits, or if too few steps are peaks for the risk (ties at the level).
    Source: Siffer et al. 2017, equation (1).
    """
    ratio = risk * steps / max(peaks, 1)                     # risk among the peaks
    if ratio >= 1:
        raise TailError(f"peaks: {peaks} of {steps} scores; expected a larger share than the risk, {risk:g}")
    shape, scale = fit_pareto(excesses, min_peaks)
    if abs(shape) < SMALL_SHAPE:
        value = level - scale * np.log(ratio)
    else:
        value = level + scale * np.expm1(-shape * np.log(ratio)) / shape
    if not level <= value <= LARGEST_SCORE:
        raise TailError(f"threshold {value:g} is not usable")
    return float(value), shape, scale


def _fit_pot(scores: np.ndarray, level: float, risk: float, min_peaks: int, online: bool, max_peaks: int) -> dict:
    """Return the threshold that a normal step exceeds with probability `risk`.

    Scores above their quantile `level` are peaks. Where no tail can be fitted to them, the value is
    the quantile 1 - risk, "fallback" says why and a warning is logged; otherwise there are "shape"
    and "scale". Neighbouring scores are correlated, so alarms come in runs: `risk` is a share of
    steps, not a number of events.
    Source: Siffer et al. 2017, "Anomaly Detection in Streams with Extreme Value Theory", algorithm 1.
    """
    base = float(np.quantile(scores, level))
    excesses = scores[scores > base] - base
    found = {"level_value": base, "peaks": len(excesses)}
    try:
        found["value"], found["shape"], found["scale"] = _tail_quantile(
            base, excesses, len(excesses), len(scores), risk, min_peaks)
    except TailError as error:
        found["value"], found["fallback"] = float(np.quantile(scores, 1 - risk)), str(error)
        log.warning("pot: %s; the threshold is the %g quantile of %d scores instead", error, 1 - risk, len(scores))
    if online:
        kept = np.linspace(0, len(excesses) - 1, min(len(excesses), max_peaks // 2)).astype(int)
        found["excesses"] = excesses[kept].tolist()
    return found


_POOLED_FITS = {"quantile": _fit_quantile, "gaussian": _fit_gaussian, "pot": _fit_pot}


# ---- dynamic --------------------------------------------------------------------------------


def _fit_dynamic(recordings: list[np.ndarray], history: int, block: int, z_min: float, z_max: float,
                 prune: float) -> dict:
    """Return the initial history, equally many last steps of every recording, and its threshold."""
    scored = [_after_gaps(recording, ~np.isnan(recording), follows=False) for recording in recordings]
    takes = _even_shares([len(values) for values, _ in scored], history)
    values = np.concatenate([v[len(v) - take:] for (v, _), take in zip(scored, takes, strict=True)])
    breaks = np.concatenate([b[len(b) - take:] for (_, b), take in zip(scored, takes, strict=True)])
    starts = np.cumsum([0, *takes[:-1]])
    breaks[starts[starts < len(breaks)]] = True
    return {"value": dynamic_threshold(values, breaks, z_min, z_max, prune),
            "history": values.tolist(), "breaks": np.flatnonzero(breaks).tolist()}


def _after_gaps(scores: np.ndarray, normal: np.ndarray, follows: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal scores and which of them come after a gap.

    follows: whether the step before the first one was normal.
    """
    previous = np.concatenate([[follows], normal[:-1]])[:len(normal)]
    return scores[normal], ~previous[normal]


def _even_shares(lengths: list[int], total: int) -> list[int]:
    """Return how many to take of each length, as evenly as the lengths allow, `total` in all."""
    shares = [0] * len(lengths)
    for place, i in enumerate(np.argsort(lengths, kind="stable")):
        shares[i] = min(lengths[i], (total - sum(shares)) // (len(lengths) - place))
    return shares


def dynamic_threshold(history: np.ndarray, breaks: np.ndarray, z_min: float, z_max: float, prune: float) -> float:
    """Return the threshold for the steps after `history`.

    Args:
        history: (N,) finite scores of normal steps, oldest first.
        breaks: (N,) bool, True where a score does not follow the one before it in time.
        z_min, z_max: the candidates are mean + z * std in steps of Z_STEP.
        prune: in [0, 1): how far a score must be above the highest normal one, as a share of the
            score; both measured from the lowest score of the history.
    Source: Hundman et al. 2018, "Detecting Spacecraft Anomalies Using LSTMs and Nonparametric
        Dynamic Thresholding", sections 3.2 and 3.3. We differ: scores are used as they are (the
        paper smooths its errors here; ours are smoothed before); levels are measured from the lowest
        score, so that a constant added to them changes nothing; more than MAX_RUNS outlying runs
        count as normal (the paper has no such limit, the program published with it has); pruning
        cannot wait for an anomaly to end, so it is reversed: what it would keep as normal in the
        history determines how high a new score must rise to be an anomaly.
    """
    floor = float(history.min())
    spread = float(history.max()) - floor
    if spread == 0:
        return floor
    levels = (history - floor) / spread                      # (N,) in [0, 1]
    cut = _best_cut(levels, breaks, np.arange(z_min, z_max + 1e-9, Z_STEP))
    highest = _highest_normal(levels, breaks, cut, prune)
    return floor + spread * max(cut, highest / (1 - prune))


def _best_cut(levels: np.ndarray, breaks: np.ndarray, z: np.ndarray) -> float:
    """Return the candidate that most reduces mean and std of the history when all above it is removed.

    The reductions of mean and std, as shares, are divided by the number of steps above plus the
    squared number of runs they form. Of equal candidates the highest is taken. Those with nothing or
    more than MAX_RUNS runs above them do not count; if none is left, there are no outliers and the
    cut is the maximum of the history, or the lowest candidate if that is higher.
    """
    mean, std = levels.mean(), levels.std()
    cuts = mean + z * std                                    # (Z,)
    above = levels > cuts[:, None]                           # (Z, N)
    count = above.sum(axis=1)
    runs = count - (above[:, 1:] & above[:, :-1] & ~breaks[1:]).sum(axis=1)
    valid = (count > 0) & (runs <= MAX_RUNS)
    if not valid.any():
        return float(max(cuts[0], 1.0))
    below = len(levels) - count                              # >= 1: the lowest is below the mean
    mean_below = (levels.sum() - above @ levels) / below
    square_below = ((levels**2).sum() - above @ levels**2) / below
    std_below = np.sqrt(np.maximum(square_below - mean_below**2, 0))
    gain = (mean - mean_below) / mean + (std - std_below) / std
    worth = np.where(valid, gain / np.maximum(count + runs**2, 1), -np.inf)
    return float(cuts[np.flatnonzero(worth == worth.max())[-1]])


def _highest_normal(levels: np.ndarray, breaks: np.ndarray, cut: float, prune: float) -> float:
    """Return the highest level that is normal once the runs above `cut` are pruned.

    The peaks of the runs are sorted, highest first, before the highest level below the cut: the last
    fall of more than `prune` separates anomalous from normal peaks.
    """
    above = levels > cut
    highest = float(levels[~above].max())
    starts = above.copy()
    starts[1:] &= ~above[:-1] | breaks[1:]
    if not starts.any():
        return highest
    peaks = np.maximum.reduceat(levels, np.flatnonzero(starts))   # steps below the cut change no maximum
    peaks = np.append(np.sort(peaks)[::-1], highest)
    falls = np.flatnonzero(1 - peaks[1:] / peaks[:-1] > prune)
    return float(peaks[falls[-1] + 1] if len(falls) else peaks[0])


# ---- streams --------------------------------------------------------------------------------


class ThresholdStream:
    """The threshold of one recording, chunk by chunk; any chunking gives the values of `apply`.

    `state` is what `fit` returned and is never changed. What has changed since is in `state_dict()`, plain values
    too, from which `load_state_dict()` resumes.
    """

    def __init__(self, state: dict):
        chosen = check_parameters(state["method"], state["parameters"])
        self._fitted = {"method": state["method"], "parameters": chosen, "value": state["value"]}
        self._changing: _OnlinePot | _Dynamic | None = None
        if state["method"] == "dynamic":
            self._changing = _Dynamic(state)
        elif state["method"] == "pot" and chosen["online"]:
            self._changing = _OnlinePot(state)

    def update(self, scores: np.ndarray) -> np.ndarray:
        """Return the thresholds (T,) of the next scores (T,); the first may not depend on any of them."""
        scores = _as_scores(scores)
        return self._changing.update(scores) if self._changing else np.full(len(scores), self._fitted["value"])

    def state_dict(self) -> dict:
        """Return what has changed since the fit as plain values."""
        return {"fitted": dict(self._fitted), **(self._changing.state_dict() if self._changing else {})}

    def load_state_dict(self, state: dict) -> None:
        """Resume from a `state_dict()`. Raises ValueError if it is damaged or of another fit."""
        expected = self.state_dict().keys()
        if state.keys() != expected:
            raise ValueError(f"threshold stream state has keys {sorted(state)}; expected {sorted(expected)}")
        if state["fitted"] != self._fitted:
            raise ValueError(f"threshold stream state belongs to {state['fitted']}; expected {self._fitted}")
        if self._changing:
            self._changing.load_state_dict(state)


class _OnlinePot:
    """Peaks over threshold, fitted again as normal peaks come in.

    Source: Siffer et al. 2017, algorithm 2 (SPOT). We differ: a refit waits until REFIT_SHARE of the
    kept peaks is new, so that the cost of a step does not grow with the stream; and the fit uses at
    most as many recent peaks as calibration peaks, which are always kept. As every recent peak is
    below the threshold of its time, a tail fitted to those alone is truncated further each time. On a
    million steps of exponential noise with risk 1e-4 (50 000 for calibration) the threshold sank from
    9.2 to 8.4 with all peaks kept (1.6 to 2 times the alarms asked for) and to 7.4 with the last 2000
    (4.4 times); with the calibration peaks it stayed near 8.9 (1.0 to 1.5 times, six seeds).
    """

    def __init__(self, fitted: dict):
        parameters = fitted["parameters"]
        self.risk, self.min_peaks = parameters["risk"], parameters["min_peaks"]
        self.level = fitted["level_value"]
        self.calibration = list(fitted["excesses"])
        self.max_recent = max(len(self.calibration), self.min_peaks)
        self.value, self.peaks, self.steps = fitted["value"], fitted["peaks"], fitted["n_scores"]
        self.recent: list[float] = []
        self.new = 0                                          # peaks since the last refit

    def update(self, scores: np.ndarray) -> np.ndarray:
        thresholds = np.empty(len(scores))
        finite = np.isfinite(scores)
        steps = self.steps + np.cumsum(finite)                # normal ones, once alarms are subtracted
        done = alarmed = 0
        candidates = np.flatnonzero(finite & (scores > self.level))
        for i, score in zip(candidates.tolist(), scores[candidates].tolist(), strict=True):
            if score > self.value:
                alarmed += 1
                continue
            self.recent.append(score - self.level)
            self.peaks += 1
            self.new += 1
            if self.new >= REFIT_SHARE * (len(self.calibration) + min(len(self.recent), self.max_recent)):
                thresholds[done:i + 1] = self.value           # step i itself has the old one
                done = i + 1
                self._refit(int(steps[i]) - alarmed)
        thresholds[done:] = self.value
        self.steps += int(finite.sum()) - alarmed
        return thresholds

    def _refit(self, steps: int) -> None:
        """Move the threshold to the kept peaks, or leave it where no tail fits them."""
        self.new = 0
        self.recent = self.recent[-self.max_recent:]
        excesses = np.array(self.calibration + self.recent)
        try:
            self.value, _, _ = _tail_quantile(self.level, excesses, self.peaks, steps, self.risk, self.min_peaks)
        except TailError as error:
            log.debug("online pot: %s; the threshold remains %g", error, self.value)

    def state_dict(self) -> dict:
        return {"value": self.value, "peaks": self.peaks, "steps": self.steps, "new": self.new,
                "recent": self.recent[-self.max_recent:]}

    def load_state_dict(self, state: dict) -> None:
        for key in ("peaks", "steps", "new"):
            checked_like(0, state[key], key)
        checked_like([0.0] * (len(state["recent"]) + 1), [state["value"], *state["recent"]], "recent")
        if not np.isfinite([state["value"], *state["recent"]]).all() or min(state["recent"], default=1.0) <= 0:
            raise ValueError("the recent peaks are not finite and positive")
        self.value, self.peaks, self.steps, self.new = (state[k] for k in ("value", "peaks", "steps", "new"))
        self.recent = list(state["recent"])


class _Dynamic:
    """`dynamic_threshold` of the last `history` normal steps, computed once per `block` of them.

    Source: Hundman et al. 2018, whose published settings (2100 steps of history, batches of 70,
    pruning at 0.13) are the defaults. We differ: steps that alarmed never enter the history, so they
    neither raise the threshold nor lower it when they leave, and blocks count normal steps only.
    """

    def __init__(self, fitted: dict):
        parameters = fitted["parameters"]
        self.size, self.block = parameters["history"], parameters["block"]
        self.rule = {name: parameters[name] for name in ("z_min", "z_max", "prune")}
        self.value = fitted["value"]
        self.history, self.breaks = _history_from(fitted)
        self.filled = 0                                       # normal steps since the last threshold
        self.follows = False                                  # whether the last step was normal

    def update(self, scores: np.ndarray) -> np.ndarray:
        thresholds = np.empty(len(scores))
        done = 0
        while done < len(scores):
            part = scores[done:done + self.block]
            normal = np.isfinite(part) & (part <= self.value)
            last = np.flatnonzero(normal)[self.block - self.filled - 1:][:1]   # the step that fills the block
            taken = int(last[0]) + 1 if len(last) else len(part)
            thresholds[done:done + taken] = self.value
            self._learn(part[:taken], normal[:taken])
            done += taken
        return thresholds

    def _learn(self, scores: np.ndarray, normal: np.ndarray) -> None:
        """Append the normal scores to the history; compute the threshold again when the block is full."""
        values, breaks = _after_gaps(scores, normal, self.follows)
        self.follows = bool(normal[-1])
        self.history = np.concatenate([self.history, values])
        self.breaks = np.concatenate([self.breaks, breaks])
        self.filled += len(values)
        if self.filled == self.block:
            self.filled = 0
            self.history, self.breaks = self.history[-self.size:], self.breaks[-self.size:]
            self.value = dynamic_threshold(self.history, self.breaks, **self.rule)

    def state_dict(self) -> dict:
        return {"value": self.value, "filled": self.filled, "follows": self.follows,
                "history": self.history.tolist(), "breaks": np.flatnonzero(self.breaks).tolist()}

    def load_state_dict(self, state: dict) -> None:
        for kind, key in ((0.0, "value"), (False, "follows"), (0, "filled")):
            checked_like(kind, state[key], key)
        history, breaks = _history_from(state)
        finite = history.ndim == 1 and np.isfinite([state["value"], *history]).all()
        if not finite or not 0 <= state["filled"] < self.block:
            raise ValueError("the history is not finite, or its block is full")
        self.value, self.filled, self.follows = state["value"], state["filled"], state["follows"]
        self.history, self.breaks = history, breaks


def _history_from(state: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores (N,) and break marks (N,) bool of a stored history."""
    history = np.array(state["history"], float)
    breaks = np.zeros(len(history), bool)
    breaks[state["breaks"]] = True
    return history, breaks
