"""Respiratory events beside psgscoring, which scores them by AASM's rules: same recordings, same labels, one table.

    python -m benchmarks.psgscoring_peer --venv /tmp/psgscoring --checkpoint experiments/x/checkpoint.safetensors

psgscoring is installed into a virtual environment of its own, made if it is not there. Recordings are simulated people
of other seeds than the model's (flow, belts, oximeter), and the CPAP recordings with a label under ../shared, of which
it gets the mask flow, as it comes and low-passed. Both are measured by `evaluation/event_overlap.py`: events in
labelled periodic breathing, or where the signal is labelled as lost, count as neither true nor false. Most simulated
hypopneas lose too little saturation for AASM's rule 1A, so there are two tables of simulated people: of all labels, and
of those that the model's profile counts. Of the CPAP recordings, `--leave-one-out DIR` takes this project's row from
the tables of `benchmarks.leave_one_out`, first seed, whose models have not met the machine.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import last_json, ready
from config import DATASET_CONFIG, DatasetConfig, load_dataset_config, load_profile, read_json, validate
from detection.breathing_events import APNEAS, HYPOPNEA, UNCLASSIFIED, BreathingEvent
from detection.checkpoint import load_calibrated, recorded_data
from detection.detector import Detector
from evaluation.nights import ScoredNight
from evaluation.results import RespiratoryMeasures
from evaluation.scored_recording import ScoredRecording
from recordings import preprocessing, simulator
from recordings.reading import name_of
from recordings.windowing import segments_where
from reports.findings import Findings, Seen, found_by_rule, group_recordings
from reports.nights import measures_of, nights_of
from reports.tables import Table, markdown
from utils import ROOT, ArgumentParser, DataError, run_cli, setup_logging

log = logging.getLogger(__name__)

PACKAGES = ("psgscoring==0.37.0",)
PROFILES = ("aasm_v3_rec", "aasm_v3_breath_dual")     # its default, and that of the clinic it comes from
ROLES = {"flow_lpm": "Flow", "thorax_au": "Thorax", "abdomen_au": "Abdomen", "spo2_pct": "SpO2"}
RATE_HZ, LOW_PASS_HZ = 25.0, 3.0
KINDS = {"obstructive": "obstructive_apnea", "central": "central_apnea", "mixed": "mixed_apnea"}
CPAP_MODEL = ROOT / "models" / "cpap_flow.safetensors"
US = "this project"
OTHER_PROFILE = "aasm_1999"                           # of ours, beside the model's: asks for no desaturation
Nights = dict[str, ScoredNight]                       # by recording


@dataclass(frozen=True)
class Prepared:
    """Recordings as this project scores them by each profile, and what the peer gets: arrays (channels, samples)."""

    recordings: list[ScoredRecording]
    nights: dict[str, Nights]
    inputs: dict[str, np.ndarray]
    channels: list[str]


def prepare(
    files: Mapping[str, Path], detector: Detector, data: DatasetConfig, profiles: Sequence[str] = ()
) -> Prepared:
    """Read and score recordings; keep the channels that both understand, on one grid for the peer.

    profiles: to score by, beside the detector's, which comes first.
    """
    channels = [name for name in ROLES if name in data.channels]
    recordings, inputs = [], {}
    nights: dict[str, Nights] = {name: {} for name in (detector.config.events.profile, *profiles)}
    for name, file in files.items():
        log.info("%s", name)
        recording = replace(preprocessing.load_recording(file, name_of(file), data, allow_dead=True), name=name)
        labelled = {name: preprocessing.labelled_events(recording)}
        t = np.arange(recording.t[0], recording.end_s, 1 / RATE_HZ)
        samples = [recording.channels[channel] for channel in channels]
        inputs[name] = np.array([np.interp(t - t[0], one.t - t[0], one.values) for one in samples])
        segment = preprocessing.on_grid(recording, data, [])
        segments = segments_where(segment, np.isfinite(segment.values).any(axis=1))
        scored = detector.detect([part.values for part in segments])
        seen = [Seen(one.score, one.alarm, one.channel) for one in scored]
        mine = group_recordings(detector, segments, seen, labelled, found_by_rule(detector, segments))
        recordings += mine
        findings = Findings(detector, segments, scored, mine, data.simulated)
        for profile in nights:
            nights[profile] |= nights_of(findings, load_profile(profile))
    return Prepared(recordings, nights, inputs, [ROLES[channel] for channel in channels])


def peer_events(python: Path, prepared: Prepared) -> dict[str, dict[str, list[BreathingEvent]]]:
    """Return psgscoring's events by profile and recording."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recordings.npz"
        np.savez(path, channels=prepared.channels, rate_hz=RATE_HZ, **prepared.inputs)
        command = [python, ROOT / "benchmarks" / "peer_psgscoring.py", path, "--profiles", *PROFILES]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"psgscoring failed: {done.stderr.strip().splitlines()[-1]}")
    starts = {recording.name: float(recording.t[0]) for recording in prepared.recordings}
    return {
        profile: {name: [_event(*row, starts[name]) for row in rows] for name, rows in found.items()}
        for profile, found in last_json(done.stdout).items()
    }


def _event(kind: str, onset_s: float, duration_s: float, zero_s: float) -> BreathingEvent:
    """Return an event of psgscoring; its hypopneas may be called by their kind, and an apnea may have none."""
    named = HYPOPNEA if "hypopnea" in kind else KINDS.get(kind, UNCLASSIFIED)
    start_s, nothing = zero_s + onset_s, (np.nan,) * 6
    return BreathingEvent(named, "flow", start_s, start_s + duration_s, *nothing)


def scored_by_peer(python: Path, prepared: Prepared) -> dict[str, Nights]:
    """Return who -> the nights with psgscoring's events, by each of its profiles."""
    mine = next(iter(prepared.nights.values()))
    return {
        f"psgscoring, {profile}": {name: replace(night, events=events[name]) for name, night in mine.items()}
        for profile, events in peer_events(python, prepared).items()
    }


def measured(
    nights: Mapping[str, Nights], recordings: Sequence[ScoredRecording], profile: str, faults: Sequence[str]
) -> dict[str, RespiratoryMeasures]:
    """Return who -> the measures of their nights against the recordings' labels."""
    return {who: measures_of(profile, recordings, mine, faults) for who, mine in nights.items()}


def with_desaturation(
    recordings: Sequence[ScoredRecording], desaturations: Mapping[str, pd.DataFrame], points: float
) -> list[ScoredRecording]:
    """Return the recordings without the labelled hypopneas that lose less than `points` of saturation."""
    kept = []
    for recording in recordings:
        labels = desaturations[recording.name]
        shallow = labels.loc[(labels["label"] == HYPOPNEA) & (labels["desaturation"] < points), "start_s"].to_numpy()
        is_shallow = [e.kind == HYPOPNEA and np.isclose(e.start_s, shallow).any() for e in recording.labelled]
        labelled = [event for event, out in zip(recording.labelled, is_shallow, strict=True) if not out]
        kept.append(replace(recording, labelled=labelled))
    return kept


def simulated_people(seeds: Sequence[int], out: Path) -> dict[str, Path]:
    """Return the recordings of simulated people, made where they are missing, by their names."""
    files = {}
    for seed in seeds:
        folder = out / f"people-{seed}"
        if simulator.unfinished_arguments(folder) or not folder.is_dir():
            simulator.write_sessions(folder, seed=seed, train=0, calibration=0)
        paths = sorted(path for path in folder.glob("session_*.csv") if not path.stem.endswith(".events"))
        files |= {f"people-{seed}-{path.stem}": path for path in paths}
    return files


def simulated_tables(python: Path, seeds: Sequence[int], checkpoint: Path, out: Path) -> list[Table]:
    """Return the table of all labels of simulated people, and that of those which the model's profile counts."""
    state, detector = load_calibrated(checkpoint, "cpu")
    data = recorded_data(state, detector, checkpoint.name)
    if not (data and data.simulated and set(ROLES) <= set(data.channels)):
        raise DataError(f"{checkpoint}: not a model of the simulated recordings; expected channels {', '.join(ROLES)}")
    files = simulated_people(seeds, out)
    prepared, profile = prepare(files, detector, data, [OTHER_PROFILE]), detector.config.events.profile
    nights = {f"{US}, {name}": mine for name, mine in prepared.nights.items()} | scored_by_peer(python, prepared)
    title, points = f"simulated people, seeds {', '.join(map(str, seeds))}", load_profile(profile).desaturation_points
    tables = [table_of(title, measured(nights, prepared.recordings, profile, data.fault_kinds))]
    if points is not None:
        labels = {name: pd.read_csv(path.with_suffix(".events.csv")) for name, path in files.items()}
        counted = with_desaturation(prepared.recordings, labels, points)
        rows = measured(nights, counted, profile, data.fault_kinds)
        tables.append(table_of(f"{title}; hypopneas that lose {points:g} points", rows))
    return tables


def cpap_nights() -> tuple[Prepared, str]:
    """Return the CPAP recordings that have a label, and the profile of the model that is used to read them."""
    state, detector = load_calibrated(CPAP_MODEL, "cpu")
    data, known = recorded_data(state, detector, CPAP_MODEL.name), load_dataset_config(DATASET_CONFIG, "cpap_flow")
    folder = DATASET_CONFIG.parent / known.raw_dir
    files = {name: folder / known.file_pattern.replace("{name}", name) for name in known.split.names}
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0].name} is not in {known.raw_dir}; {known.raw_hint}, or use --no-cpap")
    labelled = {name: path for name, path in files.items() if preprocessing.load_recording(path, name, known).events}
    return prepare(labelled, detector, data), detector.config.events.profile


def low_passed(prepared: Prepared) -> Prepared:
    """Return recordings whose signals hold nothing above 3 Hz."""
    from scipy.signal import butter, sosfiltfilt

    sos = butter(4, LOW_PASS_HZ, fs=RATE_HZ, output="sos")
    return replace(prepared, inputs={name: sosfiltfilt(sos, values) for name, values in prepared.inputs.items()})


def cpap_rows(python: Path, leave_one_out: Path | None) -> dict[str, RespiratoryMeasures]:
    """Return who -> the measures of the CPAP recordings; of this project, by models that have not met the machine."""
    nights, profile = cpap_nights()
    rows: dict[str, RespiratoryMeasures] = {}
    if leave_one_out is not None:
        path = leave_one_out / "tables.json"
        seeds = read_json(path).get("respiratory events", {}).get("all that have a label")
        if not seeds:
            raise DataError(f"{path}: holds no respiratory events; run benchmarks.leave_one_out again")
        rows[f"{US}, machines left out"] = validate(RespiratoryMeasures, seeds[0], str(path))
    for how, one in (("as it comes", nights), ("low-passed at 3 Hz", low_passed(nights))):
        found = measured(scored_by_peer(python, one), one.recordings, profile, [])
        rows |= {f"{who}, {how}": measures for who, measures in found.items()}
    return rows


def table_of(title: str, rows: Mapping[str, RespiratoryMeasures]) -> Table:
    """Return the measures as a table, a row each."""
    table = [[title, "labelled", "found", "F1 at IoU 0.2", "at 0.5", "apneas of the right kind", "hypopneas paired",
              "onset error, s", "duration error, s", "AHI bias", "mean absolute error"]]  # fmt: skip
    for who, one in rows.items():
        paired = {kind: {name: n for name, n in row.items() if name} for kind, row in one.kinds.items()}
        right = sum(paired.get(kind, {}).get(kind, 0) for kind in APNEAS)
        apneas = sum(sum(paired.get(kind, {}).values()) for kind in APNEAS)
        unnamed = sum(paired.get(kind, {}).get(UNCLASSIFIED, 0) for kind in APNEAS)
        table.append([
            who, str(one.labelled), str(one.found), *(f"{f1:.2f}" for f1 in one.f1.values()),
            f"{right} of {apneas}" + (f", {unnamed} without a kind" if unnamed else ""),
            f"{sum(paired.get(HYPOPNEA, {}).values())} of {sum(one.kinds.get(HYPOPNEA, {}).values())}",
            *(f"{x:.1f}" for x in (one.onset_error_s, one.duration_error_s, one.ahi_bias, one.ahi_mae)),
        ])  # fmt: skip
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--venv", type=Path, required=True, metavar="DIR", help="psgscoring's virtual environment")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="F", help="a model of simulated recordings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the simulated people (1 2 3)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "datasets", metavar="DIR", help="where simulated people are kept (datasets/)"
    )
    parser.add_argument("--no-cpap", action="store_true", help="leave out the nights under ../shared")
    parser.add_argument("--leave-one-out", type=Path, metavar="DIR", help="tables of benchmarks.leave_one_out")
    args = parser.parse_args(argv)
    setup_logging()

    def body() -> int:
        python = ready(args.venv, PACKAGES)
        for table in simulated_tables(python, args.seeds, args.checkpoint, args.out):
            print(markdown(table), end="\n\n", flush=True)
        if not args.no_cpap:
            rows = cpap_rows(python, args.leave_one_out)
            print(markdown(table_of("CPAP recordings with a label, mask flow alone", rows)))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
