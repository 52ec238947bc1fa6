import io
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny

from config import DatasetConfig
from live import replay
from recordings.preprocessing import dialect_of
from recordings.reading import read_recording

SCRIPT = ("-m", "live.replay")


@pytest.fixture
def night(tmp_path):
    """A recording of channels at several rates, with gaps, in a gzip'd CSV."""
    tiny.draw_recording(120, 3, trouble=True).to_csv(tmp_path / "night.csv.gz", index=False)
    return tmp_path / "night.csv.gz"


def replayed(capsys, *arguments):
    """Return the exit code and the lines on stdout."""
    capsys.readouterr()
    code = replay.main([str(word) for word in arguments])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("start_s", [0.0, 1714602600.0])
def test_all_samples_come_back_at_full_speed(tmp_path, capsys, start_s):
    frame, night = tiny.draw_recording(20, 3), tmp_path / "night.csv"
    frame["t_s"] += start_s
    frame["flow"] *= 1e5 / 3                                         # many digits
    frame.to_csv(night, index=False)
    code, out = replayed(capsys, night, "--speed", 0)
    assert code == 0 and out.splitlines()[0] == "t_s,flow,belt,pulse"
    (tmp_path / "again.csv").write_text(out)
    first, second = read_recording(night), read_recording(tmp_path / "again.csv")
    np.testing.assert_array_equal(first.t, second.t)
    assert list(first.channels) == list(second.channels)
    for name, samples in first.channels.items():
        np.testing.assert_array_equal(samples.t, second.channels[name].t)
        np.testing.assert_array_equal(samples.values, second.channels[name].values)


def test_a_row_comes_when_it_is_due(tmp_path, monkeypatch):
    path = tmp_path / "night.csv"
    path.write_text("t_s,flow\n" + "".join(f"{100 + k / 25},{k}\n" for k in range(51)))        # 2 s
    came, now = [], time.monotonic()

    class Output(io.StringIO):
        def write(self, text):
            came.extend([time.monotonic() - now] * text.count("\n"))
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Output())
    assert replay.main([str(path), "--speed", "10"]) == 0
    rows = np.array(came[1:]) - came[1]
    due = np.arange(51) / 250
    assert len(rows) == 51 and (rows >= due - 0.02).all()            # never before its time
    assert rows[-1] < 5                                              # and at about the right speed


def test_a_closed_output_pipe_is_not_an_error(night):
    command = [sys.executable, *SCRIPT, str(night), "--speed", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"t_s,flow,belt,pulse\n"
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 0 and not err


def test_timestamps_and_another_time_column(tmp_path, capsys):
    path = tmp_path / "night.csv"
    path.write_text("when,flow\n2024-05-01 22:30:00,1\n2024-05-01 22:30:00.04,2.5\n2024-05-01 22:30:00.08,\n")
    code, out = replayed(capsys, path, "--speed", 0, "--time-column", "when")
    assert code == 0 and out.splitlines() == [
        "when,flow", *(f"2024-05-01 22:30:00.{part}" for part in ("000000,1.0", "040000,2.5", "080000,"))
    ]


def test_local_times_come_back_where_the_clock_is_changed(tmp_path):
    local = ["2024-03-31 01:59:58", "2024-03-31 01:59:59", "2024-03-31 03:00:00", "2024-03-31 03:00:01"]
    (tmp_path / "night.csv").write_text("t_s,flow\n" + "".join(f"{stamp},{k}\n" for k, stamp in enumerate(local)))
    data = DatasetConfig(**tiny.DATA | {"time_zone": "Europe/Berlin"})
    recording = read_recording(tmp_path / "night.csv", ["flow"], dialect_of(data))
    written = replay._clock_of(recording, data)
    assert [written(t) for t in recording.t] == [f"{stamp}.000000" for stamp in local]
