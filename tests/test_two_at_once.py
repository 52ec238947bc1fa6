"""Two processes in one place: one of them is refused, or what they write and read fits together."""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import warm
from project import DATASET, call, make_datasets
from tiny import draw_recording, make_checkpoint

import collected_data_preprocess
from data_loader import load_dataset
from detection.checkpoint import read_tensors
from recordings import simulator
from reports import page as report_page
from reports.run_folder import at_work_in
from utils import ROOT, DataError

pytestmark = pytest.mark.robustness

SMALL = {"seed": 0, "minutes": 10.0, "train": 1, "calibration": 0, "test": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_datasets(tmp_path_factory.mktemp("home"))


def start(*command):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return warm.Popen([sys.executable, *map(str, command)], cwd=ROOT, env=environment, **pipes)


def both(*command):
    """Run a command twice at once; return the codes and what was said, the one that came through first."""
    processes = [start(*command), start(*command)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    return sorted(zip([process.returncode for process in processes], said))


def folder_of(datasets):
    return datasets / "collected-known-anomaly" / "tiny"


# ---- preprocessing --------------------------------------------------------------------------


def test_a_dataset_that_another_process_is_writing_is_not_written(home, tmp_path, holder, capsys):
    folder = shutil.copytree(folder_of(home / "datasets"), tmp_path / "tiny")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = holder(folder)
    command = ["--dataset-config", str(home / "dataset_config.json"), "--dataset", "tiny", "--out", str(tmp_path)]
    assert collected_data_preprocess.main(command) == 0                      # it is up to date, nothing is written
    assert collected_data_preprocess.main([*command, "--force"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"error: {folder}: another run, process {other.pid} on {platform.node()}, is at work in it"
    other.communicate("let go")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_dataset_made_again_is_read_whole_or_refused(home, tmp_path):
    """The two have as many rows: nothing but their sums tells a mixture."""
    config, out = tmp_path / "dataset_config.json", tmp_path / "datasets"
    entries, wanted = [], []
    for flow_hz in (1.0, 2.0):
        channels = DATASET["channels"] | {"flow_lpm": DATASET["channels"]["flow_lpm"] | {"low_pass_hz": flow_hz}}
        entry = DATASET | {"channels": channels, "raw_dir": str(home / "raw")}
        config.write_text(json.dumps({"tiny": entry}))
        command = ["--dataset-config", str(config), "--dataset", "tiny", "--force", "--out", str(out)]
        assert collected_data_preprocess.main(command) == 0
        entries.append(entry)
        dataset = load_dataset(out / "tiny")
        wanted.append((dataset.meta.fingerprint, [dataset.splits[s][0].values for s in ("train", "val", "test")]))
    assert wanted[0][1][2].shape == wanted[1][1][2].shape and not np.array_equal(wanted[0][1][2], wanted[1][1][2])
    done = threading.Event()

    def make_again():
        for k in range(16):
            config.write_text(json.dumps({"tiny": entries[k % 2]}))
            assert collected_data_preprocess.main(command) == 0
        done.set()

    writer = threading.Thread(target=make_again)
    writer.start()
    read, refused = 0, 0
    while not done.is_set() and writer.is_alive():
        try:
            dataset = load_dataset(out / "tiny")
        except DataError as error:
            assert "preprocess" in str(error)
            refused += 1
            continue
        read += 1
        splits = [dataset.splits[s][0].values for s in ("train", "val", "test")]
        expected = dict(wanted)[dataset.meta.fingerprint]
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(splits, expected, strict=True))
    writer.join()
    assert done.is_set() and read and refused


# ---- the simulator --------------------------------------------------------------------------


def test_two_simulators_at_once_leave_one_whole_folder(tmp_path):
    arguments = [text for key in ("train", "calibration", "test") for text in (f"--{key}-sessions", SMALL[key])]
    said = both("-m", "recordings.simulator", "--minutes", SMALL["minutes"], *arguments, "--out", tmp_path / "raw")
    assert said[0][0] == 0
    assert said[1][0] == 0 or (said[1][0] == 2 and "is at work in it" in said[1][1]), said[1]
    simulator.write_sessions(tmp_path / "alone", **SMALL)
    alone = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == alone


def test_a_simulation_that_was_cut_off_is_finished_by_preprocessing(tmp_path, monkeypatch, capsys):
    raw, one = tmp_path / "raw", simulator.simulate_session

    def cut_off(seed, *arguments):
        if list(raw.glob("session_02*")) or list(raw.glob("session_01.csv")):
            raise KeyboardInterrupt
        return one(seed, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(simulator, "simulate_session", cut_off)
        with pytest.raises(KeyboardInterrupt):
            simulator.write_sessions(raw, **SMALL)
    assert simulator.unfinished_arguments(raw) == SMALL and not (raw / "session_02.csv").exists()
    entry = json.loads((ROOT / "dataset_config.json").read_text())["simulated"]
    split = {"train": ["session_01"], "test": ["session_02"], "val_fraction": 0.3}
    (tmp_path / "dataset_config.json").write_text(json.dumps({"simulated": entry | {"raw_dir": "raw", "split": split}}))
    command = ["--dataset-config", str(tmp_path / "dataset_config.json"), "--out", str(tmp_path / "out")]
    assert collected_data_preprocess.main(command) == 0, capsys.readouterr().err
    assert simulator.unfinished_arguments(raw) is None and len(list(raw.glob("*.csv"))) == 4


# ---- runs, grids, pages, streams ------------------------------------------------------------


def test_two_trainings_into_one_new_folder_leave_one_whole_run(home, tmp_path):
    arguments = ["--config", home / "config.json", "--datasets", home / "datasets", "--device", "cpu", "--seeds", 2]
    command, root = ["pure_lstm_anomaly_detection_main.py", *arguments, "--out"], tmp_path / "run"
    said = both(*command, root)
    assert [code for code, _ in said] == [0, 2], said
    assert "is at work in it" in said[1][1] or "not empty" in said[1][1]
    alone = start(*command, tmp_path / "alone")                  # a process too: as many threads
    assert alone.communicate(timeout=120) and alone.returncode == 0
    for name in ("summary.json", "config.json", "seed1/metrics.json", "seed1/scores.csv"):
        assert (root / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_only_one_process_gets_a_new_folder_though_both_found_it_empty(tmp_path, holder):
    other = holder(tmp_path / "run")
    with pytest.raises(DataError, match="is at work in it"), at_work_in(tmp_path / "run", new=True):
        pytest.fail("two runs in one folder")
    (tmp_path / "run" / "config.json").write_text("{}")
    other.communicate("let go")
    with pytest.raises(DataError, match="not empty"), at_work_in(tmp_path / "run", new=True):
        pytest.fail("a run in a used folder")


@pytest.mark.usefixtures("blank_pictures")
def test_no_page_is_made_while_a_run_is_at_work_or_was_cut_off(home, tmp_path, holder, capsys, monkeypatch):
    root = tmp_path / "run"
    (tmp_path / ".thesis.42.tmp").touch()
    assert report_page.main([str(tmp_path)]) == 2 and "no run folder" in capsys.readouterr().err
    assert (tmp_path / ".thesis.42.tmp").exists()                # a folder of anything is not tidied up
    assert call(home, "--out", root) == 0
    page = (root / "report.html").read_bytes()
    other = holder(root)
    assert report_page.main([str(root)]) == 2
    assert "is at work in it" in capsys.readouterr().err and (root / "report.html").read_bytes() == page
    other.communicate("let go")
    with monkeypatch.context() as patch:                         # scored again, and killed
        patch.setattr("reports.run_folder.write_alarms", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(home, "--resume", root) == 130
    assert report_page.main([str(root)]) == 2
    assert "not finished, there is no metrics.json; resume it with --resume" in capsys.readouterr().err
    assert call(home, "--resume", root) == 0
    assert (root / "report.html").exists()


def test_a_second_stream_with_the_same_state_or_output_is_refused(tmp_path, holder):
    checkpoint = make_checkpoint(tmp_path)
    draw_recording(40, 5).to_csv(tmp_path / "lines.csv", index=False)
    stream = ["stream_detect.py", "--checkpoint", checkpoint, "--follow", tmp_path / "lines.csv"]
    first = start(*stream, "--state", tmp_path / "a.state", "--out", tmp_path / "out.csv")
    try:
        while not (tmp_path / "a.state").exists() or not (tmp_path / "out.csv").exists():
            assert first.poll() is None, first.communicate()
        state = read_tensors(tmp_path / "a.state")
        for more, words in (
            (["--state", tmp_path / "a.state", "--out", tmp_path / "out.csv"], "is at work in it"),
            (["--state", tmp_path / "b.state", "--out", tmp_path / "out.csv"], "exists already"),
        ):
            second = start(*stream, *more)
            err = second.communicate(timeout=60)[1]
            assert second.returncode == 2 and words in err and err.count("\n") == 1
        assert first.poll() is None and state["format"]
    finally:
        first.terminate()
        assert first.wait(timeout=60) == 128 + 15
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
