"""Write a trained model as an ONNX file, for devices without torch.

    python export_model.py --checkpoint experiments/simulated/checkpoint.safetensors
    python export_model.py --checkpoint experiments/cpap/checkpoint.safetensors --out device/

The folder gets model.onnx and a README.md on its inputs and outputs. The scaler is part of the model:
inputs and outputs are physical values, NaN = missing. Nothing is written unless onnxruntime and the
detector give the same forecasts. Needs requirements-export.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils import ArgumentParser, run_cli, setup_logging


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="F", help="checkpoint of a trained model")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to fill (onnx/ beside the checkpoint)")
    parser.add_argument("--force", action="store_true", help="replace an existing export")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        from detection.onnx_export import export

        print(export(args.checkpoint, args.out or args.checkpoint.parent / "onnx", args.force))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
