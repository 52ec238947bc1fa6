"""Seeded, tiny data shared by the tests."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pictures
import pytest
import warm

from recordings.windowing import FORMAT, EventMeta, Meta, ScalerMeta, Segment, SpanMeta
from utils import ROOT

HEAVY = ("grid_search", "main", "odd_numbers", "entry_points", "input_faults", "stream_detect", "kill_runs", "soak",
         "two_at_once")  # fmt: skip


os.environ.pop("PYTHONDONTWRITEBYTECODE", None)                  # what tests start compiles the project once, not each
sys.dont_write_bytecode = False                                  # time, which takes a second

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:            # as of a job in the background: children inherit it,
    signal.signal(signal.SIGINT, signal.default_int_handler)     # and some tests send Ctrl-C to theirs


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, lest one process is at them when the other has nothing left."""
    places = {f"test_{name}": place for place, name in enumerate(HEAVY)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish():
    """Leave what was imported, torch above all, out of every later search for garbage."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _restore_logging():
    """Scripts set up logging to the stderr of the moment; give the next test its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def blank_pictures():
    """Let pictures be saved, but not rendered."""
    with pictures.blank():
        yield


@pytest.fixture(scope="module")
def cluster():
    """Two workers, forked from a process that has imported torch; those of `--jobs 2` begin afresh."""
    dask, utils = map(pytest.importorskip, ("dask", "distributed.utils"))
    from grid import engines

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        utils.get_mp_context().set_forkserver_preload([*warm.PACKAGES])
        with engines.local_cluster(2, None) as client:
            yield client


@pytest.fixture
def holder():
    """Return what lets another process hold a folder, or a file; it holds it until it is killed."""
    processes = []

    def hold(path: Path, how: str = "only_run_here") -> subprocess.Popen:
        code = f"import pathlib, sys, utils\nwith utils.{how}(pathlib.Path(sys.argv[1])):\n    input('held\\n')"
        command = [sys.executable, "-uc", code, str(path)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def breathing():
    """Return values (n,) of a breath of 4 s with a little noise, at times t (n,)."""

    def make(t: np.ndarray, seed: int = 0, size: float = 10.0) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=len(t))
        return size * np.sin(2 * np.pi * t / 4.0) + 0.2 * size * noise

    return make


@pytest.fixture
def write_csv():
    """Write columns as a CSV (gzip'd by its suffix); None and NaN are empty cells."""

    def write(path: Path, **columns) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(columns).to_csv(path, index=False)
        return path

    return write


@pytest.fixture
def make_segment():
    """Return a segment of `steps` steps at 5 Hz with a value that names its step and channel."""

    def make(recording="a", start_s=0.0, steps=100, channels=2, rate_hz=5.0) -> Segment:
        t = start_s + np.arange(steps) / rate_hz
        values = 100.0 * np.round(t[:, None] * rate_hz) + np.arange(channels)
        return Segment(recording, t, values, np.zeros(steps, np.int8))

    return make


@pytest.fixture
def make_meta():
    """Return a valid Meta of channels a, b at 5 Hz; anything can be replaced."""

    def make(**changes) -> Meta:
        content = {
            "format": FORMAT,
            "dataset": "tiny",
            "description": "made by a test",
            "simulated": True,
            "channels": {"a": "L/min", "b": "%"},
            "measures": {"a": "airflow", "b": "other"},
            "rate_hz": 5.0,
            "window_s": 10.0,
            "guard_s": 4.0,
            "delay_s": 0.8,
            "scaler": ScalerMeta(center=[0.0, 1.0], scale=[1.0, 2.0]),
            "fault_kinds": [],
            "events": {"a": [EventMeta(start_s=1.0, end_s=2.0, kind="cough")]},
            "splits": {"train": [SpanMeta(recording="a", start_s=0.0, end_s=1.0, steps=6)], "val": [], "test": []},
            "rows": {"train": 0, "val": 0, "test": 0},
            "dropped": [],
            "filled": [],
            "sources": {},
            "fingerprint": "0",
            "config": {},
        }
        return Meta(**(content | changes))

    return make


@pytest.fixture
def write_meta():
    def write(folder: Path, meta: Meta) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "meta.json"
        path.write_text(json.dumps(meta.model_dump()))
        return path

    return write
