import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import (
    ROOT,
    ArgumentParser,
    DataError,
    atomic_path,
    jsonable,
    run_cli,
    seed_everything,
)

pytestmark = pytest.mark.slow

ADVICE = "check the path, its permissions and the space that is left"


def scripts():
    return sorted(path for path in ROOT.glob("*.py") if "ArgumentParser(__doc__)" in path.read_text())


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_help_loads_neither_torch_nor_pandas(script):
    heavy = ("torch", "pandas", "matplotlib", "sklearn", "scipy", "onnx", "onnxruntime", "pooch", "requests")
    code = (
        f"import runpy, sys\nsys.argv = [{script.name!r}, '--help']\n"
        f"try:\n    runpy.run_path({str(script)!r}, run_name='__main__')\nexcept SystemExit as ended:\n"
        f"    sys.exit(ended.code or ', '.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and f"python {script.name}" in done.stdout


def test_a_wrong_argument_is_one_line_and_none_may_be_cut_short(capsys):
    parser = ArgumentParser("What it does")
    parser.add_argument("--seeds", type=int)
    for words in (["--seed", "3"], ["--seeds", "x"], ["--seeds"], ["more"]):
        with pytest.raises(SystemExit) as end:
            parser.parse_args(words)
        err = capsys.readouterr().err
        assert end.value.code == 2 and err.count("\n") == 1 and err.startswith("error: ") and "--help" in err


def test_a_module_says_how_it_is_called():
    ways = {"python -m reports.page": ["-m", "reports.page"], "export_model.py": ["export_model.py"]}
    for called, command in ways.items():
        done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.startswith(f"usage: {called} ")
        done = subprocess.run([sys.executable, *command, "--odd"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and f"; {called} --help lists the arguments\n" in done.stderr


def test_plain_values_of_numpy_by_hand():
    given = {
        "array": np.array([[1.0, np.nan], [np.inf, 2.5]]), 3: np.int8(7), "flag": np.bool_(True),
        "nested": (np.float32(0.5), [np.array(4), -math.inf]), "path": Path("a/b"), "text": "é", "none": None,
    }  # fmt: skip
    expected = {
        "array": [[1.0, None], [None, 2.5]], "3": 7, "flag": True,
        "nested": [0.5, [4, None]], "path": "a/b", "text": "é", "none": None,
    }  # fmt: skip
    assert json.loads(json.dumps(jsonable(given), allow_nan=False)) == expected


def test_seeding_repeats_draws_and_spends_no_time_on_filling_memory():
    seed_everything(3)
    first = torch.rand(4)
    seed_everything(3)
    assert torch.equal(torch.rand(4), first)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


# ---- how a script ends ----------------------------------------------------------------------


def test_what_the_disk_refuses_is_one_line_that_names_the_file(tmp_path, capsys):
    def body():
        with atomic_path(tmp_path / "a.csv"):
            raise OSError(28, "No space left on device")                     # as writing says it: no file is named

    assert run_cli(body) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'a.csv'}: No space left on device; {ADVICE}\n"
    assert run_cli(lambda: (tmp_path / "none" / "x").read_text()) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none' / 'x'}: No such file or directory; {ADVICE}\n"
    assert not list(tmp_path.iterdir())


def test_errors_of_our_own_stay_tracebacks():
    with pytest.raises(ZeroDivisionError):
        run_cli(lambda: 1 // 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_work_at_once_and_the_handlers_come_back(capsys, number, code):
    before = signal.getsignal(number)
    assert run_cli(lambda: os.kill(os.getpid(), number) or time.sleep(5)) == code
    assert capsys.readouterr().err == "interrupted\n" and signal.getsignal(number) is before


def test_a_signal_that_a_library_turns_into_an_error_of_its_own_still_ends_the_run(capsys):
    """As matplotlib's compiled paths do: "ValueError: Invalid affine transformation matrix"."""
    def body():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ValueError("Invalid affine transformation matrix") from None

    assert run_cli(body) == 130 and capsys.readouterr().err == "interrupted\n"
    test_errors_of_our_own_stay_tracebacks()


def test_ctrl_c_while_libraries_clean_up_at_exit_is_no_traceback():
    code = ("import atexit, os, signal, utils\n"                   # what is registered first is called last
            "atexit.register(os.kill, os.getpid(), signal.SIGINT)\nutils.run_cli(lambda: 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_signal_lets_the_files_at_hand_be_finished(tmp_path, capsys):
    def body():
        with atomic_path(tmp_path / "a.csv") as first, atomic_path(tmp_path / "b.csv") as second:
            os.kill(os.getpid(), signal.SIGINT)
            first.write_text("whole")
            second.write_text("whole")
        time.sleep(5)

    assert run_cli(body) == 130 and capsys.readouterr().err == "interrupted\n"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.csv": "whole", "b.csv": "whole"}


def test_a_second_signal_does_not_wait_and_leaves_nothing_half_written(tmp_path, capsys):
    def body():
        with atomic_path(tmp_path / "a.csv") as temporary:
            temporary.touch()
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    assert run_cli(body) in (130, 143) and capsys.readouterr().err == "interrupted\n"
    assert not list(tmp_path.iterdir())


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run_cli(lambda: os.kill(os.getpid(), signal.SIGINT) or 7) == 7
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_too_little_memory_is_one_line_on_the_gpu_too(capsys):
    def body():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert run_cli(body) == 2 and "not enough memory" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    code = "from utils import run_cli\nrun_cli(lambda: print('line\\n' * 100_000) or 0)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 0


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("utils.os.fsync", lambda _: done.append("fsync"))
    monkeypatch.setattr("utils.os.replace", lambda *_: done.append("rename"))
    for durable in (True, False):
        with atomic_path(tmp_path / "a", durable) as temporary:
            temporary.touch()
    assert done == ["fsync", "rename", "rename"]


def test_a_half_written_file_is_no_dataerror_of_its_own(tmp_path):
    with pytest.raises(DataError, match="as it was"), atomic_path(tmp_path / "a"):
        raise DataError("as it was")
    assert not list(tmp_path.iterdir())
