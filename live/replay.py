"""Replay a recording as a recorder would send it: CSV lines on stdout, at its own speed or any other.

    python -m live.replay night.csv.gz --speed 20 | python stream_detect.py --checkpoint F
    python -m live.replay night.edf --speed 0 --checkpoint F > lines.csv     # at once, in the model's units
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils import ArgumentParser, DataError, run_cli, setup_logging

if TYPE_CHECKING:                        # heavy imports wait for the work
    from config import DatasetConfig
    from recordings.reading import Recording


def replay(path: Path, time_column: str | None, speed: float, checkpoint: Path | None = None) -> None:
    """Write the rows of a recording, each when it is due: a header, a row of units if they are known, the samples.

    Args:
        speed: seconds of the recording per second; 0 = as fast as possible.
        checkpoint: a model, whose channels, units and missing values are sent; None = those of the file.
    Raises: DataError if the recording cannot be read or has no channel.
    """
    from recordings.reading import TIME_COLUMN

    recording, data = _recording_of(path, time_column, checkpoint)
    if not recording.channels:
        raise DataError(f"{path.name}: no channel to replay; {'; '.join(recording.notes) or 'only a time column'}")
    times, columns = recording.t, []
    for samples in recording.channels.values():
        column = np.full(len(times), "", dtype=object)
        values = samples.values if data else _undone_rounding(samples.values, samples.resolution)
        column[np.searchsorted(times, samples.t)] = [repr(value) for value in values.tolist()]
        columns.append(column)
    names = list(recording.channels)
    if data is not None:
        names = [data.channels[name].source or name for name in names]
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow([time_column or (data.time_column if data else recording.time_column) or TIME_COLUMN, *names])
    units = [samples.unit or "" for samples in recording.channels.values()]
    clock = _clock_of(recording, data)
    if any(units):
        table.writerow(["s" if clock is None else "hh:mm:ss", *units])
    sys.stdout.flush()
    _write_rows(times, columns, clock, speed)


def _write_rows(
    times: np.ndarray, columns: Sequence[np.ndarray], clock: Callable[[float], str] | None, speed: float
) -> None:
    began = time.monotonic()
    for t, *cells in zip(times.tolist(), *columns, strict=True):
        ahead_s = (t - times[0]) / speed - (time.monotonic() - began) if speed else 0.0
        if ahead_s > 0:
            sys.stdout.flush()
            time.sleep(ahead_s)
        sys.stdout.write(f"{clock(t) if clock else repr(t)},{','.join(cells)}\n")
    sys.stdout.flush()


def _recording_of(
    path: Path, time_column: str | None, checkpoint: Path | None
) -> tuple[Recording, DatasetConfig | None]:
    """Return a recording as its file has it, or as a model reads it, and what the model says of its dataset."""
    from recordings.reading import Dialect, name_of, read_recording

    if checkpoint is None:
        return read_recording(path, dialect=Dialect(time_column=time_column)), None
    from detection.checkpoint import load_calibrated, recorded_data
    from recordings.preprocessing import load_recording

    state, detector = load_calibrated(checkpoint, "cpu")
    data = recorded_data(state, detector, checkpoint.name)
    if data is None:
        raise DataError(f"{checkpoint.name}: a model of a series; send the lines of its file as they are")
    return load_recording(path, name_of(path), data, allow_dead=True), data


def _undone_rounding(values: np.ndarray, resolution: float) -> np.ndarray:
    """Return values (n,) with whole numbers in place of those that differ from one by less than the file can store.

    A sentinel of -1 may be stored as -1.0002; readers of lines compare exactly.
    """
    whole = np.round(values)
    return np.where(np.abs(values - whole) < 0.99 * min(resolution, 0.5), whole, values)


def _clock_of(recording: Recording, data: DatasetConfig | None) -> Callable[[float], str] | None:
    """Return what turns seconds into the recording's timestamps; None if it has none, or counts from another origin."""
    from zoneinfo import ZoneInfo

    from recordings.number_times import DAY_S
    from recordings.time_formats import is_dated
    from recordings.wall_clock import has_date

    start, time_format = recording.start, data and data.time_format
    if time_format and (start is None or (is_dated(time_format) and not has_date(start))):
        raise DataError(
            f"{recording.path.name}: its date and time are not known, so that the model's time_format cannot be kept; "
            "give the lines of the file itself to stream_detect.py"
        )
    if start is None or not 0 <= recording.t[0] < DAY_S or (data is not None and data.time_unit):
        return None
    if not has_date(start) and not time_format:
        return lambda t: (start + timedelta(seconds=t)).time().isoformat("microseconds")
    if start.tzinfo is None:
        return lambda t: _written(start + timedelta(seconds=t), data)
    zone = ZoneInfo(data.time_zone) if data is not None and data.time_zone else start.tzinfo
    return lambda t: _written((start + timedelta(seconds=t)).astimezone(zone), data)


def _written(stamp: datetime, data: DatasetConfig | None) -> str:
    if data is not None and data.time_format:
        return stamp.strftime(data.time_format)
    if data is not None and data.time_zone:                          # the zone is declared: local times
        return stamp.replace(tzinfo=None).isoformat(" ", "microseconds")
    return stamp.isoformat(" ", "microseconds")


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("recording", type=Path, help="a file of any format that can be preprocessed")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="times as fast; 0 = as fast as possible")
    parser.add_argument("--time-column", metavar="NAME", help="time column of a table (t_s, or else the first)")
    parser.add_argument("--checkpoint", type=Path, metavar="F", help="send channels and units as this model has them")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        if not 0 <= args.speed < math.inf:
            raise DataError(f"--speed {args.speed}: expected 0 or more")
        replay(args.recording, args.time_column, args.speed, args.checkpoint)
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
