"""A trained run in, a model to ship out: its checkpoint without the training, and a card that says what it is.

    python -m reports.model_card experiments/cpap_flow --out models \\
        --notes models/cpap_flow.notes.md --tables experiments/leave-one-out/tables.md

The card is made from the run folder, from notes on what the model is for and where it ends, and from the tables of
`benchmarks.leave_one_out`: the nights that a model was trained on say little about the next person.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config import check_name, read_json
from detection.checkpoint import load_calibrated, write_tensors
from evaluation.results import RunMetrics, read_metrics
from reports.run_folder import MISFITS, RunFolder
from reports.tables import markdown, results_table
from utils import ArgumentParser, DataError, run_cli, sha256_of, write_text

SUM = "SHA-256 of the model"             # until the file is written


def write_model(root: Path, notes: Path, tables: Path | None, out: Path) -> tuple[Path, Path]:
    """Write `<dataset>.safetensors` and its card `<dataset>.md` from a finished run; return their paths.

    Raises: DataError if the run is not finished, or a file is missing.
    """
    run = RunFolder(root)
    if not run.metrics.is_file():
        raise DataError(f"{root}: not a finished run, there is no metrics.json; train it to the end first")
    for path in (notes, tables):
        if path is not None and not path.is_file():
            raise DataError(f"{path}: no such file; expected a page in Markdown")
    state, _ = load_calibrated(run.checkpoint, "cpu")
    metrics = read_metrics(run.metrics)
    check_name(metrics.dataset, f"{run.metrics}: dataset")
    model, card = out / f"{metrics.dataset}.safetensors", out / f"{metrics.dataset}.md"
    weights = sum(tensor.numel() for tensor in state["model"].values())
    facts = {"file": model.name, "sha256": SUM, "weights": f"{weights:,}"}
    parts = [read_json(path) for path in (run.data, run.config, run.run)]
    try:
        text = card_text(metrics, facts, *parts, notes.read_text("utf-8"), tables.read_text("utf-8") if tables else "")
    except MISFITS as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise DataError(f"{root}: its files or the notes do not fit together ({reason}); score the run again") from None
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(model, {key: value for key, value in state.items() if key != "training"})
    write_text(card, text.replace(SUM, sha256_of(model)))
    return model, card


def card_text(
    metrics: RunMetrics,
    facts: Mapping[str, str],
    data: Mapping[str, Any],
    config: Mapping[str, Any],
    made: Mapping[str, Any],
    notes: str,
    tables: str,
) -> str:
    """Return the card in Markdown."""
    threshold, model = metrics.threshold, config["model"]
    channels = ", ".join(f"`{c['name']}` ({c['unit']}, {c['measures']}, {c['rate_hz']:g} Hz)" for c in data["channels"])
    layers = f"{model['num_layers']} layers of {model['hidden_units']} units"
    command = shlex.join(["python", *made["command"]])
    about = [
        ["", ""],
        ["file", f"`{facts['file']}`, SHA-256 `{facts['sha256']}`"],
        ["network", f"stacked LSTM, {layers}, {facts['weights']} weights"],
        ["input", f"{channels}, on a grid of {data['rate_hz']:g} Hz; their delay of {data['delay_s']:g} s is included"],
        ["forecast", f"{model['horizon_s']:g} s ahead at every step"],
        ["threshold", f"{threshold.value:.4f} ({threshold.method}, {_listed(threshold.parameters)})"],
        ["made by", f"`{command}` at commit `{made['git_commit']}`, {made['finished']}"],
        ["with", ", ".join(f"{name} {version}" for name, version in made["versions"].items() if name != "platform")],
    ]
    promise = ""
    if threshold.low is not None:
        promise = (
            f" It was asked for {threshold.parameters['rate']:g} false events an hour; calibration allows "
            f"{threshold.low:.2g} to {threshold.high:.2g} (90 %) on people like those it was calibrated on."
        )
    splits = [["split", "recordings", "hours"]]
    splits += [[name, str(part["recordings"]), f"{part['hours']:.1f}"] for name, part in data["splits"].items()]
    sources = "\n".join(f"{digest}  {name}" for name, digest in sorted(data["sources"].items()))
    left_out = f"## Machines it has not met\n\n{tables}\n" if tables else ""
    return f"""# {metrics.dataset}

{data['description'][:1].upper()}{data['description'][1:]}.

{markdown(about)}

```bash
python pure_lstm_anomaly_detection_main.py --checkpoint models/{facts['file']} --score night.csv.gz
```

{notes}
{left_out}## Data

{markdown(splits)}

Training and calibration hold normal data only: labelled events and their surroundings are left out.{promise}

The test split is the end of the same nights, and thus no test of generalisation:

{results_table([metrics])}

## Sources

SHA-256 of every file that was read:

```
{sources}
```
"""


def _listed(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in parameters.items())


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a finished run")
    parser.add_argument("--notes", type=Path, required=True, metavar="FILE", help="intended use and limits")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="of left-out machines, for the card")
    parser.add_argument("--out", type=Path, default=Path("models"), metavar="DIR", help="where they go (models)")
    args = parser.parse_args(argv)

    def body() -> int:
        print("\n".join(map(str, write_model(args.run, args.notes, args.tables, args.out))))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
