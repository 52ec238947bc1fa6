"""Live detection as a user calls it: lines in, lines out, restarts and mistakes."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import warm

import stream_detect
from detection.checkpoint import read_tensors, write_tensors
from live import stream
from live.detection import LiveDetection, Step
from live.rows import InputWarnings, Rows
from utils import ROOT

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "stream_detect.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


class Home:
    """Checkpoints and raw input, left as they are by every test."""

    def __init__(self, folder):
        self.folder = folder
        self.checkpoint, self.series = tiny.make_checkpoint(folder), tiny.make_series_checkpoint(folder)
        tiny.draw_recording(130, 3, trouble=True).to_csv(folder / "live.csv", index=False)
        tiny.draw_series(400, 3, trouble=True).to_csv(folder / "series.csv", index=False)
        self.lines = (folder / "live.csv").read_bytes().splitlines(keepends=True)
        self.series_lines = (folder / "series.csv").read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


class Input(io.BytesIO):
    """Bytes as stdin, through a file that has a number."""

    def __init__(self, path, content):
        path.write_bytes(content)
        self.buffer = path.open("rb")


@pytest.fixture
def call(home, tmp_path, monkeypatch, capfdbinary):
    """Return a function that runs the script in this process; it gives the exit code, stdout and stderr."""

    def run(content, *arguments, checkpoint=home.checkpoint):
        monkeypatch.setattr(sys, "stdin", Input(tmp_path / "stdin", content))
        capfdbinary.readouterr()
        code = stream_detect.main(["--checkpoint", str(checkpoint), *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out, [line for line in err.decode().splitlines() if not line[:2].isdigit()]

    return run


@pytest.fixture(scope="module")
def expected(home, tmp_path_factory):
    """What an undisturbed run writes of the recording, of the series, and of the first as JSON lines."""
    folder = tmp_path_factory.mktemp("expected")
    for name, checkpoint, kind in (("live", home.checkpoint, "csv"), ("series", home.series, "csv"),
                                   ("live", home.checkpoint, "jsonl")):
        with pytest.MonkeyPatch.context() as monkeypatch:
            content = (home.folder / f"{name}.csv").read_bytes()
            monkeypatch.setattr(sys, "stdin", Input(folder / "stdin", content))
            arguments = ["--checkpoint", str(checkpoint), "--out", str(folder / f"{name}.{kind}"), "--format", kind]
            assert stream_detect.main(arguments) == 0
    return {name: (folder / name).read_bytes() for name in ("live.csv", "series.csv", "live.jsonl")}


def table(content):
    return pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""])


def test_what_the_input_calls_otherwise_is_said_by_options(home, call, expected):
    header, *lines = home.lines
    assert header == b"t_s,flow,belt,pulse\n"
    scaled = [b",".join([t, flow and b"%.9g" % (float(flow) / 60), *more]) for t, flow, *more in
              (line.split(b",") for line in lines)]  # fmt: skip
    content = b"".join([b"when,Flow.1,belt,Puls\n", *scaled])
    names = ["--time-column", "when", "--channel", "flow=Flow.1:L/s", "--channel", "pulse=Puls"]
    code, out, _ = call(content, *names)
    ours, theirs = table(out), table(expected["live.csv"])
    assert code == 0 and (ours["kind"] == theirs["kind"]).all()
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=1e-3)
    code, out, err = call(content, "--channel", "flux=Flow.1")
    assert (code, out) == (2, b"")
    assert err == ["error: --channel flux: not a channel of the model; it has flow, belt, pulse"]
    series = home.series_lines[0].replace(b"timestamp,value", b"ds,y") + b"".join(home.series_lines[1:])
    found = call(series, "--time-column", "ds", "--channel", "value=y", checkpoint=home.series)
    assert found[:2] == (0, expected["series.csv"])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "Berlin"])
def test_a_clock_change_is_named_and_settled_by_a_zone(home, call, zone):
    stamps = pd.Timestamp("2024-03-31 01:59:00") + pd.to_timedelta(np.arange(3000) / 25, unit="s")
    stamps += pd.to_timedelta(np.where(np.arange(3000) >= 1500, 1, 0), unit="h")
    lines = zip(stamps, home.lines[1:], strict=False)
    content = home.lines[0] + b"".join(t.isoformat().encode() + line[line.index(b",") :] for t, line in lines)
    code, out, err = call(content, *(["--time-zone", zone] if zone else []))
    if zone == "Berlin":
        assert (code, out) == (2, b"") and err[0].startswith("error: --time-zone Berlin: unknown zone")
        return
    named = [line for line in err if "set forward by exactly an hour" in line]
    assert code == 0 and len(named) == (zone is None)
    assert table(out)["t_s"].max() > 3600 if zone is None else table(out)["t_s"].max() < 150


# ---- what comes out -------------------------------------------------------------------------


def test_there_is_a_line_a_step_and_one_at_both_ends_of_an_event(home, call, expected):
    code, out, err = call(b"".join(home.lines))
    assert (code, out, err) == (0, expected["live.csv"], [])
    found = table(out)
    assert list(found) == list(stream.COLUMNS)
    kinds = ("step", "event_start", "event_end", "respiratory_event")
    steps, starts, ends, respiratory = (found[found["kind"] == kind] for kind in kinds)
    assert sum(map(len, (steps, starts, ends, respiratory))) == len(found) and steps["t_s"].is_monotonic_increasing
    assert steps[["threshold", "alarm"]].notna().all(axis=None) and steps["alarm"].sum() > 10
    assert len(ends) == len(starts) >= 6 and set(ends["found_by"]) == {"lstm", "signal_loss", "oximetry"}
    assert starts["end_s"].isna().all() and (ends["end_s"] >= ends["start_s"]).all()
    assert starts["start_s"].isin(ends["start_s"]).all()
    apnea = ends[(ends["found_by"] == "lstm") & ends["start_s"].between(40, 57)]
    assert len(apnea) and apnea["channel"].isin(tiny.DATA["channels"]).all()
    assert set(found) - set(respiratory.dropna(axis="columns", how="all")) == {
        "clock", "score", "threshold", "alarm", "peak_score", "start_clock", "end_clock", "effort",
    }  # fmt: skip
    assert respiratory["event_kind"].str.contains("apnea").all() and len(respiratory) >= 1
    np.testing.assert_allclose(respiratory["duration_s"], respiratory["end_s"] - respiratory["start_s"], atol=1e-5)


def test_json_lines_hold_the_same(expected):
    lines = [json.loads(line) for line in expected["live.jsonl"].splitlines()]
    found = table(expected["live.csv"])
    assert [line["kind"] for line in lines] == found["kind"].tolist()
    again = pd.DataFrame(lines, columns=[*stream.COLUMNS]).drop(columns="clock")
    pd.testing.assert_frame_equal(again, found.drop(columns="clock"), check_dtype=False)
    assert "score" not in lines[0] and all(value not in ("", None) for line in lines for value in line.values())


def test_timestamps_are_kept(home, call, expected):
    frame = tiny.draw_recording(130, 3, trouble=True)
    frame["t_s"] = (pd.Timestamp("2024-05-01 22:30") + pd.to_timedelta(frame["t_s"], unit="s")).astype(str)
    code, out, _ = call(frame.to_csv(index=False).encode())
    found, seconds = table(out), table(expected["live.csv"])
    assert code == 0 and found["t_s"].equals(seconds["t_s"])
    np.testing.assert_allclose(found["score"], seconds["score"], atol=1e-6)
    stamps = pd.to_datetime(found["clock"]) - pd.Timestamp("2024-05-01 22:30")
    np.testing.assert_allclose(stamps.dt.total_seconds(), found["t_s"], atol=1e-3)
    events = found[found["kind"] == "respiratory_event"]
    starts = pd.to_datetime(events["start_clock"]) - pd.Timestamp("2024-05-01 22:30")
    np.testing.assert_allclose(starts.dt.total_seconds(), events["start_s"], atol=1e-3)


def test_a_series_has_a_step_a_row_with_its_own_timestamp(home, expected):
    found, rows = table(expected["series.csv"]), pd.read_csv(home.folder / "series.csv")
    steps = found[found["kind"] == "step"]
    assert steps["timestamp"].tolist() == rows["timestamp"].tolist()
    assert len(steps) == 400 and found["kind"].tolist().count("event_end") >= 1


def test_faulty_lines_are_reported_and_change_nothing_else(home, call, expected):
    lines = list(home.lines)
    trouble = [b"\xff\xfe\n", b"1,2\n", b"soon,1,2,3\n", b"9" * 10**6 + b"\n", lines[0], lines[99], b"\r\n"]
    trouble += [b'1,"2\r3"x,4,5\n']
    for k, line in enumerate(trouble):
        lines.insert(100 + 200 * k, line)
    code, out, err = call(b"\xef\xbb\xbf" + b"".join(lines).replace(b"\n", b"\r\n"))
    assert (code, out) == (0, expected["live.csv"])
    assert 5 <= len(err) <= 8 and all(len(line) < 200 for line in err)


def test_a_clock_set_back_begins_a_new_recording(home, call, expected):
    code, out, err = call(b"".join([*home.lines, *home.lines[1:]]))
    assert code == 0 and out == expected["live.csv"] + expected["live.csv"].partition(b"\n")[2]
    assert err[-1] == "clock set back to 0 s: a new recording begins"


def test_a_cell_with_a_comma_or_a_quotation_mark_is_quoted(tmp_path):
    output = stream.Output(tmp_path / "out", False, Rows("t_s", ["flow"], InputWarnings()))
    output.begin()
    output.write([Step(0.2, np.zeros(1), np.zeros(1), 1.5, 2.0, False, 'flow,"nasal"')])
    output.close()
    assert (tmp_path / "out").read_text().splitlines()[1] == 'step,0.2,,1.5,2.0,0,"flow,""nasal"""' + "," * 15


# ---- restarts -------------------------------------------------------------------------------

CUTS = [1, 2, 60, 1100, 2300, 2600]


def kill_after(monkeypatch, rows):
    """Let the process, which reads a few lines at once, seem to die when that many rows have been taken."""
    push, left = LiveDetection.push, [rows]

    def dying(live, some):
        left[0] -= len(some)
        if left[0] < 0:
            raise SystemExit(137)
        return push(live, some)

    monkeypatch.setattr("live.rows.CHUNK", 300)

    monkeypatch.setattr(LiveDetection, "push", dying)


@pytest.mark.parametrize("again", ["from the start", "from where it was"])
@pytest.mark.parametrize("name", ["live", "series"])
def test_after_restarts_the_output_is_that_of_an_undisturbed_run(home, call, expected, tmp_path, again, name):
    checkpoint, lines = (home.series, home.series_lines) if name == "series" else (home.checkpoint, home.lines)
    arguments = ["--state", tmp_path / "state", "--out", tmp_path / "out"]
    done = 0
    for cut in [*(cut for cut in CUTS if cut < len(lines)), len(lines)]:
        first = 0 if again == "from the start" else done
        assert call(b"".join(lines[first:cut]), *arguments, checkpoint=checkpoint)[0] == 0
        done = cut
    assert (tmp_path / "out").read_bytes() == expected[f"{name}.csv"]


@pytest.mark.parametrize(("rows", "save_s"), [(0, 0.0), (1, 0.0), (700, 0.05), (2500, 0.05), (2500, 10.0)])
def test_after_a_crash_the_output_is_that_of_an_undisturbed_run(
    home, call, expected, tmp_path, monkeypatch, rows, save_s
):
    arguments = ["--state", tmp_path / "state", "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(stream, "SAVE_S", save_s)
        kill_after(patch, rows)
        with pytest.raises(SystemExit):
            call(b"".join(home.lines), *arguments)
    assert call(b"".join(home.lines), *arguments)[0] == 0
    assert (tmp_path / "out").read_bytes() == expected["live.csv"]


def test_a_clock_set_back_before_a_restart_does_not_matter(home, call, tmp_path):
    lines = [*home.lines[:1500], *home.lines[1:900]]
    for name, cuts in (("whole", []), ("cut", [400, 1600, 2000])):
        arguments = ["--state", tmp_path / f"{name}.state", "--out", tmp_path / name]
        for cut in [*cuts, len(lines)]:
            assert call(b"".join(lines[:cut]), *arguments)[0] == 0
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_recent_rows_that_come_again_are_skipped_silently(home, call, expected, tmp_path):
    arguments = ["--state", tmp_path / "state", "--out", tmp_path / "out"]
    call(b"".join(home.lines[:1500]), *arguments)
    code, _, err = call(b"".join([home.lines[0], *home.lines[1300:]]), *arguments)
    assert code == 0 and (tmp_path / "out").read_bytes() == expected["live.csv"] and not err


def start(home, *arguments, stdin=subprocess.DEVNULL):
    command = [sys.executable, str(SCRIPT), "--checkpoint", str(home.checkpoint), *map(str, arguments)]
    return warm.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)


def append(path, lines):
    with path.open("ab") as file:
        file.write(b"".join(lines))


@pytest.fixture(scope="module")
def followed(home, tmp_path_factory):
    """A file that grew while it was followed, by processes killed, terminated, interrupted; their codes and stderr."""
    folder = tmp_path_factory.mktemp("followed")
    night, out, state = (folder / name for name in ("night.csv", "out", "state"))
    done, cut = 0, home.lines[1500][:7]                              # half a line
    codes, errors = [], []
    pieces = [(signal.SIGKILL, home.lines[:900]), (signal.SIGTERM, [*home.lines[900:1500], cut]),
              (signal.SIGINT, [home.lines[1500][7:], *home.lines[1501:]])]
    night.touch()
    for number, lines in pieces:
        process = start(home, "--follow", night, "--out", out, "--state", state)
        wait_for(lambda: out.exists() or not night.stat().st_size, process)
        append(night, lines[: len(lines) // 2])
        done += len(lines)
        append(night, lines[len(lines) // 2 :])
        enough = (done - 60) / 25 * 5 - 20                           # steps, without the gap of 4 s
        wait_for(lambda: out.exists() and out.read_bytes().count(b"\nstep") >= enough, process)    # noqa: B023
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        codes.append(process.returncode)
        errors.append(err.decode())
    return codes, errors, out, state


def test_a_signal_ends_it_with_its_code_and_no_traceback(followed):
    codes, errors, _, state = followed
    assert codes == [-signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT]
    assert not any("Traceback" in err for err in errors) and state.is_file()


def test_after_signals_the_output_of_a_followed_file_is_undisturbed(followed, expected):
    _, _, out, _ = followed
    whole, got = expected["live.csv"].splitlines(), out.read_bytes().splitlines()
    assert got == whole[: len(got)] and len(whole) - len(got) < 10           # without lines of the end


def test_a_followed_file_that_became_shorter_is_read_from_its_start(home, call, expected, tmp_path):
    night, out = tmp_path / "night.csv", tmp_path / "out"
    ends = expected["live.csv"].count(b"\n")
    night.write_bytes(b"".join(home.lines))

    def recorder():
        """Wait for all that is known of the first recording; start the file again; stop the program."""
        wait_for_lines(out, ends - 8)
        night.write_bytes(b"".join(home.lines[:900]))
        wait_for_lines(out, ends + 150)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=recorder)
    thread.start()
    code, _, err = call(b"", "--follow", night, "--out", out)
    thread.join()
    assert code == 128 + signal.SIGTERM
    assert err[0] == "night.csv became shorter; reading it from its start"
    assert err[-1] == "clock set back to 0 s: a new recording begins"
    steps = expected["live.csv"].splitlines()[1:]
    got = out.read_bytes().removeprefix(expected["live.csv"]).splitlines()
    assert len(got) >= 150 and got[:-12] == steps[: len(got) - 12]           # but for what comes at any end


def wait_for_lines(path, count):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < count):
        time.sleep(0.02)


def test_a_closed_output_pipe_is_not_an_error(home):
    with (home.folder / "live.csv").open("rb") as lines:
        process = start(home, stdin=lines)
        first = process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
    assert process.wait(timeout=30) == 0 and not err and first.decode().strip() == ",".join(stream.COLUMNS)


# ---- the user's mistakes --------------------------------------------------------------------


@pytest.fixture
def refused(call, tmp_path):
    """Return a function that runs the script and gives the one line that refuses it; it leaves nothing behind."""

    def run(content, *arguments, **options):
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name != "stdin"}
        code, out, err = call(content, *arguments, **options)
        after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name != "stdin"}
        assert code == 2 and len(err) == 1 and err[0].startswith("error: ") and not out and after == before
        return err[0]

    return run


def test_a_state_that_does_not_fit_is_refused(home, call, refused, tmp_path):
    path = tmp_path / "night.state"
    call(b"".join(home.series_lines[:50]), "--state", path, checkpoint=home.series)
    assert "night.state: belongs to another checkpoint; delete it" in refused(b"", "--state", path)
    call(b"".join(home.lines[:50]), "--state", tmp_path / "mine.state")
    whole = read_tensors(tmp_path / "mine.state")
    for content in (b"", b"nothing of use", (tmp_path / "mine.state").read_bytes()[:-300]):
        path.write_bytes(content)
        assert "night.state: not a state of this program" in refused(b"", "--state", path)
    for wrong in ({"format": 2}, {"format": 9}, {"format": torch.zeros(2)}, {}):
        write_tensors(path, wrong)
        assert "night.state: not a state of this program" in refused(b"", "--state", path)
    for name in ("stream", "place", "bytes", "tail"):
        write_tensors(path, {key: value for key, value in whole.items() if key != name})
        assert "night.state: not a state of this checkpoint" in refused(b"", "--state", path)


def test_an_existing_or_too_short_output_is_refused_and_not_changed(home, call, refused, tmp_path):
    out, state = tmp_path / "out", tmp_path / "state"
    out.write_text("mine")
    assert "exists already, and there is no --state to resume from" in refused(b"", "--out", out)
    assert "exists already" in refused(b"", "--out", out, "--state", state)
    call(b"".join(home.lines[:300]), "--state", state)                       # to stdout: no file belongs to the state
    assert "exists already" in refused(b"", "--out", out, "--state", state)
    out.unlink()
    state.unlink()
    call(b"".join(home.lines[:600]), "--state", state, "--out", out)
    kept = out.read_bytes()
    out.write_bytes(kept[:50])
    assert "shorter than the" in refused(b"", "--out", out, "--state", state)
    out.unlink()
    assert "shorter than the" in refused(b"", "--out", out, "--state", state)
    recording = tmp_path / "recording.csv"                                   # named by mistake: it must not be cut
    recording.write_bytes(b"".join(home.lines) * 3)
    assert "not the file that belongs to the saved state" in refused(b"", "--out", recording, "--state", state)
    out.write_bytes(kept + b"what came after the last save")
    code, _, err = call(b"", "--out", out, "--state", state)
    assert code == 0 and not err and out.read_bytes().startswith(kept)


def test_an_input_without_a_readable_row_is_an_error(home, call):
    header, *rows = home.lines[:40]
    code, _, err = call(header + b"".join(b"noon," + row.split(b",", 1)[1] for row in rows))
    assert code == 2 and err[-1] == "error: stdin: no row could be read; the lines above say why"
    for few in (b"", header, header + b"junk\n" + rows[0]):
        code, out, err = call(few)
        assert code == 2 and not out.count(b"step") and "no step; expected some seconds of samples" in err[-1]


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stream.noted_signals() as noted:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGTERM] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_paths_that_cannot_be_used_are_refused(home, refused, tmp_path):
    lines, folder = b"".join(home.lines[:9]), tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert "--follow" in refused(b"", "--follow", tmp_path / "none.csv")
    assert "not a file" in refused(b"", "--follow", folder)
    assert "not a file" in refused(b"", "--follow", tmp_path / "pipe")
    assert "--out" in refused(lines, "--out", folder)
    assert "cannot be written" in refused(lines, "--out", folder / "none" / "out")
    assert "folder: not a state of this program" in refused(b"", "--state", folder)
    shutil.copy(home.checkpoint, tmp_path / "file")
    lost = ["--state", tmp_path / "file" / "state", "--out", tmp_path / "out"]
    assert "file/state: cannot be written" in refused(lines, *lost)
