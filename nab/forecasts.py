"""Blocks of all series in, forecasts of one detector out: of the LSTMs or a baseline, kept in a file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from nab.blocks import PHASES, interleave
from nab.online_lstm import OnlineOptions, forecast_online
from nab.plain_forecasts import BASELINES
from utils import atomic_path

log = logging.getLogger(__name__)

LSTM_OPTIONS = OnlineOptions(phases=PHASES)
UNTRAINED = replace(LSTM_OPTIONS, updates=0, update_every=0)
HORIZON = LSTM_OPTIONS.horizon
SERIES_AT_ONCE = 15                     # of similar length, as one tensor program
Arrays = dict[str, np.ndarray]          # by series


class Forecaster(NamedTuple):
    """A row of the table with one seed.

    folder: a name for its files. make: from blocks (T, C) of each series to forecasts (T, H, C). made_from: what they
    depend on beside the blocks.
    """

    row: str
    folder: str
    make: Callable[[Mapping[str, np.ndarray]], Arrays]
    made_from: dict[str, Any]


def forecasters(seeds: int) -> Iterator[Forecaster]:
    """Yield the LSTMs, trained and untrained, with each seed, and the baselines."""
    for row, options in (("LSTM", LSTM_OPTIONS), ("untrained LSTM", UNTRAINED)):
        for seed in range(seeds):
            make = partial(lstm_forecasts, seed=seed, options=options)
            folder = f"{row.replace(' ', '_').lower()}_seed{seed}"
            yield Forecaster(row, folder, make, {"seed": seed, "options": asdict(options)})
    for row in BASELINES:
        folder = row.replace(" ", "_").replace("(", "").replace(")", "").lower()
        yield Forecaster(row, folder, partial(baseline_forecasts, name=row), {"horizon": HORIZON})


def lstm_forecasts(blocks: Mapping[str, np.ndarray], seed: int, options: OnlineOptions) -> Arrays:
    """Return the forecasts (T, H, C) of online LSTMs for each series' blocks (T, C)."""
    names = sorted(blocks, key=lambda name: -len(blocks[name]))
    groups = [names[first : first + SERIES_AT_ONCE] for first in range(0, len(names), SERIES_AT_ONCE)]
    found: Arrays = {}
    with tqdm(desc=f"LSTMs, seed {seed}", total=sum(len(blocks[group[0]]) for group in groups), disable=None) as bar:
        for group in groups:
            made = forecast_online([blocks[name] for name in group], options, seed, bar.update)
            found.update(zip(group, made, strict=True))
    return {name: found[name] for name in blocks}


def baseline_forecasts(blocks: Mapping[str, np.ndarray], name: str) -> Arrays:
    """Return the forecasts (T, H, C) of one of BASELINES, for each phase and channel separately."""
    make = BASELINES[name]
    return {
        series: interleave([make(values[phase::PHASES], HORIZON) for phase in range(PHASES)])
        for series, values in blocks.items()
    }


def kept(path: Path, forecaster: Forecaster, blocks: Mapping[str, np.ndarray]) -> Arrays:
    """Return a forecaster's forecasts; make and write them if the file is missing or was made from something else."""
    hashes = {name: hashlib.sha256(values.tobytes()).hexdigest()[:16] for name, values in blocks.items()}
    made_from = json.dumps(forecaster.made_from | {"blocks": hashes}, sort_keys=True)
    if path.exists():
        try:
            with np.load(path) as file:
                if str(file["made_from"]) == made_from:
                    log.info("%s: forecasts reused", path)
                    return {name: file[name] for name in blocks}
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s: damaged (%s); computing it again", path, error)
    forecasts = forecaster.make(blocks)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, made_from=np.array(made_from), **forecasts)
    return forecasts
