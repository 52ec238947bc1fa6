"""Turn raw respiratory recordings into windowed CSVs.

    python collected_data_preprocess.py                      # the embedded, simulated recordings
    python collected_data_preprocess.py --dataset cpap       # an entry of dataset_config.json
    python collected_data_preprocess.py --inspect my_night.csv.gz other_night.edf

Read -> one causal grid -> split in time -> scaler from training data alone -> windows. What the
data is stands in dataset_config.json; what was dropped or filled is written to meta.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from config import DATASET_CONFIG, dataset_names, load_dataset_config
from utils import ROOT, ArgumentParser, run_cli, setup_logging

OUT = ROOT / "datasets" / "collected-known-anomaly"


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--dataset-config", type=Path, default=DATASET_CONFIG, metavar="F")
    parser.add_argument("--dataset", default=None, metavar="NAME", help="entry to prepare (simulated)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR")
    parser.add_argument("--inspect", type=Path, nargs="+", metavar="FILE", help="only print what is understood")
    parser.add_argument("--force", action="store_true", help="make the CSVs again even if they are current")
    parser.add_argument("--list", action="store_true", help="list the datasets of the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        from recordings.preprocessing import inspect, preprocess

        if args.list:
            print("\n".join(dataset_names(args.dataset_config)))
        elif args.inspect:
            inspect(args.inspect, load_dataset_config(args.dataset_config, args.dataset) if args.dataset else None)
        else:
            name = args.dataset or "simulated"
            dataset = load_dataset_config(args.dataset_config, name)
            print(preprocess(name, dataset, args.dataset_config.resolve().parent, args.out, args.force))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
