"""What every measurement shares: a row of the table, repeated timing, peak memory, the frame of a part.

A figure stands beside a peer or a floor that was measured in the same repeat, a second earlier or later: on a
machine with other work on it, the ratio means more than either number.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from utils import ROOT, DataError

Target = tuple[str, str, float]                                      # ("value" or "ratio", "<" or ">=", bound)


def ready(folder: Path, packages: Sequence[str]) -> Path:
    """Return the Python of a peer's virtual environment; make it first if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {' '.join(packages)} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        quiet = ["--quiet", "--disable-pip-version-check"]
        done = subprocess.run([python, "-m", "pip", "install", *quiet, *packages], stdout=sys.stderr)
        if done.returncode:
            raise DataError(f"{folder}: pip could not install {' '.join(packages)}")
    return python


@dataclass(frozen=True)
class Row:
    """One figure over the repeats, and that of the peer or floor beside it, if there is one."""

    part: str
    what: str
    unit: str
    values: list[float]
    against: str = ""
    others: list[float] = field(default_factory=list)
    target: Target | None = None
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def other(self) -> float | None:
        return statistics.median(self.others) if self.others else None

    @property
    def ratio(self) -> float | None:
        """Median of value / other, each pair from one repeat."""
        if not self.others:
            return None
        return statistics.median(v / o for v, o in zip(self.values, self.others, strict=True))

    @property
    def spread(self) -> float:
        """Largest less smallest value, as a share of the median."""
        return (max(self.values) - min(self.values)) / self.value if self.value else 0.0

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        of, relation, bound = self.target
        found = self.ratio if of == "ratio" else self.value
        return found >= bound if relation == ">=" else found < bound

    def as_json(self) -> dict[str, Any]:
        derived = ("value", "other", "ratio", "spread", "met")
        return asdict(self) | {name: getattr(self, name) for name in derived}


@dataclass(frozen=True)
class Options:
    """What a part is asked for."""

    quick: bool
    repeats: int
    threads: int
    peer_venv: Path | None = None


def seconds_of(job: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long a job takes."""
    began = clock()
    job()
    return clock() - began


def paired(jobs: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Call each job once a repeat, one after the other; return the figures of each job."""
    figures = [[job() for job in jobs] for _ in range(repeats)]
    return [list(column) for column in zip(*figures, strict=True)]


def own_peak_mb() -> float:
    """Return the most memory this process has had, in MB (Linux).

    Not from getrusage: a process that was just started counts its parent's memory there.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def child(arguments: Sequence[object], threads: int, check: bool = True, **more: str) -> subprocess.CompletedProcess:
    """Run Python with some arguments in the repository's root; return what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)} | more
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def last_json(text: str) -> Any:
    """Return the JSON in the last line of what a child printed."""
    return json.loads(text.strip().splitlines()[-1])


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return the command line that all parts share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: says that it works, not how fast")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="of matrix products")
    parser.add_argument("--peer-venv", type=Path, metavar="DIR", help="virtual environment of the peer; made if absent")
    return parser


def run_part(rows_of: Callable[[Options], list[Row]], description: str | None) -> int:
    """Be a part's script: measure, and print the rows as one line of JSON."""
    args = parser_of(description).parse_args()
    rows = rows_of(Options(args.quick, args.repeats, args.threads, args.peer_venv))
    print(json.dumps([asdict(row) for row in rows]))
    return 0
