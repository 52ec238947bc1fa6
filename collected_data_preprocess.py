"""Turn raw respiratory recordings into windowed CSVs.

    python collected_data_preprocess.py                      # the embedded, simulated recordings
    python collected_data_preprocess.py --dataset cpap       # an entry of dataset_config.json
    python collected_data_preprocess.py --inspect my_night.csv.gz other_night.edf
    python collected_data_preprocess.py --inspect night_*.edf --write-entry my_data.json my_nights

Read -> resample causally to one grid -> split in time -> fit the scaler on training data -> cut windows.
The datasets are described in dataset_config.json; what was dropped or filled is listed in meta.json.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from config import DATASET_CONFIG, dataset_names, load_dataset_config
from utils import ROOT, ArgumentParser, DataError, run_cli, setup_logging

log = logging.getLogger(__name__)

OUT = ROOT / "datasets" / "collected-known-anomaly"


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--dataset-config", type=Path, default=DATASET_CONFIG, metavar="F", help="description of the datasets")
    add("--dataset", metavar="NAME", help="the dataset to prepare (default: simulated)")
    add(
        "--out", type=Path, default=OUT, metavar="DIR",
        help="where the dataset's folder is written (default: %(default)s)",
    )  # fmt: skip
    add("--inspect", type=Path, nargs="+", metavar="FILE", help="only describe these files, folders, cards")
    add(
        "--write-entry", nargs=2, metavar=("FILE", "NAME"),
        help="with --inspect: write the entry of a dataset of these recordings, guesses marked, into FILE",
    )  # fmt: skip
    add("--force", action="store_true", help="write the CSVs again even if they are up to date")
    add("--list", action="store_true", help="list the datasets of the config")
    return parser


def describe_entry(files: Sequence[Path], target: Path, name: str) -> None:
    """Write a dataset's entry, print it, and log the command that uses it."""
    from recordings.dataset_entry import write_entry
    from recordings.finding import expanded

    entry = write_entry([file for path in files for file in expanded(path)], target, name)
    print(json.dumps({name: entry}, indent=2, ensure_ascii=False))
    config = "" if target.resolve() == DATASET_CONFIG else f"--dataset-config {shlex.quote(str(target))} "
    log.info("written to %s; check what is guessed, then: %s", target,
             f"python collected_data_preprocess.py {config}--dataset {shlex.quote(name)}")  # fmt: skip


def training_command(name: str, out: Path) -> str:
    """Return the command that trains on a dataset that was written below `out`."""
    datasets = "" if out.resolve() == OUT else f" --datasets {shlex.quote(str(out))}"
    return f"python pure_lstm_anomaly_detection_main.py --dataset {shlex.quote(name)}{datasets}"


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        from recordings.inspection import inspect
        from recordings.preprocessing import preprocess_recordings

        if args.list:
            print("\n".join(dataset_names(args.dataset_config)))
        elif args.inspect:
            inspect(args.inspect, load_dataset_config(args.dataset_config, args.dataset) if args.dataset else None)
            if args.write_entry:
                describe_entry(args.inspect, Path(args.write_entry[0]), args.write_entry[1])
        elif args.write_entry:
            raise DataError("--write-entry goes with --inspect FILE..., the recordings that the entry is of")
        else:
            name = args.dataset or "simulated"
            dataset = load_dataset_config(args.dataset_config, name)
            print(preprocess_recordings(name, dataset, args.dataset_config.resolve().parent, args.out, args.force))
            log.info("train on it: %s", training_command(name, args.out))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
