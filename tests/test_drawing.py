import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import warm

from reports import drawing as module
from reports.drawing import LONG_STEPS, draw_here, drawing
from reports.recording_view import RecordingView
from utils import ROOT


@pytest.fixture
def started(monkeypatch):
    """Return the processes that draw, as they are started."""
    processes = []

    def start(*arguments, **options):
        processes.append(warm.Popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(module, "subprocess", SimpleNamespace(Popen=start, PIPE=subprocess.PIPE))
    return processes


def new_view(length=300):
    t = np.arange(length) / 5
    wave = np.sin(t)[:, None]
    return RecordingView("night", t, wave, 0.9 * wave, 3.0, np.abs(wave[:, 0]), np.full(length, 0.8), ("flow",), ("L",))


def test_few_steps_are_drawn_here():
    with drawing(LONG_STEPS - 1) as draw:
        assert draw is draw_here


def test_a_second_process_draws_the_same_pictures(tmp_path, started):
    view, names = new_view(), ("here", "apart")
    with drawing(LONG_STEPS) as apart:
        for name, draw in zip(names, (draw_here, apart), strict=True):
            draw(view, tmp_path / f"{name}.png", [(10.0, 20.0, "close", tmp_path / f"{name}_close.png")])
    assert started[0].returncode == 0
    for end in (".png", "_close.png"):
        here, there = ((tmp_path / f"{name}{end}").read_bytes() for name in names)
        assert here == there


def test_what_goes_wrong_there_is_raised_here(tmp_path, started):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists|Not a directory") as caught, drawing(LONG_STEPS) as draw:
        draw(new_view(), tmp_path / "file" / "night.png", [])
    assert caught.value.filename == str(tmp_path / "file") and "plots.py" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="the process that draws ended with -9"), drawing(LONG_STEPS) as draw:
        started[1].kill()
        started[1].wait()
        draw(new_view(), tmp_path / "night.png", [])


def test_an_error_here_ends_it_and_leaves_no_temporary_file(tmp_path, started):
    with pytest.raises(ZeroDivisionError), drawing(LONG_STEPS) as draw:
        draw(new_view(), tmp_path / "night.png", [])
        started[0].terminate()
        started[0].wait()
        started[0].stdin.write(b"cut off")                       # and never read: it must not hide the error
        raise ZeroDivisionError
    assert started[0].returncode is not None and not list(tmp_path.glob(".*"))


@pytest.mark.robustness
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are read from /proc")
def test_it_ends_when_this_process_is_killed():
    code = f"""
from reports.drawing import drawing
import time
with drawing({LONG_STEPS}):
    print("begun", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(child)


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
