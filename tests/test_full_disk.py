"""A disk that is full, or cannot be written: one line that names the file, nothing half-written, and it goes on."""

import contextlib
import resource
import shutil
import subprocess
import sys

import pictures
import pytest
from project import assert_same_weights, call, make_datasets, weights_of

import collected_data_preprocess
import experiment
import export_model
import stream_detect
from recordings import simulator
from reports import page
from reports.scoring import MARK
from utils import ROOT

pytestmark = [pytest.mark.robustness, pytest.mark.usefixtures("blank_pictures")]


@contextlib.contextmanager
def largest_file(size):
    """Let the system refuse more bytes in a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def mounted(tmp_path):
    """Return what mounts a small disk; it goes away behind the test."""
    folders = []

    def mount(*options):
        folder = tmp_path / "disk"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", folder], capture_output=True)
        if done.returncode:
            pytest.skip("this machine allows no mount")
        folders.extend({folder} - set(folders))
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_datasets(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def run(home):
    with pictures.blank():
        assert call(home, "--out", home / "run") == 0
    return home / "run"


def error_line(capsys, path, reason="File too large"):
    """Return whether the last run said in one line which file below a path was refused, and why."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err and "Logging error" not in err and len(lines) == 1, err
    return str(path) in lines[0] and reason in lines[0]


def nothing_half_written(folder):
    return not [path for path in folder.rglob("*") if path.name.startswith(".") and path.name != MARK]


@pytest.mark.parametrize("below", ["config.json", "checkpoint.safetensors", "report.html"])
def test_a_training_without_room_says_so_and_resumes(home, run, tmp_path, capsys, monkeypatch, below):
    root, size = tmp_path / "run", (run / below).stat().st_size
    write_report = page.write_report
    with contextlib.ExitStack() as limit:
        full = largest_file(size * 9 // 10)
        if below == "report.html":                               # smaller than the checkpoint: full from then on
            late = lambda root: limit.enter_context(full) or write_report(root)  # noqa: E731
            monkeypatch.setattr(experiment, "write_report", late)
        else:
            limit.enter_context(full)
        assert call(home, "--out", root) == 2
    monkeypatch.undo()
    assert error_line(capsys, root / below) and nothing_half_written(root)
    go_on = ("--resume", root) if (root / "config.json").exists() else ("--out", root)
    assert call(home, *go_on) == 0
    assert_same_weights(weights_of(run), weights_of(root))
    assert (root / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()


def test_a_scoring_without_room_says_so_and_starts_over(home, run, tmp_path, capsys):
    root = tmp_path / "scored"
    command = ["--checkpoint", run / "checkpoint.safetensors", "--score", home / "raw" / "three.csv", "--out", root]
    with largest_file(2000):
        assert call(home, *command) == 2
    assert error_line(capsys, root) and nothing_half_written(root)
    assert call(home, "--resume", root) == 2 and "no config.json" in capsys.readouterr().err     # it trains nothing
    assert call(home, *command) == 0 and "a scoring was cut off here; it starts over" in capsys.readouterr().err
    assert not (root / MARK).exists()
    assert call(home, *command) == 2 and "not empty" in capsys.readouterr().err
    assert call(home, "--resume", root) == 2 and "holds scored recordings" in capsys.readouterr().err


def test_preprocess_simulate_export_and_stream_report_a_full_disk(home, run, tmp_path, capsys):
    config, checkpoint = ["--dataset-config", str(home / "dataset_config.json")], str(run / "checkpoint.safetensors")
    small = ["--minutes", "10", "--train-sessions", "1", "--calibration-sessions", "0", "--test-sessions", "0"]
    live = ["--follow", str(home / "raw" / "three.csv"), "--out", str(tmp_path / "live" / "out.csv")]
    jobs = {
        "windows": (collected_data_preprocess, [*config, "--dataset", "tiny", "--out", str(tmp_path / "windows")]),
        "raw": (simulator, [*small, "--out", str(tmp_path / "raw")]),
        "onnx": (export_model, ["--checkpoint", checkpoint, "--out", str(tmp_path / "onnx")]),
        "live": (stream_detect, ["--checkpoint", checkpoint, *live]),
    }
    (tmp_path / "live").mkdir()
    for folder, (script, arguments) in jobs.items():
        with largest_file(1000):
            assert script.main(arguments) == 2
        assert error_line(capsys, tmp_path / folder), folder
        assert nothing_half_written(tmp_path / folder)


def test_a_dataset_made_again_without_room_is_not_read_half_old_half_new(home, tmp_path, capsys):
    datasets = shutil.copytree(home / "datasets", tmp_path / "datasets")
    out = datasets / "collected-known-anomaly"
    config = ["--dataset-config", str(home / "dataset_config.json"), "--dataset", "tiny", "--out", str(out)]
    sizes = {split: (out / "tiny" / f"{split}.csv").stat().st_size for split in ("train", "test")}
    assert sizes["train"] < sizes["test"]
    with largest_file(sizes["test"] - 1):
        assert collected_data_preprocess.main([*config, "--force"]) == 2
    assert error_line(capsys, out / "tiny" / "test.csv")
    assert call(home, "--datasets", datasets, "--out", tmp_path / "run") == 2
    assert "create it first: python collected_data_preprocess.py --dataset tiny" in capsys.readouterr().err
    assert collected_data_preprocess.main(config) == 0
    assert (out / "tiny" / "meta.json").exists()


def test_a_disk_that_really_is_full(home, mounted, capsys):
    disk = mounted("size=64k")
    assert call(home, "--out", disk / "run") == 2
    assert error_line(capsys, disk / "run" / "checkpoint.safetensors", "No space left on device")
    assert nothing_half_written(disk)


def test_a_disk_that_cannot_be_written(home, run, mounted, capsys):
    disk = mounted("size=1m")
    shutil.copy(run / "checkpoint.safetensors", disk)
    mounted("remount,ro")
    for arguments in (["--out", disk / "run"], ["--out", disk], ["--resume", disk]):
        assert call(home, *arguments) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"error: {disk}"), line
    assert export_model.main(["--checkpoint", str(disk / "checkpoint.safetensors")]) == 2
    assert error_line(capsys, disk / "onnx", "Read-only file system")


def test_an_answer_that_nobody_can_take_is_an_error():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "collected_data_preprocess.py", "--list"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    said = "error: No space left on device; check the path, its permissions and the space that is left\n"
    assert (done.returncode, done.stderr) == (2, said)
