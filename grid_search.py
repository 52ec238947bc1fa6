"""Run every permutation of the lists in a config's `grid` section; say which to take, and how sure that is.

    python grid_search.py --config pure_lstm_config.json --seeds 2 --jobs 0    # as many at once as suit the machine
    python grid_search.py --resume experiments/simulated-grid-...              # after Ctrl-C or a crash
    python grid_search.py --scheduler tcp://10.0.0.1:8786                      # on a running Dask cluster

All configs are checked before the first run starts. A finished run is on disk before it counts. The data has
to be preprocessed first, see collected_data_preprocess.py.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from config import EXPERIMENT_CONFIG, load_experiment
from utils import ROOT, ArgumentParser, DataError, keep_freed_memory, run_cli, setup_logging


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--config", type=Path, metavar="F", help="config with a `grid` (pure_lstm_config.json)")
    parser.add_argument("--dataset", metavar="NAME", help="same as --set dataset.name=NAME")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="override a config key")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each config (1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (1); 0 = by cores and memory")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="use a running Dask scheduler, tcp://HOST:PORT")
    parser.add_argument("--dashboard", type=int, metavar="PORT", help="show Dask's dashboard on this machine's port")
    parser.add_argument("--halving", action="store_true", help="stop the worst two thirds at 1/9 and 1/3 of the epochs")
    parser.add_argument("--runs-per-gpu", type=int, metavar="N", help="use all GPUs, with N runs at once on each")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto = a GPU if any")
    parser.add_argument("--datasets", type=Path, default=ROOT / "datasets", metavar="DIR", help="windowed datasets")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder (experiments/<dataset>-grid-<time>)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="do what is missing in the folder of a grid")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: repeat runs that failed")
    parser.add_argument("--yes", action="store_true", help="allow more than 10,000 runs")
    parser.add_argument("--dry-run", action="store_true", help="check all configs, count the runs, start nothing")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Raise DataError for numbers out of range and options that exclude each other."""
    for name, least in (("seeds", 1), ("jobs", 0), ("runs_per_gpu", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise DataError(f"--{name.replace('_', '-')} {value}: expected {least} or more")
    if args.resume and (args.config or args.dataset or args.set or args.seeds != 1 or args.halving or args.out):
        raise DataError("--resume takes the grid from its folder; use it without --config, --dataset, --set, --seeds, "
                        "--halving, --out")  # fmt: skip
    if args.resume and args.device != "auto":
        raise DataError("--resume uses the device that the grid was started with; leave --device out")
    if args.retry_failed and not args.resume:
        raise DataError("--retry-failed needs --resume DIR")
    if args.scheduler and (args.jobs != 1 or args.runs_per_gpu or args.dashboard is not None):
        raise DataError("--scheduler has its own workers; --jobs, --runs-per-gpu and --dashboard are for this machine")
    if args.runs_per_gpu and (args.jobs != 1 or args.device == "cpu"):
        raise DataError("--runs-per-gpu sets how many run at once on a GPU; leave --jobs and --device cpu out")
    if args.dashboard is not None and args.jobs == 1 and not args.runs_per_gpu:
        raise DataError("--dashboard is Dask's; use --jobs 0, or --jobs N with N > 1")


def command(args: argparse.Namespace) -> int:
    from grid.engines import engine_for, jobs_at_once, one_run
    from grid.plan import plan, read_plan
    from grid.results import summary_text
    from grid.search import search
    from reports.run_folder import check_unused, default_root

    check_arguments(args)
    if args.out and not args.dry_run:
        check_unused(args.out)
    if args.resume:
        grid = read_plan(args.resume, args.datasets)
    else:
        path, dataset = args.config or EXPERIMENT_CONFIG, [f"dataset.name={args.dataset}"] if args.dataset else []
        config = load_experiment(path, [*args.set, *dataset])
        seeds = [config.training.seed + k for k in range(args.seeds)]
        grid = plan(config, seeds, args.halving, args.device, args.datasets, path.name, args.yes)
    jobs = jobs_at_once(grid, args.jobs, args.scheduler, args.runs_per_gpu)
    if args.dry_run:
        print(grid, file=sys.stderr)
        return 0
    out = args.resume or args.out or default_root(ROOT / "experiments", f"{grid.config.dataset.name}-grid")
    out = out.absolute()
    engine = engine_for(one_run, out, jobs, args.scheduler, args.dashboard, args.runs_per_gpu)
    results = search(grid, out, engine, new=not args.resume, retry_failed=args.retry_failed)
    print(summary_text(results, out))
    if len(results.errors) == len(grid.runs):
        raise DataError(f"every run failed; fix the cause and use --resume {out} --retry-failed")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()
    for handler in logging.getLogger().handlers:                 # what single runs say is in their log files
        handler.addFilter(lambda record: record.name.startswith("grid.") or record.levelno >= logging.WARNING)
    keep_freed_memory()
    return run_cli(lambda: command(args))


if __name__ == "__main__":
    raise SystemExit(main())
