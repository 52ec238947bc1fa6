"""Found events in the files of other programs: EDF+ annotations, Luna's .annot, NSRR's XML, a CSV for MNE.

    python -m reports.exports experiments/x --formats edf+ annot nsrr

Everything is read from a run folder, so that any finished run can be exported; the files go into `exports/` in it.
Times are seconds from time 0 of a recording, whose clock is stated where it has one. Names are those that the users of
a format expect: the standard texts of EDF+ (edfplus.info), the classes that Luna maps NSRR's annotations to, and the
concepts of NSRR's XML files, `name|name in the vendor's software`.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from config import read_json
from recordings.wall_clock import has_date
from reports.run_folder import MISFITS, RUNS, RunFolder, read_runs
from reports.run_view import start_of
from utils import ArgumentParser, DataError, atomic_path, run_cli, write_text

EPOCH_S = 30                             # of NSRR's files, which state it; no stages are exported
EDF_YEARS = range(1985, 2085)            # that its header can state
ELAPSED_FROM = datetime(1970, 1, 1)      # from which MNE counts where a recording has no date
EVIDENCE = ("reduction", "effort", "desaturation", "desaturation_delay_s", "confidence", "is_false")     # Luna's meta
RESPIRATORY = "Respiratory|Respiratory"


class Names(NamedTuple):
    """What a kind of event is called: in EDF+ and MNE, by Luna, by NSRR (concept and type)."""

    text: str
    luna: str
    concept: str
    type: str = RESPIRATORY


NAMES = {
    "obstructive_apnea": Names("Obstructive apnea", "apnea_obstructive", "Obstructive apnea|Obstructive Apnea"),
    "central_apnea": Names("Central apnea", "apnea_central", "Central apnea|Central Apnea"),
    "mixed_apnea": Names("Mixed apnea", "apnea_mixed", "Mixed apnea|Mixed Apnea"),
    "apnea": Names("Apnea", "apnea", "Apnea|Apnea"),
    "hypopnea": Names("Hypopnea", "hypopnea", "Hypopnea|Hypopnea"),
    "periodic_breathing": Names("Periodic breathing", "periodic_breathing", "Periodic breathing|Periodic Breathing"),
    "desaturation": Names("SpO2 desaturation", "desat", "SpO2 desaturation|SpO2 desaturation"),
    "signal_loss": Names("Signal loss", "artifact", "Signal artifact|SIGNAL-ARTIFACT"),
    "motion": Names("Body movement", "movement", "Body movement|Body Movement", ""),
    "other": Names("Other anomaly", "anomaly", "Other anomaly|Other Anomaly", ""),
}


def names_of(kind: str) -> Names:
    """Return what a kind is called; one that no format has a word for keeps its own."""
    text = kind.replace("_", " ").capitalize()
    return NAMES.get(kind) or Names(text, kind, f"{text}|{text}")


class Event(NamedTuple):
    """An event in seconds on the time of its recording; evidence: the cells of EVIDENCE that are filled."""

    start_s: float
    end_s: float
    names: Names
    channel: str
    evidence: dict[str, str]

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Scored:
    """A recording of a run: its clock at time 0 (None = it has none), its last time in s, its events in time order."""

    name: str
    start: datetime | None
    end_s: float
    events: list[Event]

    @property
    def zero(self) -> datetime:
        """The clock at time 0 without a zone; without a date, when MNE counts from."""
        is_dated = self.start is not None and has_date(self.start)
        return self.start.replace(tzinfo=None) if is_dated else ELAPSED_FROM


# ---- one recording --------------------------------------------------------------------------


def write_edf(path: Path, recording: Scored) -> None:
    """Write an EDF+C file of annotations alone, as hypnograms come; its header states the clock.

    A recording without a date, or of a clock that was never set, has 1 January 1985, EDF+'s word for none; a start
    within a second is kept.
    """
    from edfio import Edf, EdfAnnotation, Recording

    notes = [EdfAnnotation(event.start_s, round(event.duration_s, 3), event.names.text) for event in recording.events]
    start = recording.start
    stated = {} if start is None else {"starttime": start.time().replace(tzinfo=None)}
    if start is not None and start.year in EDF_YEARS:
        stated["recording"] = Recording(startdate=start.date())
    with atomic_path(path) as temporary:
        Edf([], annotations=notes, **stated).write(temporary)


def write_luna(path: Path, recording: Scored) -> None:
    """Write Luna's .annot: class, instance, channel, start, stop in seconds, and the evidence as `key=value;...`."""
    lines = ["class\tinstance\tchannel\tstart\tstop\tmeta"]
    for event in recording.events:
        channel = event.channel.replace("\t", " ") or "."
        meta = ";".join(f"{key}={value}" for key, value in event.evidence.items()) or "."
        lines.append(f"{event.names.luna}\t.\t{channel}\t{event.start_s:.3f}\t{event.end_s:.3f}\t{meta}")
    write_text(path, "\n".join(lines) + "\n")


def write_nsrr(path: Path, recording: Scored) -> None:
    """Write NSRR's XML, `PSGAnnotation` with `ScoredEvents`; the first event states the clock, as in its files."""
    from xml.etree.ElementTree import Element, SubElement, indent, tostring

    root = Element("PSGAnnotation")
    SubElement(root, "EpochLength").text = str(EPOCH_S)
    events = SubElement(root, "ScoredEvents")

    def add(**cells: str) -> None:
        event = SubElement(events, "ScoredEvent")
        for name, text in cells.items():
            SubElement(event, name).text = text

    clock = {} if recording.start is None else {"ClockTime": f"00.00.00 {recording.start:%H.%M.%S}"}
    add(EventType="", EventConcept="Recording Start Time", Start="0", Duration=f"{recording.end_s:.3f}", **clock)
    for event in recording.events:
        location = {"SignalLocation": event.channel} if event.channel else {}
        times = {"Start": f"{event.start_s:.3f}", "Duration": f"{event.duration_s:.3f}"}
        add(EventType=event.names.type, EventConcept=event.names.concept, **times, **location)
    indent(root)
    write_text(path, tostring(root, "unicode", xml_declaration=True) + "\n")


def write_mne(path: Path, recording: Scored) -> None:
    """Write onset, duration, description for `mne.read_annotations`.

    MNE takes the first onset for time 0, so that the first row is the recording's start.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["onset", "duration", "description"])
    for start_s, duration_s, words in [
        (0.0, 0.0, "Recording starts"), *((e.start_s, e.duration_s, e.names.text) for e in recording.events)
    ]:  # fmt: skip
        onset = recording.zero + timedelta(seconds=start_s)
        rows.writerow([onset.isoformat(sep=" ", timespec="microseconds"), f"{duration_s:.3f}", words])
    write_text(path, text.getvalue())


FORMATS = {                              # name -> the end of its files' names, by which `recordings/` finds them again
    "edf+": (".annotations.edf", write_edf),
    "annot": (".annot", write_luna),
    "nsrr": ("-nsrr.xml", write_nsrr),
    "csv": ("-annot.csv", write_mne),
}


# ---- a run ----------------------------------------------------------------------------------


def check_formats(formats: Sequence[str]) -> None:
    """Raise DataError if there is no such format, or a package for it is missing."""
    for name in formats:
        if name not in FORMATS:
            raise DataError(f"--export {name}: expected {', '.join(FORMATS)}")
    if "edf+" in formats:
        try:
            importlib.import_module("edfio")
        except ImportError:
            raise DataError("--export edf+ needs edfio: pip install -r requirements-formats.txt") from None


def export_run(run: RunFolder, formats: Sequence[str] = ()) -> None:
    """Write the events of every recording of a run into `exports/`; the CSV always."""
    for recording in read_scored(run):
        for name in dict.fromkeys((*formats, "csv")):
            end, write = FORMATS[name]
            write(run.export(recording.name, end), recording)


def export_runs(root: Path, formats: Sequence[str]) -> None:
    """Export a run, or every run of a folder of several."""
    check_formats(formats)
    for folder in read_runs(root).folders if (root / RUNS).exists() else ["."]:
        export_run(RunFolder(root / folder), formats)


def read_scored(run: RunFolder) -> list[Scored]:
    """Return the recordings of a run with their events.

    Raises: DataError if the folder is not of a finished run, or of series, which are no recordings.
    """
    for path in (run.data, run.events):
        if not path.is_file():
            raise DataError(f"{run.root}: no {path.name}; expected the folder of a finished run")
    try:
        data, events = read_json(run.data), _events_by_recording(run.events)
        if data["is_series"]:
            raise DataError(f"{run.root}: holds series; only the events of recordings are exported")
        return [
            Scored(
                one["name"],
                start_of(one),
                float(one["end_s"]),
                events.get(one["name"], []),
            )
            for one in data["recordings"]
        ]
    except MISFITS as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise DataError(f"{run.root}: data.json and events.csv are not of one run ({reason}); score it again") from None


def _events_by_recording(path: Path) -> dict[str, list[Event]]:
    """Return the events of each recording, in time order."""
    events: dict[str, list[Event]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            evidence = {name: row[name] for name in EVIDENCE if row[name]}
            event = Event(float(row["start_s"]), float(row["end_s"]), names_of(row["kind"]), row["channel"], evidence)
            events.setdefault(row["recording"], []).append(event)
    return {name: sorted(several, key=lambda event: event.start_s) for name, several in events.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("root", type=Path, metavar="RUN_DIR", help="the folder of a finished run, or of several")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), metavar="FORMAT", help=", ".join(FORMATS))
    args = parser.parse_args(argv)

    def body() -> int:
        export_runs(args.root, args.formats)
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
