"""Long, simple recordings for measurements of speed and memory: waves that wander, with noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

RATE_HZ, RAW_RATE_HZ = 5.0, 25.0
SPLIT = {"val_fraction": 0.2, "test_fraction": 0.3}
CHUNK = 1 << 18


def waves(steps: int, channels: int, rate_hz: float = RATE_HZ, seed: int = 0) -> np.ndarray:
    """Return values (T, C) float32: breaths of about 4 s whose length wanders, channels out of phase, with noise."""
    random = np.random.default_rng(seed)
    knots = random.normal(0.25, 0.04, size=steps // 50 + 2)                          # breaths a second
    pace = np.interp(np.arange(steps), 50 * np.arange(len(knots)), knots)
    phase = (2 * np.pi * np.cumsum(pace) / rate_hz).astype(np.float32)
    noise = random.normal(scale=0.1, size=(steps, channels)).astype(np.float32)
    return 10 * (np.sin(phase[:, None] - 0.4 * np.arange(channels, dtype=np.float32)) + noise)


def write_raw(root: Path, rows: int, channels: int = 4, rate_hz: float = RAW_RATE_HZ) -> Path:
    """Write one raw recording of so many rows and a dataset_config.json beside it; return that file."""
    names = [f"channel_{k}" for k in range(channels)]
    values = waves(rows, channels, rate_hz)
    root.mkdir(parents=True, exist_ok=True)
    cells = ",".join(["%.2f"] + ["%.3f"] * channels)
    with (root / "recording.csv").open("w", encoding="utf-8") as file:
        file.write(",".join(["t_s", *names]) + "\n")
        for first in range(0, rows, CHUNK):
            piece = values[first : first + CHUNK]
            table = np.column_stack([(first + np.arange(len(piece))) / rate_hz, piece])
            np.savetxt(file, table, fmt=cells)
    return write_config(root, names, rate_hz)


def write_config(root: Path, names: list[str], rate_hz: float) -> Path:
    """Write a dataset_config.json of one recording; return it."""
    entry = {
        "description": "waves for a measurement of speed",
        "simulated": True,
        "raw_dir": ".",
        "raw_hint": "made by benchmarks",
        "file_pattern": "{name}.csv",
        "channels": {
            name: {"unit": "a.u.", "measures": "effort" if k else "airflow", "rate_hz": rate_hz}
            for k, name in enumerate(names)
        },
        "rate_hz": RATE_HZ,
        "split": {"train": ["recording"], **SPLIT},
    }
    path = root / "dataset_config.json"
    path.write_text(json.dumps({"long": entry}))
    return path
