"""The NAB script as a user calls it: on small made-up series, and on the real ones where they are."""

import json

import numpy as np
import pandas as pd
import pytest

import data_preprocess_NAB as script
from config import DATASET_CONFIG, load_nab
from data_loader import load_dataset
from recordings import nab_files
from recordings.windowing import SPLITS, read_meta
from utils import ROOT

pytestmark = pytest.mark.slow

SHARED = ROOT / ".." / "shared" / "data" / "nab"
NAME, PATH = "nyc_taxi", "realKnownCause/nyc_taxi.csv"
ROWS, PERIOD_S = 1000, 300
CONFIG = {
    "description": "made by a test",
    "val_fraction": 0.3,
    "normal_share": 0.5,
    "guard_rows": 20,
    "gap_rows": 50,
    "window_rows": 64,
    "units": {NAME: "passengers"},
}


def draw_times(rows=ROWS):
    return pd.Series(pd.date_range("2014-04-01", periods=rows, freq=f"{PERIOD_S}s"))


class Nab:
    """A made-up NAB of one series, and the script on it."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.values = np.random.default_rng(0).normal(50, 5, ROWS).round(4)
        self.write(draw_times(), self.values)
        self.windows([(600, 650)])
        self.config()

    def write(self, times, values):
        self.times = times.dt.strftime("%Y-%m-%d %H:%M:%S")
        file = self.folder / "nab" / "data" / PATH
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"timestamp": self.times, "value": values}).to_csv(file, index=False)

    def windows(self, rows):
        ends = [[f"{self.times[a]}.000000", f"{self.times[b]}.000000"] for a, b in rows]
        labels = self.folder / "nab" / nab_files.LABELS
        labels.parent.mkdir(exist_ok=True)
        labels.write_text(json.dumps({PATH: ends}))

    def config(self, **changes):
        (self.folder / "dataset_config.json").write_text(json.dumps({"NAB": CONFIG | changes}))

    def run(self, *arguments):
        paths = {"--nab-root": "nab", "--out": "out", "--dataset-config": "dataset_config.json"}
        given = [str(word) for option, path in paths.items() for word in (option, self.folder / path)]
        code = script.main([*given, "--series", NAME, *arguments])
        return code, *self.capsys.readouterr()

    def fails(self, *arguments):
        code, _, err = self.run(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in err
        return lines[0]

    @property
    def out(self):
        return self.folder / "out" / NAME

    def split(self, name):
        return pd.read_csv(self.out / f"{name}.csv", dtype={"timestamp": str})

    def rows(self, name):
        return (self.split(name)["t_s"] / PERIOD_S).round().astype(int).tolist()


@pytest.fixture
def nab(tmp_path, capsys):
    return Nab(tmp_path, capsys)


# ---- splits ---------------------------------------------------------------------------------


def test_a_prefix_without_labels_trains_and_the_rest_is_test(nab):
    assert nab.run()[0] == 0
    assert nab.rows("train") == list(range(0, 350 - 20))             # half of 1000, 30 % of it calibrates
    assert nab.rows("val") == list(range(350, 500 - 20))
    assert nab.rows("test") == list(range(500, 1000))
    assert nab.split("test")["label"].tolist() == [int(100 <= row <= 150) for row in range(500)]


def test_an_early_anomaly_ends_the_normal_rows(nab):
    nab.windows([(200, 220), (600, 650)])
    assert nab.run()[0] == 0
    assert nab.rows("train")[0] == 0 and nab.rows("val")[-1] == 200 - 20 - 1 and nab.rows("test")[0] == 200
    assert read_meta(nab.out).guard_s == 20 * PERIOD_S


def test_a_short_prefix_has_a_shorter_guard(nab):
    nab.windows([(100, 120)])
    assert nab.run()[0] == 0
    assert read_meta(nab.out).guard_s == 10 * PERIOD_S
    assert nab.rows("train") == list(range(60)) and nab.rows("val") == list(range(70, 90))


def test_configured_normal_rows_have_test_rows_before_and_after(nab):
    nab.windows([(50, 80), (600, 650)])
    nab.config(normal_rows={NAME: [200, 500]})
    assert nab.run()[0] == 0
    assert nab.rows("test") == [*range(0, 200), *range(500, 1000)]
    assert nab.rows("train") == list(range(220, 410 - 20))           # a guard after the test span, too
    load_dataset(nab.out)                                            # checks that the splits are apart


def test_a_series_without_anomaly_is_split_as_well(nab):
    nab.windows([])
    assert nab.run()[0] == 0
    assert nab.rows("test") == list(range(500, 1000)) and not nab.split("test")["label"].any()


@pytest.mark.parametrize("normal", [[0, 1000], [550, 700], [650, 900]])
def test_normal_rows_on_a_label_or_beyond_the_end_are_refused(nab, normal):
    nab.config(normal_rows={NAME: normal})
    assert f"normal_rows.{NAME} is [{normal[0]}, {normal[1]}]" in nab.fails()


# ---- awkward series -------------------------------------------------------------------------


def notes(nab):
    return " | ".join(read_meta(nab.out).notes)


def test_repeated_timestamps_stay_and_are_noted(nab):
    times = draw_times()
    times[700:703] = times[699]
    nab.write(times, nab.values)
    assert nab.run()[0] == 0
    assert nab.rows("test") == list(range(500, 1000))
    assert nab.split("test")["timestamp"].tolist() == nab.times[500:].tolist()
    assert "3 rows, first row 700, 2014-04-03 10:15:00: same timestamp as the previous row; kept" in notes(nab)


def test_rows_out_of_order_stay_where_they_are(nab):
    times = draw_times()
    times[300:] = times[300:] - pd.Timedelta(hours=1)
    nab.write(times, nab.values)
    nab.windows([(600, 650)])
    assert nab.run()[0] == 0
    assert nab.rows("test") == list(range(500, 1000)) and nab.split("test")["label"].sum() == 51
    assert "timestamp before that of the previous row; kept in place" in notes(nab)


def test_a_long_gap_parts_training_but_not_test(nab):
    times = draw_times()
    for row in (100, 300, 700):
        times[row:] = times[row:] + pd.Timedelta(seconds=PERIOD_S * (60 if row != 300 else 20))
    nab.write(times, nab.values)
    nab.windows([(600, 650)])
    assert nab.run()[0] == 0
    meta = read_meta(nab.out)
    assert nab.rows("train") == [row for row in range(330) if row != 100]
    assert [span.steps for span in meta.splits["train"]] == [100, 229] and len(meta.splits["test"]) == 1
    assert any("rows 100 to 100" in line and "train: after a gap" in line for line in meta.dropped)
    assert "3 rows, first row 100" in notes(nab) and "the longest gap is 61.0 periods, before row 100" in notes(nab)


def test_a_constant_series_is_scaled_by_one(nab):
    nab.write(draw_times(), np.full(ROWS, 45.0))
    assert nab.run()[0] == 0
    meta = read_meta(nab.out)
    assert meta.scaler.center == [45.0] and meta.scaler.scale == [1.0]
    assert "value is constant at 45 in the training rows" in notes(nab)


def test_an_empty_value_stays_as_a_missing_row(nab):
    values = nab.values.copy()
    values[700] = np.nan
    nab.write(draw_times(), values)
    assert nab.run()[0] == 0
    test = nab.split("test")
    assert test["valid_value"].tolist() == [int(row != 200) for row in range(500)] and test["value"].isna().sum() == 1
    assert "no value; kept, marked as missing" in notes(nab)
    assert len(load_dataset(nab.out).splits["test"]) == 1


# ---- leakage, currency, errors --------------------------------------------------------------


def test_the_test_span_changes_nothing_in_training(nab):
    def learnt_from():
        nab.run()
        return [(nab.out / f"{split}.csv").read_bytes() for split in ("train", "val")], read_meta(nab.out).scaler

    before = learnt_from()
    values = nab.values.copy()
    values[500:] = 1e6
    nab.write(draw_times(), values)
    assert learnt_from() == before
    assert nab.split("test")["value"].eq(1e6).all()


def test_a_second_run_touches_nothing_and_a_new_label_does(nab):
    nab.run()
    stamp = (nab.out / "test.csv").stat().st_mtime_ns
    assert "up to date" in nab.run()[2] and (nab.out / "test.csv").stat().st_mtime_ns == stamp
    nab.windows([(700, 720)])
    nab.run()
    assert nab.split("test")["label"].sum() == 21


def test_the_list_needs_no_data(capsys):
    assert script.main(["--list"]) == 0
    listed = capsys.readouterr().out.split()
    assert len(listed) == 58 and NAME in listed


# ---- the real benchmark ---------------------------------------------------------------------

real = pytest.mark.skipif(not SHARED.is_dir(), reason="NAB is not at ../shared/data/nab")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    out = tmp_path_factory.mktemp("nab")
    assert script.main(["--nab-root", str(SHARED), "--all", "--out", str(out)]) == 0
    return out


@real
def test_all_series_come_back_row_by_row(everything):
    assert len(list(everything.glob("*/meta.json"))) == 58
    for name, path in nab_files.series_names().items():
        source = pd.read_csv(SHARED / "data" / path, dtype={"timestamp": str})
        meta = read_meta(everything / name)
        files = [everything / name / f"{split}.csv" for split in SPLITS]
        parts = [pd.read_csv(file, dtype={"timestamp": str}) for file in files]
        back = pd.concat(parts)
        rows = (back["t_s"] * meta.rate_hz).round().astype(int)
        assert rows.is_unique
        pd.testing.assert_frame_equal(
            back[["timestamp", "value"]].set_index(rows), source.loc[rows], check_names=False, check_dtype=False
        )
        dropped = set(source.index) - set(rows)
        listed = [line.split("rows ")[1].split(",")[0].split(" to ") for line in meta.dropped]
        assert dropped == {row for first, last in listed for row in range(int(first), int(last) + 1)}
        assert meta.filled == [] and (parts[2]["valid_value"] == 1).all()
        assert not parts[0]["label"].any() and not parts[1]["label"].any()


@real
def test_labels_are_nabs_windows(everything):
    windows = json.loads((SHARED / nab_files.LABELS).read_text())
    for name in nab_files.known_cause():
        test = pd.read_csv(everything / name / "test.csv", dtype={"timestamp": str})
        edges = np.flatnonzero(np.diff(np.r_[0, test["label"], 0])).reshape(-1, 2)
        found = [[test["timestamp"][a], test["timestamp"][b - 1]] for a, b in edges]
        wanted = [[end.removesuffix(".000000") for end in window] for window in windows[nab_files.series_names()[name]]]
        assert found == wanted


@real
def test_both_test_spans_of_machine_temperature_are_kept(everything):
    meta = read_meta(everything / "machine_temperature_system_failure")
    assert [span.steps for span in meta.splits["test"]] == [5000, 22695 - 15500]
    assert any("before that of the previous row" in note for note in meta.notes)


def test_the_shipped_entry_validates():
    config = load_nab(DATASET_CONFIG)
    assert set(config.normal_rows) < set(nab_files.known_cause())
