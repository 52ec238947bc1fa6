"""Lines of samples in, lines of steps and events out, with a state that survives a restart."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from utils import DataError, signals_to_stop

if TYPE_CHECKING:                                                # heavy imports wait for the work
    from live.detection import EventChange, LiveDetection, Step
    from live.rows import Clock, InputWarnings, RateCheck, Rows
    from reports.plots import LivePlot

FORMAT = 2                               # of a state file
SAVE_S = 10.0                            # between two saves of the state
FIRST = 200                              # characters that a first line is known by
TAIL = 400                               # bytes that the end of what was written is known by
COLUMNS = (
    "kind", "t_s", "timestamp", "score", "threshold", "alarm", "channel", "start_s", "end_s", "peak_score", "found_by",
)  # fmt: skip


# ---- lines out ------------------------------------------------------------------------------


class Output:
    """Writes steps and events as CSV or JSON lines, to stdout or a file.

    Args:
        keep: bytes of the file to keep, what was written before a restart, None = there must be no file yet; stdout
            begins anew.
        tail: the last of these bytes, hexadecimal.
    Raises: DataError if the file is shorter than that, or another one.
    """

    def __init__(self, path: Path | None, as_json: bool, rows: Rows, keep: int | None = None, tail: str = "") -> None:
        self.as_json, self.rows, self.path = as_json, rows, path
        self.mode = "xb" if keep is None else "r+b" if keep else "wb"        # "x": not even one that came meanwhile
        self.bytes, self.begun = (keep or 0) if path is not None else 0, False
        self.file: Any = sys.stdout.buffer if path is None else None         # a file is opened when it begins
        self.tail = bytes.fromhex(tail)
        if self.bytes:
            self._check()

    def _check(self) -> None:
        """Raise DataError unless the file ends, or goes on, behind what was last written: else it would be cut."""
        if (self.path.stat().st_size if self.path.is_file() else 0) < self.bytes:
            found = f"shorter than the {self.bytes} bytes of the saved state"
        else:
            with self.path.open("rb") as file:
                file.seek(self.bytes - len(self.tail))
                if file.read(len(self.tail)) == self.tail:
                    return
            found = "not the file that the saved state was writing"
        raise DataError(f"--out {self.path}: {found}; name that one, or delete the state")

    def begin(self) -> None:
        """Open the file and write the names of the columns, if that is still to be done.

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
            self._write(",".join(COLUMNS))
            self.flush()

    def write(self, found: Sequence[Step | EventChange]) -> None:
        """Write a line each, at once."""
        for one in found:
            fields = self._fields(one)
            if self.as_json:
                self._write(json.dumps({name: value for name, value in fields.items() if value != ""}))
            else:
                cells = (str(fields.get(name, "")) for name in COLUMNS)
                self._write(",".join(_quoted(cell) for cell in cells))
        self.flush()

    def _fields(self, one: Step | EventChange) -> dict[str, Any]:
        at = {"t_s": round(one.t_s, 6), "timestamp": self.rows.timestamp(one.t_s)}
        if hasattr(one, "event"):
            event = one.event
            about = {"channel": event.channel, "start_s": round(event.start_s, 6)}
            about |= {"end_s": round(event.end_s, 6)} if one.change == "end" else {}
            about |= {"peak_score": _rounded(event.peak_score), "found_by": one.found_by}
            return {"kind": f"event_{one.change}"} | at | about
        scored = {"score": _rounded(one.score), "threshold": _rounded(one.threshold), "alarm": int(one.alarm)}
        return {"kind": "step"} | at | scored | {"channel": one.channel}

    def _write(self, line: str) -> None:
        data = line.encode() + b"\n"
        self.file.write(data)
        self.bytes += len(data)
        self.tail = (self.tail + data)[-TAIL:]

    def flush(self, to_disk: bool = False) -> None:
        """Let whoever reads have it; `to_disk`: let it outlive a power cut, too."""
        if self.file is not None:
            self.file.flush()
            if to_disk and self.path is not None:
                os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file; stdout stays."""
        self.flush()
        if self.path is not None and self.file is not None:
            self.file.close()


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if "," in cell or '"' in cell else cell


def _rounded(value: float) -> float | str:
    return round(value, 6) if math.isfinite(value) else ""


# ---- state ----------------------------------------------------------------------------------


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what a later process needs to go on, atomically.

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
        is_other = state["checkpoint"] != checkpoint_sha
    except (LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path.name}: not a state of this program ({reason}); delete it to begin anew") from None
    if is_other:
        raise DataError(f"{path.name}: belongs to another checkpoint; delete it to begin anew")
    return state


# ---- the stream -----------------------------------------------------------------------------


class Stream:
    """What is between a line in and the lines out."""

    def __init__(self, live: LiveDetection, rows: Rows, clock: Clock, rates: RateCheck | None = None) -> None:
        self.live, self.rows, self.clock, self.rates = live, rows, clock, rates
        self.first, self.taken = "", 0                           # the first line behind the header; how many there were
        self.begins, self.left = True, 0                         # until that line; lines to skip behind a restart
        self.unread: bool | None = None                          # whether of all lines none was a row; None = no line

    def take(self, line: str) -> list[Step | EventChange]:
        """Return what a line brings."""
        if self._came_before(line):
            return []
        row = self.rows.take(line)
        if row is None:
            if self.taken and self.unread is None:
                self.unread = True
            return []
        self.unread = False
        if self.rows.series:                                     # every row is a step, whatever its time says
            return self.live.push(*row)
        through, anew = self.clock.take(*row)
        found: list[Step | EventChange] = []
        if anew:
            found += self.live.finish()
            self.live.restart()
        for t, values in through:
            if self.rates is not None and not self.rates.done:
                self.rates.take(t, values)
            found += self.live.push(t, values)
        return found

    def _came_before(self, line: str) -> bool:
        """Return whether a line was taken before a restart, of an input that begins as it did then."""
        if not line or self.rows.header in ("", line.removeprefix("\ufeff")):
            return False
        if not self.taken:
            self.first = line[:FIRST]
        elif self.begins and line[:FIRST] == self.first:
            self.left = self.taken
            self.rows.number -= 1                                # its header was counted before
            self.clock.forget_seen()
            print(f"the input begins as before: {self.left} lines are skipped", file=sys.stderr, flush=True)
        self.begins = False
        if self.left:
            self.left -= 1
            return True
        self.taken += 1
        return False

    def finish(self) -> list[Step | EventChange]:
        """Return what is left at the end of the input."""
        return [found for row in self.clock.rest() for found in self.live.push(*row)] + self.live.finish()

    def state_dict(self) -> dict[str, Any]:
        """Return what a later process needs to go on."""
        parts = {name: getattr(self, name).state_dict() for name in ("live", "rows", "clock")}
        return parts | {"first": self.first, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        from recordings.stateful import checked_like

        for name in ("live", "rows", "clock"):
            getattr(self, name).load_state_dict(state[name])
        fresh = {"first": self.first, "taken": self.taken}
        self.first, self.taken = (checked_like(fresh[name], state[name], name) for name in fresh)
        if not self.taken:
            self.rows.number = 0                                 # a header alone, which comes again
        else:
            self.unread = False


class Stop:
    """Notes SIGINT and SIGTERM, so that the work at hand is finished first; signals that are ignored stay so."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> Stop:
        self.before = {number: signal.signal(number, self._note) for number in signals_to_stop()}
        return self

    def _note(self, number: int, _frame: Any) -> None:
        self.signal = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def detect(
    stream: Stream, source: BinaryIO, output: Output, args: argparse.Namespace, save: Any, plot: LivePlot | None
) -> int:
    """Take lines until the input ends or a signal comes; return the exit code.

    Args:
        save: called with the place in the input, to save the state.
    """
    from live.rows import read_lines

    place = source.tell() if args.follow else 0
    saved_at = -math.inf                                         # the first line is not to be lost in a crash, either
    with Stop() as stop:
        for line, place in read_lines(source, args.follow, lambda: stop.signal, stream.rows.input_warnings):
            if line is not None:
                found = stream.take(line)
                if not output.begun:                             # not before the columns of the input are right
                    if not found:
                        save(place)
                    output.begin()
                if found:
                    output.write(found)
                if plot is not None:
                    plot.add(found)
            if plot is not None and not plot.draw():
                break                                            # its window was closed
            if output.begun and time.monotonic() - saved_at > SAVE_S:
                save(place)
                saved_at = time.monotonic()
        if not stop.signal and stream.unread:
            raise DataError(f"{args.follow or 'stdin'}: no row could be read; the lines above say why")
        output.begin()
        save(place)
        if not (stop.signal and args.state):                     # a stream that is to go on has no end yet
            output.write(stream.finish())
    return 128 + stop.signal if stop.signal else 0


def open_input(follow: Path | None, place: int) -> BinaryIO:
    """Return stdin, or the file to follow from a place on.

    Raises: DataError if it cannot be opened.
    """
    if follow is None:
        return sys.stdin.buffer
    if follow.exists() and not follow.is_file():
        raise DataError(f"--follow {follow}: is no file; expected one that grows, or the lines on stdin")
    try:
        file = follow.open("rb")
    except OSError as error:
        raise DataError(f"--follow {follow}: cannot be read ({error.strerror})") from None
    file.seek(place if place <= follow.stat().st_size else 0)
    return file


def new_stream(checkpoint: Path, device: str, input_warnings: InputWarnings) -> Stream:
    """Return the stream of a trained model.

    Raises: DataError if the checkpoint cannot be used.
    """
    from detection.checkpoint import load_calibrated, recorded_data
    from live.detection import LiveDetection
    from live.rows import Clock, RateCheck, Rows

    state, detector = load_calibrated(checkpoint, device)
    data = recorded_data(state, detector, checkpoint.name)
    if data is None:
        rows = Rows("timestamp", detector.channels, input_warnings, series=True)
        clock, rates = Clock(input_warnings), None
    else:
        rates_hz = [data.channels[name].rate_hz for name in detector.channels]
        clock = Clock(input_warnings, 1 / max(rates_hz))
        rates = RateCheck(detector.channels, rates_hz, input_warnings)
        columns = [data.channels[name].source or name for name in detector.channels]
        layout = {key: getattr(data, key) for key in ("delimiter", "decimal", "time_format")}
        rows = Rows(data.time_column, columns, input_warnings, layout=layout)
    return Stream(LiveDetection(detector, data), rows, clock, rates)


def watch(stream: Stream, sha: str, args: argparse.Namespace, input_warnings: InputWarnings) -> int:
    """Go on from the saved state, if there is one, until the input ends or a signal comes; return the exit code.

    Args:
        sha: SHA-256 of the checkpoint.
    """
    before: dict[str, Any] = {"place": 0, "bytes": None, "tail": ""}
    if args.state and args.state.exists():
        before = load_state(args.state, sha)
        restore(stream, before, args.state)
    if args.out and args.out.exists() and before["bytes"] is None:
        raise DataError(f"--out {args.out}: is there already, and there is no --state to go on from; name another file")
    plot = None
    if args.plot:
        from reports.plots import LivePlot

        detector = stream.live.detector
        plot = LivePlot(detector.channels, detector.units)
    source = open_input(args.follow, before["place"])
    output = Output(args.out, args.format == "jsonl", stream.rows, before["bytes"], before["tail"])

    def save(place: int) -> None:
        if args.state:
            output.flush(to_disk=True)
            about = {"format": FORMAT, "checkpoint": sha, "place": place}
            about |= {"bytes": output.bytes, "tail": output.tail.hex()} if args.out else {"bytes": None, "tail": ""}
            try:
                save_state(args.state, about | {"stream": stream.state_dict()})
            except DataError as error:                           # a full disk must not end the watch
                if not args.state.exists():
                    raise
                input_warnings.say("states not saved", f"{error}; detection goes on")

    try:
        with contextlib.closing(output):
            return detect(stream, source, output, args, save, plot)
    except OSError as error:
        if error.filename is None:                               # a full disk names no file
            error.filename = str(args.out) if args.out else "stdout"
        raise


def restore(stream: Stream, before: dict[str, Any], path: Path) -> None:
    """Let a stream go on from a saved state.

    Raises: DataError if the state does not fit.
    """
    try:
        stream.load_state_dict(before["stream"])
        for key, least in (("place", 0), ("bytes", 0 if before["bytes"] is not None else None)):
            if least is not None and (type(before[key]) is not int or not least <= before[key] < 2**53):
                raise ValueError(f"{key} is {before[key]!r}")
        if len(bytes.fromhex(before["tail"])) != min(before["bytes"] or 0, TAIL):
            raise ValueError(f"tail is {before['tail']!r:.40}")
    except (ArithmeticError, AttributeError, DataError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path.name}: not a state of this checkpoint ({reason}); delete it to begin anew") from None
