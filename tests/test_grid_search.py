"""The grid search as a user calls it, on three small recordings and a tiny model."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import warm
from project import CONFIG, make_datasets

import grid_search
import trainers
from config import load_experiment
from data_loader import load_dataset
from detection.checkpoint import load_checkpoint
from experiment import prepare
from grid import engines, plan

pytestmark = pytest.mark.slow

CHECKPOINT = "checkpoint.safetensors"
SCRIPT = Path(grid_search.__file__)
GRID = {"training.learning_rate": [0.01, 0.003], "model.hidden_units": [4, 8]}
TINY = Path("collected-known-anomaly") / "tiny"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = make_datasets(tmp_path_factory.mktemp("home"))
    write_config(root / "grid.json", GRID)
    return root


def write_config(path, grid, **training):
    content = CONFIG | {"grid": grid, "training": CONFIG["training"] | training}
    path.write_text(json.dumps(content))
    return path


def arguments_of(home, *arguments):
    config = () if {"--config", "--resume"} & set(arguments) else ("--config", home / "grid.json")
    return [str(a) for a in (*config, "--datasets", home / "datasets", *arguments)]


def call(home, *arguments):
    return grid_search.main(arguments_of(home, *arguments))


def start(home, *arguments):
    """Start the script as a process of its own, leader of its group."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    command = [sys.executable, str(SCRIPT), *arguments_of(home, *arguments)]
    return warm.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def wait_until(there, seconds=300):                              # a busy machine
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert there()


def results_of(root, seeds=2):
    """The results of a grid's first seeds but for times, whatever the order they came in."""
    table = pd.read_csv(root / "grid_results.csv").drop(columns="seconds")
    return table[table["seed"] < seeds].reset_index(drop=True)


def journal_of(root):
    return [json.loads(line) for line in (root / "journal.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(home):
    """An undisturbed grid of two seeds in this process, left as it is by every test."""
    root = home / "done"
    assert call(home, "--seeds", 2, "--out", root) == 0
    return root


# ---- one process ----------------------------------------------------------------------------


def test_a_grid_fills_its_folder(home, done):
    files = {"grid.json", "journal.jsonl", "grid_results.csv", "grid_summary.csv", "best_config.json", "runs", "plots"}
    assert {path.name for path in done.iterdir()} == files                  # and no lock
    assert {path.name for path in (done / "plots").iterdir()} == {"effects.png", "ranking.png", "curves.png"}
    table = results_of(done)
    assert len(table) == 8 and (table["status"] == "finished").all()
    assert table["val_loss"].notna().all() and (table["val_skill"] < 1).all() and (table["epochs"] == 3).all()
    for key, folder in zip(table["run"], sorted(table["run"]), strict=True):
        there = {path.name for path in (done / "runs" / folder).iterdir()}
        assert {CHECKPOINT, "metrics.json", "history.csv", "result.json"} <= there and "scores.csv" not in there
        assert pd.read_csv(done / "runs" / key / "history.csv")["val_loss"].min() == pytest.approx(
            table.set_index("run").loc[key, "val_loss"], rel=1e-6
        )


def test_the_skill_in_the_results_is_that_of_the_checkpoint(home, done):
    row = results_of(done).iloc[0]
    grid = plan.read_plan(done, home / "datasets")
    (run,) = [run for run in grid.runs if run.key.startswith(row["run"])]
    progress = load_checkpoint(done / "runs" / row["run"] / CHECKPOINT)["training"]["progress"]
    experiment = prepare(run.config, load_dataset(grid.data))
    skill = engines.skill_of(experiment, progress["best_model"], grid.shared_validation, "cpu")
    assert row["val_skill"] == pytest.approx(skill, rel=1e-6)


def test_the_summary_ranks_by_the_mean_validation_loss(done):
    table, summary = results_of(done), pd.read_csv(done / "grid_summary.csv")
    means = table.groupby(list(GRID))["val_loss"].mean().sort_values()
    assert summary["val_loss_mean"].tolist() == pytest.approx(means.tolist(), rel=1e-6)
    assert [tuple(row) for row in summary[list(GRID)].to_numpy()] == list(means.index)
    assert summary["rank"].tolist() == [1, 2, 3, 4]


def test_the_winner_runs_in_the_main_script(done):
    best, first = load_experiment(done / "best_config.json"), pd.read_csv(done / "grid_summary.csv").iloc[0]
    assert best.model.hidden_units == first["model.hidden_units"] and best.grid == {}
    assert best.training.learning_rate == first["training.learning_rate"] and best.training.seed == 0


def test_the_count_comes_before_and_the_verdict_after(home, tmp_path, capfd):
    assert call(home, "--set", 'grid={"model.hidden_units": [4, 8]}', "--out", tmp_path / "x") == 0
    out, err = capfd.readouterr()
    assert err.splitlines()[0] == "2 runs on tiny: 2 configs with 1 seed each"
    assert "best by validation loss: model.hidden_units=" in out and str(tmp_path / "x") in out.splitlines()[-1]
    assert "epoch" not in err                                              # what runs say is in their log files


def test_a_dry_run_starts_nothing(home, tmp_path, capfd):
    assert call(home, "--out", tmp_path / "x", "--dry-run") == 0
    assert capfd.readouterr().err == "4 runs on tiny: 4 configs with 1 seed each\n" and not (tmp_path / "x").exists()
    assert call(home, "--set", 'grid={"model.hidden_units": [4]}', "--seeds", 2, "--dry-run") == 0
    assert capfd.readouterr().err == "2 runs on tiny: 1 config with 2 seeds\n"


def test_labels_of_the_test_split_change_no_ranking(home, done, tmp_path):
    shutil.copytree(home / "datasets", tmp_path / "datasets")
    path = tmp_path / "datasets" / TINY / "meta.json"
    meta = json.loads(path.read_text())
    for event in meta["events"]["three"]:
        event["start_s"], event["end_s"] = 10.0, 40.0
    path.write_text(json.dumps(meta))
    arguments = ["--config", home / "grid.json", "--datasets", tmp_path / "datasets", "--seeds", 2]
    assert grid_search.main([str(a) for a in (*arguments, "--out", tmp_path / "x")]) == 0
    summaries = [pd.read_csv(root / "grid_summary.csv") for root in (done, tmp_path / "x")]
    learnt = [c for c in summaries[0] if not c.startswith(("test_", "seconds"))]
    pd.testing.assert_frame_equal(*(summary[learnt] for summary in summaries))
    assert not summaries[0]["test_auc_pr_mean"].equals(summaries[1]["test_auc_pr_mean"])
    assert (done / "best_config.json").read_text() == (tmp_path / "x" / "best_config.json").read_text()


def test_the_forecast_skill_is_compared_where_losses_cannot_be(home, tmp_path, capfd):
    grid = {"model.horizon_s": [1.0, 2.0], "dataset.channels": [["flow_lpm"], None]}
    config = write_config(tmp_path / "c.json", grid)
    assert call(home, "--config", config, "--out", tmp_path / "x") == 0
    assert "ranked by forecast skill: the grid varies model.horizon_s, dataset.channels" in capfd.readouterr().out
    summary = pd.read_csv(tmp_path / "x" / "grid_summary.csv")
    assert summary["val_skill_mean"].is_monotonic_decreasing and summary["rank_by_skill"].tolist() == [1, 2, 3, 4]


def test_halving_pauses_the_training_that_it_would_have_been(home, tmp_path):
    config = write_config(tmp_path / "c.json", {"training.learning_rate": [0.01, 0.003, 0.001, 0.03]})
    assert call(home, "--config", config, "--out", tmp_path / "whole") == 0
    assert call(home, "--config", config, "--out", tmp_path / "halved", "--halving") == 0
    whole, halved = (results_of(tmp_path / name).set_index("run") for name in ("whole", "halved"))
    assert halved["status"].value_counts().to_dict() == {"finished": 2, "stopped": 2}
    assert halved.loc[halved["status"] == "stopped", "epochs"].tolist() == [1, 1]
    kept = halved.index[halved["status"] == "finished"]
    columns = [c for c in whole if c not in ("rule", "error")]
    pd.testing.assert_frame_equal(whole.loc[kept, columns], halved.loc[kept, columns], check_dtype=False)
    first = {key: pd.read_csv(tmp_path / "whole" / "runs" / key / "history.csv")["val_loss"][0] for key in whole.index}
    assert set(kept) == set(sorted(first, key=first.get)[:2])


# ---- wrong input ----------------------------------------------------------------------------


WRONG = [
    (["--set", 'grid={"score.weights": [{"amplitude_drop:other": 1.0}]}'], "score.weights: none is for a channel"),
    (["--set", 'grid={"dataset.channels": [["nose"]]}'], "no channel 'nose'"),
    (["--seeds", 5000], "20,000 runs; confirm more than 10,000 with --yes"),
    (["--runs-per-gpu", 2, "--device", "cpu"], "leave --jobs and --device cpu out"),
    (["--scheduler", "nonsense"], "no Dask scheduler answers there"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_input_is_one_line_and_starts_nothing(home, tmp_path, capfd, arguments, message):
    assert call(home, *arguments, "--out", tmp_path / "x") == 2
    out, err = capfd.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and "Traceback" not in err and not out
    assert not (tmp_path / "x").exists()


def test_a_folder_in_use_is_refused_by_its_process(home, done, capfd, holder):
    other = holder(done)
    assert call(home, "--resume", done) == 2
    assert f"process {other.pid} on " in capfd.readouterr().err
    other.communicate("let go")
    assert not (done / ".lock").exists()


def test_a_grid_that_cannot_start_takes_nothing_of_others_with_it(home, done, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(engines, "SCHEDULER_ANSWERS_S", 0.5)
    dead = ("--scheduler", "tcp://127.0.0.1:9")
    new, mine = tmp_path / "new", tmp_path / "mine"
    mine.mkdir()
    (mine / ".env").write_text("mine")
    for out in (new, mine):
        assert call(home, *dead, "--out", out) == 2 and "no Dask scheduler" in capfd.readouterr().err
    assert not new.exists() and [path.name for path in mine.iterdir()] == [".env"]
    shutil.copy(done / "grid.json", mine)
    assert call(home, *dead, "--resume", mine) == 2 and "no Dask scheduler" in capfd.readouterr().err
    assert sorted(path.name for path in mine.iterdir()) == [".env", "grid.json"]


def test_a_refused_grid_leaves_the_journal_of_the_one_at_work(home, done, tmp_path, capfd, holder):
    root = tmp_path / "x"
    root.mkdir()
    torn = (done / "journal.jsonl").read_bytes()[:-10]
    (root / "journal.jsonl").write_bytes(torn)
    shutil.copy(done / "grid.json", root)
    holder(root)
    assert call(home, "--resume", root) == 2 and "is at work in it" in capfd.readouterr().err
    assert (root / "journal.jsonl").read_bytes() == torn


def test_other_data_is_not_mixed_in(home, done, tmp_path, capfd):
    shutil.copytree(home / "datasets", tmp_path / "datasets")
    path = tmp_path / "datasets" / TINY / "meta.json"
    path.write_text(path.read_text() + "\n")
    assert grid_search.main(["--resume", str(done), "--datasets", str(tmp_path / "datasets")]) == 2
    assert "no longer the data" in capfd.readouterr().err


def test_runs_per_gpu_needs_a_gpu(home, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert call(home, "--runs-per-gpu", 2, "--out", tmp_path / "x") == 2
    assert "torch sees no CUDA device here" in capfd.readouterr().err and not (tmp_path / "x").exists()


def test_without_dask_one_run_at_a_time_works(home, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert call(home, "--jobs", 2, "--out", tmp_path / "x") == 2
    assert "--jobs 2 needs Dask; pip install -r requirements-grid.txt" in capfd.readouterr().err
    assert call(home, "--scheduler", "tcp://127.0.0.1:1", "--out", tmp_path / "x") == 2
    assert "--scheduler needs Dask" in capfd.readouterr().err
    assert call(home, "--jobs", 0, "--out", tmp_path / "x", "--set", 'grid={"model.hidden_units": [4]}') == 0
    assert "Dask is not installed" in capfd.readouterr().err


# ---- failures -------------------------------------------------------------------------------


def test_what_fails_is_recorded_and_the_other_runs_continue(home, tmp_path, capfd, monkeypatch):
    run, validate = engines.run_experiment, trainers.Trainer.validate

    def failing(experiment, *arguments, **named):
        config = experiment.config
        if config.model.hidden_units == 5:
            raise ZeroDivisionError("two\nlines")
        if config.model.hidden_units == 6:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes")
        return run(experiment, *arguments, **named)

    def without_number(trainer, batches):
        return float("nan") if trainer.model.lstm.hidden_size == 7 else validate(trainer, batches)

    monkeypatch.setattr(engines, "run_experiment", failing)
    monkeypatch.setattr(trainers.Trainer, "validate", without_number)
    config = write_config(tmp_path / "c.json", {"model.hidden_units": [5, 6, 7, 4]})
    assert call(home, "--config", config, "--out", tmp_path / "x") == 0
    table = results_of(tmp_path / "x").set_index("model.hidden_units")
    assert table["status"].tolist() == ["failed", "failed", "failed", "finished"]
    assert table.loc[5, "error"] == "ZeroDivisionError: two lines"
    assert table.loc[6, "error"].startswith("out of memory: DefaultCPUAllocator")
    assert table.loc[7, "error"].startswith("epoch 0: loss is not finite")
    metrics = [c for c in table if c.startswith(("val_", "test_", "calibration_", "best_epoch", "epochs"))]
    assert table.loc[[5, 6, 7], metrics].isna().all(axis=None) and table.loc[4, metrics].notna().sum() >= 5
    assert "failed runs: 3 of 4; the first: ZeroDivisionError: two lines" in capfd.readouterr().out
    assert "Traceback" in (tmp_path / "x" / "runs" / table.loc[5, "run"] / "error.txt").read_text()
    monkeypatch.undo()
    assert call(home, "--resume", tmp_path / "x", "--retry-failed") == 0
    assert (results_of(tmp_path / "x")["status"] == "finished").all()


def test_a_grid_that_fails_altogether_says_so(home, tmp_path, capfd, monkeypatch):
    def failing(*arguments, **named):
        raise MemoryError

    monkeypatch.setattr(engines, "run_experiment", failing)
    assert call(home, "--out", tmp_path / "x") == 2
    assert "every run failed" in capfd.readouterr().err and not (tmp_path / "x" / "best_config.json").exists()
    assert results_of(tmp_path / "x")["error"].tolist() == ["out of memory: MemoryError"] * 4


# ---- killed and resumed ---------------------------------------------------------------------


def test_a_driver_killed_half_way_loses_nothing_and_repeats_nothing(home, done, tmp_path):
    root = tmp_path / "x"
    with start(home, "--seeds", 2, "--out", root) as process:
        wait_until(lambda: len(list(root.glob("runs/*/result.json"))) > 3)
        process.kill()
    before = journal_of(root)
    assert 2 < len(before) < 8 and (root / ".lock").exists()
    with (root / "journal.jsonl").open("a") as file:
        file.write('{"key": "torn')
    assert call(home, "--resume", root) == 0
    after = journal_of(root)
    assert after[: len(before)] == before and len({record["key"] for record in after}) == len(after) == 8
    pd.testing.assert_frame_equal(results_of(root), results_of(done))


def copy_without_last_record(done, root):
    """Copy a finished grid, but for the last line of its journal; return the folder of that run."""
    shutil.copytree(done, root)
    lines = (root / "journal.jsonl").read_text().splitlines(keepends=True)
    (root / "journal.jsonl").write_text("".join(lines[:-1]))
    return root / "runs" / json.loads(lines[-1])["key"][:12]


def test_a_run_that_finished_unrecorded_is_not_done_again(home, done, tmp_path):
    root = tmp_path / "x"
    last = copy_without_last_record(done, root)
    before = (last / CHECKPOINT).stat().st_mtime_ns
    assert call(home, "--resume", root) == 0
    assert (last / CHECKPOINT).stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(results_of(root), results_of(done))


def test_a_run_that_an_orphan_is_still_at_is_waited_for(home, done, tmp_path, holder):
    root = tmp_path / "x"
    last = copy_without_last_record(done, root)
    (last / "result.json").rename(last / "later")
    orphan = holder(last)

    def finish():
        (last / "later").rename(last / "result.json")
        orphan.communicate("let go")

    timer = threading.Timer(1.5, finish)
    timer.start()
    began = time.monotonic()
    assert call(home, "--resume", root) == 0 and time.monotonic() - began > 1
    pd.testing.assert_frame_equal(results_of(root), results_of(done))


# ---- several processes ----------------------------------------------------------------------


def interrupt(psutil, home, root):
    """Press Ctrl-C in a grid of two jobs when a run is done; return what is left of it, in words, and what it said."""
    with start(home, "--jobs", 2, "--out", root) as process:
        wait_until(lambda: list(root.glob("runs/*/history.csv")))
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        heard = {c.laddr.ip for one in family for c in one.net_connections("inet") if c.status == "LISTEN"}
        wait_until(lambda: (root / "journal.jsonl").exists())
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=180)
    alive = [one for one in psutil.wait_procs(family, timeout=60)[1] if one.is_running()]
    odd = {
        f"code {process.returncode}": process.returncode != 130, f"heard at {heard}": heard != {"127.0.0.1"},
        "no advice": f"resume with: python grid_search.py --resume {root}" not in err,
        "a traceback": "Traceback" in err, "a leak": "leaked" in err, "a lock": (root / ".lock").exists(),
        "processes": bool(alive), "nothing to do": not (results_of(root)["status"] == "missing").any(),
    }  # fmt: skip
    return [word for word, is_so in odd.items() if is_so], err


def test_two_jobs_give_what_one_gives_and_ctrl_c_says_how_to_resume(home, done, tmp_path):
    """Ctrl-C in the middle of a library's own shutdown can end otherwise on a busy machine: three tries."""
    psutil = pytest.importorskip("psutil")
    for attempt in range(3):
        root = tmp_path / f"x{attempt}"
        left, err = interrupt(psutil, home, root)
        if not left:
            break
    assert not left, err
    assert call(home, "--resume", root) == 0
    assert len({record["key"] for record in journal_of(root)}) == len(journal_of(root)) == 4
    pd.testing.assert_frame_equal(results_of(root), results_of(done, seeds=1))


@contextlib.contextmanager
def killing_one_worker(client, root):
    """Kill a worker with SIGKILL as soon as two runs have begun."""
    workers = [pid for pid in client.run(os.getpid).values() if pid != os.getpid()]

    def kill():
        wait_until(lambda: len(list(root.glob("runs/*/history.csv"))) >= 2)
        os.kill(workers[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()
    assert set(client.run(os.getpid).values()) != set(workers)


def test_a_scheduler_gives_the_same_though_a_worker_is_killed(home, done, tmp_path, cluster):
    root = tmp_path / "x"
    with killing_one_worker(cluster, root):
        assert call(home, "--scheduler", cluster.scheduler.address, "--out", root) == 0
    pd.testing.assert_frame_equal(results_of(root), results_of(done, seeds=1))
    assert len(journal_of(root)) == 4


def test_a_run_that_kills_its_worker_each_time_is_recorded(cluster):
    def deadly(task):
        if task["key"] == "bad":
            os.kill(os.getpid(), 9)
        return {"key": task["key"], "until": None, "status": "finished"}

    tasks = [{"key": key, "until": None} for key in ("a", "bad", "b", "c")]
    records = {record["key"]: record for record in engines.on_dask(cluster, deadly, tasks)}
    assert {key: record["status"] for key, record in records.items()} == {
        "a": "finished", "b": "finished", "c": "finished", "bad": "failed",
    }  # fmt: skip
    assert "killed each time" in records["bad"]["error"]


def test_workers_that_do_not_see_the_folder_are_refused(cluster, monkeypatch, tmp_path):
    cluster.wait_for_workers(2)
    monkeypatch.setattr(engines, "describe_worker", lambda marker: {"versions": {}, "sees_folder": False})
    with pytest.raises(engines.DataError, match="does not see .*; share it at the same path"):
        engines.check_workers(cluster, "--scheduler tcp://x", tmp_path)


# ---- how many at once -----------------------------------------------------------------------


@pytest.mark.parametrize(("cores", "memory", "jobs"), [(8, 100, 8), (8, 4.5, 3), (8, 0.5, 1), (2, 100, 2)])
def test_jobs_by_cores_and_memory(home, monkeypatch, cores, memory, jobs):
    """Memory of the machine is in units of what this process has; a tiny model adds next to nothing to it."""
    names = ("psutil", "dask.system", "distributed.system")
    psutil, dask_system, limits = map(pytest.importorskip, names)
    used = psutil.Process().memory_info().rss
    monkeypatch.setattr(dask_system, "CPU_COUNT", cores)
    monkeypatch.setattr(limits, "MEMORY_LIMIT", memory * used)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=200 * used))
    grid = plan.plan(load_experiment(home / "grid.json"), [0], False, "cpu", home / "datasets", "x", False)
    assert engines.jobs_for_machine(grid) == jobs


def test_gpus_are_called_as_cuda_visible_devices_has_them(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert engines.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-a1")
    assert engines.visible_gpus() == ["3", "GPU-a1"]


def test_workers_share_the_gpus_evenly(monkeypatch):
    pytest.importorskip("distributed")
    with engines.local_cluster(3, None, ["3", "GPU-a1"]) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert sorted(seen.values()) == ["3", "3", "GPU-a1"]
