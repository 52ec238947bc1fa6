"""A small simulated dataset for measurements that are about something else than the data."""

from __future__ import annotations

import json
from pathlib import Path

import collected_data_preprocess
import respiratory_simulator
from config import DATASET_CONFIG


def make_small(root: Path) -> Path:
    """Simulate six sessions of 10 minutes and cut windows from them; return the folder of datasets."""
    counts = {"train": 2, "calibration": 2, "test": 2}
    arguments = [text for name, count in counts.items() for text in (f"--{name}-sessions", str(count))]
    assert respiratory_simulator.main(["--out", str(root / "raw"), "--minutes", "10", *arguments]) == 0
    names = [f"session_{k:02d}" for k in range(1, 7)]
    entry = json.loads(DATASET_CONFIG.read_text())["simulated"]
    entry |= {"raw_dir": "raw", "split": {"train": names[:2], "val": names[2:4], "test": names[4:]}}
    (root / "dataset_config.json").write_text(json.dumps({"simulated": entry}))
    out = root / "datasets"
    config = ["--dataset-config", str(root / "dataset_config.json"), "--out", str(out / "collected-known-anomaly")]
    assert collected_data_preprocess.main([*config, "--dataset", "simulated"]) == 0
    return out
