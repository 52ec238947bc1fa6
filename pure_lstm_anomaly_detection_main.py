"""Train the LSTM on normal data, calibrate it, find what it did not expect, and report.

    python pure_lstm_anomaly_detection_main.py                                  # the embedded recordings
    python pure_lstm_anomaly_detection_main.py --config pure_lstm_config_cpap.json --seeds 3
    python pure_lstm_anomaly_detection_main.py --config pure_lstm_config_NAB_fast.json --dataset nyc_taxi
    python pure_lstm_anomaly_detection_main.py --checkpoint experiments/x/checkpoint.safetensors --score night.csv.gz

One run fills one folder, experiments/<name>/. The data has to be preprocessed first, see
collected_data_preprocess.py and data_preprocess_NAB.py. A category of NAB, such as realKnownCause,
is a dataset too: one model for each of its series.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from config import EXPERIMENT_CONFIG, load_experiment
from utils import (
    ROOT,
    ArgumentParser,
    DataError,
    add_file_names,
    keep_freed_memory,
    resolve_device,
    run_cli,
    setup_logging,
)

if TYPE_CHECKING:                        # what it needs is heavy
    from recordings.file_names import FileNames

DATASETS, OUT = ROOT / "datasets", ROOT / "experiments"
QUICK = ("training.epochs=1", "training.updates_per_epoch=2", "training.batch_size=4")


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--config", type=Path, default=EXPERIMENT_CONFIG, metavar="F", help="the experiment (pure_lstm_config.json)"
    )
    parser.add_argument("--dataset", metavar="NAME", help="same as --set dataset.name=NAME")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="override a config key")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs with different seeds, and their spread")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the LSTM runs (auto)")
    parser.add_argument("--datasets", type=Path, default=DATASETS, metavar="DIR", help="where windowed datasets are")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (experiments/<dataset>-<time>)")
    parser.add_argument(
        "--resume", type=Path, metavar="DIR",
        help="resume a run, or a folder of seeds; with --set and --out: score it otherwise, in a copy",
    )  # fmt: skip
    parser.add_argument("--tensorboard", action="store_true", help="write losses for TensorBoard, too")
    parser.add_argument("--dry-run", action="store_true", help="the whole path in seconds; nothing is kept")
    parser.add_argument("--checkpoint", type=Path, metavar="F", help="a trained model, with --score")
    parser.add_argument(
        "--profile", metavar="NAME", help="with --score: how respiratory events are scored, of scoring_profiles.json"
    )
    parser.add_argument("--score", type=Path, nargs="+", metavar="FILE", help="recordings to score, folders, cards")
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="with --score: each recording by itself, N at once (0: one a core); the same --out again resumes",
    )  # fmt: skip
    parser.add_argument("--scheduler", metavar="ADDRESS", help="the same on a running Dask scheduler, tcp://HOST:PORT")
    add_file_names(parser, "a file", "with --score: ")
    parser.add_argument(
        "--map-label", action="append", default=[], metavar="LABEL=KIND", help="with --score: the kind of a label"
    )
    parser.add_argument(
        "--export", nargs="+", default=[], metavar="FORMAT",
        help="write events for other programs too: edf+, annot (Luna), nsrr; csv (MNE) is always there",
    )  # fmt: skip
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Raise DataError if arguments exclude each other."""
    if args.seeds < 1:
        raise DataError(f"--seeds {args.seeds}: expected 1 or more")
    if bool(args.score) != bool(args.checkpoint):
        raise DataError("--checkpoint and --score belong together: --checkpoint F --score FILE...")
    if args.resume and (args.seeds > 1 or args.dry_run or args.dataset or args.score):
        raise DataError("--resume takes its config from the run's folder; only --set, --out and --device go with it")
    if args.resume and args.out and not args.set:
        raise DataError("--resume with --out scores a trained model otherwise; say how with --set")
    if not args.score and (args.channel or args.map_label or args.time_column or args.time_format or args.time_zone):
        raise DataError("--channel, --time-column, --time-format, --time-zone and --map-label go with --score")
    if not args.score and (args.jobs is not None or args.scheduler):
        raise DataError("--jobs and --scheduler go with --score")
    if args.jobs is not None and (args.jobs < 0 or args.scheduler):
        raise DataError(f"--jobs {args.jobs}: expected 0 or more, and no --scheduler, which has its own workers")
    if args.tensorboard and (args.score or args.dry_run):
        raise DataError("--tensorboard shows a training; leave --score and --dry-run out")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise DataError("--tensorboard needs a package; pip install tensorboard")
    if args.export and args.dry_run:
        raise DataError("--export: a dry run keeps nothing to export")
    if args.score and (args.dry_run or args.seeds > 1 or args.set):
        raise DataError("--score uses the checkpoint's config; only --out, --profile and --device go with it")
    if args.profile and not args.score:
        raise DataError('--profile goes with --score; in a config it is events.profile: --set events.profile="NAME"')


def score(args: argparse.Namespace, device: str) -> str:
    """Score recordings, all together or each by itself; return the answer to print."""
    from recordings.file_names import FileNames
    from reports.run_folder import default_root
    from reports.scoring import NotAllScored, score_files, scored_answer

    root, names = args.out or default_root(OUT, "scored"), FileNames.parsed(args)
    try:
        if args.jobs is not None or args.scheduler:
            score_by_itself(args, device, root, names)
        else:
            score_files(args.checkpoint, args.score, root, device, names, args.profile, args.export)
    except NotAllScored:
        print(scored_answer(root))
        raise
    return scored_answer(root)


def score_by_itself(args: argparse.Namespace, device: str, root: Path, names: FileNames) -> None:
    """Score recordings each by itself, several at once."""
    from detection.checkpoint import load_calibrated
    from grid.engines import engine_for, jobs_with_dask
    from reports.cohort import Scoring, score_cohort, score_one
    from reports.scoring import files_to_score

    jobs = jobs_with_dask("--scheduler" if args.scheduler else "--jobs", args.jobs or 0) or os.cpu_count() or 1
    for handler in logging.getLogger().handlers:                 # what is said of each is in its log.txt
        handler.addFilter(lambda record: record.name == "reports.cohort" or record.levelno >= logging.WARNING)
    names.check(load_calibrated(args.checkpoint, device)[1].channels)    # a mistake in all recordings is told once
    files = files_to_score(args.score)
    engine = engine_for(score_one, root, min(jobs, len(files)), args.scheduler)
    score_cohort(Scoring(args.checkpoint, args.device, names, args.profile, args.export), files, root, engine)


def answer_of(args: argparse.Namespace, root: Path, text: str) -> str:
    """Return what is printed of a run, exported as asked for; printed at once if that fails."""
    from reports.exports import export_runs

    try:
        if args.export:
            export_runs(root, args.export)
    except DataError:
        print(text)
        raise
    return text


def resume_command(root: Path, datasets: Path) -> str:
    """Return the command that resumes the training of a folder."""
    where = [] if datasets == DATASETS else ["--datasets", str(datasets)]
    return shlex.join(["python", Path(__file__).name, "--resume", str(root), *where])


def command(args: argparse.Namespace) -> str:
    """Do what the arguments ask for; return the answer to print."""
    from reports.run_folder import default_root

    check_arguments(args)
    if args.export:
        from reports.exports import check_formats

        check_formats(args.export)
    device = resolve_device(args.device)
    if args.score:
        return score(args, device)
    from experiment import resume, run_all, try_all
    from trainers import process_group

    with process_group(device) as rank:
        if args.resume:
            root = args.out or args.resume
            table = resume(args.resume, args.set, args.datasets, device, rank, args.out, args.tensorboard)
        else:
            overrides = [*args.set, *([f"dataset.name={args.dataset}"] if args.dataset else [])]
            config = load_experiment(args.config, [*overrides, *(QUICK if args.dry_run else ())])
            if args.dry_run:
                try_all(config, args.seeds, args.datasets, device, rank)
                return "" if rank else "dry run: the whole path works"
            root = args.out or default_root(OUT, config.dataset.name)
            how = {"rank": rank, "in_tensorboard": args.tensorboard and not rank}
            try:
                table = run_all(config, args.seeds, root, args.datasets, device, **how)
            except KeyboardInterrupt:
                if not rank and (root / "config.json").is_file():
                    print(f"\nresume with: {resume_command(root, args.datasets)}", file=sys.stderr)
                raise
        return "" if rank else answer_of(args, root, f"{table}\n\n{root}")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()
    keep_freed_memory()

    def body() -> int:
        if answer := command(args):
            print(answer)
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
