"""Train the LSTM on normal data, calibrate it, find what it did not expect, and report.

    python pure_lstm_anomaly_detection_main.py                                  # the embedded recordings
    python pure_lstm_anomaly_detection_main.py --config pure_lstm_config_cpap.json --seeds 3
    python pure_lstm_anomaly_detection_main.py --checkpoint experiments/x/checkpoint.pt --score night.csv.gz

One run fills one folder, experiments/<name>/. The data has to be preprocessed first, see
collected_data_preprocess.py.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import EXPERIMENT_CONFIG, ExperimentConfig, load_experiment
from utils import ROOT, DataError, log_to_file, resolve_device, run_cli, seed_everything, setup_logging, write_json

if TYPE_CHECKING:                                                # heavy imports wait for the work
    from data_loader import Dataset, TrainingWindows
    from detector import Detector, Scored
    from reporting import RunFolder
    from trainers import Batches, Trainer
    from windowing import Segment

log = logging.getLogger(__name__)

DATASETS = ROOT / "datasets"
FAMILIES = ("collected-known-anomaly", "NAB-known-anomaly")
QUICK = ("training.epochs=1", "training.updates_per_epoch=2", "training.batch_size=4")


def run_experiment(
    config: ExperimentConfig,
    dataset: Dataset,
    run: RunFolder,
    device: str,
    plots: bool = True,
    until: int | None = None,
) -> dict[str, Any] | None:
    """Train (or go on training), calibrate, score the test split, write the run folder.

    Args:
        until: pause when so many epochs are done; called again, the run goes on from there.
    Returns: the content of `metrics.json`; None if training paused before its end.
    """
    import torch

    from detector import Detector, build_model, load_checkpoint, save_checkpoint
    from findings import events_on_normal
    from reporting import only_run_here, write_run

    began = time.perf_counter()
    run.plots.mkdir(exist_ok=True)
    with only_run_here(run.root), log_to_file(run.log):
        log.info("%s on %s: %s", dataset.meta.dataset, device, ", ".join(dataset.channels))
        seed_everything(config.training.seed)
        saved = load_checkpoint(run.checkpoint) if run.checkpoint.is_file() else None
        if saved is not None:
            check_same_data(saved, dataset)
        write_json(run.config, config.model_dump())
        model = build_model(config.model, len(dataset.channels), dataset.meta.rate_hz)
        meta = dataset.meta
        units, measures = ([facts[c] for c in dataset.channels] for facts in (meta.channels, meta.measures))
        detector = Detector(model, dataset.scaler, units, measures, meta.rate_hz, config, device)

        def save(trainer_state: dict[str, Any]) -> None:
            state = detector.state_dict() | {"training": trainer_state, "data": dataset.meta.config}
            save_checkpoint(run.checkpoint, state)

        trainer_state = train(config, dataset, run, detector, save, saved, plots, until)
        if not trainer_state["progress"]["finished"]:
            return None
        trained = time.perf_counter()
        normal = detector.calibrate([segment.values for segment in dataset.splits["val"]])
        save(trainer_state)
        log.info("threshold %s: %.4f", config.threshold.method, detector.threshold["value"])
        segments = dataset.splits["test"]
        scored = detector.detect([segment.values for segment in segments])
        scored_at = time.perf_counter()
        results = report(config, dataset, run, detector, segments, scored, plots)
        results["calibration"] = events_on_normal(config.events, detector, dataset.splits["val"], normal)
        seconds = {
            "training": trained - began,
            "scoring": scored_at - trained,
            "reporting": time.perf_counter() - scored_at,
            "total": time.perf_counter() - began,
        }
        if device == "cuda":
            results["cuda_peak_bytes"] = torch.cuda.max_memory_allocated()
        write_run(
            run, seed=config.training.seed, device=device, seconds=seconds, simulated=dataset.meta.simulated
        )
        write_json(run.metrics, results)
    return results


def train(
    config: ExperimentConfig,
    dataset: Dataset,
    run: RunFolder,
    detector: Detector,
    save: Any,
    saved: dict[str, Any] | None,
    plots: bool,
    until: int | None = None,
) -> dict[str, Any]:
    """Train the detector's model to its early stop, or `until` an epoch; return the trainer's last state."""
    from detector import warm_up_of
    from reporting import write_history
    from trainers import Trainer

    training, warm_up = config.training, warm_up_of(config.model, dataset.meta.rate_hz)
    windows, validation = training_data(config, dataset)
    trainer = Trainer(detector.model, training, warm_up, detector.device)
    if saved is not None:
        trainer.load_state_dict(saved["training"], windows)
        log.info("going on after epoch %d", trainer.progress.epoch - 1)

    def on_epoch(trainer: Trainer) -> None:
        save(trainer.state_dict(windows))
        write_history(run, trainer.progress.history)
        due = training.plot_every and trainer.progress.epoch % training.plot_every == 0
        if plots and due:
            draw_progress(run, trainer, detector, dataset, validation)

    progress = trainer.fit(windows, validation, on_epoch, until)
    write_history(run, progress.history)
    log.info(
        "best epoch %d of %d, validation loss %.4f", progress.best_epoch, progress.epoch, progress.best_loss
    )
    if plots:
        draw_progress(run, trainer, detector, dataset, validation)
    return trainer.state_dict(windows)


def check_same_data(saved: dict[str, Any], dataset: Dataset) -> None:
    """Raise DataError if the checkpoint of a run to go on with was made from other training data."""
    scaler = {"center": dataset.scaler.center.tolist(), "scale": dataset.scaler.scale.tolist()}
    if "training" not in saved or saved.get("channels") != list(dataset.channels) or saved.get("scaler") != scaler:
        raise DataError(f"{dataset.meta.dataset} is not the data that this run was trained on; start a new run")


def training_data(config: ExperimentConfig, dataset: Dataset) -> tuple[TrainingWindows, Batches]:
    """Return the training windows and the fixed validation batches of a config.

    Raises: DataError if a split has no stretch that is long enough.
    """
    from data_loader import TrainingWindows, validation_batches
    from detector import horizon_of, steps, warm_up_of

    rate, training = dataset.meta.rate_hz, config.training
    warm_up, horizon = warm_up_of(config.model, rate), horizon_of(config.model, rate)
    length = max(steps(training.window_s, rate), warm_up + 1)
    shape = {"steps": length, "horizon": horizon, "least": warm_up + horizon + 1, "batch_size": training.batch_size}
    windows = TrainingWindows(
        dataset.scaled("train"),
        updates=training.updates_per_epoch,
        channel_dropout=training.channel_dropout,
        seed=training.seed,
        **shape,
    )
    return windows, validation_batches(dataset.scaled("val"), **shape)


def check_together(config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise DataError, before a run folder is made, unless config and dataset fit together."""
    check_choices(config, dataset)
    training_data(config, dataset)


def check_choices(config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise DataError unless threshold, horizon and score weights suit the dataset; quick, builds nothing."""
    import thresholds
    from anomaly_scores import resolve_weights

    try:
        thresholds.check_parameters(config.threshold.method, dict(config.threshold.parameters))
    except ValueError as error:
        raise DataError(f"threshold.parameters: {error}") from None
    reach = config.model.horizon_s + config.model.warm_up_s
    if reach > dataset.meta.guard_s:
        raise DataError(
            f"model.horizon_s + model.warm_up_s is {reach:g} s, but the guard of {dataset.meta.dataset} "
            f"is {dataset.meta.guard_s:g} s; shorten them or raise guard_s in dataset_config.json"
        )
    measures = [dataset.meta.measures[channel] for channel in dataset.channels]
    if not any(weights.any() for weights in resolve_weights(config.score.weights, measures).values()):
        raise DataError(f"score.weights: none is for a channel of {dataset.meta.dataset}, which measure {measures}")


def draw_progress(
    run: RunFolder, trainer: Trainer, detector: Detector, dataset: Dataset, validation: Any
) -> None:
    """Draw the training curve, and forecasts against the truth on a stretch of validation data."""
    import torch

    import plots

    note = "simulated data" if dataset.meta.simulated else ""
    curve = plots.plot_history(trainer.progress.history, trainer.progress.best_epoch, note)
    plots.save(curve, run.plots / "training.png")
    x, series = validation[0][0][:1], validation[0][1][0].numpy()        # (1, T, C), (T + H, C)
    detector.model.eval()
    with torch.inference_mode():
        forecast = detector.model(x.to(detector.device))[0][0].float().cpu().numpy()     # (T, H, C)
    rate, horizon = detector.rate_hz, detector.model.horizon
    origins = range(trainer.warm_up, len(forecast), max(horizon, 1))
    fans = [
        ((origin + 1 + torch.arange(horizon).numpy()) / rate, detector.scaler.physical(forecast[origin]))
        for origin in origins
    ]
    t = torch.arange(len(series)).numpy() / rate
    title = f"validation data after epoch {trainer.progress.epoch - 1}" + (f" ({note})" if note else "")
    figure = plots.plot_progress(t, detector.scaler.physical(series), fans, detector.channels, detector.units, title)
    plots.save(figure, run.plots / "progress.png")


# ---- scoring and reporting ------------------------------------------------------------------


def report(
    config: ExperimentConfig,
    dataset: Dataset,
    run: RunFolder,
    detector: Detector,
    segments: Sequence[Segment],
    scored: Sequence[Scored],
    plots: bool,
) -> dict[str, Any]:
    """Evaluate the detector and its baselines, write scores, events and plots; return the metrics."""
    import metrics
    from evaluation import evaluate_detector, fault_numbers
    from findings import draw_findings, recordings_as_seen, write_findings

    meta, tolerance = dataset.meta, config.events.tolerance_s
    recordings = recordings_as_seen(config, dataset, detector, segments, scored)
    buffer = metrics.suggest_buffer(dataset.splits["train"][0].values[:, 0])
    results: dict[str, Any] = {
        "dataset": meta.dataset,
        "simulated": meta.simulated,
        "channels": list(detector.channels),
        "seed": config.training.seed,
        "fault_kinds": meta.fault_kinds,
        "threshold": {key: detector.threshold[key] for key in ("method", "parameters", "value")},
        "events": config.events.model_dump(),
        "detectors": {
            name: evaluate_detector(several, meta.fault_kinds, meta.rate_hz, tolerance, buffer)
            for name, several in recordings.items()
        },
        "faults": fault_numbers(recordings["LSTM"], meta.fault_kinds, tolerance),
    }
    write_findings(run, detector, segments, scored, recordings["LSTM"], tolerance)
    if plots:
        draw_findings(run, detector, segments, scored, recordings["LSTM"], tolerance, meta.simulated)
    return results


def score_files(checkpoint: Path, files: Sequence[Path], root: Path, device: str) -> Path:
    """Score raw recordings with a trained model; no training data needed. Returns the run folder."""
    import collected_data_preprocess as preprocess
    from config import DatasetConfig, validate
    from detector import Detector, load_checkpoint
    from findings import draw_findings, group_recordings, write_findings
    from recordings import name_of
    from reporting import new_run
    from windowing import segments_where

    state = load_checkpoint(checkpoint)
    detector = Detector.from_state(state, device, checkpoint.name)
    if not detector.threshold:
        raise DataError(f"{checkpoint.name}: its training was not finished, it has no threshold; resume the run first")
    data = validate(DatasetConfig, state.get("data"), checkpoint.name)
    data = data.model_copy(update={"channels": {c: data.channels[c] for c in detector.channels}})
    names = [name_of(file) for file in files]
    if len(set(names)) < len(names):
        raise DataError("--score: two files have the same name; score them one after the other")
    recordings = [
        preprocess.load_recording(file, name, data) for file, name in zip(files, names, strict=True)
    ]
    segments: list[Segment] = []
    labelled = {}
    least = (detector.spans.warm_up + detector.model.horizon + 1) / detector.rate_hz
    for recording in recordings:
        if recording.duration_s < least:
            raise DataError(
                f"{recording.path.name}: {recording.duration_s:g} s long; "
                f"the model's warm-up and horizon need {least:g} s"
            )
        segment = preprocess.on_grid(recording, data, [])
        segments += segments_where(segment, segment.label >= 0)
        labelled[recording.name] = preprocess.labelled_events(recording)
    if not segments:
        raise DataError("--score: no recording has a value of the model's channels")
    run = new_run(root)
    run.plots.mkdir(exist_ok=True)
    events, tolerance = detector.config.events, detector.config.events.tolerance_s
    scored = detector.detect([segment.values for segment in segments])
    grouped = group_recordings(
        events, labelled, detector, segments, [s.score for s in scored], [s.channel for s in scored], detector.threshold
    )
    write_findings(run, detector, segments, scored, grouped, tolerance)
    draw_findings(run, detector, segments, scored, grouped, tolerance, data.simulated)
    return run.root


# ---- command line ---------------------------------------------------------------------------


def load_data(config: ExperimentConfig, datasets: Path) -> Dataset:
    """Read the windowed dataset of a config; it fits the config."""
    from data_loader import load_dataset

    dataset = load_dataset(dataset_folder(config.dataset.name, datasets), config.dataset.channels)
    check_together(config, dataset)
    return dataset


def dataset_folder(name: str, datasets: Path) -> Path:
    """Return the folder of a windowed dataset; if it is missing, say which command makes it."""
    for family in FAMILIES:
        if (datasets / family / name / "meta.json").is_file():
            return datasets / family / name
    raise DataError(
        f"no windowed dataset {name!r} under {datasets}; make it first: "
        f"python collected_data_preprocess.py --dataset {name}"
    )


def run_seeds(config: ExperimentConfig, dataset: Dataset, root: Path, device: str, count: int) -> str:
    """Run `count` seeds one after the other; write summary.json; return the results table."""
    from reporting import new_run

    parent = new_run(root).root
    results = []
    for seed in range(config.training.seed, config.training.seed + count):
        training = config.training.model_copy(update={"seed": seed})
        one = config.model_copy(update={"training": training})
        results.append(run_experiment(one, dataset, new_run(parent / f"seed{seed}"), device))
    return summarize(parent, results)


def resume(root: Path, overrides: Sequence[str], datasets: Path, device: str) -> str:
    """Go on with a run, or with each of a folder of seeds; return the results table."""
    from reporting import RunFolder

    seeds = sorted(folder.parent for folder in root.glob("seed*/config.json"))
    results = []
    for folder in seeds or [root]:
        config = resumed_config(folder, overrides)
        results.append(run_experiment(config, load_data(config, datasets), RunFolder(folder), device))
    return summarize(root, results) if seeds else summarize(None, results)


def summarize(parent: Path | None, results: Sequence[dict[str, Any]]) -> str:
    """Return the results table of one or more seeds; write summary.json into their folder."""
    from evaluation import over_seeds
    from reporting import results_table

    if parent is not None:
        summary = over_seeds([{"detectors": result["detectors"]} for result in results])
        write_json(parent / "summary.json", {"seeds": len(results), "dataset": results[0]["dataset"]} | summary)
    return results_table(results)


def resumed_config(root: Path, overrides: Sequence[str]) -> ExperimentConfig:
    """Return the config of a run to go on with; only what comes after training may be overridden."""
    if not (root / "config.json").is_file():
        raise DataError(f"{root}: no config.json there; --resume needs the folder of a run")
    config, before = load_experiment(root / "config.json", overrides), load_experiment(root / "config.json")
    for section in ("dataset", "model", "training"):
        if getattr(config, section) != getattr(before, section):
            raise DataError(f"--set {section}...: fixed in the run to be resumed; start a new run for that")
    return config


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=EXPERIMENT_CONFIG, metavar="F")
    parser.add_argument("--dataset", metavar="NAME", help="same as --set dataset.name=NAME")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="override a config key")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs with different seeds, and their spread")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--datasets", type=Path, default=DATASETS, metavar="DIR", help="where windowed datasets are")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (experiments/<dataset>-<time>)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with a run, or a folder of seeds")
    parser.add_argument("--dry-run", action="store_true", help="the whole path in seconds; nothing is kept")
    parser.add_argument("--checkpoint", type=Path, metavar="F", help="a trained model, with --score")
    parser.add_argument("--score", type=Path, nargs="+", metavar="FILE", help="raw recordings to score")
    return parser


def command(args: argparse.Namespace) -> int:
    from reporting import default_root, new_run

    if args.seeds < 1:
        raise DataError(f"--seeds {args.seeds}: expected 1 or more")
    if bool(args.score) != bool(args.checkpoint):
        raise DataError("--checkpoint and --score belong together: --checkpoint F --score FILE...")
    if args.resume and (args.seeds > 1 or args.out or args.dry_run or args.dataset or args.score):
        raise DataError("--resume takes its config from the run's folder; only --set and --device go with it")
    if args.score and (args.dry_run or args.seeds > 1 or args.set):
        raise DataError("--score uses the checkpoint's config; only --out and --device go with it")
    device = resolve_device(args.device)
    if args.score:
        root = args.out or default_root(ROOT / "experiments", "scored")
        print(score_files(args.checkpoint, args.score, root, device))
        return 0
    if args.resume:
        print(f"{resume(args.resume, args.set, args.datasets, device)}\n\n{args.resume}")
        return 0
    overrides = [*args.set, *([f"dataset.name={args.dataset}"] if args.dataset else [])]
    config = load_experiment(args.config, [*overrides, *(QUICK if args.dry_run else ())])
    dataset = load_data(config, args.datasets)
    if args.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            run_experiment(config, dataset, new_run(Path(folder) / "run"), device, plots=False)
        print("dry run: the whole path works")
        return 0
    root = args.out or default_root(ROOT / "experiments", config.dataset.name)
    if args.seeds > 1:
        table = run_seeds(config, dataset, root, device, args.seeds)
    else:
        table = summarize(None, [run_experiment(config, dataset, new_run(root), device)])
    print(f"{table}\n\n{root}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()
    return run_cli(lambda: command(args))


if __name__ == "__main__":
    raise SystemExit(main())
