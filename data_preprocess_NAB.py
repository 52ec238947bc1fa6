"""Turn series of the Numenta Anomaly Benchmark (NAB) into windowed CSVs.

    python data_preprocess_NAB.py                          # the seven series with known causes, downloaded once
    python data_preprocess_NAB.py --nab-root NAB --all     # all 58, from a local copy
    python data_preprocess_NAB.py --series nyc_taxi

A step is a row, whatever its timestamp, as in NAB's own scoring; timestamps are kept as a column. Normal rows are
split in time into training and calibration; all other rows are test, and none of them is dropped. What is unusual
about a series, and which rows were left out, is listed in its meta.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config import DATASET_CONFIG, load_nab
from utils import ROOT, ArgumentParser, DataError, run_cli, setup_logging


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--nab-root", type=Path, metavar="DIR", help="a local copy of NAB (default: download it once)")
    add("--series", nargs="+", metavar="NAME", help="such as nyc_taxi or realTweets/Twitter_volume_FB")
    add("--all", action="store_true", help="all 58 series")
    add("--list", action="store_true", help="list the names of the series")
    add("--dataset-config", type=Path, default=DATASET_CONFIG, metavar="F", help="file whose entry NAB is used")
    add(
        "--out", type=Path, default=ROOT / "datasets" / "NAB-known-anomaly", metavar="DIR",
        help="where a folder for each series is written (default: %(default)s)",
    )  # fmt: skip
    add(
        "--cache", type=Path, default=ROOT / "datasets" / "NAB-raw", metavar="DIR",
        help="where downloads are kept (default: %(default)s)",
    )  # fmt: skip
    add("--base-url", metavar="URL", help="a mirror of NAB's files (default: NAB_BASE_URL, or else GitHub)")
    add("--force", action="store_true", help="write the CSVs again even if they are up to date")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        from tqdm import tqdm

        from recordings import nab_files
        from recordings.nab_series import preprocess_series

        if args.list:
            print("\n".join(nab_files.series_names()))
            return 0
        if args.series and args.all:
            raise DataError("--series and --all exclude each other")
        if args.nab_root and args.base_url:
            raise DataError("--nab-root and --base-url exclude each other: a local copy is not downloaded")
        if args.series:
            names = list(dict.fromkeys(nab_files.find_series(text) for text in args.series))
        else:
            names = list(nab_files.series_names()) if args.all else nab_files.known_cause()
        config = load_nab(args.dataset_config)
        root = nab_files.local_files(names, args.nab_root, args.cache, args.base_url)
        for name in tqdm(names, desc="series", unit="series", disable=None):
            preprocess_series(name, config, root, args.out, args.force)
        print(args.out)
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
