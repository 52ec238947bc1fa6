"""What is run, stopped and kept, with runs that are made up: no training."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from config import ExperimentConfig
from grid.plan import GridPlan, plan_runs, rungs_of
from grid.results import GridResults, records_at, verdict, write_results, write_tables
from grid.search import Journal, do_runs


class Engine:
    """Does runs at once: loss = place of the learning rate + 1 / epochs + seed / 100; counts what it did."""

    def __init__(self, fails=(), crash_after=None):
        self.fails, self.crash_after, self.did = fails, crash_after, []

    def __call__(self, tasks):
        for task in tasks:
            if self.crash_after is not None and len(self.did) == self.crash_after:
                raise KeyboardInterrupt
            training = task["config"]["training"]
            self.did.append((training["learning_rate"], training["seed"], task["until"]))
            epochs = task["until"] or training["epochs"]
            record = {"key": task["key"], "until": task["until"], "seconds": 1.0}
            if training["learning_rate"] in self.fails:
                yield record | {"status": "failed", "error": "it broke"}
                continue
            loss = 10 * training["learning_rate"] + 1 / epochs + training["seed"] / 100
            yield record | {
                "status": "paused" if task["until"] else "finished", "best_epoch": epochs - 1, "epochs": epochs,
                "val_loss": loss, "val_skill": 1 - loss, "test_auc_pr": loss,
            }  # fmt: skip


def make_grid(rates=(0.1, 0.2, 0.3), seeds=(0, 1), halving=False, **lists):
    config = ExperimentConfig.model_validate(
        {"training": {"epochs": 9}, "grid": {"training.learning_rate": list(rates)} | lists}
    )
    runs = plan_runs(config, list(seeds), "data", "x.json")
    meta = SimpleNamespace(channels=["a"], simulated=True, rate_hz=5.0)
    return GridPlan(config, list(seeds), rungs_of(9) if halving else [], "cpu", "data", "data", meta, runs)


def run_all(grid, out, engine, retry_failed=False):
    journal = Journal(out / "journal.jsonl")
    do_runs(grid, out, journal, engine, retry_failed)
    return journal.records


def results_of(grid, out, engine, retry_failed=False):
    return GridResults(grid, run_all(grid, out, engine, retry_failed))


def rates_of(did, until):
    return sorted({rate for rate, _, epoch in did if epoch == until})


# ---- once each ------------------------------------------------------------------------------


@pytest.mark.parametrize("halving", [False, True])
@pytest.mark.parametrize("crash_after", [0, 1, 5, 7])
def test_a_grid_cut_off_anywhere_resumes_with_what_is_missing(tmp_path, crash_after, halving):
    grid = make_grid(rates=[0.1, 0.2, 0.3, 0.4], halving=halving)
    whole = Engine()
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    expected = run_all(grid, tmp_path / "whole", whole)
    first, second = Engine(crash_after=crash_after), Engine()
    with pytest.raises(KeyboardInterrupt):
        run_all(grid, tmp_path / "cut", first)
    records = run_all(grid, tmp_path / "cut", second)
    assert first.did + second.did == whole.did
    assert records == expected == Journal(tmp_path / "cut" / "journal.jsonl").records
    nothing = Engine()
    run_all(grid, tmp_path / "cut", nothing)
    assert nothing.did == []


def test_failed_runs_are_tried_again_only_when_asked_for(tmp_path):
    grid = make_grid()
    run_all(grid, tmp_path, Engine(fails=[0.2]))
    engine = Engine()
    run_all(grid, tmp_path, engine)
    assert engine.did == []
    runs = results_of(grid, tmp_path, engine, retry_failed=True).runs
    assert engine.did == [(0.2, 0, None), (0.2, 1, None)]
    assert (runs["status"] == "finished").all() and runs["error"].isna().all()


def test_a_failed_run_has_its_error_and_no_numbers(tmp_path):
    grid = make_grid()
    write_tables(results_of(grid, tmp_path, Engine(fails=[0.1])), tmp_path)
    table = pd.read_csv(tmp_path / "grid_results.csv")
    failed = table[table["training.learning_rate"] == 0.1]
    assert (failed["status"] == "failed").all() and (failed["error"] == "it broke").all()
    assert failed[["val_loss", "val_skill", "best_epoch", "epochs", "test_auc_pr"]].isna().all(axis=None)
    assert table["val_loss"].notna().sum() == 4 and list(table["seconds"]) == [1.0] * 6
    summary = pd.read_csv(tmp_path / "grid_summary.csv")
    assert list(summary["training.learning_rate"]) == [0.2, 0.3, 0.1] and list(summary["failed_runs"]) == [0, 0, 2]
    assert summary["val_loss_mean"].isna().tolist() == [False, False, True]


def test_progress_is_logged_now_and_then_where_there_is_no_terminal(tmp_path, caplog):
    caplog.set_level("INFO")
    run_all(make_grid(), tmp_path, Engine(fails=[0.1]))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["runs done: 0 of 6; finished 0, stopped 0, failed 0",
                     "runs done: 6 of 6; finished 4, stopped 0, failed 2"]  # fmt: skip


# ---- halving --------------------------------------------------------------------------------


def test_halving_lets_the_best_third_continue(tmp_path):
    rates = [0.4, 0.1, 0.9, 0.2, 0.3, 0.8, 0.5, 0.7, 0.6]
    grid, engine = make_grid(rates, halving=True), Engine()
    results = results_of(grid, tmp_path, engine)
    assert rates_of(engine.did, 1) == sorted(rates)
    assert rates_of(engine.did, 3) == [0.1, 0.2, 0.3] and rates_of(engine.did, None) == [0.1]
    assert len(engine.did) == len(set(engine.did)) == 2 * (9 + 3 + 1)
    rows = {rate: row for rate, (_, row) in zip(np.repeat(rates, 2), results.runs.iterrows(), strict=True)}
    assert rows[0.9]["status"] == "stopped" and rows[0.9]["epochs"] == 1
    assert rows[0.9]["rule"] == "halving: rank 9 of 9 by validation loss after 1 of 9 epochs; kept: 3"
    assert rows[0.2]["rule"] == "halving: rank 2 of 3 by validation loss after 3 of 9 epochs; kept: 1"
    assert [rates[number] for number in results.configs.index[:4]] == [0.1, 0.2, 0.3, 0.4]
    assert rows[0.1]["seconds"] == 3.0                                     # of all its pieces


def test_halving_ranks_by_the_mean_over_seeds_and_last_if_one_failed(tmp_path):
    class Uneven(Engine):
        def __call__(self, tasks):
            for record, task in zip(*[super().__call__(tasks := list(tasks)), tasks], strict=True):
                rate, seed = (task["config"]["training"][key] for key in ("learning_rate", "seed"))
                if rate == 0.1 and seed == 1:
                    yield {"key": record["key"], "until": record["until"], "status": "failed", "error": "x"}
                elif rate == 0.2:
                    yield record | {"val_loss": [0.0, 9.0][seed]}          # one good seed, a bad mean
                else:
                    yield record

    grid, engine = make_grid([0.1, 0.2, 0.3], halving=True), Uneven()
    run_all(grid, tmp_path, engine)
    assert rates_of(engine.did, None) == [0.3]


def test_a_run_that_fails_after_a_rung_keeps_no_numbers(tmp_path):
    class Later(Engine):
        def __call__(self, tasks):
            for record in super().__call__(tasks):
                failed = {"status": "failed", "error": "x", "seconds": 2.0}
                same = {"key": record["key"], "until": record["until"]}
                yield record if record["status"] == "paused" else same | failed

    grid = make_grid([0.1, 0.2, 0.3], halving=True)
    results = results_of(grid, tmp_path, Later())
    assert results.runs["status"].tolist() == ["failed"] * 2 + ["stopped"] * 4
    first = results.runs.iloc[0]
    assert first["seconds"] == 4.0 and first[["val_loss", "val_skill", "epochs", "best_epoch"]].isna().all()
    assert results.configs["status"].tolist() == ["stopped", "stopped", "failed"]


def test_a_run_that_ended_early_is_not_stopped_afterwards(tmp_path):
    class Early(Engine):
        def __call__(self, tasks):
            for record in super().__call__(tasks):
                yield record | {"status": "finished", "epochs": 1} if record["val_loss"] > 4 else record

    grid = make_grid([0.1, 0.5, 0.2], halving=True)
    statuses = results_of(grid, tmp_path, Early()).runs["status"].tolist()
    assert statuses == ["finished"] * 4 + ["stopped"] * 2


def test_every_run_has_a_record_at_the_first_rung(tmp_path):
    grid = make_grid(halving=True)
    records = run_all(grid, tmp_path, Engine())
    first = records_at(grid, records, grid.rungs[0])
    assert set(first) == {run.key for run in grid.runs} and {record["epochs"] for record in first.values()} == {1}


# ---- which to take --------------------------------------------------------------------------


def verdict_of(losses):
    """The verdict on two configs with these losses, a list a config."""
    grid = make_grid([0.1, 0.2][: len(losses)], seeds=range(len(losses[0])))
    values = [loss for several in losses for loss in several]
    records = [
        {"key": run.key, "until": None, "status": "finished", "val_loss": value, "epochs": 9}
        for run, value in zip(grid.runs, values, strict=True)
    ]
    return verdict(GridResults(grid, records))


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([[1.0, 1.1, 1.2], [1.5, 1.6, 1.71]], "by 0.5033 (95 % interval 0.49 to 0.52, paired over 3 seeds): clear"),
        ([[1.0, 1.5, 1.2], [1.3, 1.1, 1.4]], "within chance"),
        ([[1.0], [1.5]], "by 0.5 with one seed"),
        ([[1.0]], "the only config that finished"),
    ],
)
def test_the_verdict_says_how_sure_it_is(losses, words):
    text = verdict_of(losses)
    assert words in text and text.startswith("best by validation loss: training.learning_rate=0.1")


def test_a_grid_of_thresholds_admits_that_it_cannot_choose(tmp_path):
    grid = make_grid([0.1], **{"events.min_duration_s": [0.0, 1.0]})
    assert "only labels could tell" in verdict(results_of(grid, tmp_path, Engine()))


def test_nothing_is_recommended_when_nothing_finished(tmp_path):
    grid = make_grid([0.1])
    results = results_of(grid, tmp_path, Engine(fails=[0.1]))
    (tmp_path / "best_config.json").write_text("of an earlier state")
    write_results(results, tmp_path)
    assert "nothing to recommend" in verdict(results) and not (tmp_path / "best_config.json").exists()
    assert math.isnan(results.configs.loc[0, "val_loss_mean"])
