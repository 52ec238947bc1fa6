"""Turn raw respiratory recordings into windowed CSVs.

    python collected_data_preprocess.py                      # the embedded, simulated recordings
    python collected_data_preprocess.py --dataset cpap       # an entry of dataset_config.json
    python collected_data_preprocess.py --inspect my_night.csv.gz other_night.edf

Read -> resample causally to one grid -> split in time -> fit the scaler on training data -> cut windows.
The datasets are described in dataset_config.json; what was dropped or filled is listed in meta.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config import DATASET_CONFIG, dataset_names, load_dataset_config
from utils import ROOT, ArgumentParser, run_cli, setup_logging


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("--dataset-config", type=Path, default=DATASET_CONFIG, metavar="F", help="description of the datasets")
    add("--dataset", metavar="NAME", help="the dataset to prepare (default: simulated)")
    add(
        "--out", type=Path, default=ROOT / "datasets" / "collected-known-anomaly", metavar="DIR",
        help="where the dataset's folder is written (default: %(default)s)",
    )  # fmt: skip
    add("--inspect", type=Path, nargs="+", metavar="FILE", help="only describe these files, folders, cards")
    add("--force", action="store_true", help="write the CSVs again even if they are up to date")
    add("--list", action="store_true", help="list the datasets of the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        from recordings.preprocessing import inspect, preprocess_recordings

        if args.list:
            print("\n".join(dataset_names(args.dataset_config)))
        elif args.inspect:
            inspect(args.inspect, load_dataset_config(args.dataset_config, args.dataset) if args.dataset else None)
        else:
            name = args.dataset or "simulated"
            dataset = load_dataset_config(args.dataset_config, name)
            print(preprocess_recordings(name, dataset, args.dataset_config.resolve().parent, args.out, args.force))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
