"""The clock of a recording, from its file to every table, plot and page; texts of clocks and back."""

import json
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import tiny
from pages import check_sound, page_of

import collected_data_preprocess
import pure_lstm_anomaly_detection_main as script
from recordings.clocks import Stamps, TimeKeys, seconds_of
from recordings.wall_clock import clock_at, clocks_at
from recordings.windowing import read_meta

START = pd.Timestamp("2024-03-30 23:59:30")


@pytest.mark.parametrize(
    ("start", "seconds", "expected"),
    [
        (datetime(2024, 3, 30, 23, 59), 60.5, "2024-03-31 00:00:00.500"),
        (datetime(1900, 1, 1, 23, 59), 60.5, "00:00:00.500"),            # a time of day alone
        (datetime.fromisoformat("2024-03-30T23:59:00+01:00"), 0, "2024-03-30 23:59:00.000+01:00"),
        (None, 0, ""),
        (datetime(2024, 3, 30), np.nan, ""),
        (datetime(9999, 12, 31), 1e9, ""),
    ],
)
def test_a_clock_is_one_text_everywhere(start, seconds, expected):
    assert clock_at(start, seconds) == expected
    if expected:
        assert clocks_at(start, np.array([seconds])).tolist() == [expected]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2024-03-30 23:59:30.5", "2024-03-31 00:00:00"], datetime(2024, 3, 30, 23, 59, 30, 500000)),
        (["30.03.2024 23:59:30", "31.03.2024 00:00:00"], datetime(2024, 3, 30, 23, 59, 30)),
        (["3/30/2024 11:59:30 PM"], datetime(2024, 3, 30, 23, 59, 30)),
        (["3/4/2024 11:59:30 PM"], datetime(1900, 1, 1, 23, 59, 30)),    # of two possible days, none
        (["3/4/2024 11:59:30 PM", "3/13/2024 11:59:30 PM"], datetime(2024, 3, 4, 23, 59, 30)),
        (["23:59:30"], datetime(1900, 1, 1, 23, 59, 30)),
        (["2024-03-30T23:59:30+01:00"], datetime.fromisoformat("2024-03-30T23:59:30+01:00")),
        (["00:00:00", "00:00:01"], None),                                # elapsed
        (["100:59:30", "100:59:31"], None),
        (["59:30.5", "59:31.5"], None),
        (["soon"], None),
    ],
)
def test_the_clock_of_a_table_is_that_of_its_first_row(texts, expected):
    t, start = seconds_of(pd.Series(texts, dtype=str), "one.csv")
    assert start == expected
    one = Stamps(TimeKeys())
    assert [one.take(text) for text in texts] == (t.tolist() if expected or t[-1] > 0 else [None])
    assert one.start == expected


def test_the_clock_of_a_night_keeps_its_zone_when_the_zone_changes():
    local = ["2024-03-31 01:59:30", "2024-03-31 01:59:59", "2024-03-31 03:00:00", "2024-03-31 05:00:00"]
    t, start = seconds_of(pd.Series(local, dtype=str), "one.csv", TimeKeys(time_zone="Europe/Berlin"))
    assert t.tolist() == [0, 29, 30, 7230]
    expected = "2024-03-31 04:00:00.000+01:00"                       # which is 05:00+02:00
    assert clock_at(start, t[-1]) == clocks_at(start, t)[-1] == expected


# ---- through the scripts --------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The run folder of two recordings, one with a clock, one with seconds alone."""
    home = tmp_path_factory.mktemp("scored")
    frame = tiny.draw_recording(150, 3, trouble=True)
    frame.to_csv(home / "seconds.csv", index=False)
    (START + pd.to_timedelta(frame["t_s"], unit="s")).dt.strftime("%Y-%m-%d %H:%M:%S.%f").to_frame("t_s").join(
        frame.drop(columns="t_s")
    ).to_csv(home / "stamps.csv", index=False)
    (home / "stamps.events.csv").write_text("Start Time,Duration,Event\n00:00:10,15,Apnea\n")
    words = ("--checkpoint", tiny.make_checkpoint(home), "--device", "cpu", "--out", home / "run", "--score",
             home / "seconds.csv", home / "stamps.csv")  # fmt: skip
    assert script.main([str(word) for word in words]) == 0
    return home / "run"


def expected(seconds):
    return [clock_at(START.to_pydatetime(), t) for t in seconds]


def test_every_table_has_the_clock_beside_the_seconds(scored):
    scores, events, labels = (pd.read_csv(scored / f"{name}.csv") for name in ("scores", "events", "labels"))
    for table, columns in ((scores, {"t_s": "clock"}), (events, {"start_s": "start_clock", "end_s": "end_clock"}),
                           (labels, {"start_s": "start_clock"})):  # fmt: skip
        mine = table[table["recording"] == "stamps"]
        assert len(mine)
        for seconds, clock in columns.items():
            assert mine[clock].tolist() == expected(mine[seconds])
            assert table.loc[table["recording"] == "seconds", clock].isna().all()
    assert labels["start_s"].tolist() == [40.0]


def test_the_page_shows_the_clock(scored):
    text, page = page_of(scored)
    check_sound(text, page)
    facts = {one["name"]: one for one in json.loads((scored / "data.json").read_text())["recordings"]}
    assert facts["stamps"]["start"] == START.isoformat() and "start" not in facts["seconds"]
    assert "2024-03-30 23:59" in page.words
    viewer = (scored / "viewer" / "stamps.html").read_text(encoding="utf-8")
    assert f'"zero": {23 * 3600 + 59 * 60 + 30.0}' in viewer and "2024-03-30 23:59:30" in viewer


def test_the_clock_goes_through_a_windowed_dataset(tmp_path):
    frame = tiny.draw_recording(300, 3)
    stamps = (START + pd.to_timedelta(frame["t_s"], unit="s")).dt.strftime("%H:%M:%S.%f")
    frame.assign(t_s=stamps).to_csv(tmp_path / "one.csv", index=False)
    entry = tiny.DATA | {"raw_dir": ".", "guard_s": 5.0,
                         "split": {"train": ["one"], "val_fraction": 0.2, "test_fraction": 0.4}}  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps({"d": entry}))
    words = ("--dataset-config", tmp_path / "d.json", "--dataset", "d", "--out", tmp_path)
    assert collected_data_preprocess.main([str(word) for word in words]) == 0
    meta = read_meta(tmp_path / "d")
    assert meta.starts == {"one": "1900-01-01T23:59:30"} and meta.start_of("one").hour == 23
    content = json.loads((tmp_path / "d" / "meta.json").read_text())
    del content["starts"]                                            # of an older version
    (tmp_path / "d" / "meta.json").write_text(json.dumps(content))
    assert read_meta(tmp_path / "d").start_of("one") is None
