"""Speed and memory of the project beside a peer and the machine's own limits: one table, one JSON file.

    python -m benchmarks.run --quick                         # minutes; says that everything works
    python -m benchmarks.run --json benchmarks/results.json  # the sizes of the targets
    python -m benchmarks.run --only training start --threads 1

Each part runs in a process of its own. The ratio is the median over the repeats of our figure by the other
measured in the same repeat; the spread is that of our figure, largest less smallest by the median.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Row, child, last_json, parser_of
from reports.tables import markdown
from utils import git_commit, run_cli, versions, write_json

PARTS = ("preprocessing", "training", "to_loss", "scoring", "memory", "workflow", "start", "peer")
RELATIONS = {">=": "at least", "<": "under"}


def measure_part(name: str, arguments: Sequence[str], threads: int) -> list[Row]:
    """Run one part in its own process; return its rows."""
    print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
    began = time.perf_counter()
    done = child(["-m", f"benchmarks.bench_{name}", *arguments], threads)
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return [Row(**row) for row in last_json(done.stdout)]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [["", "figure", "unit", "spread", "beside", "its figure", "ratio", "target"]]
    for row in rows:
        cells = [row.what, number(row.value), row.unit, f"{row.spread:.0%}", row.against, number(row.other)]
        lines.append([*cells, number(row.ratio), target(row)])
    return markdown(lines)


def target(row: Row) -> str:
    """Return a row's target in words and whether it is met."""
    if row.target is None:
        return ""
    of, relation, bound = row.target
    words = f"{'ratio ' * (of == 'ratio')}{RELATIONS[relation]} {number(bound)}"
    return f"{words}: {'met' if row.met else '**missed**'}"


def number(value: float | None) -> str:
    """Return a figure with three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every repeat there")
    args = parser.parse_args(argv)
    arguments = ["--repeats", str(args.repeats), "--threads", str(args.threads), *["--quick"] * args.quick]
    if args.peer_venv:
        arguments += ["--peer-venv", str(args.peer_venv.resolve())]
    load = os.getloadavg()[0]
    rows = [row for name in args.only for row in measure_part(name, arguments, args.threads)]
    print(table(rows))
    notes = dict.fromkeys(f"{row.part}: {row.note}" for row in rows if row.note)
    print("\n" + "\n".join(f"- {note}" for note in notes))
    print(f"- {platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start")
    if args.json:
        about = {"versions": versions(), "commit": git_commit(), "cores": os.cpu_count(), "load_at_start": load}
        asked = {"quick": args.quick, "repeats": args.repeats, "threads": args.threads}
        write_json(args.json, about | asked | {"rows": [row.as_json() for row in rows]})
    return 0


if __name__ == "__main__":
    raise SystemExit(run_cli(main))
