"""Replay a recording as a recorder would send it: CSV lines on stdout, at its own speed or any other.

    python -m live.replay night.csv.gz --speed 20 | python stream_detect.py --checkpoint F
    python -m live.replay night.csv.gz --speed 0 > lines.csv            # as fast as possible
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils import ArgumentParser, DataError, run_cli, setup_logging

log = logging.getLogger(__name__)


def replay(path: Path, time_column: str | None, speed: float) -> None:
    """Write the rows of a recording, each when it is due, in the units of its file.

    Args:
        speed: seconds of the recording per second; 0 = as fast as possible.
    Raises: DataError if the recording cannot be read or has no channel.
    """
    from recordings.reading import TIME_COLUMN, Dialect, read_recording

    recording = read_recording(path, dialect=Dialect(time_column=time_column))
    if not recording.channels:
        raise DataError(f"{path.name}: no channel to replay; {'; '.join(recording.notes) or 'only a time column'}")
    times, columns = recording.t, []
    for samples in recording.channels.values():
        column = np.full(len(times), "", dtype=object)
        column[np.searchsorted(times, samples.t)] = [repr(value) for value in samples.values.tolist()]
        columns.append(column)
    units = [f"{name} in {samples.unit}" for name, samples in recording.channels.items() if samples.unit]
    if units:                                                    # stream_detect.py does not convert units
        log.info("%s: values are sent in the units of the file: %s", path.name, ", ".join(units))
    print(",".join([time_column or TIME_COLUMN, *recording.channels]), flush=True)
    began = time.monotonic()
    for t, *cells in zip(times.tolist(), *columns, strict=True):
        ahead_s = (t - times[0]) / speed - (time.monotonic() - began) if speed else 0.0
        if ahead_s > 0:
            sys.stdout.flush()
            time.sleep(ahead_s)
        sys.stdout.write(f"{t!r},{','.join(cells)}\n")
    sys.stdout.flush()


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("recording", type=Path, help="a file of any format that can be preprocessed")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="times as fast; 0 = as fast as possible")
    parser.add_argument("--time-column", metavar="NAME", help="time column of a table (t_s, or else the first)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        if not 0 <= args.speed < math.inf:
            raise DataError(f"--speed {args.speed}: expected 0 or more")
        replay(args.recording, args.time_column, args.speed)
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
