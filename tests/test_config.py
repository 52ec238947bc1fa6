import json
import re

import pytest
from pydantic import ValidationError

import config
from config import (
    DATASET_CONFIG,
    FLAT_S,
    ChannelConfig,
    DatasetConfig,
    ExperimentConfig,
    ScoringProfile,
    dataset_names,
    load_dataset_config,
    load_experiment,
    read_json,
    validate,
)
from utils import ROOT, DataError

SHIPPED = sorted(ROOT.glob("pure_lstm_config*.json"))


def tiny_dataset(**changes):
    content = {
        "description": "made by a test",
        "raw_dir": "raw",
        "raw_hint": "put it there",
        "channels": {"flow": {"unit": "L/min", "rate_hz": 25.0, "low_pass_hz": 1.5}},
        "rate_hz": 5.0,
        "split": {"train": ["a"], "val": ["b"], "test": ["c"]},
        "labels": {"Apnea": "apnea", "Dropout": "dropout"},
    }
    return content | changes


@pytest.fixture
def message(tmp_path):
    """Return the one line that a wrong config leads to."""

    def of(content, *overrides, text=None, dataset=False):
        path = tmp_path / "some.json"
        path.write_text(text if text is not None else json.dumps({"x": content} if dataset else content))
        with pytest.raises(DataError) as caught:
            load_dataset_config(path, "x") if dataset else load_experiment(path, overrides)
        line = str(caught.value)
        assert "\n" not in line and "pydantic" not in line
        assert line.startswith("some.json")
        return line

    return of


# ---- what is shipped -------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_validates(path):
    assert load_experiment(path).training.epochs > 0


@pytest.mark.parametrize("name", dataset_names(DATASET_CONFIG))
def test_every_dataset_entry_validates(name):
    assert load_dataset_config(DATASET_CONFIG, name).channels


def test_shipped_key_parameters():
    config = load_experiment(ROOT / "pure_lstm_config.json")
    training, model = config.training, config.model
    assert (training.learning_rate, training.batch_size, training.patience) == (0.001, 32, 15)
    assert (model.hidden_units, model.num_layers) == (128, 3)


@pytest.mark.parametrize("name", ["pure_lstm_config_NAB.json", "pure_lstm_config_NAB_fast.json"])
def test_shipped_configs_of_series_are_in_rows(name):
    content = read_json(ROOT / name)
    keys = [key for section in ("model", "training", "score", "events") for key in content[section]]
    assert "horizon_rows" in keys and not [key for key in keys if key.endswith("_s")]
    config = load_experiment(ROOT / name).in_seconds(1 / 300)
    assert config.model.horizon_s == pytest.approx(300 * content["model"]["horizon_rows"])


def test_shipped_key_parameters_of_series():
    config = load_experiment(ROOT / "pure_lstm_config_NAB.json")
    training, model = config.training, config.model
    assert (training.learning_rate, training.batch_size, training.patience) == (0.00001, 10, 40)
    assert (model.hidden_units, model.num_layers) == (256, 4)


def test_every_key_is_described():
    rows = [*config.reference(ExperimentConfig), *config.reference(DatasetConfig), *config.reference(ScoringProfile)]
    assert len(rows) > 100 and not [row for row in rows if row.endswith("| None |")]


# ---- one line for every mistake --------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": {"hiden_units": 3}}, "model.hiden_units: unknown key; did you mean 'hidden_units'?"),
        ({"modle": {}}, "modle: unknown key; did you mean 'model'?"),
        ({"training": {"zzz": 1}}, "training.zzz: unknown key; expected one of epochs, updates_per_epoch"),
        ({"model": 3}, "model is 3; expected an object"),
        ({"training": {"epochs": 3.5}}, "training.epochs is 3.5; expected an integer"),
        ({"training": {"epochs": "3"}}, "training.epochs is '3'; expected an integer"),
        ({"training": {"epochs": True}}, "training.epochs is True; expected an integer"),
        ({"training": {"bf16": 1}}, "training.bf16 is 1; expected a boolean"),
        ({"training": {"learning_rate": None}}, "training.learning_rate is None; expected a number"),
        ({"training": {"epochs": 0}}, "training.epochs is 0; expected greater than 0"),
        ({"model": {"dropout": 1.0}}, "model.dropout is 1.0; expected less than 1"),
        ({"model": {"dropout": -0.1}}, "model.dropout is -0.1; expected greater than or equal to 0"),
        ({"threshold": {"method": "quantil"}}, "threshold.method is 'quantil'; expected 'false_events_per_hour', 'qu"),
        ({"threshold": {"parameters": {"q": None}}}, "threshold.parameters.q is None; expected a number"),
        (
            {"threshold": {"method": "quantile", "parameters": {"q": 1.5}}},
            "threshold.parameters: method 'quantile': q is 1.5; expected less than or equal to 1",
        ),
        ({"threshold": {"method": "pot", "parameters": {"q": 1}}}, "threshold.parameters: method 'pot': q: unknown"),
        ({"dataset": {"channels": []}}, "dataset.channels is []; expected at least 1 item"),
        ({"dataset": {"channels": ["a", 1]}}, "dataset.channels.1 is 1; expected a string"),
        ({"dataset": {"name": ""}}, "dataset.name is ''; expected 1 to 100 printable characters"),
        ({"model": {"hidden_units": 8192}}, "model: hidden_units 8192 and num_layers 3 make about 1,610,612,736"),
        ({"score": {"weights": {"eror": 1}}}, "score: weights: 'eror' is not a component; did you mean 'error'?"),
        ({"grid": {"training.epochs": 3}}, "grid.training.epochs is 3; expected a list"),
        ({"two\nlines": 1}, "two lines: unknown key"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(message, content, expected):
    assert message(content).startswith(f"some.json: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"training": {"learning_rate": NaN}}', "NaN is not a JSON number"),
        ('{"training": {"learning_rate": Infinity}}', "Infinity is not a JSON number"),
        ('{"training": {"learning_rate": -Infinity}}', "-Infinity is not a JSON number"),
        ('{"training": {"learning_rate": 1e999}}', "training.learning_rate is inf; expected a finite number"),
        ('{"model": {}, "model": {}}', "key 'model' is given twice"),
        ('{"model": {"dropout": 0, "dropout": 0.1}}', "key 'dropout' is given twice"),
        ('{"model": {}', "line 1, column 13: not JSON"),
        ('{\n  "model": {},\n}', "not JSON"),
        ("", "line 1, column 1: not JSON"),
        ("[1]", "expected a JSON object, found [1]"),
        ("3", "expected a JSON object, found 3"),
        ("null", "expected a JSON object, found None"),
        ("[" * 100_000, "nested too deeply"),
        ('{"seed": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_text_that_is_not_a_config_is_refused(message, text, expected):
    assert expected in message(None, text=text)


def test_missing_file_directory_and_binary_are_one_line(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    for name, expected in (("none.json", "no such file"), ("binary.json", "UTF-8"), ("folder.json", "cannot be read")):
        with pytest.raises(DataError, match=f"^{name}.*{expected}") as caught:
            read_json(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "c.json").write_bytes(b'\xef\xbb\xbf{"training": {"epochs": 3}}')
    assert load_experiment(tmp_path / "c.json").training.epochs == 3


# ---- datasets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measures", "flatline_s", "expected"),
    [("airflow", None, FLAT_S), ("effort", None, FLAT_S), ("other", None, None), ("effort", 900.0, 900.0)],
)
def test_a_breathing_sensor_may_not_repeat_one_value_indefinitely(measures, flatline_s, expected):
    channel = ChannelConfig(unit="a.u.", measures=measures, rate_hz=5.0, flatline_s=flatline_s)
    assert channel.longest_flat_s == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rate_hz": "5"}, "rate_hz is '5'; expected a number"),
        ({"rate_hz": 0}, "rate_hz is 0; expected greater than 0"),
        ({"rate": 5}, "rate: unknown key; did you mean 'rate_hz'?"),
        ({"fill_s": -1}, "fill_s is -1; expected greater than or equal to 0"),
        ({"channels": {}}, "channels is {}; expected at least 1 item"),
        ({"channels": {"flow": {"unit": "x"}}}, "channels.flow.rate_hz: missing"),
        ({"channels": {"flow": {"unit": "x", "rate": 1}}}, "channels.flow.rate_hz: missing"),
        (
            {"channels": {"flow": {"unit": "x", "rate_hz": 2.0, "low_pass_hz": 1.0}}},
            "channels.flow.low_pass_hz is 1; expected less than half of its rate, 1",
        ),
        ({"channels": {"t_s": {"unit": "s", "rate_hz": 1}}}, "channel name 't_s' is reserved"),
        ({"channels": {"valid_a": {"unit": "s", "rate_hz": 1}}}, "channel name 'valid_a' is reserved"),
        ({"channels": {"a/b": {"unit": "s", "rate_hz": 1}}}, "channels.a/b is 'a/b'; expected a plain name"),
        ({"split": {"train": ["../a"], "val": ["b"], "test": ["c"]}}, "split.train.0 is '../a'; expected a plain name"),
        ({"split": {"train": ["a"], "val": ["b"], "test": ["a"]}}, "split: recording 'a' is listed more than once"),
        ({"split": {"train": ["a"], "test": ["c"]}}, "split: no calibration data"),
        ({"split": {"train": ["a"], "val": ["b"]}}, "split: no test data"),
        ({"split": {"train": ["a"], "val_fraction": 0.5, "test_fraction": 0.5}}, "split: val_fraction + test_fraction"),
        ({"split": {"trian": ["a"], "val": ["b"], "test": ["c"]}}, "split.train: missing"),
        ({"file_pattern": "all.csv"}, "file_pattern is 'all.csv'; expected {name}"),
        ({"labels": {"Apnea": 1}}, "labels.Apnea is 1; expected a string"),
        ({"fault_kinds": ["dropot"]}, "fault_kinds: no label maps to 'dropot'; did you mean 'dropout'?"),
        ({"events": {"d": []}}, "events: 'd' is in no split; expected one of a, b, c"),
        ({"events": {"a": [{"start_s": 1, "end_s": 2}]}}, "events.a.0.label: missing"),
    ],
)
def test_a_wrong_dataset_is_named_with_what_would_be_right(message, changes, expected):
    assert message(tiny_dataset(**changes), dataset=True).startswith(f"some.json: x: {expected}")


def test_an_entry_that_is_not_an_object_and_an_unknown_entry(message, tmp_path):
    assert message(3, dataset=True) == "some.json: x: found 3; expected an object"
    with pytest.raises(DataError, match="^some.json: no dataset 'y'; expected one of x$"):
        load_dataset_config(tmp_path / "some.json", "y")


def test_an_entry_beginning_with_an_underscore_is_a_comment(tmp_path):
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"_note": "anything", "x": tiny_dataset()}))
    assert dataset_names(path) == ["x"]


# ---- overrides and freezing ------------------------------------------------------------------


def test_overrides_are_json_else_text(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"training": {"epochs": 60, "patience": 7}}')
    overrides = [
        "training.epochs=3", "training.bf16=true", "dataset.name=cpap",
        'dataset.channels=["flow_lpm"]', "threshold.parameters.rate=0.9", "model.hidden_units=5",
    ]
    config = load_experiment(path, overrides)
    assert (config.training.epochs, config.training.patience, config.training.bf16) == (3, 7, True)
    assert (config.dataset.name, config.dataset.channels) == ("cpap", ["flow_lpm"])
    assert (config.threshold.parameters, config.model.hidden_units) == ({"rate": 0.9}, 5)


def test_the_last_of_two_overrides_of_one_key_counts(tmp_path):
    (tmp_path / "some.json").write_text("{}")
    assert load_experiment(tmp_path / "some.json", ["training.seed=1", "training.seed=2"]).training.seed == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=3", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("training.epochs=many", "training.epochs is 'many'; expected an integer"),
        ("training.learning_rate=NaN", "training.learning_rate is nan; expected a finite number"),
        ("model=3", "model is 3; expected an object"),
    ],
)
def test_overrides_are_checked_like_the_file(message, override, expected):
    assert expected in message({}, override)


@pytest.mark.parametrize("override", ["training.epochs", "=3", "", "training.epochs.x=3"])
def test_an_override_without_key_or_value_says_so(tmp_path, override):
    (tmp_path / "some.json").write_text('{"training": {"epochs": 1}}')
    with pytest.raises(DataError, match=f"^--set {override}"):
        load_experiment(tmp_path / "some.json", [override])


def test_a_config_does_not_change():
    config = ExperimentConfig()
    with pytest.raises(ValidationError):
        config.training.epochs = 3
    with pytest.raises(ValidationError):
        config.training = None


def test_a_config_comes_back_from_its_own_json():
    for model, content in ((ExperimentConfig, {}), (DatasetConfig, tiny_dataset())):
        config = validate(model, content, "x")
        assert validate(model, json.loads(json.dumps(config.model_dump())), "x") == config


def test_the_configuration_page_is_what_config_py_prints(capsys):
    config.main()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == capsys.readouterr().out


# ---- durations in rows ----------------------------------------------------------------------

ROWS = {"model": {"horizon_rows": 24, "warm_up_rows": 0}, "score": {"amplitude_rows": 3, "error_s": 60.0}}


def test_rows_become_seconds_at_a_rate():
    config = validate(ExperimentConfig, ROWS, "x").in_seconds(1 / 300)
    assert config.model.horizon_s == pytest.approx(7200) and config.model.warm_up_s == 0
    assert config.score.amplitude_s == pytest.approx(900) and config.score.error_s == 60
    again = config.in_seconds(1 / 300)                               # seconds stay seconds
    assert again == config and "horizon_s" in again.model_dump()["model"]


def test_a_config_in_rows_comes_back_from_its_own_json():
    config = validate(ExperimentConfig, ROWS, "x")
    content = json.loads(json.dumps(config.model_dump()))
    assert content["model"]["horizon_rows"] == 24 and "horizon_s" not in content["model"]
    assert validate(ExperimentConfig, content, "x") == config


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"horizon_rows": -1}, "x: model.horizon_rows is -1; expected greater than 0"),
        ({"horizon_rows": "many"}, "x: model.horizon_rows is 'many'; expected a number"),
        ({"horizon_rows": 3, "horizon_s": 2.0}, "x: model: horizon_rows and horizon_s are both given; expected one"),
        ({"horizn_rows": 3}, "x: model.horizn_rows: unknown key"),
        ({"hidden_units_rows": 3}, "x: model.hidden_units_rows: unknown key"),
    ],
)
def test_wrong_durations_in_rows_are_named_as_written(section, expected):
    with pytest.raises(DataError, match=re.escape(expected)):
        validate(ExperimentConfig, {"model": section}, "x")


def test_an_override_replaces_the_other_spelling(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"model": {"horizon_rows": 24}}))
    assert "horizon_rows" not in load_experiment(tmp_path / "c.json", ["model.horizon_s=5"]).model_dump()["model"]
    (tmp_path / "c.json").write_text(json.dumps({"model": {"horizon_s": 5.0}}))
    assert load_experiment(tmp_path / "c.json", ["model.horizon_rows=7"]).model_dump()["model"]["horizon_rows"] == 7
