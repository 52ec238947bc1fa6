"""WFDB records of several segments, with gaps and changing signals; headers that leave out a unit or a gain."""

from datetime import datetime

import numpy as np
import pytest

from recordings.reading import read_recording
from recordings.signal_files import companions, read_signals
from recordings.signals import NoSamples
from utils import DataError

wfdb = pytest.importorskip("wfdb", reason="pip install -r requirements-formats.txt")

RANDOM = np.random.default_rng(0)
FLOW, BELT = RANDOM.integers(-3000, 3000, 300), RANDOM.integers(-500, 500, 300)


def segment(folder, name, units=("L/min", "mV"), names=("flow", "belt"), **signals):
    """Write one segment of 25 Hz, 16 bits, 100 steps a unit."""
    parts = [np.asarray(values) for values in signals.values()]
    wfdb.wrsamp(
        name, fs=25, units=[units[names.index(n)] for n in signals], sig_name=list(signals), fmt=["16"] * len(parts),
        d_signal=np.column_stack(parts), adc_gain=[100.0] * len(parts), baseline=[0] * len(parts),
        write_dir=str(folder),
    )  # fmt: skip


def master(folder, lines, frames, count=2, clock=" 22:30:00 31/12/2024"):
    text = f"night/{len(lines)} {count} 25 {frames}{clock}\n" + "".join(f"{line}\n" for line in lines)
    (folder / "night.hea").write_text(text)
    return folder / "night.hea"


def fixed(folder):
    segment(folder, "night_1", flow=FLOW[:100], belt=BELT[:100])
    segment(folder, "night_2", flow=FLOW[100:], belt=BELT[100:])
    return master(folder, ["night_1 100", "~ 50", "night_2 200"], 350)


def variable(folder):
    """A layout of two signals; the belt is missing in the first segment and first in the second."""
    (folder / "night_layout.hea").write_text(
        "night_layout 2 25 0\n~ 0 100/L/min 0 0 0 0 0 flow\n~ 0 100/mV 0 0 0 0 0 belt\n"
    )
    segment(folder, "night_1", flow=FLOW[:100])
    segment(folder, "night_2", belt=BELT[100:], flow=FLOW[100:])
    return master(folder, ["night_layout 0", "night_1 100", "~ 50", "night_2 200"], 350)


@pytest.mark.parametrize("layout", [fixed, variable])
def test_segments_are_joined_with_gaps_between(tmp_path, layout):
    recording = read_recording(layout(tmp_path))
    for name, digital in (("flow", FLOW), ("belt", BELT)):
        first = 100 if (layout, name) == (variable, "belt") else 0
        frames = np.r_[0:100, 150:350][first:]
        np.testing.assert_allclose(recording.channels[name].t, frames / 25, atol=1e-12)
        np.testing.assert_allclose(recording.channels[name].values, digital[first:] / 100, atol=1e-9)
    assert recording.start == datetime(2024, 12, 31, 22, 30)
    assert recording.format.startswith("WFDB, 2 segments")
    assert [s.unit for s in recording.channels.values()] == ["L/min", "mV"]


def test_a_variable_layout_is_read_as_wfdb_reads_it(tmp_path):
    recording = read_recording(variable(tmp_path))
    joined = wfdb.rdrecord(str(tmp_path / "night"), m2s=True)
    for name, samples in recording.channels.items():
        column = joined.p_signal[:, joined.sig_name.index(name)]
        np.testing.assert_allclose(samples.values, column[np.isfinite(column)], atol=1e-9)
        np.testing.assert_allclose(samples.t, np.flatnonzero(np.isfinite(column)) / 25, atol=1e-12)


def test_one_signal_of_a_record_of_segments_is_read_alone(tmp_path):
    found = read_signals(variable(tmp_path), ["belt"]).signals
    assert list(found) == ["belt"] and found["belt"].t[0] == 150 / 25
    names = {file.name for file in companions(tmp_path / "night.hea", [])}
    assert names == {"night_1.hea", "night_1.dat", "night_2.hea", "night_2.dat"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: (f / "night_2.hea").unlink(), "night.hea: its segment night_2.hea is missing"),
        (lambda f: (f / "night_2.dat").unlink(), "night_2.hea: its signal file night_2.dat is missing"),
        (lambda f: (f / "night_2.dat").write_bytes(b"12"), "night_2.dat: truncated: 2 bytes"),
        (lambda f: master(f, ["night_1 100", "night_2 150"], 250), "night_2.hea: 200 frames at 25 Hz; night.hea decl"),
        (lambda f: master(f, ["night_1 100", "night 200"], 300), "night.hea: its segment night.hea is missing"),
        (lambda f: segment(f, "night_2", ("L/s", "mV"), flow=FLOW[100:]), "night.hea: signal 'flow' is in 'L/min'"),
    ],
)
def test_segments_that_do_not_fit_together_are_refused(tmp_path, change, expected):
    path = fixed(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=f"^{expected}"):
        read_recording(path)


def test_a_record_of_gaps_alone_has_no_samples(tmp_path):
    with pytest.raises(NoSamples, match="^night.hea: no samples: none of 2 segments holds any$"):
        read_recording(master(tmp_path, ["~ 50", "~ 60"], 110))


@pytest.mark.parametrize(
    ("field", "unit", "notes", "scale"),
    [
        ("100", "", ["'flow' has no unit in the header"], 100),
        ("100(0)", "", ["'flow' has no unit in the header"], 100),
        ("100/L/min", "L/min", [], 100),
        ("", "", ["'flow' has no unit in the header", "'flow' has no gain in the header; 200 steps are read as 1, as "
         "WFDB prescribes"], 200),
    ],
)  # fmt: skip
def test_a_unit_that_a_header_leaves_out_is_not_invented(tmp_path, field, unit, notes, scale):
    segment(tmp_path, "night", flow=FLOW)
    rest = f"{field} 16 0 {FLOW[0]} 0 0 flow" if field else ""
    (tmp_path / "night.hea").write_text(f"night 1 25 300\nnight.dat 16 {rest}\n")
    recording = read_recording(tmp_path / "night.hea")
    (samples,) = recording.channels.values()
    assert samples.unit == unit
    assert [note.replace("'signal 0'", "'flow'") for note in recording.notes] == notes
    np.testing.assert_allclose(samples.values, FLOW / scale, atol=1e-9)
