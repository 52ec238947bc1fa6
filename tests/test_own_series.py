"""Series of one's own: folders in NAB's layout, other columns and stamps, label windows, several channels."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import data_preprocess_NAB as script
import pure_lstm_anomaly_detection_main as main_script
from data_loader import load_dataset
from recordings.series_files import SeriesColumns, read_rows
from recordings.windowing import SPLITS, read_meta
from utils import ROOT, DataError

ROWS = 600
CONFIG = {
    "description": "made by a test", "val_fraction": 0.3, "normal_share": 0.5, "guard_rows": 20, "gap_rows": 50,
    "window_rows": 64,
}  # fmt: skip
EXPERIMENT = {
    "dataset": {"name": "pump"},
    "model": {"hidden_units": 4, "num_layers": 1, "horizon_rows": 6, "warm_up_rows": 6},
    "training": {"epochs": 1, "updates_per_epoch": 2, "batch_size": 4, "window_rows": 40, "plot_every": 0},
    "score": {
        "error_rows": 12, "level_rows": 24, "near_rows": 1, "settle_rows": 1, "weights": {"error": 1.0, "level": 1.0},
        "calibrate_on": ["train", "val"],
    },
    "threshold": {"method": "quantile", "parameters": {"q": 0.98}},
    "events": {"merge_gap_rows": 12, "tolerance_rows": 0},
}  # fmt: skip
TIMES = pd.Series(pd.date_range("2024-01-10 22:00", periods=ROWS, freq="30min"))
ISO = TIMES.dt.strftime("%Y-%m-%d %H:%M:%S")
VALUES = (20 + 5 * np.sin(np.arange(ROWS) / 12) + np.random.default_rng(0).normal(0, 0.3, ROWS)).round(3)


def write(path, times=ISO, value="value", time="timestamp", values=VALUES, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({time: times, value: values}).to_csv(path, index=False, **how)
    return path


def run(folder, *words):
    config = folder / "nab.json"
    config.write_text(json.dumps({"NAB": CONFIG}))
    return script.main([str(w) for w in ("--dataset-config", config, "--out", folder / "out", *words)])


def fails(folder, capsys, *words):
    assert run(folder, *words) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(err) == 1 and not (folder / "out").exists()
    return err[0]


def labelled(folder):
    """Return the first and last timestamp of the labelled rows of the test split."""
    test = pd.read_csv(folder / "test.csv", dtype={"timestamp": str})
    stamps = test["timestamp"][test["label"] == 1].tolist()
    return stamps[0], stamps[-1], len(stamps)


# ---- files ----------------------------------------------------------------------------------

AS_WRITTEN = {
    "nab": lambda p: write(p),
    "ds and y": lambda p: write(p, time="ds", value="y"),
    "capitals": lambda p: write(p, time="Timestamp", value="Value"),
    "semicolons and commas": lambda p: write(p, TIMES.dt.strftime("%d.%m.%Y %H:%M"), sep=";", decimal=","),
    "slashes": lambda p: write(p, TIMES.dt.strftime("%m/%d/%Y %I:%M %p"), time="when"),
    "seconds since 1970": lambda p: write(p, TIMES.astype("datetime64[s]").astype("int64"), time="time"),
    "milliseconds": lambda p: write(p, TIMES.astype("datetime64[ms]").astype("int64"), time="time"),
    "a zone": lambda p: write(p, ISO.str.replace(" ", "T") + "+02:00", time="time"),
    "gzip": lambda p: write(p, compression="gzip"),
}  # fmt: skip


@pytest.mark.parametrize("how", AS_WRITTEN)
def test_times_and_values_are_the_same_however_written(tmp_path, how):
    path = AS_WRITTEN[how](tmp_path / ("pump.csv.gz" if how == "gzip" else "pump.csv"))
    rows = read_rows(path)
    np.testing.assert_allclose(rows.values[:, 0], VALUES, atol=1e-9)
    assert (pd.Series(rows.times).astype("datetime64[s]") == TIMES.astype("datetime64[s]")).all()
    assert rows.values.shape == (ROWS, 1) and all(" " in s or "T" in s for s in rows.timestamps)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: f.iloc[::-1], "rows run backwards: row 2 is of 2024-01-23 09:30:00, the last one of 2024-01-10"),
        (lambda f: f.assign(timestamp="2024-01-10"), "all rows have the same timestamp"),
        (lambda f: f.rename(columns={"value": "a"}).assign(b=1.5), "columns of numbers: a, b; name what to read"),
        (lambda f: f.rename(columns={"timestamp": "a"}).assign(b=f["timestamp"]), "2 columns of timestamps, a, b"),
        (lambda f: f.assign(timestamp=range(ROWS)), "row 2: timestamp is '0'; expected a timestamp such as"),
        (lambda f: f.drop(columns="timestamp").assign(a=1.5), "no column 'timestamp'; the file has value, a"),
        (lambda f: f.assign(timestamp="0" + (f.index % 9 + 1).astype(str) + "/05/2024 10:00"), "day or month first?"),
        (lambda f: f.assign(value=f["value"].astype(str).mask(f.index == 7, "inf")), "row 9: value is infinite"),
        (lambda f: f.assign(value=f["value"].astype(str).mask(f.index == 7, "high")), "row 9: column 'value' holds"),
    ],
)
def test_a_doubt_about_rows_is_one_line(tmp_path, change, expected):
    frame = change(pd.DataFrame({"timestamp": ISO, "value": VALUES}))
    frame.to_csv(tmp_path / "pump.csv", index=False)
    with pytest.raises(DataError, match="^pump.csv: ") as caught:
        read_rows(tmp_path / "pump.csv")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_time_format_settles_which_is_the_month(tmp_path):
    assert pd.Timestamp(read_rows(write(tmp_path / "a.csv", TIMES.dt.strftime("%d/%m/%Y %H:%M"))).times[0]) == TIMES[0]
    path = write(tmp_path / "a.csv", TIMES.dt.strftime("%d/%m/%Y %H:%M")[:48], values=VALUES[:48])
    assert pd.Timestamp(read_rows(path).times[0]) == TIMES[0]        # as months, they would leap by a month at midnight
    days = pd.Series(pd.date_range("2024-02-01", periods=12))
    path = write(tmp_path / "a.csv", days.dt.strftime("%d/%m/%Y"), values=VALUES[:12])
    with pytest.raises(DataError, match="--time-format"):
        read_rows(path)
    assert pd.Timestamp(read_rows(path, SeriesColumns(time_format="%d/%m/%Y")).times[-1]) == days.iloc[-1]


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("%d-%b-%Y %H:%M", str), ("%m/%d/%y %I:%M %p", str), ("%Y%m%d%H%M%S", str), ("%Y-%m-%d %H:%M:%S UTC", str),
        ("%d %b %Y %H:%M", lambda text: text.replace("Jan", "janv.").replace("Feb", "f\u00e9vr.")),
        ("%Y\u5e74%m\u6708%d\u65e5 %H:%M", str), ("%d.%m.%Y %H:%M", lambda text: text.removesuffix(" 00:00")),
    ],
)  # fmt: skip
def test_timestamps_of_a_series_are_read_as_those_of_recordings(tmp_path, pattern, change):
    path = write(tmp_path / "a.csv", TIMES.dt.strftime(pattern).map(change))
    assert (read_rows(path).times == TIMES.to_numpy()).all()


# ---- datasets -------------------------------------------------------------------------------


def test_a_folder_in_the_layout_of_nab_may_hold_own_series(tmp_path, capsys):
    root = tmp_path / "mine"
    write(root / "data" / "plant" / "pump.csv")
    (root / "labels").mkdir()
    (root / "labels" / "combined_windows.json").write_text(json.dumps({"plant/pump.csv": [[ISO[450], ISO[460]]]}))
    assert run(tmp_path, "--nab-root", root, "--series", "pump") == 0
    assert labelled(tmp_path / "out" / "pump") == (ISO[450], ISO[460], 11)
    meta = read_meta(tmp_path / "out" / "pump")
    assert meta.description == "the series plant/pump.csv" and not meta.simulated and meta.series.rows == ROWS
    assert sum(span.steps for split in SPLITS for span in meta.splits[split]) == ROWS - 40
    assert run(tmp_path, "--nab-root", root, "--list") == 0
    assert capsys.readouterr().out.split()[-1] == "pump"
    assert run(tmp_path, "--nab-root", root) == 0                    # all that it holds


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("plant/nyc_taxi.csv", "plant/nyc_taxi.csv has the name of NAB's realKnownCause/nyc_taxi.csv; rename the file"),
        ("other/pump.csv", "plant/pump.csv has the name of other/pump.csv; rename the file"),
    ],
)
def test_two_series_of_one_name_are_refused(tmp_path, capsys, path, expected):
    root = tmp_path / "mine"
    write(root / "data" / "plant" / "pump.csv")
    write(root / "data" / path)
    assert expected in fails(tmp_path, capsys, "--nab-root", root, "--series", "pump")


def test_a_near_name_is_told_and_a_missing_entry_too(tmp_path, capsys):
    root = tmp_path / "mine"
    write(root / "data" / "plant" / "pump.csv")
    assert "did you mean 'pump'?" in fails(tmp_path, capsys, "--nab-root", root, "--series", "pumps")
    (root / "labels").mkdir()
    (root / "labels" / "combined_windows.json").write_text('{"plant/pumpe.csv": []}')
    line = fails(tmp_path, capsys, "--nab-root", root, "--series", "pump")
    assert "no entries 'plant/pump.csv'; an empty list says that nothing is labelled" in line


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ([ISO[450], ISO[460]], (ISO[450], ISO[460], 11)),
        (["2024-01-20 07:10", "2024-01-20 12:10:30"], (ISO[451], ISO[460], 10)),         # between two rows
        (["2024-01-20T07:00:00+01:00", "2024-01-20T12:00:00+01:00"], (ISO[450], ISO[460], 11)),   # as written
    ],
)
def test_label_windows_are_clock_times_also_between_rows(tmp_path, window, expected):
    (tmp_path / "windows.json").write_text(json.dumps({"pump.csv": [window]}))
    assert run(tmp_path, "--file", write(tmp_path / "pump.csv"), "--labels", tmp_path / "windows.json") == 0
    assert labelled(tmp_path / "out" / "pump") == expected


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (["2023-01-20", "2024-01-20"], "the window end 2023-01-20 lies outside the series, 2024-01-10 22:00:00 to"),
        (["2024-01-20 07:01", "2024-01-20 07:02"], "no row lies in the window"),
        (["2024-01-20", "2024-01-19"], "expected windows in order"),
        (["soon", "2024-01-19"], "soon"),
    ],
)
def test_a_wrong_label_window_is_one_line(tmp_path, capsys, window, expected):
    (tmp_path / "windows.json").write_text(json.dumps({"pump": [window]}))
    words = ("--file", write(tmp_path / "pump.csv"), "--labels", tmp_path / "windows.json")
    assert expected in fails(tmp_path, capsys, *words)


def test_several_columns_are_the_channels(tmp_path):
    frame = pd.DataFrame({"when": ISO, "id": 7, "temp": VALUES, "load": 2 * VALUES})
    frame.to_csv(tmp_path / "pump.csv", index=False)
    assert run(tmp_path, "--file", tmp_path / "pump.csv", "--value-columns", "temp", "load") == 0
    dataset = load_dataset(tmp_path / "out" / "pump")
    assert dataset.channels == ("temp", "load")
    np.testing.assert_allclose(dataset.splits["test"][0].values[:, 1], 2 * VALUES[300:], rtol=1e-6)


# ---- a model of rows ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The checkpoint of a tiny model that was trained on a series, by its commands."""
    home = tmp_path_factory.mktemp("model")
    write(home / "pump.csv")
    (home / "windows.json").write_text(json.dumps({"pump.csv": [[ISO[450], ISO[460]]]}))
    assert run(home, "--file", home / "pump.csv", "--labels", home / "windows.json") == 0
    (home / "config.json").write_text(json.dumps(EXPERIMENT))
    words = ("--config", home / "config.json", "--datasets", home / "out", "--out", home / "run", "--device", "cpu")
    assert main_script.main([str(w) for w in words]) == 0
    return home / "run" / "checkpoint.safetensors"


def score(model, path, *words):
    return main_script.main(
        [str(w) for w in ("--checkpoint", model, "--device", "cpu", "--out", path.parent / "scored", *words,
                          "--score", path)]
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", ["nab", "ds and y", "capitals", "semicolons and commas", "milliseconds"])
def test_a_model_scores_files_with_other_columns(model, tmp_path, how):
    assert score(model, AS_WRITTEN[how](tmp_path / "pump.csv")) == 0
    found = pd.read_csv(tmp_path / "scored" / "scores.csv")
    expected = pd.read_csv(model.parent / "scores.csv")
    np.testing.assert_allclose(found["residual_value"][320:], expected["residual_value"][20:], atol=2e-3)


@pytest.mark.slow
def test_several_columns_need_a_channel_option(model, tmp_path, capsys):
    pd.DataFrame({"when": ISO, "a": VALUES, "b": 1.5}).to_csv(tmp_path / "pump.csv", index=False)
    assert score(model, tmp_path / "pump.csv") == 2
    assert "columns of numbers: a, b; name what to read with --channel value=COLUMN" in capsys.readouterr().err
    assert score(model, tmp_path / "pump.csv", "--channel", "value=a") == 0


@pytest.mark.slow
def test_the_script_is_one_process_on_an_own_series(tmp_path):
    write(tmp_path / "pump.csv", time="ds", value="y")
    words = ("--file", tmp_path / "pump.csv", "--out", tmp_path / "out")
    script_path = ROOT / "data_preprocess_NAB.py"
    done = subprocess.run([sys.executable, script_path, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert (tmp_path / "out" / "pump" / "meta.json").is_file()


def test_a_year_that_no_calendar_has_is_one_line(tmp_path):
    path = write(tmp_path / "a.csv", TIMES.dt.strftime("%Y-%m-%d %H:%M"))
    lines = path.read_text().splitlines()
    lines[3] = "-1" + lines[3][lines[3].index(",") :]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match="a.csv: row 4: .* is '-1'; expected a timestamp"):
        read_rows(path)
