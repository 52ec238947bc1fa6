"""A day of live detection with a fault every minute, beside the same day without one: memory, events, scores.

    python -m benchmarks.soak --checkpoint experiments/simulated/checkpoint.safetensors --hours 24
    python -m benchmarks.soak --checkpoint F --hours 1 --out /tmp/soak.png

Simulated breathing, made hour by hour of another person, goes through `stream_detect.py` as fast as it takes it.
Most faults put a line between two rows that no recorder would write: it may change nothing. Each eighth one damages the
signal itself: what is found from its first second on may differ until the scores no longer reach back to it. Outside,
no event of the undisturbed stream may be missed and none added. A process's memory is looked at each minute of the
stream and drawn to docs/soak.png. Exit code 1: something was missed or added, memory grew, or the program did not end
with 0.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recordings.simulator import CHANNELS, KINDS, RATE_HZ, session_csv, simulate_session
from utils import ROOT, run_cli

Minute = tuple[int, list[str]]                                       # when it begins in s, and its lines
Fault = Callable[[list[str], int, random.Random], list[str]]
FAULT_S, EVERY = 20, 8                                               # second of the minute; minutes of signal faults
HEADER = ",".join(("t_s", *CHANNELS))
HOURS = (1, 6, 12, 24)                                               # after which memory is reported
GROWTH_MIB = 10.0                                                    # after the first hour; more is a leak
EDGE_S = 60                                                          # clocks set back begin at 0 again: not compared


# ---- faults: what they make of some rows ----------------------------------------------------


def between(line: Callable[[str, random.Random], str]) -> Fault:
    """Return a fault that puts another line before the rows, made from the row before them."""
    return lambda lines, at, draw: [line(lines[at - 1], draw), *lines[at:]]


def on_cells(change: Callable[[list[str], int, random.Random], None], rows: int) -> Fault:
    """Return a fault that changes the cells of some rows; told which row it is."""

    def fault(lines: list[str], at: int, draw: random.Random) -> list[str]:
        table = [line.split(",") for line in lines[at : at + rows]]
        for k, cells in enumerate(table):
            change(cells, k, draw)
        return [*map(",".join, table), *lines[at + rows :]]

    return fault


def _some_missing(cells: list[str], k: int, draw: random.Random) -> None:
    for place in draw.sample(range(1, len(cells)), 3):
        cells[place] = ""


def _not_finite(cells: list[str], k: int, draw: random.Random) -> None:
    cells[1:] = [draw.choice(("nan", "inf", "-inf", "NaN", "1e999", "n/a")) for _ in cells[1:]]


def _huge(cells: list[str], k: int, draw: random.Random) -> None:
    cells[1:] = [draw.choice(("1e300", "-1e300", "1e38", "-1e9")) for _ in cells[1:]]


def _silent(cells: list[str], k: int, draw: random.Random) -> None:
    cells[1] = ""


def _stuck(cells: list[str], k: int, draw: random.Random) -> None:
    cells[1] = "17.3"


def _set_back(cells: list[str], k: int, draw: random.Random) -> None:
    cells[0] = f"{k / RATE_HZ:.2f}"


def _junk(line: str, draw: random.Random) -> str:
    return draw.randbytes(200).replace(b"\n", b"").decode("latin-1")


TRACELESS: dict[str, Fault] = {                                      # lines in between
    "a malformed line": between(lambda line, draw: "#### sensor restarted, battery 43 %"),
    "a torn line": between(lambda line, draw: line[: draw.randrange(1, line.index(",") + 2)]),
    "a row of too many cells": between(lambda line, draw: f"{line},1.0"),
    "a duplicated row": between(lambda line, draw: line),
    "binary junk": between(_junk),
    "a line of 1 MB": between(lambda line, draw: "9" * 1_000_000),
    "a time that is no number": between(lambda line, draw: "nan" + line[line.index(",") :]),
    "the header again": between(lambda line, draw: HEADER),
}
DAMAGING: dict[str, tuple[Fault, float]] = {                         # and how many seconds they last
    "missing cells": (on_cells(_some_missing, RATE_HZ), 1),
    "NaN and infinity as text": (on_cells(_not_finite, RATE_HZ), 1),
    "rows out of order": (lambda lines, at, draw: [*lines[at : at + 5][::-1], *lines[at + 5 :]], 1),
    "a channel silent for 10 s": (on_cells(_silent, 10 * RATE_HZ), 10),
    "no rows for 10 s": (lambda lines, at, draw: lines[at + 10 * RATE_HZ :], 10),
    "a channel stuck for 10 s": (on_cells(_stuck, 10 * RATE_HZ), 10),
    "huge values": (on_cells(_huge, RATE_HZ), 1),
    "the clock set back for 15 s": (on_cells(_set_back, 15 * RATE_HZ), 15),
}


# ---- the signal -----------------------------------------------------------------------------


def minutes_of(hours: float) -> Iterator[Minute]:
    """Yield the recording minute by minute, each hour another person's, with events of every kind."""
    for hour in range(math.ceil(hours)):
        session = simulate_session(1000 + hour, 60, [*KINDS] * 2)
        frame = session.frame.assign(t_s=session.frame["t_s"] + 3600 * hour)
        starts = np.searchsorted(frame["t_s"], 3600 * hour + 60 * np.arange(61))
        lines = session_csv(frame).splitlines()[1:]
        for minute in range(min(60, round(60 * (hours - hour)))):
            yield 3600 * hour + 60 * minute, lines[starts[minute] : starts[minute + 1]]


@dataclass(frozen=True)
class Faulted:
    """A fault that was made: its name, and from when to when in s it touches the signal; none: start = end."""

    name: str
    start_s: float
    end_s: float


def disturbed(minutes: Iterator[Minute], made: list[Faulted], seed: int = 0) -> Iterator[Minute]:
    """Yield the minutes with a fault in each, noted in `made`."""
    draw, traceless, damaging = random.Random(seed), itertools.cycle(TRACELESS), itertools.cycle(DAMAGING)
    for k, (start_s, lines) in enumerate(minutes):
        if k % EVERY == EVERY // 2:
            name = next(damaging)
            fault, lasts_s = DAMAGING[name]
        else:                                                        # a kind waits, lest the same one is never due
            name = next(traceless)
            fault, lasts_s = TRACELESS[name], 0.0
        at = FAULT_S * RATE_HZ
        begins_s = float(lines[at].split(",", 1)[0])
        made.append(Faulted(name, begins_s, begins_s + 1.1 * lasts_s))      # rows that never arrived make it longer
        yield start_s, [*lines[:at], *fault(lines, at, draw)]


# ---- the program ----------------------------------------------------------------------------


def run(checkpoint: Path, minutes: Iterator[Minute], out: Path) -> tuple[int, list[tuple[float, float]], float]:
    """Send a recording through the program; return its exit code, (hour, MiB in use) by minute, lines a second."""
    command = [sys.executable, str(ROOT / "stream_detect.py"), "--checkpoint", str(checkpoint), "--out", str(out)]
    memory, sent, waited_s = [], 0, 0.0
    with out.with_suffix(".err").open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)
        process.stdin.write(f"{HEADER}\n".encode())
        for start_s, lines in minutes:
            data = "\n".join([*lines, ""]).encode("latin-1")
            began = time.perf_counter()
            try:
                process.stdin.write(data)
            except BrokenPipeError:                                  # it ended; its exit code says so
                break
            waited_s += time.perf_counter() - began
            sent += len(lines)
            memory.append(((start_s + 60) / 3600, memory_mib(process.pid)))
        began = time.perf_counter()
        code = process.communicate()[0] or process.returncode
    return code, memory, sent / (waited_s + time.perf_counter() - began)


def memory_mib(process: int) -> float:
    """Return a process's resident memory in MiB (Linux)."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 2**20


# ---- what came out --------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a stream wrote: its events (start_s, end_s, found_by, channel), and the score of each step by its time."""

    events: list[tuple[float, float, str, str]]
    scores: dict[float, float]


def read_output(path: Path) -> Found:
    events, scores = [], {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "event_end":
                events.append((float(row["start_s"]), float(row["end_s"]), row["found_by"], row["channel"]))
            elif row["kind"] == "step":
                scores[round(float(row["t_s"]), 2)] = float(row["score"] or "nan")
    return Found(events, scores)


def reach_s(checkpoint: Path) -> float:
    """Return how far back in s a score looks: warm-up, and the longest chain of the spans that it is made from."""
    from detection.checkpoint import load_calibrated

    _, detector = load_calibrated(checkpoint, "cpu")
    spans = detector.spans
    steps = spans.warm_up + spans.settle + spans.amplitude + spans.expected + spans.baseline
    return steps / detector.rate_hz + detector.config.events.merge_gap_s


def touched_spans(made: Sequence[Faulted], reach: float) -> np.ndarray:
    """Return the spans (k, 2) in s in which faults may show, in time order."""
    spans = [(fault.start_s, fault.end_s + reach) for fault in made if fault.end_s > fault.start_s]
    return np.array([(0.0, EDGE_S), *spans])


def is_outside(spans: np.ndarray, start_s: float, end_s: float) -> bool:
    return not ((spans[:, 0] <= end_s) & (start_s <= spans[:, 1])).any()


def unmatched(events: Sequence[tuple], others: Sequence[tuple]) -> list[tuple]:
    """Return the events that no other one overlaps that was found in the same way."""
    return [e for e in events if not any(o[2] == e[2] and o[0] <= e[1] and e[0] <= o[1] for o in others)]


def compare(plain: Found, faulty: Found, made: Sequence[Faulted], reach: float) -> tuple[list[str], bool]:
    """Return what is to be said of both streams, and whether nothing was missed or added."""
    spans = touched_spans(made, reach)
    compared = {name: [e for e in found.events if is_outside(spans, *e[:2])] for name, found in
                (("plain", plain), ("faulty", faulty))}
    missed, added = unmatched(compared["plain"], faulty.events), unmatched(compared["faulty"], plain.events)
    t = np.array(sorted(plain.scores))
    inside = np.zeros(len(t), bool)
    for start_s, end_s in spans:
        inside[np.searchsorted(t, start_s) : np.searchsorted(t, end_s)] = True
    outside = t[~inside].tolist()
    lost = sum(one not in faulty.scores for one in outside)
    pairs = np.array([(plain.scores[one], faulty.scores[one]) for one in outside if one in faulty.scores])
    unlike = int((np.isnan(pairs[:, 0]) != np.isnan(pairs[:, 1])).sum())
    apart = float(np.nanmax(np.abs(np.diff(pairs, axis=1)), initial=0.0))
    by = [sum(e[2] == how for e in compared["plain"]) for how in ("lstm", "signal_loss")]
    lines = [
        f"{len(made)} faults of {len({fault.name for fault in made})} kinds, {len(spans) - 1} of them damaging; "
        f"{reach:.0f} s after one may differ",
        f"{len(outside) / len(t):.1%} of {len(t)} steps lie outside: {lost} lost, {unlike} with a score in one stream "
        f"alone, largest difference of scores {apart:.2g}",
        f"{sum(by)} of {len(plain.events)} undisturbed events lie outside ({by[0]} by the LSTM, {by[1]} by the mask): "
        f"{len(missed)} missed, {len(added)} added",
        *(f"missed: {event}" for event in missed),
        *(f"added: {event}" for event in added),
    ]
    return lines, not (missed or added or lost)


def draw(memory: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw memory over the time of the stream."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, points in memory.items():
        axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="time of the stream, h", ylabel="memory in use, MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="F")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "soak.png", metavar="FILE")
    args = parser.parse_args(argv)
    made: list[Faulted] = []
    memory, well = {}, True
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        for stream in ("undisturbed", "a fault every minute"):
            minutes, out = minutes_of(args.hours), folder / f"{len(found)}.csv"
            minutes = disturbed(minutes, made) if found else minutes
            code, memory[stream], speed = run(args.checkpoint, minutes, out)
            said = out.with_suffix(".err").read_text(errors="replace").splitlines()
            print(f"{stream}: exit code {code}, {speed:.0f} lines a second, {len(said)} warnings", flush=True)
            after = [f"{mib:.1f} after {hour:g} h" for hour, mib in memory[stream] if hour in HOURS]
            print(f"{stream}: MiB in use: {', '.join(after) or 'not for an hour'}", flush=True)
            steady = [mib for hour, mib in memory[stream] if hour >= 1] or [0.0]
            well &= max(steady) - steady[0] < GROWTH_MIB
            if code or any("Traceback" in line for line in said):
                print("\n".join(said[-5:]))
                return 1
            found[stream] = read_output(out)
    lines, alike = compare(*found.values(), made, reach_s(args.checkpoint))
    print("\n".join(lines))
    draw(memory, args.out)
    return 0 if well and alike else 1


if __name__ == "__main__":
    raise SystemExit(run_cli(main))
