"""Live detection: samples in as CSV lines, scores and events out as they happen.

    my_recorder | python stream_detect.py --checkpoint experiments/simulated/checkpoint.safetensors
    python stream_detect.py --checkpoint F --follow night.csv --state night.state --out night.scores.csv
    python -m live.replay night.csv.gz --speed 20 | python stream_detect.py --checkpoint F

The first line names the columns: the time, in seconds or as timestamps, and the channels of the model. One line comes
out for each step of the model's grid, and one when an event begins and when it is over. What is wrong with a line, or a
gap, is said on stderr, and the stream goes on. With --state, a restart goes on where the state was saved, without a new
warm-up; rows that were seen already are skipped. With --out and --state together, the output is as if the program had
never stopped, even after a crash.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from utils import ArgumentParser, keep_freed_memory, only_writer_of, resolve_device, run_cli, setup_logging, sha256_of


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="F", help="a trained model")
    parser.add_argument("--follow", type=Path, metavar="FILE", help="read a file on as it grows, instead of stdin")
    parser.add_argument("--state", type=Path, metavar="F", help="where the state is saved, and taken up again")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write here instead of stdout")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="of the output")
    parser.add_argument("--plot", action="store_true", help="show signals and score in a window")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    return parser


def command(args: argparse.Namespace) -> int:
    import torch

    from live.rows import InputWarnings
    from live.stream import new_stream, watch

    torch.set_num_threads(1)                                     # a step is too small to share
    sha = sha256_of(args.checkpoint) if args.checkpoint.is_file() else ""
    input_warnings = InputWarnings()
    stream = new_stream(args.checkpoint, resolve_device(args.device), input_warnings)
    with only_writer_of(args.state) if args.state else contextlib.nullcontext():
        return watch(stream, sha, args, input_warnings)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()
    keep_freed_memory()
    return run_cli(lambda: command(args))


if __name__ == "__main__":
    raise SystemExit(main())
