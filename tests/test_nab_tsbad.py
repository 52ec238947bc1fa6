import json

import numpy as np
import pandas as pd
import pytest

from evaluation.metrics import suggest_buffer, vus
from nab import frozen_lstm, tsbad
from nab.tsbad import main, read_series

UNI, MULTI = "001_Sim_id_1_Own_tr_130_1st_180.csv", "002_Sim_id_2_Own_tr_130_1st_180.csv"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Return TSB-AD's folders with a file of one channel and one of three, the last of which is constant at first."""
    monkeypatch.setattr(frozen_lstm, "MAX_PLACES", 4)
    generator, rows = np.random.default_rng(0), 260
    values = np.sin(np.arange(rows) / 5)[:, None] + 0.1 * generator.normal(size=(rows, 3))
    values[:, 2] = 7
    values[180:210] += 4
    label = np.zeros(rows, int)
    label[180:210] = 1
    for folder, name, channels in (("TSB-AD-U", UNI, 1), ("TSB-AD-M", MULTI, 3)):
        (tmp_path / folder).mkdir()
        table = pd.DataFrame(values[:, :channels], columns=[f"c{k}" for k in range(channels)])
        table.assign(Label=label).to_csv(tmp_path / folder / name, index=False)
    return tmp_path


def test_every_file_has_scores_and_a_row_in_their_layout(data, capsys):
    out = data / "out"
    assert main(["--data", str(data), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for group, folder, name in (("uni", "TSB-AD-U", UNI), ("multi", "TSB-AD-M", MULTI)):
        table = pd.read_csv(data / folder / name)
        for detector in ("LSTM_causal", "LSTM_offline"):
            scores = np.load(out / "score" / group / detector / name.replace(".csv", ".npy"))
            assert scores.shape == (260,) and scores.min() == 0 and scores.max() == 1
            rows = pd.read_csv(out / "metrics" / group / f"{detector}.csv")
            assert [*rows] == ["file", "Time", "AUC-PR", "AUC-ROC", "VUS-PR", "VUS-ROC", "Standard-F1", "PA-F1",
                               "Event-based-F1", "R-based-F1", "Affiliation-F"]
            assert [*rows["file"]] == [name]
            roc, pr = vus(table["Label"], scores, suggest_buffer(table["c0"]))
            assert rows["VUS-PR"][0] == pytest.approx(pr) and rows["VUS-ROC"][0] == pytest.approx(roc)
            assert roc > 0.5
            assert f"| {folder}, {detector} | 1 | 260 |" in printed


def test_a_run_goes_on_with_the_files_that_are_missing(data, monkeypatch):
    out = data / "out"
    assert main(["--data", str(data / "TSB-AD-U"), "--out", str(out)]) == 0
    record = out / "files" / "uni" / UNI.replace(".csv", ".json")
    begun, asked = record.stat().st_mtime_ns, []
    real = tsbad.score_file
    monkeypatch.setattr(tsbad, "score_file", lambda task: asked.append(task["key"]) or real(task))
    assert main(["--data", str(data), "--out", str(out)]) == 0
    assert asked == [f"multi/{MULTI}"] and record.stat().st_mtime_ns == begun
    assert json.loads((out / "setting.json").read_text())["seed"] == 0


def test_another_seed_does_not_continue_a_run(data, capsys):
    arguments = ["--data", str(data / "TSB-AD-U"), "--out", str(data / "out")]
    assert main(arguments) == 0
    assert main([*arguments, "--seed", "1"]) == 2
    assert "begun with --seed 0" in capsys.readouterr().err


def test_a_file_that_fails_leaves_the_others_scored(data, capsys):
    (data / "TSB-AD-U" / "003_bad_tr_130_1st_180.csv").write_text("c0,Label\n1,0\nx,1\n")
    assert main(["--data", str(data / "TSB-AD-U"), "--out", str(data / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 of 2 files not scored" in last and "003_bad" in last and "column c0" in last
    assert [*pd.read_csv(data / "out" / "metrics" / "uni" / "LSTM_offline.csv")["file"]] == [UNI]
    assert not [*(data / "out").rglob("*003*")]


@pytest.mark.parametrize(("name", "text", "says"), [
    ("001_NAB_data_4_624_2087.csv", "a,Label\n1,0\n", "..._tr_ROWS_1st_ROW.csv"),
    ("a_tr_130_1st_9.csv", "a,label\n1,0\n", "then Label"),
    ("a_tr_130_1st_9.csv", "", "cannot be read"),
    ("a_tr_130_1st_9.csv", "a,Label\n" + "1,0\n" * 200, "Label is 0"),
    ("a_tr_130_1st_9.csv", "a,Label\n" + "1,2\n" * 200, "Label is 2"),
    ("a_tr_130_1st_9.csv", "a,Label\n" + "inf,1\n" * 200, "column a"),
    ("a_tr_900_1st_9.csv", "a,Label\n" + "1,1\n" * 200, "900 to learn from"),
    ("a_tr_100_1st_9.csv", "a,Label\n" + "1,1\n" * 200, "at least 128"),
])  # fmt: skip
def test_a_file_of_another_format_is_named(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(tsbad.DataError, match=name.split(".")[0]) as error:
        read_series(tmp_path / name)
    assert says in str(error.value)
