"""Machines that the detector has never met: each of the four CPAP nights is scored by a model of the other three.

    python -m benchmarks.leave_one_out --seeds 3 --out experiments/leave-one-out
    python -m benchmarks.leave_one_out --machines jl --seeds 1 --out experiments/leave-one-out     # a part of it

Training, scaling and calibration use the other machines alone. Beside the LSTM stand an untrained one, the
recording's own last breaths in the place of its forecasts (the last horizon, once more), the rules without a model
and random scores; each gets the threshold that the config asks for, on its own calibration scores. The first table is
over all machines at one threshold a detector, read off the test recordings; the second is at the deployed thresholds;
the third holds the LSTM's respiratory events against the labels, in one-to-one pairs.
Models that are there are not trained again, so that several processes can share the work.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from config import (
    DATASET_CONFIG,
    DatasetConfig,
    ExperimentConfig,
    load_dataset_config,
    load_experiment,
    load_profile,
    validate,
)
from data_loader import load_dataset
from detection.detector import Detector
from evaluation.detector_metrics import detector_metrics
from evaluation.free_response import RATES
from evaluation.nights import ScoredNight
from evaluation.results import LSTM, RANDOM, UNTRAINED, DetectorMetrics, RespiratoryMeasures
from evaluation.scored_recording import ScoredRecording
from experiment import Experiment, fit, labels_in_test_span, prepare, start_training, untrained_detector
from lstm_model import network_input
from recordings.preprocessing import preprocess_recordings
from reports.findings import Findings, RandomScores, recordings_as_seen
from reports.nights import measures_of, nights_of
from reports.run_folder import RunFolder
from reports.tables import Table, markdown
from utils import ROOT, ArgumentParser, DataError, resolve_device, run_cli, setup_logging, write_json, write_text

log = logging.getLogger(__name__)

MACHINES = {"AirCurve": "cpap_aircurve", "AirSense": "cpap_airsense", "jl": "cpap_jl", "ASV": "cpap_asv"}
OWN_BREATHS = "own last breaths"
ENDS = ("apnea", "hypopnea")            # of kinds, counted apart
Scored = dict[str, list[ScoredRecording]]


@dataclass(frozen=True)
class Machine:
    """A machine's recordings as each detector sees them, and the LSTM's nights by recording.

    any_duration: the nights scored without a least duration of an event.
    """

    seen: Scored
    nights: dict[str, ScoredNight]
    any_duration: dict[str, ScoredNight]


class LastBreaths(nn.Module):
    """In the place of the LSTM: forecasts the last horizon once more, whose spread is that of the last breaths."""

    def __init__(self, channels: int, horizon: int) -> None:
        super().__init__()
        self.channels, self.horizon = channels, horizon

    def changes(self, x: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the forecast changes (B, T, H, C) of steps x (B, T, C), and the last steps as the state."""
        values = network_input(x)
        past = values[:, :1].expand(-1, self.horizon - 1, -1) if state is None else state[0][0]
        steps = torch.cat([past, values], dim=1)                             # (B, H - 1 + T, C)
        again = steps.unfold(1, self.horizon, 1).transpose(2, 3)             # (B, T, H, C)
        return again - values.unsqueeze(2), (steps[None, :, len(steps[0]) - self.horizon + 1 :],)


def machine_of(recording: str) -> str:
    """Return the machine of a recording by its name."""
    return next(name for name, prefix in MACHINES.items() if recording.startswith(prefix))


def without(machine: str, data: DatasetConfig) -> DatasetConfig:
    """Return the dataset with all of a machine's recordings for test, and none of them elsewhere."""
    names = data.split.names
    split = {
        "train": [name for name in names if machine_of(name) != machine],
        "test": [name for name in names if machine_of(name) == machine],
        "val_fraction": data.split.val_fraction,
    }
    return validate(DatasetConfig, data.model_dump() | {"split": split}, f"without {machine}")


def detectors_of(experiment: Experiment, device: str, folder: Path) -> Iterator[tuple[str, Detector]]:
    """Yield the trained detector, and those with something else in the place of the LSTM, all calibrated."""
    run = RunFolder(folder)
    fitted = start_training(experiment, run.checkpoint, device)
    fit(experiment, fitted, run, plots=False, until=None)
    resolved, scaler = experiment.resolved, experiment.dataset.scaler
    breaths = Detector(LastBreaths(len(resolved.channels), resolved.horizon), scaler, resolved, device)
    for name, detector in ((LSTM, fitted.detector), (OWN_BREATHS, breaths)):
        detector.calibrate(experiment.normal)
        yield name, detector
    yield UNTRAINED, untrained_detector(experiment, device)


def score_machine(experiment: Experiment, device: str, folder: Path) -> Machine:
    """Return the test recordings as each detector sees them, and the nights."""
    dataset = experiment.dataset
    segments, labelled = dataset.splits["test"], labels_in_test_span(dataset)
    seen: Scored = {}
    nights: list[dict[str, ScoredNight]] = []
    profile = load_profile(experiment.config.events.profile)
    for name, detector in detectors_of(experiment, device, folder):
        scored = detector.detect([segment.values for segment in segments])
        chance = RandomScores(detector, sum(map(len, experiment.normal)))
        found = recordings_as_seen(detector, segments, scored, labelled, chance)
        mine = found.pop(LSTM)
        if name == LSTM:
            findings = Findings(detector, segments, scored, mine, dataset.meta.simulated)
            profiles = (profile, profile.model_copy(update={"min_duration_s": 0.0}))
            nights = [nights_of(findings, each) for each in profiles]
        seen |= {name: mine} | ({} if seen else found)                       # the others, once
    return Machine(seen, *nights)


def part(machine: str, config: ExperimentConfig, out: Path, device: str) -> Machine:
    """Return what the detectors make of a machine's recordings; the model is kept."""
    folder = out / machine / f"seed{config.training.seed}"
    data = without(machine, load_dataset_config(DATASET_CONFIG, "cpap_flow"))
    dataset = load_dataset(preprocess_recordings("cpap_flow", data, ROOT, out / machine))
    folder.mkdir(parents=True, exist_ok=True)
    log.info("%s is left out, seed %d", machine, config.training.seed)
    return score_machine(prepare(config, dataset), device, folder)


def tables(seeds: Sequence[Mapping[str, Machine]], config: ExperimentConfig) -> tuple[str, dict[str, Any]]:
    """Return the three tables in Markdown, and their numbers. Each seed is machine -> what was made of it."""
    rate_hz, rows = 5.0, [["found of apneas + hypopneas at false events/h", *(f"<= {r:g}" for r in RATES)]]
    deployed = [["at the deployed threshold", *seeds[0]]]
    numbers: dict[str, Any] = {}

    def measured(one: Mapping[str, Machine], name: str, machines: Sequence[str]) -> DetectorMetrics:
        recordings = [recording for machine in machines for recording in one[machine].seen[name]]
        return detector_metrics(recordings, [], rate_hz, config.events, None)

    first, last = (LSTM, OWN_BREATHS, UNTRAINED), (RANDOM,)
    rules = [name for name in next(iter(seeds[0].values())).seen if name not in (*first, *last)]
    for name in (*first, *rules, *last):
        results = [measured(one, name, list(one)) for one in seeds]
        curves = [[counts_at(result, rate) for rate in RATES] for result in results]
        rows.append([name, *(_cell([curve[k] for curve in curves]) for k in range(len(RATES)))])
        numbers[name] = {"at": curves}
        row = [name]
        for machine in seeds[0]:
            own = [measured(one, name, [machine]) for one in seeds]
            rates = [result.events.false_events_per_hour for result in own]
            found = [total_of(result, "found") for result in own]
            labelled = _cell([total_of(own[0], "labelled")])
            row.append(f"{_spread(rates)}/h; {_cell(found)} of {labelled}")
            numbers[name][machine] = {"false_events_per_hour": rates, "found": found}
        deployed.append(row)
    paired, numbers["respiratory events"] = respiratory_rows(seeds, config.events.profile)
    return "\n\n".join(map(markdown, (rows, deployed, paired))) + "\n", numbers


def respiratory_rows(seeds: Sequence[Mapping[str, Machine]], profile: str) -> tuple[Table, dict[str, Any]]:
    """Return how the LSTM's respiratory events fit the labelled ones, a row a machine, and its numbers, one a seed.

    The last row is of all recordings with a labelled event. The AHI is of a machine's whole night. An unpaired event is
    a false one; how many there would be without the profile's least duration of an event stands beside it.
    """
    names = {machine: [machine] for machine in seeds[0]} | {"all that have a label": list(seeds[0])}
    table = [[f"respiratory events, profile {profile}", "labelled", "found", "F1 at IoU 0.2", "at 0.5",
              "onset error, s", "duration error, s", "unpaired an hour", "without the least duration",
              "AHI found, labelled"]]  # fmt: skip
    numbers = {}
    for row, machines in names.items():
        several = [_respiratory([one[m] for m in machines], profile, len(machines) > 1) for one in seeds]
        if several[0] is not None:
            measures, anyhow, hours = zip(*several, strict=True)
            numbers[row] = [one.model_dump() for one in measures]
            table.append([row, str(measures[0].labelled), *_respiratory_cells(measures, anyhow, hours[0])])
    return table, numbers


def _respiratory(
    machines: Sequence[Machine], profile: str, only_labelled: bool
) -> tuple[RespiratoryMeasures, RespiratoryMeasures, float] | None:
    """Return the measures of machines' recordings, joined, those without the least duration, and hours of breathing.

    None without a label.
    """
    recordings = [recording for machine in machines for recording in machine.seen[LSTM]]
    if only_labelled:
        recordings = [recording for recording in recordings if recording.labelled]
    nights, anyhow = (
        {name: night for machine in machines for name, night in getattr(machine, how).items()}
        for how in ("nights", "any_duration")
    )
    measures, without_rule = (measures_of(profile, recordings, scored, []) for scored in (nights, anyhow))
    hours = sum(nights[recording.name].summary.breathing_hours for recording in recordings)
    return None if measures is None else (measures, without_rule, hours)


def _respiratory_cells(
    seeds: Sequence[RespiratoryMeasures], anyhow: Sequence[RespiratoryMeasures], hours: float
) -> list[str]:
    numbers = [[one.found, *one.f1.values(), one.onset_error_s, one.duration_error_s,
                *((each.found - each.paired["0.2"]) / hours for each in (one, other))]
               for one, other in zip(seeds, anyhow, strict=True)]  # fmt: skip
    digits = (0, 2, 2, 1, 1, 2, 2)
    cells = [f"{np.mean(column):.{n}f}" for column, n in zip(zip(*numbers, strict=True), digits, strict=True)]
    found = np.mean([one.found for one in seeds]) / hours
    return [*cells, f"{found:.1f}, {seeds[0].labelled / hours:.1f}"]


def counts_at(result: DetectorMetrics, rate: float) -> tuple[int, int]:
    """Return how many apneas and hypopneas are found at a rate of the free-response curve."""
    curve = result.free_response
    place = curve.false_events_per_hour.index(rate)
    counts = {kind: round(recall[place] * result.kinds[kind].labelled) for kind, recall in curve.kinds.items()}
    return sum(n for kind, n in counts.items() if kind.endswith("apnea")), counts.get("hypopnea", 0)


def total_of(result: DetectorMetrics, what: Literal["found", "labelled"]) -> tuple[int, int]:
    """Return how many apneas and hypopneas are found at the deployed threshold, or labelled."""
    return tuple(sum(getattr(row, what) for kind, row in result.kinds.items() if kind.endswith(end)) for end in ENDS)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values):.2f}" if len(values) > 1 else "")


def _cell(counts: Sequence[tuple[int, int]]) -> str:
    apneas, hypopneas = np.array(counts, float).T
    if len(counts) == 1:
        return f"{apneas[0]:.0f} + {hypopneas[0]:.0f}"
    return f"{apneas.mean():.1f} ± {apneas.std():.1f} + {hypopneas.mean():.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where models and tables are kept")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each machine's model (3)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="K", help="the first of them (0)")
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=list(MACHINES), help="these alone")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="override a config key")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the LSTM runs (auto)")
    args = parser.parse_args(argv)
    setup_logging()

    def body() -> int:
        if args.seeds < 1:
            raise DataError(f"--seeds {args.seeds}: expected 1 or more")
        device, seeds = resolve_device(args.device), []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            chosen = ["dataset.name=cpap_flow", f"training.seed={seed}", *args.set]
            config = load_experiment(ROOT / "pure_lstm_config_cpap.json", chosen)
            seeds.append({machine: part(machine, config, args.out, device) for machine in args.machines})
        text, numbers = tables(seeds, config)
        write_text(args.out / "tables.md", text)
        write_json(args.out / "tables.json", numbers)
        print(text)
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
