"""What is run, stopped and kept, with runs that are made up: no training."""

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest

from config import ExperimentConfig
from grid.drive import drive, first_records
from grid.journal import read_journal
from grid.plan import GridPlan, plan_runs, rungs
from grid.progress import ProgressDisplay
from grid.results import criterion_of, rows_of, standings_of, verdict, write_best, write_tables


class Board0(ProgressDisplay):
    """A progress board without costs: they need a dataset."""

    def rung(self, due, place):
        self.costs, self.cost_left = {run.key: 1.0 for run in due}, float(len(due))


class Engine:
    """Does runs at once: loss = place of the learning rate + 1 / epochs + seed / 100; counts what it did."""

    def __init__(self, fails=(), crash_after=None):
        self.fails, self.crash_after, self.did = fails, crash_after, []

    def __call__(self, tasks, on_wait):
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
    dataset = SimpleNamespace(meta=meta, channels=("a",))
    fractions = rungs(9) if halving else []
    return GridPlan(config, list(seeds), fractions, "cpu", "data", "data", runs, lambda channels: dataset)


def run_all(grid, out, engine, retry_failed=False):
    return drive(grid, out, engine, Board0(1, None), retry_failed)


def results_of(grid, records):
    rows = rows_of(grid.runs, records)
    return rows, standings_of(grid.runs, rows, criterion_of(grid.runs))


def rates_of(did, until):
    return sorted({rate for rate, _, epoch in did if epoch == until})


# ---- once each ------------------------------------------------------------------------------


@pytest.mark.parametrize("halving", [False, True])
@pytest.mark.parametrize("crash_after", [0, 1, 5, 7])
def test_a_grid_cut_off_anywhere_goes_on_with_what_is_missing(tmp_path, crash_after, halving):
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
    assert records == expected == read_journal(tmp_path / "cut" / "journal.jsonl")
    nothing = Engine()
    run_all(grid, tmp_path / "cut", nothing)
    assert nothing.did == []


def test_failed_runs_are_tried_again_only_when_asked_for(tmp_path):
    grid = make_grid()
    run_all(grid, tmp_path, Engine(fails=[0.2]))
    engine = Engine()
    run_all(grid, tmp_path, engine)
    assert engine.did == []
    rows, _ = results_of(grid, run_all(grid, tmp_path, engine, retry_failed=True))
    assert engine.did == [(0.2, 0, None), (0.2, 1, None)]
    assert {row["status"] for row in rows} == {"finished"} and not any("error" in row for row in rows)


def test_a_failed_run_has_its_error_and_no_numbers(tmp_path):
    grid = make_grid()
    rows, standings = results_of(grid, run_all(grid, tmp_path, Engine(fails=[0.1])))
    write_tables(tmp_path, grid.runs, rows, standings)
    table = pd.read_csv(tmp_path / "grid_results.csv")
    failed = table[table["training.learning_rate"] == 0.1]
    assert (failed["status"] == "failed").all() and (failed["error"] == "it broke").all()
    assert failed[["val_loss", "val_skill", "best_epoch", "epochs", "test_auc_pr"]].isna().all(axis=None)
    assert table["val_loss"].notna().sum() == 4 and list(table["seconds"]) == [1.0] * 6
    summary = pd.read_csv(tmp_path / "grid_summary.csv")
    assert list(summary["training.learning_rate"]) == [0.2, 0.3, 0.1] and list(summary["failed_runs"]) == [0, 0, 2]
    assert summary["val_loss_mean"].isna().tolist() == [False, False, True]


def test_the_remaining_time_goes_from_the_estimate_to_what_was_measured(tmp_path):
    board = Board0(2, None)
    board.start(make_grid(), {})
    board.costs, board.cost_left = {run.key: 100.0 for run in board.grid.runs}, 600.0
    assert board._left() == ", about 5.0 min left"                          # 600 s of work on two workers
    for run in board.grid.runs[:4]:
        board.count({"key": run.key, "status": "finished"})
    board.began = board.last_at - 1000.0                                    # 400 s of it took 1000 s
    assert board._left() == f", about {200 * 1030 / 460 / 60:.1f} min left"
    assert board.text().startswith("4 of 6 done, 0 running, 0 failed, about")


# ---- halving --------------------------------------------------------------------------------


def test_halving_lets_the_best_third_go_on(tmp_path):
    rates = [0.4, 0.1, 0.9, 0.2, 0.3, 0.8, 0.5, 0.7, 0.6]
    grid, engine = make_grid(rates, halving=True), Engine()
    rows, standings = results_of(grid, run_all(grid, tmp_path, engine))
    assert rates_of(engine.did, 1) == sorted(rates)
    assert rates_of(engine.did, 3) == [0.1, 0.2, 0.3] and rates_of(engine.did, None) == [0.1]
    assert len(engine.did) == len(set(engine.did)) == 2 * (9 + 3 + 1)
    stopped = {run.values["training.learning_rate"]: row for run, row in zip(grid.runs, rows, strict=True)}
    assert stopped[0.9]["status"] == "stopped" and stopped[0.9]["epochs"] == 1
    assert stopped[0.9]["rule"] == "halving: 9 of 9 by validation loss after 1 of 9 epochs, 3 go on"
    assert stopped[0.2]["rule"] == "halving: 2 of 3 by validation loss after 3 of 9 epochs, 1 go on"
    assert [s.values["training.learning_rate"] for s in standings[:4]] == [0.1, 0.2, 0.3, 0.4]
    assert stopped[0.1]["seconds"] == 3.0                                  # of all its pieces


def test_halving_ranks_a_config_by_the_mean_of_its_seeds_and_last_if_one_failed(tmp_path):
    class Uneven(Engine):
        def __call__(self, tasks, on_wait):
            for record, task in zip(*[super().__call__(tasks := list(tasks), on_wait), tasks], strict=True):
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


def test_a_run_that_fails_after_a_rung_keeps_no_numbers_of_before(tmp_path):
    class Later(Engine):
        def __call__(self, tasks, on_wait):
            for record in super().__call__(tasks, on_wait):
                failed = {"status": "failed", "error": "x", "seconds": 2.0}
                same = {"key": record["key"], "until": record["until"]}
                yield record if record["status"] == "paused" else same | failed

    grid = make_grid([0.1, 0.2, 0.3], halving=True)
    rows, standings = results_of(grid, run_all(grid, tmp_path, Later()))
    assert [row["status"] for row in rows] == ["failed"] * 2 + ["stopped"] * 4
    assert rows[0]["seconds"] == 4.0 and not {"val_loss", "val_skill", "epochs", "best_epoch"} & set(rows[0])
    assert [s.status for s in standings] == ["stopped", "stopped", "failed"]


def test_a_run_that_ended_early_is_not_stopped_afterwards(tmp_path):
    class Early(Engine):
        def __call__(self, tasks, on_wait):
            for record in super().__call__(tasks, on_wait):
                yield record | {"status": "finished", "epochs": 1} if record["val_loss"] > 4 else record

    grid = make_grid([0.1, 0.5, 0.2], halving=True)
    rows, _ = results_of(grid, run_all(grid, tmp_path, Early()))
    assert [row["status"] for row in rows] == ["finished"] * 4 + ["stopped"] * 2


def test_every_run_has_a_record_at_the_first_rung(tmp_path):
    grid = make_grid(halving=True)
    records = run_all(grid, tmp_path, Engine())
    first = first_records(grid, records, grid.fractions[0])
    assert set(first) == {run.key for run in grid.runs} and {record["epochs"] for record in first.values()} == {1}


# ---- which to take --------------------------------------------------------------------------


def test_the_loss_ranks_and_the_skill_where_losses_cannot_be_compared(tmp_path):
    assert criterion_of(make_grid().runs) == "val_loss"
    assert criterion_of(make_grid(**{"training.batch_size": [4, 8]}).runs) == "val_skill"


def test_test_numbers_rank_nothing(tmp_path):
    grid = make_grid()
    records = run_all(grid, tmp_path, Engine())
    turned = [record | {"test_auc_pr": -record["test_auc_pr"]} for record in records]
    orders = [[s.number for s in results_of(grid, several)[1]] for several in (records, turned)]
    assert orders[0] == orders[1] == [0, 1, 2]


def test_the_winner_is_written_ready_for_the_main_script(tmp_path):
    grid = make_grid([0.3, 0.1])
    _, standings = results_of(grid, run_all(grid, tmp_path, Engine()))
    assert write_best(tmp_path, grid.runs, standings)
    config = ExperimentConfig.model_validate(json.loads((tmp_path / "best_config.json").read_text()))
    assert config.training.learning_rate == 0.1 and config.training.seed == 0 and config.grid == {}


def verdict_of(losses):
    """The verdict on two configs with these losses, a list a config."""
    grid = make_grid([0.1, 0.2][: len(losses)], seeds=range(len(losses[0])))
    values = [loss for several in losses for loss in several]
    records = [
        {"key": run.key, "until": None, "status": "finished", "val_loss": value, "epochs": 9}
        for run, value in zip(grid.runs, values, strict=True)
    ]
    return verdict(grid.runs, results_of(grid, records)[1], "val_loss")


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
    _, standings = results_of(grid, run_all(grid, tmp_path, Engine()))
    assert "only labels could say" in verdict(grid.runs, standings, "val_loss")


def test_nothing_is_recommended_when_nothing_finished(tmp_path):
    grid = make_grid([0.1])
    _, standings = results_of(grid, run_all(grid, tmp_path, Engine(fails=[0.1])))
    assert "nothing to recommend" in verdict(grid.runs, standings, "val_loss")
    assert not write_best(tmp_path, grid.runs, standings) and math.isnan(standings[0].mean("val_loss"))
