"""One process at a time in a folder or at a file, however the one before ended."""

import os
import platform
import subprocess
import sys

import pytest

from utils import ROOT, DataError, FolderInUse, only_run_here, only_writer_of

pytestmark = pytest.mark.robustness

MINE = f"{os.getpid()} on {platform.node()}"


def test_the_lock_of_a_living_process_refuses_and_stays(tmp_path, holder):
    other = holder(tmp_path)
    told = f"another run, process {other.pid} on {platform.node()}, is at work in it"
    with pytest.raises(FolderInUse, match=told), only_run_here(tmp_path):
        pytest.fail("two runs in one folder")
    assert (tmp_path / ".lock").read_text() == f"{other.pid} on {platform.node()}"


def test_the_lock_of_a_killed_process_is_free_its_rest_swept(tmp_path, holder):
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


@pytest.mark.parametrize("left", [f"{os.getppid()} on {platform.node()}", "1@elsewhere", "", "\xff garbage"])
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
    (inner / ".checkpoint.safetensors.17.tmp").touch()
    with only_run_here(tmp_path):
        assert (inner / ".checkpoint.safetensors.17.tmp").exists()


def test_a_place_that_cannot_be_locked_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: cannot be written or locked"), only_run_here(tmp_path / "file"):
        pass
    monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
    told = "cannot be written or locked .Function not implemented"
    with pytest.raises(DataError, match=told), only_run_here(tmp_path):
        pass


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
from utils import FolderInUse, only_run_here
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
