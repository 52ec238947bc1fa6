"""Turn series of rows, one's own or those of the Numenta Anomaly Benchmark (NAB), into windowed CSVs.

    python data_preprocess_NAB.py                          # the seven series with known causes, downloaded once
    python data_preprocess_NAB.py --nab-root NAB --all     # all 58, from a local copy
    python data_preprocess_NAB.py --series nyc_taxi
    python data_preprocess_NAB.py --file pump.csv --labels windows.json        # of one's own

A step is a row, whatever its timestamp, as in NAB's own scoring; timestamps are kept as a column. Normal rows are
split in time into training and calibration; all other rows are test, and none of them is dropped. What is unusual
about a series, and which rows were left out, is listed in its meta.json. A folder in NAB's layout, --nab-root, may
hold other series. A file needs a column of timestamps and one of values, or several, which are then the channels.
"""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from config import DATASET_CONFIG, check_name, load_nab
from utils import ROOT, ArgumentParser, DataError, run_cli, setup_logging

if TYPE_CHECKING:
    from recordings.nab_files import SeriesFile

log = logging.getLogger(__name__)

OUT = ROOT / "datasets" / "NAB-known-anomaly"
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t"}


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--nab-root", type=Path, metavar="DIR", help="a local copy of NAB, or a folder like it (default: download it)")
    add("--series", nargs="+", metavar="NAME", help="such as nyc_taxi or realTweets/Twitter_volume_FB")
    add("--all", action="store_true", help="all 58 series; with --nab-root, the other ones in it too")
    add("--list", action="store_true", help="list the names of the series")
    add("--file", type=Path, nargs="+", metavar="FILE", help="series of one's own, CSV files anywhere")
    add("--labels", type=Path, metavar="F", help="label windows of --file, JSON: file name -> [[first, last], ...]")
    add("--time-column", metavar="NAME", help="column of the timestamps (default: timestamp, or the only one)")
    add("--value-columns", nargs="+", metavar="NAME", help="columns of the values (default: value, or the only one)")
    add("--time-format", metavar="F", help='of timestamps, for strptime, such as "%%d/%%m/%%Y %%H:%%M"')
    add("--delimiter", choices=DELIMITERS, help="between two cells (default: detect it)")
    add("--decimal", choices=(".", ","), help="the decimal sign (default: detect it)")
    add("--dataset-config", type=Path, default=DATASET_CONFIG, metavar="F", help="file whose entry NAB is used")
    add(
        "--out", type=Path, default=OUT, metavar="DIR",
        help="where a folder for each series is written (default: %(default)s)",
    )  # fmt: skip
    add(
        "--cache", type=Path, default=ROOT / "datasets" / "NAB-raw", metavar="DIR",
        help="where downloads are kept (default: %(default)s)",
    )  # fmt: skip
    add("--base-url", metavar="URL", help="a mirror of NAB's files (default: NAB_BASE_URL, or else GitHub)")
    add("--force", action="store_true", help="write the CSVs again even if they are up to date")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Raise DataError if arguments exclude each other."""
    if args.series and args.all:
        raise DataError("--series and --all exclude each other")
    if args.nab_root and args.base_url:
        raise DataError("--nab-root and --base-url exclude each other: a local copy is not downloaded")
    if args.file and (args.nab_root or args.series or args.all):
        raise DataError("--file names series by themselves; --nab-root, --series and --all do not go with it")
    if args.labels and not args.file:
        raise DataError("--labels goes with --file; the labels of --nab-root are in its labels/combined_windows.json")


def chosen(args: argparse.Namespace) -> list[SeriesFile]:
    """Return the series that the arguments name, with their files and labels."""
    from recordings import nab_files

    if args.file:
        names = [file.stem for file in args.file]
        for file, name in zip(args.file, names, strict=True):
            check_name(name, "--file: the name of a series,")
            if names.count(name) > 1:
                raise DataError(f"--file: two files are called {name!r}; prepare them one after the other")
            if name in nab_files.series_names():
                raise DataError(f"{file}: has the name of one of NAB's series; rename the file")
        return [nab_files.SeriesFile(file.stem, file.name, file, args.labels, False) for file in args.file]
    own = list(nab_files.own_series(args.nab_root)) if args.nab_root else []
    has_nabs = not own or any((args.nab_root / "data" / path).exists() for path in nab_files.series_names().values())
    if args.series:
        names = list(dict.fromkeys(nab_files.find_series(text, args.nab_root) for text in args.series))
    elif not has_nabs:
        names = own
    else:
        names = list(nab_files.series_names(args.nab_root)) if args.all else nab_files.known_cause()
    root = nab_files.local_files(names, args.nab_root, args.cache, args.base_url)
    return nab_files.sources_of(names, root)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        from tqdm import tqdm

        from recordings import nab_files
        from recordings.nab_series import preprocess_series
        from recordings.series_files import SeriesColumns

        if args.list:
            print("\n".join(nab_files.series_names(args.nab_root)))
            return 0
        check_arguments(args)
        config, sources = load_nab(args.dataset_config), chosen(args)
        columns = SeriesColumns(
            time=args.time_column,
            values={name: name for name in args.value_columns or ()},
            time_format=args.time_format,
            delimiter=DELIMITERS.get(args.delimiter),
            decimal=args.decimal,
        )
        for source in tqdm(sources, desc="series", unit="series", disable=None):
            preprocess_series(source, config, args.out, columns, args.force)
        print(args.out)
        datasets = "" if args.out.resolve() == OUT else f" --datasets {shlex.quote(str(args.out))}"
        log.info(
            "train on one: python pure_lstm_anomaly_detection_main.py --config pure_lstm_config_NAB_fast.json "
            "--dataset %s%s", shlex.quote(sources[0].name), datasets,
        )  # fmt: skip
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
