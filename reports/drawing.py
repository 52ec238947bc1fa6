"""Who draws the pictures of recordings: this process, or a second one while this one goes on.

Importing matplotlib and drawing a long night takes seconds, in which this process scores and writes tables.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reports.recording_view import RecordingView
from utils import ROOT, setup_logging

Draw = Callable[[RecordingView, Path, Sequence[tuple[float, float, str, Path]]], None]   # as plots.draw_recording

LONG_STEPS = 50_000                     # of recordings, from which on a second process saves more time than it costs


def draw_here(view: RecordingView, path: Path, close_ups: Sequence[tuple[float, float, str, Path]]) -> None:
    """Draw a recording in this process."""
    from reports import plots

    plots.draw_recording(view, path, close_ups)


@contextlib.contextmanager
def drawing(steps: int) -> Iterator[Draw]:
    """Give a function that draws one of some recordings of so many steps in all; at the end all are drawn.

    Raises: what went wrong in a second process, there or at the end. It ends when this process does, however that ends.
    """
    if steps < LONG_STEPS:
        yield draw_here
        return
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", "reports.drawing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},        # no module of the current folder
        start_new_session=True,                                              # Ctrl-C is for this process
    ) as process:  # fmt: skip

        def draw(*job: object) -> None:
            with contextlib.suppress(BrokenPipeError):           # it has ended, which is told below
                pickle.dump(job, process.stdin)
                process.stdin.flush()
                return
            _finish(process)

        try:
            yield draw
            _finish(process)
        finally:
            process.terminate()
            with contextlib.suppress(BrokenPipeError):           # what a signal cut off; it must not hide the signal
                process.stdin.close()


def _finish(process: subprocess.Popen) -> None:
    """Wait until all is drawn; raise what went wrong."""
    answer, _ = process.communicate()
    if answer:
        raise pickle.loads(answer)
    if process.returncode:
        raise RuntimeError(f"the process that draws ended with {process.returncode}")


def serve() -> int:
    """Draw the recordings that come in on stdin, until it ends; pickle an error to stdout."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))        # so that no temporary file is left
    setup_logging()
    try:
        from reports import plots

        while True:
            plots.draw_recording(*pickle.load(sys.stdin.buffer))
    except EOFError:                                             # the other process is done
        return 0
    except pickle.UnpicklingError:                               # it is gone, in the middle of a recording
        return 1
    except Exception as error:
        error.add_note(traceback.format_exc())
        pickle.dump(error, sys.stdout.buffer)
        return 1


if __name__ == "__main__":
    raise SystemExit(serve())
