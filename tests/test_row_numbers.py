"""A message names a row by the number of its line in the file, as an editor shows it."""

import re

import numpy as np
import pytest

from recordings import tables
from recordings.event_files import TimeAxis, read_events
from recordings.reading import Dialect, read_recording
from recordings.series_files import read_rows
from utils import DataError

HEADER, UNITS, PREAMBLE = "t_s;flow;note", "s;L/s;", ["Device: X", "Patient: Y", ""]
FAULTS = {"empty time": ";1,5;", "a text": "{t};x1;", "time backwards": "0,5;1,5;", "too many cells": "{t};1,5;;;9"}


def row_of(message: str) -> int:
    return int(re.search(r": row (\d+):", message)[1])


def lines_of(random: np.random.Generator, fault: str, comment: bool) -> tuple[list[str], int]:
    """Return the lines of a table with everything that is no sample, and the number of the line with a fault."""
    lines, at, place = [*PREAMBLE, HEADER, UNITS], 0, int(random.integers(20, 60))
    for k in range(70):
        kinds = ["", "blank", "header", "break"] + ["comment"] * comment
        kind = kinds[int(random.integers(len(kinds)))] if k > 5 and random.random() < 0.3 else ""
        others = {"blank": [["", "  "][k % 2]], "header": [*PREAMBLE, HEADER, UNITS], "comment": ["# on; again"]}
        lines += others.get(kind, [])
        if k == place:
            at = len(lines) + 1
            lines.append(fault.format(t=k))
        lines += [f'{k};{k % 7},5;"two', 'lines"'] if kind == "break" else [f"{k};{k % 7},5;"]
    return lines, at


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_its_line(tmp_path, name, end):
    for seed in range(5):
        comment = seed % 2 == 1 and name != "too many cells"
        lines, at = lines_of(np.random.default_rng(seed), FAULTS[name], comment)
        path = tmp_path / "night.csv"
        path.write_bytes(end.join([*lines, "Total;3", ""]).encode())
        with pytest.raises(DataError) as caught:
            read_recording(path, ["flow"], Dialect(comment="#" if comment else None))
        assert row_of(str(caught.value)) == at, (seed, str(caught.value))


def test_lines_that_are_no_samples_move_no_sample(tmp_path):
    path = tmp_path / "night.csv"
    for seed in range(5):
        lines, _ = lines_of(np.random.default_rng(seed), "", False)
        path.write_text("\n".join(lines))
        recording = read_recording(path, ["flow"])
        assert recording.t.tolist() == list(range(70))
        assert recording.channels["flow"].values.tolist() == [k % 7 + 0.5 for k in range(70)]
        table, _ = tables.without_other_lines(tables.open_table(path, wanted=("t_s", "flow")))
        numbers = [table.line_of(k) for k in range(70)]
        assert [lines[number - 1].split(";")[0] for number in numbers] == [str(k) for k in range(70)]


def test_a_repeated_header_that_ends_in_a_tab_is_left_out(tmp_path):
    path, header = tmp_path / "night.tsv", "t_s\tflow\t"
    path.write_text("\n".join([header, *[f"{k}\t{k % 7}\t" for k in range(9)], header, "9\t1\t", "10\tx1\t"]))
    with pytest.raises(DataError, match="night.tsv: row 13: column 'flow' holds 'x1'"):
        read_recording(path, ["flow"])


def test_a_quotation_mark_that_is_never_closed_is_named_by_its_line(tmp_path):
    path = tmp_path / "night.csv"
    rows = [f'{k},1,"a\nb"' if k % 3 else f"{k},1,\n" for k in range(30)]
    at = sum(row.count("\n") + 1 for row in rows) + 2
    tail = "x" * 80 + "\n"
    for more in (3, 5000):                                           # more than a cell of the csv module may hold
        after = [f"{k},1,{tail}" for k in range(31, 31 + more)]
        path.write_text("\n".join(["t_s,flow,note", *rows, '30,1,"open', *after]))
        with pytest.raises(DataError, match=f"night.csv: row {at}: an unclosed quotation mark"):
            read_recording(path, ["flow"])


def test_a_changed_clock_is_named_by_its_line(tmp_path):
    path, lines = tmp_path / "night.csv", ["# logger", "time,flow", ""]
    for k in range(240):
        hour, minute = divmod(2 * 60 + 58 + k // 60 - 60 * (k >= 120), 60)
        lines += [f"2024-10-27 {hour:02}:{minute:02}:{k % 60:02},{k % 7}", *[""] * (k % 4 == 0)]
    path.write_text("\n".join(lines))
    at = lines.index("2024-10-27 02:00:00,1") + 1
    with pytest.raises(DataError, match=f"row {at}: the clock is set back"):
        read_recording(path, ["flow"], Dialect("time"))
    path.write_text("\n".join(lines).replace("2024-10-27 ", ""))
    recording = read_recording(path, ["flow"], Dialect("time", time_zone="Europe/Berlin"))
    assert f"the clock changes by an hour at row {at}, as clocks of Europe/Berlin do" in recording.notes


def test_events_and_series_are_named_by_their_lines(tmp_path):
    events, series = tmp_path / "night.events.csv", tmp_path / "pump.csv"
    events.write_text('start_s,end_s,label\n\n1,2,"a\nb"\n\n5,4,a\n')
    with pytest.raises(DataError, match="night.events.csv: row 6: event 5 to 4 s ends before it starts"):
        read_events(events, TimeAxis(0.0, 10.0))
    series.write_text("timestamp,value\n2024-01-01 00:00,1\n\n2024-01-01 00:05,2\n\n2024-01-01 00:10,1e31\n")
    with pytest.raises(DataError, match="pump.csv: row 6: value is 1e[+]31"):
        read_rows(series)
    series.write_text("timestamp,value\n2024-01-01 00:00,1\n\n2024-01-01 00:05,2\n\nnoon,3\n")
    with pytest.raises(DataError, match="pump.csv: row 6: timestamp is 'noon'"):
        read_rows(series)


def test_a_doubtful_delimiter_is_named_by_the_line_of_the_header(tmp_path):
    path = tmp_path / "night.csv"
    path.write_text("# logger\n\nt_s;flow,x\n0;1,5\n1;2,5\n")
    with pytest.raises(DataError, match="night.csv: row 3: separated by comma or semicolon"):
        read_recording(path, ["flow"])
