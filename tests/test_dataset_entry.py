"""--inspect --write-entry: an entry that works, and says what of it is guessed."""

import json
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

import collected_data_preprocess as script
from recordings.dataset_entry import write_entry
from recordings.inspection import describe
from recordings.reading import read_recording
from recordings.windowing import read_meta

SECONDS = 400


def draw(seed, rate_hz=25):
    random, t = np.random.default_rng(seed), np.arange(SECONDS * rate_hz) / rate_hz
    return {
        "t": t,
        "flow": (30 * np.sin(2 * np.pi * t / 4) + random.normal(size=len(t))).round(2),
        "belt": (np.cos(2 * np.pi * t / 4) + 0.05 * random.normal(size=len(t))).round(3),
        "spo2": np.where(np.arange(len(t)) % rate_hz, np.nan, 97.0 + (random.random(len(t)) > 0.95)),
    }


def write_tables(folder):
    for seed, name in enumerate(("one", "two", "three")):
        x = draw(seed)
        stamps = (pd.Timestamp("2024-03-30 23:58") + pd.to_timedelta(x["t"], unit="s")).strftime("%d.%m.%Y %H:%M:%S.%f")
        columns = {"Zeit": stamps, "Flow (L/min)": x["flow"], "=Brustgurt": x["belt"], "SpO2": x["spo2"], "off": 1.0}
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False, sep=";")
        (folder / f"{name}.events.csv").write_text("Beginn;Dauer;Typ\n00:03:20;15;A. Obstr.\n")
    return [folder / f"{name}.csv" for name in ("one", "two", "three")]


def write_edf(folder):
    pyedflib = pytest.importorskip("pyedflib")
    x = draw(0)
    with pyedflib.EdfWriter(str(folder / "psg.edf"), 2, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for k, (label, unit, limit) in enumerate((("Flow", "L/s", 2.0), ("THO effort", "uV", 4.0))):
            header = {"label": label, "dimension": unit, "sample_frequency": 25, "physical_min": -limit,
                      "physical_max": limit, "digital_min": -32768, "digital_max": 32767, "transducer": "",
                      "prefilter": ""}  # fmt: skip
            file.setSignalHeader(k, header)
        file.setStartdatetime(datetime(2024, 3, 30, 23, 58))
        file.writeSamples([x["flow"] / 60, x["belt"]])
        file.writeAnnotation(200, 15, "Obstructive apnea")
        file.writeAnnotation(1, -1, "Lights off")
    return [folder / "psg.edf"]


def run(*words):
    return script.main([str(word) for word in words])


@pytest.mark.parametrize(
    ("write", "channels", "labels"),
    [
        (write_tables, {"Flow": "airflow", "Brustgurt": "effort", "SpO2": "oximetry"}, {"A. Obstr.": "a_obstr"}),
        (write_edf, {"Flow": "airflow", "THO effort": "effort"}, {"Obstructive apnea": "obstructive_apnea"}),
    ],
)
def test_the_entry_works_as_it_is_written(tmp_path, capsys, write, channels, labels):
    (tmp_path / "raw").mkdir()
    (tmp_path / "sets").mkdir()
    files, config = write(tmp_path / "raw"), tmp_path / "sets" / "my.json"
    assert run("--inspect", *files, "--write-entry", config, "nights") == 0
    printed = capsys.readouterr().out
    entry = json.loads(config.read_text())["nights"]
    assert json.loads(printed[printed.index("{\n") :]) == {"nights": entry}
    assert {name: one["measures"] for name, one in entry["channels"].items()} == channels
    assert entry["labels"] == labels and entry["raw_dir"] == "../raw" and "guessed" in entry["description"]
    assert all(f"{name} measures {what}" in entry["description"] for name, what in channels.items())
    assert run("--dataset-config", config, "--dataset", "nights", "--out", tmp_path / "out") == 0
    meta = read_meta(tmp_path / "out" / "nights")
    assert meta.rate_hz == 5.0 and all([(e.start_s, e.end_s) for e in events] == [(200, 215)] or write is write_tables
                                       for events in meta.events.values())  # fmt: skip
    assert meta.starts and all(start.startswith("2024-03-30T23:58:00") for start in meta.starts.values())


def test_an_entry_is_added_and_none_is_replaced(tmp_path, capsys):
    files = write_tables(tmp_path)
    config = tmp_path / "my.json"
    config.write_text('{"other": {"description": "kept"}}')
    assert run("--inspect", *files, "--write-entry", config, "nights") == 0
    before = config.read_text()
    assert json.loads(before)["other"] == {"description": "kept"}
    assert run("--inspect", *files, "--write-entry", config, "nights") == 2
    assert "'nights' is taken; choose another name" in capsys.readouterr().err and config.read_text() == before


def test_files_of_two_kinds_are_no_dataset(tmp_path, capsys):
    files = write_tables(tmp_path)
    files[0].rename(tmp_path / "one.txt")
    words = ("--inspect", tmp_path / "one.txt", files[1], "--write-entry", tmp_path / "my.json", "nights")
    assert run(*words) == 2 and not (tmp_path / "my.json").exists()
    assert "expected recordings of one format in one folder" in capsys.readouterr().err


def test_an_oximeter_in_whole_per_cent_is_not_flat(tmp_path):
    x = draw(0)
    flow = np.where((x["t"] > 100) & (x["t"] < 110), 2.5, x["flow"])
    pd.DataFrame({"t_s": x["t"], "flow": flow, "SpO2": x["spo2"]}).to_csv(tmp_path / "a.csv", index=False)
    lines = describe(read_recording(tmp_path / "a.csv"))
    place = next(k for k, line in enumerate(lines) if line.startswith("  SpO2"))
    assert not any(word in line for line in lines[place:] for word in ("flatline", "run "))
    assert any("1 flatline, the longest 10.0 s" in line for line in lines[:place])


def test_the_hints_name_the_options_that_are_needed(tmp_path, capsys):
    files, config = write_tables(tmp_path), tmp_path / "my sets.json"
    assert run("--inspect", *files, "--write-entry", config, "nights") == 0
    hint = f"python collected_data_preprocess.py --dataset-config '{config}' --dataset nights"
    assert hint in capsys.readouterr().err
    assert run("--dataset-config", config, "--dataset", "nights", "--out", tmp_path / "out") == 0
    hint = f"python pure_lstm_anomaly_detection_main.py --dataset nights --datasets {tmp_path / 'out'}"
    assert hint in capsys.readouterr().err


def test_a_unit_at_the_end_of_a_name_is_guessed(tmp_path):
    x, expected = draw(0), {"flow_lpm": "L/min", "q_l_s": "L/s", "spo2_percent": "%", "pressure_cmh2o": "cmH2O",
                            "temp_c": "a.u.", "lpm": "a.u.", "leak lpm": "L/min"}  # fmt: skip
    pd.DataFrame({"t": x["t"]} | dict.fromkeys(expected, x["flow"])).to_csv(tmp_path / "one.csv", index=False)
    entry = write_entry([tmp_path / "one.csv"], tmp_path / "my.json", "my")
    assert {name: channel["unit"] for name, channel in entry["channels"].items()} == expected
    airflow = {name for name, channel in entry["channels"].items() if channel["measures"] == "airflow"}
    assert airflow == {"flow_lpm", "q_l_s"} and "flow_lpm measures airflow, in L/min;" in entry["description"]


def test_what_a_device_computes_of_airflow_is_no_airflow(tmp_path):
    x = draw(0)
    slow = {name: np.where(np.arange(len(x["t"])) % 50, np.nan, x["t"] % 7) for name in ("thorax_mean", "q [L/min]")}
    computed = {"minute_ventilation [L/min]": x["belt"], "flow_limitation": x["belt"]}
    frame = pd.DataFrame({"t": x["t"], "flow rate [L/s]": x["flow"], **computed, **slow})
    frame.to_csv(tmp_path / "one.csv", index=False)
    channels = write_entry([tmp_path / "one.csv"], tmp_path / "my.json", "my")["channels"]
    assert {name for name, channel in channels.items() if channel["measures"] != "other"} == {"flow rate"}
    assert channels["flow rate"]["measures"] == "airflow"


def test_a_count_is_no_signal_and_a_far_value_no_value(tmp_path, capsys):
    x = draw(0)
    flow, belt = np.where(x["t"] // 20 == 3, -9999, x["flow"]), np.where(x["t"] == 7, 500.0, x["belt"])
    columns = {"Nasal Pressure": flow, "seconds_elapsed": x["t"] + 0.2, "belt": belt, "Oxygen Level": x["spo2"]}
    pd.DataFrame({"t_s": x["t"], **columns}).to_csv(tmp_path / "one.csv", index=False)
    entry = write_entry([tmp_path / "one.csv"], tmp_path / "my.json", "my")
    assert {name: one["measures"] for name, one in entry["channels"].items()} == {
        "Nasal Pressure": "airflow", "belt": "effort", "Oxygen Level": "oximetry"}  # fmt: skip
    assert entry["channels"]["Nasal Pressure"]["sentinels"] == [-9999] and "sentinels" not in entry["channels"]["belt"]
    assert "Nasal Pressure measures airflow, in a.u., no value where it is -9999;" in entry["description"]
    note = "Nasal Pressure: 500 samples of -9999, far from all others; if it means no value, see sentinels"
    assert f"  {note}" in describe(read_recording(tmp_path / "one.csv"))
    assert not any("far from" in line for line in read_recording(tmp_path / "one.csv", sentinels={
        "Nasal Pressure": [-9999]}).notes)  # fmt: skip
