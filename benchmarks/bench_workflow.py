"""The whole workflow as `cmd_script.sh` runs it, on a small dataset: preprocess, then train, score and report.

    python -m benchmarks.bench_workflow --quick

Six simulated sessions, the shipped config with fewer epochs; each script in a process of its own. Beside the main
script: the epochs and the scoring alone, without start-up, calibration, tables and pictures.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.measure import Options, Row, child, run_part, seconds_of
from benchmarks.small_data import write_small_raw

PART = "workflow"


def rows_of(options: Options) -> list[Row]:
    minutes, epochs, updates = (10, 1, 2) if options.quick else (30, 4, 30)
    preprocessing, main, dry, parts = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = write_small_raw(root, minutes)
        for k in range(options.repeats):
            data = root / f"datasets{k}"
            cut = ["--dataset-config", config, "--out", data / "collected-known-anomaly"]
            few = ["--set", f"training.epochs={epochs}", "--set", f"training.updates_per_epoch={updates}"]
            run = root / f"run{k}"
            script = ["pure_lstm_anomaly_detection_main.py", "--datasets", data]

            def timed(*arguments: object) -> float:
                return seconds_of(lambda: child(arguments, options.threads))

            preprocessing.append(timed("collected_data_preprocess.py", *cut))
            dry.append(timed(*script, "--dry-run"))
            main.append(timed(*script, "--out", run, *few))
            seconds = json.loads((run / "run.json").read_text())["seconds"]
            parts.append(seconds["training"] + seconds["scoring"])
    note = f"six simulated sessions of {minutes} minutes, {epochs} epochs of {updates} updates"
    return [
        Row(PART, "preprocessing script", "s", preprocessing, note=note),
        Row(PART, "main script, dry run", "s", dry),
        Row(PART, "main script: train, calibrate, score, report", "s", main, "training and scoring within it", parts),
    ]


if __name__ == "__main__":
    raise SystemExit(run_part(rows_of, __doc__))
