"""Write simulated raw breathing recordings that look like collected ones.

Everything made here is SIMULATED: a seeded model of breathing, in which each breath is a
volume that goes in and out of a lung, seen by six sensors with their noise and faults.
A session is `session_XX.csv` (a slower channel has empty cells between its samples) and
`session_XX.events.csv` (start_s,end_s,label,source). By default sessions 01-12 are meant
for training, 13-18 for calibration, and 19-42 for test, with 30 events of each kind.

    python -m recordings.simulator --out datasets/collected-simulated
    python -m recordings.simulator --out /tmp/small --train-sessions 1 --calibration-sessions 1 --test-sessions 2
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy

from utils import ROOT, ArgumentParser, DataError, only_run_here, run_cli, write_json, write_text

VERSION = 1                       # raise it whenever the same seed would give other numbers
RATE_HZ = 25                      # rows a second
DEFAULT_OUT = ROOT / "datasets" / "collected-simulated"

# ---- constants: [M] measured on real recordings, [S] literature, [A] assumption ----------
# Triples are the 5, 50 and 95 % quantiles of all breaths of all people.
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
SPO2_DROP, SPO2_DROP_AFTER_S = (1.4, 4.0, 12.0), 15.0  # points lost, in so many s of apnea [M, A]
SPO2_DELAY_S, SPO2_RECOVERY_S = (8, 14), (8, 15)   # lung to finger [S]; time constant [A]
SPO2_SENTINELS = (0, 127, -1)                      # what an oximeter writes for "no value" [M]
HYPERPNOEA = (1.5, 3.0)                            # depth of the 2-4 breaths after an apnea [A]
CYCLES_S = ((37.3, 3.0), (59.0, 4.9))              # periodic breathing: mean, sd; the second
                                                   # in heart failure [S, Hall 1996]
COUGH_PEAK_LPM = (476.0, 102.0)                    # mean, sd [S]
GAPS_PER_H, GAP_S = 6, (0.1, 1.7)                  # rows that never arrived [M]
BLINKS_PER_H, BLINK_S = 4, (0.5, 1.9)              # dropouts too short to be labelled [M, A]
POSTURES_PER_H = 4                                 # [A]
LONGEST_MINUTES = 24 * 60.0
ROOM_S, LEAD_IN_S = 75.0, 60.0                     # planned room after and before events: leaves
                                                   # 60 s when they wait for a breath to begin


class Channel(NamedTuple):
    every: int                    # a sample on every n-th row
    decimals: int
    low: float                    # rails of the sensor
    high: float


CHANNELS = {
    "flow_lpm": Channel(1, 1, -500, 500), "thorax_au": Channel(2, 3, 0, 4.095),
    "abdomen_au": Channel(2, 3, 0, 4.095), "spo2_pct": Channel(25, 0, 50, 100),
    "hr_bpm": Channel(25, 1, 30, 220), "acc_g": Channel(1, 3, -2, 2)}
DROPOUTS = (("flow_lpm",), ("thorax_au",), ("abdomen_au",), ("acc_g",), ("spo2_pct", "hr_bpm"),
            ("thorax_au", "abdomen_au"), tuple(CHANNELS))          # what is lost together [A]


class Kind(NamedTuple):
    length_s: tuple[float, float]
    rare_s: float                 # one in ten is longer, up to this
    recovery_s: float             # not labelled, but not normal breathing either
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
    """What one session of a data set is to hold."""
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
    """One breath (or, as arrays, all of them): in, hold, out, rest until `period` is over."""
    start: float                  # s
    period: float                 # s
    inspiration: float            # s
    hold: float                   # s, glottis closed: only in coughs
    expiration: float             # s, while air flows
    effort_ml: float              # volume that chest and belly make
    flow_ml: float                # volume that gets through the airway
    lag: float                    # thorax behind abdomen, in cycles


# ---- the person -----------------------------------------------------------------------

@dataclass(frozen=True)
class Person:
    """What stays the same for a session; every number is drawn anew for each [A unless said]."""
    rate_z: float                 # where this person stands among people, in sd
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
        shape_in=(rng.uniform(0.4, 0.9), rng.uniform(0.3, 0.7)),     # round; by eye from [M]
        shape_out=(rng.uniform(0.25, 0.6), rng.uniform(1.4, 2.2)),   # early peak, long tail
        rest=rng.uniform(0.08, 0.25), lag=rng.uniform(0, 30) / 360,
        sighs_per_h=rng.uniform(*SIGHS_PER_H), pauses_per_h=rng.uniform(*PAUSES_PER_H),
        thorax_share=rng.uniform(0.3, 0.65),
        belt_au_per_l=tuple(rng.uniform(3, 6, 2)), belt_level_au=tuple(rng.uniform(0.8, 1.6, 2)),
        leak_lpm=rng.normal(0, 2), hr_bpm=rng.uniform(52, 70), rsa_bpm=at_z(z[2], RSA_BPM),
        spo2_pct=rng.uniform(94.5, 98), spo2_fall=at_z(z[3], SPO2_DROP) / SPO2_DROP_AFTER_S,
        spo2_delay_s=rng.uniform(*SPO2_DELAY_S), spo2_recovery_s=rng.uniform(*SPO2_RECOVERY_S))


def at_z(z, quantiles: tuple[float, float, float]):
    """Value at `z` standard deviations of a log-normal, skewed to meet its 5, 50, 95 % quantiles."""
    low, middle, high = quantiles
    return middle * np.where(np.asarray(z) > 0, high / middle, middle / low) ** (np.asarray(z) / 1.645)


def wander(rng: np.random.Generator, seconds: float, time_constant_s: float) -> np.ndarray:
    """Slow random walk around 0 with sd 1 (Ornstein-Uhlenbeck), one value a second."""
    keep = np.exp(-1 / time_constant_s)
    steps = rng.standard_normal(int(seconds) + 2) * np.sqrt(1 - keep**2)
    steps[0] /= np.sqrt(1 - keep**2)                       # stationary from the first second on
    return scipy.signal.lfilter([1], [1, -keep], steps)


def at(t: np.ndarray, per_second: np.ndarray) -> np.ndarray:
    return np.interp(t, np.arange(len(per_second)), per_second)


# ---- breaths, one after the other -----------------------------------------------------

class Lungs:
    """Draws the next natural breath; knows the person's state of the minute."""

    def __init__(self, rng: np.random.Generator, person: Person, rest: str, walking: np.ndarray):
        seconds = len(walking)
        of_person, of_drift, of_breath = np.sqrt(VARIANCE_SHARES)
        self.person, self.rest, self.walking = person, rest, walking
        self.slow = [of_person * z + of_drift * wander(rng, seconds, DRIFT_S)
                     for z in (person.rate_z, person.tidal_z)]
        noise = rng.standard_normal((3, 2 * seconds)) * np.sqrt(1 - BREATH_MEMORY**2)
        quick = of_breath * scipy.signal.lfilter([1], [1, -BREATH_MEMORY], noise)
        quick[1] = 0.95 * quick[1] - 0.3 * quick[0]        # a slow breath is a deep one
        self.quick = iter(quick.T.clip(-2.5, 2.5))

    def breath(self, now: float, steady: bool = False) -> Breath:
        """The breath that begins at `now` s; `steady`: as usual, without its own variation."""
        second = min(max(int(now), 0), len(self.walking) - 1)
        own = np.zeros(3) if steady else next(self.quick)
        rate_z, tidal_z = (np.clip(self.slow[k][second] + own[k], -2.5, 2.5) for k in (0, 1))
        w = self.walking[second]
        rate = at_z(rate_z, RATE_PER_MIN[self.rest]) ** (1 - w) * at_z(rate_z, RATE_PER_MIN["walking"]) ** w
        tidal = at_z(tidal_z, TIDAL_ML) * TIDAL_FACTOR[self.rest] ** (1 - w) * TIDAL_FACTOR["walking"] ** w
        period = 60 / rate
        inspiration = INSPIRATION_S * (period / PERIOD_S) ** 0.6 * np.exp(0.12 * own[2])   # fit to [M]
        inspiration = min(inspiration, 0.6 * period)
        expiration = (period - inspiration) * (1 - self.person.rest)
        return Breath(now, period, inspiration, 0.0, expiration, tidal, tidal, self.person.lag)


def change(usual: Breath, start: float, effort: float = 1.0, airflow: float = 1.0, pace: float = 1.0,
           lag: float | None = None) -> Breath:
    """`usual` moved to `start`, deeper or shallower, and quicker where pace > 1."""
    return usual._replace(
        start=start, period=usual.period / pace, inspiration=usual.inspiration / pace,
        expiration=usual.expiration / pace, effort_ml=usual.effort_ml * effort,
        flow_ml=usual.flow_ml * airflow, lag=usual.lag if lag is None else lag)


# An episode turns (rng, usual breath, start, length) into its breaths and the second it is over.

def central_apnea(rng, usual, start, length_s):
    """Nothing moves."""
    return [], start + length_s


def obstructive_apnea(rng, usual, start, length_s):
    """The airway is shut; effort grows 1.0 -> 1.5x, chest and belly work against each other [A]."""
    breaths, now, lag = [], start, rng.uniform(120, 180) / 360
    while now < start + length_s:
        effort = 1 + 0.5 * (now - start) / length_s
        breaths.append(change(usual, now, effort, rng.uniform(0, 0.05), rng.normal(1, 0.06), lag))
        now += breaths[-1].period
    return breaths, now


def hypopnea(rng, usual, start, length_s):
    """Flow is down by 30-70 %; effort is down as much (central), hardly, or in between (narrow airway)."""
    breaths, now, airflow, narrow = [], start, rng.uniform(0.33, 0.67), rng.uniform()
    effort = airflow + narrow * (0.95 - airflow)
    while now < start + length_s:
        jitter = rng.normal(1, 0.05)
        breaths.append(change(usual, now, effort * jitter, airflow * jitter, rng.normal(1, 0.06)))
        now += breaths[-1].period
    return breaths, now


def tachypnea(rng, usual, start, length_s):
    """28-45 shallow breaths a minute [A]."""
    breaths, now, depth = [], start, rng.uniform(0.4, 0.7)
    pace = rng.uniform(28, 45) / 60 * usual.period
    while now < start + length_s:
        jitter = rng.normal(1, 0.1)
        breaths.append(change(usual, now, depth * jitter, depth * jitter, pace * rng.normal(1, 0.04)))
        now += breaths[-1].period
    return breaths, now


def periodic_breathing(rng, usual, start, length_s):
    """Three or more cycles: breaths wax and wane over 55-75 % of a cycle, then none come [S, A]."""
    mean, sd = CYCLES_S[int(length_s >= 180 and rng.random() < 0.7)]
    breaths, now, peak = [], start, rng.uniform(1.4, 2.0)
    for _ in range(int(length_s // mean)):
        begin, cycle_end = now, now + rng.normal(mean, sd)
        breathing_end = begin + (cycle_end - begin) * rng.uniform(0.55, 0.75)
        while now < breathing_end:
            passed = (now + usual.period / 2 - begin) / (breathing_end - begin)
            depth = 0.15 + (peak - 0.15) * np.sin(np.pi * min(passed, 1)) * rng.normal(1, 0.08)
            breaths.append(change(usual, now, depth, depth, rng.normal(1.1, 0.06)))
            now += breaths[-1].period
        now = max(now, cycle_end)
    return breaths, now


def cough(rng, usual, start, length_s):
    """Deep breath in, 0.2 s of closed glottis, a spike of 0.3-0.5 s, weaker as the burst goes on [S]."""
    breaths, now, strength = [], start, 1.0
    while now < start + length_s and len(breaths) < 5:
        spike_s, inspiration = rng.uniform(0.3, 0.5), rng.uniform(0.7, 1.2)
        peak_ml_s = max(rng.normal(*COUGH_PEAK_LPM), 150) / 0.06 * strength
        volume = peak_ml_s * spike_s / 1.85                # 1.85: peak over mean of an expiration
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
        breaths.append(change(usual, now, depth, depth, 1.1))
        now += breaths[-1].period
        depth = max(1.0, low, depth * rng.uniform(0.75, 1.0))
    return breaths, now


def breathe(rng, lungs: Lungs, planned: list[Event], seconds: float) -> tuple[Breath, list[Event]]:
    """Every breath of a session, and its breathing events where they really lie.

    An event waits for the breath during which it was planned to end. Sighs (after which
    breathing may rest a little), swallows and short pauses are part of normal breathing.
    """
    breaths, events, waiting = [], [], list(planned)
    now, person = rng.uniform(-4, 0), lungs.person
    while now < seconds:
        if waiting and now >= waiting[0].start_s:
            plan = waiting.pop(0)
            usual = lungs.breath(now, steady=True)
            more, end = EPISODES[plan.kind](rng, usual, now, plan.end_s - plan.start_s)
            events.append(Event(now, end, plan.kind))
            deep, now = recovery(rng, usual, end, plan.kind)
            breaths += more + deep
            continue
        breath = lungs.breath(now)
        chance, rest = rng.random() * 3600 / breath.period, 0.0
        if chance < person.sighs_per_h:
            depth = rng.uniform(*SIGH_FACTOR) * lungs.breath(now, steady=True).flow_ml / breath.flow_ml
            breath, rest = change(breath, now, depth, depth, 0.7), rng.uniform(0, 3)
        elif chance < person.sighs_per_h + person.pauses_per_h:
            rest = rng.uniform(*PAUSE_S)
        breaths.append(breath)
        now += breath.period + rest
    return Breath(*np.array(breaths).T), events


def lung_motion(person: Person, breaths: Breath, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At times `t`: the breath's number, the part of its volume inside (0..1), its change per s.

    Flow is a beta curve in each phase, so the volume is the incomplete beta function: exact.
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


# ---- what the sensors see -------------------------------------------------------------

def flow_lpm(rng, person, breaths, t, hr_bpm) -> np.ndarray:
    """Mask flow, in is positive: breathing, heartbeat ripple [S], leak that wanders [M], noise."""
    i, _, slope = lung_motion(person, breaths, t)
    heartbeat = rng.uniform(0.1, 0.4) * np.sin(2 * np.pi * np.cumsum(at(t, hr_bpm)) / 60 / RATE_HZ)
    leak = person.leak_lpm + 1.2 * at(t, wander(rng, t[-1], 150))
    return breaths.flow_ml[i] * slope * 0.06 + heartbeat + leak + rng.normal(0, 0.3, len(t))


def belts_au(rng, person, breaths, t, posture) -> np.ndarray:
    """(2, T) thorax and abdomen: their shares of the volume, gain, level, drift, noise.

    The thorax lags, a little in normal breathing and half a cycle in an obstruction.
    A breath seldom ends quite where it began: the empty lung's volume wanders by 25 mL [A].
    """
    empty_l = scipy.signal.lfilter([0.025 * 0.8], [1, -0.6], rng.standard_normal(len(breaths.start)))
    lag_s = np.interp(t, breaths.start, breaths.lag * breaths.period)
    belts = np.empty((2, len(t)))
    shares = (person.thorax_share, 1 - person.thorax_share)
    for k, (share, seen_at, sign) in enumerate(zip(shares, (t - lag_s, t), (1, -1))):
        i, inside, _ = lung_motion(person, breaths, seen_at)
        effort_l = breaths.effort_ml * rng.normal(1, 0.06, len(breaths.start)) / 1000
        gain = person.belt_au_per_l[k] * np.exp(0.2 * sign * posture[0] + 0.1 * posture[1])
        level = person.belt_level_au[k] + 0.15 * posture[2 + k] + 0.03 * at(t, wander(rng, t[-1], 60))
        belts[k] = level + gain * share * (effort_l[i] * inside + np.interp(seen_at, breaths.start, empty_l))
        belts[k] += rng.normal(0, 0.006, len(t))
    return belts


def acc_g(rng, person, breaths, t, posture, walking) -> np.ndarray:
    """One axis on the chest: gravity by posture, faint breathing, steps, a jerk with each cough."""
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
    cadence = rng.uniform(1.6, 2.0) * (1 + 0.03 * at(t, wander(rng, t[-1], 10)))
    phase = 2 * np.pi * np.cumsum(cadence) / RATE_HZ
    return np.sin(phase) + 0.4 * np.sin(2 * phase + 1)


def spo2_pct(rng, person, breaths, seconds) -> np.ndarray:
    """Oxygen saturation each second: falls while too little air comes in, seen later at the finger.

    Ventilation (of 6 s, the air in the lungs lasts a little) under 60 % of the usual costs oxygen
    in proportion [A]; else the loss is made up. The oximeter averages over 6 s as well.
    """
    second = np.arange(int(seconds) + 1)
    i = np.searchsorted(breaths.start, second, side="right").clip(1) - 1
    ventilation = (breaths.flow_ml / breaths.period)[i]
    ventilation[second > (breaths.start + breaths.period)[i]] = 0          # no breath has come
    change_of_6_s = scipy.signal.lfilter(np.ones(6) / 6, [1], ventilation / np.median(ventilation) - 1)
    shortage = (1 - (1 + change_of_6_s) / 0.6).clip(0, 1)
    loss, lost = np.zeros(len(second)), 0.0
    for k, lack in enumerate(shortage):                    # one step a second, not a sample
        lost += person.spo2_fall * lack * (1 - lost / 35) - (1 - lack) * lost / person.spo2_recovery_s
        loss[k] = lost
    seen = np.interp(second - person.spo2_delay_s + 6, second, loss)       # the averages take 6 s
    return person.spo2_pct + scipy.signal.lfilter(
        np.ones(6) / 6, [1], 0.4 * wander(rng, seconds, 120)[:len(second)] - seen)


def hr_bpm(rng, person, breaths, events, awake, walking, seconds) -> np.ndarray:
    """Heart rate each second: up with each breath in (RSA), walking and after apneas."""
    second = np.arange(int(seconds) + 1)
    i, inside, _ = lung_motion(person, breaths, second - 0.5)
    depth = (breaths.flow_ml / np.median(breaths.flow_ml))[i].clip(0, 1.5)
    effort = scipy.signal.lfilter([1 / 25], [1, -24 / 25], walking[:len(second)])   # the heart takes 25 s
    hr = person.hr_bpm + 10 * awake + rng.uniform(20, 35) * effort + person.rsa_bpm * (inside * depth - 0.4)
    hr += 2 * wander(rng, seconds, 90)[:len(second)] + wander(rng, seconds, 3)[:len(second)]
    for event in events:
        if event.kind in ("central_apnea", "obstructive_apnea"):
            after = (second - event.end_s).clip(0)
            hr += rng.uniform(*SURGE_BPM) * 1.6 * (np.exp(-after / SURGE_S) - np.exp(-after / 4))
    return hr


def posture_changes(rng, t) -> np.ndarray:
    """(5, T) balance, gain, two belt levels, tilt: they settle anew over 10-30 s, in units of 1 sd."""
    posture = np.zeros((5, len(t)))
    for _ in range(rng.poisson(POSTURES_PER_H * t[-1] / 3600)):
        passage = scipy.special.expit((t - rng.uniform(0, t[-1])) / rng.uniform(2, 6))
        posture += rng.standard_normal((5, 1)) * passage
    return posture


# ---- events that sit on the sensors, and faults ------------------------------------------

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
    """One belt gives way, gain x0.3-0.7 [A]; a second before the end it is tightened again."""
    name = rng.choice(["thorax_au", "abdomen_au"])
    tightened = end - 1.0
    slipped = (t >= start) & (t < tightened)
    level = np.quantile(raw[name][slipped], 0.05)          # the empty lung
    raw[name][slipped] = level - 0.1 + rng.uniform(0.3, 0.7) * (raw[name][slipped] - level)
    for jump in (start, tightened):
        raw[name] += rng.choice([-1, 1]) * rng.uniform(0.3, 0.8) * np.exp(-(t - jump).clip(0) / 0.25) * (t >= jump)


def sensor_dropout(rng, raw: dict, t, start, end):
    """Some channels fall silent together; an oximeter may write a sentinel for SpO2 [M]."""
    lost = (t >= start) & (t < end)
    names = DROPOUTS[rng.integers(len(DROPOUTS))]
    sentinel = rng.choice(SPO2_SENTINELS) if rng.random() < 0.6 else np.nan
    for name in names:
        raw[name][lost] = sentinel if name == "spo2_pct" else np.nan


def unlabelled_blinks(rng, raw: dict, t):
    for _ in range(rng.poisson(BLINKS_PER_H * t[-1] / 3600)):
        start, name = rng.uniform(0, t[-1]), rng.choice(["flow_lpm", "thorax_au", "abdomen_au", "acc_g"])
        raw[name][(t >= start) & (t < start + rng.uniform(*BLINK_S))] = np.nan


def received_rows(rng, t) -> np.ndarray:
    """(T,) False where a row never arrived: gaps of 0.1-1.7 s [M]."""
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
    """Put `kinds` in random order and at random times, with room to recover and 60 s of peace between."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; choose from {sorted(KINDS)}")
    kinds = [kinds[k] for k in rng.permutation(len(kinds))]
    for _ in range(200):
        lengths = np.array([draw_length(rng, kind) for kind in kinds])
        needs = lengths + [KINDS[kind].recovery_s + ROOM_S for kind in kinds]
        if (spare := seconds - LEAD_IN_S - needs.sum()) >= 0:
            break
    else:
        raise ValueError(f"{len(kinds)} events do not fit into {seconds / 60:g} minutes; "
                         "take fewer events or longer sessions")
    waits = rng.dirichlet(np.ones(len(kinds) + 1))[:-1] * spare
    starts = LEAD_IN_S + np.cumsum(waits) + np.cumsum(needs) - needs
    starts, ends = (np.round(edge * RATE_HZ) / RATE_HZ for edge in (starts, starts + lengths))   # on rows
    return [Event(*event) for event in zip(starts.tolist(), ends.tolist(), kinds)]


def plan_walking(rng, seconds: float, events: list[Event]) -> np.ndarray:
    """One value a second, 1 = walking: bouts of 2-5 minutes, never where breathing has an event."""
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
        kinds: the events it holds, from `KINDS`; their order and times are drawn.
        activity: "asleep", or "awake": sitting, with bouts of walking.
    Returns: the raw frame (rows at 25 Hz, NaN = empty cell) and its events.
    Raises: ValueError if a kind is unknown or the events do not fit into `minutes`.
    """
    if activity not in ("asleep", "awake"):
        raise ValueError(f"activity is {activity!r}; expected 'asleep' or 'awake'")
    rng, seconds, awake = np.random.default_rng(seed), 60 * minutes, activity == "awake"
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    person, planned = draw_person(rng), plan_events(rng, seconds, kinds)
    walking = plan_walking(rng, seconds, planned) if awake else np.zeros(int(seconds) + 2)
    lungs = Lungs(rng, person, "sitting" if awake else "asleep",
                  scipy.signal.lfilter([0.1], [1, -0.9], walking))     # breathing takes 10 s to follow
    breaths, events = breathe(rng, lungs, [e for e in planned if e.kind in EPISODES], seconds)

    hr = hr_bpm(rng, person, breaths, events, awake, walking, seconds)
    posture = posture_changes(rng, t)
    jolts_au = rng.uniform(0.02, 0.06) * at(t, walking) * footsteps(rng, t)
    thorax, abdomen = belts_au(rng, person, breaths, t, posture) + jolts_au
    raw = {"flow_lpm": flow_lpm(rng, person, breaths, t, hr), "thorax_au": thorax, "abdomen_au": abdomen,
           "spo2_pct": at(t, spo2_pct(rng, person, breaths, seconds)), "hr_bpm": at(t, hr),
           "acc_g": acc_g(rng, person, breaths, t, posture, at(t, walking))}
    return finish(rng, t, raw, events, [e for e in planned if e.kind not in EPISODES])


def finish(rng, t, raw: dict[str, np.ndarray], events: list[Event], on_sensors: list[Event]) -> Session:
    """Let movement and slips act, clip at the rails, then lose what the electronics lose."""
    for event in on_sensors:
        if event.kind != "sensor_dropout":
            {"motion": motion, "belt_slip": belt_slip}[event.kind](rng, raw, t, event.start_s, event.end_s)
    raw = {name: values.clip(CHANNELS[name].low, CHANNELS[name].high) for name, values in raw.items()}
    for event in on_sensors:
        if event.kind == "sensor_dropout":
            sensor_dropout(rng, raw, t, event.start_s, event.end_s)
    unlabelled_blinks(rng, raw, t)
    frame = pd.DataFrame({"t_s": t.round(2)})
    for name, channel in CHANNELS.items():
        cells = np.full(len(t), np.nan)
        cells[::channel.every] = raw[name][::channel.every].round(channel.decimals) + 0.0   # no "-0.0"
        frame[name] = cells
    table = pd.DataFrame([(round(e.start_s, 2), round(e.end_s, 2), e.kind, "simulated")
                          for e in sorted(events + on_sensors)],
                         columns=["start_s", "end_s", "label", "source"])
    return Session(frame[received_rows(rng, t)].reset_index(drop=True), table)


# ---- the data set ----------------------------------------------------------------------

def plan_sessions(seed: int = 0, minutes: float = 30.0, train: int = 12, calibration: int = 6,
                  test: int = 24) -> list[SessionPlan]:
    """Say which session holds which events; every third person is awake.

    Test sessions share one deck with 1.25 cards of each kind per half hour, dealt to whichever
    session has most time left; training and calibration sessions get 2-4 events each.

    Raises: ValueError if there is no session, one would hold more than has room, or the seed is negative.
    """
    if min(train, calibration, test) < 0 or train + calibration + test == 0 or not 2 <= minutes <= LONGEST_MINUTES:
        raise ValueError(f"{train} + {calibration} + {test} sessions of {minutes:g} minutes; "
                         f"expected at least one, of 2 to {LONGEST_MINUTES:g} minutes")
    if seed < 0:
        raise ValueError(f"seed {seed}; expected 0 or more")
    rng = np.random.default_rng(seed)
    activities = ["awake" if k % 3 == 2 else "asleep" for n in (train, calibration, test) for k in range(n)]
    hands: list[list[str]] = [[] for _ in activities]
    for k in range(train + calibration):
        fitting = [kind for kind in KINDS if activities[k] == "asleep" or not KINDS[kind].asleep_only]
        most = int(min(4, minutes // 7))                   # short sessions hold fewer
        count = rng.integers(min(2, most), most + 1)
        hands[k] = list(rng.choice(fitting, count, replace=False))
    load = rng.uniform(0, 1, len(activities))              # planned s; the draw breaks ties
    for kind, facts in KINDS.items():                      # long and asleep-only kinds come first
        may = [k for k in range(train + calibration, len(hands))
               if activities[k] == "asleep" or not facts.asleep_only]
        for _ in range(int(1.25 * test * minutes / 30)):
            k = min(may, key=lambda k: load[k])
            hands[k].append(kind)
            load[k] += np.mean(facts.length_s) + facts.recovery_s + ROOM_S
    if load.max() > 60 * minutes - LEAD_IN_S:              # else a draw of lengths that fits is found
        raise ValueError(f"the events of a session need about {load.max() / 60 + 1:.0f} minutes; "
                         f"{minutes:g} is too short for {test} test sessions")
    roles = ["train"] * train + ["calibration"] * calibration + ["test"] * test
    return [SessionPlan(f"session_{k + 1:02d}", roles[k], 1000 * seed + k + 1, activities[k],
                        tuple(str(kind) for kind in hands[k])) for k in range(len(roles))]


@cache
def cell(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}"


def format_cells(values: np.ndarray, decimals: int) -> list[str]:
    """The text of each value, "" for NaN; a distinct value is formatted once."""
    distinct, place = np.unique(values, return_inverse=True)
    text = np.array(["" if np.isnan(v) else cell(v, decimals) for v in distinct.tolist()], dtype=object)
    return text[place].tolist()


def write_hashed(path: Path, text: str) -> str:
    """Write `path` all at once; return the SHA-256 of its bytes."""
    write_text(path, text)
    return hashlib.sha256(text.encode()).hexdigest()


def session_csv(frame: pd.DataFrame) -> str:
    columns = [format_cells(frame[name].to_numpy(), CHANNELS[name].decimals if name in CHANNELS else 2)
               for name in frame.columns]
    return "\n".join([",".join(frame.columns), *map(",".join, zip(*columns)), ""])


def is_complete(out: Path, manifest: dict) -> bool:
    """True if `out` holds what `manifest` describes, byte for byte."""
    try:
        found = json.loads((out / "simulation.json").read_text())
        files = found.pop("sha256")
        return found == manifest and all(
            hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def cut_off(out: Path) -> dict[str, float] | None:
    """Return the arguments of `write_sessions` that was killed in this folder; None if there is no such folder."""
    try:
        return json.loads((out / "simulation.json").read_text())["unfinished"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_sessions(out: Path, seed: int = 0, minutes: float = 30.0, train: int = 12, calibration: int = 6,
                   test: int = 24) -> list[Path]:
    """Write the sessions, or keep them if `out` already has the very same; return their CSV paths.

    Raises: ValueError if `plan_sessions` finds no plan, or if `out` has sessions
    besides these: nothing is deleted, and old and new people must not mix.
    FolderInUse if another process is writing there.
    """
    arguments = {"seed": seed, "minutes": minutes, "train": train, "calibration": calibration, "test": test}
    plans = plan_sessions(seed, minutes, train, calibration, test)
    manifest = {"data": "simulated", "version": VERSION, "seed": seed, "minutes": minutes,
                "sessions": json.loads(json.dumps([asdict(plan) for plan in plans]))}
    paths = [out / f"{plan.name}.csv" for plan in plans]
    if is_complete(out, manifest):
        return paths
    wanted = {name for path in paths for name in (path.name, path.with_suffix(".events.csv").name)}
    if strangers := sorted(p.name for p in out.glob("session_*.csv") if p.name not in wanted):
        raise ValueError(f"{out} has {len(strangers)} other session files, first {strangers[0]}; "
                         "give an empty folder or delete them")
    with only_run_here(out):
        write_json(out / "simulation.json", {"unfinished": arguments})       # so that nobody takes half a folder
        digests = {}
        for plan, path in zip(plans, paths):
            session = simulate_session(plan.seed, minutes, plan.kinds, plan.activity)
            digests[path.name] = write_hashed(path, session_csv(session.frame))
            labels = path.with_suffix(".events.csv")
            digests[labels.name] = write_hashed(labels, session.events.to_csv(index=False, lineterminator="\n"))
        write_text(out / "simulation.json", json.dumps(manifest | {"sha256": digests}, indent=1) + "\n")
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"folder to write to [{DEFAULT_OUT}]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30.0, help="length of a session [30]")
    parser.add_argument("--train-sessions", type=int, default=12, metavar="N", help="[12]")
    parser.add_argument("--calibration-sessions", type=int, default=6, metavar="N", help="[6]")
    parser.add_argument("--test-sessions", type=int, default=24, metavar="N", help="[24]")
    args = parser.parse_args(argv)

    def body() -> int:
        try:
            paths = write_sessions(args.out, args.seed, args.minutes, args.train_sessions,
                                   args.calibration_sessions, args.test_sessions)
        except ValueError as error:
            raise DataError(str(error)) from None
        labels = pd.concat([pd.read_csv(path.with_suffix(".events.csv")) for path in paths])
        print(f"{args.out}: {len(paths)} simulated sessions of {args.minutes:g} min; events: "
              + ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(labels["label"]).items())))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    sys.exit(main())
