"""What people get wrong, as a table: malformed input to every script, and what the one line about it has to say.

    python -m tests.helpers.input_faults         # each fault with its exit code and the line it leads to, as Markdown
    python -m tests.helpers.input_faults edf     # those of one entry point, or whose description holds the word

Every fault is made in a folder of its own, a copy of a small project with recordings, datasets, runs and NAB.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from tests.helpers import project

Make = Callable[[Path], None]
TINY, RUN, GRID = "datasets/collected-known-anomaly/tiny", "run", "grid"
NAME, FILE = "nyc_taxi", "nab/data/realKnownCause/nyc_taxi.csv"
LABELS = "nab/labels/combined_windows.json"
CONFIG = project.CONFIG | {
    "model": project.CONFIG["model"] | {"hidden_units": 4},
    "training": project.CONFIG["training"] | {"epochs": 2, "updates_per_epoch": 2},
    "grid": {"model.hidden_units": [3, 4]},
}
CSV_DATA = project.DATASET | {
    "normal_margin_s": 5.0,
    "split": {"train": ["one"], "val": ["two"], "test": ["three"]},
    "labels": {"apnea": "central_apnea"},
    "fault_kinds": [],
}
CUT = {"train": ["one"], "val_fraction": 0.3, "test_fraction": 0.3}
NAB_DATA = {
    "description": "made by a test", "val_fraction": 0.3, "normal_share": 0.5, "guard_rows": 20, "gap_rows": 4,
    "window_rows": 100,
}  # fmt: skip


# ---- the project that faults are made in ----------------------------------------------------


def draw(seconds: float, seed: int) -> pd.DataFrame:
    """Return breaths of 4 s at 10 Hz."""
    random, t = np.random.default_rng(seed), np.arange(round(10 * seconds)) / 10
    flow = 30 * np.sin(2 * np.pi * t / 4) + 2 * random.normal(size=len(t))
    thorax = 0.5 * np.cos(2 * np.pi * t / 4) + 0.05 * random.normal(size=len(t))
    return pd.DataFrame({"t_s": t, "flow_lpm": flow.round(3), "thorax_au": thorax.round(4)})


def write_edf(path: Path, frame: pd.DataFrame, bdf: bool = False) -> None:
    import pyedflib

    kind, most = (pyedflib.FILETYPE_BDFPLUS, 2**23) if bdf else (pyedflib.FILETYPE_EDFPLUS, 2**15)
    with pyedflib.EdfWriter(str(path), 2, file_type=kind) as file:
        for k, unit in enumerate(("L/min", "a.u.")):
            header = {"label": frame.columns[k + 1], "dimension": unit, "sample_frequency": 10.0}
            limits = {"physical_min": -64.0, "physical_max": 64.0, "digital_min": -most, "digital_max": most - 1}
            file.setSignalHeader(k, header | limits | {"prefilter": "", "transducer": ""})
        file.writeSamples([frame[name].to_numpy() for name in frame.columns[1:]])


def write_wfdb(path: Path, frame: pd.DataFrame) -> None:
    import wfdb

    values = frame.iloc[:, 1:].to_numpy()
    names, units = list(frame.columns[1:]), ["L/min", "NU"]          # wfdb takes no points in a unit
    facts = {"fmt": ["16", "16"], "adc_gain": [100.0, 100.0], "baseline": [0, 0], "write_dir": str(path.parent)}
    wfdb.wrsamp(path.stem, fs=10, units=units, sig_name=names, p_signal=values, **facts)


def write_nab(root: Path) -> None:
    random, times = np.random.default_rng(0), pd.date_range("2014-07-01", periods=600, freq="30min")
    stamps = times.strftime("%Y-%m-%d %H:%M:%S")
    values = 50 + 10 * np.sin(np.arange(600) / 8) + random.normal(size=600)
    (root / FILE).parent.mkdir(parents=True)
    pd.DataFrame({"timestamp": stamps, "value": values.round(3)}).to_csv(root / FILE, index=False)
    (root / LABELS).parent.mkdir()
    (root / LABELS).write_text(json.dumps({f"realKnownCause/{NAME}.csv": [[stamps[400], stamps[430]]]}))


def make_project(root: Path) -> Path:
    """Write recordings, datasets, a finished run and grid, and a copy of NAB with one series below a folder."""
    import collected_data_preprocess
    import grid_search
    import pure_lstm_anomaly_detection_main as main_script

    (root / "raw").mkdir(parents=True)
    for seed, (name, seconds) in enumerate({"one": 120, "two": 100, "three": 150, "night": 200}.items()):
        frame = draw(seconds, seed)
        if name == "three":
            frame.loc[900:1100, ["flow_lpm", "thorax_au"]] *= 0.01
        if name != "night":
            frame.to_csv(root / "raw" / f"{name}.csv", index=False)
    (root / "raw" / "three.events.csv").write_text("start_s,end_s,label\n90,110,apnea\n")
    write_edf(root / "raw" / "night.edf", frame)
    write_wfdb(root / "raw" / "night.hea", frame)
    write_nab(root)
    entries = {"tiny": CSV_DATA, "NAB": NAB_DATA}
    for kind in ("edf", "hea"):
        entries[kind] = CSV_DATA | {"split": CUT | {"train": ["night"]}, "file_pattern": f"{{name}}.{kind}"}
    (root / "stdin").write_text(LINES)
    (root / "dataset_config.json").write_text(json.dumps(entries, indent=1))
    (root / "config.json").write_text(json.dumps(CONFIG, indent=1))
    with contextlib.chdir(root):
        assert collected_data_preprocess.main(f"{PREPROCESS} tiny --out {Path(TINY).parent}".split()) == 0
        assert main_script.main(f"{TINY_RUN} --out {RUN}".split()) == 0
        assert grid_search.main(f"{TINY_RUN} --out {GRID}".split()) == 0
    return root


# ---- how files are spoilt -------------------------------------------------------------------


def overlapping(content: bytes) -> bytes:
    """Return an EDF+ as one with gaps, whose second record starts too early."""
    return content.replace(b"EDF+C", b"EDF+D").replace(b"+1\x14", b"+0\x14", 1)


def put(path: str, content: str | bytes) -> Make:
    """Write a file of that content."""

    def make(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def change(path: str, how: Callable[[bytes], bytes]) -> Make:
    """Rewrite a file's bytes."""

    def make(root: Path) -> None:
        before = (root / path).read_bytes()
        (root / path).write_bytes(how(before))
        assert how(before) != before, f"{path} is as it was"

    return make


def edit(path: str, old: str, new: str) -> Make:
    """Replace the first place where a text stands."""
    return change(path, lambda content: content.replace(old.encode(), new.encode(), 1))


def column(path: str, name: str, how: Callable[[pd.Series], Any]) -> Make:
    """Rewrite a column of a CSV; what is no text stays as it was written."""

    def make(root: Path) -> None:
        frame = pd.read_csv(root / path, dtype=str, keep_default_na=False)
        frame[name] = how(frame[name])
        frame.to_csv(root / path, index=False)

    return make


def cell(path: str, row: int, name: str, text: str) -> Make:
    """Write a text into a cell; rows as in an editor, the header is row 1."""

    def how(values: pd.Series) -> pd.Series:
        values.iloc[row - 2] = text
        return values

    return column(path, name, how)


def rows(path: str, how: Callable[[list[bytes]], list[bytes]]) -> Make:
    """Rewrite the lines of a text behind its first."""

    def lines(content: bytes) -> bytes:
        header, *others = content.splitlines(keepends=True)
        return header + b"".join(how(others))

    return change(path, lines)


def cut(path: str, share: float = 0.5) -> Make:
    """Cut a file off."""
    return change(path, lambda content: content[: int(share * len(content))])


def key(path: str, dotted: str, value: Any) -> Make:
    """Set a value in a JSON file; `...` takes the key away."""

    def make(root: Path) -> None:
        content = json.loads((root / path).read_text())
        replace_at(content, dotted.split("."), value)
        (root / path).write_text(json.dumps(content, indent=1))

    return make


def state(place: str, value: Any) -> Make:
    """Set what stands at a place a/b/c of the checkpoint; `...` takes it away, a function changes what was there."""

    def make(root: Path) -> None:
        from detection.checkpoint import read_tensors, write_tensors

        content = read_tensors(root / CHECKPOINT)
        replace_at(content, place.split("/"), value)
        write_tensors(root / CHECKPOINT, content)

    return make


def replace_at(content: Any, parents: list[str], value: Any) -> None:
    *parents, last = (int(name) if name.isdigit() else name for name in parents)
    for name in parents:
        content = content.setdefault(name, {}) if isinstance(content, dict) else content[name]
    if value is ...:
        del content[last]
    else:
        content[last] = value(content[last]) if callable(value) else value


def nan_of(tensor: Any) -> Any:
    return tensor * float("nan")


def remove(path: str) -> Make:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def folder(path: str) -> Make:
    """Make a folder, also in the place of a file."""

    def make(root: Path) -> None:
        (root / path).unlink(missing_ok=True)
        (root / path).mkdir(parents=True)

    return make


def each(*several: Make) -> Make:
    def make(root: Path) -> None:
        for one in several:
            one(root)

    return make


# ---- the table ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A mistake: what it is, what makes its files, a script's arguments, and words that the line has to hold."""

    entry: str
    what: str
    make: Make
    argv: Sequence[str]                                          # the script, and what follows it
    says: Sequence[str]

    def __str__(self) -> str:
        return f"{self.entry}: {self.what}"


def of(entry: str, argv: str, *cases: tuple) -> list[Fault]:
    """Return the faults of an entry point.

    Args:
        argv: script and arguments, between blanks.
        cases: what is wrong, what makes the files or arguments that go behind the others, words of the line.
    """
    faults = []
    for what, wrong, *says in cases:
        make, more = (wrong, []) if callable(wrong) else (nothing, wrong.split(" "))
        faults.append(Fault(entry, what, make, [*argv.split(" "), *more], says))
    return faults


def nothing(root: Path) -> None:
    """Leave the project as it is: the arguments are wrong."""


PREPROCESS = "--dataset-config dataset_config.json --dataset"
TINY_RUN = "--config config.json --datasets datasets --device cpu"
MAIN = f"pure_lstm_anomaly_detection_main {TINY_RUN}"
ONE, EVENTS, DATA = "raw/one.csv", "raw/three.events.csv", "dataset_config.json"
TRAIN, VAL, TEST, META = (f"{TINY}/{name}" for name in ("train.csv", "val.csv", "test.csv", "meta.json"))
CHECKPOINT, RUN_CONFIG, METRICS, RUNS = (
    f"{RUN}/{name}" for name in ("checkpoint.safetensors", "config.json", "metrics.json", "runs.json")
)
FALSE_EVENTS = "detectors.LSTM.events.false_events_per_hour"
PLAN, SERIES = f"{GRID}/grid.json", f"realKnownCause/{NAME}.csv"
MODEL = f"--checkpoint {CHECKPOINT}"
NO_MORE = "--calibration-sessions 0 --test-sessions 0"
MANY = list(range(1, 2001))
HEADER = "t_s,flow_lpm,thorax_au\n"
LINES = HEADER + "".join(f"{k / 10},{k % 7},{k % 5}\n" for k in range(50))


def in_gz(root: Path) -> None:
    """Call all recordings .csv.gz, whatever they are."""
    for path in (root / "raw").glob("*.csv"):
        path.rename(path.with_suffix(".csv.gz"))
    key("dataset_config.json", "tiny.file_pattern", "{name}.csv.gz")(root)


def turned(content: bytes) -> bytes:
    """Return bytes with every bit of some in the middle turned."""
    half = len(content) // 2
    return content[:half] + bytes(byte ^ 255 for byte in content[half : half + 40]) + content[half + 40 :]


def pickled(root: Path) -> None:
    """Save what runs code when it is read, as other programs do."""
    import torch

    torch.save({"model": Path("x")}, root / CHECKPOINT)


def data(dotted: str, value: Any) -> Make:
    return key(DATA, dotted, value)


def entry(dotted: str, value: Any) -> Make:
    return key(DATA, f"tiny.{dotted}", value)


def config(dotted: str, value: Any) -> Make:
    return key("config.json", dotted, value)


def meta(dotted: str, value: Any) -> Make:
    return key(META, dotted, value)


def events(lines: str) -> Make:
    return put(EVENTS, f"start_s,end_s,label\n{lines}")


def windows(ends: list[Any]) -> Make:
    """Let NAB's label file hold these label windows of the one series."""
    return put(LABELS, json.dumps({SERIES: ends}))


def known(start_s: float, end_s: float, label: str) -> Make:
    """Let dataset_config.json itself know an event of the first recording."""
    return entry("events", {"one": [{"start_s": start_s, "end_s": end_s, "label": label}]})


def copied(source: str, target: str) -> Make:
    return lambda root: shutil.copy(root / source, root / target)


def semicolons(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b",", b";") for line in lines]


def dated(times: pd.Series) -> list[str]:
    """Return seconds as times of the third and fifth of April, or the fourth of March and May."""
    seconds = times.astype(float)
    return [f"0{3 + 2 * (t >= 60):.0f}/04/2024 10:00:{t % 60:04.1f}" for t in seconds]


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


FAULTS = [
    *of(
        "raw CSV", f"collected_data_preprocess {PREPROCESS} tiny --out out",
        ("an empty file", put(ONE, ""), "one.csv"),
        ("a header alone", put(ONE, HEADER), "one.csv"),
        ("a single row", put(ONE, HEADER + "0,1,2\n"), "one.csv"),
        ("a folder of that name", folder(ONE), "one.csv"),
        ("no such file", remove(ONE), "one.csv"),
        ("an Excel workbook named .csv", put(ONE, b"PK\x03\x04\x14\0\x06\0\x08\0" * 99), "one.csv"),
        ("binary junk", put(ONE, bytes(range(256)) * 40), "one.csv"),
        ("JSON named .csv", put(ONE, json.dumps(CONFIG)), "one.csv"),
        ("an HTML page named .csv", put(ONE, "<!DOCTYPE html>\n<html><body>404, not found</body></html>\n"), "one.csv"),
        ("no header", change(ONE, lambda c: c.partition(b"\n")[2]), "one.csv"),
        ("a title below the header", rows(ONE, lambda r: [b"Night of 3 May\n", *r]), "one.csv"),
        ("a row of units, one unknown", rows(ONE, lambda r: [b"s,cows,a.u.\n", *r]), "one.csv", "'cows'"),
        ("semicolons from the second row on", rows(ONE, semicolons), "one.csv", "row 2"),
        ("semicolons half-way through", rows(ONE, lambda r: r[:500] + semicolons(r[500:])), "one.csv", "row 502"),
        ("decimal commas between commas", rows(ONE, lambda r: [b.replace(b".", b",") for b in r]), "one.csv"),
        ("a column twice", edit(ONE, "thorax_au", "flow_lpm"), "one.csv"),
        ("a column called differently", edit(ONE, "flow_lpm", "Flow (L/min)"), "one.csv"),
        ("no time column", edit(ONE, "t_s", "seconds"), "one.csv"),
        ("text in a number, far down", cell(ONE, 1000, "flow_lpm", "n/v"), "one.csv", "row 1000"),
        ("thousands with a blank", cell(ONE, 700, "flow_lpm", "1 234.5"), "one.csv", "row 700"),
        ("Excel's #DIV/0!", cell(ONE, 50, "thorax_au", "#DIV/0!"), "one.csv", "row 50"),
        ("a cell too many", rows(ONE, lambda r: [*r[:300], b"30.0,1,2,3\n", *r[301:]]), "one.csv"),
        ("a quote that is not closed", rows(ONE, lambda r: [*r[:300], b'30.0,"1,2\n', *r[301:]]), "one.csv"),
        ("a time that is NaN", cell(ONE, 300, "t_s", "NaN"), "one.csv", "row 300"),
        ("an empty time", cell(ONE, 300, "t_s", ""), "one.csv", "row 300"),
        ("an infinite time", cell(ONE, 300, "t_s", "inf"), "one.csv", "row 300"),
        ("times that go backwards", rows(ONE, lambda r: r[600:] + r[:600]), "one.csv", "row 602"),
        ("times that fall", rows(ONE, lambda r: r[::-1]), "one.csv", "row 3"),
        ("a row twice", rows(ONE, lambda r: [*r[:300], r[299], *r[300:]]), "one.csv", "row 302"),
        ("a leap of 1e300 s", cell(ONE, 1201, "t_s", "1e300"), "one.csv", "row 1201"),
        ("a leap of a year", cell(ONE, 1201, "t_s", "31536000"), "one.csv", "row 1201"),
        ("times in milliseconds", column(ONE, "t_s", lambda v: (1000 * v.astype(float)).round(1)), "one.csv"),
        ("times of a year in single precision", column(ONE, "t_s", lambda v: v.astype("f4") + 3e7), "one.csv", "row 3"),
        ("times whose day may be the month", column(ONE, "t_s", dated), "one.csv", "time_format"),
        ("a channel without a value", column(ONE, "flow_lpm", lambda v: ""), "one.csv", "flow_lpm"),
        ("a channel that never changes", column(ONE, "flow_lpm", lambda v: "3.5"), "one.csv", "flow_lpm"),
        ("a channel of infinities", column(ONE, "flow_lpm", lambda v: "inf"), "one.csv", "flow_lpm"),
        ("values near the largest double", column(ONE, "flow_lpm", lambda v: v.astype(float) * 1e306), "one.csv"),
        ("another rate than declared", rows(ONE, lambda r: r[::4]), "one.csv"),
        ("shorter than warm-up and guard", rows(ONE, lambda r: r[:2]), "tiny"),
        ("a gz that is cut off", each(change(ONE, zipped), cut(ONE), in_gz), "one.csv.gz"),
        ("a gz with bits turned", each(change(ONE, lambda c: turned(zipped(c))), in_gz), "one.csv.gz"),
        ("a gz that is none", in_gz, "one.csv.gz"),
        ("a gz named .csv", change(ONE, zipped), "one.csv"),
        ("lines of a million cells", put(ONE, "t_s," * 300000 + "\n1\n"), "one.csv"),
        ("no folder of recordings", lambda root: shutil.move(root / "raw", root / "rare"), "raw"),
    ),
    *of(
        "raw CSV, --inspect", "collected_data_preprocess --inspect raw/one.csv",
        ("no such file", remove(ONE), "one.csv"),
        ("a header alone", put(ONE, HEADER), "one.csv"),
    ),
    *of(
        "raw CSV, --inspect", "collected_data_preprocess --inspect",
        ("an unknown suffix", "raw/one.xlsx", "one.xlsx"),
        ("a folder without recordings", "nab", "nab"),
    ),
    *of(
        "events file", f"collected_data_preprocess {PREPROCESS} tiny --out out",
        ("an empty file", put(EVENTS, ""), "three.events.csv"),
        ("end before start", events("110,90,apnea\n"), "three.events.csv", "row 2"),
        ("behind the end", events("90,110,apnea\n190,210,apnea\n"), "row 3"),
        ("before the beginning", events("-30,-10,apnea\n"), "row 2"),
        ("a label that is not in the config", events("90,110,Apnoe\n"), "row 2", "Apnoe"),
        ("no label", events("90,110,\n"), "row 2"),
        ("other columns", put(EVENTS, "first,last,what\n90,20,apnea\n"), "three.events.csv", "start"),
        ("a column twice", put(EVENTS, "start_s,end_s,label,label\n90,110,apnea,apnea\n"), "label"),
        ("clock times", events("22:30:10,22:30:40,apnea\n"), "row 2"),
        ("a NaN", events("NaN,110,apnea\n"), "row 2"),
        ("1e300", events("90,1e300,apnea\n"), "row 2"),
        ("binary junk", put(EVENTS, bytes(range(256))), "three.events.csv"),
        ("a folder", folder(EVENTS), "three.events.csv"),
    ),
    *of(
        "EDF", f"collected_data_preprocess {PREPROCESS} edf --out out",
        ("empty", put("raw/night.edf", ""), "night.edf"),
        ("a CSV named .edf", lambda root: shutil.copy(root / ONE, root / "raw/night.edf"), "night.edf"),
        ("a header alone", cut("raw/night.edf", 0.03), "night.edf"),
        ("a signal called differently", edit("raw/night.edf", "flow_lpm", "Flow    "), "night.edf", "flow_lpm"),
        ("another unit", edit("raw/night.edf", "L/min ", "cmH2O "), "night.edf", "flow_lpm"),
        ("records that overlap, EDF+D", change("raw/night.edf", overlapping), "night.edf", "record 2"),
        ("one number for both limits", change("raw/night.edf", lambda c: c.replace(b"-64", b"64 ")), "night.edf"),
        ("a record duration of 0 s", change("raw/night.edf", lambda c: c[:244] + b"0       " + c[252:]), "night.edf"),
        ("another rate than declared", data("edf.channels.flow_lpm.rate_hz", 100.0), "night.edf", "rate_hz"),
        ("a folder", folder("raw/night.edf"), "night.edf"),
    ),
    *of(
        "WFDB", f"collected_data_preprocess {PREPROCESS} hea --out out",
        ("the signal file is missing", remove("raw/night.dat"), "night.hea", "night.dat"),
        ("the signal file is cut off", cut("raw/night.dat"), "night.dat"),
        ("an empty header", put("raw/night.hea", ""), "night.hea"),
        ("a header that is cut off", cut("raw/night.hea", 0.6), "night.hea"),
        ("a header of binary junk", put("raw/night.hea", bytes(range(256))), "night.hea"),
        ("a signal called differently", edit("raw/night.hea", "flow_lpm", "Flow"), "night.hea", "flow_lpm"),
        ("a rate of 1e300 Hz", edit("raw/night.hea", " 10 ", " 1e300 "), "night.hea"),
        ("an annotator that is not there", data("hea.annotators", ["resp"]), "night.resp"),
        ("an annotation file of junk", put("raw/night.atr", bytes(range(256))), "night.atr"),
    ),
    *of(
        DATA, f"collected_data_preprocess {PREPROCESS} tiny --out out",
        ("no such file", remove(DATA), DATA),
        ("a folder", folder(DATA), DATA),
        ("empty", put(DATA, ""), DATA),
        ("a comma too many", put(DATA, '{"tiny": {"rate_hz": 5,}}'), DATA, "line 1"),
        ("a comment", put(DATA, '{\n  // mine\n  "tiny": {}\n}'), DATA, "line 2"),
        ("a key twice", put(DATA, '{"tiny": {}, "tiny": {}}'), DATA, "tiny"),
        ("UTF-16", change(DATA, lambda c: c.decode().encode("utf-16")), DATA),
        ("a list", put(DATA, "[]"), DATA),
        ("NaN", edit(DATA, "5.0", "NaN"), DATA, "NaN"),
        ("an entry that is no object", data("tiny", 3), "tiny"),
        ("an entry spelt wrong", "--dataset tinny", "tinny", "did you mean 'tiny'"),
        ("the entry of NAB", "--dataset NAB", "NAB"),
        ("a negative rate", entry("rate_hz", -5), "tiny: rate_hz"),
        ("a rate of a text", entry("rate_hz", "5"), "rate_hz"),
        ("a rate of true", entry("rate_hz", True), "rate_hz"),
        ("a misspelt key", entry("gaurd_s", 3), "gaurd_s", "guard_s"),
        ("no split", entry("split", ...), "split"),
        ("a recording in two splits", entry("split.val", ["one"]), "split", "one"),
        ("a recording that is a path", entry("split.train", ["../one"]), "split.train.0"),
        ("a channel that is in no file", entry("channels.snore", {"unit": "V", "rate_hz": 10.0}), "one.csv", "snore"),
        ("a grid of 1e9 rows a second", entry("rate_hz", 1e9), "rate_hz"),
        ("a window of 1e300 s", entry("window_s", 1e300), "window_s"),
        ("a guard longer than the recordings", each(entry("guard_s", 1e6), entry("split", CUT)), "guard"),
        ("a guard of 1e300 s", entry("guard_s", 1e300), DATA, "guard_s"),
        ("a delay of 1e300 s", entry("delay_s", 1e300), "delay_s"),
        ("a flatline_s of 1e300 s", entry("channels.flow_lpm.flatline_s", 1e300), "flatline_s"),
        ("a fill_s of 1e300 s", entry("fill_s", 1e300), "fill_s"),
        ("an event of an unknown label", known(1, 2, "x"), DATA, "events.one", "'x'"),
        ("an event that ends before it starts", known(2, 1, "apnea"), DATA, "events.one", "row 1"),
        ("a time_format that is none", entry("time_format", "%Q"), "time_format"),
        ("an output folder that is a file", put("out", "mine"), "out"),
        ("a dataset folder that is a file", put("out/tiny", "mine"), "tiny"),
        ("a raw_dir that is a file", entry("raw_dir", "config.json"), "config.json"),
    ),
    *of(
        "collected_data_preprocess", "collected_data_preprocess --dataset-config dataset_config.json --out out",
        ("an option that there is not", "--dataset tiny --output x", "--output"),
        ("an option cut short", "--datas tiny", "--datas"),
        ("no value behind an option", "--dataset", "--dataset"),
        ("an argument that belongs nowhere", "tiny", "tiny"),
    ),
    *of(
        "pure_lstm_config.json", f"{MAIN} --out new",
        ("no such file", remove("config.json"), "config.json"),
        ("a comma too many", edit("config.json", "}", "},"), "config.json", "line"),
        ("a key twice", edit("config.json", '"model"', '"training"'), "config.json", "training"),
        ("NaN", edit("config.json", "0.01", "NaN"), "config.json", "NaN"),
        ("1e999", edit("config.json", "0.01", "1e999"), "config.json", "learning_rate"),
        ("a number of 5000 digits", edit("config.json", "0.01", "9" * 5000), "config.json"),
        ("a misspelt key", config("model.hiden_units", 3), "model.hiden_units", "hidden_units"),
        ("a config of a dataset", lambda root: shutil.copy(root / DATA, root / "config.json"), "config.json"),
        ("hidden_units 1e9", config("model.hidden_units", 10**9), "model.hidden_units"),
        ("hidden_units 0", config("model.hidden_units", 0), "model.hidden_units"),
        ("hidden_units -8", config("model.hidden_units", -8), "model.hidden_units"),
        ("hidden_units as text", config("model.hidden_units", "64"), "model.hidden_units"),
        ("hidden_units a fraction", config("model.hidden_units", 64.5), "model.hidden_units"),
        ("34 billion weights", each(config("model.hidden_units", 8192), config("model.num_layers", 64)), "weights"),
        ("a batch of 1e9 windows", config("training.batch_size", 10**9), "training.batch_size"),
        ("a seed of 2**70", config("training.seed", 2**70), "training.seed"),
        ("a learning rate of 10", config("training.learning_rate", 10.0), "training.learning_rate"),
        ("dropout of 1", config("model.dropout", 1.0), "model.dropout"),
        ("a horizon longer than the guard", config("model.horizon_s", 50.0), "model.horizon_s", "guard"),
        ("a window within the warm-up", config("training.window_s", 2.0), "training.window_s", "model.warm_up_s"),
        (
            "a warm-up longer than the recordings",
            each(config("model.warm_up_s", 500.0), config("training.window_s", 600.0), meta("guard_s", 9e9)), "warm-up",
        ),
        ("a baseline of 1e300 s", config("score.baseline_s", 1e300), "score.baseline_s"),
        ("an amplitude of 1e300 s", config("score.amplitude_s", 1e300), "score.amplitude_s"),
        ("an amplitude longer than the recordings", config("score.amplitude_s", 1e4), "amplitude_drop", "steps"),
        ("several amplitudes", config("score.amplitude_s", [6.0, 9.0]), "amplitude_s"),
        ("weights of nothing there is", config("score.weights", {"amplitude_dorp": 1.0}), "score", "amplitude_drop"),
        ("weights for no channel there is", config("score.weights", {"amplitude_drop:other": 1.0}), "score.weights"),
        ("a threshold's q of 1.5", config("threshold.parameters.q", 1.5), "threshold.parameters"),
        ("a threshold's q as text", config("threshold.parameters.q", "high"), "threshold.parameters"),
        ("a parameter of another rule", config("threshold.parameters.risk", 0.1), "threshold.parameters"),
        ("a channel that there is not", config("dataset.channels", ["flow"]), "dataset.channels", "it has flow_lpm"),
        ("a channel twice", config("dataset.channels", ["flow_lpm", "flow_lpm"]), "dataset.channels", "twice"),
        ("a dataset that is a path", config("dataset.name", "../../raw"), "dataset"),
        ("an absolute dataset", config("dataset.name", "/tmp"), "dataset"),
        ("a dataset of a NUL", config("dataset.name", "a\0b"), "dataset"),
        ("a merge gap below 0", config("events.merge_gap_s", -1), "events.merge_gap_s"),
    ),
    *of(
        "pure_lstm_anomaly_detection_main", f"{MAIN}",
        ("--seeds 0", "--seeds 0 --out new", "--seeds 0"),
        ("--seeds many", "--seeds many --out new", "--seeds", "many"),
        ("--seed 3, cut short", "--seed 3 --out new", "--seed"),
        ("--device tpu", "--device tpu --out new", "--device", "tpu"),
        ("--set without a value", "--set training.epochs --out new", "--set training.epochs"),
        ("--set of a section", "--set model=3 --out new", "model"),
        ("--set below a value", "--set model.hidden_units.x=3 --out new", "--set"),
        ("--set of a NUL key", "--set ..=3 --out new", "--set"),
        ("--dataset that is not made", "--dataset other --out new", "other", "python"),
        ("--dataset that is a category", "--dataset realKnownCause --out new", "python data_preprocess_NAB.py"),
        ("--datasets that is not there", "--datasets none --out new", "none"),
        ("--out that is in use", f"--out {RUN}", RUN, "--resume"),
        ("--out that is a file", "--out config.json", "config.json"),
        ("--out below a file", "--out config.json/x", "config.json"),
        ("--out of 300 letters", "--out " + "n" * 300, "n" * 300),
        ("--resume and --out", f"--resume {RUN} --out new", "--resume"),
        ("--checkpoint without --score", f"{MODEL} --out new", "--score"),
        ("--score without --checkpoint", "--score raw/one.csv --out new", "--checkpoint"),
        ("--score and --dry-run", f"{MODEL} --score raw/one.csv --dry-run", "--score"),
        ("--resume and --checkpoint", f"--resume {RUN} {MODEL}", "--score"),
    ),
    *of(
        "windowed CSV", f"{MAIN} --out new",
        ("no such file", remove(VAL), "val.csv"),
        ("empty", put(VAL, ""), "val.csv"),
        ("a folder", folder(VAL), "val.csv"),
        ("cut off", cut(TRAIN, 0.7), "train.csv"),
        ("rows taken out", rows(TRAIN, lambda r: r[:99] + r[120:]), "train.csv", "rows"),
        ("rows shuffled", rows(TRAIN, lambda r: r[200:] + r[:200]), "train.csv", "row 394"),
        ("two rows exchanged", rows(TRAIN, lambda r: [*r[:50], r[51], r[50], *r[52:]]), "train.csv", "row 53"),
        ("a row twice, for another", rows(TRAIN, lambda r: [*r[:50], r[49], *r[51:]]), "train.csv", "row 52"),
        ("a column called differently", edit(TEST, "flow_lpm", "flow"), "test.csv", "flow_lpm"),
        ("a column twice", edit(TEST, "thorax_au", "flow_lpm"), "test.csv"),
        ("a column taken out", column(TEST, "label", lambda v: "")  , "test.csv", "label"),
        ("text in a number", cell(TRAIN, 77, "flow_lpm", "12 L"), "train.csv", "row 77", "flow_lpm"),
        ("an empty value that is valid", cell(TRAIN, 77, "flow_lpm", ""), "train.csv", "row 77", "flow_lpm"),
        ("an infinite value", cell(TRAIN, 77, "flow_lpm", "inf"), "train.csv", "row 77", "flow_lpm"),
        ("a flag of 7", cell(TRAIN, 77, "valid_flow_lpm", "7"), "train.csv", "row 77", "valid_flow_lpm"),
        ("a flag of 256", cell(TRAIN, 77, "valid_flow_lpm", "256"), "train.csv", "row 77"),
        ("a flag that is empty", cell(TRAIN, 77, "valid_flow_lpm", ""), "train.csv", "row 77"),
        ("a label of text", cell(TEST, 77, "label", "apnea"), "test.csv", "row 77", "label"),
        ("an empty time", cell(TRAIN, 77, "t_s", ""), "train.csv", "row 77"),
        ("no recording", cell(TRAIN, 77, "recording", ""), "train.csv", "row 77"),
        ("semicolons", change(TRAIN, lambda c: c.replace(b",", b";").replace(b".", b",")), "train.csv"),
        ("UTF-16", change(TRAIN, lambda c: c.decode().encode("utf-16")), "train.csv"),
        ("zeros at its end, after a crash", change(TRAIN, lambda c: c[:-400] + bytes(400)), "train.csv"),
        ("the test rows in the place of training rows", copied(TEST, TRAIN), "train.csv"),
        ("a value changed, its hash still that of the old", cell(TRAIN, 77, "flow_lpm", "12.5"), "train.csv"),
        ("a label in the training rows", cell(TRAIN, 77, "label", "1"), "train.csv"),
        (
            "a split that overlaps another",
            each(copied(TRAIN, VAL), meta("rows.val", 592), meta("hashes", {})),
            "val", "less than the guard",
        ),
    ),
    *of(
        "meta.json", f"{MAIN} --out new",
        ("no such file", remove(META), "tiny", "python collected_data_preprocess.py"),
        ("cut off", cut(META), "meta.json", "line"),
        ("empty", put(META, ""), "meta.json"),
        ("of another dataset", each(meta("dataset", "other")), "meta.json"),
        ("another format", meta("format", 99), "meta.json", "format"),
        ("other channels", meta("channels", {"a": "V", "b": "V"}), "meta.json", "measures"),
        ("a channel too many", meta("channels", {"flow_lpm": "L/min", "thorax_au": "a.u.", "x": ""}), "meta.json"),
        ("no measure of a channel", meta("measures", {"flow_lpm": "airflow"}), "meta.json"),
        ("a scale of 0", meta("scaler.scale", [0.0, 1.0]), "meta.json", "scale"),
        ("a scale of 1e-320", meta("scaler.scale", [1e-320, 1.0]), "meta.json", "scale"),
        ("a guard of NaN", edit(META, '"guard_s": 10.0', '"guard_s": NaN'), "meta.json", "NaN"),
        ("a rate of 0", meta("rate_hz", 0.0), "meta.json", "rate_hz"),
        ("another rate", meta("rate_hz", 50.0), "meta.json"),
        ("a rate of 1e300", meta("rate_hz", 1e300), "meta.json"),
        ("a negative guard", meta("guard_s", -5.0), "meta.json", "guard_s"),
        ("other numbers of rows", meta("rows.train", 3), "train.csv", "meta.json"),
        ("no number of rows", meta("rows", {}), "train.csv"),
        ("an unknown key", meta("mine", 1), "meta.json", "mine"),
        ("a key taken out", meta("events", ...), "meta.json", "events"),
        ("events of NaN", edit(META, '"start_s": 90.0', '"start_s": NaN'), "meta.json"),
        ("an event that ends before it starts", meta("events.three.0.end_s", 1.0), "meta.json", "events.three"),
        ("no events of a recording", meta("events.three", ...), "meta.json", "'three'"),
        ("another hash of the data", meta("hashes.train", "0" * 64), "train.csv"),
    ),
    *of(
        "run to resume", f"pure_lstm_anomaly_detection_main --datasets datasets --device cpu --resume {RUN}",
        ("no such folder", remove(RUN), RUN),
        ("no config.json", remove(RUN_CONFIG), "config.json"),
        ("config.json cut off", cut(RUN_CONFIG), "config.json"),
        ("config.json of other units", key(RUN_CONFIG, "model.hidden_units", 9), "checkpoint.safetensors"),
        ("config.json of another seed", key(RUN_CONFIG, "training.seed", 9), RUN),
        ("config.json of another dataset", key(RUN_CONFIG, "dataset.name", "other"), "other"),
        ("checkpoint cut off", cut(CHECKPOINT), "checkpoint.safetensors"),
        ("checkpoint empty", put(CHECKPOINT, ""), "checkpoint.safetensors"),
        ("checkpoint a folder", folder(CHECKPOINT), "checkpoint.safetensors"),
        ("checkpoint of zeros", change(CHECKPOINT, lambda c: bytes(len(c))), "checkpoint.safetensors"),
        ("checkpoint with bits turned", change(CHECKPOINT, turned), "checkpoint.safetensors"),
        ("checkpoint without training state", state("training", ...), RUN),
        ("checkpoint with half of its training state", state("training/optimizer", ...), "checkpoint.safetensors"),
        ("checkpoint with progress of text", state("training/progress", "all"), "checkpoint.safetensors"),
        ("checkpoint with weights of NaN", state("training/progress/best_model/head.bias", nan_of), "head.bias"),
        ("other training data", meta("scaler.center", [1.0, 2.0]), "tiny"),
        ("--set of the model", "--set model.hidden_units=8", "--set model"),
        ("--set of a threshold that there is not", "--set threshold.method=magic", "threshold.method"),
        ("--set of a threshold and a checkpoint cut off", cut(CHECKPOINT), "checkpoint.safetensors"),
        ("runs.json cut off", put(RUNS, '{"seeds": 2,'), "runs.json"),
        ("runs.json without seeds", put(RUNS, '{}'), "runs.json"),
        ("runs.json with seeds of text", put(RUNS, '{"seeds": "two", "folders": []}'), "runs.json"),
    ),
    *of(
        "checkpoint", f"pure_lstm_anomaly_detection_main --device cpu {MODEL} --score raw/three.csv --out new",
        ("no such file", remove(CHECKPOINT), "checkpoint.safetensors"),
        ("a folder", folder(CHECKPOINT), "checkpoint.safetensors"),
        ("empty", put(CHECKPOINT, ""), "checkpoint.safetensors"),
        ("cut off", cut(CHECKPOINT), "checkpoint.safetensors"),
        ("a whole pickled model", pickled, "checkpoint.safetensors"),
        ("another format", state("format", 99), "checkpoint.safetensors"),
        ("no threshold", state("threshold", None), "checkpoint.safetensors"),
        ("a threshold of text", state("threshold", {"method": "magic", "value": "high"}), "checkpoint.safetensors"),
        ("a threshold of NaN", state("threshold/value", float("nan")), "checkpoint.safetensors"),
        ("no data", state("data", ...), "checkpoint.safetensors"),
        ("no calibration", state("calibration", None), "checkpoint.safetensors"),
        ("calibration of a channel too few", state("calibration/tails/1", ...), "checkpoint.safetensors"),
        ("weights of NaN", state("model/head.bias", nan_of), "checkpoint.safetensors"),
        ("weights of another model", state("model/head.bias", lambda bias: bias[:3]), "checkpoint.safetensors"),
        ("a scale of NaN", state("scaler/scale/0", float("nan")), "checkpoint.safetensors"),
        ("a rate of 1e300", state("rate_hz", 1e300), "checkpoint.safetensors"),
        ("measures of nothing there is", state("measures", ["a", "b"]), "checkpoint.safetensors"),
        ("channels called otherwise than the data's", state("channels", ["a", "b"]), "checkpoint.safetensors"),
        ("channels that are numbers", state("channels", [1, 2]), "checkpoint.safetensors"),
        ("a recording that lacks a channel", edit("raw/three.csv", "thorax_au", "belt"), "three.csv", "thorax_au"),
        ("a recording of another rate", rows("raw/three.csv", lambda r: r[::5]), "three.csv", "rate_hz"),
        ("a recording too short", each(remove(EVENTS), rows("raw/three.csv", lambda r: r[:20])), "three.csv"),
        (
            "a recording without any value",
            rows("raw/three.csv", lambda r: [line.partition(b",")[0] + b",,\n" for line in r]), "three.csv",
        ),
        ("a recording that is an events file", edit("raw/three.csv", HEADER, "start_s,end_s,label\n"), "t_s"),
        ("a bad events file beside it", events("90,80,apnea\n"), "three.events.csv"),
        ("a recording that is not there", remove("raw/three.csv"), "three.csv"),
        ("a run folder in use", put("new/mine", "x"), "new"),
    ),
    *of(
        "stream_detect", f"stream_detect {MODEL} --state state --out scores.csv",
        ("no such checkpoint", remove(CHECKPOINT), "checkpoint.safetensors"),
        ("a checkpoint that is cut off", cut(CHECKPOINT), "checkpoint.safetensors"),
        ("a checkpoint without what the data is", state("data", {}), "checkpoint.safetensors"),
        ("a checkpoint whose data lacks a channel", state("data/channels/thorax_au", ...), "checkpoint.safetensors"),
        ("a state of junk", put("state", "mine"), "state"),
        ("a state that is a folder", folder("state"), "state"),
        ("an output that is there", put("scores.csv", "mine"), "scores.csv"),
        ("an output that is a folder", folder("scores.csv"), "scores.csv"),
        ("a file to follow that is not there", "--follow none.csv", "none.csv"),
        ("--format xml", "--format xml", "--format", "xml"),
        ("no header", edit("stdin", HEADER, ""), "row 1", "header"),
        ("a channel is missing", edit("stdin", "thorax_au", "belt"), "line 1", "thorax_au"),
        ("a column twice", edit("stdin", "thorax_au", "flow_lpm"), "line 1", "flow_lpm"),
        ("an image", put("stdin", b"\x89PNG\r\n\x1a\n\0\0\0" * 30), "line 1"),
    ),
    *of(
        "live.replay", "live.replay raw/one.csv --speed 0",
        ("no such file", remove(ONE), "one.csv"),
        ("a header alone", put(ONE, HEADER), "one.csv"),
        ("times that go backwards", rows(ONE, lambda r: r[600:] + r[:600]), "one.csv", "row 602"),
        ("text in every channel", put(ONE, "t_s,a\n0,x\n1,x\n"), "one.csv"),
        ("--speed -1", "--speed -1", "--speed"),
        ("--speed fast", "--speed fast", "--speed", "fast"),
        ("--speed nan", "--speed nan", "--speed"),
        ("--time-column that is not there", "--time-column when", "when"),
        ("two recordings", "raw/two.csv", "raw/two.csv"),
    ),
    *of(
        "export_model", f"export_model {MODEL} --out onnx",
        ("no such checkpoint", remove(CHECKPOINT), "checkpoint.safetensors"),
        ("a checkpoint that is cut off", cut(CHECKPOINT), "checkpoint.safetensors"),
        ("a training that was not finished", state("threshold", None), "checkpoint.safetensors"),
        ("weights of NaN", state("model/head.bias", nan_of), "checkpoint.safetensors"),
        ("a file that is there", put("onnx/model.onnx", "mine"), "model.onnx", "--force"),
        ("an output folder that is a file", put("onnx", "mine"), "onnx"),
        ("no --checkpoint's value", "--checkpoint", "--checkpoint"),
    ),
    *of(
        "reports.page", f"reports.page {RUN}",
        ("no such folder", remove(RUN), RUN),
        ("no run folder", each(remove(METRICS), remove(RUN_CONFIG)), RUN, "no run folder"),
        ("metrics.json missing", remove(METRICS), "metrics.json"),
        ("metrics.json cut off", cut(METRICS), "metrics.json"),
        ("metrics.json empty of detectors", key(METRICS, "detectors", {}), RUN),
        ("metrics.json with a number of text", key(METRICS, FALSE_EVENTS, "few"), RUN),
        ("metrics.json a list inside", key(METRICS, "detectors", []), RUN),
        ("data.json without recordings", key(f"{RUN}/data.json", "recordings", []), RUN),
        ("data.json with a rate of 0", key(f"{RUN}/data.json", "rate_hz", 0), RUN),
        ("labels.csv with text in a number", edit(f"{RUN}/labels.csv", "90.0", "soon"), "labels.csv", "row 2"),
        ("labels.csv empty", put(f"{RUN}/labels.csv", ""), "labels.csv"),
        ("signals.npz cut off", cut(f"{RUN}/signals.npz"), "signals.npz"),
        ("history.csv of NaN", edit(f"{RUN}/history.csv", "0.01", "NaN"), "history.csv"),
        ("a picture that is none", put(f"{RUN}/plots/training.png", "mine"), "training.png"),
        ("runs.json that leads out", put(RUNS, '{"seeds": 1, "folders": ["../raw"]}'), "runs.json"),
        ("runs.json that leads nowhere", put(RUNS, '{"seeds": 1, "folders": ["none"]}'), "none"),
        ("runs.json without folders", put(RUNS, "{}"), "runs.json"),
        ("runs.json whose folders are a number", put(RUNS, '{"seeds": 1, "folders": 3}'), "runs.json"),
        ("two folders", "raw", "raw"),
    ),
    *of(
        "reports.exports", f"reports.exports {RUN}",
        ("no such folder", remove(RUN), RUN),
        ("no events.csv", remove(f"{RUN}/events.csv"), "events.csv"),
        ("data.json cut off", cut(f"{RUN}/data.json"), "data.json"),
        ("an unknown format", "--formats pdf", "pdf", "edf+"),
    ),
    *of(
        "reports.model_card", f"reports.model_card {RUN} --notes config.json --out new",
        ("no such folder", remove(RUN), RUN),
        ("metrics.json missing", remove(METRICS), "metrics.json"),
        ("metrics.json of a name that leads out", key(METRICS, "dataset", "../x"), "metrics.json", "dataset"),
        ("no checkpoint", remove(CHECKPOINT), "checkpoint.safetensors"),
        ("no calibration", state("calibration", None), "checkpoint.safetensors"),
        ("data.json without channels", key(f"{RUN}/data.json", "channels", ...), RUN),
        ("data.json with text for hours", key(f"{RUN}/data.json", "splits.train.hours", "many"), RUN),
        ("run.json cut off", cut(f"{RUN}/run.json"), "run.json"),
        ("notes that are not there", remove("config.json"), "config.json"),
        ("notes that are no text", put("config.json", b"\xff\xfe\x00"), RUN),
        ("tables that are not there", "--tables none.md", "none.md"),
    ),
    *of(
        "reports.data_sheet", f"reports.data_sheet {TINY} --notes config.json --out new.md",
        ("no such folder", remove(TINY), "meta.json"),
        ("meta.json cut off", cut(META), "meta.json", "line"),
        ("a split that is missing", remove(VAL), "val.csv"),
        ("a CSV that was changed", edit(TRAIN, ",0\n", ",1\n"), "train.csv"),
        ("notes that are not there", remove("config.json"), "config.json"),
        ("notes that are no text", put("config.json", b"\xff\xfe\x00"), "config.json", "UTF-8"),
    ),
    *of(
        "grid", f"grid_search {TINY_RUN} --out new",
        ("no grid", config("grid", {}), "config.json", "grid"),
        ("a value that is no list", config("grid", {"model.hidden_units": 3}), "grid.model.hidden_units"),
        ("an empty list", config("grid", {"model.hidden_units": []}), "config.json", "grid.model.hidden_units"),
        ("a misspelt key", config("grid", {"model.hiden_units": [3]}), "config.json", "hiden_units"),
        ("a value of the wrong type", config("grid", {"model.hidden_units": [3, "4"]}), "config.json", "hidden_units"),
        ("a value twice", config("grid", {"model.hidden_units": [3, 3]}), "config.json", "same config"),
        ("hidden_units 1e9", config("grid", {"model.hidden_units": [10**9]}), "config.json", "hidden_units"),
        ("billions of weights", config("grid", {"model.hidden_units": [8192], "model.num_layers": [64]}), "weights"),
        (
            "a million runs",
            config("grid", dict.fromkeys(["training.batch_size", "model.hidden_units"], MANY)), "4,000,000 runs",
        ),
        ("a seed", config("grid", {"training.seed": [1, 2]}), "config.json", "--seeds"),
        ("a section beside its key", config("grid", {"model": [{}], "model.hidden_units": [3]}), "config.json"),
        ("a key without a section", config("grid", {"": [3]}), "config.json"),
        ("a horizon longer than the guard", config("grid", {"model.horizon_s": [2.0, 50.0]}), "horizon_s=50.0"),
        ("a nested grid", config("grid", {"grid.x": [3]}), "config.json"),
        ("a wrong threshold parameter", config("grid", {"threshold.parameters.q": [0.9, 2.0]}), "config.json", "q"),
        ("data that is not there", "--dataset other", "other"),
        ("--seeds -1", "--seeds -1", "--seeds"),
        ("--jobs -2", "--jobs -2", "--jobs"),
        ("--jobs and --scheduler", "--jobs 2 --scheduler tcp://127.0.0.1:1", "--scheduler"),
        ("--runs-per-gpu 0", "--runs-per-gpu 0", "--runs-per-gpu"),
        ("--dashboard alone", "--dashboard 8787", "--dashboard"),
        ("--retry-failed alone", "--retry-failed", "--resume"),
        ("--halving of one epoch", "--halving --set training.epochs=1", "--halving"),
        ("--out in use", f"--out {RUN}", RUN),
    ),
    *of(
        "grid to resume", f"grid_search --datasets datasets --resume {GRID}",
        ("no such folder", remove(GRID), GRID),
        ("no grid.json", remove(PLAN), "grid.json"),
        ("grid.json cut off", cut(PLAN), "grid.json"),
        ("grid.json of another format", key(PLAN, "format", 9), "grid.json"),
        ("grid.json without a config", key(PLAN, "config", ...), "grid.json", "config"),
        ("grid.json without seeds", key(PLAN, "seeds", ...), "grid.json", "seeds"),
        ("grid.json with seeds of text", key(PLAN, "seeds", "two"), "grid.json", "seeds"),
        ("grid.json of another device", key(PLAN, "device", "tpu"), "grid.json", "device"),
        ("grid.json of another config", key(PLAN, "config.model.hidden_units", -1), "grid.json", "hidden_units"),
        ("other data", edit(TRAIN, ",0\n", ",1\n"), "train.csv"),
        ("junk in the journal", change(f"{GRID}/journal.jsonl", lambda c: b"mine\n" + c), "journal.jsonl", "line 1"),
        ("--config beside it", "--config config.json", "--resume"),
    ),
    *of(
        "NAB root", f"data_preprocess_NAB --dataset-config {DATA} --nab-root nab --out out --series {NAME}",
        ("no such folder", remove("nab"), "nab"),
        ("a file", each(remove("nab"), put("nab", "mine")), "nab"),
        ("its data folder", "--nab-root nab/data", "nab/data"),
        ("no labels", remove(LABELS), "combined_windows.json"),
        ("labels cut off", cut(LABELS), "combined_windows.json"),
        ("labels of a list", put(LABELS, "[]"), "combined_windows.json"),
        ("labels without the series", put(LABELS, "{}"), "combined_windows.json", NAME),
        ("a label window of one end", windows(["2014-07-01 00:00:00"]), "combined_windows.json"),
        ("a label window of numbers", windows([[1, 2]]), "combined_windows.json"),
        ("a label window that ends before it starts", windows([["2014-07-05", "2014-07-04"]]), "combined_windows.json"),
        ("a label window of another time", windows([["2020-01-01", "2020-01-02"]]), "combined_windows.json"),
        ("no series", remove(FILE), NAME),
        ("an empty series", put(FILE, ""), NAME),
        ("a header alone", put(FILE, "timestamp,value\n"), NAME),
        ("one row", put(FILE, "timestamp,value\n2014-07-01 00:00:00,1\n"), NAME),
        ("two columns of values", change(FILE, lambda c: c.replace(b"value", b"a,b").replace(b"\n", b",1\n")
         .replace(b"a,b,1", b"a,b")), NAME, "a, b"),
        ("rows that run backwards", rows(FILE, lambda r: r[::-1]), NAME, "rows run backwards"),
        ("text in a value", cell(FILE, 99, "value", "high"), NAME, "row 99"),
        ("an infinite value", cell(FILE, 99, "value", "-inf"), NAME, "row 99"),
        ("no value at all", column(FILE, "value", lambda v: ""), NAME),
        ("a timestamp that is none", cell(FILE, 99, "timestamp", "noon"), NAME, "row 99"),
        ("an empty timestamp", cell(FILE, 99, "timestamp", ""), NAME, "row 99"),
        ("one timestamp throughout", column(FILE, "timestamp", lambda v: "2014-07-01 00:00:00"), NAME),
        ("half a file in UTF-16", change(FILE, lambda c: c[:300] + c[300:].decode().encode("utf-16")), NAME),
        ("binary junk", put(FILE, bytes(range(256)) * 9), NAME),
        ("a folder", folder(FILE), NAME),
        ("a series that there is not", "--series nyc_taxis", "did you mean 'nyc_taxi'"),
        ("--series and --all", "--all", "--all"),
        ("--base-url of another kind", "--base-url ftp://x", "--base-url"),
        ("normal rows behind the end", data("NAB.normal_rows", {NAME: [0, 9999]}), f"normal_rows.{NAME}"),
        ("normal rows of one number", data("NAB.normal_rows", {NAME: [3]}), "normal_rows"),
        ("no entry NAB", data("NAB", ...), DATA, "NAB"),
        ("a guard below 0", data("NAB.guard_rows", -1), "NAB: guard_rows"),
        ("a share of 1", data("NAB.normal_share", 1.0), "normal_share"),
        ("an output folder that is a file", put("out", "mine"), "out"),
    ),
    *of(
        "nab_benchmark", "nab_benchmark --nab-root nab --out out --seeds 1",
        ("no such folder", remove("nab"), "nab"),
        ("labels cut off", cut(LABELS), "combined_windows.json"),
        ("labels of a list", put(LABELS, "[]"), "combined_windows.json"),
        ("labels of nothing", put(LABELS, "{}"), "combined_windows.json"),
        ("a label window of numbers", windows([[1, 2]]), "combined_windows.json"),
        ("a label window that ends before it starts", windows([["2014-07-10", "2014-07-09"]]), NAME),
        ("no series", remove(FILE), NAME),
        ("text in a value", cell(FILE, 99, "value", "n/a?"), NAME, "row 99"),
        ("an empty value", cell(FILE, 99, "value", ""), NAME, "row 99"),
        ("a timestamp that is none", cell(FILE, 99, "timestamp", "noon"), NAME, "row 99"),
        ("a series too short", each(windows([]), rows(FILE, lambda r: r[:200])), NAME, "200 rows"),
        ("--seeds 0", "--seeds 0", "--seeds"),
        ("--seeds x", "--seeds x", "--seeds"),
        ("an output folder that is a file", put("out", "mine"), "out"),
    ),
    *of(
        "nab.tsbad", "nab.tsbad --data nab --out out",
        ("no such folder", remove("nab"), "nab"),
        ("a folder without TSB-AD's", nothing, "TSB-AD-U"),
        ("--seed -1", "--seed=-1", "--seed"),
        ("--jobs 0", "--jobs 0", "--jobs"),
        ("no --data's value", "--data", "--data"),
    ),
    *of(
        "nab.vus", "nab.vus --nab-root nab --out out --seeds 1",
        ("no such folder", remove("nab"), "nab"),
        ("a series alone", nothing, "14 series"),
        ("labels of text", put(LABELS, '"x"'), "combined_windows.json"),
        ("--seeds 0", "--seeds 0", "--seeds"),
        ("no --nab-root's value", "--nab-root", "--nab-root"),
    ),
    *of(
        "recordings.simulator", f"recordings.simulator --out new --minutes 10 --train-sessions 1 {NO_MORE}",
        ("--minutes 0", "--minutes 0", "minutes"),
        ("--minutes nan", "--minutes nan", "minutes"),
        ("--minutes inf", "--minutes inf", "minutes"),
        ("--minutes 1e300", "--minutes 1e300", "minutes"),
        ("--minutes ten", "--minutes ten", "--minutes"),
        ("--train-sessions -1", "--train-sessions -1", "sessions"),
        ("no session", "--train-sessions 0", "sessions"),
        ("--seed -1", "--seed -1", "seed"),
        ("more events than there is room for", "--minutes 4 --test-sessions 40", "minutes"),
        ("other sessions in the folder", put("new/session_77.csv", "mine"), "session_77.csv"),
        ("an output folder that is a file", put("new", "mine"), "new"),
        ("an output below a file", "--out config.json/x", "config.json"),
    ),
]


# ---- what a fault leads to ------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a call came to: exit code, lines on stderr but for the log's, and files that it made or changed."""

    code: int | str
    lines: list[str]
    out: str
    touched: list[str]


def tree_of(root: Path) -> dict[str, tuple[int, ...]]:
    """Return what lies below a folder, and of each file what changes whenever it is written."""
    tree = {}
    for place, folders, files in os.walk(root):
        tree |= dict.fromkeys((os.path.relpath(os.path.join(place, name), root) for name in folders), ())
        for name in files:
            path = os.path.join(place, name)
            about = os.lstat(path)
            tree[os.path.relpath(path, root)] = (about.st_ino, about.st_size, about.st_mtime_ns)
    return tree


def outcome_of(one: Fault, project: Path, work: Path) -> Outcome:
    """Make a fault in a copy of the project at `work`, call the script there, and say what came of it."""
    shutil.copytree(project, work)
    one.make(work)
    before = tree_of(work)
    code, err, out = called(one.argv, work)
    after = tree_of(work)
    lines = [line for line in err.splitlines() if not re.match(r"\d\d:\d\d:\d\d (INFO|WARNING) ", line)]
    return Outcome(code, lines, out, sorted(name for name in before | after if before.get(name) != after.get(name)))


def called(argv: Sequence[str], work: Path) -> tuple[int | str, str, str]:
    """Call a script's main in this process, at home in a folder, its stdin the file of that name there.

    Returns: exit code, or the traceback of what was not caught; stderr; stdout.
    """
    with (
        contextlib.chdir(work), Path("stdin").open() as lines, tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
    ):  # fmt: skip
        command = [f"{argv[0]}.py", *argv[1:]]
        try:
            with patch.multiple(sys, stdin=lines, stdout=out, stderr=err, argv=command):
                code: int | str = importlib.import_module(argv[0]).main(command[1:])
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
        for stream in (err, out):
            stream.seek(0)
        return code, err.read(), out.read()


def faults_of(one: Fault, outcome: Outcome) -> list[str]:
    """Return what is wrong with an outcome, in words: nothing, if the fault is refused as it has to be."""
    found = [] if outcome.code == 2 else [f"exit code {outcome.code}"]
    if len(outcome.lines) != 1:
        found.append(f"{len(outcome.lines)} lines: {outcome.lines}")
    found += [f"{word!r} is not in the line" for word in one.says if word not in "".join(outcome.lines)]
    if outcome.out:
        found.append(f"stdout: {outcome.out[:200]}")
    if outcome.touched:
        found.append(f"touched: {', '.join(outcome.touched)}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="faults whose entry point or description holds this")
    word = parser.parse_args(argv).word
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary) / "project"
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            make_project(project)
        chosen = [one for one in FAULTS if word in str(one)]
        print("| entry point | fault | exit code | the line |\n|---|---|---|---|")
        accepted = 0
        for one in chosen:
            outcome = outcome_of(one, project, Path(temporary) / "work")
            shutil.rmtree(Path(temporary) / "work")
            line = " / ".join(outcome.lines).replace("|", "\\|").replace(temporary, "")
            print(f"| {one.entry} | {one.what} | {str(outcome.code).strip().splitlines()[-1]} | {line} |", flush=True)
            if wrong := faults_of(one, outcome):
                accepted += 1
                print(f"{one}: {'; '.join(wrong)}", file=sys.stderr)
    print("\n| entry point | faults |\n|---|---|")
    for entry_point, count in Counter(one.entry for one in chosen).items():
        print(f"| {entry_point} | {count} |")
    print(f"\n{len(chosen) - accepted} of {len(chosen)} faults are refused as they have to be")
    return 1 if accepted else 0


if __name__ == "__main__":
    raise SystemExit(main())
