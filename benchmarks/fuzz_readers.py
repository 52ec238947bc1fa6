"""The readers that benchmarks.fuzz tries, each with valid files of the project's own writers."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tests.helpers.tiny as tiny
from tests.helpers import edf_files

Read = Callable[[Path], Any]
Case = tuple[dict[str, bytes], Read]


def files_in(folder: Path, *names: str) -> dict[str, bytes]:
    """Return the contents of some files below a folder, or of all."""
    paths = [folder / name for name in names] or [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def table(folder: Path) -> Case:
    from config import DatasetConfig
    from recordings.inspection import describe
    from recordings.preprocessing import load_recording, on_grid
    from recordings.reading import read_recording

    data = DatasetConfig(**tiny.DATA)
    frame = tiny.draw_recording(20, 1)

    def read(home: Path) -> None:
        describe(read_recording(home / "night.csv"))
        on_grid(load_recording(home / "night.csv", "night", data, allow_dead=True), data, [])

    text = frame.to_csv(index=False).encode()
    return {"night.csv": text}, read


def events(folder: Path) -> Case:
    from recordings.event_files import TimeAxis, read_events

    content = b"start_s,end_s,label\n1,2,cough\n3.5,9,central apnea\n"
    return {"a.events.csv": content}, lambda home: read_events(home / "a.events.csv", TimeAxis(0.0, 60.0))


def edf(folder: Path, bdf: bool = False, gaps: bool = False) -> Case:
    from recordings.inspection import describe
    from recordings.reading import read_recording

    steps = np.arange(500)
    parts = [edf_files.signal("ch0", 5000 * np.sin(steps / 5), 25, "uV"), edf_files.signal("ch1", steps[:100], 5, "uV")]
    onsets = np.arange(20) + 30.0 * (np.arange(20) > 9) if gaps else None
    kind = {"reserved": "BDF+D" if bdf else "EDF+D"} if gaps else {}
    content = edf_files.edf_bytes(parts, [(3.0, 2.0, "apnea")], onsets=onsets, bdf=bdf, **kind)
    return {"a.rec": content}, lambda home: describe(read_recording(home / "a.rec"))


def bdf(folder: Path) -> Case:
    return edf(folder, bdf=True)


def edf_with_gaps(folder: Path) -> Case:
    return edf(folder, gaps=True)


def card(folder: Path) -> Case:
    from recordings.finding import recordings_in
    from recordings.inspection import describe
    from recordings.reading import Dialect, read_recording

    night = edf_files.write_card(folder, datetime(2024, 3, 30, 23, 55), [(120, [(40, 60)]), (60, [(20, 35)])])
    edf_files.write_empty(night, datetime(2024, 3, 31, 3, 0))

    def read(home: Path) -> None:
        for one in recordings_in(home):
            describe(read_recording(one, None, Dialect(annotation_s=10.0)))
            read_recording(one, ["flow", "spo2"], allow_dead=True)

    return files_in(folder), read


def segments(folder: Path) -> Case:
    """A WFDB record of two segments with a gap between."""
    import wfdb

    from recordings.finding import recordings_in
    from recordings.inspection import describe
    from recordings.reading import read_recording

    folder.mkdir(parents=True, exist_ok=True)
    about = {"fs": 25, "units": ["L", "mV"], "sig_name": ["flow", "ecg"], "fmt": ["16", "16"], "write_dir": str(folder)}
    for name in ("a_1", "a_2"):
        wfdb.wrsamp(name, p_signal=np.sin(np.arange(100)[:, None] / 5) * [1.0, 2.0], **about)
    (folder / "a.hea").write_text("a/3 2 25 250\na_1 100\n~ 50\na_2 100\n")

    def read(home: Path) -> None:
        for one in recordings_in(home):
            describe(read_recording(one))

    return files_in(folder), read


def wfdb(folder: Path) -> Case:
    import wfdb

    from recordings.inspection import describe
    from recordings.reading import read_recording

    folder.mkdir(parents=True, exist_ok=True)
    signal = np.sin(np.arange(1000)[:, None] / 5) * [1.0, 2.0]
    about = {"fs": 25, "units": ["L", "mV"], "sig_name": ["flow", "ecg"], "fmt": ["16", "16"]}
    wfdb.wrsamp("a", p_signal=signal, write_dir=str(folder), **about)
    wfdb.wrann("a", "atr", np.array([10, 500]), symbol=["N", "N"], aux_note=["(x", "x)"], write_dir=str(folder))
    return files_in(folder), lambda home: describe(read_recording(home / "a.hea"))


def dataset_config(folder: Path) -> Case:
    from config import DATASET_CONFIG, dataset_names, load_dataset_config, load_nab

    def read(home: Path) -> None:
        for name in dataset_names(home / "dataset_config.json"):
            load_dataset_config(home / "dataset_config.json", name)
        load_nab(home / "dataset_config.json")

    return files_in(DATASET_CONFIG.parent, DATASET_CONFIG.name), read


def experiment(folder: Path) -> Case:
    from config import EXPERIMENT_CONFIG, load_experiment
    from grid.plan import plan_runs

    content = json.loads(EXPERIMENT_CONFIG.read_text())
    content["grid"] = {"model.hidden_units": [32, 64], "training.learning_rate": [0.001, 0.01]}

    def read(home: Path) -> None:
        plan_runs(load_experiment(home / "config.json"), [0, 1], "data", "config.json")

    return {"config.json": json.dumps(content).encode()}, read


def windowed(folder: Path) -> Case:
    from data_loader import load_dataset
    from recordings.windowing import SPLITS, EventMeta, Segment, write_dataset
    from utils import write_json

    random, splits = np.random.default_rng(0), {}
    for k, split in enumerate(SPLITS):
        values = random.normal(size=(60, 2))
        values[3, 1] = np.nan
        splits[split] = [Segment(f"rec{k}", np.arange(60) / 5, values, np.zeros(60, np.int8))]
    facts = {
        "dataset": "tiny", "description": "x", "simulated": True, "channels": {"a": "L/min", "b": "%"},
        "measures": {"a": "airflow", "b": "other"}, "rate_hz": 5.0, "window_s": 4.0, "guard_s": 1.0, "delay_s": 0.0,
        "events": {"rec0": [], "rec1": [], "rec2": [EventMeta(start_s=1.0, end_s=2.0, kind="cough")]},
        "fault_kinds": [], "dropped": [], "filled": [], "notes": [], "sources": {}, "fingerprint": "0", "config": {},
    }  # fmt: skip
    meta = write_dataset(folder, splits, 20, facts)
    write_json(folder / "meta.json", meta.model_dump() | {"hashes": {}})         # else they alone are refused
    return files_in(folder), load_dataset


def checkpoint(folder: Path) -> Case:
    from detection.checkpoint import load_calibrated

    folder.mkdir(parents=True, exist_ok=True)
    tiny.make_checkpoint(folder)
    values = np.random.default_rng(0).normal(size=(80, 3))

    def read(home: Path) -> None:
        _, detector = load_calibrated(home / "checkpoint.safetensors", "cpu")
        detector.detect([values[:, : len(detector.channels)]])

    return files_in(folder, "checkpoint.safetensors"), read


def training(folder: Path) -> Case:
    """The checkpoint of a run that was paused."""
    import torch

    from config import ExperimentConfig, ModelConfig, TrainingConfig
    from data_loader import TrainingWindows, validation_batches
    from detection.checkpoint import FORMAT, load_checkpoint, write_tensors
    from detection.detector import build_model
    from detection.resolved import resolve
    from experiment import restore_trainer
    from trainers import Trainer

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    config = TrainingConfig(epochs=3, updates_per_epoch=2, batch_size=2, schedule="plateau")
    model = ModelConfig(hidden_units=4, num_layers=1, horizon_s=0.4, warm_up_s=0.4)
    resolved = resolve(ExperimentConfig(model=model), "ab", ["", ""], ["airflow", "effort"], 5.0)
    shape = {"steps": 10, "horizon": 2, "least": 5, "batch_size": 2}
    values = [np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)]
    windows = TrainingWindows(values, updates=2, channel_dropout=0.1, seed=0, **shape)
    trainer = Trainer(build_model(resolved), config, 2, "cpu")
    trainer.fit(windows, validation_batches(values, **shape), until=2)
    state = trainer.state_dict(windows)
    write_tensors(folder / "checkpoint.safetensors", {"format": FORMAT, "model": state.pop("model"), "training": state})

    def read(home: Path) -> None:
        again = Trainer(build_model(resolved), config, 2, "cpu")
        restore_trainer(again, load_checkpoint(home / "checkpoint.safetensors"), windows, "checkpoint.safetensors")
        again.fit(windows, validation_batches(values, **shape))

    return files_in(folder, "checkpoint.safetensors"), read


def stream(folder: Path) -> Case:
    from live.rows import InputWarnings
    from live.stream import new_stream

    folder.mkdir(parents=True, exist_ok=True)
    path = tiny.make_checkpoint(folder)

    def read(home: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            taken = new_stream(path, "cpu", InputWarnings())
            lines = (home / "lines.csv").read_bytes().decode("utf-8", errors="replace").split("\n")
            for found in taken.take(line.rstrip("\r") for line in lines):
                [taken.rows.timestamp(one.t_s) for one in found]
            taken.finish()

    return {"lines.csv": tiny.draw_recording(8, 3).to_csv(index=False).encode()}, read


def state(folder: Path) -> Case:
    from live.rows import InputWarnings
    from live.stream import FORMAT, load_state, new_stream, restore, save_state

    folder.mkdir(parents=True, exist_ok=True)
    path = tiny.make_checkpoint(folder)
    lines = tiny.draw_recording(8, 3).to_csv(index=False).splitlines()
    began = new_stream(path, "cpu", InputWarnings())
    list(began.take(lines[:150]))
    about = {"format": FORMAT, "checkpoint": "sum", "place": 0, "bytes": 10, "tail": "00" * 10}
    save_state(folder / "live.state", about | {"stream": began.state_dict()})

    def read(home: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            taken, before = new_stream(path, "cpu", InputWarnings()), load_state(home / "live.state", "sum")
            restore(taken, before, home / "live.state")
            list(taken.take(lines[140:]))
            taken.finish()

    return files_in(folder, "live.state"), read


def nab(folder: Path) -> Case:
    from config import read_json
    from recordings import nab_files
    from recordings.nab_series import label_windows, read_series, series_notes

    times = pd.date_range("2014-04-01", periods=50, freq="5min").strftime("%Y-%m-%d %H:%M:%S")
    text = pd.DataFrame({"timestamp": times, "value": np.arange(50.0)}).to_csv(index=False)
    labels = json.dumps({"a/b.csv": [[times[10], times[20]]]})

    def read(home: Path) -> None:
        series = read_series(home / "b.csv", "b")
        label_windows(read_json(home / nab_files.LABELS), "a/b.csv", series.times)
        series_notes(series, [series.segment(0, len(series.values))])

    return {"b.csv": text.encode(), nab_files.LABELS: labels.encode()}, read


def report(folder: Path) -> Case:
    from reports.page import write_report
    from reports.scoring import score_files

    folder.mkdir(parents=True, exist_ok=True)
    path = tiny.make_checkpoint(folder)
    tiny.draw_recording(130, 3, trouble=True).to_csv(folder / "night.csv", index=False)
    (folder / "night.events.csv").write_text("start_s,end_s,label\n")
    if not (folder / "run").exists():
        score_files(path, [folder / "night.csv"], folder / "run", "cpu")
    names = ("metrics.json", "data.json", "config.json", "run.json", "events.csv", "labels.csv", "signals.npz")
    return files_in(folder / "run", *names), write_report


def journal(folder: Path) -> Case:
    from config import ExperimentConfig, read_json, validate
    from grid.plan import PlanFile
    from grid.search import Journal

    record = {"key": "k", "until": None, "status": "finished", "epochs": 3, "val_loss": -1.0, "seconds": 1.0}
    lines = "".join(json.dumps(record | {"key": key}) + "\n" for key in "abc")
    plan = {"format": 1, "command": [], "config": ExperimentConfig().model_dump(), "seeds": [0], "halving": False,
            "device": "cpu", "fingerprint": "0", "runs": 1}  # fmt: skip

    def read(home: Path) -> None:
        Journal(home / "journal.jsonl")
        validate(PlanFile, read_json(home / "grid.json"), "grid.json")

    return {"journal.jsonl": lines.encode(), "grid.json": json.dumps(plan).encode()}, read


READERS: dict[str, Callable[[Path], Case]] = {
    "table": table, "events": events, "EDF": edf, "BDF": bdf, "EDF+D": edf_with_gaps,
    "ResMed card": card, "WFDB": wfdb, "WFDB segments": segments, "dataset config": dataset_config,
    "experiment and grid": experiment, "windowed CSV": windowed, "checkpoint": checkpoint, "training": training,
    "stream lines": stream, "stream state": state, "NAB": nab, "report": report, "journal": journal,
}  # fmt: skip
