"""Events beside recordings: clock times, other columns, Luna, NSRR, MNE and EDF+, and labels nobody declared."""

import json
import re
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import collected_data_preprocess as script
from recordings.event_files import TimeAxis, file_of, kind_of_its_own, read_annotations, read_events
from recordings.reading import Dialect, Event, clipped, read_recording
from recordings.windowing import read_meta
from utils import DataError

CLOCK = datetime(2024, 3, 30, 23, 50)                            # of the recording's first sample: midnight is at 600 s
APNEAS = [Event(400, 425, "Apnea"), Event(700.5, 712.5, "Hypopnea")]
AXIS = TimeAxis(0.0, 1800.0, CLOCK)


def read(tmp_path, text, clock=CLOCK, name="night.events.csv", **options):
    (tmp_path / name).write_text(text)
    return read_events(tmp_path / name, TimeAxis(0.0, 1800.0, clock), **options)


TEXTS = {
    "seconds": "start_s,end_s,label\n400,425,Apnea\n700.5,712.5,Hypopnea\n",
    "semicolons and commas": "Beginn;Ende;Typ\n400,0;425,0;Apnea\n700,5;712,5;Hypopnea\n",
    "onset and duration": "onset,duration,description\n400,25,Apnea\n700.5,12,Hypopnea\n",
    "dates": "start,end,label\n2024-03-30 23:56:40,2024-03-30 23:57:05,Apnea\n"
             "2024-03-31 00:01:40.5,2024-03-31 00:01:52.5,Hypopnea\n",
    "times of day over midnight": "Start Time,Duration,Event\n23:56:40,25,Apnea\n00:01:40.5,12,Hypopnea\n",
    "German dates": "Beginn;Ende;Ereignis\n30.03.2024 23:56:40;30.03.2024 23:57:05;Apnea\n"
                    "31.03.2024 00:01:40,5;31.03.2024 00:01:52,5;Hypopnea\n",
    "American dates": "Start Time,End Time,Type\n3/30/2024 11:56:40 PM,3/30/2024 11:57:05 PM,Apnea\n"
                      "3/31/2024 12:01:40.5 AM,3/31/2024 12:01:52.5 AM,Hypopnea\n",
    "durations as H:MM:SS": "Time\tDuration\tEvent\n23:56:40\t0:00:25\tApnea\n00:01:40.5\t0:00:12\tHypopnea\n",
    "German clock times": "Startzeit;Endzeit;Ereignistyp\n23:56:40;23:57:05;Apnea\n00:01:40,5;00:01:52,5;Hypopnea\n",
    "minutes": "start_min,duration (min),label\n6.6666666666666667,0.41666666666666667,Apnea\n"
               "11.675,0.2,Hypopnea\n",
    "milliseconds": "onset_ms,duration_ms,trial_type\n400000,25000,Apnea\n700500,12000,Hypopnea\n",
    "an end past midnight": "von,bis,Typ\n23:56:40,23:57:05,Apnea\n00:01:40.5,00:01:52.5,Hypopnea\n",
}  # fmt: skip


@pytest.mark.parametrize("how", TEXTS)
def test_events_are_the_same_however_written(tmp_path, how):
    assert read(tmp_path, TEXTS[how]) == APNEAS


def test_an_event_may_last_over_midnight(tmp_path):
    assert read(tmp_path, "start,end,label\n23:59:50,00:00:10,a\n") == [Event(590, 610, "a")]


def test_two_orders_of_day_and_month_are_told_apart_by_the_recording(tmp_path):
    text = "start,duration,label\n04/03/2024 00:01:40,12,a\n"
    assert read(tmp_path, text, datetime(2024, 3, 4, 0, 0)) == [Event(100, 112, "a")]
    assert read(tmp_path, text, datetime(2024, 4, 3, 0, 0)) == [Event(100, 112, "a")]


def test_a_recording_without_a_date_takes_dates_as_times_of_day(tmp_path):
    for text in (TEXTS["dates"], TEXTS["times of day over midnight"]):
        assert read(tmp_path, text, datetime(1900, 1, 1, 23, 50)) == APNEAS


def test_another_zone_is_converted_to_that_of_the_recording(tmp_path):
    clock = datetime.fromisoformat("2024-03-30T23:50:00+01:00")
    assert read(tmp_path, "start,duration,label\n2024-03-30T22:56:40Z,25,a\n", clock) == [Event(400, 425, "a")]


def test_columns_can_be_named(tmp_path):
    text = "when,lasts,what,type\n400,25,Apnea,7\n"
    columns = {"start": "when", "duration": "lasts", "label": "what"}
    assert read(tmp_path, text, columns=columns) == [Event(400, 425, "Apnea")]


@pytest.mark.parametrize(
    ("text", "clock", "expected"),
    [
        (TEXTS["dates"], None, "'2024-03-30 23:56:40' is a clock time, but the recording has no clock"),
        ("start,end,label\n23:56:40,noon,a\n", CLOCK, "row 2: end is 'noon'; expected seconds or a clock time"),
        ("start,end,label\n23:56:40,23:57,a\n9,23:58,a\n", CLOCK, "row 2: start is '23:56:40'; expected seconds"),
        ("start,duration,label\n23:56:40,short,a\n", CLOCK, "row 2: duration is 'short'; expected a duration"),
        ("start,duration,label\n400,-2,a\n", CLOCK, "row 2: duration is '-2'; expected a duration"),
        ("a,b,label\n1,2,a\n", CLOCK, "no column of the start; the file has a, b, label; expected"),
        ("start,label\n1,a\n", CLOCK, "no column of the end"),
        ("start,end,label\n12:00,12:01,a\n", CLOCK, "lies outside the recording, 0 to 1800 s"),
        ("start,end,label\n2023-03-30 23:56:40,2023-03-30 23:57:40,a\n", CLOCK, "lies outside the recording"),
    ],
)
def test_a_doubt_is_one_line_that_says_what_is_missing(tmp_path, text, clock, expected):
    with pytest.raises(DataError, match=r"^night\.events\.csv: ") as caught:
        read(tmp_path, text, clock)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_times_of_day_in_more_than_a_day_need_dates(tmp_path):
    (tmp_path / "a.events.csv").write_text("start,duration,label\n23:56:40,5,a\n")
    with pytest.raises(DataError, match="the recording is 30 h long; write dates as well"):
        read_events(tmp_path / "a.events.csv", TimeAxis(0.0, 108000.0, CLOCK))


@given(st.floats(0, 80000), st.floats(0, 5000), st.integers(0, 86399))
@settings(max_examples=40, deadline=None)
def test_clock_times_give_the_seconds_they_were_made_from(tmp_path_factory, start_s, length_s, first):
    clock, a, b = datetime(2024, 5, 1) + pd.Timedelta(seconds=first), round(start_s, 2), round(start_s + length_s, 2)
    stamps = [clock + pd.Timedelta(seconds=t) for t in (a, b)]
    path = tmp_path_factory.mktemp("events") / "a.events.csv"
    for style in ("%Y-%m-%d %H:%M:%S.%f", "%d.%m.%Y %H:%M:%S.%f", "%H:%M:%S.%f"):
        path.write_text("start,end,label\n" + ",".join(stamp.strftime(style) for stamp in stamps) + ",a\n")
        (event,) = read_events(path, TimeAxis(0.0, 86399.0, clock))
        np.testing.assert_allclose([event.start_s, event.end_s], [a, b], atol=1e-5)


@pytest.mark.parametrize(
    ("first", "minutes", "rows"),
    [   # the clock goes from 2:00 to 3:00 after an hour; goes from 3:00 back to 2:00 after two
        ("2024-03-31 01:00", 240, ["2024-03-31 01:30:00,30", "2024-03-31 03:10:00,30", "03:10:00,30"]),
        ("2024-10-27 01:00", 240, ["2024-10-27 01:30:00,30", "2024-10-27 03:10:00,30", "03:10:00,30"]),
        ("2024-10-27 02:30+01:00", 60, ["2024-10-27 02:40:00,30", "27.10.2024 02:50:00,30"]),   # the second time
    ],
)  # fmt: skip
def test_local_times_of_events_pass_changes_of_a_declared_clock(tmp_path, first, minutes, rows):
    zone = ZoneInfo("Europe/Berlin")
    clock = pd.Timestamp(first) if "+" in first else pd.Timestamp(first).tz_localize(zone)
    fixed = clock.to_pydatetime().replace(tzinfo=timezone(clock.utcoffset()))            # as a recording's start is
    axis = TimeAxis(0.0, 60.0 * minutes, fixed, zone)
    expected = {"01:30": 1800, "02:40": 600, "02:50": 1200, "03:10": {3: 4200, 10: 11400}[clock.month]}
    for row in rows:
        (tmp_path / "a.events.csv").write_text(f"start,duration,label\n{row},a\n")
        (event,) = read_events(tmp_path / "a.events.csv", axis)
        (time_of_day,) = re.findall(r"\d\d:\d\d(?=:)", row)
        assert (event.start_s, event.end_s) == (expected[time_of_day], expected[time_of_day] + 30)


# ---- files of other programs ----------------------------------------------------------------

NSRR = """<?xml version="1.0" encoding="UTF-8"?>
<PSGAnnotation><SoftwareVersion>Compumedics</SoftwareVersion><ScoredEvents>
<ScoredEvent><EventType/><EventConcept>Recording Start Time</EventConcept><Start>0</Start><Duration>1800.0</Duration>
<ClockTime>00.00.00 23.50.00</ClockTime></ScoredEvent>
<ScoredEvent><EventType>Respiratory|Respiratory</EventType><EventConcept>Apnea|Obstructive Apnea</EventConcept>
<Start>400</Start><Duration>25</Duration><SignalLocation>flow</SignalLocation></ScoredEvent>
<ScoredEvent><EventType>Respiratory|Respiratory</EventType><EventConcept>Hypopnea|Hypopnea</EventConcept>
<Start>700.5</Start><Duration>12.0</Duration></ScoredEvent>
</ScoredEvents></PSGAnnotation>"""
FILES = {
    "night.annot": "# Apnea | scored by hand\nclass\tinstance\tchannel\tstart\tstop\tmeta\n"
                   "Apnea\t.\tflow\t23:56:40\t+25\t.\nHypopnea\t.\t.\t00:01:40.5\t00:01:52.5\t.\n",
    "night_annot.csv": "onset,duration,description\n1970-01-01 00:06:40.000000,25.0,Apnea\n"
                       "1970-01-01 00:11:40.500000,12.0,Hypopnea\n",
    "night-annot.csv": "onset,duration,description\n2024-03-30 23:56:40.000000,25.0,Apnea\n"
                       "2024-03-31 00:01:40.500000,12.0,Hypopnea\n",
    "night-annot.txt": "# MNE-Annotations\n# orig_time : 2024-03-30 23:50:00+00:00\n# onset, duration, description\n"
                       "400.0, 25.0,Apnea\n700.5,12.0,Hypopnea\n",
    "night.xml": NSRR,
    "night-nsrr.xml": NSRR.replace("EventConcept>", "Name>").replace("700.5", "700,5").replace("12.0", "12,0"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [
    ("night.events.csv", "onset,duration,label\n400,,Apnea\n700.5,12,Hypopnea\n"),
    ("night.xml", NSRR.replace("<Duration>25</Duration>", "<Duration/>")),
])  # fmt: skip
def test_an_event_without_a_duration_lasts_annotation_s_and_is_noted(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    notes, dialect = [], Dialect(annotation_s=10.0)
    if name == "night.xml":
        events = read_annotations(tmp_path / name, AXIS, dialect, notes)
    else:
        events = read_events(tmp_path / name, TimeAxis(0.0, 1800.0), None, dialect, notes=notes)
    assert events == [Event(400, 410, "Apnea"), Event(700.5, 712.5, "Hypopnea")]
    assert notes == [f"{name}: 1 event without a duration, taken as 10 s long (annotation_s)"]


@pytest.mark.parametrize("name", FILES)
def test_annotations_of_other_programs_are_the_same(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    assert file_of(tmp_path / "night.edf", "night") == tmp_path / name
    assert read_annotations(tmp_path / name, AXIS) == APNEAS


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a\t.\t.\t400\t425\t.", Event(400, 425, "a")),
        ("a\t.\t.\t0+00:06:40\t0+00:07:05\t.", Event(400, 425, "a")),
        ("a\t.\t.\t400\t...\t.\nb\t.\t.\t430\t+0\t.", Event(400, 430, "a")),
        ("a\t.\t.\t400\t...\t.", Event(400, 1800, "a")),
        ("a\t.\t.\t23:59:50\t00:00:10\t.", Event(590, 610, "a")),
        ("a\t.\t.\t30-03-2024-23:56:40\t30-03-2024-23:57:05\t.", Event(400, 425, "a")),
    ],
)
def test_lines_of_luna_without_a_header(tmp_path, line, expected):
    (tmp_path / "night.annot").write_text(line + "\n")
    assert read_annotations(tmp_path / "night.annot", AXIS)[0] == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("night.annot", "a\t.\t.\tsoon\t425\t.\n", "row 1: time is 'soon'"),
        ("night.annot", "class\tstart\na\t1\n", "no column 'stop'"),
        ("night.annot", "class\tstart\tstop\na\t1\n", "row 2: 2 cells"),
        ("night.xml", "<a><b></a>", "not readable as XML"),
        ("night.xml", "<a/>", "no <ScoredEvents>"),
        ("night.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "DOCTYPE"),
        ("night.xml", NSRR.replace(">400<", ">soon<"), "ScoredEvent 2: Start and Duration are 'soon' and '25'"),
        ("night.xml", NSRR.replace(">400<", ">1,400<"), "ScoredEvent 2: Start and Duration are '1,400' and '25'"),
        ("night-annot.txt", "# MNE-Annotations\n# onset, duration, description\n1,a\n", "expected lines of onset"),
    ],
)
def test_a_damaged_annotation_file_is_one_line(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"^{name}: ") as caught:
        read_annotations(tmp_path / name, AXIS)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_annotations_of_mne_are_read_as_mne_writes_them(tmp_path):
    mne = pytest.importorskip("mne")
    for origin in (None, CLOCK.replace(tzinfo=__import__("datetime").UTC)):
        notes = mne.Annotations([400, 700.5], [25, 12], ["Apnea", "Hypopnea"], orig_time=origin)
        for suffix in ("csv", "txt"):
            path = tmp_path / f"night-annot.{suffix}"
            notes.save(path, overwrite=True)
            assert read_annotations(path, AXIS) == APNEAS


def test_an_edf_of_annotations_alone_is_read_beside_a_recording(tmp_path):
    pyedflib = pytest.importorskip("pyedflib")
    with pyedflib.EdfWriter(str(tmp_path / "night.annotations.edf"), 0, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        file.setStartdatetime(datetime(2024, 3, 30, 23, 40))         # ten minutes before the recording
        file.writeAnnotation(1000, 25, "Apnea")
        file.writeAnnotation(1300.5, 12, "Hypopnea")
    assert read_annotations(tmp_path / "night.annotations.edf", AXIS) == APNEAS


def test_a_column_name_over_two_lines_is_named_in_one(tmp_path):
    (tmp_path / "night.events.csv").write_text('"from\nhere",end_s,label\n1,2,apnea\n')
    with pytest.raises(DataError, match=r"no column of the start; the file has from\\nhere, end_s, label; expected"):
        read_events(tmp_path / "night.events.csv", TimeAxis(0.0, 100.0))


def test_annotations_outside_are_clipped_or_left_out_with_a_note():
    notes = []
    events = [Event(-5, 5, "a"), Event(1790, 1810, "b"), Event(1900, 1910, "c"), Event(3, 3, "d")]
    kept = clipped(events, AXIS.start_s, AXIS.end_s, notes, "night.annot: ")
    assert kept == [Event(0, 5, "a"), Event(3, 3, "d"), Event(1790, 1800, "b")]
    assert notes == ["night.annot: 2 annotations cut to the recording: the first 'a' at -5 s",
                     "night.annot: 1 annotation outside the recording, left out: the first 'c' at 1900 s"]  # fmt: skip


def test_the_order_of_files_is_the_documented_one(tmp_path):
    for name in ("night.xml", "night.annot", "night.events.txt", "night.events.csv"):
        (tmp_path / name).write_text("")
        assert file_of(tmp_path / "night.csv", "night").name == name


# ---- through preprocessing ------------------------------------------------------------------

ENTRY = {
    "description": "made by a test", "raw_dir": ".", "raw_hint": "-", "rate_hz": 5.0, "guard_s": 10.0,
    "time_column": "time", "channels": {"flow": {"unit": "L/min", "measures": "airflow", "rate_hz": 10.0}},
    "labels": {"Apnea": "apnea", "Hypopnea": "hypopnea"},
    "split": {"train": ["night"], "val_fraction": 0.2, "test_fraction": 0.5},
}  # fmt: skip


def write_night(folder, times):
    t = np.arange(18000) / 10
    flow = (30 * np.sin(2 * np.pi * t / 4) + np.random.default_rng(0).normal(size=len(t))).round(2)
    pd.DataFrame({"time": times(pd.Timestamp(CLOCK) + pd.to_timedelta(t, unit="s")), "flow": flow}).to_csv(
        folder / "night.csv", index=False
    )


STYLES = {
    "dates": lambda t: t.strftime("%Y-%m-%d %H:%M:%S.%f"),
    "times of day": lambda t: t.strftime("%H:%M:%S.%f"),
    "German dates": lambda t: t.strftime("%d.%m.%Y %H:%M:%S.%f"),
    "American dates": lambda t: t.strftime("%m/%d/%Y %H:%M:%S.%f"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["dates", "times of day over midnight", "American dates"])
def test_a_table_with_a_clock_takes_events_in_clock_time(tmp_path, style, name):
    write_night(tmp_path, STYLES[style])
    (tmp_path / "night.events.csv").write_text(TEXTS[name])
    start = read_recording(tmp_path / "night.csv", None, Dialect(time_column="time")).start
    assert start.time() == CLOCK.time() and (start.date() == CLOCK.date() or style == "times of day")
    (tmp_path / "d.json").write_text(json.dumps({"d": ENTRY}))
    words = ("--dataset-config", tmp_path / "d.json", "--dataset", "d", "--out", tmp_path / "out")
    assert script.main([str(word) for word in words]) == 0
    events = read_meta(tmp_path / "out" / "d").events["night"]
    assert [(e.start_s, e.end_s, e.kind) for e in events] == [(400, 425, "apnea"), (700.5, 712.5, "hypopnea")]


def test_only_declared_labels_of_annotation_files_are_events(tmp_path):
    write_night(tmp_path, STYLES["dates"])
    (tmp_path / "night.xml").write_text(NSRR.replace("Hypopnea|Hypopnea", "Stage 2 sleep|2"))
    (tmp_path / "d.json").write_text(json.dumps({"d": ENTRY}))
    words = ("--dataset-config", tmp_path / "d.json", "--dataset", "d", "--out", tmp_path / "out")
    assert script.main([str(word) for word in words]) == 0
    meta = read_meta(tmp_path / "out" / "d")
    assert [e.kind for e in meta.events["night"]] == ["apnea"] and "night.xml" in meta.sources
    assert any("1 annotation not in labels, not used as events: 'Stage 2 sleep' (1)" in note for note in meta.notes)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Apnea-Obstructive", "obstructive_apnea"),                  # Nox
        ("Central apnoea", "central_apnea"),
        ("Mixed apnea|Mixed Apnea", "mixed_apnea"),                  # NSRR
        ("apnea_central", "central_apnea"),                          # Luna
        ("Obstructive Hypopnea", "hypopnea"),
        ("Hypopnoea event", "hypopnea"),
        ("clear airway", "central_apnea"),                           # of the dataset's labels
        ("No apnea", "no_apnea"),
        ("A. Obstr./Mixed", "a_obstr_mixed"),
        ("--", None),
    ],
)
def test_a_label_of_the_same_words_is_of_the_same_kind(label, kind):
    assert kind_of_its_own(label, {"Clear Airway": "central_apnea", "RERA": "rera"}) == kind
