"""A thousand short nights scored on two workers, one of which is killed, and the command interrupted: nothing is lost.

    python -m benchmarks.cohort --nights 1000 --out /tmp/cohort

The nights are simulated (flow alone, six minutes each, with an apnea and a hypopnea), one of them is a broken file. A
third of the way a worker is killed, at two thirds the command gets Ctrl-C and is started again. Memory is the largest
resident set of the command and of its workers, in the first tenth of the nights and over all.
"""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from recordings.simulator import session_csv, simulate_session
from reports.tables import markdown
from utils import ROOT, ArgumentParser, run_cli

MODEL = ROOT / "models" / "cpap_flow.safetensors"
BROKEN, SAID = "night_broken", "stderr.txt"
KINDS = ("central_apnea", "hypopnea")


def simulate(folder: Path, nights: int) -> None:
    """Write the nights that are missing, with their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(nights):
        path = folder / f"night_{seed:04d}.csv"
        if not path.is_file():
            session = simulate_session(100_000 + seed, 6.0, KINDS)
            session.events.to_csv(folder / f"night_{seed:04d}.events.csv", index=False)
            path.write_text(session_csv(session.frame[["t_s", "flow_lpm"]]))
    (folder / f"{BROKEN}.csv").write_text("t_s,flow_lpm\n0,1\n0.04,1\n0.02,1\n")


def start(nights: Path, out: Path, jobs: int) -> subprocess.Popen:
    """Start the command; what it says goes to a file, which never blocks it."""
    command = [sys.executable, "pure_lstm_anomaly_detection_main.py", "--checkpoint", str(MODEL), "--score",
               str(nights), "--jobs", str(jobs), "--out", str(out)]  # fmt: skip
    with (nights.parent / SAID).open("w") as said:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)


def last_lines(process: subprocess.Popen, out: Path, count: int) -> list[str]:
    """Wait for the command; return the last lines of what it said."""
    process.wait()
    return (out / SAID).read_text().strip().splitlines()[-count:]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table that is growing; none before it is there."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def watch(process: subprocess.Popen, out: Path, until: int, memory: Callable[[int, list[float]], None]) -> bool:
    """Note the memory of the processes until so many nights are there; return whether the command is still running."""
    while process.poll() is None:
        done = len(rows_of(out / "nights.csv"))
        if done >= until:
            return True
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        sizes = []
        for member in family:
            try:
                sizes.append(member.memory_info().rss / 2**20)
            except psutil.NoSuchProcess:
                sizes.append(0.0)
        memory(done, sizes)
        time.sleep(0.5)
    return False


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the largest two descendants: the workers, as they have torch and a model in memory."""
    children = psutil.Process(process.pid).children(recursive=True)
    return sorted(children, key=lambda one: -one.memory_info().rss)[:2]


def measure(nights: int, jobs: int, out: Path) -> str:
    """Score the nights with a killed worker and a Ctrl-C; return what that gave, a table in Markdown."""
    data, root = out / "nights", out / "scored"
    simulate(data, nights)
    peaks = {"command, first tenth": 0.0, "command": 0.0, "a worker, first tenth": 0.0, "a worker": 0.0}

    def memory(done: int, sizes: Sequence[float]) -> None:
        for who, size in (("command", sizes[0]), ("a worker", max(sizes[1:], default=0.0))):
            peaks[who] = max(peaks[who], size)
            if done <= nights // 10:
                peaks[f"{who}, first tenth"] = max(peaks[f"{who}, first tenth"], size)

    began, process = time.monotonic(), start(data, root, jobs)
    if watch(process, root, nights // 3, memory):
        workers_of(process)[0].kill()
    if watch(process, root, 2 * nights // 3, memory):
        process.send_signal(signal.SIGINT)
    interrupted = last_lines(process, out, 2)
    before = {path: path.stat().st_mtime_ns for path in root.glob("nights/*/report.html")}
    process = start(data, root, jobs)
    watch(process, root, sys.maxsize, memory)
    [last], seconds = last_lines(process, out, 1), time.monotonic() - began
    rows, failed = rows_of(root / "nights.csv"), rows_of(root / "failed.csv")
    counts = Counter(row["recording"] for row in rows)
    done_twice = sum(path.stat().st_mtime_ns != stamp for path, stamp in before.items())
    facts = {
        "nights in nights.csv, all different": f"{len(rows)}, {len(counts) == len(rows) == nights}",
        "failed": ", ".join(row["recording"] for row in failed),
        "finished before Ctrl-C": len(before),
        "of these scored again": done_twice,
        "seconds in all": f"{seconds:.0f}",
        "nights a minute": f"{60 * nights / seconds:.0f}",
        **{f"memory of {who}, MB": f"{size:.0f}" for who, size in peaks.items()},
        "after Ctrl-C": "; ".join(interrupted),
        "at the end": f"exit code {process.returncode}; {last}",
    }
    return markdown([["", ""], *([name, str(value)] for name, value in facts.items())])


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--nights", type=int, default=1000, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="workers (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)     # also where a shell started this in the background
    return run_cli(lambda: print(measure(args.nights, args.jobs, args.out)) or 0)


if __name__ == "__main__":
    raise SystemExit(main())
