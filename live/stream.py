"""Lines of samples in, lines of steps and events out, with a state that survives a restart."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

from utils import DataError, counted, only_writer_of, sha256_of, signals_to_stop

if TYPE_CHECKING:                                                # heavy imports wait for the work
    from live.detection import Found, LiveDetection, RespiratoryEvent
    from live.rows import Clock, InputWarnings, RateCheck, Rows
    from recordings.file_names import FileNames
    from recordings.row_times import Row
    from reports.plots import LivePlot

FORMAT = 6                               # of a state file
SAVE_S = 10.0                            # between two saves of the state
FIRST = 200                              # characters of the first line that identify an input
TAIL = 400                               # last bytes written that identify an output
EVIDENCE = (                             # of a respiratory event, as in `events.csv`
    "duration_s", "reduction", "baseline_reduction", "effort", "desaturation", "desaturation_delay_s", "confidence",
)  # fmt: skip
SERIES_COLUMNS = (
    "kind", "t_s", "timestamp", "score", "threshold", "alarm", "channel", "start_s", "end_s", "peak_score", "found_by",
)  # fmt: skip
COLUMNS = (                              # of a recording
    "kind", "t_s", "clock", *SERIES_COLUMNS[3:], "start_clock", "end_clock", "event_kind", *EVIDENCE, "profile",
)  # fmt: skip


# ---- lines out ------------------------------------------------------------------------------


class Output:
    """Writes steps and events as CSV or JSON lines, to stdout or a file.

    Args:
        path: None = stdout.
        rows: what turns times into timestamps.
        keep: bytes of the file that were written before a restart; None = there must be no file yet.
        tail: the last of these bytes, hexadecimal.
    Raises: DataError if the file is shorter than that, or another one.
    """

    def __init__(self, path: Path | None, as_json: bool, rows: Rows, keep: int | None = None, tail: str = "") -> None:
        self.as_json, self.rows, self.path = as_json, rows, path
        self.mode = "xb" if keep is None else "r+b" if keep else "wb"        # "x": not even one made in the meantime
        self.bytes, self.begun = (keep or 0) if path is not None else 0, False
        self.file: Any = sys.stdout.buffer if path is None else None         # a file is opened when output begins
        self.tail = bytes.fromhex(tail)
        columns = SERIES_COLUMNS if rows.series else COLUMNS
        self.table = csv.DictWriter(SimpleNamespace(write=self._write), columns, lineterminator="\n")
        if self.bytes:
            self._check_tail()

    def _check_tail(self) -> None:
        """Raise DataError unless the file still holds what was last written: what comes after that is cut off."""
        if (self.path.stat().st_size if self.path.is_file() else 0) < self.bytes:
            found = f"shorter than the {self.bytes} bytes of the saved state"
        else:
            with self.path.open("rb") as file:
                file.seek(self.bytes - len(self.tail))
                if file.read(len(self.tail)) == self.tail:
                    return
            found = "not the file that belongs to the saved state"
        raise DataError(f"--out {self.path}: {found}; name that file, or delete the state")

    def begin(self) -> None:
        """Open the file and write the names of the columns, unless that is done.

        Raises: DataError if the file cannot be written.
        """
        if self.begun:
            return
        self.begun = True
        if self.path is not None:
            try:
                self.file = self.path.open(self.mode)
                self.file.truncate(self.bytes)
                self.file.seek(self.bytes)
            except OSError as error:
                raise DataError(f"--out {self.path}: cannot be written ({error.strerror})") from None
        if not self.as_json and not self.bytes:
            self.table.writeheader()
            self.flush()

    def write(self, found: Sequence[Found]) -> None:
        """Write a line for each, at once."""
        for one in found:
            fields = self._fields(one)
            if self.as_json:
                self._write(json.dumps({name: value for name, value in fields.items() if value != ""}) + "\n")
            else:
                self.table.writerow(fields)
        self.flush()

    def _fields(self, one: Found) -> dict[str, Any]:
        """Return the columns of a line; "" = no value."""
        clock, series = self.rows.timestamp, self.rows.series
        at = {"t_s": round(one.t_s, 6), "timestamp" if series else "clock": clock(one.t_s)}
        if hasattr(one, "profile"):
            return {"kind": "respiratory_event"} | at | self._respiratory(one)
        if hasattr(one, "change"):
            event = one.event
            about = {"channel": event.channel, "start_s": round(event.start_s, 6)}
            about |= {"end_s": round(event.end_s, 6)} if one.change == "end" else {}
            about |= {} if series else {f"{name}_clock": clock(about[f"{name}_s"]) for name in ("start", "end")
                                        if f"{name}_s" in about}  # fmt: skip
            about |= {"peak_score": _rounded(event.peak_score), "found_by": one.found_by}
            return {"kind": f"event_{one.change}"} | at | about
        scored = {"score": _rounded(one.score), "threshold": _rounded(one.threshold), "alarm": int(one.alarm)}
        return {"kind": "step"} | at | scored | {"channel": one.channel}

    def _respiratory(self, one: RespiratoryEvent) -> dict[str, Any]:
        """Return the columns that a respiratory event has of its own."""
        event, clock = one.event, self.rows.timestamp
        span = {"start_s": round(event.start_s, 6), "end_s": round(event.end_s, 6)}
        clocks = {"start_clock": clock(span["start_s"]), "end_clock": clock(span["end_s"])}
        about = {"event_kind": event.kind, "channel": event.channel, "found_by": "respiratory", "profile": one.profile}
        return about | span | clocks | {name: _rounded(getattr(event, name)) for name in EVIDENCE}

    def _write(self, line: str) -> None:
        data = line.encode()
        self.file.write(data)
        self.bytes += len(data)
        self.tail = (self.tail + data)[-TAIL:]

    def flush(self, to_disk: bool = False) -> None:
        """Make the lines available to readers; `to_disk`: also safe from a power cut."""
        if self.file is not None:
            self.file.flush()
            if to_disk and self.path is not None:
                os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file; stdout stays open."""
        self.flush()
        if self.path is not None and self.file is not None:
            self.file.close()


def _rounded(value: float) -> float | str:
    return round(value, 6) if math.isfinite(value) else ""


# ---- state ----------------------------------------------------------------------------------


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what a later process needs to resume, atomically.

    Raises: DataError if it cannot be written.
    """
    from detection.checkpoint import write_tensors

    try:
        write_tensors(path, state)
    except OSError as error:
        raise DataError(f"--state {path}: cannot be written ({error.strerror})") from None


def load_state(path: Path, checkpoint_sha: str) -> dict[str, Any]:
    """Read a saved state.

    Raises: DataError if it is damaged, or of another checkpoint.
    """
    from detection.checkpoint import read_tensors

    try:
        state = read_tensors(path, "np")
        if type(state["format"]) is not int or state["format"] != FORMAT:
            raise ValueError(f"format {state['format']!r:.40}, expected {FORMAT}")
        if not isinstance(state["checkpoint"], str):
            raise ValueError(f"checkpoint is {state['checkpoint']!r:.40}, expected a text")
        is_other = state["checkpoint"] != checkpoint_sha
    except (LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path.name}: not a state of this program ({reason}); delete it to start again") from None
    if is_other:
        raise DataError(f"{path.name}: belongs to another checkpoint; delete it to start again")
    return state


# ---- the stream -----------------------------------------------------------------------------


class Stream:
    """All between a line in and the lines out."""

    def __init__(self, live: LiveDetection, rows: Rows, clock: Clock, rates: RateCheck | None = None) -> None:
        self.live, self.rows, self.clock, self.rates = live, rows, clock, rates
        self.first, self.taken = "", 0                           # first line after the header; lines since then
        self.at_start, self.to_skip = True, 0                    # before that line; lines to skip after a restart
        self.any_row, self.any_step = False, False               # whether a line was a row, and a row made a step
        self.due: list[Row] = []                                 # rows that wait to be scored together

    def take(self, lines: Iterable[str]) -> Iterator[list[Found]]:
        """Yield the steps and events that lines complete, some at a time.

        Raises: DataError of a line, after what the lines before it give.
        """
        try:
            for line in lines:
                if not self._taken_before(line):
                    yield from map(self._take_row, self.rows.take(line))
        except DataError:
            yield self._scored()
            raise
        yield self._scored()

    def _take_row(self, row: Row) -> list[Found]:
        """Let a row wait to be scored with others; return what these give if it begins something new."""
        self.any_row = True
        if self.rows.series:                                     # every row is a step, and has a timestamp of its own
            self.due.append(row)
            return self._scored()
        rows, is_new_recording = self.clock.take(*row, self.rows.has_local_clock)
        found: list[Found] = []
        if is_new_recording:
            found = self._scored(is_over=True)
            self.live.restart()
        for t, values in rows:
            if self.rates is not None and not self.rates.done:
                self.rates.take(t, values)
        self.due += rows
        return found

    def _scored(self, is_over: bool = False) -> list[Found]:
        """Return the steps and events of the rows that wait, and the remaining ones if the recording is over."""
        found, self.due = self.live.push(self.due), []
        if is_over:
            found += self.live.finish()
        self.any_step = self.any_step or bool(found)
        return found

    def _taken_before(self, line: str) -> bool:
        """Return whether a line was taken before a restart, if the input begins as it did then."""
        if not line.strip() or self.rows.is_head(line):
            return False
        if not self.taken:
            self.first = line[:FIRST]
        elif self.at_start and line[:FIRST] == self.first:
            self.to_skip = self.taken
            self.rows.line_number -= 1                           # its header was counted before
            self.clock.forget_seen()
            print(f"the input begins as before; lines skipped: {self.to_skip}", file=sys.stderr, flush=True)
        self.at_start = False
        if self.to_skip:
            self.to_skip -= 1
            return True
        self.taken += 1
        return False

    def check_any_row(self, where: str) -> None:
        """Raise DataError if there were lines of samples and none was a row."""
        if self.taken and not self.any_row and not self.rows.is_waiting:
            raise DataError(f"{where}: no row could be read; the lines above say why")

    def check_any_step(self, where: str) -> None:
        """Raise DataError if the input is over without a step."""
        self.check_any_row(where)
        if not self.any_step:
            what = f"{counted(self.taken, 'line')} of samples" if self.taken else "no line of samples"
            raise DataError(f"{where}: {what}, and no step; expected some seconds of samples, with a header")

    def end_head(self) -> list[Found]:
        """Return the steps of rows without a header that were too few to be sure of.

        Raises: DataError if there is no header, and no names are declared.
        """
        return [one for row in self.rows.end_head() for one in self._take_row(row)] + self._scored()

    def finish(self) -> list[Found]:
        """Return the remaining steps and events at the end of the input."""
        found = [one for row in self.rows.rest() for one in self._take_row(row)]
        self.due += self.clock.rest()
        return found + self._scored(is_over=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to resume."""
        parts = {name: getattr(self, name).state_dict() for name in ("live", "rows", "clock")}
        return parts | {"first": self.first, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict()`."""
        from recordings.stateful import checked_like

        for name in ("live", "rows", "clock"):
            getattr(self, name).load_state_dict(state[name])
        self.first, self.taken = (checked_like(getattr(self, name), state[name], name) for name in ("first", "taken"))
        self.any_row = self.any_step = self.taken > 0
        if not self.taken:
            self.rows.line_number = 0                            # a head alone, which comes again


def new_stream(
    checkpoint: Path, device: str, input_warnings: InputWarnings, names: FileNames | None = None,
    profile: str | None = None,
) -> Stream:  # fmt: skip
    """Return the stream of a trained model.

    Args:
        names: what the input calls otherwise than the model.
        profile: how respiratory events are scored; None = as the model's config says.
    Raises: DataError if the checkpoint cannot be used, or has no such channel, or there is no such profile.
    """
    from detection.checkpoint import load_calibrated, recorded_data
    from live.detection import LiveDetection
    from live.rows import Clock, RateCheck, Rows
    from recordings.file_names import FileNames
    from recordings.preprocessing import dialect_of
    from recordings.reading import Dialect

    state, detector = load_calibrated(checkpoint, device)
    if profile is not None:
        detector.use_profile(profile)
    data, names = recorded_data(state, detector, checkpoint.name), names or FileNames()
    names.check(detector.channels)
    if data is None:
        read = names.series(state["data"], detector.channels)
        columns = [read.values.get(name, name) for name in detector.channels]
        dialect = Dialect(delimiter=read.delimiter, decimal=read.decimal, time_format=read.time_format)
        rows = Rows(read.time or read.usual_time, columns, input_warnings, series=True, dialect=dialect)
        return Stream(LiveDetection(detector, data), rows, Clock(input_warnings))
    data = names.dataset(data)
    channels = [data.channels[name] for name in detector.channels]
    rates_hz = [channel.rate_hz for channel in channels]
    columns = [channel.source or name for name, channel in zip(detector.channels, channels, strict=True)]
    about = {
        "dialect": dialect_of(data),
        "units": [channel.unit for channel in channels],
        "source_units": [channel.source_unit or "" for channel in channels],
        "sentinels": [channel.sentinels for channel in channels],
        "rate_hz": max(rates_hz),
    }
    return Stream(
        LiveDetection(detector, data),
        Rows(data.time_column, columns, input_warnings, **about),
        Clock(input_warnings, 1 / max(rates_hz)),
        RateCheck(detector.channels, rates_hz, input_warnings),
    )


def restore(stream: Stream, saved: dict[str, Any], path: Path) -> None:
    """Let a stream resume from a saved state.

    Raises: DataError if the state does not fit.
    """
    try:
        stream.load_state_dict(saved["stream"])
        for key in ("place", "bytes") if saved["bytes"] is not None else ("place",):
            if type(saved[key]) is not int or not 0 <= saved[key] < 2**53:
                raise ValueError(f"{key} is {saved[key]!r}; expected a count")
        if len(bytes.fromhex(saved["tail"])) != min(saved["bytes"] or 0, TAIL):
            raise ValueError(f"tail is {saved['tail']!r:.40}; expected the last bytes of the output")
    except (ArithmeticError, AttributeError, DataError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path.name}: not a state of this checkpoint ({reason}); delete it to start again") from None


# ---- from the first line to the last --------------------------------------------------------


def watch(
    checkpoint: Path, device: str, follow: Path | None, state: Path | None, out: Path | None, as_json: bool, plot: bool,
    names: FileNames | None = None, profile: str | None = None,
) -> int:  # fmt: skip
    """Detect on lines until the input ends or a signal comes; return the exit code.

    Args:
        follow: a file that is read as it grows; None = stdin.
        state: file of the saved state, from which detection resumes if it exists; None = no state is saved.
        out: file to write; None = stdout.
        plot: whether to show signals and score in a window.
        names: what the input calls otherwise than the model.
        profile: how respiratory events are scored; None = as the model's config says.
    Raises: DataError if the checkpoint, the state or a file cannot be used.
    """
    from live.rows import InputWarnings, read_lines

    stream = new_stream(checkpoint, device, InputWarnings(), names, profile)
    with only_writer_of(state) if state else contextlib.nullcontext():
        sha, saved = sha256_of(checkpoint), {"place": 0, "bytes": None, "tail": ""}
        if state and state.exists():
            saved = load_state(state, sha)
            restore(stream, saved, state)
        if out and out.exists() and saved["bytes"] is None:
            raise DataError(f"--out {out}: exists already, and there is no --state to resume from; name another file")
        window = _new_window(stream) if plot else None
        source = _open_input(follow, saved["place"])
        place = source.tell() if follow else 0
        output = Output(out, as_json, stream.rows, saved["bytes"], saved["tail"])
        save = functools.partial(_save, state, sha, stream, output) if state else lambda place: None
        try:
            with contextlib.closing(output), noted_signals() as signals:
                how = stream.rows.input_warnings, stream.rows.dialect.encoding
                lines = read_lines(source, follow, lambda: bool(signals), *how)
                place = _take_lines(stream, lines, place, output, save, window)
                where, found = str(follow or "stdin"), []
                if state is None:
                    found = stream.finish()
                    if not signals:
                        stream.check_any_step(where)
                elif not signals:
                    found = stream.end_head()
                    stream.check_any_row(where)
                output.begin()
                output.write(found)
                save(place)
                if state and not signals:                        # after a signal, a later process continues
                    output.write(stream.finish())
        except OSError as error:
            if error.filename is None:                           # a full disk names no file
                error.filename = str(out) if out else "stdout"
            raise
    return 128 + signals[-1] if signals else 0


def _save(path: Path, sha: str, stream: Stream, output: Output, place: int) -> None:
    """Save the state of a stream and its output at a place in the input; a full disk does not end detection."""
    output.flush(to_disk=True)
    written = {"bytes": output.bytes, "tail": output.tail.hex()} if output.path else {"bytes": None, "tail": ""}
    about = {"format": FORMAT, "checkpoint": sha, "place": place}
    try:
        save_state(path, about | written | {"stream": stream.state_dict()})
    except DataError as error:
        if not path.exists():                                    # it never worked
            raise
        stream.rows.input_warnings.warn("states not saved", f"{error}; detection continues")


def _take_lines(
    stream: Stream, lines: Iterable[tuple[list[str], int]], place: int, output: Output, save: Callable[[int], None],
    window: Any,
) -> int:  # fmt: skip
    """Take lines until they end or the window is closed; return the place after the last ones.

    Args:
        lines: what `read_lines` yields.
        place: where they begin.
        save: saves the state at a place in the input.
    """
    saved_at = -math.inf                                         # the first lines must not be lost in a crash either
    for some, after in lines:
        while some:
            now, some = (some, []) if output.begun else (some[:1], some[1:])
            for found in stream.take(now):
                if not output.begun and (found or stream.rows.layout is not None):     # the header has been checked
                    if not found:
                        save(place)                              # it is read again
                    output.begin()
                if found:
                    output.write(found)
                if window is not None:
                    window.add(found)
        place = after
        if window is not None and not window.draw():
            break                                                # it was closed
        if output.begun and time.monotonic() - saved_at > SAVE_S:
            save(place)
            saved_at = time.monotonic()
    return place


def _open_input(follow: Path | None, place: int) -> BinaryIO:
    """Return stdin, or the file to follow, at a place.

    Raises: DataError if it cannot be opened.
    """
    if follow is None:
        return sys.stdin.buffer
    if follow.exists() and not follow.is_file():
        raise DataError(f"--follow {follow}: not a file; expected a file that grows, or the lines on stdin")
    try:
        file = follow.open("rb")
    except OSError as error:
        raise DataError(f"--follow {follow}: cannot be read ({error.strerror})") from None
    file.seek(place if place <= follow.stat().st_size else 0)
    return file


def _new_window(stream: Stream) -> LivePlot:
    from reports.plots import LivePlot

    return LivePlot(stream.live.detector.channels, stream.live.detector.units)


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in a list, so that the current line is finished first; ignored signals stay ignored."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in signals_to_stop()}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
