"""LSTMs that learn from normal rows and then stay fixed: errors of their forecasts, and their hidden states.

A network that continues to learn adapts to a long anomaly. These do not, and what comes out is used in two ways: how
far the errors are from those on the rows learned from, and how far a hidden state is from all others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from nab.blocks import center_and_scale, compressed
from nab.online_lstm import FIRST_BLOCK, BatchedLSTMs, OnlineOptions, stacked_inputs, window_ends, windows_of
from nab.tail_scores import errors_by_lead

BLOCKS_LEARNED = 208                    # about as many as this, or more of MAX_ROWS
MAX_ROWS = 4                            # of a block
OPTIONS = OnlineOptions(members=3, phases=1, horizon=16, window=64, updates=3)
RATE = 0.01
MAX_PLACES = 192                        # where the networks learn, evenly spaced
LEADS = 8                               # used for errors; the LSTMs learn to forecast more
ERROR_FLOOR = 0.1                       # spreads, added before the logarithm
RIDGE = 0.01                            # added to the covariance, so that nearly constant errors do not dominate
AT_ONCE = 256                           # blocks
MAX_STATES = 5000                       # that a state is compared with: evenly spaced ones, if there are more
NEIGHBOURS = 10
LEAST_BLOCKS = FIRST_BLOCK + LEADS + 8  # to learn from: a covariance takes some errors, and these begin late


class Learned(NamedTuple):
    """What the networks make of a series: coordinates of the errors (K, C, 4), NaN = none, and states (K, E, D)."""

    errors: np.ndarray
    states: np.ndarray


def rows_of_block(learned_rows: int) -> int:
    """Return the number of rows in a block, from the number of rows that are learned from."""
    return min(max(round(learned_rows / BLOCKS_LEARNED), 1), MAX_ROWS)


def level_and_spread(values: np.ndarray, learned_rows: int) -> np.ndarray:
    """Return mean and standard deviation of whole blocks, scaled and compressed as in `nab.blocks` (K, C, 2).

    Args:
        values: (n, C).
    """
    rows = rows_of_block(learned_rows)
    count = len(values) // rows
    blocks = values[: count * rows].reshape(count, rows, -1)                                   # (K, rows, C)
    found = np.stack([blocks.mean(axis=1), blocks.std(axis=1)], axis=2)                        # (K, C, 2)
    for channel, of_channel in enumerate(values[:learned_rows].T):
        center, scale = center_and_scale(found[: learned_rows // rows, channel, 0], of_channel)
        found[:, channel, 0] -= center
        found[:, channel] /= scale
    return compressed(found)


def learn(blocks: np.ndarray, seed: int) -> BatchedLSTMs:
    """Return networks that went through the blocks (K, C, 2) once, as if they arrived one after the other."""
    nets = untrained(blocks, seed)
    inputs, values = stacked_inputs([blocks.reshape(len(blocks), -1)], OPTIONS)
    generator, places = np.random.default_rng(seed), max(min(len(blocks) - FIRST_BLOCK, MAX_PLACES), 0)
    for now in np.linspace(FIRST_BLOCK, len(blocks) - 1, places).astype(int):
        for _ in range(OPTIONS.updates):
            nets.update(*windows_of(inputs, values, window_ends(now, OPTIONS, generator), now, OPTIONS), RATE)
    return nets


def untrained(blocks: np.ndarray, seed: int) -> BatchedLSTMs:
    """Return networks for blocks (K, C, 2) as they begin."""
    return BatchedLSTMs(1, blocks[0].size, OPTIONS, seed)


def run(nets: BatchedLSTMs, blocks: np.ndarray) -> Learned:
    """Return the errors' coordinates and the hidden states at each of the blocks (K, C, 2), none for the first 16."""
    count, channels, _ = blocks.shape
    inputs, _ = stacked_inputs([blocks.reshape(count, -1)], OPTIONS)                           # (1, T, 4C)
    back = np.arange(OPTIONS.window - 1, -1, -1)
    errors = np.full((count, channels, 4), np.nan, np.float32)
    states = np.full((count, OPTIONS.members, OPTIONS.hidden_units), np.nan, np.float32)
    before = np.full((LEADS, LEADS, channels, 2), np.nan, np.float32)
    for first in range(FIRST_BLOCK, count, AT_ONCE):
        steps = np.arange(first, min(first + AT_ONCE, count))
        windows = inputs[:, OPTIONS.padding + steps[:, None] - back]                           # (1, B, T, 4C)
        with torch.no_grad():
            hidden = nets.states(windows.repeat_interleave(OPTIONS.members, 0))                # (E, B, D)
            change = nets.forecast(hidden).mean(0)[:, :LEADS]                                  # (B, leads, 2C)
        forecast = blocks[steps, None] + change.numpy().reshape(-1, LEADS, channels, 2)
        made = np.concatenate([before, forecast])
        around = blocks[first - LEADS : steps[-1] + 1]
        errors[steps] = error_coordinates(errors_by_lead(around, made)[LEADS:])
        states[steps] = hidden.transpose(0, 1).numpy()
        before = made[-LEADS:]
    return Learned(errors, states)


def error_coordinates(errors: np.ndarray) -> np.ndarray:
    """Return the log of the RMS error over the leads and the mean error (K, C, 4), of level and spread.

    Args:
        errors: (K, leads, C, 2).
    """
    sizes = np.log(np.sqrt(np.square(errors).mean(axis=1)) + ERROR_FLOOR)                      # (K, C, 2)
    return np.concatenate([sizes, errors.mean(axis=1)], axis=2)


def error_distances(coordinates: np.ndarray, known: int) -> np.ndarray:
    """Return the distance of each block's errors from those of the first `known` blocks (K,); 0 without a forecast.

    Each channel has its own distance, divided by the root of the dimension; the result is their root mean square.

    Args:
        coordinates: (K, C, 4) of `error_coordinates`, NaN = none.
    Source: Mahalanobis 1936, "On the generalised distance in statistics".
    """
    squared = np.zeros(len(coordinates))
    for of_channel in coordinates.transpose(1, 0, 2):                                          # (K, 4)
        reference = of_channel[:known][np.isfinite(of_channel[:known]).all(axis=1)]
        deviation = np.nan_to_num(of_channel - reference.mean(axis=0))
        precision = np.linalg.inv(np.cov(reference.T) + RIDGE * np.eye(deviation.shape[1]))
        squared += np.einsum("ti,ij,tj->t", deviation, precision, deviation) / deviation.shape[1]
    return np.sqrt(squared / coordinates.shape[1])


def state_distances(states: np.ndarray, excluded: int, known: int | None = None) -> np.ndarray:
    """Return the distance of each hidden state to its nearest neighbours among the others (K,); 0 without a state.

    The root mean square over the 10 nearest, divided by the root of the dimension; the mean of the networks.

    Args:
        states: (K, E, D), NaN = none yet.
        excluded: blocks before and after each one that are too close in time to be its neighbours.
        known: the first blocks, which alone can be neighbours; None = all.
    """
    found = np.zeros(len(states))
    scored = np.flatnonzero(np.isfinite(states).all(axis=(1, 2)))
    others = scored[scored < known] if known else scored
    if len(others) <= 2 * excluded + NEIGHBOURS:
        return found
    others = others[np.linspace(0, len(others) - 1, min(len(others), MAX_STATES)).astype(int)]
    for steps in np.array_split(scored, -(-len(scored) // AT_ONCE)):
        near = np.abs(steps[:, None] - others) <= excluded
        for member in states.transpose(1, 0, 2):                                               # (K, D)
            mine, theirs = member[steps], member[others]
            squared = np.square(mine).sum(axis=1)[:, None] + np.square(theirs).sum(axis=1) - 2 * mine @ theirs.T
            squared[near] = np.inf
            nearest = np.partition(squared, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
            found[steps] += np.sqrt(np.maximum(nearest, 0).mean(axis=1) / member.shape[1]) / states.shape[1]
    return found
