import json
import math
import os
import threading

import pytest

from live.rows import CHUNK, JUMP_S, LONGEST, RESET_S, Clock, InputWarnings, RateCheck, Rows, read_lines
from recordings.reading import Dialect
from utils import DataError

CHANNELS = ("flow", "belt")
HEADER = "t_s,flow,belt"


def make_rows(header=HEADER, series=False):
    rows = Rows("t_s", CHANNELS, InputWarnings(), series)
    assert rows.take(header) == []
    return rows


def taken(rows, *lines):
    """Return the rows of lines, NaN as None."""
    found = [row for line in lines for row in rows.take(line) or [None]]
    return [row and (row[0], [None if math.isnan(value) else value for value in row[1]]) for row in found]


def warnings_of(capsys):
    return capsys.readouterr().err.splitlines()


# ---- warnings -------------------------------------------------------------------------------


def test_a_warning_is_printed_the_first_second_fourth_eighth_time(capsys):
    input_warnings = InputWarnings()
    for k in range(1, 101):
        input_warnings.warn("bad lines", f"line {k}")
    input_warnings.warn("gaps", "a gap")
    expected = ["line 1", *(f"line {k} (bad lines: {k})" for k in (2, 4, 8, 16, 32, 64)), "a gap"]
    assert warnings_of(capsys) == expected


def test_a_muted_warning_is_not_counted(capsys):
    input_warnings = InputWarnings()
    input_warnings.muted = True
    input_warnings.warn("gaps", "one")
    input_warnings.muted = False
    input_warnings.warn("gaps", "two")
    assert warnings_of(capsys) == ["two"]


# ---- the header -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "t_s,flow,belt",
        "\ufefft_s,flow,belt",
        " t_s , flow , belt ",
        '"t_s","flow","belt"',
        "t_s;flow;belt",
        "t_s\tflow\tbelt",
    ],
)
def test_a_header_of_any_usual_form_is_read(header):
    rows = make_rows(header)
    line = rows.layout.delimiter.join(["1.5", "2", ""])
    assert taken(rows, line) == [(1.5, [2, None])]


def test_columns_are_found_by_name_and_others_are_ignored():
    rows = make_rows('light,belt,"the, flow",t_s,flow,more')
    assert taken(rows, "x,1,2,3,4,y") == [(3, [4, 1])]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("t_s,flow", "line 1: column 'belt' is not in 't_s,flow'; expected a header with t_s, flow, belt"),
        ("time,flow,belt", "line 1: column 't_s' is not in"),
        ("t_s,flow,belt,flow", "line 1: column 'flow' is twice in"),
        ("0.0,1,2", "the input: row 1 holds only numbers or times: a header is missing; set names in"),
        ("\x00\x01\ufffd\ufffd", "line 1: column 't_s' is not in"),
        ('t_s,"flow\r",belt\rx', "the input: not a readable CSV: new-line character seen"),
        ("x" * 10**6, "the input: not a readable CSV: field larger than field limit"),
    ],
)
def test_a_wrong_header_is_one_line_with_what_is_expected(header, expected):
    with pytest.raises(DataError) as error:
        make_rows(header).rest()
    message = str(error.value)
    assert message.startswith(expected) and "\n" not in message and "\r" not in message and len(message) < 250


def test_the_header_may_be_repeated_also_with_other_columns(capsys):
    rows = make_rows()
    lines = ["0,1,2", HEADER, "1,3,4", "\ufeff" + HEADER, "flow,t_s,belt,light", "5,2,6,9"]
    assert taken(rows, *lines) == [(0, [1, 2]), None, (1, [3, 4]), None, None, (2, [5, 6])]
    assert not warnings_of(capsys)
    with pytest.raises(DataError, match="line 8: column 'belt' is not in 't_s,flow'"):
        rows.take("t_s,flow")


# ---- lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1,2,3", (1, [2, 3])),
        (" 1 , 2 , 3 ", (1, [2, 3])),
        ('"1","2","3"', (1, [2, 3])),
        ("1,,", (1, [None, None])),
        ("1, ,nan", (1, [None, None])),
        ("-1.5e-3,+2,.5", (-0.0015, [2, 0.5])),
        ("1,inf,-inf", (1, [math.inf, -math.inf])),
        ("", None),
    ],
)
def test_readable_lines_cause_no_warning(capsys, line, expected):
    assert taken(make_rows(), line) == [expected] and not warnings_of(capsys)


@pytest.mark.parametrize(
    ("line", "row", "expected"),
    [
        ("1,2", None, "line 2: cells: 2; expected 3: t_s,flow,belt"),
        ("1,2,3,4", None, "line 2: cells: 4; expected 3: t_s,flow,belt"),
        ("1;2;3", None, "line 2: cells: 1; expected 3"),
        ("some words", None, "line 2: cells: 1; expected 3"),
        ("\x00\x00", None, "line 2: cells: 1"),
        (",2,3", None, "line 2: time ''; expected seconds, or timestamps throughout"),
        ("nan,2,3", None, "line 2: time 'nan'; expected seconds, or timestamps throughout"),
        ("inf,2,3", None, "line 2: time 'inf'; expected seconds, or timestamps throughout"),
        ("soon,2,3", None, "line 2: time 'soon'; expected seconds, or timestamps throughout"),
        ("1,a,3", (1, [None, 3]), "line 2: flow is 'a'; expected a number"),
        ("1,2\x00,3", (1, [None, 3]), "line 2: flow is '2\\x00'; expected a number"),
        ("1,2,\ufffd", (1, [2, None]), "line 2: belt is '\ufffd'; expected a number"),
        ('1,"2', None, "line 2: cells: 2; expected 3"),
        ('1,"2",3\r1,2,3', None, "line 2: "),
        ("1,2,3\r1,2,3", None, "line 2: cells: 5; expected 3"),
        ("1,2," + "9" * 10**6, (1, [2, math.inf]), None),
        ("1," * 10**6, None, "line 2: cells: 1000001; expected 3"),
        ('"' + "x" * 10**6 + '",2,3', None, "line 2: "),
    ],
)  # fmt: skip
def test_a_faulty_line_is_one_warning_and_the_next_line_is_read(capsys, line, row, expected):
    rows = make_rows()
    assert taken(rows, line, "7,8,9") == [row, (7, [8, 9])]
    lines = warnings_of(capsys)
    assert len(lines) == (expected is not None) and all(one.startswith(expected) and len(one) < 200 for one in lines)


# ---- times ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected_s"),
    [
        ("2024-05-01 22:30:00", "2024-05-01 22:30:00.25", 0.25),
        ("2024-05-01T23:59:59Z", "2024-05-02T00:00:01Z", 2),
        ("2024-05-01 22:30:00+02:00", "2024-05-01 20:30:01+00:00", 1),
        ("2024-03-31 01:59:59+01:00", "2024-03-31 03:00:00+02:00", 1),       # a clock put forward for the summer
    ],
)
def test_timestamps_become_seconds_since_the_first(first, second, expected_s):
    rows = make_rows()
    assert taken(rows, f"{first},1,2", f"{second},1,2") == [(0, [1, 2]), (expected_s, [1, 2])]


def test_timestamps_are_written_with_the_time_zone_of_the_input():
    rows = make_rows()
    taken(rows, "2024-05-01T22:30:00.5+02:00,1,2")
    assert rows.timestamp(61.25) == "2024-05-01 22:31:01.750+02:00"
    rows = make_rows()
    taken(rows, "2024-05-01 22:30:00,1,2")
    assert rows.timestamp(0.0004) == "2024-05-01 22:30:00.000"
    rows = make_rows()
    taken(rows, "5,1,2")
    assert rows.timestamp(5) == ""


@pytest.mark.parametrize(
    ("first", "other", "expected"),
    [
        ("12.5", "2024-05-01 22:30:00", "line 3: time '2024-05-01 22:30:00'; expected seconds, or timestamps"),
        ("2024-05-01 22:30:00", "12.5", "line 3: time '12.5'; expected a timestamp like the first one"),
        ("2024-05-01 22:30:00", "2024-05-01 22:30:01Z", "line 3: time '2024-05-01 22:30:01Z'; expected a timestamp"),
        ("2024-05-01 22:30:00Z", "2024-05-01 22:30:01", "line 3: time '2024-05-01 22:30:01'; expected a timestamp"),
        ("2024-05-01 22:30:00", "2024-05-32 22:30:01", "line 3: time '2024-05-32 22:30:01'; expected a timestamp"),
    ],
)
def test_the_first_time_decides_and_other_kinds_are_skipped(capsys, first, other, expected):
    rows = make_rows()
    before, wrong, after = taken(rows, f"{first},1,2", f"{other},1,2", f"{first},3,4")
    assert wrong is None and after == (before[0], [3, 4])
    (line,) = warnings_of(capsys)
    assert line.startswith(expected)


def test_an_unreadable_first_time_decides_nothing(capsys):
    assert taken(make_rows(), "soon,1,2", "2024-05-01 22:30:00,1,2") == [None, (0, [1, 2])]
    assert taken(make_rows(), "soon,1,2", "30,1,2") == [None, (30, [1, 2])]


def test_times_of_a_series_are_kept_as_they_are_written(capsys):
    rows = make_rows(series=True)
    assert taken(rows, "April,1,2", "1,2", ",3,4") == [(0, [1, 2]), None, (0, [3, 4])]
    taken(rows, "2014-04-01 00:05:00,1,2")
    assert rows.timestamp(0) == "2014-04-01 00:05:00"


@pytest.mark.parametrize("series", [False, True])
@pytest.mark.parametrize("first", ["3", "2024-05-01T22:30:00+02:00"])
def test_rows_resume_from_their_state(capsys, series, first):
    before, after = make_rows("belt;x;flow;t_s", series), Rows("t_s", CHANNELS, InputWarnings(), series)
    taken(before, f"1;;2;{first}")
    state = json.loads(json.dumps(before.state_dict()))
    after.load_state_dict(state)
    assert after.timestamp(2.5) == before.timestamp(2.5)
    assert taken(after, f"1;;2;{first}") == taken(before, f"1;;2;{first}")
    assert taken(after, "words") == taken(before, "words")
    assert len(set(warnings_of(capsys))) == 1                            # of the same line


# ---- the order of time ----------------------------------------------------------------------


def make_clock(*times):
    """Return a clock that has taken rows; the first of them was confirmed, too."""
    clock = Clock(InputWarnings())
    for t in times:
        clock.take(t, [t])
    if len(times) == 1:
        clock.last_s, clock.unconfirmed = times[0], None
    return clock


def through(clock, *times):
    """Return the times that the clock passes on at each row; "new" before those of a new recording."""
    found = []
    for t in times:
        rows, is_new = clock.take(t, [t])
        assert all(values == [time_s] for time_s, values in rows)
        found.append(["new"] * is_new + [time_s for time_s, _ in rows])
    return found


def test_rising_times_go_through(capsys):
    assert through(make_clock(), -5.0, 0.0, 0.1, JUMP_S) == [[], [-5, 0], [0.1], [JUMP_S]] and not warnings_of(capsys)


@pytest.mark.parametrize("first", [-1e308, -1e15, 1e15, 1e308])
def test_a_first_time_far_from_all_others_is_skipped(capsys, first):
    assert through(make_clock(), first, 5.0, 5.2) == [[], [], [5, 5.2]]
    assert warnings_of(capsys) == [f"time jumps to {first:g} s, the next row is at 5 s; row skipped"]


@pytest.mark.parametrize("strays", [(400.0, 411.0 + JUMP_S), (-1e308, 400.0)])
def test_two_rows_far_from_each_other_are_not_a_clock_set_back(strays):
    assert through(make_clock(500.0), *strays, 500.2) == [[], [], [500.2]]


def test_repeated_and_earlier_rows_are_skipped(capsys):
    clock = make_clock(10.0)
    assert through(clock, 10.0, 9.0, 9.5, 10.1) == [[], [], [], [10.1]]
    assert warnings_of(capsys) == [
        "time repeats: 10 s after 10 s; row skipped",
        "time goes backwards: 9 s after 10 s; row skipped (rows out of order: 2)",
    ]


def test_a_jump_passes_with_the_row_that_confirms_it(capsys):
    assert through(make_clock(10.0), 1000.0, 1000.2, 1000.4) == [[], [1000, 1000.2], [1000.4]]
    assert warnings_of(capsys) == ["no rows from 10 to 1000 s"]


@pytest.mark.parametrize("second", [10.2, 999.0, 1000.0 + 1.1 * JUMP_S])
def test_a_jump_without_a_second_row_is_skipped(capsys, second):
    got = through(make_clock(10.0), 1000.0, second)
    assert got == [[], [second] if second < 10 + JUMP_S else []]
    assert warnings_of(capsys) == [f"time jumps to 1000 s, the next row is at {second:g} s; row skipped"]


def test_a_jump_after_another_is_confirmed_on_its_own(capsys):
    assert through(make_clock(10.0), 1e6, 500.0, 500.5) == [[], [], [500, 500.5]]
    assert [line.partition(" ")[0] for line in warnings_of(capsys)] == ["time", "no"]


def test_the_row_after_a_jump_is_not_lost_at_the_end():
    assert make_clock(9.8, 10.0, 1000.0).rest() == [(1000.0, [1000.0])] and make_clock(9.8, 10.0).rest() == []
    clock = Clock(InputWarnings())
    clock.take(10.0, [10.0])
    assert clock.rest() == [(10.0, [10.0])]                      # nor the only one


def test_a_clock_set_back_is_a_new_recording_after_a_while(capsys):
    clock = make_clock(500.0)
    times = [0.0, 4.0, 8.0, RESET_S, 11.0]
    assert through(clock, *times) == [[], [], [], ["new", 0, 4, 8, RESET_S], [11]]
    assert warnings_of(capsys)[-1] == "clock set back to 0 s: a new recording begins"


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_change_is_named_where_the_zone_is_not_known(capsys, hours):
    t = [1e4 + k / 25 + 3600 * hours * (k >= 500) for k in range(1000)]
    for is_local in (True, False):
        clock = Clock(InputWarnings(), 1 / 25)
        for time in t:
            clock.take(time, [0.0], is_local)
        found = [line for line in warnings_of(capsys) if "by exactly an hour after 10020 s" in line]
        assert len(found) == is_local
        assert all(("forward" if hours > 0 else "back") in line and "--time-zone" in line for line in found)
    clock = Clock(InputWarnings(), 1 / 25)
    for time in (*t[:500], *(time + 1 for time in t[500:])):          # an hour and a second
        clock.take(time, [0.0], True)
    assert not any("exactly an hour" in line for line in warnings_of(capsys))


def test_occasionally_repeated_rows_are_not_a_clock_set_back(capsys):
    clock = make_clock(500.0)
    assert through(clock, 400.0, 500.2, 405.0, 500.4, 411.0) == [[], [500.2], [], [500.4], []]
    clock = make_clock(500.0)
    assert through(clock, 400.0, 409.0, 300.0, 309.0) == [[], [], [], []]       # twice, each too short


def test_after_a_restart_rows_taken_before_are_skipped_silently(capsys):
    clock = make_clock()
    before = through(clock, *(k / 5 for k in range(100)), 100.0)
    warnings_of(capsys)
    again = make_clock()
    again.load_state_dict(json.loads(json.dumps(clock.state_dict())))
    found = through(again, *(k / 5 for k in range(100)), 100.0, 100.2)
    assert before[-1] == [] and found == [[]] * 101 + [[100, 100.2]]
    assert warnings_of(capsys)[-1] == "no rows from 19.8 to 100 s"
    assert through(again, 100.2) == [[]] and len(warnings_of(capsys)) == 1             # reported from now on


def test_a_recorder_that_restarts_at_zero_is_not_skipped(capsys):
    again = make_clock()
    again.load_state_dict(make_clock(0.0, 0.2, 30_000.0, 30_000.2).state_dict())
    capsys.readouterr()
    assert through(again, 0.0, 5.0, RESET_S, 11.0) == [[], [], ["new", 0, 5, RESET_S], [11]]
    assert warnings_of(capsys)[-1] == "clock set back to 0 s: a new recording begins"


@pytest.mark.parametrize("at", range(10))
def test_a_clock_resumes_from_its_state_anywhere(at):
    times = [0.8, 1.0, 900.0, 901.0, 0.0, 5.0, 9.0, 12.0, 13.0, 14.0]
    whole, clock, again = through(make_clock(), *times), Clock(InputWarnings()), make_clock()
    through(clock, *times[:at])
    again.load_state_dict(json.loads(json.dumps(clock.state_dict())))
    again.seen_s = -math.inf                                                     # the rows continue after the state
    assert through(again, *times[at:]) == whole[at:]


# ---- lines of a file ------------------------------------------------------------------------


def lines_of(path, follow=None, times=9):
    """Return the lines of a file that come at once, and the position after them, as often as some come."""
    found = []
    with path.open("rb") as file:
        for lines, place in read_lines(file, follow, lambda: len(found) == times, InputWarnings()):
            if lines:
                found.append((lines, place))
    return found


@pytest.mark.parametrize("follow", [False, True])
def test_lines_come_with_their_position(tmp_path, follow):
    path = tmp_path / "night.csv"
    path.write_bytes(b"a,b\r\n1,2\n\n\xff\xfe,3\nlast\n")
    found = lines_of(path, path if follow else None, times=1)
    assert found == [(["a,b", "1,2", "", "\xff\xfe,3", "last"], 20)]


def test_the_last_line_needs_no_end_where_the_input_ends(tmp_path):
    path = tmp_path / "night.csv"
    path.write_bytes(b"a\nb")
    assert lines_of(path) == [(["a"], 2), (["b"], 3)]
    path.write_bytes(b"")
    assert lines_of(path) == []


def test_lines_longer_than_what_is_read_at_once_are_whole(tmp_path):
    path = tmp_path / "night.csv"
    lines = ["x" * length for length in (LONGEST - 5, CHUNK, 1, LONGEST, 3)]
    path.write_text("\n".join(lines) + "\n")
    assert [line for lines, _ in lines_of(path) for line in lines] == lines


def test_a_line_of_a_megabyte_is_cut_and_the_next_one_is_read(tmp_path):
    path = tmp_path / "night.csv"
    path.write_text("t_s,flow,belt\n1,2,3\n" + "9" * 10**6 + "\n4,5,6\n")
    found = lines_of(path)
    lines = [line for lines, _ in found for line in lines]
    assert max(map(len, lines)) <= LONGEST + CHUNK
    assert [lines[k] for k in (0, 1, -1)] == ["t_s,flow,belt", "1,2,3", "4,5,6"]
    assert found[-1][1] == path.stat().st_size
    places = [place for _, place in found]
    assert places == sorted(places)


def test_a_growing_file_is_read_on_a_shorter_one_from_its_start(tmp_path, capsys):
    path = tmp_path / "night.csv"
    path.write_text("a\nb\nhalf")
    found = []
    with path.open("rb") as file:
        for lines, place in read_lines(file, path, lambda: len(found) == 3, InputWarnings()):
            if lines:
                found.append((lines, place))
            elif len(found) == 1:
                with path.open("a") as more:
                    more.write(" done\nd\n")
            elif len(found) == 2:
                path.write_text("e\nf\n")
    assert found == [(["a", "b"], 4), (["half done", "d"], 16), (["e", "f"], 4)]
    assert warnings_of(capsys) == ["night.csv became shorter; reading it from its start"]


def test_a_file_is_followed_from_a_position(tmp_path):
    path = tmp_path / "night.csv"
    path.write_text("a\nbb\nccc\n")
    with path.open("rb") as file:
        file.seek(2)
        lines = read_lines(file, path, lambda: False, InputWarnings())
        assert next(lines) == (["bb", "ccc"], 9)


def test_a_pipe_gives_its_lines_as_they_come():
    read, write = os.pipe()
    writer = threading.Timer(0.3, lambda: (os.write(write, b"b\nc"), os.close(write)))
    os.write(write, b"a\n")
    writer.start()
    with os.fdopen(read, "rb") as file:
        found = [lines for lines, _ in read_lines(file, None, lambda: False, InputWarnings())]
    writer.join()
    assert [lines for lines in found if lines] == [["a"], ["b"], ["c"]] and [] in found


@pytest.mark.parametrize("follow", [False, True])
def test_lines_are_read_in_the_encoding_that_is_declared(tmp_path, follow):
    path, lines = tmp_path / "night.csv", ["時刻,流量,表示", "0.0,1.5,ソ"]      # which ends in the byte of a backslash
    for written, declared in (("cp932", "cp932"), ("utf-16", "cp932"), ("utf-8", None)):
        path.write_bytes("".join(f"{line}\r\n" for line in lines).encode(written))
        with path.open("rb") as file:
            found = next(read_lines(file, path if follow else None, lambda: False, InputWarnings(), declared))
        assert [line.removeprefix("\ufeff") for line in found[0]] == lines and found[1] == path.stat().st_size


def test_stopping_leaves_the_remaining_lines(tmp_path):
    path = tmp_path / "night.csv"
    lines = ["x" * 100] * (2 * CHUNK // 100)
    path.write_text("\n".join(lines) + "\n")
    ((first, place),) = lines_of(path, path, times=1)
    assert first == lines[: CHUNK // 101] and place == 101 * len(first)


# ---- what a dataset declares ----------------------------------------------------------------


def test_the_decimal_sign_is_the_one_that_numbers_show():
    rows = make_rows("t_s;flow;belt")
    assert rows.take("0,04;-1,5;2") == [(0.04, [-1.5, 2.0])]
    assert make_rows().take('"0,04","-1,5",2') == [(0.04, [-1.5, 2.0])]
    doubtful = make_rows("t_s;flow;belt")
    assert taken(doubtful, "1;100;2", "2;1.001;3") == [(1, [100, 2]), None]
    assert taken(doubtful, "3;1.002;4", "4;0.5;5") == [None, (2, [1.001, 3]), (3, [1.002, 4]), (4, [0.5, 5])]
    with pytest.raises(DataError, match="ambiguous numbers such as 1.001; set decimal in dataset_config.json"):
        taken(thousands := make_rows("t_s;flow;belt"), "1;999;2", "2;1.001;3") and thousands.rest()


def test_timestamps_are_read_as_declared_or_day_first_with_points():
    declared = Rows("t_s", CHANNELS, InputWarnings(), dialect=Dialect(time_format="%m/%d/%Y %H:%M:%S"))
    pointed = Rows("t_s", CHANNELS, InputWarnings())
    for rows, first, second in (
        (declared, "12/31/2024 23:59:59", "01/01/2025 00:00:01"),
        (pointed, "31.12.2024 23:59:59,5", "01.01.2025 00:00:01,5"),
    ):
        rows.take("t_s;flow;belt")
        assert rows.take(f"{first};1;2")[0][0] == 0.0
        assert rows.take(f"{second};1;2")[0][0] == 2.0


def test_rows_at_a_long_usual_distance_are_not_jumps():
    clock = Clock(InputWarnings(), period_s=300.0)
    assert [len(clock.take(300.0 * k, [0.0])[0]) for k in range(4)] == [0, 2, 1, 1]  # the first waits for the second


@pytest.mark.parametrize(("period_s", "warned"), [(0.04, False), (0.045, False), (0.02, True), (0.2, True)])
def test_a_channel_at_another_rate_is_reported_once(period_s, warned, capsys):
    check = RateCheck(("flow", "belt"), (25.0, 5.0), InputWarnings())
    for k in range(800):
        t = 0.001 * round(1000 * period_s * k)
        check.take(t, [1.0, 2.0 if k % max(round(0.2 / period_s), 1) == 0 else math.nan])
    err = capsys.readouterr().err
    assert check.done and err.count("channel 'flow'") == warned and "channel 'belt'" not in err
    if warned:
        assert f"{1 / period_s:.4g} samples a second; expected 25" in err
