"""How fast and how small live detection is, and whether it survives being killed: hours of simulated breathing.

    python -m benchmarks.bench_stream --checkpoint experiments/simulated/checkpoint.safetensors --hours 8 --kills 3

Lines of text at 25 Hz go through everything that `stream_detect.py` does with them, output included, as fast as it can.
Printed: lines a second, quantiles of the time that a line takes, memory in use after each hour. Then the program itself
runs over the same lines, undisturbed, and again with --state, killed at random moments and started anew on the same
input: both outputs have to be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from live.rows import InputWarnings
from live.stream import Output, new_stream
from recordings.simulator import session_csv, simulate_session
from utils import ROOT

RATE_HZ = 25
KINDS = ("central_apnea", "obstructive_apnea", "hypopnea", "cough", "motion", "sensor_dropout")


def memory_mib() -> float:
    """Return this process's resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def measure(checkpoint: Path, lines: list[str], out: Path) -> None:
    """Time each line; print lines a second, quantiles, and the memory after each hour."""
    torch.set_num_threads(1)
    stream = new_stream(checkpoint, "cpu", InputWarnings())
    output = Output(out, False, stream.rows, 0)
    output.begin()
    seconds, memory, began = np.empty(len(lines)), [], time.perf_counter()
    for k, line in enumerate(lines):
        start = time.perf_counter()
        for found in stream.take([line]):
            if found:
                output.write(found)
        seconds[k] = time.perf_counter() - start
        if (k + 1) % (3600 * RATE_HZ) == 0:
            memory.append(memory_mib())
    total = time.perf_counter() - began
    output.write(stream.finish())
    output.close()
    stepping = seconds[seconds > 5 * np.median(seconds)]
    p50, p99, p999 = 1e3 * np.quantile(seconds, [0.5, 0.99, 0.999])
    print(f"{len(lines)} lines, {len(lines) / total:.0f} a second, {len(lines) / RATE_HZ / total:.0f} times live speed")
    print(f"a line takes {p50:.3f} ms (median), {p99:.3f} ms (99 %), {p999:.3f} ms (99.9 %)")
    print(f"a line that completes a step: {1e3 * np.median(stepping):.3f} ms (median of {len(stepping)})")
    print("MiB in use after each hour: " + ", ".join(f"{mib:.1f}" for mib in memory))


def run_killed(checkpoint: Path, source: Path, folder: Path, kills: int, seconds: float) -> tuple[Path, int]:
    """Run the program with --state, killed at random moments; return its output and how often it really was."""
    out, state, done, draw = folder / "killed.csv", folder / "state", 0, random.Random(0)
    for _ in range(kills):
        process = start(checkpoint, source, out, "--state", str(state))
        try:
            process.wait(draw.uniform(0.2, 0.9) * seconds / kills)
        except subprocess.TimeoutExpired:
            process.kill()
            done += process.wait() != 0
            print(f"killed when {out.stat().st_size if out.exists() else 0} bytes were written", flush=True)
    start(checkpoint, source, out, "--state", str(state)).wait()
    return out, done


def start(checkpoint: Path, source: Path, out: Path, *more: str) -> subprocess.Popen:
    """Start stream_detect.py on a file as its stdin."""
    command = [sys.executable, str(ROOT / "stream_detect.py"), "--checkpoint", str(checkpoint), "--out", str(out)]
    with source.open("rb") as lines:
        return subprocess.Popen([*command, *more], stdin=lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="F")
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--kills", type=int, default=3)
    args = parser.parse_args()
    text = session_csv(simulate_session(0, 60 * args.hours, KINDS * max(int(args.hours), 1)).frame)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure(args.checkpoint, text.splitlines(), folder / "measured.csv")
        if args.kills:
            source = folder / "lines.csv"
            source.write_text(text)
            began = time.perf_counter()
            start(args.checkpoint, source, folder / "whole.csv").wait()
            seconds = time.perf_counter() - began
            out, killed = run_killed(args.checkpoint, source, folder, args.kills, seconds)
            same = [(folder / one).read_bytes() == out.read_bytes() for one in ("whole.csv", "measured.csv")]
            print(f"killed {killed} times; output as if undisturbed: {all(same)} ({out.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
