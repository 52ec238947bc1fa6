import gzip
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from recordings import clocks
from recordings.cells import is_number
from recordings.clocks import Stamps, TimeKeys, seconds_of
from recordings.event_files import TimeAxis, read_events
from recordings.inspection import describe
from recordings.reading import Dialect, read_recording
from recordings.tables import open_table
from utils import DataError

EXPECTED = {"t": [0, 0.04, 0.08], "flow": [-1.25, 1000.5, 2e-3]}


@pytest.fixture
def write(tmp_path):
    def to(text: str | bytes, name: str = "night.csv"):
        path = tmp_path / name
        content = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return to


def refusal(path, channels=None, **dialect) -> str:
    with pytest.raises(DataError) as caught:
        read_recording(path, channels, Dialect(**dialect))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(delimiter: str, decimal: str, end: str = "\n") -> str:
    lines = [["t_s", "flow"], ["0", "-1.25"], ["0.04", "1000.5"], ["0.08", "2e-3"]]
    cells = [[cell.replace(".", decimal) if k else cell for cell in line] for k, line in enumerate(lines)]
    return "".join(delimiter.join(line) + end for line in cells)


# ---------------------------------------------------------------- separators and decimal signs

@pytest.mark.parametrize("name", ["night.csv", "night.csv.gz", "night.tsv", "night.TXT"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("delimiter", "decimal"), [(",", "."), (";", ","), (";", "."), ("\t", ","), ("\t", ".")])
def test_all_ways_to_write_the_same_table_read_the_same(write, delimiter, decimal, end, name):
    recording = read_recording(write(rows(delimiter, decimal, end), name))
    np.testing.assert_array_equal(recording.t, EXPECTED["t"])
    np.testing.assert_array_equal(recording.channels["flow"].values, EXPECTED["flow"])
    assert f"decimal {decimal!r}" in describe(recording)[1]


def test_excels_bom_and_sep_line_are_read_and_counted_as_rows(write):
    text = "\ufeffsep=;\r\n t_s ; Flow (L/min)\r\n0;1,5\r\n1;2,5\r\n"
    recording = read_recording(write(text), ["Flow (L/min)"])
    np.testing.assert_array_equal(recording.channels["Flow (L/min)"].values, [1.5, 2.5])
    assert "row 4: column 'Flow (L/min)' holds 'x'" in refusal(write(text.replace("2,5", "x")), ["Flow (L/min)"])


def test_quoted_cells_with_a_decimal_comma_between_commas(write):
    recording = read_recording(write('t_s,flow\n0,"1,5"\n"0,5","2,25"\n'))
    np.testing.assert_array_equal(recording.t, [0, 0.5])
    np.testing.assert_array_equal(recording.channels["flow"].values, [1.5, 2.25])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t_s;flow,x\n0;1,5\n1;2,5\n", "row 1: separated by comma or semicolon? set delimiter in"),
        ("t_s;flow\n0;1,234\n1;2,345\n", "row 2: ambiguous numbers such as 2,345; set decimal in"),
        ("t_s;flow\n0;1.234\n1;2.345\n", "row 2: ambiguous numbers such as 2.345; set decimal in"),
        ("t_s;flow\n0;1,5\n1;2.5\n", "row 2: ambiguous numbers such as 1,5 and 2.5; set decimal in"),
        ("t_s;flow\n0;1,5\n1;1.23,5\n", "row 3: column 'flow' holds '1.23,5'; expected a number"),
        ("t_s,flow,flow\n0,1,2\n1,2,3\n", "2 columns are called 'flow'; rename them"),
    ],
)
def test_an_ambiguous_table_is_one_line_naming_the_key_to_set(write, text, expected):
    assert refusal(write(text), ["flow"]).startswith(f"night.csv: {expected}")


def test_declared_delimiter_and_decimal_are_not_detected(write):
    thousandths = write("t_s;flow\n0;1,234\n1;2,345\n")
    read = read_recording(thousandths, ["flow"], Dialect(decimal=","))
    assert read.channels["flow"].values.tolist() == [1.234, 2.345]
    two = write("t_s;flow,x\n0;1,5\n1;2,5\n")
    assert read_recording(two, ["flow,x"], Dialect(delimiter=";")).channels["flow,x"].values.tolist() == [1.5, 2.5]
    assert "decimal '.'" in refusal(write("t_s;flow\n0;1,5\n1;2,5\n"), ["flow"], decimal=".")
    mixed = write("t_s;flow\n0;0,5\n1;1.234\n")
    assert read_recording(mixed, ["flow"], Dialect(decimal=",")).channels["flow"].values.tolist() == [0.5, 1234]
    wrong = write("t_s;flow\n0;0,5\n1;1.23\n")
    assert "'1.23'; expected a number with decimal ','" in refusal(wrong, ["flow"], decimal=",")


def test_a_decimal_sign_that_changes_later_is_reported_with_its_row(write):
    text = "t_s;flow\n" + "".join(f"{k};{k % 7},5\n" for k in range(5000)) + "5000;1.234\n5001;2,5\n"
    expected = "night.csv: row 5002: column 'flow' holds '1.234'; expected a number with decimal ','"
    assert refusal(write(text)).startswith(expected)


def test_thousands_beside_a_decimal_sign_leave_no_doubt(write):
    path = write('t_s,flow\n0,5.5\n1,"1,076.00"\n2,"-12,345,678.5"\n')
    assert read_recording(path).channels["flow"].values.tolist() == [5.5, 1076.0, -12345678.5]
    for mark in ("'", "\u2019", "\u00a0", "\u202f", " "):
        path = write(f"t_s;flow\n0;5,5\n1;1{mark}076\n2;-12{mark}345{mark}678,5\n")
        if mark == " ":                                              # may be a lost delimiter
            assert "if it has thousands separators, set decimal in" in refusal(path, ["flow"])
        declared = Dialect(decimal="," if mark == " " else None)
        assert read_recording(path, None, declared).channels["flow"].values.tolist() == [5.5, 1076.0, -12345678.5]


@pytest.mark.parametrize(
    ("text", "decimal", "expected"),
    [
        ("1", ".", True), ("-1.5e-3", ".", True), (".5", ".", True), ("5,", ",", True), ("1,5", ".", False),
        (".", ".", False), ("", ".", False), ("e5", ".", False), ("1.5.2", ".", False), ("1,234,567", ",", False),
    ],
)  # fmt: skip
def test_numbers_by_hand(text, decimal, expected):
    assert is_number(text, decimal) is expected


# ---------------------------------------------------------------- encodings

@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "UTF-8"), ("utf-8-sig", "UTF-8"), ("latin-1", "Latin-1")])
def test_headers_with_degrees_and_micro_signs(write, encoding, name):
    recording = read_recording(write("t_s;Temp °C;µV\n0;36,5;1\n1;36,75;2\n".encode(encoding)), ["Temp °C", "µV"])
    np.testing.assert_array_equal(recording.channels["Temp °C"].values, [36.5, 36.75])
    assert recording.format.endswith(f"{name}, time in 't_s'")


def test_a_latin_letter_far_after_the_header(write, tmp_path):
    text = "t_s,flow,note\n" + "".join(f"{k},{k % 7},\n" for k in range(5000)) + "5000,1,sp\xe4t\n"
    assert len(read_recording(write(text.encode("latin-1")), ["flow"]).t) == 5001


JAPAN = "\u6642\u523b,\u6d41\u91cf\n"                                    # time, flow
RUSSIA = "\u0427\u0430\u0441\u044b,\u041f\u043e\u0442\u043e\u043a\n"
CHINA = "\u65f6\u95f4,\u6d41\u91cf\n"


@pytest.mark.parametrize("header", [JAPAN, "\u6a5f\u5668\u540d\n\u6642\u9593[s],\u30d5\u30ed\u30fc(L/min)\n"])
def test_shift_jis_is_recognised(write, header):
    recording = read_recording(write(header.encode("cp932") + b"0,1.5\n1,2\n2,3\n"))
    assert list(recording.channels) == [header.split(",")[1].strip()]
    assert "Shift-JIS" in recording.format


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Zeit,Flu\xdf \xfcber Ger\xe4t\n", "cp1252"),
        ("t,Kr\xe4\xdfe \u2013 \u201eM\xe4\xdfig\u201c\n", "cp1252"),
        ("temps,d\xe9bit syst\xe8me \xe9l\xe8ve\n", "cp850"),
        (RUSSIA, "cp1251"),
        (RUSSIA, "cp866"),
        (CHINA, "gb18030"),
        ("t,\u010c\u011b\u0159i\u010d \u0161\xed\u0159ka\n", "cp1250"),
        ("\uc2dc\uac04,\uc720\ub7c9\n", "cp949"),
        ("\u6642\u9593,\u6d41\u91cf\n", "big5"),
    ],
)
def test_no_other_encoding_is_taken_for_shift_jis(write, text, encoding):
    path = write(text.encode(encoding) + b"0,1.5\n1,2\n2,3\n")
    try:
        recording = read_recording(path)
    except DataError as error:
        assert "set encoding in dataset_config.json" in str(error)
    else:
        assert recording.format.endswith("'") and "Latin-1" in recording.format
        is_odd = encoding not in ("cp1252", "cp850")
        assert is_odd == any("set encoding" in note for note in recording.notes)
    declared = read_recording(path, dialect=Dialect(encoding=encoding))
    assert list(declared.channels) == [text.split(",")[1].strip()]


def test_a_declared_encoding_that_does_not_fit_is_one_line(write):
    path = write(CHINA.encode("gb18030") + b"0,1.5\n1,2\n2,3\n")
    expected = "night.csv: row 1 holds b'\\xbc\\xe4,\\xc1', which is no letter in utf-8; correct encoding in"
    assert refusal(path, encoding="utf-8").startswith(expected)
    hint = "if its letters are not those, set encoding in dataset_config.json"
    assert hint in refusal(path, ["\u6d41\u91cf"], time_column="\u65f6\u95f4")
    marked = write(b"\xef\xbb\xbft,x\n0,1\n1,2\n")
    assert list(read_recording(marked, ["x"], Dialect("t", encoding="utf-8")).channels) == ["x"]
    late = write(b"t,x,note\n" + b"0,1,\n" * 300 + b"1,2,\xff\xff\n")
    message = refusal(late, ["x"], time_column="t", encoding="utf-8")
    assert "night.csv: not a readable CSV: 'utf-8' codec can't decode" in message


def test_other_text_and_no_text_are_refused(write):
    assert "it contains binary data" in refusal(write(b"PK\x03\x04\0\0\0" * 50))
    assert refusal(write(b"PK", "night.xlsx")).startswith("night.xlsx: unknown format '.xlsx'; expected .csv, ")


# ---------------------------------------------------------------- times

@pytest.mark.parametrize(
    "stamps",
    [
        ["31.12.2024 23:59:59,5", "01.01.2025 00:00:00", "01.01.2025 00:00:00,5"],
        ["03.04.2024 23:59:59,5", "04.04.2024 00:00:00,0", "04.04.2024 00:00:00,5"],
        ["12/31/2024 11:59:59 PM", "01/01/2025 12:00:00 AM", "01/01/2025 12:00:01 AM"],
        ["31/12/2024 23:59:59", "01/01/2025 00:00:00", "01/01/2025 00:00:01"],
        ["03/04/2024 10:00:00.5", "03/04/2024 10:00:01", "03/04/2024 10:00:01.5"],
        ["2024-12-31 23:59:59,5", "2025-01-01 00:00:00,0", "2025-01-01 00:00:00,5"],
        ["23:59:59.5", "00:00:00", "00:00:00.5"],
    ],
)
def test_times_of_many_programs_count_from_the_first(stamps):
    step = 0.5 if any(mark in stamps[2][-2:] for mark in ".,") else 1.0
    np.testing.assert_allclose(seconds_of(pd.Series(stamps), "night.csv")[0], [0, step, 2 * step])


def test_day_and_month_that_may_be_mistaken_are_one_line(write):
    stamps = ["03/04/2024 23:59:59", "05/04/2024 00:00:00", "05/04/2024 00:00:01"]
    text = "time,flow\n" + "".join(f"{stamp},{k}\n" for k, stamp in enumerate(stamps))
    expected = "night.csv: time '03/04/2024 23:59:59': day or month first? set time_format"
    assert refusal(write(text), ["flow"], time_column="time").startswith(expected)
    declared = Dialect("time", time_format="%d/%m/%Y %H:%M:%S")
    np.testing.assert_array_equal(read_recording(write(text), ["flow"], declared).t, [0, 86401, 86402])
    text = text.replace("05/04", "04/04")          # month first, a month would be left out
    read = read_recording(write(text), ["flow"], Dialect("time"))
    assert read.t.tolist() == [0, 1, 2] and read.start == datetime(2024, 4, 3, 23, 59, 59)


def test_a_declared_time_format_is_kept_to(write):
    path = write("Zeit;flow\n24.12.31 23:59:59,5;1,5\n25.01.01 00:00:00,5;2\n")
    assert read_recording(path, ["flow"], Dialect("Zeit", time_format="%y.%m.%d %H:%M:%S,%f")).t.tolist() == [0, 1]
    wrong = refusal(path, ["flow"], time_column="Zeit", time_format="%d.%m.%Y %H:%M:%S,%f")
    assert wrong == (
        "night.csv: row 2: time '24.12.31 23:59:59,5'; expected the time_format '%d.%m.%Y %H:%M:%S,%f'"
    )
    assert "time_format '%Q' in dataset_config.json" in refusal(path, ["flow"], time_column="Zeit", time_format="%Q")
    clock = write("t_s,flow\n235959,1\n000001,2\n")
    assert read_recording(clock, ["flow"], Dialect("t_s", time_format="%H%M%S")).t.tolist() == [0, 2]


ODD_STAMPS = ["30.02.2026 22:05:00", "27.11.2026 24:00:00", "25:61:00", "22:05", "1:75:00", "27.11.26 22:05", "noon",
              "", " 22:05:00.5 ", "99:59:59,25", "59:59.9"]  # fmt: skip


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize(
    "written",
    ["%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S,%f", "%H:%M:%S.%f", "%H:%M:%S", "%m/%d/%y %H:%M:%S.%f", "%Y%m%d%H%M%S"],
)
def test_a_column_of_timestamps_is_read_like_its_texts_one_by_one(written, declared):
    random = np.random.default_rng(0)
    steps = np.cumsum(random.integers(1, 90_000, 300))
    texts = (pd.Timestamp("2026-11-27 22:05:00") + pd.to_timedelta(steps, unit="ms")).strftime(written).tolist()
    texts = [text[: len(text) - int(random.integers(0, 5))] if "%f" in written else text for text in texts]
    for k, text in zip(random.integers(1, 300, len(ODD_STAMPS)), ODD_STAMPS, strict=True):
        texts[k] = text
    keys = TimeKeys(time_format=written if declared else None)
    one = Stamps(keys)
    one.take(texts[0])
    (way, *_), first = one.formats, one.clean(texts[0])
    column = clocks._column(pd.Series(texts, dtype=str), way, first, Stamps(keys))
    assert column.tolist() == [clocks._microseconds_of(one.read(one.clean(text), way)) for text in texts]


@pytest.mark.parametrize("bad", ["noon", "32.12.2024 10:00:02", "10:00"])
def test_an_unreadable_time_is_reported_with_its_row(write, bad):
    text = f"time;flow\n31.12.2024 10:00:00;1\n31.12.2024 10:00:01;2\n{bad};3\n31.12.2024 10:00:03;4\n"
    assert refusal(write(text), ["flow"], time_column="time").startswith(f"night.csv: row 4: time {bad!r}; expected")


# ---------------------------------------------------------------- all of it, as a user meets it

def test_by_default_the_first_column_is_the_time_and_text_is_not_read(write):
    path = write("Zeit;Fluss (l/min);Bemerkung;leer\n22:30:00;1,5;;\n22:30:01;2,5;Husten;\n22:30:02;3,5;;\n")
    recording = read_recording(path)
    assert list(recording.channels) == ["Fluss (l/min)"] and recording.t.tolist() == [0, 1, 2]
    text = "\n".join(describe(recording))
    assert "separated by semicolon, decimal ',', UTF-8, time in 'Zeit'" in text
    assert "column 'Bemerkung' is not read: it holds 'Husten', not a number" in text
    assert "'leer' is not read: it has no values" in text


def test_events_files_are_read_in_all_encodings(write):
    expected = [(1.5, 2.5, "späte Apnoe, lang")]
    text = "start_s;end_s;label\r\n1,5;2,5;späte Apnoe, lang\r\n"
    for encoding in ("utf-8", "utf-8-sig", "latin-1"):
        events = read_events(write(text.encode(encoding), "night.events.csv"), TimeAxis(0.0, 10.0))
        assert [(e.start_s, e.end_s, e.label) for e in events] == expected


def test_a_layout_is_detected_from_a_long_row(write):
    layout = open_table(write("t_s," + ",".join(f"c{k}" for k in range(5000)) + "\n")).layout
    assert len(layout.names) == 5001 and layout.delimiter == ","
