"""The Numenta Anomaly Benchmark (NAB) by its own rules: an LSTM that learns online, compared with baselines.

    python nab_benchmark.py --nab-root NAB --out experiments/nab             # five seeds, 40 minutes on one core
    python nab_benchmark.py --nab-root NAB --out experiments/nab --seeds 1   # one seed, 8 minutes

Each series has its own LSTMs, untrained at first, which forecast mean, maximum, minimum and roughness of blocks of
rows. Scores and alarms depend on the rows up to them; one set of parameters and one threshold are used for all series.
In --out, each detector has a folder in NAB's own layout (DETECTOR/CATEGORY/DETECTOR_FILE.csv), readable by NAB's
scorer, and one more for each profile with another threshold; tables.md and results.json contain the NAB scores.
Forecasts of an earlier run with the same parameters are reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils import ROOT, ArgumentParser, DataError, run_cli, setup_logging


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--nab-root", type=Path, required=True, metavar="DIR", help="a copy of NAB: data/ and labels/")
    add(
        "--out", type=Path, default=ROOT / "experiments" / "nab", metavar="DIR",
        help="where results are written (default: %(default)s)",
    )  # fmt: skip
    add("--seeds", type=int, default=5, metavar="N", help="LSTM seeds 0..N-1 (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        from nab.benchmark import run_benchmark

        if args.seeds < 1:
            raise DataError(f"--seeds {args.seeds}: expected at least 1")
        print(run_benchmark(args.nab_root, args.out, args.seeds), end="")
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
