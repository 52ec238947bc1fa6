"""The steps of one experiment: a config in, a run folder out."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from config import ExperimentConfig, load_experiment, validate
from utils import (
    ROOT,
    DataError,
    log_to_file,
    only_run_here,
    seed_everything,
    write_json,
)

if TYPE_CHECKING:                                                # heavy imports wait for the work
    from data_loader import Dataset, TrainingWindows
    from detection.detector import Detector, Scored
    from recordings.windowing import Segment
    from reports.run_folder import RunFolder
    from trainers import Batches, Trainer

log = logging.getLogger(__name__)

DATASETS = ROOT / "datasets"
FAMILIES = ("collected-known-anomaly", "NAB-known-anomaly")
MOST_STEPS = 1_000_000                   # of a trailing span: it is kept in memory
FEW_BASELINES = 2                        # of the score, in calibration data that is too short to say much
SUMMARY = "summary.json"                 # of a folder of several runs
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

    from detection.checkpoint import load_checkpoint, state_of, write_tensors
    from detection.detector import Detector, build_model
    from reports.findings import events_on_normal
    from reports.page import write_report
    from reports.run_folder import write_run

    began = time.perf_counter()
    with only_run_here(run.root), log_to_file(run.log):
        run.plots.mkdir(exist_ok=True)
        log.info("%s on %s: %s", dataset.meta.dataset, device, ", ".join(dataset.channels))
        seed_everything(config.training.seed)
        saved = load_checkpoint(run.checkpoint) if run.checkpoint.is_file() else None
        if saved is not None:
            check_same_data(saved, dataset)
        remove_stale_results(run.metrics, run.report)             # of an earlier scoring
        write_json(run.config, config.model_dump())
        config = config.in_seconds(dataset.meta.rate_hz)
        model = build_model(config.model, len(dataset.channels), dataset.meta.rate_hz)
        meta = dataset.meta
        units, measures = ([facts[c] for c in dataset.channels] for facts in (meta.channels, meta.measures))
        detector = Detector(model, dataset.scaler, units, measures, meta.rate_hz, config, device)

        def save(trainer_state: dict[str, Any]) -> None:
            about = {"data": dataset.meta.config, "series": dataset.meta.series is not None}
            training = {key: part for key, part in trainer_state.items() if key != "model"}     # the detector's own
            write_tensors(run.checkpoint, state_of(detector) | {"training": training} | about)

        data = training_data(config, dataset)
        trainer_state = train(config, dataset, data, run, detector, save, saved, plots, until)
        if not trainer_state["progress"]["finished"]:
            return None
        trained = time.perf_counter()
        normal = dataset.normal(config.score.calibrate_on)
        normal_scores = detector.calibrate([segment.values for segment in normal])
        save(trainer_state)
        log.info("threshold %s: %.4f", config.threshold.method, detector.threshold["value"])
        warn_of_little(sum(map(len, normal)) / meta.rate_hz, config.score.baseline_s)
        segments = dataset.splits["test"]
        scored = detector.detect([segment.values for segment in segments])
        scored_at = time.perf_counter()
        results = report(config, dataset, run, detector, segments, scored, plots)
        results["forecast"] = forecast_numbers(data[1], detector, trainer_state["progress"])
        results["calibration"] = events_on_normal(detector, normal, normal_scores)
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
        if plots:
            write_report(run.root)
    return results


def train(
    config: ExperimentConfig,
    dataset: Dataset,
    data: tuple[TrainingWindows, Batches],
    run: RunFolder,
    detector: Detector,
    save: Any,
    saved: dict[str, Any] | None,
    plots: bool,
    until: int | None = None,
) -> dict[str, Any]:
    """Train the detector's model to its early stop, or `until` an epoch; return the trainer's last state."""
    from reports.run_folder import write_history
    from trainers import Trainer

    training, (windows, validation) = config.training, data
    trainer = Trainer(detector.model, training, detector.spans.warm_up, detector.device)
    if saved is not None:
        restore_trainer(trainer, saved, windows, run.checkpoint.name)
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


def train_on_other_ranks(config: ExperimentConfig, dataset: Dataset, checkpoint: Path, device: str) -> None:
    """Take a share of every batch of a run that the first process of a group trains, and writes."""
    from detection.checkpoint import load_checkpoint
    from detection.detector import build_model, warm_up_of
    from trainers import Trainer

    rate = dataset.meta.rate_hz
    seed_everything(config.training.seed)
    saved = load_checkpoint(checkpoint) if checkpoint.is_file() else None
    model = build_model(config.in_seconds(rate).model, len(dataset.channels), rate)
    windows, validation = training_data(config, dataset)
    trainer = Trainer(model, config.in_seconds(rate).training, warm_up_of(config.in_seconds(rate).model, rate), device)
    if saved is not None:
        restore_trainer(trainer, saved, windows, checkpoint.name)
    trainer.fit(windows, validation)


def restore_trainer(trainer: Trainer, saved: dict[str, Any], windows: TrainingWindows, where: str) -> None:
    """Let a trainer go on from a checkpoint.

    Raises: DataError if what the checkpoint says of training does not fit.
    """
    from detection.checkpoint import check_training

    try:
        training = saved["training"] | {"model": saved["model"]}
        check_training(training, trainer.model, trainer.optimizer, trainer.schedule.state_dict(), where)
        trainer.load_state_dict(training, windows)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(f"{where}: no training to go on with ({reason}); start a new run") from None


def forecast_numbers(validation: Batches, detector: Detector, progress: dict[str, Any]) -> dict[str, float]:
    """Return the best validation loss beside those of two forecasts that learn nothing."""
    from trainers import naive_losses

    naive = naive_losses(validation, detector.model.horizon, detector.spans.warm_up)
    return {"lstm": progress["best_loss"], "best_epoch": progress["best_epoch"]} | naive


def warn_of_little(calibrated_s: float, baseline_s: float) -> None:
    """Say so if a threshold was fitted on hardly more than the score looks back."""
    if calibrated_s < FEW_BASELINES * baseline_s:
        log.warning(
            "calibrated on %.0f s; a threshold from less than %.0f s says little: use more normal recordings",
            calibrated_s, FEW_BASELINES * baseline_s,
        )  # fmt: skip


def remove_stale_results(*results: Path) -> None:
    """Remove results that are about to be made again: their files stand for a run that is finished."""
    for path in results:
        path.unlink(missing_ok=True)


def check_same_data(saved: dict[str, Any], dataset: Dataset) -> None:
    """Raise DataError if the checkpoint of a run to go on with was made from other training data."""
    scaler = {"center": dataset.scaler.center.tolist(), "scale": dataset.scaler.scale.tolist()}
    if "training" not in saved:
        raise DataError(f"the checkpoint of {dataset.meta.dataset} holds no training to go on with; start a new run")
    try:
        same = [saved["channels"], saved["scaler"]] == [list(dataset.channels), scaler]
    except (KeyError, RuntimeError):                             # a tensor is neither equal to a list nor different
        same = False
    if not same:
        raise DataError(f"{dataset.meta.dataset} is not the data that this run was trained on; start a new run")


def check_resumable(config: ExperimentConfig, dataset: Dataset, run: RunFolder) -> None:
    """Raise DataError, before anything is written, unless a run's checkpoint is of its config and of this data."""
    import torch

    from detection.checkpoint import load_checkpoint
    from detection.detector import build_model, warm_up_of
    from trainers import Trainer

    if not run.checkpoint.exists():
        return
    saved, rate = load_checkpoint(run.checkpoint), dataset.meta.rate_hz
    check_same_data(saved, dataset)
    config = config.in_seconds(rate)
    trained = validate(ExperimentConfig, saved.get("config"), f"{run.checkpoint}: config")
    for section in ("dataset", "model", "training"):
        for key, value in getattr(config, section):
            if value != getattr(getattr(trained, section), key):
                raise DataError(
                    f"{run.config}: {section}.{key} is not what {run.checkpoint.name} was trained with; restore the "
                    "file, or start a new run"
                )
    model = build_model(config.model, len(dataset.channels), rate)
    trainer = Trainer(model, config.training, warm_up_of(config.model, rate), "cpu")
    restore_trainer(trainer, saved, SimpleNamespace(generator=torch.Generator()), str(run.checkpoint))


def training_data(config: ExperimentConfig, dataset: Dataset) -> tuple[TrainingWindows, Batches]:
    """Return the training windows and the fixed validation batches of a config.

    Raises: DataError if a split has no stretch that is long enough.
    """
    from data_loader import TrainingWindows, fitting_length, validation_batches
    from detection.detector import horizon_of, steps, warm_up_of

    rate = dataset.meta.rate_hz
    config = config.in_seconds(rate)
    training = config.training
    warm_up, horizon = warm_up_of(config.model, rate), horizon_of(config.model, rate)
    normal = dataset.normal(("train", "val"))
    length = fitting_length(steps(training.window_s, rate), normal, horizon, warm_up)
    least = least_steps(config, dataset)
    shape = {"steps": length, "horizon": horizon, "least": least, "batch_size": training.batch_size}
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
    check_lengths(config, dataset)


def check_lengths(config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise DataError unless training and calibration have a stretch that is long enough, also for the score."""
    from data_loader import check_stretches
    from detection.anomaly_scores import resolve_weights
    from detection.detector import horizon_of, spans_of

    least = least_steps(config, dataset)
    check_stretches(dataset.splits["train"], least, "training")
    check_stretches(dataset.splits["val"], least, "calibration")
    rate, config = dataset.meta.rate_hz, config.in_seconds(dataset.meta.rate_hz)
    spans = spans_of(config.score, config.model, rate)
    needs = {                                                    # steps until a component can have a value
        "amplitude_drop": spans.warm_up + max(spans.amplitudes),
        "error": max(spans.warm_up + horizon_of(config.model, rate), spans.error),
        "transient_error": max(spans.warm_up + spans.near, spans.transient),
        "level": spans.level,
    }
    weights = resolve_weights(config.score.weights, [dataset.meta.measures[channel] for channel in dataset.channels])
    longest = max(len(segment) for segment in dataset.normal(config.score.calibrate_on))
    for name, least in needs.items():
        if weights[name].any() and longest <= least:
            raise DataError(
                f"score: no calibration stretch is long enough: the longest has {longest} steps, but {name} needs more "
                f"than {least}; shorten its spans, leave it out of score.weights, or use longer recordings"
            )


def least_steps(config: ExperimentConfig, dataset: Dataset) -> int:
    """Return how many steps a stretch needs: warm-up, horizon and one to forecast from."""
    from detection.detector import horizon_of, warm_up_of

    rate = dataset.meta.rate_hz
    model = config.model.in_seconds(rate)
    return warm_up_of(model, rate) + horizon_of(model, rate) + 1


def check_choices(config: ExperimentConfig, dataset: Dataset) -> None:
    """Raise DataError unless threshold, horizon and score suit the dataset; quick, builds nothing."""
    from detection import thresholds
    from detection.anomaly_scores import resolve_weights
    from detection.checkpoint import check_memory
    from detection.detector import horizon_of, memory_of, warm_up_of

    if dataset.meta.dataset != config.dataset.name:
        raise DataError(
            f"meta.json: is of dataset {dataset.meta.dataset!r}, but lies in the folder of {config.dataset.name!r}; "
            "preprocess again"
        )
    config, rate = config.in_seconds(dataset.meta.rate_hz), dataset.meta.rate_hz
    for key, value in config.score:
        span_s = max(value) if isinstance(value, list) else value
        if key.endswith("_s") and span_s * rate > MOST_STEPS:
            raise DataError(f"score.{key} is {span_s * rate:g} steps of {1 / rate:g} s; expected at most {MOST_STEPS}")
    try:
        check_memory(memory_of(config, len(dataset.channels), rate))
    except (ValueError, OverflowError) as error:
        raise DataError(f"config: {error}; shorten it") from None
    try:
        thresholds.check_parameters(config.threshold.method, dict(config.threshold.parameters))
    except ValueError as error:
        raise DataError(f"threshold.parameters: {error}") from None
    reach, guard = horizon_of(config.model, rate) + warm_up_of(config.model, rate), round(dataset.meta.guard_s * rate)
    if reach > guard:
        unit, scale = ("rows", 1) if dataset.meta.series else ("s", rate)
        raise DataError(
            f"model.horizon_{unit} + model.warm_up_{unit} is {reach / scale:g} {unit}, but the guard of "
            f"{dataset.meta.dataset} is {guard / scale:g} {unit}; shorten them or raise guard_{unit} in "
            "dataset_config.json"
        )
    measures = [dataset.meta.measures[channel] for channel in dataset.channels]
    if not any(weights.any() for weights in resolve_weights(config.score.weights, measures).values()):
        raise DataError(f"score.weights: none is for a channel of {dataset.meta.dataset}, which measure {measures}")


def draw_progress(
    run: RunFolder, trainer: Trainer, detector: Detector, dataset: Dataset, validation: Any
) -> None:
    """Draw the training curve, and forecasts against the truth on a stretch of validation data."""
    import torch

    from reports import plots

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
    from evaluation import metrics
    from evaluation.evaluate import nab_numbers
    from reports.findings import (
        Findings,
        RandomScores,
        clear_pictures,
        compute_metrics,
        draw_findings,
        recordings_as_seen,
        write_findings,
    )
    from reports.run_folder import dataset_facts, run_files, write_data

    meta = dataset.meta
    labelled = meta.events if any(meta.events.values()) else {}
    chance = RandomScores(detector, sum(len(segment) for segment in dataset.normal(config.score.calibrate_on)))
    seen = recordings_as_seen(detector, segments, scored, labelled, chance)
    buffer = metrics.suggest_buffer(dataset.splits["train"][0].values[:, 0])
    results = compute_metrics(detector, meta.dataset, meta.simulated, meta.fault_kinds, seen, buffer)
    if meta.series is not None:
        for name, several in seen.items():
            results["detectors"][name]["deployed"]["nab"] = nab_numbers(several[0], meta.series.rows, meta.rate_hz)
    findings = Findings(detector, segments, scored, seen["LSTM"], meta.simulated, meta.fault_kinds)
    with run_files(run, timestamps=meta.series is not None, signals=plots) as files:
        write_findings(files, findings)
    write_data(run, dataset_facts(meta, dataset.channels), files.recordings)
    if plots:
        clear_pictures(run)
        draw_findings(run, findings)
    return results


# ---- command line ---------------------------------------------------------------------------


def load_data(config: ExperimentConfig, datasets: Path) -> Dataset:
    """Read the windowed dataset of a config; it fits the config."""
    from data_loader import load_dataset

    dataset = load_dataset(dataset_folder(config.dataset.name, datasets), config.dataset.channels)
    check_together(config, dataset)
    return dataset


def dataset_folder(name: str, datasets: Path) -> Path:
    """Return the folder of a windowed dataset; if it is missing, say which command makes it."""
    from recordings.nab_files import known_cause, series_names, series_of

    if series_of(name):
        raise DataError(f"dataset {name!r} is a category of series; name one of them, such as {series_of(name)[0]}")
    for family in FAMILIES:
        if (datasets / family / name / "meta.json").is_file():
            return datasets / family / name
    command = f"collected_data_preprocess.py --dataset {name}"
    if name in series_names():
        command = "data_preprocess_NAB.py" + ("" if name in known_cause() else f" --series {name}")
    made = [path.parent.name for family in FAMILIES for path in sorted((datasets / family).glob("*/meta.json"))]
    near = difflib.get_close_matches(name, made, 1)
    hint = f"did you mean {near[0]!r}? Else make it" if near else "make it"
    raise DataError(f"no windowed dataset {name!r} under {datasets}; {hint} first: python {command}")


def planned_runs(config: ExperimentConfig, seeds: int) -> dict[str, ExperimentConfig]:
    """Return the config of each run by its folder: one a seed, and one a series of a NAB category."""
    from recordings.nab_files import series_of

    names = series_of(config.dataset.name)
    runs = {}
    for name in names or [config.dataset.name]:
        dataset = config.dataset.model_copy(update={"name": name})
        for seed in range(config.training.seed, config.training.seed + seeds):
            training = config.training.model_copy(update={"seed": seed})
            folder = "/".join([name] * bool(names) + [f"seed{seed}"] * (seeds > 1))
            runs[folder or "."] = config.model_copy(update={"dataset": dataset, "training": training})
    return runs


def run_all(
    config: ExperimentConfig, seeds: int, root: Path, datasets: Path, device: str, new: bool = True, rank: int = 0
) -> str:
    """Run, or go on with, every run of a config one after the other; return the results table.

    All their datasets are read and checked before a folder is made.

    Args:
        rank: of this process in its group; only the first, 0, writes.
    """
    from reports.page import write_report
    from reports.run_folder import RUNS, RunFolder, at_work_in

    runs = planned_runs(config, seeds)
    data = {name: load_data(one, datasets) for name, one in {r.dataset.name: r for r in runs.values()}.items()}
    if rank:
        for folder, one in runs.items():
            train_on_other_ranks(one, data[one.dataset.name], RunFolder(root / folder).checkpoint, device)
        return ""
    several = len(runs) > 1
    with at_work_in(root, new):
        if not new:
            for folder, one in runs.items():
                check_resumable(one, data[one.dataset.name], RunFolder(root / folder))
        if several:
            remove_stale_results(root / SUMMARY, RunFolder(root).report)
            write_json(root / RUNS, {"seeds": seeds, "folders": list(runs)})
        write_json(root / "config.json", config.model_dump())    # last: with it the folder can be gone on with
        results: dict[str, list[dict[str, Any]]] = {}
        for folder, one in runs.items():
            run = RunFolder(root / folder)
            results.setdefault(one.dataset.name, []).append(run_experiment(one, data[one.dataset.name], run, device))
        table = summarize(root if several else None, results)
        if several:
            write_report(root)
    return table


def summarize(parent: Path | None, results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the results table of the seeds of one or more datasets; write summary.json beside the runs."""
    from evaluation.evaluate import over_seeds
    from reports.run_folder import forecast_table, results_table, series_table

    if parent is not None:
        keys = ("detectors", "forecast")
        summary = {name: over_seeds([{k: one[k] for k in keys} for one in seeds]) for name, seeds in results.items()}
        write_json(parent / SUMMARY, {"seeds": len(next(iter(results.values()))), "datasets": summary})
    (first, *_), *_ = results.values()
    if "nab" in first["detectors"]["LSTM"]["deployed"]:
        return f"{forecast_table(results)}\n\n{series_table(results)}"
    return "\n\n".join(results_table(seeds) for seeds in results.values())


def resume(root: Path, overrides: Sequence[str], datasets: Path, device: str, rank: int = 0) -> str:
    """Go on with a run, or with all the runs of a folder; return the results table."""
    from reports.run_folder import RUNS, read_runs

    config = resumed_config(root, overrides)
    seeds = read_runs(root).seeds if (root / RUNS).exists() else 1
    return run_all(config, seeds, root, datasets, device, new=False, rank=rank)


def resumed_config(root: Path, overrides: Sequence[str]) -> ExperimentConfig:
    """Return the config of a run to go on with; only what comes after training may be overridden."""
    from detection.checkpoint import NOT_READ, OLD

    if not (root / "config.json").is_file():
        raise DataError(f"{root}: no config.json there; --resume needs the folder of a run")
    for old in root.rglob(OLD):
        raise DataError(f"{old}: {NOT_READ}")
    if (root / "metrics.json").is_file() and not (root / "checkpoint.safetensors").exists():
        raise DataError(f"{root}: holds scored recordings; --resume needs the folder of a run that trains")
    config, before = load_experiment(root / "config.json", overrides), load_experiment(root / "config.json")
    for section in ("dataset", "model", "training"):
        if getattr(config, section) != getattr(before, section):
            raise DataError(f"--set {section}...: fixed in the run to be resumed; start a new run for that")
    return config
