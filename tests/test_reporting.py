import json
import math

import numpy as np
import pandas as pd
import pytest

from detection.events import FoundEvent
from evaluation.results import AreaMeasures, DetectorMetrics, EventMeasures, FreeResponse, KindMeasures, RunMetrics
from reports.run_folder import RunFolder, default_root, new_run, run_files, write_alarms, write_run
from reports.tables import results_table
from utils import DataError

# ---- the folder -----------------------------------------------------------------------------


def test_a_new_run_is_an_empty_folder_made_with_its_parents(tmp_path):
    run = new_run(tmp_path / "a" / "b")
    assert run.root.is_dir() and not list(run.root.iterdir())
    assert new_run(run.root).root == run.root                              # empty still
    (run.root / ".lock").touch()
    (run.root / ".config.json.17.tmp").touch()
    (run.root / "runs.json").touch()
    assert new_run(run.root).root == run.root                              # a run was killed before it had a config


def test_a_used_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"not empty; resume it with --resume .* or name another --out"):
        new_run(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")                 # of scored recordings: nothing there can be resumed
    with pytest.raises(DataError, match="not empty; name another --out"):
        new_run(tmp_path)


def test_default_names_carry_the_dataset_and_never_collide(tmp_path):
    names = []
    for _ in range(3):
        root = default_root(tmp_path, "cpap")
        root.mkdir()
        names.append(root.name)
    assert len(set(names)) == 3 and all(name.startswith("cpap-") for name in names)


# ---- files ----------------------------------------------------------------------------------


def scores_part(name, steps, seed):
    random = np.random.default_rng(seed)
    score = random.exponential(size=steps)
    score[:2] = np.nan
    return {
        "recording": name, "t_s": np.arange(steps) / 5, "score": score, "threshold": np.full(steps, 1.5),
        "alarm": (score > 1.5).astype(int), "label": np.zeros(steps, np.int8),
        "residual_flow": random.normal(size=steps),
    }  # fmt: skip


def test_scores_come_back_as_they_were(tmp_path):
    parts = [scores_part("first", 20, 1), scores_part("second", 7, 2)]
    with run_files(RunFolder(tmp_path)) as files:
        for part in parts:
            files.add_scores(part)
    frame = pd.read_csv(tmp_path / "scores.csv")
    assert list(frame) == ["recording", "t_s", "score", "threshold", "alarm", "label", "residual_flow"]
    assert frame["recording"].tolist() == ["first"] * 20 + ["second"] * 7
    for column in ("t_s", "score", "threshold", "residual_flow", "alarm", "label"):
        expected = np.concatenate([part[column] for part in parts])
        np.testing.assert_allclose(frame[column], expected, atol=5e-7)
    assert frame["score"].isna().sum() == 4


def test_signals_come_back_as_they_were_and_only_if_they_are_wanted(tmp_path):
    random = np.random.default_rng(0)
    signals = {"t": np.arange(9.0), "values": random.normal(size=(9, 2)).astype(np.float32)}
    signals |= dict.fromkeys(("forecast", "score", "threshold"), signals["values"][:, 0])
    for wanted in (True, False):
        run = RunFolder(tmp_path / str(wanted))
        with run_files(run, signals=wanted) as files:
            files.add_recording({"name": "a"}, signals)
            files.add_recording({"name": "b"}, signals)
        assert run.signals.exists() == wanted and files.recordings == [{"name": "a"}, {"name": "b"}]
    with np.load(tmp_path / "True" / "signals.npz", allow_pickle=False) as back:
        assert len(back.files) == 10
        np.testing.assert_array_equal(back["values_1"], signals["values"])


def test_files_of_a_run_that_fails_are_left_as_they_were(tmp_path):
    run = RunFolder(tmp_path)
    with run_files(run) as files:
        files.add_scores(scores_part("first", 5, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ZeroDivisionError), run_files(run) as files:
        files.add_scores(scores_part("second", 5, 1))
        raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_events_come_back_as_they_were(tmp_path):
    breath = {"event": FoundEvent("first", 10.2, 15.8, 4.25, 11.4, "flow, mask"), "matched_label": "apnea"}
    why = {"overlaps": "apnea", "component": "amplitude_drop", "contributions": "flow, mask 90 %, belt 10 %"}
    lost = {"event": FoundEvent("first", 20.0, 30.0, math.nan, 20.0, "belt"), "matched_label": ""}
    write_alarms(RunFolder(tmp_path), [breath | {"found_by": "lstm"} | why, lost | {"found_by": "signal_loss"}])
    frame = pd.read_csv(tmp_path / "alarms.csv")
    assert list(frame) == [
        "recording", "start_s", "end_s", "peak_score", "peak_t_s", "channel", "matched_label", "found_by",
        "overlaps", "component", "contributions",
    ]  # fmt: skip
    row = [
        "first", 10.2, 15.8, 4.25, 11.4, "flow, mask", "apnea", "lstm", "apnea",
        "amplitude_drop", "flow, mask 90 %, belt 10 %",
    ]
    assert frame.loc[0].tolist() == row
    empty = ["peak_score", "matched_label", "overlaps", "component", "contributions"]
    assert frame.loc[1].drop(empty).tolist() == ["first", 20.0, 30.0, 20.0, "belt", "signal_loss"]
    assert frame.loc[1, empty].isna().all()


def test_no_event_is_a_table_with_a_header_alone(tmp_path):
    write_alarms(RunFolder(tmp_path), [])
    assert len(pd.read_csv(tmp_path / "alarms.csv")) == 0


def test_run_json_says_what_made_the_numbers(tmp_path):
    write_run(RunFolder(tmp_path), seed=3, device="cpu", seconds={"training": math.nan}, simulated=True)
    content = json.loads((tmp_path / "run.json").read_text())
    assert (content["seed"], content["device"], content["simulated"]) == (3, "cpu", True)
    assert {"command", "git_commit", "versions", "finished"} <= content.keys()
    assert {"python", "torch", "numpy"} <= content["versions"].keys()


# ---- the table ------------------------------------------------------------------------------


def results(recall, per_hour, delay, auc=0.5):
    """Return metrics of a detector and a rule, with the parts that tables are made of."""

    def detector(recall):
        apnea = KindMeasures(labelled=8, found=round(8 * recall), recall=recall, delay_median_s=delay)
        dropout = KindMeasures(labelled=3, found=2, recall=2 / 3, delay_median_s=delay)
        curve = [0.0, recall / 2, recall]
        return DetectorMetrics.model_construct(
            kinds={"apnea": apnea, "dropout": dropout},
            events=EventMeasures.model_construct(false_events_per_hour=per_hour, delay_median_s=delay),
            threshold_free=AreaMeasures.model_construct(auc_pr=auc, vus_pr=auc / 2),
            free_response=FreeResponse(
                false_events_per_hour=[0.1, 0.5, 1.0], threshold=[math.nan, 2.0, 1.0], recall=curve,
                kinds={"apnea": curve},
            ),
        )  # fmt: skip

    return RunMetrics.model_construct(
        fault_kinds=["dropout"], detectors={"LSTM": detector(recall), "rule": detector(0.25)}
    )


def rows_of(tables):
    rows = {}
    for table in tables.split("\n\n"):
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        assert len({len(row) for row in cells}) == 1             # a table Markdown can show
        rows |= {row[0]: row[1:] for row in cells}
    return rows


def test_the_table_of_one_run_holds_its_numbers():
    rows = rows_of(results_table([results(0.75, 0.4, 9.6)]))
    assert rows["at the deployed threshold"] == ["events", "LSTM", "rule"]
    assert rows["apnea: found"] == ["8", "75 %", "25 %"]
    assert rows["dropout: found"] == ["3", "67 % (signal loss)", "(signal loss)"]
    assert rows["false events an hour"] == ["", "0.40", "0.40"]
    assert rows["median delay, s"] == ["", "9.60", "9.60"]
    assert (rows["average precision"][1], rows["VUS-PR"][1]) == ("0.50", "0.25")
    assert rows["recall by false events an hour (thresholds read off the test span)"] == ["events", "0.1", "0.5", "1"]
    assert rows["all kinds: LSTM"] == rows["apnea: LSTM"] == ["8", "0 %", "38 %", "75 %"]
    assert rows["apnea: rule"] == ["8", "0 %", "12 %", "25 %"]


def test_the_table_of_several_seeds_holds_mean_and_spread():
    rows = rows_of(results_table([results(0.5, 1.0, 9.0), results(1.0, 2.0, 11.0)]))
    assert rows["apnea: found"] == ["8", "75 ± 25 %", "25 ± 0 %"]
    assert rows["false events an hour"][1] == "1.50 ± 0.50"
    assert rows["apnea: LSTM"][1:] == ["0 ± 0 %", "38 ± 12 %", "75 ± 25 %"]


def test_an_unknown_number_is_a_dash():
    assert rows_of(results_table([results(0.5, 1.0, math.nan)]))["median delay, s"] == ["", "-", "-"]
