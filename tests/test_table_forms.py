"""Tables as devices and programs write them: what a file gives, and what its lines give one by one."""

import json
from datetime import datetime, timedelta

import numpy as np
import pytest

from config import DatasetConfig
from live.rows import InputWarnings, Rows, read_lines
from recordings.inspection import describe
from recordings.preprocessing import dialect_of, load_recording
from recordings.reading import Dialect, measured_rate, read_recording
from recordings.tables import open_table
from recordings.wall_clock import clock_at
from utils import DataError

RATE_HZ, N = 25.0, 2000                                              # 80 s: past a minute
T = np.arange(N) / RATE_HZ
FLOW = np.round(30 * np.sin(T), 3)
BASE = {
    "description": "made by a test", "raw_dir": ".", "raw_hint": "-", "rate_hz": 5.0,
    "channels": {"flow": {"unit": "L/min", "rate_hz": RATE_HZ}},
    "split": {"train": ["one"], "val_fraction": 0.3, "test_fraction": 0.3},
}  # fmt: skip
START = np.datetime64("2024-03-30T23:59:20", "us")
STAMPS = [stamp.item() for stamp in START + (T * 1e6).round().astype("timedelta64[us]")]


def stamped(pattern, digits=3):
    """Return the times of the rows in a strptime format, fractions of a second with so many digits."""
    return [stamp.strftime(pattern.replace("%f", f"{stamp.microsecond:06d}"[:digits])) for stamp in STAMPS]


def table(times, delimiter=",", decimal=".", header="t_s,flow", before="", end="\n", tail="", quote="", scale=1.0):
    """Return the text of a table of times and flow."""
    values = [f"{value / scale:.6g}".replace(".", decimal) for value in FLOW]
    lines = [header.replace(",", delimiter)] if header else []
    lines += [delimiter.join(f"{quote}{cell}{quote}" for cell in row) + tail for row in zip(times, values, strict=True)]
    return before + end.join(lines) + end


SECONDS = [f"{t:.2f}" for t in T]
COMMA = [text.replace(".", ",") for text in SECONDS]
COUNTS = "t_s;flow\n" + "".join(f"{k};{k}\n" for k in range(999))
WHOLE = stamped("%Y-%m-%d %H:%M:%S")
LOCAL = [stamp.strftime("2024-03-31T%H:%M:%S.%f") for stamp in
         ((np.datetime64("2024-03-31T01:59:20", "us") + (T * 1e6).astype("timedelta64[us]")
           + np.where(T >= 40, np.timedelta64(1, "h"), np.timedelta64(0, "h"))).astype(object))]
AUTUMN = [stamp.strftime("%d.%m.%Y %H:%M:%S.%f") for stamp in
          ((np.datetime64("2024-10-27T02:59:20", "us") + (T * 1e6).astype("timedelta64[us]")
            - np.where(T >= 40, np.timedelta64(1, "h"), np.timedelta64(0, "h"))).astype(object))]
FORMS = {
    "comma": (table(SECONDS), {}),
    "semicolon": (table(COMMA, ";", ","), {}),
    "tab": (table(SECONDS, "\t"), {}),
    "bar": (table(SECONDS, "|"), {}),
    "blanks": (table(SECONDS, "  "), {}),
    "trailing": (table(SECONDS, tail=","), {}),
    "quoted": (table(COMMA, ",", ",", quote='"'), {}),
    "CR": (table(SECONDS, end="\r"), {}),
    "CRLF": (table(SECONDS, end="\r\n"), {}),
    "sep line": (table(SECONDS, ";", before="sep=;\r\n"), {}),
    "title": (table(SECONDS, before="Night of 3 May\nSubject: 7\n\n"), {}),
    "hash lines": (table(SECONDS, before="# device 3\n# Firmware: 1.2, beta\n"), {}),
    "savetxt": (table(SECONDS, header="", before="# t_s,flow\n"), {}),
    "skip_rows": (table(SECONDS, before="a,b\nc,d\n"), {"skip_rows": 2}),
    "comment": (table(SECONDS, tail=" % ok"), {"comment": "%"}),
    "names": (table(SECONDS, header=""), {"names": ["t_s", "flow"]}),
    "units row": (table(SECONDS, header="t_s,flow\ns,L/s", scale=60.0), {}),
    "units in the header": (table(SECONDS, header="t_s,flow [L/s]", scale=60.0), {}),
    "units row of ms": (table([f"{1000 * t:.0f}" for t in T], header="t_s,flow\nms,L/min"), {}),
    "rule below the header": (table(SECONDS, "|", header="t_s,flow\n----+----"), {}),
    "rule and trailing bars": (table(SECONDS, "|", header="t_s,flow,\n----,----,", tail="|"), {}),
    "minus of typesetting": (table(SECONDS).replace(",-", ",\u2212"), {}),
    "apostrophes": (table(SECONDS, ";", header="t_s,flow [mL/min]", scale=1e-3)
                    .replace("000\n", "'000\n"), {}),
    "facts as wide as the table": (table(SECONDS, before="Name,night 1\nRate,25\nBegin,2024-03-30 23:57\n"), {}),
    "no header, decimal comma": (table(COMMA, ";", ",", header=""), {"names": ["t_s", "flow"]}),
    "row rate": ("flow\n" + "".join(f"{value}\n" for value in FLOW), {"row_rate_hz": RATE_HZ}),
    "BioSPPy": ("# Sampling Rate (Hz):= 25.00\n# Labels:= flow\n" + "".join(f"{value}\n" for value in FLOW), {}),
    "OpenSignals": ('# OpenSignals\n# {"00:11": {"column": ["nSeq", "flow"], "sampling rate": 25, '
                    '"time": "23:57:00.0", "date": "2026-5-10"}}\n# EndOfHeader\n'
                    + "".join(f"{k % 16}\t{value}\t\n" for k, value in enumerate(FLOW)), {}),
    "LabChart": (table(SECONDS, "\t", header="", before="Interval=\t0.04 s\nChannelTitle=\tflow\nRange=\t10 V\n"),
                 {"time_column": "time"}),
    "AcqKnowledge": ("rec.acq\n40 msec/sample\n1 channels\nflow\nL/min\nmin\tflow\n\t2000\n"
                     + "".join(f"{t / 60:.9f}\t{v}\t\n" for t, v in zip(T, FLOW, strict=True)), {"time_column": "min"}),
    "SOMNOmedics": (table(stamped("%d.%m.%Y %H:%M:%S,%f"), "; ", header="",
                          before="Signal ID: FlowD\\flow\nStart Time: 30-03-2024\n\nUnit: \nData:\n"),
                    {"time_column": "time"}),
    "Empatica": ("1711843160.00\n25.000000\n" + "".join(f"{value}\n" for value in FLOW), {"names": ["flow"]}),
    "rdsamp": ("'Elapsed time','flow'\n'hh:mm:ss.mmm','L/min'\n"
               + "".join(f"'0:{t // 60:02.0f}:{t % 60:06.3f}',{v}\n" for t, v in zip(T, FLOW, strict=True)),
               {"time_column": "Elapsed time"}),
    "date and time": (table([f"{a},{b}" for a, b in zip(stamped("%d.%m.%Y"), stamped("%H:%M:%S.%f"), strict=True)],
                            header="Datum,t_s,flow"), {}),
    "HHMMSS": (table(stamped("%H%M%S.%f")), {}),
    "HHMMSSmmm": (table([f"{text:}" for text in stamped("%H%M%S%f")]), {}),
    "HHMMSS after midnight": (table([(stamp + timedelta(minutes=9)).strftime("%H%M%S.%f") for stamp in STAMPS]), {}),
    "YYYYMMDDHHMMSS": (table(stamped("%Y%m%d%H%M%S.%f")), {}),
    "YYYYMMDDHHMMSS and commas": (table(stamped("%Y%m%d%H%M%S.%f"), ";", ","), {}),
    "epoch ms": (table([f"{1711843160000 + 1000 * t:.0f}" for t in T]), {}),
    "epoch us": (table([f"{1711843160000000 + 1e6 * t:.0f}" for t in T]), {}),
    "ticks": (table([f"{455285099520 + 256 * t:.2f}" for t in T], header="t [s/256],flow"),
              {"time_column": "t [s/256]"}),
    "time_unit": (table([f"{1000 * t:.0f}" for t in T]), {"time_unit": "ms"}),
    "Excel days": (table([f"{45381.9995 + t / 86400:.10f}" for t in T]), {}),
    "whole seconds": (table(WHOLE), {}),
    "whole seconds, cut": ("t_s,flow\n" + "\n".join(table(WHOLE).split("\n")[10:1990]), {}),
    "times of day": (table(stamped("%H:%M:%S.%f")), {}),
    "AM and PM": (table(stamped("%I:%M:%S.%f %p")), {}),
    "US dates": (table(stamped("%m/%d/%Y %I:%M:%S.%f %p")), {}),
    "two-digit years": (table(stamped("%d/%m/%y %H:%M:%S.%f")), {}),
    "Viatom": (table(stamped("%H:%M:%S %b %d %Y")), {}),
    "O2 ring": (table([f'"{text}"' for text in stamped("%I:%M:%S%p %b %d, %Y")]), {}),
    "months in German": (table([f"{text[:2]}. M\u00e4rz 2024 {text[2:]}" for text in stamped("%d%H:%M:%S.%f")]), {}),
    "Chinese dates": (table(stamped("%Y\u5e74%m\u6708%d\u65e5 %H:%M:%S.%f")), {}),
    "ctime": (table(stamped("%a %b %d %H:%M:%S %Y")), {}),
    "Spanish AM and PM": (table([text.replace("AM", "a. m.").replace("PM", "p.\u00a0m.")
                                 for text in stamped("%d/%m/%Y %I:%M:%S.%f\u202f%p")]), {}),
    "zone apart": (table(stamped("%Y-%m-%d %H:%M:%S.%f +0100")), {}),
    "Uhr": (table(stamped("%d.%m.%Y %H:%M:%S,%f Uhr"), ";", ","), {}),
    "time_format": (table(stamped("%y.%m.%d_%H:%M:%S.%f"), header="t_s,flow"), {"time_format": "%y.%m.%d_%H:%M:%S.%f"}),
    "summer time": (table(LOCAL), {"time_zone": "Europe/Berlin"}),
    "winter time": (table(AUTUMN), {"time_zone": "Europe/Berlin"}),
    "missing words": (table(SECONDS).replace("\n1.00,", "\n1.00,--#").replace("\n2.00,", "\n2.00,N/A#")
                      .replace("\n3.00,", "\n3.00,off#"), {"missing": ["off"]}),
}  # fmt: skip
FORMS["missing words"] = ("".join(line.partition("#")[0] + "\n" for line in FORMS["missing words"][0].split("\n")),
                          FORMS["missing words"][1])  # fmt: skip
FORMS["blanks"] = (FORMS["blanks"][0].replace("t_s  flow", "t_s flow"), {})
HEAD, LINES = "# device 3\nt_s,flow\ns,L/min\n", table(SECONDS, header="").splitlines(keepends=True)
FORMS["restarted"] = (HEAD + "".join([*LINES[:900], HEAD, "\n", *LINES[900:1500], HEAD, *LINES[1500:]]), {})
FORMS["restarted at once"] = (HEAD + LINES[0] + LINES[1] + HEAD + "".join(LINES[2:]), {})
_, *ROWS = FORMS["comma"][0].splitlines()
R_LINES = ['"t_s","flow"', *(f'"{k}",{row}' for k, row in enumerate(ROWS, start=1))]
FORMS["row numbers of R"] = ("\n".join(R_LINES), {})
FORMS["row numbers of R, blanks"] = ("\n".join(R_LINES).replace(",", " "), {})
FORMS["Shift-JIS, names"] = (table([f"{text},\u6b63\u5e38" for text in SECONDS], header="t_s,\u8868\u793a,flow"), {})
FACTS = "Interval=\t0.04 s\nDateFormat=\nChannelTitle=\tflow\nRange=\t10 V\nUnitName=\tL/s\n"
COMMENTED = table(SECONDS, "\t", header="", before=FACTS, scale=60.0)
for at in ("\n4.00\t", "\n50.00\t"):                               # in the first lines, and far below
    COMMENTED = COMMENTED.replace(at, f"\t#* Lights off{at}")
FORMS["LabChart, units and comments"] = (COMMENTED, {"time_column": "time"})
CHANNELS = "rec.acq\n40 msec/sample\n2 channels\nRSP, X\nVolts\nflow\nL/s\n"
FORMS["AcqKnowledge, CH1 and CH2"] = (
    CHANNELS + "sec\tCH1\tCH2\t\n\t2000\t2000\t\n"
    + "".join(f"{t:.2f}\t1.5\t{v / 60:.7f}\t\n" for t, v in zip(T, FLOW, strict=True)), {"time_column": "sec"})
FORMS["AcqKnowledge without times"] = (
    CHANNELS + "CH1\tCH2\n2000\t2000\n" + "".join(f"1.5\t{value / 60:.7f}\n" for value in FLOW), {})
FORMS["Latin-1"] = (table(SECONDS, before="Ger\u00e4t 3\n", header="t_s,flow [L/s],Brust [\u00b5V]", tail=",1",
                          scale=60.0), {})  # fmt: skip
FORMS["Shift-JIS"] = (table(SECONDS, before="\u88c5\u7f6e 3\n", header="t_s,flow [L/s],\u80f8\u90ed", tail=",1",
                            scale=60.0), {})  # fmt: skip
FORMS["UTF-16"] = (FORMS["comma"][0], {})
FORMS["UTF-16, CR"] = (FORMS["CR"][0], {})
ENCODINGS = {"UTF-16": "utf-16", "Latin-1": "cp1252", "Shift-JIS": "cp932"}


@pytest.fixture
def form(request, tmp_path):
    """Return the file of a form and its dataset."""
    text, keys = FORMS[request.param]
    path = tmp_path / "one.csv"
    path.write_bytes(text.encode(ENCODINGS.get(request.param.partition(",")[0], "utf-8")))
    return path, DatasetConfig(**BASE | keys)


def live_rows(path, data):
    """Return the times and values of a file that is fed line by line, and the clock at its first row."""
    rows = Rows(data.time_column, ["flow"], InputWarnings(), dialect=dialect_of(data), units=["L/min"], rate_hz=RATE_HZ)
    with path.open("rb") as file:
        parts = read_lines(file, None, lambda: False, InputWarnings())
        found = [row for lines, _ in parts for line in lines for row in rows.take(line)]
    found += rows.rest()
    return np.array([t for t, _ in found]), np.array([values[0] for _, values in found]), rows.timestamp(found[0][0])


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_a_table_of_any_form_is_read_as_it_is_meant(form):
    path, data = form
    recording = load_recording(path, "one", data)
    t, flow = recording.t, recording.channels["flow"]
    cut = 9 if len(t) == 1980 else 0
    np.testing.assert_allclose(t - t[0], T[cut : cut + len(t)] - T[cut], atol=0.001)
    assert len(t) in (N, 1980) and measured_rate(t) == pytest.approx(RATE_HZ, rel=1e-3)
    expected = dict(zip(np.round(T[cut:] - T[cut], 2).tolist(), FLOW[cut:], strict=True))
    found = [expected[value] for value in np.round(flow.t - t[0], 2).tolist()]
    np.testing.assert_allclose(flow.values, found, atol=2e-3)
    assert len(flow.t) == len(t) - 3 * (data.missing == ["off"])


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_lines_one_by_one_give_the_rows_of_the_file(form, capsys):
    path, data = form
    recording = load_recording(path, "one", data)
    t, flow, clock = live_rows(path, data)
    if data.row_rate_hz is None and recording.time_column is not None:
        assert clock == clock_at(recording.start, recording.t[0])
    np.testing.assert_array_equal(t, recording.t)
    present = np.isfinite(flow)
    np.testing.assert_array_equal(t[present], recording.channels["flow"].t)
    np.testing.assert_allclose(flow[present], recording.channels["flow"].values, rtol=1e-12)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("form", ["HHMMSS", "times of day", "whole seconds", "winter time", "units row", "semicolon"],
                         indirect=True)  # fmt: skip
@pytest.mark.parametrize("at", [1, 2, 30, 990, 1100])
def test_rows_resume_from_their_state_in_any_form(form, at):
    path, data = form
    lines = path.read_text().splitlines()

    def rows():
        return Rows(data.time_column, ["flow"], InputWarnings(), dialect=dialect_of(data), rate_hz=RATE_HZ)

    whole, first, second = rows(), rows(), rows()
    expected = [row for line in lines for row in whole.take(line)] + whole.rest()
    found = [row for line in lines[:at] for row in first.take(line)]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [row for line in lines[at:] for row in second.take(line)] + second.rest()
    assert found == expected


def refusal(tmp_path, text, **keys):
    (tmp_path / "one.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_recording(tmp_path / "one.csv", None, Dialect(**keys))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (table(SECONDS, header=""), "row 1 holds only numbers or times: a header is missing; set names in"),
        (table(WHOLE, header=""), "row 1 holds only numbers or times: a header is missing; set names in"),
        (table(LOCAL), "row 1002: the clock is set forward by exactly an hour; set time_zone in"),
        (table(AUTUMN), "row 1002: the clock is set back by exactly an hour; set time_zone in"),
        (table([f"{45528509952 + 256 * k}" for k in range(N)]), ", 256 apart, cannot be seconds; set time_unit"),
        (table([f"{1e-5 * k:.5f}" for k in range(N)]), "apart, cannot be seconds; set time_unit"),
        ("t_s,flow\n" + "".join(f"{10_000 + 100 * k},{k % 7}\n" for k in range(59)), "clock times or seconds? set"),
        (table([f"{t:.2f}" for t in 500 + T // 60 * 100 + T % 60][:1900] + [f"{700 + k / 25:.2f}" for k in range(100)]),
         "times such as 500: clock times or seconds? set time_format"),
        (table(SECONDS, before="a,b\nc,d\n", header="flow,other"), "or skip_rows if lines stand before the header"),
        (table(stamped("%d%m%Y%H%M%S.%f")), "or time_format if they are clock times"),
        (COUNTS + "999;1.202\n", "row 1001: ambiguous numbers such as 1.202; set decimal"),
        (COUNTS + "999;1,202\n", "row 1001: ambiguous numbers such as 1,202; set decimal"),
        ("t_s,flow\n2024-05-01 10:00:00,1\n2024-05-01 10:00:00,2\n", "time repeats"),
        ("t_s,flow\nWed 1 May,1\nThu 2 May,2\n", "time_format names any other format"),
    ],
)  # fmt: skip
def test_a_doubt_is_refused_by_the_name_of_the_key(tmp_path, text, expected):
    message = refusal(tmp_path, text)
    assert expected in message and "drop" not in message and "sort" not in message


@pytest.mark.parametrize(("decimal", "cell"), [(",", "1.202"), (",", "1.202,5"), (".", "1,202"), (".", "1,202,333.25")])
def test_a_declared_decimal_sign_settles_thousands(tmp_path, decimal, cell):
    (tmp_path / "one.csv").write_text(f"{COUNTS}999;{cell}\n")
    dialect = Dialect(decimal=decimal)
    rows = Rows("t_s", ["flow"], InputWarnings(), dialect=dialect)
    live = [row for line in f"{COUNTS}999;{cell}".split("\n") for row in rows.take(line)]
    value = float(cell.replace("." if decimal == "," else ",", "").replace(",", "."))
    assert read_recording(tmp_path / "one.csv", None, dialect).channels["flow"].values[-1] == live[-1][1][0] == value


def test_a_proof_of_the_decimal_sign_anywhere_settles_it(tmp_path):
    counts = "".join(f"{k};{k}\n" for k in range(500))
    for text, value in (("1.202\n501;0.5", 1.202), ("1,202\n501;0,5", 1.202)):
        (tmp_path / "one.csv").write_text(f"t_s;flow\n{counts}500;{text}\n")
        assert read_recording(tmp_path / "one.csv").channels["flow"].values[500] == value


@pytest.mark.parametrize(("rate_hz", "digits"), [(32, 3), (128, 3), (256, 3), (25, 2)])
def test_a_rate_rounded_by_the_stamps_is_read_as_what_it_is(tmp_path, rate_hz, digits):
    rows = "".join(f"{k / rate_hz:.{digits}f},{k % 7}\n" for k in range(3000))
    (tmp_path / "one.csv").write_text("t_s,flow\n" + rows)
    assert f"flow: {rate_hz} Hz" in "\n".join(describe(read_recording(tmp_path / "one.csv")))


@pytest.mark.parametrize(
    ("times", "start"),
    [
        (stamped("%Y-%m-%dT%H:%M:%S.%f"), datetime(2024, 3, 30, 23, 59, 20)),
        (stamped("%d.%m.%Y %H:%M:%S,%f"), datetime(2024, 3, 30, 23, 59, 20)),
        (stamped("%d/%m/%y %H:%M:%S.%f"), datetime(2024, 3, 30, 23, 59, 20)),
        (stamped("%H:%M:%S.%f"), datetime(1900, 1, 1, 23, 59, 20)),      # without a date
        (SECONDS, None),
    ],
)
def test_the_clock_at_the_first_row_is_kept(tmp_path, times, start):
    (tmp_path / "one.csv").write_text(table(times, "\t"))
    assert read_recording(tmp_path / "one.csv").start == start


def test_rows_may_end_in_an_empty_cell_where_the_header_is_full(tmp_path):
    rows = "".join(f"{k / 10},{k % 7},{95 if k % 10 == 0 else ''}\n" for k in range(300))
    for before, first_row in (("", 2), ("Device X,,\nSerial 5,,\n", 4), ("a recorder\n", 3)):
        (tmp_path / "one.csv").write_text(f"{before}t_s,flow,spo2\n{rows}")
        layout = open_table(tmp_path / "one.csv").layout
        assert (layout.names, layout.first_row) == (["t_s", "flow", "spo2"], first_row)
    short = "start_s,end_s,label,source,note\n1,2,motion,me,\n3,4,apnea,me,long\n5,6,cough,me,\n7,8,apnea,me,short\n"
    (tmp_path / "one.events.csv").write_text(short)
    assert open_table(tmp_path / "one.events.csv").layout.first_row == 2


# ---- after the samples, and between them ----------------------------------------------------


@pytest.mark.parametrize(
    "end", ["Total,12.5\n", "# end", ",\n,\n", ",Mean\nMin,Max\n", "This is, as it were, the end\n", "\n#EOF"]
)
@pytest.mark.parametrize("times", [SECONDS, stamped("%H:%M:%S.%f")], ids=["seconds", "clock"])
def test_lines_after_the_last_sample_are_left_out_and_noted(tmp_path, end, times):
    (tmp_path / "one.csv").write_text(table(times) + end)
    for channels in (None, ["flow"]):
        recording = read_recording(tmp_path / "one.csv", channels)
        np.testing.assert_array_equal(recording.channels["flow"].values, FLOW)
        (note,) = [note for note in recording.notes if "after the last sample left out" in note]
        assert repr(end.strip().split("\n")[0])[1:-1] in note


def test_a_text_amid_the_times_is_no_footer(tmp_path):
    (tmp_path / "one.csv").write_text(table(SECONDS).replace("\n40.00,", "\nTotal,"))
    with pytest.raises(DataError, match="row 1002: column 't_s' holds 'Total'"):
        read_recording(tmp_path / "one.csv")


def test_a_repeated_header_is_noted_with_its_row(tmp_path):
    (tmp_path / "one.csv").write_text(FORMS["restarted"][0] + "Total,12.5\n")
    recording = read_recording(tmp_path / "one.csv")
    np.testing.assert_array_equal(recording.t, T)
    assert "6 lines left out that repeat the header or lines before it, first in row 904" in recording.notes
    assert any("1 line after the last sample left out: 'Total,12.5'" in note for note in recording.notes)
    (tmp_path / "one.csv").write_text(table(SECONDS).replace("\n40.00,", "\nt_s,other\n40.00,"))
    with pytest.raises(DataError, match="row 1002: column 't_s' holds 't_s'"):
        read_recording(tmp_path / "one.csv")


@pytest.mark.parametrize(("delimiter", "quote", "first"), [(" ", '"', 1), (",", "", 1), ("\t", '"', 57)])
def test_row_numbers_of_r_have_no_name_in_the_header(tmp_path, delimiter, quote, first):
    header = delimiter.join(f"{quote}{name}{quote}" for name in ("t_s", "flow"))
    lines = table(SECONDS, delimiter).splitlines()[1:]
    rows = [f"{quote}{k}{quote}{delimiter}{line}" for k, line in enumerate(lines, start=first)]
    (tmp_path / "one.txt").write_text("\n".join([header, *rows]))
    for channels in (None, ["flow"]):
        recording = read_recording(tmp_path / "one.txt", channels)
        np.testing.assert_array_equal(recording.t, T)
        np.testing.assert_array_equal(recording.channels["flow"].values, FLOW)


def test_a_cell_more_than_the_header_is_settled_by_names(tmp_path):
    lines = [f"{k * 7 % 13},{line}" for k, line in enumerate(table(SECONDS).split("\n")[1:-1])]
    (tmp_path / "one.csv").write_text("\n".join(["t_s,flow", *lines]))
    with pytest.raises(DataError, match="row 2: more cells than the header; .*set names in dataset_config.json"):
        read_recording(tmp_path / "one.csv", ["flow"])
    recording = read_recording(tmp_path / "one.csv", ["flow"], Dialect(names=["id", "t_s", "flow"]))
    np.testing.assert_array_equal(recording.channels["flow"].values, FLOW)


def test_a_damaged_last_sample_is_no_footer(tmp_path):
    (tmp_path / "one.csv").write_text(table(SECONDS) + "80.0O,1.5\n")
    with pytest.raises(DataError, match="row 2002: column 't_s' holds '80.0O'"):
        read_recording(tmp_path / "one.csv")


def test_a_column_of_texts_that_begins_late_is_left_out_unless_asked_for(tmp_path):
    marks = ["Lights off" if k == 1500 else "" for k in range(N)]
    lines = [f"{t},{value},{mark}" for t, value, mark in zip(SECONDS, FLOW, marks, strict=True)]
    (tmp_path / "one.csv").write_text("\n".join(["t_s,flow,mark", *lines]))
    recording = read_recording(tmp_path / "one.csv")
    assert set(recording.channels) == {"flow"} and len(recording.channels["flow"].values) == N
    assert "column 'mark' is not read: row 1502 holds 'Lights off', not a number" in recording.notes
    with pytest.raises(DataError, match="row 1502: column 'mark' holds 'Lights off'.*set missing"):
        read_recording(tmp_path / "one.csv", ["mark"])


@pytest.mark.parametrize(
    ("column", "unit_s"), [("time_h", 3600.0), ("t_min", 60.0), ("elapsed_ms", 1e-3), ("Zeit min", 60.0)]
)
def test_a_unit_at_the_end_of_the_name_of_the_times(tmp_path, column, unit_s):
    (tmp_path / "one.csv").write_text(table([f"{t / unit_s:.12g}" for t in T], header=f"{column},flow"))
    np.testing.assert_allclose(read_recording(tmp_path / "one.csv").t, T, atol=1e-6)
    rows = Rows(column, ["flow"], InputWarnings(), rate_hz=RATE_HZ)
    taken = [row for line in (tmp_path / "one.csv").read_text().splitlines() for row in rows.take(line)] + rows.rest()
    np.testing.assert_allclose([t for t, _ in taken], T, atol=1e-6)


@pytest.mark.parametrize("before", [198, 199])
def test_samples_may_begin_after_the_lines_that_are_looked_at(tmp_path, before):
    (tmp_path / "one.csv").write_text("# remark\n" * before + "t_s,flow\n0,1.5\n1,2.5\n2,0.5\n")
    recording = read_recording(tmp_path / "one.csv", ["flow"])
    assert recording.t.tolist() == [0, 1, 2] and recording.channels["flow"].values.tolist() == [1.5, 2.5, 0.5]
