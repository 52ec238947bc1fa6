import gzip

import numpy as np
import pytest

from recordings.event_files import TimeAxis, check_events, read_events
from recordings.inspection import describe
from recordings.reading import (
    Dialect,
    Event,
    equal_runs,
    measured_rate,
    read_recording,
)
from utils import DataError


@pytest.fixture
def read(tmp_path):
    """Read a recording from text."""

    def of(text, channels=None, name="night.csv", **options):
        path = tmp_path / name
        content = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") and isinstance(text, str) else content)
        return read_recording(path, channels, **options)

    return of


@pytest.fixture
def events_of(tmp_path):
    def of(rows, end_s=100.0, labels=None, start_s=0.0, **options):
        path = tmp_path / "night.events.csv"
        path.write_text("start_s,end_s,label\n" + rows)
        return read_events(path, TimeAxis(start_s, end_s), labels, **options)

    return of


def one_line(caught, begins):
    line = str(caught.value)
    assert "\n" not in line and line.startswith(begins)
    return line


# ---------------------------------------------------------------- what is understood

def test_seconds_and_slower_channels_with_empty_cells(read):
    recording = read("t_s,flow,spo2\n0,1.5,97\n0.04,2.5,\n0.08,,96\n")
    np.testing.assert_array_equal(recording.t, [0, 0.04, 0.08])
    np.testing.assert_array_equal(recording.channels["flow"].t, [0, 0.04])
    np.testing.assert_array_equal(recording.channels["flow"].values, [1.5, 2.5])
    np.testing.assert_array_equal(recording.channels["spo2"].t, [0, 0.08])
    np.testing.assert_array_equal(recording.channels["spo2"].values, [97, 96])
    assert (recording.name, recording.duration_s) == ("night", 0.08)


def test_gzip_reads_the_same(read):
    text = "t_s,flow\n0,1\n1,2\n"
    plain, packed = read(text), read(text, name="night.csv.gz")
    assert packed.name == "night"
    np.testing.assert_array_equal(plain.channels["flow"].values, packed.channels["flow"].values)


def test_numeric_text_is_numbers(read):
    recording = read('t_s,flow\n"0","1.5"\n" 1 ","2e1"\n')
    np.testing.assert_array_equal(recording.t, [0, 1])
    np.testing.assert_array_equal(recording.channels["flow"].values, [1.5, 20])


@pytest.mark.parametrize(
    "stamps",
    [
        ("2024-05-01 22:30:00", "2024-05-01 22:30:00.5", "2024-05-01 22:30:02"),
        ("2024-05-01T22:30:00.000Z", "2024-05-01T22:30:00.500Z", "2024-05-01T22:30:02Z"),
        ("2024-05-01 23:59:59.5", "2024-05-02 00:00:00", "2024-05-02 00:00:01.5"),
        ("2024-05-01T22:30:00+02:00", "2024-05-01T20:30:00.5+00:00", "2024-05-01T22:30:02+02:00"),
    ],
)
def test_timestamps_count_from_the_first_one(read, stamps):
    rows = "".join(f"{s},{k}\n" for k, s in enumerate(stamps))
    recording = read("time,flow\n" + rows, ["flow"], dialect=Dialect("time"))
    np.testing.assert_allclose(recording.t, [0, 0.5, 2.0])


def test_a_delimiter_at_the_end_of_every_row_does_not_shift_columns(read):
    recording = read("t_s,flow\n0,5,\n1,6,\n")
    np.testing.assert_array_equal(recording.t, [0, 1])
    np.testing.assert_array_equal(recording.channels["flow"].values, [5, 6])


def test_only_the_named_channels_are_read_in_their_order(read):
    recording = read("b,t_s,text,a\n1,0,x,3\n2,1,y,4\n", ["a", "b"])
    assert list(recording.channels) == ["a", "b"]


def test_sentinels_and_infinities_are_no_measurement(read):
    text = "t_s,spo2,hr\n0,97,60\n1,127,127\n2,-1,inf\n3,0,62\n4,96,63\n"
    recording = read(text, sentinels={"spo2": [0, 127, -1]})
    np.testing.assert_array_equal(recording.channels["spo2"].t, [0, 4])
    np.testing.assert_array_equal(recording.channels["hr"].values, [60, 127, 62, 63])


# ---------------------------------------------------------------- what is refused, in one line

@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty file"),
        ("t_s,flow\n", "0 rows of samples; expected at least 2"),
        ("t_s,flow\n0,1\n", "1 row of samples; expected at least 2"),
        ("t_s,breath,x\n0,1,2\n1,2,3\n", "no column 'flow'; the file has t_s, breath, x"),
        ("time,flow\n0,1\n1,2\n", "no column 't_s'; the file has time, flow"),
        ("t_s:flow\n0:1\n1:2\n", "no column 't_s'; the file has t_s:flow"),
        ('t_s,"a\nb"\n0,1\n1,2\n', "no column 'flow'; the file has t_s, a\\nb"),
        ("t_s,flow\n0,1\n1,2\n0.5,3\n", "row 4: time goes backwards (1 s, then 0.5 s; 1 such row); expected"),
        ("t_s,flow\n0,1\n1,2\n1,3\n1,4\n", "row 4: time repeats (1 s, then 1 s; 2 such rows); expected increasing"),
        ("t_s,flow\n0,1\n,2\n2,3\n", "row 3: the time is empty"),
        ("t_s,flow\n,1\n,2\n", "row 2: the time is empty"),
        ("t_s,flow\n0,1\ninf,2\n", "row 3: the time is empty or infinite"),
        ("t_s,flow\n0,1\n1,2\nlater,3\n3,4\n", "row 4: column 't_s' holds 'later'; expected a number"),
        ("t_s,flow\nsoon,1\nlater,2\n", "row 2: time 'soon'; expected seconds or a timestamp"),
        (
            "t_s,flow\n2024-05-01 22:30:00,1\n2024-05-01 22:29:59,2\n",
            "row 3: time goes backwards",
        ),
        ("t_s,flow\n2024-05-01 22:30:00,1\n,2\n", "row 3: the time is empty"),
        ("t_s,flow\n0,\n1,\n", "channel 'flow' has no values"),
        ("t_s,flow\n0,7\n1,7\n2,\n", "channel 'flow' is constant at 7"),
        ("t_s,flow\n0,1\n1,2 L\n2,3\n", "row 3: column 'flow' holds '2 L'; expected a number"),
        ('t_s,flow\n0,"1,5"\n1,2.5\n', "row 2: ambiguous numbers such as 1,5 and 2.5; set decimal in"),
        ("t_s,flow\n0,1,5\n1,2,5\n", "row 2: more cells than the header"),
        ("t_s,flow\n0,1\n1,2,5\n", "row 3: 3 cells; the header has 2"),
        ('t_s,flow\n0,1\n1,"2\n', "row 3: an unclosed quotation mark"),
        ("t_s,flow\n0,1\n1,2e30\n2,3\n", "channel 'flow' is 2e+30 at 1 s; expected values within ±1e+30"),
        (b"\xff\xfe\x00\x00\x00\x01", "not a readable CSV"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_wrong_file_is_refused_with_file_and_row(read, text, expected):
    with pytest.raises(DataError) as caught:
        read(text, ["flow"])
    assert one_line(caught, "night.csv: ").removeprefix("night.csv: ").startswith(expected)


def test_a_channel_of_sentinels_has_no_value(read):
    with pytest.raises(DataError, match="channel 'flow' has no values"):
        read("t_s,flow\n0,127\n1,-1\n", ["flow"], sentinels={"flow": [127, -1]})


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(DataError, match="nowhere.csv: no such file"):
        read_recording(tmp_path / "nowhere.csv")


def test_broken_gzip_is_one_line(read):
    rows = "".join(f"{k},{k * k % 97}\n" for k in range(5000))
    packed = gzip.compress(f"t_s,flow\n{rows}".encode())
    damaged = bytearray(packed)
    damaged[200:220] = bytes(20)
    for content in (packed[: len(packed) // 2], bytes(damaged), b"t_s,flow\n0,1\n1,2\n", b""):
        with pytest.raises(DataError) as caught:
            read(content, name="night.csv.gz")
        one_line(caught, "night.csv.gz: ")


@pytest.mark.parametrize("seed", range(20))
def test_noise_instead_of_a_file_never_ends_in_a_traceback(read, seed):
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b't_s,flow\n0123456789.-e"; \xff\x00', np.uint8)
    text = b"t_s,flow\n" + bytes(rng.choice(letters, 200))
    try:
        read(text, ["flow"])
    except DataError as error:
        assert "\n" not in str(error)


# ---------------------------------------------------------------- events

def test_events_are_sorted_and_mapped_and_may_carry_more_columns(tmp_path):
    path = tmp_path / "night.events.csv"
    path.write_text("start_s,end_s,label,source\n20,30,Central Apnea,device\n5,5,Cough,\n")
    kinds = {"Central Apnea": "central_apnea", "Cough": "cough"}
    assert read_events(path, TimeAxis(0.0, 30.0), kinds) == [Event(5, 5, "cough"), Event(20, 30, "central_apnea")]
    assert [event.label for event in read_events(path, TimeAxis(0.0, 30.0))] == ["Cough", "Central Apnea"]


def test_an_events_file_with_only_its_header_holds_none(events_of):
    assert events_of("") == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("1,2,a\n20,10,a\n", "row 3: event 20 to 10 s ends before it starts"),
        ("-1,2,a\n", "row 2: event -1 to 2 s lies outside the recording, 0 to 100 s"),
        ("90,110,a\n", "row 2: event 90 to 110 s lies outside the recording"),
        ("200,210,a\n", "row 2: event 200 to 210 s lies outside the recording"),
        ("1,2,b\n", "row 2: label 'b' is not in the dataset's labels; expected one of a"),
        ("1,2,\n", "row 2: label '' is not in the dataset's labels"),
        ("1,soon,a\n", "row 2: end_s is 'soon'; expected seconds or a clock time"),
        ("1,,a\n", "row 2: end_s is ''; expected seconds or a clock time"),
        ("inf,inf,a\n", "row 2: start_s is 'inf'; expected seconds or a clock time"),
        ("1,2,Hypopnea, long\n", "row 2: more cells than the header"),
    ],
)
def test_a_wrong_event_is_refused_with_its_row(events_of, rows, expected):
    with pytest.raises(DataError) as caught:
        events_of(rows, labels={"a": "apnea"})
    assert one_line(caught, "night.events.csv: ").startswith(f"night.events.csv: {expected}")


def test_an_events_file_without_a_column_is_refused(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("first,end_s,label\n1,2,a\n")
    with pytest.raises(DataError, match="^e.csv: no column of the start; the file has first, end_s, label; expected"):
        read_events(path, TimeAxis(0.0, 10.0))


def test_event_times_are_on_the_recordings_own_axis(events_of):
    assert events_of("1005,1010,a\n", 1100.0, start_s=1000.04)[0].start_s == 1005
    assert events_of("1000,1010,a\n", 1100.0, start_s=1000.04)[0].start_s == 1000
    with pytest.raises(DataError, match="lies outside the recording, 1000 to 1100 s"):
        events_of("5,10,a\n", 1100.0, start_s=1000.0)


def test_known_events_are_counted_from_one():
    events = [Event(1, 2, "a"), Event(3, 2, "a")]
    with pytest.raises(DataError, match="^events.night: row 2: event 3 to 2 s ends before it starts"):
        check_events(events, TimeAxis(0.0, 10.0), {"a": "a"}, lambda row: f"events.night: row {row + 1}")


# ---------------------------------------------------------------- describe

def test_describe_reports_rates_gaps_flatlines_limits_and_events(read, write_csv, tmp_path):
    t = np.arange(2000) / 25
    flow = np.clip(12 * np.sin(2 * np.pi * t / 4), -10, 10)
    flow[250:500] = 3.25                                             # 10 s flat
    flow[1000:1100] = np.nan                                         # 4 s missing
    spo2 = np.where(np.arange(2000) % 25 == 0, 95 + np.arange(2000) // 25 % 3, np.nan)
    path = write_csv(tmp_path / "night.csv", t_s=t, flow=flow, spo2=spo2)
    recording = read_recording(path)
    recording.events.append(Event(1.0, 2.5, "cough"))
    text = "\n".join(describe(recording))
    assert "night.csv: 2000 rows, 79.96 s (0.02 h), time from 0 s" in text
    assert "flow: 25 Hz, 1900 samples" in text and "range -10 to 10" in text
    assert "1 gap, 4.0 s in total, the longest 4.0 s at 40.0 s" in text
    assert "1 flatline, the longest 10.0 s, the first at 10.0 s" in text
    assert "runs at the lowest value, the longest" in text and "runs at the highest value, the longest" in text
    assert "spo2: 1 Hz, 80 samples" in text
    assert text.endswith("events: 1\n    1 to 2.5 s: cough")


def test_describe_reports_nothing_unusual_for_a_clean_channel(read):
    text = "t_s,flow\n" + "".join(f"{k},{v}\n" for k, v in enumerate([1, 2, 3, 2, 1, 0, 1]))
    assert len(describe(read(text))) == 4


def test_measured_rate_and_equal_runs_by_hand():
    assert measured_rate(np.array([0, 0.04, 0.08, 5.0])) == pytest.approx(25)
    assert equal_runs(np.array([1.0, 1, 2, 3, 3, 3])).tolist() == [[0, 2], [3, 6]]
    assert equal_runs(np.array([1.0, 2, 1])).shape == equal_runs(np.array([1.0])).shape == (0, 2)
