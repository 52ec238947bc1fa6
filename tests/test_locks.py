"""One process at a time, whatever became of the one before."""

import os
import socket
import subprocess
import sys
import time

import pytest

import locks
from locks import FolderInUse, only_run_here, only_writer_of
from utils import ROOT

MINE = f"{os.getpid()}@{socket.gethostname()}"


def test_the_lock_of_a_living_process_refuses_and_stays(tmp_path, holder):
    other = holder(tmp_path)
    with pytest.raises(FolderInUse, match=f"another run, process {other.pid}, is at work"), only_run_here(tmp_path):
        pytest.fail("two runs in one folder")
    assert (tmp_path / ".lock").read_text() == f"{other.pid}@{socket.gethostname()}"


def test_the_lock_of_a_killed_process_is_free_at_once_and_what_it_was_writing_goes(tmp_path, holder):
    other = holder(tmp_path)
    (tmp_path / "plots").mkdir()
    left = [tmp_path / f".meta.json.{other.pid}.tmp", tmp_path / "plots" / f".a.png.{other.pid}.tmp"]
    for path in (*left, tmp_path / ".mine.tmp"):
        path.touch()
    other.kill()
    other.wait()
    assert (tmp_path / ".lock").exists()
    with only_run_here(tmp_path):
        assert (tmp_path / ".lock").read_text() == MINE
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine.tmp", "plots"]


@pytest.mark.parametrize("left", [str(os.getppid()), f"{os.getppid()}@{socket.gethostname()}", "", "\xff garbage"])
def test_a_number_that_another_process_has_now_holds_nothing(tmp_path, left):
    (tmp_path / ".lock").write_text(left)
    with only_run_here(tmp_path):
        assert (tmp_path / ".lock").read_text() == MINE
    assert not list(tmp_path.iterdir())


def test_within_a_process_a_folder_is_held_once(tmp_path):
    with only_run_here(tmp_path / "new"):
        with only_run_here(tmp_path / "new"):
            pass
        assert (tmp_path / "new" / ".lock").read_text() == MINE
    assert not list((tmp_path / "new").iterdir())


def test_folders_of_others_at_work_inside_are_not_swept(tmp_path, holder):
    inner = tmp_path / "runs" / "a"
    holder(inner)
    (inner / ".checkpoint.pt.17.tmp").touch()
    with only_run_here(tmp_path):
        assert (inner / ".checkpoint.pt.17.tmp").exists()


def test_the_lock_of_another_machine_holds_for_as_long_as_it_is_touched(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text("1@elsewhere")
    with pytest.raises(FolderInUse, match="process 1 on elsewhere, is at work"), only_run_here(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"] and lock.read_text() == "1@elsewhere"
    long_ago = lock.stat().st_mtime - 2 * locks.SILENT_S
    os.utime(lock, (long_ago, long_ago))
    with only_run_here(tmp_path):
        assert lock.read_text() == MINE


def test_without_flock_a_lock_holds_for_as_long_as_it_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    lock = tmp_path / ".lock"
    lock.write_text(f"{os.getppid()}@{socket.gethostname()}")
    with pytest.raises(FolderInUse, match=f"process {os.getppid()}, is at work"), only_run_here(tmp_path):
        pass
    os.utime(lock, (1, 1))
    with only_run_here(tmp_path):
        assert lock.read_text() == MINE


def test_a_held_lock_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.01)
    with only_run_here(tmp_path):
        os.utime(tmp_path / ".lock", (1, 1))
        deadline = time.monotonic() + 5
        while (tmp_path / ".lock").stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / ".lock").stat().st_mtime > 1


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), only_run_here(tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_file_has_one_writer_and_only_its_own_leftovers_go(tmp_path, holder):
    other = holder(tmp_path / "night.state", "only_writer_of")
    for name in (".night.state.17.tmp", ".day.state.17.tmp"):
        (tmp_path / name).touch()
    with pytest.raises(FolderInUse, match="night.state: another run"), only_writer_of(tmp_path / "night.state"):
        pass
    with only_run_here(tmp_path):
        pass
    assert (tmp_path / ".night.state.17.tmp").exists() and not (tmp_path / ".day.state.17.tmp").exists()
    (tmp_path / ".day.state.17.tmp").touch()
    other.kill()
    other.wait()
    with only_writer_of(tmp_path / "night.state"), only_writer_of(tmp_path / "day"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".day.state.17.tmp"]


RACE = """
import os, pathlib, sys, time
from locks import FolderInUse, only_run_here
root, held = pathlib.Path(sys.argv[1]), 0
sys.stdin.readline()
ends = time.monotonic() + 1.0
while time.monotonic() < ends:
    try:
        with only_run_here(root):
            inside = os.open(root / "inside", os.O_CREAT | os.O_EXCL)     # fails if another is inside, too
            held += 1
            os.close(inside)
            os.unlink(root / "inside")
    except FolderInUse:
        pass
print(held)
"""


def test_processes_that_take_and_give_back_at_once_are_never_in_together(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    said = [process.communicate("go\n") for process in processes]
    assert all(int(out) > 0 and not err for out, err in said), said
    assert not list(tmp_path.iterdir())
