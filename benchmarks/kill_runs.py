"""Kill each job at random moments, do it again as a user would, and compare with one left alone.

    python -m benchmarks.kill_runs --moments 30 --seed 0                 # every job, about half an hour
    python -m benchmarks.kill_runs --only train grid --moments 5 --workers 2 --halving

SIGKILL and Ctrl-C take turns. Every sixth moment falls into the imports, the others into the work: they are spread
over the time from the first file to the end of the job left alone. After a kill every file under its final name has to
be whole; after the job was done again all of them have to say what those of the one left alone say (tables, weights,
scores, metrics; not times, commands and logs), and nothing half-written may be left. "Bytes lost" are those of files
that are then missing or say something else; what was half-written when the kill came, under a temporary name, had
nothing that is not made again. Ctrl-C is untidy if it does not end with one line and code 130, as it may while Python
starts, and now and then during an import: a library that is interrupted half-way may raise any error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks.small_data import make_small
from detection.checkpoint import read_tensors
from recordings import nab_files
from reports.tables import markdown
from utils import ROOT

SHORT = {
    "training.epochs": 6, "training.updates_per_epoch": 5, "training.batch_size": 8, "training.plot_every": 2,
    "model.num_layers": 1, "model.hidden_units": 8,
}  # fmt: skip
GRID = {"training.learning_rate": [0.001, 0.003], "model.hidden_units": [8, 16]}
NAB_SERIES = ("nyc_taxi", "rogue_agent_key_hold")
NAB_ROWS = 6000
NAB_ENTRY = {
    "description": "made for a measurement", "val_fraction": 0.3, "normal_share": 0.6, "guard_rows": 48,
    "gap_rows": 100, "window_rows": 64,
}  # fmt: skip
NOT_COMPARED = ("log.txt", "run.json", "report.html", "training.png")        # all of them say how long it took
VOLATILE = ("seconds", "command")
TITLES = ("job", "kills", "in the middle of work", "resumed", "started over", "identical", "bytes half-written",
          "bytes lost", "left behind", "Ctrl-C untidy")  # fmt: skip

Command = list[str]


@dataclass(frozen=True)
class Job:
    """A script at work in a folder of its own."""

    name: str
    first: Callable[[Path], Command]                             # its command line, new
    again: Callable[[Path], Command | None]                      # and after a kill; None = nothing was missing
    keeps: str = ""                                              # pattern of files from which it can resume
    template: Path | None = None                                 # what the folder holds before
    stdin: Path | None = None
    grows: str = ""                                              # a file that may end in the middle of a line
    not_compared: Sequence[str] = NOT_COMPARED


def jobs_of(root: Path, workers: int, halving: bool, minutes: int = 10) -> list[Job]:
    """Make sessions of so many minutes and a trained model below a folder; return what is to be killed."""
    datasets, nab, config = make_small(root, minutes), make_nab(root / "nab"), root / "dataset_config.json"
    settings = [text for key, value in SHORT.items() for text in ("--set", f"{key}={value}")]
    main = ["pure_lstm_anomaly_detection_main.py", "--datasets", str(datasets)]
    train = [*main, "--device", "cpu", *settings]
    model = root / "model"
    subprocess.run([sys.executable, *train, "--out", str(model)], cwd=ROOT, check=True, capture_output=True)
    checkpoint = str(model / "checkpoint.safetensors")
    lines = root / "lines.csv"
    lines.write_text("\n".join((root / "raw" / "session_05.csv").read_text().splitlines()[:6000]) + "\n")
    grid = ["grid_search.py", "--datasets", str(datasets), "--jobs", str(workers)]
    new_grid = [*grid, "--seeds", "1", "--device", "cpu", *settings, "--set", f"grid={json.dumps(GRID)}"]
    new_grid += ["--halving"] * halving

    def same(*command: str) -> dict[str, Callable[[Path], Command]]:
        return dict.fromkeys(("first", "again"), lambda out: [*command, str(out)])

    def score(out: Path) -> Command:
        sessions = [str(root / "raw" / f"session_0{k}.csv") for k in (5, 6)]
        return [*main[:1], "--device", "cpu", "--checkpoint", checkpoint, "--score", *sessions, "--out", str(out)]

    def stream(out: Path) -> Command:
        files = ["--state", str(out / "night.state"), "--out", str(out / "night.csv")]
        return ["stream_detect.py", "--checkpoint", checkpoint, *files]

    def export(out: Path) -> Command:
        return ["export_model.py", "--checkpoint", checkpoint, "--force", "--out", str(out)]

    def go_on(new: Command, same: Command, plan: str) -> dict[str, Callable[[Path], Command]]:
        return {
            "first": lambda out: [*new, "--out", str(out)],
            "again": lambda out: [*same, "--resume", str(out)] if (out / plan).exists() else [*new, "--out", str(out)],
        }

    with_config = ["--dataset-config", str(config), "--out"]
    return [
        Job("preprocess", **same("collected_data_preprocess.py", "--force", *with_config)),
        Job("NAB preprocess", **same("data_preprocess_NAB.py", "--nab-root", str(nab), "--series", *NAB_SERIES,
                                     "--dataset-config", str(nab / "dataset_config.json"), "--out"),
            keeps="*/meta.json"),
        Job("simulate", **same("-m", "recordings.simulator", "--minutes", "10", "--train-sessions", "2",
                               "--calibration-sessions", "1", "--test-sessions", "1", "--out")),
        Job("train", **go_on(train, [*main, "--device", "cpu"], "config.json"), keeps="checkpoint.safetensors"),
        Job("score", score, lambda out: None if (out / "report.html").exists() else score(out)),
        Job("report", **same("-m", "reports.page"), template=model, not_compared=()),
        Job("grid", **go_on(new_grid, grid, "grid.json"), keeps="runs/*/checkpoint.safetensors"),
        Job("stream", stream, stream, keeps="night.state", stdin=lines, grows="night.csv"),
        Job("export", export, export),
    ]  # fmt: skip


def make_nab(root: Path) -> Path:
    """Write a copy of NAB that has two series, days of a wave with a raised stretch; return its folder."""
    labels, row = {}, np.arange(NAB_ROWS)
    for seed, name in enumerate(NAB_SERIES):
        values = 20 + 5 * np.sin(row / 12) + 0.3 * np.random.default_rng(seed).normal(size=NAB_ROWS)
        values[5000:5060] += 8
        times = pd.Series(pd.date_range("2014-04-01", periods=NAB_ROWS, freq="600s")).dt.strftime("%Y-%m-%d %H:%M:%S")
        path = nab_files.series_names()[name]
        (root / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"timestamp": times, "value": values.round(4)}).to_csv(root / "data" / path, index=False)
        labels[path] = [[times[5000], times[5060]]]
    (root / "labels").mkdir()
    (root / nab_files.LABELS).write_text(json.dumps(labels))
    (root / "dataset_config.json").write_text(json.dumps({"NAB": NAB_ENTRY}))
    return root


# ---- files ----------------------------------------------------------------------------------


def files_of(out: Path) -> Iterator[Path]:
    """Yield the files under their final names."""
    return (path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.startswith("."))


def content_of(path: Path) -> Any:
    """Return what a file says, but for times and commands.

    Raises: an error of any kind if it is not whole.
    """
    data = path.read_bytes()
    if path.suffix in (".safetensors", ".state"):
        return plain(read_tensors(path))
    if path.suffix == ".json":
        return plain(json.loads(data))
    if path.suffix == ".jsonl":
        return sorted(json.dumps(plain(json.loads(line))) for line in data.splitlines(keepends=True)
                      if line.endswith(b"\n"))  # fmt: skip
    if path.suffix == ".html":
        return re.sub(rb'"made": "[^"]*"', b"", data)            # of a viewer: when the run was finished
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None, path
    if path.suffix == ".png":
        Image.open(path).load()
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str)
        assert data.endswith(b"\n") and len(table.columns) > 1, path
        return table.drop(columns=[name for name in table if name.startswith("seconds")]).to_csv()
    if path.suffix == ".html":
        assert data.rstrip().endswith(b"</html>"), path
    if path.suffix == ".onnx":
        import onnx

        onnx.checker.check_model(onnx.load_from_string(data))
    return data


def plain(value: Any) -> Any:
    """Return nested values that can be compared, without times and commands."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key not in VOLATILE}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and math.isnan(value):
        return "nan"                                             # as it is equal to nothing
    return (str(value.dtype), value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value


def results_of(out: Path, but: Sequence[str]) -> dict[str, Any]:
    return {str(path.relative_to(out)): content_of(path) for path in files_of(out) if path.name not in but}


def half_written(out: Path) -> tuple[int, int]:
    """Return how many files are under temporary names, and their bytes; a lock whose process is dead holds nothing."""
    sizes = [path.stat().st_size for path in out.rglob(".*.tmp")]
    return len(sizes), sum(sizes)


# ---- one job --------------------------------------------------------------------------------


def start(job: Job, command: Command) -> subprocess.Popen:
    with job.stdin.open("rb") if job.stdin else open(os.devnull, "rb") as lines:
        pipes = {"stdin": lines, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes
        )


def new_folder(job: Job, out: Path) -> set[Path]:
    """Make the folder as it is before the job, if it has to be there; return what it holds."""
    if job.template:
        shutil.copytree(job.template, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if job.stdin:
        out.mkdir()
    return set(out.rglob("*"))


def wait_for_work(process: subprocess.Popen, out: Path, before: set[Path]) -> None:
    while process.poll() is None and set(out.rglob("*")) == before:
        time.sleep(0.002)


@dataclass
class Tally:
    """What became of a job's kills."""

    kills: int = 0
    in_work: int = 0
    resumed: int = 0
    over: int = 0
    identical: int = 0
    half_written: int = 0
    bytes_lost: int = 0
    left: int = 0
    untidy: int = 0


def kill_one(job: Job, out: Path, number: int, wait_s: float, is_early: bool, tally: Tally) -> tuple[bool, bool]:
    """Start a job and kill it; return whether it was still running, and whether it had begun its work."""
    before = new_folder(job, out)
    process = start(job, job.first(out))
    if not is_early:
        wait_for_work(process, out, before)
    time.sleep(wait_s)
    has_begun = not is_early or set(out.rglob("*")) != before
    process.send_signal(number)
    err = process.communicate()[1].decode()
    tidy = process.returncode in (0, 130, -signal.SIGINT) and "Traceback" not in err     # a shell shows -2 as 130, too
    if number == signal.SIGINT and not tidy:
        tally.untidy += 1
        print(f"{job.name}: Ctrl-C ended with code {process.returncode}: {err[-400:]}", flush=True)
    return process.returncode != 0, has_begun


def kill_job(job: Job, root: Path, moments: int, chance: random.Random) -> Tally:
    """Kill a job at so many moments and do it again each time."""
    whole, tally = root / "whole", Tally()
    began, before = time.monotonic(), new_folder(job, whole)
    process = start(job, job.first(whole))
    wait_for_work(process, whole, before)
    first_s = time.monotonic() - began
    err = process.communicate()[1].decode()
    assert process.returncode == 0, err
    work_s = time.monotonic() - began - first_s
    expected = results_of(whole, job.not_compared)
    sizes = {name: (whole / name).stat().st_size for name in expected}
    print(f"{job.name}: first file after {first_s:.2f} s, {work_s:.2f} s of work, {len(expected)} files", flush=True)
    while tally.kills < moments:
        k, out = tally.kills, root / "killed"
        is_early, place = k % 6 == 5, (k + chance.random()) / moments
        number = (signal.SIGKILL, signal.SIGINT)[(k + k // 6) % 2]           # both kinds fall into imports, too
        wait_s = place * (first_s if is_early else work_s)
        was_running, has_begun = kill_one(job, out, number, wait_s, is_early, tally)
        if was_running:
            tally.kills += 1
            tally.in_work += has_begun
            different = settle(job, out, expected, tally)
            tally.bytes_lost += sum(sizes.get(name, 0) for name in different)
        else:
            work_s, first_s = 0.9 * work_s, 0.9 * first_s        # quicker than the one left alone: other load by now
        shutil.rmtree(out, ignore_errors=True)
    return tally


def settle(job: Job, out: Path, expected: dict[str, Any], tally: Tally) -> list[str]:
    """Check the files that a kill left, do the job again, and count; return the files that are not as expected."""
    for path in files_of(out):
        if path.name != job.grows:
            content_of(path)
    tally.half_written += half_written(out)[1]
    goes_on = bool(job.keeps) and any(out.glob(job.keeps))
    command = job.again(out)
    if command is not None:
        tally.resumed += goes_on
        tally.over += not goes_on
        if job.stdin:
            out.mkdir(exist_ok=True)
        process = start(job, command)
        err = process.communicate()[1].decode()
        assert process.returncode == 0, (job.name, command, err)
        tally.left += half_written(out)[0]
    got = results_of(out, job.not_compared)
    different = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
    tally.identical += not different
    if different:
        print(f"{job.name}: not identical: {', '.join(different)}", flush=True)
    return different


def table(tallies: dict[str, Tally]) -> str:
    rows = ([name, *(f"{number:,}" for number in vars(tally).values())] for name, tally in tallies.items())
    return markdown([list(TITLES), *rows])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=30, metavar="N", help="kills of each job")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="+", metavar="JOB", help="of the table's first column")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="grid_search.py --jobs N")
    parser.add_argument("--halving", action="store_true", help="grid_search.py --halving")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)     # also where a shell started this in the background
    tallies = {}
    with tempfile.TemporaryDirectory() as folder:
        for job in jobs_of(Path(folder), args.workers, args.halving):
            if not args.only or job.name in args.only:
                chance = random.Random(f"{args.seed} {job.name}")
                tallies[job.name] = kill_job(job, Path(folder) / "jobs" / job.name, args.moments, chance)
                print(table({job.name: tallies[job.name]}).splitlines()[-1], flush=True)
    print(table(tallies))
    good = all(tally.identical == tally.kills and not tally.left for tally in tallies.values())
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
