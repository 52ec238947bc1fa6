"""The Numenta Anomaly Benchmark (NAB) by its own rules: an LSTM that learns online, and what to hold against it.

    python nab_benchmark.py --nab-root NAB --out experiments/nab                 # five seeds, about three minutes
    python nab_benchmark.py --nab-root NAB --out experiments/nab --seeds 1       # one seed, about one minute

Every series starts with untrained LSTMs of its own, which forecast the mean and the spread of blocks of rows. The
score of a row uses the rows up to it; one set of parameters and one threshold serve all series. In --out, each detector
has a folder in NAB's own layout (DETECTOR/CATEGORY/DETECTOR_FILE.csv), which NAB's scorer reads; tables.md and
results.json hold the NAB scores. Forecasts made with the same parameters are taken from an earlier run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils import ROOT, ArgumentParser, DataError, run_cli, setup_logging

OUT = ROOT / "experiments" / "nab"


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--nab-root", type=Path, required=True, metavar="DIR", help="a copy of NAB: data/ and labels/")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where results go (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="LSTM seeds 0..N-1 (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="log more")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging(args.verbose)

    def body() -> int:
        from nab.benchmark import run

        if args.seeds < 1:
            raise DataError(f"--seeds {args.seeds}: expected at least 1")
        print(run(args.nab_root, args.out, args.seeds), end="")
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
