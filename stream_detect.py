"""Live detection: samples in as CSV lines, scores and events out as they happen.

    my_recorder | python stream_detect.py --checkpoint experiments/simulated/checkpoint.safetensors
    python stream_detect.py --checkpoint F --follow night.csv --state night.state --out night.scores.csv
    python -m live.replay night.csv.gz --speed 20 | python stream_detect.py --checkpoint F

The first line names the columns: the time, in seconds or as timestamps, and the channels of the model; what it calls
otherwise, --time-column and --channel say, as for --score. The output has a line for each step of the model's grid,
one when alarms begin and one when they are over, and one for each apnea or hypopnea, with its extent, kind and
evidence, about 35 s after its end. Faulty lines and gaps are reported on stderr, and the stream continues. With
--state, a restart resumes from the saved state without a new warm-up; rows that were taken before are skipped. With
--out and --state together, the output is as if the program had never stopped, even after a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils import ArgumentParser, add_file_names, keep_freed_memory, resolve_device, run_cli, setup_logging


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="F", help="a trained model")
    parser.add_argument("--follow", type=Path, metavar="FILE", help="read a file as it grows, instead of stdin")
    parser.add_argument("--state", type=Path, metavar="F", help="file to save the state in, and to resume from")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file, instead of stdout")
    add_file_names(parser, "the input")
    parser.add_argument("--profile", metavar="NAME", help="how respiratory events are scored, of scoring_profiles.json")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="format of the output (csv)")
    parser.add_argument("--plot", action="store_true", help="show signals and score in a window")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="where the LSTM runs (cpu)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()
    keep_freed_memory()

    def body() -> int:
        import torch

        from live.stream import watch
        from recordings.file_names import FileNames

        names = FileNames.parsed(args)
        torch.set_num_threads(1)                                 # a step is too small to share
        device, as_json = resolve_device(args.device), args.format == "jsonl"
        files = {"follow": args.follow, "state": args.state, "out": args.out}
        how = {"as_json": as_json, "plot": args.plot, "names": names, "profile": args.profile}
        return watch(args.checkpoint, device, **files, **how)

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
