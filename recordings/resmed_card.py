"""Read the nights of a ResMed card: `DATALOG/<night>/<stamp>_<kind>.edf`, an EDF a session and kind.

BRP holds flow and mask pressure, PLD what the device computes every 2 s, SA2 or SAD an oximeter, EVE the scored events,
CSL Cheyne-Stokes respiration. Source: the files themselves; names of signals as in OSCAR's ResMed loader (older devices
and other languages included).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from recordings.edf import CHECKSUM, Header, read_annotations, read_edf, read_header
from recordings.signals import Annotation, NoSamples, Samples, SignalFile, all_times, unique_names
from utils import DataError, counted

FILE = re.compile(r"\d{8}_\d{6}_(BRP|PLD|SA2|SAD|EVE|CSL)\.edf", re.IGNORECASE)
LOG, SUMMARY = "DATALOG", "str.edf"
CHANNELS = {
    "BRP": {"flow": ("flow",), "mask_pressure": ("press", "mask pres"), "breath_trigger": ("trigcycevt", "resp event")},
    "PLD": {
        "mask_pressure_2s": ("maskpress", "mask pres"), "therapy_pressure": ("press", "therapy pres"),
        "expiratory_pressure": ("eprpress", "exp pres"), "inspiratory_pressure": ("ipap", "insp pres"),
        "leak": ("leak", "leck", "fuites", "fuite", "fuga", "lekk", "läck"), "breath_rate": ("resprate", "rr", "af"),
        "tidal_volume": ("tidvol", "vt", "vc"), "minute_ventilation": ("minvent", "mv", "vm"),
        "target_ventilation": ("tgtvent",), "ie_ratio": ("ieratio", "i:e"), "snore": ("snore",),
        "flow_limitation": ("flowlim", "ffl index"), "inspiratory_time": ("ti",),
        "inspiratory_time_5_breaths": ("b5itime",), "expiratory_time_5_breaths": ("b5etime",),
    },
    "SA2": {"spo2": ("spo2",), "pulse": ("pulse", "puls", "pouls", "pols")},
}  # fmt: skip
CHANNELS["SAD"] = CHANNELS["SA2"]
LABELLED = {"40ms": "BRP", "2s": "PLD", "1s": "SA2"}                  # the end of a label -> the kind of its file
EVENTS = ("EVE", "CSL")
MEASURED_BY = {"airflow": "flow", "oximetry": "spo2"}                # what a channel measures -> the card's channel
SAME_SESSION = timedelta(seconds=60)                                  # between the starts of its files, at most
LONGEST_NIGHT_S, CLOCK_S = 36 * 3600, 2.0                            # clocks of sessions are in whole seconds
SUPPORTED = "supported are ResMed cards (DATALOG/<night>/*_BRP.edf), EDF, BDF, WFDB and tables; export its flow as one"


@dataclass
class _Parts:
    """What is collected of a night, in seconds from `origin`, the start of its first file."""

    origin: datetime
    signals: dict[str, list[tuple[float, Samples]]] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_night(path: Path) -> bool:
    """Return whether a path is a folder with files of a ResMed night."""
    return path.is_dir() and any(FILE.fullmatch(file.name) for file in path.iterdir())


def nights_in(folder: Path) -> dict[str, Path]:
    """Return the nights of a card, of its DATALOG folder, or the one that the folder is, by name; none = no card."""
    folder = folder if folder.name.strip(".") else folder.resolve()          # "." has no name
    if is_night(folder):
        return {folder.name: folder}
    inner = [path for path in folder.iterdir() if path.name.upper() == LOG and path.is_dir()]
    if inner and is_night(inner[0]):
        return {inner[0].name: inner[0]}
    return {path.name: path for path in sorted((inner or [folder])[0].iterdir()) if is_night(path)}


def check_supported(folder: Path) -> None:
    """Raise DataError if a folder is the card of another maker, or one of ResMed without a night."""
    names = {path.name.lower() for path in (folder, *folder.iterdir())}
    if {LOG.lower(), SUMMARY} & names:
        raise DataError(
            f"{folder}: a ResMed card without a night: expected {LOG}/<night>/*_BRP.edf; {SUMMARY.upper()} holds a "
            "summary of each day, no samples"
        )
    maker = {
        "Philips": {"p-series"} & names or {name for name in names if re.fullmatch(r"\d+\.00[0-9]", name)},
        "Loewenstein": {"config.pscfg", "therapy.psdat", "config.pcfg", "therapy.pdat", "wm_data.tdf"} & names,
    }
    for name, found in maker.items():
        if found:
            raise DataError(f"{folder}: a {name} card ({min(found)}), which cannot be read; {SUPPORTED}")


def files_of(night: Path) -> list[Path]:
    """Return the files of a night that are read, sorted by their stamps."""
    return sorted(file for file in night.iterdir() if FILE.fullmatch(file.name))


def has_events(night: Path) -> bool:
    """Return whether the device scored events in a night, be it none."""
    return any(_kind(file) == "EVE" for file in files_of(night))


def channel_for(name: str, measures: str) -> str:
    """Return the card's channel for a dataset's channel, by its name or source, or else by what it measures.

    A card names its channels by what they are, a dataset may call them otherwise: `flow_lpm`, which measures airflow,
    is `flow`; `mask_pressure_cmh2o` begins as `mask_pressure` does. The labels in the files, such as Press.40ms, are
    known as well. A name that fits nothing is returned as it is.
    """
    known = [channel for kind in CHANNELS.values() for channel in kind]
    kind = LABELLED.get(name.rpartition(".")[2])
    if name in known:
        return name
    if kind and _channel_of(name, kind) in CHANNELS[kind]:
        return _channel_of(name, kind)
    if measures in MEASURED_BY:
        return MEASURED_BY[measures]
    alike = [channel for channel in known if re.match(rf"{channel}(?![a-z0-9])[^a-z0-9]", name.lower())]
    return max(alike, key=len, default=name)


def read_night(night: Path, wanted: Sequence[str] | None = None) -> SignalFile:
    """Read a night: its sessions on one clock, with gaps between them; time 0 is the first sample of any file.

    Events end where the device stamps them; one without a duration has None. What an oximeter did not measure, and
    what the device did not compute, is NaN. A channel that other nights may have is empty.

    Args:
        wanted: channels by the names in CHANNELS; None = all that are there.
    Raises: NoSamples if no file has a record; DataError if a file with a wanted channel, or with events, cannot be
        read, if sessions overlap, or a wanted channel is unknown.
    """
    headers, notes = _headers(night, wanted)
    events = {file: header for file, header in headers.items() if _kind(file) in EVENTS}
    filled = {file: header for file, header in headers.items() if file not in events and header.records}
    if not filled:
        raise NoSamples(f"{night.name}: no samples in its {counted(len(headers), 'file')}; leave this night out")
    for file, header in (filled | events).items():
        if header.start is None:
            raise DataError(f"{file.name}: its header has no start; expected one, to join the sessions of a night")
    parts = _Parts(min(header.start for header in filled.values()), notes=notes)
    for file, header in filled.items():
        _add_signals(parts, file, header, wanted)
    for file, header in events.items():
        _add_events(parts, header, _kind(file))
    _note_what_is_missing(parts, headers, filled)
    signals = {name: _joined(night, name, parts.signals.pop(name)) for name in list(parts.signals)}
    if wanted is not None:
        signals = {name: signals.get(name) or _absent(night, name, filled) for name in wanted}
    rows = all_times(list(signals.values()))
    _check_length(night, rows)
    sessions = sum(_kind(file) == "BRP" for file in filled)
    about = f"night of a ResMed card, {counted(sessions, 'session')}, started {parts.origin}"
    return SignalFile(about, signals, parts.annotations, parts.notes, parts.origin, rows)


def _absent(night: Path, name: str, headers: dict[Path, Header]) -> Samples:
    """Return an empty signal for a channel that other nights may have; raise DataError if no night can."""
    if any(name in kind for kind in CHANNELS.values()):
        return Samples(np.empty(0), np.empty(0))
    found = dict.fromkeys(name for file, header in headers.items() for name in _labels_of(header, _kind(file)))
    raise DataError(f"{night.name}: no channel {name!r}; the night has {', '.join(found)}")


def _kind(file: Path) -> str:
    return FILE.fullmatch(file.name)[1].upper()


def _headers(night: Path, wanted: Sequence[str] | None) -> tuple[dict[Path, Header], list[str]]:
    """Return the headers of a night's files, and notes on those that cannot be read and hold nothing wanted."""
    headers, notes = {}, []
    for file in files_of(night):
        kind = _kind(file)
        try:
            headers[file] = read_header(file)
        except DataError as error:
            if wanted is not None and (kind in EVENTS or set(wanted) & CHANNELS[kind].keys()):
                raise
            notes.append(f"not read: {error}")
    return headers, notes


def _channel_of(label: str, kind: str) -> str:
    """Return the channel of a signal such as Flow.40ms, by the kind of its file; an unknown one keeps its name."""
    stem = re.sub(r"\.\d+m?s$", "", label.strip().lower())
    for name, stems in CHANNELS[kind].items():
        if stem in stems:
            return name
    return re.sub(r"\W+", "_", stem).strip("_") or "unnamed"


def _labels_of(header: Header, kind: str) -> dict[str, str]:
    """Return {channel: name of the signal} of a file; the second of two that are the same channel keeps its name."""
    found: dict[str, str] = {}
    for name in unique_names([channel.label for channel in header.signals]):
        channel = _channel_of(name, kind)
        found[name if channel in found else channel] = name
    return found


def _add_signals(parts: _Parts, file: Path, header: Header, wanted: Sequence[str] | None) -> None:
    """Add the wanted signals of a session's file, with NaN for what was not measured."""
    kind = _kind(file)
    labels = {name: label for name, label in _labels_of(header, kind).items() if wanted is None or name in wanted}
    if not labels:
        return
    read = read_edf(file, list(labels.values()))
    parts.notes += [f"{file.name}: {note}" for note in read.notes]
    offset_s = (header.start - parts.origin).total_seconds()
    for name, label in labels.items():
        signal = read.signals[label]
        if kind != "BRP":                                            # stored as -1; an oximeter that is off may say 0
            signal.values[signal.values < 0] = np.nan
        if name in CHANNELS["SA2"]:
            signal.values[(signal.values == 0) | ((signal.values > 100) & (name == "spo2"))] = np.nan
        parts.signals.setdefault(name, []).append((offset_s, signal))


def _joined(night: Path, name: str, pieces: list[tuple[float, Samples]]) -> Samples:
    """Return a channel of all sessions; the samples that two clocks in whole seconds put twice are left out."""
    times, values, last_s = [], [], -np.inf
    first = pieces[0][1]
    for offset_s, signal in sorted(pieces, key=lambda piece: piece[0]):
        t = signal.t + offset_s
        if t[0] <= last_s - CLOCK_S:
            raise DataError(
                f"{night.name}: a session of {name} starts at {t[0]:g} s, before the one before ends at {last_s:g} s; "
                "was the device's clock set back? put its sessions into a folder each"
            )
        if signal.unit != first.unit or not np.isclose(_step_s(signal), _step_s(first)):
            raise DataError(f"{night.name}: {name} changes its unit or rate between sessions; put them apart")
        keep = t > last_s
        times.append(t[keep])
        values.append(signal.values[keep])
        last_s = max(last_s, t[-1])
    return replace(first, t=np.concatenate(times), values=np.concatenate(values))


def _step_s(signal: Samples) -> float:
    return float(signal.t[1] - signal.t[0]) if len(signal.t) > 1 else np.nan


def _add_events(parts: _Parts, header: Header, kind: str) -> None:
    """Add the events of a file of annotations alone, stamped at their ends in seconds from its own start."""
    _, annotations, notes = read_annotations(header)
    parts.notes += [f"{header.path.name}: {note}" for note in notes]
    offset_s = (header.start - parts.origin).total_seconds()
    begun: dict[str, float] = {}
    for one in annotations:
        at_s, (text, _, border) = one.at_s + offset_s, one.text.rpartition(" ")
        if one.text == "Recording starts":
            continue
        if kind == "CSL" and border == "Start":
            begun[text] = at_s
        elif kind == "CSL" and border == "End" and text in begun:
            start_s = begun.pop(text)
            parts.annotations.append(Annotation(start_s, at_s - start_s, text))
        else:
            parts.annotations.append(Annotation(at_s, one.duration_s or None, one.text, is_end=True))


def _note_what_is_missing(parts: _Parts, headers: dict[Path, Header], filled: dict[Path, Header]) -> None:
    """Note once what is left out of a night, and which events the device stored no duration of."""
    empty = [file.name for file in headers if file not in filled and _kind(file) not in EVENTS]
    has_checksums = any(channel.label == CHECKSUM for header in filled.values() for channel in header.channels)
    left_out = [f"the checksums in {CHECKSUM}"] if has_checksums else []
    left_out += [f"files of 0 records ({', '.join(empty)})"] if empty else []
    if left_out:
        parts.notes.append(f"left out: {' and '.join(left_out)}")
    parts.notes += _lost_files(headers, filled)
    found = Counter(one.text for one in parts.annotations if one.duration_s is None)
    if found:
        kinds = ", ".join(f"{text!r} ({count})" for text, count in found.items())
        parts.notes.append(
            f"{counted(found.total(), 'event')} without a duration, {kinds}: annotation_s is how long before its stamp "
            "such an event begins"
        )


def _lost_files(headers: dict[Path, Header], filled: dict[Path, Header]) -> list[str]:
    """Return notes on sessions whose flow, or events where the device keeps a file a session, are not there."""
    def sessions(files: Iterable[Path], *kinds: str) -> list[datetime]:
        return sorted(headers[file].start for file in files if _kind(file) in kinds and headers[file].start)

    def lost(whole: list[datetime], found: list[datetime]) -> list[datetime]:
        return [start for start in whole if all(abs(start - other) > SAME_SESSION for other in found)]

    flows, events = sessions(filled, "BRP"), sessions(headers, "EVE")
    without_flow = lost(sessions(filled, "PLD"), flows) or lost(sessions(filled, "SA2", "SAD"), flows)
    without_events = lost(flows, events)
    if len(events) < 2 or 2 * len(without_events) > len(flows):      # older devices keep one file a night
        without_events = lost(sessions(headers, "CSL"), events)
    return [
        f"no {what} of the session that began at {start:%H:%M:%S}: its {kind} file is missing, or empty"
        for what, kind, starts in (("flow", "BRP", without_flow), ("events", "EVE", without_events))
        for start in starts
    ]


def _check_length(night: Path, t: np.ndarray) -> None:
    if len(t) and t[-1] - t[0] > LONGEST_NIGHT_S:
        raise DataError(
            f"{night.name}: {(t[-1] - t[0]) / 3600:.0f} h from its first to its last sample; expected one night; put "
            "the files of each night into a folder of its own"
        )
