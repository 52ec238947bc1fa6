"""The steps of one experiment, prepare, fit, calibrate, evaluate, write: a config in, a run folder out."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from config import ExperimentConfig, load_experiment, validate
from data_loader import (
    Dataset,
    TrainingWindows,
    check_length,
    dataset_folder,
    fitting_length,
    load_dataset,
    validation_batches,
)
from detection.checkpoint import NOT_READ, OLD, check_training, load_checkpoint, state_of, write_tensors
from detection.detector import Detector, build_model
from detection.resolved import ResolvedConfig, resolve
from evaluation.metrics import suggest_buffer
from evaluation.nights import ScoredNight
from evaluation.results import LSTM, CalibrationEvents, ForecastLosses, RunMetrics, over_seeds, write_metrics
from recordings import nab_files
from recordings.units import doubts_about_breathing
from reports.events import add_events
from reports.exports import export_run
from reports.findings import (
    Findings,
    RandomScores,
    clear_pictures,
    compute_metrics,
    draw_findings,
    draw_free_response,
    draw_training,
    events_on_normal,
    labels_in_test_span,
    recordings_as_seen,
    write_findings,
)
from reports.nights import draw_agreement, nights_of, with_nights
from reports.page import write_report
from reports.run_folder import (
    CLOCKS,
    RUNS,
    STAMPS,
    RunFolder,
    at_work_in,
    dataset_facts,
    new_run,
    read_runs,
    run_files,
    write_data,
    write_history,
    write_run,
)
from reports.tables import forecast_rows, markdown, results_table, series_rows
from trainers import Batches, Trainer, naive_losses, tensorboard
from utils import DataError, log_to_file, only_run_here, seed_everything, write_json

log = logging.getLogger(__name__)

ENOUGH_BASELINES = 2                     # of the score, in calibration data that says something about a threshold
SUMMARY = "summary.json"                 # of a folder of several runs


# ---- prepare --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """A config with the dataset that it was resolved for and fits; `prepare` makes it."""

    config: ExperimentConfig
    resolved: ResolvedConfig
    dataset: Dataset

    @cached_property
    def normal(self) -> list[np.ndarray]:
        """Physical values (T, C) of the normal segments that score and thresholds are calibrated on."""
        return [segment.values for segment in self.dataset.normal(self.config.score.calibrate_on)]

    @cached_property
    def vus_buffer(self) -> int:
        """The buffer of VUS in steps, from training data: later scorings with the model use the same."""
        return suggest_buffer(self.dataset.splits["train"][0].values[:, 0])


def prepare(config: ExperimentConfig, dataset: Dataset) -> Experiment:
    """Return the experiment of a config on a dataset.

    Raises: DataError if the two do not fit together, before anything is written.
    """
    meta, score = dataset.meta, config.score
    if meta.dataset != config.dataset.name:
        raise DataError(
            f"meta.json: is of dataset {meta.dataset!r}, but lies in the folder of {config.dataset.name!r}; "
            "preprocess again"
        )
    units, measures = ([facts[c] for c in dataset.channels] for facts in (meta.channels, meta.measures))
    try:
        resolved = resolve(config, dataset.channels, units, measures, meta.rate_hz)
    except (ValueError, OverflowError) as error:
        raise DataError(f"config: {error}") from None
    reach, guard = resolved.horizon + resolved.warm_up, round(meta.guard_s * meta.rate_hz)
    unit, scale = ("rows", 1) if meta.series else ("s", meta.rate_hz)
    if resolved.window <= resolved.warm_up:
        raise DataError(
            f"training.window_{unit} is {resolved.window / scale:g} {unit}; expected more than model.warm_up_{unit}, "
            f"{resolved.warm_up / scale:g} {unit}, which is not in the loss"
        )
    if reach > guard:
        raise DataError(
            f"model.horizon_{unit} + model.warm_up_{unit} is {reach / scale:g} {unit}, but the guard of "
            f"{meta.dataset} is {guard / scale:g} {unit}; shorten them or raise guard_{unit} in dataset_config.json"
        )
    chosen = {channel: meta.measures[channel] for channel in dataset.channels}
    for doubt in [] if meta.series else doubts_about_breathing(meta.channels, chosen):
        log.warning("%s: %s", meta.dataset, doubt)
    check_length(dataset.splits["train"], resolved.min_steps, "training")
    check_length(dataset.splits["val"], resolved.min_steps, "calibration")
    longest = max(len(segment) for segment in dataset.normal(score.calibrate_on))
    for component, needed in resolved.steps_until_scored().items():
        if longest <= needed:
            raise DataError(
                f"score: no calibration segment is long enough: the longest has {longest} steps, but {component} needs "
                f"more than {needed}; shorten its spans, leave it out of score.weights, or use longer recordings"
            )
    return Experiment(config, resolved, dataset)


# ---- fit ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """A detector whose model is trained, or in training, with its trainer and the data that this takes."""

    detector: Detector
    trainer: Trainer
    windows: TrainingWindows
    validation: Batches

    def save(self, path: Path, experiment: Experiment) -> None:
        """Write the checkpoint: detector, training, and what the data was."""
        meta, training = experiment.dataset.meta, self.trainer.state_dict(self.windows)
        del training["model"]                                    # the detector's own
        about = {"data": meta.config, "series": meta.series is not None, "vus_buffer_steps": experiment.vus_buffer}
        write_tensors(path, state_of(self.detector) | {"training": training} | about)


def fit(
    experiment: Experiment, fitted: Fitted, run: RunFolder, plots: bool, until: int | None, in_tensorboard: bool = False
) -> None:
    """Train to the early stop, or `until` an epoch; write checkpoint and history after each."""
    detector, trainer, dataset = fitted.detector, fitted.trainer, experiment.dataset
    plot_every = experiment.config.training.plot_every

    def on_epoch(trainer: Trainer) -> None:
        fitted.save(run.checkpoint, experiment)
        write_history(run, trainer.progress.history)
        show(trainer.progress.history[-1])
        if plots and plot_every and trainer.progress.epoch % plot_every == 0:
            draw_training(run, trainer, detector, fitted.validation, dataset.meta.simulated)

    with tensorboard(run.tensorboard if in_tensorboard else None, trainer.progress.epoch) as show:
        progress = trainer.fit(fitted.windows, fitted.validation, on_epoch, until)
    write_history(run, progress.history)
    log.info("best epoch %d of %d, validation loss %.4f", progress.best_epoch, progress.epoch, progress.best_loss)
    if plots:
        draw_training(run, trainer, detector, fitted.validation, dataset.meta.simulated)


def new_training(experiment: Experiment, device: str) -> Fitted:
    """Return an untrained detector and its trainer."""
    resolved, training = experiment.resolved, experiment.resolved.config.training
    seed_everything(training.seed)
    detector = Detector(build_model(resolved), experiment.dataset.scaler, resolved, device)
    windows, validation = training_data(experiment)
    return Fitted(detector, Trainer(detector.model, training, resolved.warm_up, device), windows, validation)


def start_training(experiment: Experiment, checkpoint: Path, device: str) -> Fitted:
    """Return an untrained detector and its trainer, restored where there is a checkpoint."""
    saved = load_checkpoint(checkpoint) if checkpoint.is_file() else None
    fitted = new_training(experiment, device)
    if saved is not None:
        check_same_data(saved, experiment.dataset)
        restore_trainer(fitted.trainer, saved, fitted.windows, checkpoint.name)
        log.info("resuming after epoch %d", fitted.trainer.progress.epoch - 1)
    return fitted


def train_on_other_ranks(experiment: Experiment, checkpoint: Path, device: str) -> None:
    """Take a share of every batch of a run that the first process of a group trains and writes."""
    fitted = start_training(experiment, checkpoint, device)
    fitted.trainer.fit(fitted.windows, fitted.validation)


def training_data(experiment: Experiment) -> tuple[TrainingWindows, Batches]:
    """Return the training windows and the fixed validation batches of an experiment."""
    resolved, dataset, training = experiment.resolved, experiment.dataset, experiment.config.training
    shape = {
        "steps": fitting_length(resolved.window, dataset.normal(("train", "val")), resolved.horizon, resolved.warm_up),
        "horizon": resolved.horizon,
        "least": resolved.min_steps,
        "batch_size": training.batch_size,
    }
    windows = TrainingWindows(
        dataset.scaled("train"),
        updates=training.updates_per_epoch,
        channel_dropout=training.channel_dropout,
        seed=training.seed,
        **shape,
    )
    return windows, validation_batches(dataset.scaled("val"), **shape)


def restore_trainer(trainer: Trainer, saved: dict[str, Any], windows: TrainingWindows, where: str) -> None:
    """Let a trainer resume from a checkpoint.

    Raises: DataError if what the checkpoint says of training does not fit.
    """
    try:
        training = saved["training"] | {"model": saved["model"]}
        check_training(training, trainer.model, trainer.optimizer, trainer.schedule.state_dict(), where)
        trainer.load_state_dict(training, windows)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(f"{where}: no training to resume ({reason}); start a new run") from None


def check_same_data(saved: dict[str, Any], dataset: Dataset) -> None:
    """Raise DataError if a checkpoint was made from other training data."""
    scaler = {"center": dataset.scaler.center.tolist(), "scale": dataset.scaler.scale.tolist()}
    if "training" not in saved:
        raise DataError(f"the checkpoint of {dataset.meta.dataset} holds no training to resume; start a new run")
    try:
        same = [saved["channels"], saved["scaler"]] == [list(dataset.channels), scaler]
    except (KeyError, RuntimeError):                             # a tensor is neither equal to a list nor different
        same = False
    if not same:
        raise DataError(f"{dataset.meta.dataset} is not the data that this run was trained on; start a new run")


def check_resumable(experiment: Experiment, run: RunFolder) -> None:
    """Raise DataError, before anything is written, unless a run's checkpoint is of its config and its data."""
    if not run.checkpoint.exists():
        return
    saved, config = load_checkpoint(run.checkpoint), experiment.resolved.config
    check_same_data(saved, experiment.dataset)
    trained = validate(ExperimentConfig, saved.get("config"), f"{run.checkpoint}: config")
    for section in ("dataset", "model", "training"):
        for key, value in getattr(config, section):
            if value != getattr(getattr(trained, section), key):
                raise DataError(
                    f"{run.config}: {section}.{key} is not what {run.checkpoint.name} was trained with; restore the "
                    "file, or start a new run"
                )
    trainer = Trainer(build_model(experiment.resolved), config.training, experiment.resolved.warm_up, "cpu")
    restore_trainer(trainer, saved, SimpleNamespace(generator=torch.Generator()), str(run.checkpoint))


# ---- calibrate, evaluate, write -------------------------------------------------------------


def calibrate(experiment: Experiment, detector: Detector) -> CalibrationEvents:
    """Fit score and threshold on normal data; return the events that the threshold leaves there, an hour."""
    config, rate_hz = experiment.resolved.config, experiment.resolved.rate_hz
    normal = experiment.dataset.normal(config.score.calibrate_on)
    scores = detector.calibrate(experiment.normal)
    log.info("threshold %s: %.4f%s", config.threshold.method, detector.threshold["value"], promise(detector.threshold))
    calibrated_s, enough_s = sum(map(len, normal)) / rate_hz, ENOUGH_BASELINES * config.score.baseline_s
    if calibrated_s < enough_s:
        log.warning(
            "calibrated on %.0f s; a threshold from less than %.0f s says little: use more normal recordings",
            calibrated_s, enough_s,
        )  # fmt: skip
    return events_on_normal(detector, normal, scores)


def promise(threshold: dict[str, Any]) -> str:
    """Return what the threshold `false_events_per_hour` promises, in words; "" for the other rules."""
    if threshold["method"] != "false_events_per_hour":
        return ""
    rate, hours, low, high = threshold["parameters"]["rate"], *(threshold[key] for key in ("hours", "low", "high"))
    return f"; {rate:g} false events an hour asked for, {hours:.1f} h of calibration allow {low:.2g} to {high:.2g}"


@dataclass(frozen=True)
class Evaluated:
    """What a detector found in the test split, and what that is worth beside the baselines."""

    findings: Findings
    nights: dict[str, ScoredNight]
    metrics: RunMetrics


def evaluate(experiment: Experiment, detector: Detector) -> Evaluated:
    """Score the test split; measure the detector and its baselines against the labels."""
    dataset, meta = experiment.dataset, experiment.dataset.meta
    segments = dataset.splits["test"]
    scored = detector.detect([segment.values for segment in segments])
    chance = RandomScores(detector, sum(map(len, experiment.normal)))
    untrained = untrained_detector(experiment, detector.device)
    seen = recordings_as_seen(detector, segments, scored, labels_in_test_span(dataset), chance, untrained)
    rows = None if meta.series is None else meta.series.rows
    facts = (meta.dataset, meta.simulated, meta.fault_kinds)
    metrics = compute_metrics(detector, *facts, seen, experiment.vus_buffer, rows)
    starts = {name: start for name in meta.starts if (start := meta.start_of(name))}
    has_clock = any(segment.recording in starts for segment in segments)
    findings = Findings(detector, segments, scored, seen[LSTM], *facts[1:], starts, has_clock, meta.stages)
    nights = nights_of(findings)
    return Evaluated(findings, nights, with_nights(metrics, findings.recordings, nights))


def untrained_detector(experiment: Experiment, device: str) -> Detector:
    """Return a detector that is calibrated like the trained one, but whose LSTM has its first, random weights."""
    dataset = experiment.dataset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.config.training.seed)
        detector = Detector(build_model(experiment.resolved), dataset.scaler, experiment.resolved, device)
    detector.calibrate(experiment.normal)
    return detector


def write(experiment: Experiment, run: RunFolder, evaluated: Evaluated, plots: bool) -> None:
    """Write scores, events, facts on the data and, for `plots`, signals and pictures into a run folder."""
    meta, findings = experiment.dataset.meta, evaluated.findings
    times = STAMPS if meta.series is not None else CLOCKS if findings.has_clock else ()
    with run_files(run, times, signals=plots) as files:
        write_findings(files, findings)
        add_events(files, findings, evaluated.nights)
    write_data(run, dataset_facts(meta, experiment.dataset.channels), files.recordings)
    if plots:
        clear_pictures(run)
        draw_findings(run, findings)


def forecast_losses(fitted: Fitted) -> ForecastLosses:
    """Return the best validation loss beside those of two forecasts that learn nothing."""
    progress, resolved = fitted.trainer.progress, fitted.detector.resolved
    naive = naive_losses(fitted.validation, resolved.horizon, resolved.warm_up)
    return ForecastLosses(lstm=progress.best_loss, best_epoch=progress.best_epoch, **naive)


# ---- one run, several runs ------------------------------------------------------------------


def run_experiment(
    experiment: Experiment, run: RunFolder, device: str, plots: bool = True, until: int | None = None,
    in_tensorboard: bool = False,
) -> RunMetrics | None:  # fmt: skip
    """Train or resume, calibrate, score the test split, write the run folder.

    Args:
        until: pause when so many epochs are done; called again, the run resumes.
        in_tensorboard: write the history for TensorBoard, too.
    Returns: what `metrics.json` holds; None if training paused before its end.
    """
    clock = [time.perf_counter()]
    dataset = experiment.dataset
    with only_run_here(run.root), log_to_file(run.log):
        log.info("%s on %s: %s", dataset.meta.dataset, device, ", ".join(dataset.channels))
        fitted = start_training(experiment, run.checkpoint, device)
        start_folder(run, experiment.config)
        fit(experiment, fitted, run, plots, until, in_tensorboard)
        if not fitted.trainer.progress.finished:
            return None
        clock.append(time.perf_counter())
        calibration = calibrate(experiment, fitted.detector)
        fitted.save(run.checkpoint, experiment)
        evaluated = evaluate(experiment, fitted.detector)
        clock.append(time.perf_counter())
        write(experiment, run, evaluated, plots)
        about = {"forecast": forecast_losses(fitted), "calibration": calibration}
        if device == "cuda":
            about["cuda_peak_bytes"] = torch.cuda.max_memory_allocated()
        metrics = evaluated.metrics.model_copy(update=about)
        clock.append(time.perf_counter())
        names, total = ("training", "scoring", "reporting", "total"), clock[-1] - clock[0]
        seconds = dict(zip(names, [*np.diff(clock), total], strict=True))
        seed, simulated = experiment.config.training.seed, dataset.meta.simulated
        write_run(run, seed=seed, device=device, seconds=seconds, simulated=simulated)
        write_metrics(run.metrics, metrics)
        if plots:
            draw_free_response(run, metrics)
            draw_agreement(run, metrics)
            if dataset.meta.series is None:
                export_run(run)
            write_report(run.root)
    return metrics


def start_folder(run: RunFolder, config: ExperimentConfig) -> None:
    """Write the config of a run that begins or resumes; the results of an earlier scoring go."""
    remove_stale_results(run.metrics, run.report)
    run.plots.mkdir(exist_ok=True)
    write_json(run.config, config.model_dump())


def remove_stale_results(*results: Path) -> None:
    """Remove results that are about to be made again: their files stand for a run that is finished."""
    for path in results:
        path.unlink(missing_ok=True)


def planned_runs(config: ExperimentConfig, seeds: int) -> dict[str, ExperimentConfig]:
    """Return the config of each run by its folder: one a seed, and one a series of a NAB category."""
    names = nab_files.series_of(config.dataset.name)
    runs = {}
    for name in names or [config.dataset.name]:
        dataset = config.dataset.model_copy(update={"name": name})
        for seed in range(config.training.seed, config.training.seed + seeds):
            training = config.training.model_copy(update={"seed": seed})
            folder = "/".join([name] * bool(names) + [f"seed{seed}"] * (seeds > 1))
            runs[folder or "."] = config.model_copy(update={"dataset": dataset, "training": training})
    return runs


def load_all(runs: dict[str, ExperimentConfig], datasets: Path) -> dict[str, Experiment]:
    """Return the experiment of each run by its folder; every dataset is read once."""
    read: dict[str, Dataset] = {}
    for config in runs.values():
        name = config.dataset.name
        if name not in read:
            read[name] = load_dataset(dataset_folder(name, datasets), config.dataset.channels)
    return {folder: prepare(config, read[config.dataset.name]) for folder, config in runs.items()}


def run_all(
    config: ExperimentConfig, seeds: int, root: Path, datasets: Path, device: str, new: bool = True, rank: int = 0,
    in_tensorboard: bool = False,
) -> str:  # fmt: skip
    """Run or resume every run of a config one after the other; return the results table.

    All their datasets are read and checked before a folder is made.

    Args:
        rank: of this process in its group; only the first, 0, writes.
    """
    experiments = load_all(planned_runs(config, seeds), datasets)
    if rank:
        for folder, experiment in experiments.items():
            train_on_other_ranks(experiment, RunFolder(root / folder).checkpoint, device)
        return ""
    several = len(experiments) > 1
    with at_work_in(root, new):
        if not new:
            for folder, experiment in experiments.items():
                check_resumable(experiment, RunFolder(root / folder))
        if several:
            remove_stale_results(root / SUMMARY, RunFolder(root).report)
            write_json(root / RUNS, {"seeds": seeds, "folders": list(experiments)})
        write_json(root / "config.json", config.model_dump())    # last: with it the folder can be resumed
        results: dict[str, list[RunMetrics]] = {}
        for folder, experiment in experiments.items():
            found = run_experiment(experiment, RunFolder(root / folder), device, in_tensorboard=in_tensorboard)
            results.setdefault(experiment.config.dataset.name, []).append(found)
        table = summarize(root if several else None, results)
        if several:
            write_report(root)
    return table


def try_all(config: ExperimentConfig, seeds: int, datasets: Path, device: str, rank: int = 0) -> None:
    """Go the whole path of every run of a config in a temporary folder, without pictures: a dry run."""
    with tempfile.TemporaryDirectory() as folder:
        for name, experiment in load_all(planned_runs(config, seeds), datasets).items():
            if rank:
                train_on_other_ranks(experiment, Path(folder) / "none", device)
            else:
                run_experiment(experiment, new_run(Path(folder) / name), device, plots=False)


def summarize(parent: Path | None, results: dict[str, list[RunMetrics]]) -> str:
    """Return the results table of the seeds of one or more datasets; write summary.json beside the runs."""
    if parent is not None:
        summary = {name: over_seeds(seeds) for name, seeds in results.items()}
        write_json(parent / SUMMARY, {"seeds": len(next(iter(results.values()))), "datasets": summary})
    (first, *_), *_ = results.values()
    if first.is_series:
        return f"{markdown(forecast_rows(results))}\n\n{markdown(series_rows(results))}"
    return "\n\n".join(results_table(seeds) for seeds in results.values())


def resume(
    root: Path, overrides: Sequence[str], datasets: Path, device: str, rank: int = 0, out: Path | None = None,
    in_tensorboard: bool = False,
) -> str:  # fmt: skip
    """Resume a run, or all the runs of a folder; return the results table.

    Args:
        out: resume a copy of the trained models there, so that those in `root` stay as they are.
    """
    config, seeds = resumed_config(root, overrides, in_place=out is None), seeds_of(root)
    if out is not None and not rank:
        copy_models(root, out, planned_runs(config, seeds))
    return run_all(config, seeds, out or root, datasets, device, new=False, rank=rank, in_tensorboard=in_tensorboard)


def seeds_of(root: Path) -> int:
    """Return how many seeds a run folder, or a folder of several runs, was made for."""
    return read_runs(root).seeds if (root / RUNS).exists() else 1


def copy_models(root: Path, out: Path, folders: Collection[str]) -> None:
    """Copy what training left in the runs of a folder to another one, new or empty."""
    for folder in folders:
        if not RunFolder(root / folder).checkpoint.is_file():
            raise DataError(f"{root / folder}: its training has not begun; resume it in place, without --out")
    new_run(out)
    for folder in folders:
        before, after = RunFolder(root / folder), RunFolder(out / folder)
        after.root.mkdir(parents=True, exist_ok=True)
        for source, target in ((before.history, after.history), (before.checkpoint, after.checkpoint)):
            shutil.copyfile(source, target)


def resumed_config(root: Path, overrides: Sequence[str], in_place: bool = True) -> ExperimentConfig:
    """Return the config of a run to resume; only what comes after training may be overridden.

    Once a model is calibrated it may be in use, by a stream for instance: in place it keeps its config.
    """
    if not (root / "config.json").is_file():
        raise DataError(f"{root}: no config.json there; --resume needs the folder of a run")
    for old in root.rglob(OLD):
        raise DataError(f"{old}: {NOT_READ}")
    if (root / "metrics.json").is_file() and not RunFolder(root).checkpoint.exists():
        raise DataError(f"{root}: holds scored recordings; --resume needs the folder of a run that trains")
    config, before = load_experiment(root / "config.json", overrides), load_experiment(root / "config.json")
    for section in ("dataset", "model", "training"):
        if getattr(config, section) != getattr(before, section):
            raise DataError(f"--set {section}...: fixed in the run to be resumed; start a new run for that")
    trained = [RunFolder(root / folder).checkpoint for folder in planned_runs(before, seeds_of(root))]
    if in_place and config != before and any(load_checkpoint(p).get("threshold") for p in trained if p.is_file()):
        raise DataError(f"--set would change the model in {root}, which may be in use; name another folder with --out")
    return config
