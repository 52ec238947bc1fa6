"""Turn series of the Numenta Anomaly Benchmark (NAB) into windowed CSVs.

    python data_preprocess_NAB.py                          # the seven series with known causes, downloaded once
    python data_preprocess_NAB.py --nab-root NAB --all     # all 58, from a local copy
    python data_preprocess_NAB.py --series nyc_taxi

A step is a row: rows follow each other whatever their timestamps say, as in NAB's own scoring, and
the timestamps stay beside them. Normal rows are split in time into training and calibration;
everything else is test, where nothing is dropped. What was found in a series and what was left
out stands in its meta.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from config import DATASET_CONFIG, load_nab
from utils import ROOT, ArgumentParser, DataError, run_cli, setup_logging

OUT = ROOT / "datasets" / "NAB-known-anomaly"
CACHE = ROOT / "datasets" / "NAB-raw"


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--nab-root", type=Path, metavar="DIR", help="local copy of NAB; else it is downloaded once")
    parser.add_argument("--series", nargs="+", metavar="NAME", help="such as nyc_taxi or realTweets/Twitter_volume_FB")
    parser.add_argument("--all", action="store_true", help="all 58 series")
    parser.add_argument("--list", action="store_true", help="list the names of the series")
    parser.add_argument("--dataset-config", type=Path, default=DATASET_CONFIG, metavar="F")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="where downloads are kept")
    parser.add_argument("--base-url", metavar="URL", help="of a mirror of NAB's files (NAB_BASE_URL does the same)")
    parser.add_argument("--force", action="store_true", help="make the CSVs again even if they are current")
    return parser


def command(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from recordings import nab_files
    from recordings.nab_series import preprocess

    if args.list:
        print("\n".join(nab_files.series_names()))
        return 0
    if args.series and args.all:
        raise DataError("--series and --all exclude each other")
    if args.nab_root and args.base_url:
        raise DataError("--nab-root is a local copy; --base-url, where NAB is downloaded from, does not go with it")
    if args.series:
        names = list(dict.fromkeys(nab_files.find_series(text) for text in args.series))
    else:
        names = list(nab_files.series_names()) if args.all else nab_files.known_cause()
    config = load_nab(args.dataset_config)
    root = nab_files.local_files(names, args.nab_root, args.cache, args.base_url)
    for name in tqdm(names, desc="series", unit="series", disable=None):
        preprocess(name, config, root, args.out, args.force)
    print(args.out)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()
    return run_cli(lambda: command(args))


if __name__ == "__main__":
    raise SystemExit(main())
