"""A small simulated dataset for measurements that are about something else than the data."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import collected_data_preprocess
from config import DATASET_CONFIG
from recordings import simulator

COUNTS = {"train": 2, "calibration": 2, "test": 2}


def make_small(root: Path, minutes: int = 10, counts: dict[str, int] = COUNTS) -> Path:
    """Simulate some sessions and cut windows from them; return the folder of datasets."""
    config, out = write_small_raw(root, minutes, counts), root / "datasets"
    arguments = ["--dataset-config", str(config), "--out", str(out / "collected-known-anomaly")]
    with contextlib.redirect_stdout(sys.stderr):
        assert collected_data_preprocess.main([*arguments, "--dataset", "simulated"]) == 0
    return out


def write_small_raw(root: Path, minutes: int = 10, counts: dict[str, int] = COUNTS) -> Path:
    """Simulate some sessions of training, validation and test; return the dataset_config.json that names them."""
    arguments = [text for name, count in counts.items() for text in (f"--{name}-sessions", str(count))]
    with contextlib.redirect_stdout(sys.stderr):
        assert simulator.main(["--out", str(root / "raw"), "--minutes", str(minutes), *arguments]) == 0
    names = [f"session_{k:02d}" for k in range(1, sum(counts.values()) + 1)]
    first, last = counts["train"], counts["train"] + counts["calibration"]
    entry = json.loads(DATASET_CONFIG.read_text())["simulated"]
    entry |= {"raw_dir": "raw", "split": {"train": names[:first], "val": names[first:last], "test": names[last:]}}
    path = root / "dataset_config.json"
    path.write_text(json.dumps({"simulated": entry}))
    return path
