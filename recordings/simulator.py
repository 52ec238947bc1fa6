"""Write simulated raw breathing recordings in the format of collected ones.

All of them are SIMULATED by a seeded model of breathing: each breath is a volume that enters
and leaves the lungs, measured by six sensors with noise and faults. A session is
`session_XX.csv` (a slower channel has empty cells between its samples) and
`session_XX.events.csv` (start_s,end_s,label,source,desaturation: the points of SpO2 that
breathing and wakefulness without noise would lose). By default, sessions 01-12 are for
training, 13-18 for calibration, and 19-42 for test, with 30 events of each kind.

    python -m recordings.simulator --out datasets/collected-simulated
    python -m recordings.simulator --out /tmp/small --train-sessions 1 --calibration-sessions 1 --test-sessions 2
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from utils import ROOT, ArgumentParser, DataError, counted, only_run_here, run_cli, sha256_of, write_json, write_text

VERSION = 2                       # to be raised when the same seed gives other numbers
RATE_HZ = 25                      # rows per second

# ---- constants: [M] measured on real recordings, [S] literature, [A] assumption ----------
# Triples are the 5, 50 and 95 % quantiles over all breaths of all people.
RATE_PER_MIN = {                  # [M]
    "asleep": (13.6, 16.7, 23.4), "sitting": (10.0, 16.0, 23.0), "walking": (10.0, 19.0, 33.0)}
TIDAL_ML = (224.0, 351.0, 516.0)  # asleep [M]
TIDAL_FACTOR = {"asleep": 1.0, "sitting": 1.2, "walking": 1.8}                  # [A]
INSPIRATION_S, PERIOD_S = 1.48, 3.6                # medians, asleep [M]
VARIANCE_SHARES = (0.20, 0.20, 0.60)               # person, drift, breath: sd of period 17 % [M]
DRIFT_S, BREATH_MEMORY = 180.0, 0.3                # drift time constant, AR(1) of breaths [A]
SIGHS_PER_H, SIGH_FACTOR = (5, 12), (2.1, 3.0)     # [S]
PAUSES_PER_H, PAUSE_S = (6, 20), (1.0, 4.0)        # swallows and short pauses [A]
RSA_BPM = (3.0, 7.0, 18.0)                         # heart rate, peak to trough of a breath [M]
SURGE_BPM, SURGE_S = (8, 20), 12.0                 # heart rate after an apnea [A]
SPO2_DROP, SPO2_DROP_AFTER_S = (1.4, 4.0, 12.0), 15.0  # points lost, in seconds of apnea [M, A]
SPO2_DELAY_S, SPO2_RECOVERY_S = (8, 14), (8, 15)   # lungs to finger [S]; time constant [A]
SPO2_GRADIENT = 12.0                               # points lost where a breath brings in twice the oxygen: half the
                                                   # ventilation then suffices, at an alveolar pressure of 50 mmHg [S]
DEMAND_S = 301                                     # of the median that is taken for the demand for oxygen [A]
FALL_AFTER_S = 45                                  # a fall that belongs to an event has its lowest value so long after
SPO2_SENTINELS = (0, 127, -1)                      # written by an oximeter for "no value" [M]
HYPERPNOEA = (1.5, 3.0)                            # depth of the 2-4 breaths after an apnea [A]
CYCLES_S = ((37.3, 3.0), (59.0, 4.9))              # periodic breathing: mean, sd; without and
                                                   # with heart failure [S, Hall 1996]
COUGH_PEAK_LPM = (476.0, 102.0)                    # mean, sd [S]
GAPS_PER_H, GAP_S = 6, (0.1, 1.7)                  # rows that are never received [M]
BRIEF_DROPOUTS_PER_H, BRIEF_DROPOUT_S = 4, (0.5, 1.9)  # too short to be labelled [M, A]
POSTURES_PER_H = 4                                 # changes of posture [A]
MAX_MINUTES = 24 * 60.0
ROOM_S, LEAD_IN_S = 75.0, 60.0                     # planned time after and before events: at least
                                                   # 60 s once they wait for a breath to begin


class Channel(NamedTuple):
    every: int                    # rows per sample
    decimals: int
    low: float                    # range of the sensor
    high: float


CHANNELS = {
    "flow_lpm": Channel(1, 1, -500, 500), "thorax_au": Channel(2, 3, 0, 4.095),
    "abdomen_au": Channel(2, 3, 0, 4.095), "spo2_pct": Channel(25, 0, 50, 100),
    "hr_bpm": Channel(25, 1, 30, 220), "acc_g": Channel(1, 3, -2, 2)}
DROPOUTS = (("flow_lpm",), ("thorax_au",), ("abdomen_au",), ("acc_g",), ("spo2_pct", "hr_bpm"),
            ("thorax_au", "abdomen_au"), tuple(CHANNELS))          # channels lost together [A]


class Kind(NamedTuple):
    length_s: tuple[float, float]
    rare_s: float                 # one in ten is longer, up to this
    recovery_s: float             # afterwards: not labelled, but not normal breathing
    asleep_only: bool


KINDS = {                         # lengths [M, A] as in the design page
    "periodic_breathing": Kind((120, 200), 200, 30, True),
    "central_apnea": Kind((10.5, 25), 54, 45, True),
    "obstructive_apnea": Kind((10.5, 25), 54, 45, True),
    "hypopnea": Kind((8, 34), 34, 30, True),
    "belt_slip": Kind((20, 90), 90, 0, False),
    "tachypnea": Kind((20, 60), 60, 20, False),
    "sensor_dropout": Kind((2.1, 30), 180, 0, False),
    "cough": Kind((1.5, 10), 10, 10, False),
    "motion": Kind((2, 10), 10, 5, False)}


@dataclass(frozen=True)
class Session:
    """One simulated recording: `frame` as in the CSV (NaN = empty cell), `events` = labels."""
    frame: pd.DataFrame
    events: pd.DataFrame


@dataclass(frozen=True)
class SessionPlan:
    """The content of one session of the dataset."""
    name: str
    role: str                     # train, calibration or test
    seed: int
    activity: str                 # asleep, or awake (sitting with bouts of walking)
    kinds: tuple[str, ...]


class Event(NamedTuple):
    start_s: float
    end_s: float
    kind: str


class Breath(NamedTuple):
    """One breath (or, as arrays, all of them): in, hold, out, rest until the end of `period`."""
    start: float                  # s
    period: float                 # s
    inspiration: float            # s
    hold: float                   # s with closed glottis: only in coughs
    expiration: float             # s with air flow
    effort_ml: float              # volume moved by chest and belly
    flow_ml: float                # volume that passes the airway
    lag: float                    # delay of the thorax after the abdomen, in cycles


# ---- the person -----------------------------------------------------------------------

@dataclass(frozen=True)
class Person:
    """Constants of a session, drawn for each [A unless stated]."""
    rate_z: float                 # deviation from the median person, in sd
    tidal_z: float
    shape_in: tuple[float, float]   # w^a (1-w)^b of the flow, w = 0..1 of the phase
    shape_out: tuple[float, float]
    rest: float                   # part of expiration without flow
    lag: float                    # 0-30 degrees
    sighs_per_h: float
    pauses_per_h: float
    thorax_share: float           # of the tidal volume
    belt_au_per_l: tuple[float, float]
    belt_level_au: tuple[float, float]
    leak_lpm: float
    hr_bpm: float
    rsa_bpm: float
    spo2_pct: float
    spo2_fall: float              # points per s without air
    spo2_delay_s: float
    spo2_recovery_s: float


def draw_person(rng: np.random.Generator) -> Person:
    z = rng.standard_normal(4).clip(-2, 2)
    return Person(
        rate_z=z[0], tidal_z=z[1],
        shape_in=(rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.7)),     # round; estimated from [M]
        shape_out=(rng.uniform(0.25, 0.6), rng.uniform(1.4, 2.2)),   # early peak, long tail
        rest=rng.uniform(0.08, 0.25), lag=rng.uniform(0, 30) / 360,
        sighs_per_h=rng.uniform(*SIGHS_PER_H), pauses_per_h=rng.uniform(*PAUSES_PER_H),
        thorax_share=rng.uniform(0.3, 0.65),
        belt_au_per_l=tuple(rng.uniform(3, 6, 2)), belt_level_au=tuple(rng.uniform(0.8, 1.6, 2)),
        leak_lpm=rng.normal(0, 2), hr_bpm=rng.uniform(52, 70), rsa_bpm=value_at_z(z[2], RSA_BPM),
        spo2_pct=rng.uniform(94.5, 98), spo2_fall=value_at_z(z[3], SPO2_DROP) / SPO2_DROP_AFTER_S,
        spo2_delay_s=rng.uniform(*SPO2_DELAY_S), spo2_recovery_s=rng.uniform(*SPO2_RECOVERY_S))


def value_at_z(z, quantiles: tuple[float, float, float]):
    """Value at `z` standard deviations of a log-normal, skewed to match its 5, 50, 95 % quantiles."""
    low, middle, high = quantiles
    return middle * np.where(np.asarray(z) > 0, high / middle, middle / low) ** (np.asarray(z) / 1.645)


def slow_noise(rng: np.random.Generator, seconds: float, time_constant_s: float) -> np.ndarray:
    """Ornstein-Uhlenbeck process around 0 with sd 1, one value a second."""
    memory = np.exp(-1 / time_constant_s)
    noise = rng.standard_normal(int(seconds) + 2) * np.sqrt(1 - memory**2)
    noise[0] /= np.sqrt(1 - memory**2)                     # stationary from the first second on
    return scipy.signal.lfilter([1], [1, -memory], noise)


def at_times(t: np.ndarray, per_second: np.ndarray) -> np.ndarray:
    """Interpolate values of one a second at times t (T,)."""
    return np.interp(t, np.arange(len(per_second)), per_second)


# ---- breaths --------------------------------------------------------------------------

class NormalBreathing:
    """Draws natural breaths, whose rate and depth drift slowly over the session."""

    def __init__(self, rng: np.random.Generator, person: Person, rest: str, walking: np.ndarray):
        seconds = len(walking)
        of_person, of_drift, of_breath = np.sqrt(VARIANCE_SHARES)
        self.person, self.rest, self.walking = person, rest, walking
        self.slow = [of_person * z + of_drift * slow_noise(rng, seconds, DRIFT_S)
                     for z in (person.rate_z, person.tidal_z)]
        noise = rng.standard_normal((3, 2 * seconds)) * np.sqrt(1 - BREATH_MEMORY**2)
        quick = of_breath * scipy.signal.lfilter([1], [1, -BREATH_MEMORY], noise)
        quick[1] = 0.95 * quick[1] - 0.3 * quick[0]        # slow breaths are deep
        self.quick = iter(quick.T.clip(-2.5, 2.5))

    def breath(self, now: float, steady: bool = False) -> Breath:
        """The breath that begins at `now` s; `steady`: without variation from breath to breath."""
        second = min(max(int(now), 0), len(self.walking) - 1)
        own = np.zeros(3) if steady else next(self.quick)
        rate_z, tidal_z = (np.clip(self.slow[k][second] + own[k], -2.5, 2.5) for k in (0, 1))
        w = self.walking[second]
        rate = value_at_z(rate_z, RATE_PER_MIN[self.rest]) ** (1 - w) * value_at_z(rate_z, RATE_PER_MIN["walking"]) ** w
        tidal = value_at_z(tidal_z, TIDAL_ML) * TIDAL_FACTOR[self.rest] ** (1 - w) * TIDAL_FACTOR["walking"] ** w
        period = 60 / rate
        inspiration = INSPIRATION_S * (period / PERIOD_S) ** 0.6 * np.exp(0.12 * own[2])   # fit to [M]
        inspiration = min(inspiration, 0.6 * period)
        expiration = (period - inspiration) * (1 - self.person.rest)
        return Breath(now, period, inspiration, 0.0, expiration, tidal, tidal, self.person.lag)


def vary(usual: Breath, start: float, effort: float = 1.0, airflow: float = 1.0, pace: float = 1.0,
           lag: float | None = None) -> Breath:
    """`usual` moved to `start`, scaled in depth, and faster if pace > 1."""
    return usual._replace(
        start=start, period=usual.period / pace, inspiration=usual.inspiration / pace,
        expiration=usual.expiration / pace, effort_ml=usual.effort_ml * effort,
        flow_ml=usual.flow_ml * airflow, lag=usual.lag if lag is None else lag)


def repeat(next_breath: Callable[[float], Breath], start: float, length_s: float) -> tuple[list[Breath], float]:
    """Breaths for at least `length_s`, each from its start, and the second of their end."""
    breaths, now = [], start
    while now < start + length_s:
        breaths.append(next_breath(now))
        now += breaths[-1].period
    return breaths, now


# An episode turns (rng, usual breath, start, length) into its breaths and the second of its end.

def central_apnea(rng, usual, start, length_s):
    """No breath at all."""
    return [], start + length_s


def obstructive_apnea(rng, usual, start, length_s):
    """The airway is closed; effort grows 1.0 -> 1.5x, chest and belly move in opposition [A]."""
    lag = rng.uniform(120, 180) / 360
    return repeat(lambda now: vary(usual, now, 1 + 0.5 * (now - start) / length_s, rng.uniform(0, 0.05),
                                   rng.normal(1, 0.06), lag), start, length_s)


def hypopnea(rng, usual, start, length_s):
    """Flow is reduced by 30-70 %, effort as much (central), hardly, or in between (narrow airway)."""
    airflow, narrow = rng.uniform(0.33, 0.67), rng.uniform()
    effort = airflow + narrow * (0.95 - airflow)

    def breath(now: float) -> Breath:
        jitter = rng.normal(1, 0.05)
        return vary(usual, now, effort * jitter, airflow * jitter, rng.normal(1, 0.06))

    return repeat(breath, start, length_s)


def tachypnea(rng, usual, start, length_s):
    """28-45 shallow breaths a minute [A]."""
    depth, pace = rng.uniform(0.4, 0.7), rng.uniform(28, 45) / 60 * usual.period

    def breath(now: float) -> Breath:
        jitter = rng.normal(1, 0.1)
        return vary(usual, now, depth * jitter, depth * jitter, pace * rng.normal(1, 0.04))

    return repeat(breath, start, length_s)


def periodic_breathing(rng, usual, start, length_s):
    """Three or more cycles: breaths grow and shrink over 55-75 % of a cycle, then pause [S, A]."""
    mean, sd = CYCLES_S[int(length_s >= 180 and rng.random() < 0.7)]
    breaths, now, peak = [], start, rng.uniform(1.4, 2.0)
    for _ in range(int(length_s // mean)):
        begin, cycle_end = now, now + rng.normal(mean, sd)
        breathing_end = begin + (cycle_end - begin) * rng.uniform(0.55, 0.75)
        while now < breathing_end:
            passed = (now + usual.period / 2 - begin) / (breathing_end - begin)
            depth = 0.15 + (peak - 0.15) * np.sin(np.pi * min(passed, 1)) * rng.normal(1, 0.08)
            breaths.append(vary(usual, now, depth, depth, rng.normal(1.1, 0.06)))
            now += breaths[-1].period
        now = max(now, cycle_end)
    return breaths, now


def cough(rng, usual, start, length_s):
    """Deep breath in, 0.2 s of closed glottis, a spike of 0.3-0.5 s, weaker during the burst [S]."""
    breaths, now, strength = [], start, 1.0
    while now < start + length_s and len(breaths) < 5:
        spike_s, inspiration = rng.uniform(0.3, 0.5), rng.uniform(0.7, 1.2)
        peak_ml_s = max(rng.normal(*COUGH_PEAK_LPM), 150) / 0.06 * strength
        volume = peak_ml_s * spike_s / 1.85                # 1.85: ratio of peak and mean flow of an expiration
        rest = rng.uniform(0.1, 0.5)
        breaths.append(usual._replace(start=now, period=inspiration + 0.2 + spike_s + rest,
                                      inspiration=inspiration, hold=0.2, expiration=spike_s,
                                      effort_ml=volume, flow_ml=volume))
        now += breaths[-1].period
        strength *= rng.uniform(0.65, 0.95)
    return breaths, now - rest


EPISODES = {f.__name__: f for f in
            (central_apnea, obstructive_apnea, hypopnea, tachypnea, periodic_breathing, cough)}


def recovery(rng, usual: Breath, start: float, kind: str) -> tuple[list[Breath], float]:
    """The 2-4 deep breaths after an apnea, fewer and smaller after a hypopnea [A]."""
    count, (low, high) = {"central_apnea": (rng.integers(2, 5), HYPERPNOEA),
                          "obstructive_apnea": (rng.integers(2, 5), HYPERPNOEA),
                          "hypopnea": (rng.integers(1, 3), (1.1, 1.6))}.get(kind, (0, (1, 1)))
    breaths, now, depth = [], start, rng.uniform(low, high)
    for _ in range(count):
        breaths.append(vary(usual, now, depth, depth, 1.1))
        now += breaths[-1].period
        depth = max(1.0, low, depth * rng.uniform(0.75, 1.0))
    return breaths, now


def breathe(rng, breathing: NormalBreathing, planned: list[Event], seconds: float) -> tuple[Breath, list[Event]]:
    """Every breath of a session, and its breathing events with their actual times.

    An event begins after the breath during which it was planned to start. Sighs (sometimes
    followed by a rest), swallows and short pauses are part of normal breathing.
    """
    breaths, events, waiting = [], [], list(planned)
    now, person = rng.uniform(-4, 0), breathing.person
    while now < seconds:
        if waiting and now >= waiting[0].start_s:
            plan = waiting.pop(0)
            usual = breathing.breath(now, steady=True)
            more, end = EPISODES[plan.kind](rng, usual, now, plan.end_s - plan.start_s)
            events.append(Event(now, end, plan.kind))
            deep, now = recovery(rng, usual, end, plan.kind)
            breaths += more + deep
            continue
        breath = breathing.breath(now)
        chance, rest = rng.random() * 3600 / breath.period, 0.0
        if chance < person.sighs_per_h:
            depth = rng.uniform(*SIGH_FACTOR) * breathing.breath(now, steady=True).flow_ml / breath.flow_ml
            breath, rest = vary(breath, now, depth, depth, 0.7), rng.uniform(0, 3)
        elif chance < person.sighs_per_h + person.pauses_per_h:
            rest = rng.uniform(*PAUSE_S)
        breaths.append(breath)
        now += breath.period + rest
    return Breath(*np.array(breaths).T), events


def lung_motion(person: Person, breaths: Breath, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At times `t`: the breath's index, the part of its volume inside (0..1), and its change per s.

    Flow is a beta curve in each phase, hence volume is exactly the incomplete beta function.
    """
    i = np.searchsorted(breaths.start, t, side="right").clip(1) - 1
    since = t - breaths.start[i]
    w_in = (since / breaths.inspiration[i]).clip(0, 1)
    w_out = ((since - breaths.inspiration[i] - breaths.hold[i]) / breaths.expiration[i]).clip(0, 1)
    (a, b), (c, d) = person.shape_in, person.shape_out
    inside = scipy.special.betainc(a + 1, b + 1, w_in) - scipy.special.betainc(c + 1, d + 1, w_out)
    slope_in = w_in**a * (1 - w_in) ** b / scipy.special.beta(a + 1, b + 1) / breaths.inspiration[i]
    slope_out = w_out**c * (1 - w_out) ** d / scipy.special.beta(c + 1, d + 1) / breaths.expiration[i]
    return i, inside, slope_in - slope_out


# ---- sensor signals -------------------------------------------------------------------

def flow_lpm(rng, person, breaths, t, hr_bpm) -> np.ndarray:
    """Mask flow, positive in inspiration: breathing, heartbeat ripple [S], drifting leak [M], noise."""
    i, _, slope = lung_motion(person, breaths, t)
    heartbeat = rng.uniform(0.1, 0.4) * np.sin(2 * np.pi * np.cumsum(at_times(t, hr_bpm)) / 60 / RATE_HZ)
    leak = person.leak_lpm + 1.2 * at_times(t, slow_noise(rng, t[-1], 150))
    return breaths.flow_ml[i] * slope * 0.06 + heartbeat + leak + rng.normal(0, 0.3, len(t))


def belts_au(rng, person, breaths, t, posture) -> np.ndarray:
    """(2, T) thorax and abdomen: their shares of the volume, gain, level, drift, noise.

    The thorax lags slightly in normal breathing, and by half a cycle in an obstruction.
    A breath rarely ends exactly where it began: the empty lungs' volume varies by 25 mL [A].
    """
    empty_l = scipy.signal.lfilter([0.025 * 0.8], [1, -0.6], rng.standard_normal(len(breaths.start)))
    lag_s = np.interp(t, breaths.start, breaths.lag * breaths.period)
    belts = np.empty((2, len(t)))
    shares = (person.thorax_share, 1 - person.thorax_share)
    for k, (share, seen_at, sign) in enumerate(zip(shares, (t - lag_s, t), (1, -1))):
        i, inside, _ = lung_motion(person, breaths, seen_at)
        effort_l = breaths.effort_ml * rng.normal(1, 0.06, len(breaths.start)) / 1000
        gain = person.belt_au_per_l[k] * np.exp(0.2 * sign * posture[0] + 0.1 * posture[1])
        level = person.belt_level_au[k] + 0.15 * posture[2 + k] + 0.03 * at_times(t, slow_noise(rng, t[-1], 60))
        belts[k] = level + gain * share * (effort_l[i] * inside + np.interp(seen_at, breaths.start, empty_l))
        belts[k] += rng.normal(0, 0.006, len(t))
    return belts


def acc_g(rng, person, breaths, t, posture, walking) -> np.ndarray:
    """One axis on the chest: gravity by posture, faint breathing, steps, a shock with each cough."""
    i, inside, _ = lung_motion(person, breaths, t)
    gravity = np.sin(rng.uniform(-1.2, 1.2) + 0.5 * posture[4])
    faint = rng.uniform(0.003, 0.010) * inside * (breaths.effort_ml / np.median(breaths.effort_ml))[i].clip(0, 4)
    acc = gravity + faint + rng.uniform(0.1, 0.25) * walking * footsteps(rng, t) + rng.normal(0, 0.003, len(t))
    for k in np.flatnonzero(breaths.hold > 0):
        since = t - (breaths.start + breaths.inspiration + breaths.hold)[k]      # s after the glottis opens
        acc += rng.uniform(0.1, 0.5) * np.exp(-np.abs(since - 0.15) / 0.12) * np.cos(2 * np.pi * 4 * since)
    return acc


def footsteps(rng, t) -> np.ndarray:
    """Walking, about 1.8 steps a second, with a harmonic; amplitude about 1 [A]."""
    cadence = rng.uniform(1.6, 2.0) * (1 + 0.03 * at_times(t, slow_noise(rng, t[-1], 10)))
    phase = 2 * np.pi * np.cumsum(cadence) / RATE_HZ
    return np.sin(phase) + 0.4 * np.sin(2 * phase + 1)


def spo2_pct(rng, person, breaths, seconds) -> tuple[np.ndarray, np.ndarray]:
    """Oxygen saturation each second: falls under low ventilation, measured at the finger after a delay.

    Oxygen that ventilation (mean of 6 s, for the air in the lungs) does not bring in is taken from
    the stores; the emptier they are, the more a breath brings in [A: mass balance]. So the fall grows
    with the length of an event, in apneas more steeply than in hypopneas [S, Sola-Soler 2019]. The
    oximeter averages over 6 s as well. Returns also the points lost (without noise), as the finger
    sees them.
    """
    second = np.arange(int(seconds) + 1)
    i = np.searchsorted(breaths.start, second, side="right").clip(1) - 1
    ventilation = (breaths.flow_ml / breaths.period)[i]
    ventilation[second > (breaths.start + breaths.period)[i]] = 0          # no breath follows
    demand = scipy.ndimage.median_filter(ventilation, DEMAND_S, mode="nearest")      # slow drifts follow it [A],
    demand = np.maximum(demand, 0.7 * np.median(ventilation))                        # minutes of pauses do not
    change_of_6_s = scipy.signal.lfilter(np.ones(6) / 6, [1], ventilation / demand - 1)
    loss, lost = np.zeros(len(second)), 0.0
    for k, change in enumerate(change_of_6_s.clip(-1, 0)):                 # one step a second
        lack = 1 - (1 + change) * (1 + lost / SPO2_GRADIENT)
        lost += person.spo2_fall * lack * (1 - lost / 35) if lack > 0 else -lost / person.spo2_recovery_s
        loss[k] = lost
    seen = np.interp(second - person.spo2_delay_s + 6, second, loss)       # the averages take 6 s
    noise = 0.4 * slow_noise(rng, seconds, 120)[:len(second)]
    return person.spo2_pct + scipy.signal.lfilter(np.ones(6) / 6, [1], noise - seen), seen


def desaturation_of(event: Event, lost: np.ndarray) -> float:
    """Points of SpO2 that are lost from an event on, by the points lost each second without noise."""
    first, last = int(event.start_s), int(event.end_s) + 1
    return max(float(lost[first:last + FALL_AFTER_S].max(initial=0.0) - lost[max(first - 10, 0):last].min()), 0.0)


def hr_bpm(rng, person, breaths, events, awake, walking, seconds) -> np.ndarray:
    """Heart rate each second: rises with inspiration (RSA), while walking and after apneas."""
    second = np.arange(int(seconds) + 1)
    i, inside, _ = lung_motion(person, breaths, second - 0.5)
    depth = (breaths.flow_ml / np.median(breaths.flow_ml))[i].clip(0, 1.5)
    effort = scipy.signal.lfilter([1 / 25], [1, -24 / 25], walking[:len(second)])   # time constant 25 s
    hr = person.hr_bpm + 10 * awake + rng.uniform(20, 35) * effort + person.rsa_bpm * (inside * depth - 0.4)
    hr += 2 * slow_noise(rng, seconds, 90)[:len(second)] + slow_noise(rng, seconds, 3)[:len(second)]
    for event in events:
        if event.kind in ("central_apnea", "obstructive_apnea"):
            after = (second - event.end_s).clip(0)
            hr += rng.uniform(*SURGE_BPM) * 1.6 * (np.exp(-after / SURGE_S) - np.exp(-after / 4))
    return hr


def posture_changes(rng, t) -> np.ndarray:
    """(5, T) balance, gain, two belt levels, tilt, in units of 1 sd: each change takes 10-30 s."""
    posture = np.zeros((5, len(t)))
    for _ in range(rng.poisson(POSTURES_PER_H * t[-1] / 3600)):
        passage = scipy.special.expit((t - rng.uniform(0, t[-1])) / rng.uniform(2, 6))
        posture += rng.standard_normal((5, 1)) * passage
    return posture


# ---- events on the sensors, and faults -------------------------------------------------

def motion(rng, raw: dict, t, start, end):
    """A burst of 0.3-8 Hz on flow, belts and accelerometer [A]."""
    inside = (t >= start) & (t < end)
    band = scipy.signal.butter(2, (0.3, 8), "bandpass", fs=RATE_HZ, output="sos")
    envelope = scipy.signal.windows.tukey(inside.sum(), 0.3) * rng.uniform(0.6, 1)
    for name, (low, high) in {"flow_lpm": (8, 30), "thorax_au": (0.2, 0.8), "abdomen_au": (0.2, 0.8),
                              "acc_g": (0.15, 0.6)}.items():
        burst = scipy.signal.sosfiltfilt(band, rng.standard_normal(len(envelope) + 100))[50:-50]
        raw[name][inside] += burst / burst.std() * envelope * rng.uniform(low, high)


def belt_slip(rng, raw: dict, t, start, end):
    """One belt slips, gain x0.3-0.7 [A]; it is tightened a second before the end."""
    name = rng.choice(["thorax_au", "abdomen_au"])
    tightened = end - 1.0
    slipped = (t >= start) & (t < tightened)
    level = np.quantile(raw[name][slipped], 0.05)          # empty lungs
    raw[name][slipped] = level - 0.1 + rng.uniform(0.3, 0.7) * (raw[name][slipped] - level)
    for jump in (start, tightened):
        raw[name] += rng.choice([-1, 1]) * rng.uniform(0.3, 0.8) * np.exp(-(t - jump).clip(0) / 0.25) * (t >= jump)


def sensor_dropout(rng, raw: dict, t, start, end):
    """Some channels lose their signal together; an oximeter may write a sentinel for SpO2 [M]."""
    lost = (t >= start) & (t < end)
    names = DROPOUTS[rng.integers(len(DROPOUTS))]
    sentinel = rng.choice(SPO2_SENTINELS) if rng.random() < 0.6 else np.nan
    for name in names:
        raw[name][lost] = sentinel if name == "spo2_pct" else np.nan


def brief_dropouts(rng, raw: dict, t):
    """Lose single channels for too short to be labelled [M, A]."""
    for _ in range(rng.poisson(BRIEF_DROPOUTS_PER_H * t[-1] / 3600)):
        start, name = rng.uniform(0, t[-1]), rng.choice(["flow_lpm", "thorax_au", "abdomen_au", "acc_g"])
        raw[name][(t >= start) & (t < start + rng.uniform(*BRIEF_DROPOUT_S))] = np.nan


def received_rows(rng, t) -> np.ndarray:
    """(T,) False where a row was not received: gaps of 0.1-1.7 s [M]."""
    received = np.ones(len(t), bool)
    for _ in range(rng.poisson(GAPS_PER_H * t[-1] / 3600)):
        start = rng.uniform(1, t[-1])
        received[(t >= start) & (t < start + rng.uniform(*GAP_S))] = False
    return received


# ---- one session -----------------------------------------------------------------------

def draw_length(rng, kind: str) -> float:
    (low, high), rare = KINDS[kind].length_s, KINDS[kind].rare_s
    return rng.uniform(high, rare) if rare > high and rng.random() < 0.1 else rng.uniform(low, high)


def plan_events(rng, seconds: float, kinds: Sequence[str]) -> list[Event]:
    """Place `kinds` in random order at random times, each followed by recovery and 60 s of normal breathing."""
    if unknown := set(kinds) - set(KINDS):
        raise DataError(f"unknown kinds {sorted(unknown)}; expected some of {sorted(KINDS)}")
    kinds = [kinds[k] for k in rng.permutation(len(kinds))]
    for _ in range(200):
        lengths = np.array([draw_length(rng, kind) for kind in kinds])
        needs = lengths + [KINDS[kind].recovery_s + ROOM_S for kind in kinds]
        if (spare := seconds - LEAD_IN_S - needs.sum()) >= 0:
            break
    else:
        raise DataError(f"{seconds / 60:g} minutes are too short for {counted(len(kinds), 'event')}; "
                        "choose fewer events or longer sessions")
    waits = rng.dirichlet(np.ones(len(kinds) + 1))[:-1] * spare
    starts = LEAD_IN_S + np.cumsum(waits) + np.cumsum(needs) - needs
    starts, ends = (np.round(edge * RATE_HZ) / RATE_HZ for edge in (starts, starts + lengths))   # on rows
    return [Event(*event) for event in zip(starts.tolist(), ends.tolist(), kinds)]


def plan_walking(rng, seconds: float, events: list[Event]) -> np.ndarray:
    """One value a second, 1 = walking: bouts of 2-5 minutes, not near breathing events."""
    walking = np.zeros(int(seconds) + 2)
    for _ in range(8):
        start, length = rng.uniform(0, seconds), rng.uniform(120, 300)
        if start + length < seconds and walking.sum() < 0.3 * seconds and not any(
                event.kind in EPISODES and event.start_s - 60 < start + length and start < event.end_s + 60
                for event in events):
            walking[int(start):int(start + length)] = 1
    return walking


def simulate_session(seed: int, minutes: float = 30.0, kinds: Sequence[str] = (),
                     activity: str = "asleep") -> Session:
    """Simulate one person's recording.

    Args:
        kinds: the events it contains, from `KINDS`; their order and times are drawn.
        activity: "asleep", or "awake": sitting, with bouts of walking.
    Returns: the raw frame (rows at 25 Hz, NaN = empty cell) and its events.
    Raises: DataError if a kind is unknown or the events do not fit into `minutes`.
    """
    if activity not in ("asleep", "awake"):
        raise DataError(f"activity is {activity!r}; expected 'asleep' or 'awake'")
    rng, seconds, awake = np.random.default_rng(seed), 60 * minutes, activity == "awake"
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    person, planned = draw_person(rng), plan_events(rng, seconds, kinds)
    walking = plan_walking(rng, seconds, planned) if awake else np.zeros(int(seconds) + 2)
    breathing = NormalBreathing(rng, person, "sitting" if awake else "asleep",
                                scipy.signal.lfilter([0.1], [1, -0.9], walking))     # breathing follows within 10 s
    breaths, events = breathe(rng, breathing, [e for e in planned if e.kind in EPISODES], seconds)

    hr = hr_bpm(rng, person, breaths, events, awake, walking, seconds)
    posture = posture_changes(rng, t)
    footsteps_au = rng.uniform(0.02, 0.06) * at_times(t, walking) * footsteps(rng, t)
    thorax, abdomen = belts_au(rng, person, breaths, t, posture) + footsteps_au
    saturation, lost = spo2_pct(rng, person, breaths, seconds)
    raw = {"flow_lpm": flow_lpm(rng, person, breaths, t, hr), "thorax_au": thorax, "abdomen_au": abdomen,
           "spo2_pct": at_times(t, saturation), "hr_bpm": at_times(t, hr),
           "acc_g": acc_g(rng, person, breaths, t, posture, at_times(t, walking))}
    return assemble_session(rng, t, raw, events, lost, [e for e in planned if e.kind not in EPISODES])


def assemble_session(rng, t, raw: dict[str, np.ndarray], events: list[Event], lost: np.ndarray,
                     on_sensors: list[Event]) -> Session:
    """Apply movement and belt slips, clip to the range of the sensors, then drop out channels and rows."""
    for event in on_sensors:
        if event.kind != "sensor_dropout":
            {"motion": motion, "belt_slip": belt_slip}[event.kind](rng, raw, t, event.start_s, event.end_s)
    raw = {name: values.clip(CHANNELS[name].low, CHANNELS[name].high) for name, values in raw.items()}
    for event in on_sensors:
        if event.kind == "sensor_dropout":
            sensor_dropout(rng, raw, t, event.start_s, event.end_s)
    brief_dropouts(rng, raw, t)
    frame = pd.DataFrame({"t_s": t.round(2)})
    for name, channel in CHANNELS.items():
        cells = np.full(len(t), np.nan)
        cells[::channel.every] = raw[name][::channel.every].round(channel.decimals) + 0.0   # no "-0.0"
        frame[name] = cells
    rows = [(*e, round(desaturation_of(e, lost), 1)) for e in events] + [(*e, np.nan) for e in on_sensors]
    table = pd.DataFrame([(round(start, 2), round(end, 2), kind, "simulated", points)
                          for start, end, kind, points in sorted(rows)],
                         columns=["start_s", "end_s", "label", "source", "desaturation"])
    return Session(frame[received_rows(rng, t)].reset_index(drop=True), table)


# ---- the dataset -----------------------------------------------------------------------

def plan_sessions(seed: int = 0, minutes: float = 30.0, train: int = 12, calibration: int = 6,
                  test: int = 24) -> list[SessionPlan]:
    """Assign events to sessions; every third person is awake.

    Test sessions contain 1.25 events of each kind per half hour in total, each assigned to the
    session with the most time left; training and calibration sessions contain 2-4 events each.

    Raises: DataError if there is no session, its events do not fit, or the seed is negative.
    """
    if min(train, calibration, test) < 0 or train + calibration + test == 0 or not 2 <= minutes <= MAX_MINUTES:
        raise DataError(f"{train} + {calibration} + {test} sessions of {minutes:g} minutes; "
                        f"expected at least one, of 2 to {MAX_MINUTES:g} minutes")
    if seed < 0:
        raise DataError(f"seed {seed}; expected 0 or more")
    rng = np.random.default_rng(seed)
    activities = ["awake" if k % 3 == 2 else "asleep" for n in (train, calibration, test) for k in range(n)]
    kinds: list[list[str]] = [[] for _ in activities]
    for k in range(train + calibration):
        possible = [kind for kind in KINDS if activities[k] == "asleep" or not KINDS[kind].asleep_only]
        most = int(min(4, minutes // 7))                   # fewer in short sessions
        count = rng.integers(min(2, most), most + 1)
        kinds[k] = list(rng.choice(possible, count, replace=False))
    planned_s = rng.uniform(0, 1, len(activities))         # random, to break ties
    for kind, facts in KINDS.items():                      # long and asleep-only kinds come first
        possible = [k for k in range(train + calibration, len(activities))
                    if activities[k] == "asleep" or not facts.asleep_only]
        for _ in range(int(1.25 * test * minutes / 30)):
            k = min(possible, key=lambda k: planned_s[k])
            kinds[k].append(kind)
            planned_s[k] += np.mean(facts.length_s) + facts.recovery_s + ROOM_S
    if planned_s.max() > 60 * minutes - LEAD_IN_S:         # otherwise lengths that fit are found
        raise DataError(f"the events of a session need about {planned_s.max() / 60 + 1:.0f} minutes; "
                        f"{minutes:g} is too short for {counted(test, 'test session')}")
    roles = ["train"] * train + ["calibration"] * calibration + ["test"] * test
    return [SessionPlan(f"session_{k + 1:02d}", roles[k], 1000 * seed + k + 1, activities[k],
                        tuple(str(kind) for kind in kinds[k])) for k in range(len(roles))]


def format_cells(values: np.ndarray, decimals: int) -> list[str]:
    """The text of each value, "" for NaN; distinct values are formatted once."""
    distinct, place = np.unique(values, return_inverse=True)
    return np.where(np.isnan(distinct), "", np.char.mod(f"%.{decimals}f", distinct))[place].tolist()


def session_csv(frame: pd.DataFrame) -> str:
    """The content of a session's CSV."""
    columns = [format_cells(frame[name].to_numpy(), CHANNELS[name].decimals if name in CHANNELS else 2)
               for name in frame.columns]
    return "\n".join([",".join(frame.columns), *map(",".join, zip(*columns)), ""])


def is_complete(out: Path, manifest: dict) -> bool:
    """Whether `out` contains exactly what `manifest` describes, byte for byte."""
    try:
        found = json.loads((out / "simulation.json").read_text())
        hashes = found.pop("sha256")
        return found == manifest and all(sha256_of(out / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def unfinished_arguments(out: Path) -> dict[str, float] | None:
    """The arguments of a `write_sessions` that was interrupted in this folder; None if there was none."""
    try:
        return json.loads((out / "simulation.json").read_text())["unfinished"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_sessions(out: Path, seed: int = 0, minutes: float = 30.0, train: int = 12, calibration: int = 6,
                   test: int = 24) -> list[Path]:
    """Write the sessions unless `out` already contains exactly them; return their CSV paths.

    Raises: DataError if `plan_sessions` finds no plan, or if `out` contains other sessions, since
    nothing is deleted and sessions must not be mixed. FolderInUse if another process is writing there.
    """
    arguments = {"seed": seed, "minutes": minutes, "train": train, "calibration": calibration, "test": test}
    plans = plan_sessions(**arguments)
    manifest = {"data": "simulated", "version": VERSION, "seed": seed, "minutes": minutes,
                "sessions": json.loads(json.dumps([asdict(plan) for plan in plans]))}
    paths = [out / f"{plan.name}.csv" for plan in plans]
    if is_complete(out, manifest):
        return paths
    expected = {name for path in paths for name in (path.name, path.with_suffix(".events.csv").name)}
    if others := sorted(p.name for p in out.glob("session_*.csv") if p.name not in expected):
        raise DataError(f"{out} has {counted(len(others), 'other session file')}, first {others[0]}; "
                        "choose an empty folder or delete them")
    with only_run_here(out):
        write_json(out / "simulation.json", {"unfinished": arguments})       # marks the folder as incomplete
        hashes = {}
        for plan, path in zip(plans, paths):
            session = simulate_session(plan.seed, minutes, plan.kinds, plan.activity)
            texts = {path: session_csv(session.frame),
                     path.with_suffix(".events.csv"): session.events.to_csv(index=False, lineterminator="\n")}
            for file, text in texts.items():
                write_text(file, text)
                hashes[file.name] = hashlib.sha256(text.encode()).hexdigest()
        write_text(out / "simulation.json", json.dumps(manifest | {"sha256": hashes}, indent=1) + "\n")
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "datasets" / "collected-simulated", metavar="DIR",
                        help="folder of the sessions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all random draws (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of a session (default: %(default)s)")
    for role, count in (("train", 12), ("calibration", 6), ("test", 24)):
        parser.add_argument(f"--{role}-sessions", type=int, default=count, metavar="N",
                            help=f"number of {role} sessions (default: %(default)s)")
    args = parser.parse_args(argv)

    def body() -> int:
        paths = write_sessions(args.out, args.seed, args.minutes, args.train_sessions, args.calibration_sessions,
                               args.test_sessions)
        labels = pd.concat([pd.read_csv(path.with_suffix(".events.csv")) for path in paths])
        print(f"{args.out}: {counted(len(paths), 'simulated session')} of {args.minutes:g} min; events: "
              + ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(labels["label"]).items())))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    sys.exit(main())
