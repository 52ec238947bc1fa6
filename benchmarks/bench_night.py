"""How long `--score` of a night takes, from the start of the process to its end, the page and the pictures included.

    python -m benchmarks.bench_night --checkpoint experiments/simulated/checkpoint.safetensors --hours 8

A simulated night of six channels. Beside the clock, which depends on what else runs: processor seconds of the process
and of those that it starts, also as multiples of those that `import torch` alone takes in the same repeat.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import child
from recordings.simulator import session_csv, simulate_session

KINDS = ("central_apnea", "obstructive_apnea", "hypopnea", "cough", "motion", "sensor_dropout")


def timed(arguments: list[object], threads: int) -> tuple[float, float]:
    """Run Python with some arguments; return the seconds of the clock and of the processor."""
    began, before = time.perf_counter(), os.times()
    child(arguments, threads)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="F")
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="of matrix products")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        night, out = Path(name) / "night.csv", Path(name) / "run"
        night.write_text(session_csv(simulate_session(0, 60 * args.hours, KINDS * max(int(args.hours), 1)).frame))
        script = ["pure_lstm_anomaly_detection_main.py", "--checkpoint", args.checkpoint.resolve(), "--out", out]
        wall, used, torch_alone = [], [], []
        for _ in range(args.repeats):
            torch_alone.append(timed(["-c", "import torch"], args.threads)[1])
            for figures, figure in zip((wall, used), timed([*script, "--score", night], args.threads), strict=True):
                figures.append(figure)
            shutil.rmtree(out)
    ratio = statistics.median(a / b for a, b in zip(used, torch_alone, strict=True))
    print(f"{args.hours:g} h: {statistics.median(wall):.1f} s of the clock, {statistics.median(used):.1f} s of CPU")
    print(f"CPU by that of `import torch` ({statistics.median(torch_alone):.2f} s): {ratio:.1f}")


if __name__ == "__main__":
    main()
