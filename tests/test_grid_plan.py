"""From lists to checked runs, without data but where a test says so."""

import pytest

from config import ExperimentConfig
from grid.plan import key_of, loss_differs_by, plan_runs, rungs_of, shared_validation_of, training_differs
from utils import DataError


def plan(grid, seeds=(0,), yes=False, **sections):
    config = ExperimentConfig.model_validate(sections | {"grid": grid})
    return plan_runs(config, list(seeds), "data", "x.json", yes)


def test_every_permutation_meets_every_seed():
    runs = plan({"model.hidden_units": [4, 8], "training.learning_rate": [0.1, 0.2, 0.3]}, seeds=(5, 6))
    made = [(r.number, r.config.model.hidden_units, r.config.training.learning_rate, r.seed) for r in runs]
    assert made[:3] == [(0, 4, 0.1, 5), (0, 4, 0.1, 6), (1, 4, 0.2, 5)]
    assert len({run.key for run in runs}) == len(runs) == 12
    assert all(run.config.grid == {} for run in runs)


def test_a_whole_section_can_be_permuted():
    rules = [{"method": "gaussian", "parameters": {"k": 3.0}}, {"method": "quantile", "parameters": {"q": 0.99}}]
    assert [run.config.threshold.method for run in plan({"threshold": rules})] == ["gaussian", "quantile"]


def test_a_key_names_config_seed_and_data_but_not_the_grid():
    one, other = ExperimentConfig(), ExperimentConfig(grid={"model.num_layers": [1]})
    assert key_of(one, "data") == key_of(other, "data") != key_of(one, "other data")
    assert len({run.key for run in plan({"model.num_layers": [1, 2]}, seeds=(0, 1))}) == 4


MALFORMED = [
    ({}, "x.json: grid: empty"),
    ({"model.hidden_units": []}, "x.json: grid.model.hidden_units: the list is empty"),
    ({"model.hiden_units": [4]}, "x.json: grid: model.hiden_units: unknown key; did you mean 'hidden_units'"),
    ({"modle.hidden_units": [4]}, "x.json: grid: modle: unknown key; did you mean 'model'"),
    ({"model.hidden_units": [4, 0]}, "x.json: grid: model.hidden_units is 0; expected greater than 0"),
    ({"model.hidden_units": [4, "8"]}, "x.json: grid: model.hidden_units is '8'; expected an integer"),
    ({"model.hidden_units.more": [4]}, "'hidden_units' holds a value, not a section"),
    ({"model": [4]}, "x.json: grid: model is 4; expected an object"),
    ({"model.hidden_units": [4, 8, 4]}, "are the same config"),
    ({"training.learning_rate": [1, 1.0]}, "are the same config"),
    ({"": [4]}, "expected a dotted key"),
    ({"model.": [4]}, "expected a dotted key"),
    ({"grid.a": [[4]]}, "a grid cannot vary itself"),
    ({"dataset.name": ["a", "b"]}, "set by --dataset NAME (one grid each)"),
    ({"dataset": [{"name": "a"}]}, "changes dataset.name or training.seed"),
    ({"training.seed": [1, 2]}, "--seeds N"),
    ({"training": [{"seed": 3}]}, "changes dataset.name or training.seed"),
    ({"model": [{"num_layers": 1}], "model.num_layers": [2]}, "'model' is in the grid as well"),
    ({"training.seed": [[]]}, "--seeds N"),
    ({f"score.weights.{k}": list(range(100)) for k in "abc"}, "1,000,000 runs; confirm more than 10,000 with --yes"),
]


@pytest.mark.parametrize(("grid", "message"), MALFORMED)
def test_a_malformed_grid_is_one_line(grid, message):
    with pytest.raises(DataError) as error:
        plan(grid)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_many_runs_need_yes_and_far_too_many_are_refused_at_once(monkeypatch):
    monkeypatch.setattr("grid.plan.MOST_RUNS", 100)                       # 10,000 configs take long to check
    many = {"training.epochs": list(range(1, 102))}
    with pytest.raises(DataError, match="101 runs; confirm more than 100 with --yes"):
        plan(many)
    assert len(plan(many, yes=True)) == 101
    del many["training.epochs"][-1]
    assert len(plan(many)) == 100
    with pytest.raises(DataError, match="expected at most 1,000,000"):
        plan({f"model.{k}": list(range(1000)) for k in "abcdefgh"}, yes=True)


@pytest.mark.parametrize(
    ("grid", "differs"),
    [
        ({"model.hidden_units": [4, 8], "threshold.method": ["quantile", "pot"]}, []),
        ({"model.horizon_s": [1.0, 2.0]}, ["model.horizon_s"]),
        ({"model.horizon_rows": [3, 4]}, ["model.horizon_s"]),
        ({"dataset.channels": [["a"], None]}, ["dataset.channels"]),
        ({"model.warm_up_s": [5.0, 4.0], "training.batch_size": [4, 8]}, ["model.warm_up_s", "training.batch_size"]),
        ({"training.window_s": [50.0]}, []),
    ],
)
def test_it_is_known_which_losses_cannot_be_compared(grid, differs):
    assert loss_differs_by(plan(grid)) == differs


def test_the_skill_is_measured_on_what_all_runs_share():
    grid = {"model.horizon_s": [6.0, 2.0], "model.warm_up_s": [5.0, 10.0]}
    grid |= {"dataset.channels": [None, ["c", "b"], ["b"]]}
    shared = {"horizon_s": 2.0, "warm_up_s": 10.0, "window_s": 50.0, "channels": ["b"]}
    assert shared_validation_of(plan(grid), ["a", "b", "c"], 5.0) == shared


def test_the_skill_of_series_is_measured_in_seconds_too():
    runs = plan({"model.horizon_rows": [24, 6]}, model={"warm_up_rows": 10}, training={"window_rows": 128})
    shared = shared_validation_of(runs, ["value"], 1 / 300)
    assert [shared[key] for key in ("horizon_s", "warm_up_s", "window_s")] == pytest.approx([1800, 3000, 38400])


def test_thresholds_train_nothing_new():
    assert not training_differs(plan({"threshold.method": ["quantile", "pot"]}, seeds=(0, 1)))
    assert training_differs(plan({"model.dropout": [0.0, 0.1]}))


@pytest.mark.parametrize(
    ("epochs", "shares"), [(24, [1 / 9, 1 / 3]), (9, [1 / 9, 1 / 3]), (4, [1 / 9, 1 / 3]), (3, [1 / 3]), (2, [1 / 3])]
)
def test_rungs_are_at_different_epochs(epochs, shares):
    assert rungs_of(epochs) == shares


def test_one_epoch_has_no_rung():
    with pytest.raises(DataError, match="no earlier epoch"):
        rungs_of(1)
