"""--score on files that call things otherwise than the model: columns, units, time, labels."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny

import pure_lstm_anomaly_detection_main as script


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def night():
    return tiny.draw_recording(120, 3)


def score(model, path, *words):
    given = ("--checkpoint", model, "--device", "cpu", "--out", path.parent / "scored", *words, "--score", path)
    return script.main([str(word) for word in given])


def scores_of(folder):
    return pd.read_csv(folder / "scored" / "scores.csv").drop(columns=["recording", "clock"], errors="ignore")


def test_names_and_units_of_a_file_are_mapped(model, night, tmp_path):
    usual, other = tmp_path / "usual", tmp_path / "other"
    for folder in (usual, other):
        folder.mkdir()
    night.to_csv(usual / "night.csv", index=False)
    renamed = night.rename(columns={"t_s": "Seconds", "flow": "Flow (mask)", "pulse": "HR"})
    renamed["Flow (mask)"] /= 60
    renamed.to_csv(other / "night.csv", index=False)
    assert score(model, usual / "night.csv") == 0
    words = ("--channel", "flow=Flow (mask):L/s", "--channel", "pulse=HR", "--time-column", "Seconds")
    assert score(model, other / "night.csv", *words) == 0
    found, expected = scores_of(other), scores_of(usual)
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-3)
    facts = json.loads((other / "scored" / "data.json").read_text())
    assert "night: flow: converted from L/s to L/min" in facts["filled"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--channel", "flow"], "--channel flow: expected such as --channel flow=Flow"),
        (["--channel", "breath=Flow"], "--channel breath: not a channel of the model; it has flow, belt, pulse"),
        (["--channel", "flow=Flow"], "night.csv: no column 'Flow'"),
        (["--channel", "flow=flow:mmHg"], "channel 'flow' is in 'mmHg'"),
        (["--map-label", "Apnea"], "--map-label Apnea: expected such as"),
        (["--map-label", "Apnea=a/b"], "--map-label: kind 'a/b'"),
    ],
)
def test_a_wrong_mapping_is_one_line(model, night, tmp_path, capsys, words, expected):
    night.to_csv(tmp_path / "night.csv", index=False)
    assert score(model, tmp_path / "night.csv", *words) == 2
    assert expected in capsys.readouterr().err and not (tmp_path / "scored").exists()


def test_a_label_that_nobody_declared_is_a_kind_of_its_own(model, night, tmp_path, capsys):
    night.to_csv(tmp_path / "night.csv", index=False)
    (tmp_path / "night.events.csv").write_text("start_s,end_s,label\n40,55,A. Obstr./Mixed\n70,75,Cough\n")
    assert score(model, tmp_path / "night.csv", "--map-label", "Cough=cough_or_sneeze") == 0
    labels = pd.read_csv(tmp_path / "scored" / "labels.csv")
    assert labels["kind"].tolist() == ["a_obstr_mixed", "cough_or_sneeze"]
    metrics = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert set(metrics["detectors"]["LSTM"]["kinds"]) == {"a_obstr_mixed", "cough_or_sneeze"}
    notes = json.loads((tmp_path / "scored" / "data.json").read_text())["filled"]
    (note,) = [note for note in notes if "are of the kind 'a_obstr_mixed'" in note]
    assert note in capsys.readouterr().err                           # said where it is run, not in the file alone
