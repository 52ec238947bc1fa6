"""Run every permutation of the lists in a config's `grid` section; say which to take, and how sure that is.

    python grid_search.py --config pure_lstm_config.json --seeds 2 --jobs 0    # as many at once as suit the machine
    python grid_search.py --resume experiments/simulated-grid-...              # after Ctrl-C or a crash
    python grid_search.py --scheduler tcp://10.0.0.1:8786                      # on a running Dask cluster

All configs are checked before the first run starts. Finished runs are on disk before they count. The data
has to be preprocessed first, see collected_data_preprocess.py.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import EXPERIMENT_CONFIG, load_experiment
from utils import ROOT, ArgumentParser, DataError, keep_freed_memory, resolve_device, run_cli, setup_logging

if TYPE_CHECKING:                                                # heavy imports wait for the work
    from grid.drive import Engine
    from grid.plan import GridPlan

log = logging.getLogger("grid_search")

DATASETS = ROOT / "datasets"

# ---- engines and results --------------------------------------------------------------------


@contextlib.contextmanager
def engine_of(args: argparse.Namespace, jobs: int, out: Path) -> Iterator[Engine]:
    """Give what does the runs: this process, processes of this machine, or a cluster."""
    from grid import workers as workers

    if args.scheduler:
        with workers.running_cluster(args.scheduler, out) as client:
            yield functools.partial(workers.on_dask, client)
    elif jobs > 1:
        gpus = gpus_here() if args.runs_per_gpu else []
        with workers.local_cluster(jobs, args.dashboard, gpus, args.runs_per_gpu or 1) as client:
            yield functools.partial(workers.on_dask, client)
    else:
        yield workers.in_process


def gpus_here() -> list[str]:
    import torch

    from grid.workers import visible_gpus

    return visible_gpus(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def jobs_of(args: argparse.Namespace, grid: GridPlan) -> int:
    """Return how many runs to have at once on this machine.

    Raises: DataError if Dask or a GPU is missing for what was asked.
    """
    from grid import workers as workers
    from grid.progress import memory_of

    if args.scheduler:
        workers.need_dask("--scheduler")
        return 1
    if args.runs_per_gpu:
        workers.need_dask("--runs-per-gpu")
        return min(args.runs_per_gpu * len(gpus_here()), len(grid.runs))
    if args.jobs == 0:
        try:
            workers.need_dask("--jobs 0")
        except DataError:
            print(f"Dask is not installed ({workers.INSTALL}): one run at a time", file=sys.stderr)
            return 1
        if resolve_device(grid.device) == "cuda":
            return 1
        cores, free = workers.cores_and_memory()
        return workers.jobs_for(cores, free, memory_of(grid), len(grid.runs))
    if args.jobs > 1:
        workers.need_dask(f"--jobs {args.jobs}")
        if resolve_device(grid.device) == "cuda":
            raise DataError(f"--jobs {args.jobs} is for a CPU; on a GPU use --runs-per-gpu N, or --device cpu")
    return min(args.jobs, len(grid.runs))


def finish(grid: GridPlan, out: Path, records: Sequence[Mapping[str, Any]], figures: bool = True) -> None:
    """Write tables, the winner's config and figures; print what to take, why, and how sure that is."""
    from grid import results as results
    from grid.drive import first_records
    from grid.plan import loss_differs_by

    criterion = results.criterion_of(grid.runs)
    rows = results.rows_of(grid.runs, records)
    standings = results.standings_of(grid.runs, rows, criterion)
    results.write_tables(out, grid.runs, rows, standings)
    if not figures:
        return
    is_best = results.write_best(out, grid.runs, standings)
    rung = first_records(grid, records, grid.fractions[0]) if grid.fractions else {}
    note = "simulated data" if grid.simulated else ""
    results.draw(out, grid.runs, rows, standings, criterion, rung, note)
    print(results.ranking_table(standings))
    if criterion == "val_skill":
        keys = ", ".join(loss_differs_by(grid.runs))
        print(f"\nranked by forecast skill: {keys} vary, and losses over different things cannot be compared")
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        print(f"\n{len(failed)} of {len(rows)} runs failed; the first: {failed[0]['error']}")
    print(f"\n{results.verdict(grid.runs, standings, criterion)}")
    if is_best:
        print(f"python pure_lstm_anomaly_detection_main.py --config {out / 'best_config.json'}")
    print(f"\n{out}")
    if len(failed) == len(rows):
        raise DataError(f"all {len(rows)} runs failed; mend the cause and go on with --resume {out} --retry-failed")


# ---- command line ---------------------------------------------------------------------------


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--config", type=Path, metavar="F", help="pure_lstm_config.json, its `grid` section")
    parser.add_argument("--dataset", metavar="NAME", help="same as --set dataset.name=NAME")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="override a config key")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each config")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once; 0 = by cores and memory")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="a running Dask scheduler, tcp://HOST:PORT")
    parser.add_argument("--dashboard", type=int, metavar="PORT", help="Dask's dashboard on this machine")
    parser.add_argument("--halving", action="store_true", help="stop the worst two thirds at 1/9 and 1/3 of the epochs")
    parser.add_argument("--runs-per-gpu", type=int, metavar="N", help="runs that share a card, all cards are used")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--datasets", type=Path, default=DATASETS, metavar="DIR", help="where windowed datasets are")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the grid's folder (experiments/<dataset>-grid-<time>)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="do what is missing in a grid's folder")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: try failed runs again")
    parser.add_argument("--yes", action="store_true", help="more than 10,000 runs are meant")
    parser.add_argument("--dry-run", action="store_true", help="check all configs, say the cost, start nothing")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    if args.resume and (args.config or args.dataset or args.set or args.seeds != 1 or args.halving or args.out):
        raise DataError("--resume takes the grid from its folder; --config, --dataset, --set, --seeds, --halving, "
                        "--out do not go with it")  # fmt: skip
    if args.resume and args.device != "auto":
        raise DataError("--resume goes on with the device of the grid; --device does not go with it")
    if args.retry_failed and not args.resume:
        raise DataError("--retry-failed needs --resume DIR")
    if args.seeds < 1:
        raise DataError(f"--seeds {args.seeds}: expected 1 or more")
    if args.jobs < 0:
        raise DataError(f"--jobs {args.jobs}: expected 1 or more, or 0 for what suits the machine")
    if args.runs_per_gpu is not None and args.runs_per_gpu < 1:
        raise DataError(f"--runs-per-gpu {args.runs_per_gpu}: expected 1 or more")
    if args.scheduler and (args.jobs != 1 or args.runs_per_gpu or args.dashboard is not None):
        raise DataError("--scheduler has its own workers; --jobs, --runs-per-gpu and --dashboard are for this machine")
    if args.runs_per_gpu and (args.jobs != 1 or args.device == "cpu"):
        raise DataError("--runs-per-gpu says how many run at once on a GPU; --jobs, --device cpu do not go with it")
    if args.dashboard is not None and args.jobs == 1 and not args.runs_per_gpu:
        raise DataError("--dashboard is Dask's; it needs more than --jobs 1")
    if args.runs_per_gpu:
        try:
            resolve_device("cuda")
        except DataError:
            raise DataError("--runs-per-gpu: torch sees no CUDA device here; use --jobs N on a CPU") from None
    elif not args.scheduler:
        resolve_device(args.device)


def new_grid(args: argparse.Namespace) -> GridPlan:
    from grid.plan import plan

    overrides = [*args.set, *([f"dataset.name={args.dataset}"] if args.dataset else [])]
    config = load_experiment(args.config or EXPERIMENT_CONFIG, overrides)
    first = config.training.seed
    where = (args.config or EXPERIMENT_CONFIG).name
    seeds = list(range(first, first + args.seeds))
    return plan(config, seeds, args.halving, args.device, args.datasets, where, args.yes)


def command(args: argparse.Namespace) -> int:
    from grid.drive import drive
    from grid.journal import read_journal
    from grid.plan import read_plan, write_plan
    from grid.progress import ProgressDisplay, announce, speed_here
    from reports.run_folder import at_work_in, check_unused, default_root

    check_arguments(args)
    if args.out and not args.dry_run:
        check_unused(args.out)
    grid = read_plan(args.resume, args.datasets) if args.resume else new_grid(args)
    if args.resume:
        read_journal(args.resume / "journal.jsonl", mend=False)      # another process may be at it
    jobs = jobs_of(args, grid)
    speed = speed_here(grid, resolve_device(grid.device))
    announce(grid, jobs, speed)
    if args.dry_run:
        return 0
    out = args.resume or args.out or default_root(ROOT / "experiments", f"{grid.config.dataset.name}-grid")
    out = out.absolute()
    try:
        with at_work_in(out, new=not args.resume):
            if not args.resume:
                write_plan(grid, out)
            try:
                with engine_of(args, jobs, out) as engine:
                    records = drive(grid, out, engine, ProgressDisplay(jobs, speed), args.retry_failed)
            except (KeyboardInterrupt, DataError, OSError):
                report_interruption(grid, out, new=not args.resume)
                raise
            finish(grid, out, records)
    finally:
        with contextlib.suppress(OSError):
            out.rmdir()                                          # if nothing is in it
    return 0


def report_interruption(grid: GridPlan, out: Path, new: bool) -> None:
    """Write the tables of what there is, and say how to go on; of a new grid without a run nothing stays."""
    from grid.journal import read_journal

    records = read_journal(out / "journal.jsonl")
    if not records and not (out / "runs").exists():
        for name in ("grid.json", "journal.jsonl") if new else ():
            (out / name).unlink(missing_ok=True)
        return
    finish(grid, out, records, figures=False)
    print(f"\ngo on with: python grid_search.py --resume {out}", file=sys.stderr)


def set_up_logging() -> None:
    """Log as every script does, but leave what single runs say to their log files."""
    setup_logging()
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.name == log.name or record.levelno >= logging.WARNING)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    set_up_logging()
    keep_freed_memory()
    return run_cli(lambda: command(args))


if __name__ == "__main__":
    raise SystemExit(main())
