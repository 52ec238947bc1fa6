"""EDF and WFDB files written by the libraries' own writers say the same as the CSV of the same data."""

import copy
import datetime
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from collected_data_preprocess import main
from recordings import edf, windowing
from recordings.inspection import describe
from recordings.reading import Dialect, name_of, read_recording
from recordings.signal_files import companions, read_signals
from recordings.signals import NoSamples
from utils import DataError, sha256_of

pyedflib = pytest.importorskip("pyedflib", reason="pip install -r requirements-dev.txt")
wfdb = pytest.importorskip("wfdb", reason="pip install -r requirements-formats.txt")

RATES = {"flow": 25.0, "belt": 12.5, "spo2": 1.0}
UNITS = {"flow": "L/min", "belt": "mV", "spo2": "%"}
NOTES = [(5.0, None, "Lights off"), (60.0, 10.0, "Apnea")]
NIGHTS = ("night_a", "night_b", "night_c")
KINDS = ("edf", "bdf", "hea")
ENTRY = {
    "description": "made by a test",
    "raw_dir": "raw",
    "raw_hint": "put them there",
    "channels": {name: {"unit": UNITS[name], "rate_hz": rate} for name, rate in RATES.items()},
    "rate_hz": 5.0,
    "window_s": 10.0,
    "guard_s": 10.0,
    "normal_margin_s": 5.0,
    "split": {"train": ["night_a"], "val": ["night_b"], "test": ["night_c"]},
    "labels": {"Apnea": "apnea"},
}


def steps_of(seconds: float = 120.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Return each channel in digital steps of 0.01."""
    rng = np.random.default_rng(seed)
    flow, belt, spo2 = (np.arange(round(seconds * rate)) / rate for rate in RATES.values())
    values = {
        "flow": 30 * np.sin(2 * np.pi * flow / 4) + rng.normal(size=len(flow)),
        "belt": 10 * np.sin(2 * np.pi * belt / 4 - 0.5) + 0.3 * rng.normal(size=len(belt)),
        "spo2": 95 + rng.integers(0, 4, len(spo2)),
    }
    return {name: np.round(100 * v).astype(np.int32) for name, v in values.items()}


def write_csv(path: Path, steps: dict[str, np.ndarray], notes=NOTES) -> Path:
    rows = {"t_s": np.arange(len(steps["flow"])) / 25}
    for name, digital in steps.items():
        rows[name] = np.full(len(rows["t_s"]), np.nan)
        rows[name][:: round(25 / RATES[name])] = digital / 100
    pd.DataFrame(rows).to_csv(path, index=False)
    events = [f"{start},{start + lasts},{text}" for start, lasts, text in notes if lasts is not None]
    path.with_name(f"{path.stem}.events.csv").write_text("\n".join(["start_s,end_s,label", *events]) + "\n")
    return path


def write_edf(path: Path, steps, notes=NOTES, units=UNITS, names=None) -> Path:
    """Write an EDF+ or BDF+ file; physical = digital / 100."""
    kind = pyedflib.FILETYPE_BDFPLUS if path.suffix == ".bdf" else pyedflib.FILETYPE_EDFPLUS
    with warnings.catch_warnings(action="ignore"), pyedflib.EdfWriter(str(path), len(steps), file_type=kind) as file:
        for k, name in enumerate(steps):
            header = {
                "label": (names or list(steps))[k], "dimension": units[name], "sample_frequency": RATES[name],
                "physical_min": -327.68, "physical_max": 327.67, "digital_min": -32768, "digital_max": 32767,
                "prefilter": "", "transducer": "",
            }  # fmt: skip
            file.setSignalHeader(k, header)
        file.setStartdatetime(datetime.datetime(2024, 12, 31, 22, 30))
        file.writeSamples(list(steps.values()), digital=True)
        for start, lasts, text in notes:
            file.writeAnnotation(start, -1 if lasts is None else lasts, text)
    return path


def write_wfdb(path: Path, steps, notes=NOTES, units=UNITS, names=None) -> Path:
    """Write a record of one frame every 2 s, so that 12.5 Hz is a whole number of samples a frame."""
    folder, count = str(path.parent), len(steps)
    per_frame = [round(2 * RATES[name]) for name in steps]
    signals = [digital.astype(np.int64) for digital in steps.values()]
    record = wfdb.Record(
        record_name=path.stem, n_sig=count, fs=0.5, sig_len=len(signals[0]) // per_frame[0], samps_per_frame=per_frame,
        e_d_signal=signals, fmt=["16"] * count, adc_gain=[100.0] * count, baseline=[0] * count, adc_res=[16] * count,
        adc_zero=[0] * count, block_size=[0] * count, init_value=[int(s[0]) for s in signals],
        checksum=[int(s.sum() % 65536) for s in signals], byte_offset=[None] * count, skew=[None] * count,
        units=[units[name] for name in steps], sig_name=[f"<{name}>" for name in steps],
        file_name=[f"{path.stem}.dat"] * count,
    )  # fmt: skip
    record.wrheader(write_dir=folder)
    text = path.read_text()
    for name, written in zip(steps, names or list(steps), strict=True):
        text = text.replace(f"<{name}>", written)                    # wrheader takes no name twice
    path.write_text(text)
    record.wr_dats(expanded=True, write_dir=folder)
    marks = []
    for start, lasts, text in notes:
        marks += [(start, text)] if lasts is None else [(start, f"({text}"), (start + lasts, f"{text})")]
    if marks:
        times, texts = zip(*marks, strict=True)
        at = np.round(np.array(times) * 25).astype(int)
        wfdb.wrann(path.stem, "atr", at, ["+"] * len(at), aux_note=list(texts), fs=25.0, write_dir=folder)
    return path


WRITERS = {"csv": write_csv, "edf": write_edf, "bdf": write_edf, "hea": write_wfdb}


class Project:
    """A folder with a dataset_config.json and recordings of one kind; runs the script as a user would."""

    def __init__(self, folder: Path, kind: str, capfd) -> None:
        self.folder, self.kind, self.capfd, self.raw = folder, kind, capfd, folder / "raw"
        self.entry = copy.deepcopy(ENTRY) | {"file_pattern": f"{{name}}.{kind}"}
        self.raw.mkdir(parents=True)
        for seed, name in enumerate(NIGHTS):
            self.record(name, seed)
        self.made = folder / "out" / "tiny"

    def record(self, name: str, seed: int = 0, **options) -> Path:
        return WRITERS[self.kind](self.raw / f"{name}.{self.kind}", steps_of(seed=seed), **options)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        config = self.folder / "dataset_config.json"
        config.write_text(json.dumps({"tiny": self.entry}))
        self.capfd.readouterr()
        code = main(["--dataset-config", str(config), "--dataset", "tiny", "--out", str(self.made.parent), *arguments])
        return code, *self.capfd.readouterr()

    def fails(self) -> str:
        """Run it, expecting one line on stderr, nothing on stdout and no output folder; return the line."""
        code, out, err = self.run()
        assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith("error: "), (out, err)
        assert not self.made.exists()
        return err.removeprefix("error: ").strip()

    def meta(self) -> windowing.Meta:
        return windowing.read_meta(self.made)

    def table(self, split: str) -> pd.DataFrame:
        return pd.read_csv(self.made / f"{split}.csv")


@pytest.fixture
def project(tmp_path, capfd):
    return lambda kind: Project(tmp_path / kind, kind, capfd)


# ---------------------------------------------------------------- the same as the CSV

@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_those_of_the_csv_of_the_same_data(project, kind):
    made, expected = project(kind), project("csv")
    code, out, _ = made.run()
    assert (code, out.strip()) == (0, str(made.made))
    assert expected.run()[0] == 0
    for split in windowing.SPLITS:
        pd.testing.assert_frame_equal(made.table(split), expected.table(split), rtol=0, atol=1e-6)
    assert made.table("test")["label"].sum() == 51                   # 60 to 70 s
    meta, other = made.meta(), expected.meta()
    assert (meta.events, meta.splits, meta.dropped) == (other.events, other.splits, other.dropped)
    assert meta.notes == [f"{n}: 1 annotation not in labels, not used as events: 'Lights off' (1)" for n in NIGHTS]


@pytest.mark.parametrize("kind", KINDS)
def test_each_channel_keeps_its_samples_rate_and_unit(tmp_path, kind):
    steps = steps_of()
    recording = read_recording(WRITERS[kind](tmp_path / f"night.{kind}", steps))
    assert (recording.name, list(recording.channels), len(recording.t)) == ("night", list(RATES), 3000)
    for name, samples in recording.channels.items():
        np.testing.assert_allclose(samples.values, steps[name] / 100, rtol=0, atol=1e-9)
        np.testing.assert_allclose(samples.t, np.arange(120 * RATES[name]) / RATES[name])
        assert samples.unit == UNITS[name]
    assert [(e.start_s, e.end_s, e.label) for e in recording.annotations] == [(5, 5, "Lights off"), (60, 70, "Apnea")]


@pytest.mark.parametrize("kind", ["edf", "hea"])
def test_only_the_signals_asked_for_are_read(tmp_path, kind, monkeypatch):
    path = WRITERS[kind](tmp_path / f"night.{kind}", steps_of())
    read = []
    plain = edf.Header.bytes_of
    monkeypatch.setattr(edf.Header, "bytes_of", lambda self, one: read.append(one.label) or plain(self, one))
    found = read_signals(path, ["spo2", "flow"])
    assert list(found.signals) == ["spo2", "flow"]
    assert read == (["EDF Annotations", "spo2", "flow"] if kind == "edf" else [])
    np.testing.assert_allclose(found.signals["spo2"].values, steps_of()["spo2"] / 100)


def test_a_missing_wfdb_sample_is_no_value(tmp_path):
    steps = steps_of()
    steps["flow"][100:110] = -32768                                  # what WFDB's format 16 keeps for "no sample"
    samples = read_recording(write_wfdb(tmp_path / "night.hea", steps)).channels["flow"]
    assert len(samples.t) == 2990 and not ((samples.t >= 4) & (samples.t < 4.4)).any()


def test_sentinels_are_found_between_the_steps_of_an_edf(tmp_path):
    steps = steps_of()
    steps["spo2"][[3, 7]] = [12699, 12700]                           # 127, rounded or cut to a step of 0.01
    steps["spo2"][9] = 12698
    path = write_edf(tmp_path / "night.edf", steps)
    samples = read_recording(path, ["spo2"], sentinels={"spo2": [126.995]}).channels["spo2"]
    assert 3 not in samples.t and 7 not in samples.t and 9 in samples.t and len(samples.t) == 118


# ---------------------------------------------------------------- annotations

@pytest.mark.parametrize("kind", ["edf", "hea"])
def test_events_come_from_events_file_then_config_then_annotations(project, kind):
    made = project(kind)
    made.entry["events"] = {"night_c": [{"start_s": 20, "end_s": 24, "label": "Apnea"}]}
    made.run()
    assert [(e.start_s, e.end_s) for e in made.meta().events["night_c"]] == [(20, 24)]
    (made.raw / "night_c.events.csv").write_text("start_s,end_s,label\n30,34,Apnea\n")
    made.run()
    assert [(e.start_s, e.end_s) for e in made.meta().events["night_c"]] == [(30, 34)]
    assert "night_c: events read from night_c.events.csv, not from dataset_config.json" in made.meta().notes
    assert [(e.start_s, e.end_s) for e in made.meta().events["night_b"]] == [(60, 70)]


@pytest.mark.parametrize("kind", ["edf", "hea"])
def test_annotations_without_duration_last_as_declared_within_the_file(tmp_path, kind):
    path = WRITERS[kind](tmp_path / f"night.{kind}", steps_of(), notes=[(30.0, None, "A"), (100.0, None, "A")])
    found = read_recording(path, ["flow"], Dialect(annotation_s=60.0)).annotations
    assert [(e.start_s, e.end_s) for e in found] == [(30, 90), (100, pytest.approx(119.96))]


@pytest.mark.parametrize("kind", ["edf", "hea"])
def test_inspect_shows_units_rates_and_what_becomes_of_annotations(project, kind):
    made = project(kind)
    before = sorted(made.folder.rglob("*"))
    code, out, err = made.run("--inspect", str(made.raw / f"night_a.{kind}"))
    assert (code, err) == (0, "")
    assert "belt: 12.5 Hz, 1500 samples" in out and " mV\n" in out
    assert ("EDF+, started 2024-12-31 22:30:00" if kind == "edf" else "  WFDB\n") in out
    assert "'Lights off': 1, the first at 5 s, 0 s in total: not in labels, not an event" in out
    assert "'Apnea': 1, the first at 60 s, 10 s in total: apnea" in out
    assert sorted(made.folder.rglob("*")) == sorted([*before, made.folder / "dataset_config.json"])
    assert "'Apnea': 1, the first at 60 s, 10 s in total\n" in "\n".join(
        [*describe(read_recording(made.raw / f"night_a.{kind}")), ""]
    )


def test_annotators_are_looked_for_or_declared(tmp_path):
    path = write_wfdb(tmp_path / "night.hea", steps_of())
    (tmp_path / "night.atr").rename(tmp_path / "night.mine")
    assert read_recording(path).annotations == []
    assert len(read_recording(path, None, Dialect(annotators=["mine"])).annotations) == 2
    assert read_recording(path, None, Dialect(annotators=[])).annotations == []
    with pytest.raises(DataError, match="^night.hea: its annotation file night.atr is missing; see annotators$"):
        read_recording(path, None, Dialect(annotators=["atr"]))


def test_symbols_of_wfdb_are_labels_where_there_is_no_note(tmp_path):
    path = write_wfdb(tmp_path / "night.hea", steps_of(), notes=[])
    minutes = np.array([0, 1500, 2000])
    wfdb.wrann("night", "apn", minutes, ["N", "A", "N"], fs=25.0, write_dir=str(tmp_path))
    found = read_recording(path, ["flow"]).annotations
    assert [(e.start_s, e.label) for e in found] == [(0, "N"), (60, "A"), (80, "N")]


# ---------------------------------------------------------------- sources

def test_every_file_read_is_in_the_sources_and_its_change_is_detected(project):
    made = project("hea")
    made.run()
    sources = made.meta().sources
    files = [f"{name}.{suffix}" for name in NIGHTS for suffix in ("hea", "dat", "atr")]
    assert sources == {name: sha256_of(made.raw / name) for name in files}
    before = made.table("test")["flow"]
    content = bytearray((made.raw / "night_c.dat").read_bytes())
    content[5000:5100] = bytes(100)
    (made.raw / "night_c.dat").write_bytes(content)
    made.run()
    assert not made.table("test")["flow"].equals(before)
    assert companions(made.raw / "night_c.hea", []) == [made.raw / "night_c.dat"]
    assert companions(Path("night.edf")) == companions(Path("night.csv")) == []


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("night.csv", "night"), ("night.csv.gz", "night"), ("night.1.EDF", "night.1"), ("night.hea", "night"),
        ("night.txt.gz", "night"), ("night.bdf", "night"), ("night.v2", "night.v2"),
    ],
)  # fmt: skip
def test_the_name_of_a_recording_is_its_files_without_suffixes(file, name):
    assert name_of(Path("folder") / file) == name


# ---------------------------------------------------------------- units

@pytest.mark.parametrize("kind", ["edf", "hea"])
def test_a_unit_is_converted_to_the_declared_one_and_that_is_noted(project, kind):
    made, plain = project(kind), project("csv")
    made.entry["channels"]["flow"]["unit"] = "L/s"
    made.entry["channels"]["belt"] |= {"unit": "uV", "source": "belt"}
    made.run()
    plain.run()
    for name, factor in (("flow", 1 / 60), ("belt", 1000.0)):
        expected = plain.table("test")[name] * factor
        np.testing.assert_allclose(made.table("test")[name], expected, rtol=2e-5)
    assert made.meta().channels == {"flow": "L/s", "belt": "uV", "spo2": "%"}
    assert "night_a: flow: converted from L/min to L/s" in made.meta().notes


@pytest.mark.parametrize(
    ("unit", "declared", "expected"),
    [
        ("furlong", "L/min", "is in 'furlong', but dataset_config.json declares unit 'L/min': unknown unit 'furlong'"),
        ("mV", "L/min", "is in 'mV', but dataset_config.json declares unit 'L/min': they are not convertible"),
        ("L/min", "furlong", "is in 'L/min', but dataset_config.json declares unit 'furlong': unknown unit 'furlong'"),
    ],
)
@pytest.mark.parametrize("kind", ["edf", "hea"])
def test_a_unit_that_does_not_convert_is_one_line(project, kind, unit, declared, expected):
    made = project(kind)
    made.record("night_a", units=UNITS | {"flow": unit})
    made.entry["channels"]["flow"]["unit"] = declared
    assert made.fails() == f"night_a.{kind}: channel 'flow' {expected}; correct channels.flow.unit"


def test_an_unspecified_unit_is_noted_and_values_stay_unchanged(project):
    made = project("edf")
    for seed, name in enumerate(NIGHTS):
        made.record(name, seed, units=UNITS | {"flow": "", "belt": "mV"})
    made.entry["channels"]["belt"]["unit"] = "a.u."
    assert made.run()[0] == 0
    notes = made.meta().notes
    assert "night_a: flow: unit '' in the file is read as L/min, values unchanged" in notes
    assert "night_a: belt: unit 'mV' in the file is read as a.u., values unchanged" in notes


# ---------------------------------------------------------------- names

@pytest.mark.parametrize("kind", ["edf", "hea"])
def test_a_channel_may_have_another_name_in_the_file(project, kind):
    made = project(kind)
    for seed, name in enumerate(NIGHTS):
        made.record(name, seed, names=["Flow L/min", "THO", "SpO2 %"])
    for name, source in (("flow", "Flow L/min"), ("belt", "THO"), ("spo2", "SpO2 %")):
        made.entry["channels"][name] |= {"source": source, "sentinels": [127]}
    assert made.run()[0] == 0 and list(made.meta().channels) == ["flow", "belt", "spo2"]


@pytest.mark.parametrize("kind", ["edf", "hea"])
def test_a_repeated_signal_name_gets_numbers(project, kind):
    made = project(kind)
    for seed, name in enumerate(NIGHTS):
        made.record(name, seed, names=["flow", "flow", "spo2"])
    assert made.fails() == f"night_a.{kind}: 2 signals are called 'flow'; choose flow.1 or flow.2"
    made.entry["channels"]["flow"]["source"] = "flow.1"
    made.entry["channels"]["belt"]["source"] = "flow.2"
    assert made.run()[0] == 0
    made.entry["channels"]["belt"]["source"] = "thorax"
    assert made.run()[2].endswith(f"night_a.{kind}: no signal 'thorax'; the file has flow.1, flow.2, spo2\n")


# ---------------------------------------------------------------- what is refused, in one line

def patched(at: int, new: bytes):
    return lambda content: content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: content[:300], "truncated: 300 bytes; the header alone has 1280"),
        (lambda content: content[:1290], "truncated: none of the 60 records in the header is complete"),
        (lambda content: b"", "empty file; expected a header and signals"),
        (lambda content: b"t_s,flow\n0,1\n" * 100, "not EDF or BDF: it begins with b't_s,flow'; expected '0' or"),
        (patched(252, b"9999"), "truncated: "),
        (patched(252, b"none"), "not a readable EDF header: 'none' signals; expected 1 or more"),
        (patched(252, b"3   "), "signal 'flow': '' samples in a record"),
        (patched(244, b"soon    "), "the duration of a record is 'soon'; expected a number of seconds"),
        (patched(244, b"0       "), "the duration of a record is 0 s; expected how many seconds a record lasts"),
        (patched(256 + 104 * 4, b"327.67  "), "signal 'flow' has no scale: its physical minimum and maximum are both"),
        (patched(256 + 104 * 4, b"1,000   "), "signal 'flow' has no scale: a physical limit is '1,000', no plain"),
        (patched(256 + 216 * 4, b"x       "), "signal 'flow': 'x' samples in a record; expected a whole number"),
    ],
)
def test_a_damaged_edf_is_one_line(project, damage, expected):
    made = project("edf")
    path = made.raw / "night_b.edf"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert made.fails().startswith(f"night_b.edf: {expected}")
    path.write_bytes(whole)
    assert made.run()[0] == 0                                        # the file was closed again


@pytest.mark.parametrize("kind", ["edf", "bdf"])
def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path, kind):
    path = write_edf(tmp_path / f"night.{kind}", steps_of(), notes=[])
    path.write_bytes(path.read_bytes()[:-1])
    recording = read_recording(path)
    assert recording.notes == ["cut off: 59 of 60 records are complete and are read"]
    np.testing.assert_allclose(recording.channels["flow"].values, steps_of()["flow"][: 118 * 25] / 100, atol=1e-9)


def test_an_edf_of_annotations_alone_is_one_line(tmp_path):
    path = tmp_path / "night.edf"
    with pyedflib.EdfWriter(str(path), 0, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        file.writeAnnotation(0, -1, "Recording starts")
    with pytest.raises(NoSamples, match="^night.edf: no signals, only 1 annotation: 'Recording starts' \\(1\\); name "):
        read_recording(path)


def test_a_header_without_its_signals_or_with_too_few_is_one_line(project):
    made = project("hea")
    signals = made.raw / "night_b.dat"
    content = signals.read_bytes()
    signals.unlink()
    assert made.fails() == "night_b.hea: its signal file night_b.dat is missing; expected it in the same folder"
    signals.write_bytes(content[:-10])
    assert made.fails() == f"night_b.dat: truncated: {len(content) - 10} bytes; night_b.hea declares {len(content)}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty file; expected a WFDB header"),
        ("hello world\nfoo\n", "not a readable WFDB header"),
        ("night_b 0 25 60\n", "not a readable WFDB header: 0 signals declared, 0 described"),
        ("night_b 2 25 60\nnight_b.dat 16 100/mV 16 0 0 0 0 flow\n", "not a readable WFDB header"),
        ("night_b 1 0 60\nnight_b.dat 16 1/mV 16 0 0 0 0 flow\n", "not a readable WFDB header: the sampling rate is 0"),
        ("night_b 1 25 60\nnight_b.dat 99 1/mV 16 0 0 0 0 flow\n", "unknown signal format '99'; expected one of 8, 16"),
        ("night_b 1 25 60\n../night_a.dat 16 1/mV 16 0 0 0 0 flow\n", "not a readable WFDB header: invalid syntax"),
        ("night_b 1 25 60\ns3://b/n.dat 16 1/mV 16 0 0 0 0 flow\n", "not a readable WFDB header: invalid syntax"),
        ("night_b/2 1 25 60\nnight_0 30\nnight_c 30\n", "its segment night_0.hea is missing; expected it in the same"),
    ],
)
def test_a_damaged_wfdb_header_is_one_line(project, text, expected):
    made = project("hea")
    (made.raw / "night_b.hea").write_text(text)
    assert made.fails().startswith(f"night_b.hea: {expected}")


def test_a_damaged_annotation_file_is_one_line(project):
    made = project("hea")
    path = made.raw / "night_b.atr"
    path.write_bytes(path.read_bytes()[:-5])
    assert made.fails().startswith("night_b.atr: not a readable WFDB annotation file: ")


@pytest.mark.parametrize("kind", ["edf", "hea"])
@pytest.mark.parametrize(
    ("start", "lasts", "event", "note"),
    [
        (500.0, 10.0, None, "1 annotation outside the recording, left out: the first 'Apnea' at 500 s"),
        (115.0, 10.0, (115.0, 120.0), "1 annotation cut to the recording: the first 'Apnea' at 115 s"),
        (-30.0, 10.0, None, "1 annotation outside the recording, left out: the first 'Apnea' at -30 s"),
        (-5.0, 10.0, (0.0, 5.0), "1 annotation cut to the recording: the first 'Apnea' at -5 s"),
        (115.0, 5.5, (115.0, 120.0), None),
    ],
)
def test_an_annotation_outside_the_recording_is_noted(project, kind, start, lasts, event, note):
    made = project(kind)
    if start < 0 and kind == "hea":
        pytest.skip("a WFDB annotation cannot be before the first sample")
    made.record("night_b", 1, notes=[*NOTES, (90.0 if start < 0 else start, lasts, "Apnea")])
    if start < 0:                                                    # pyEDFlib writes no such time
        path = made.raw / "night_b.edf"
        path.write_bytes(path.read_bytes().replace(b"+90\x15", f"{start:03.0f}\x15".encode()))
    assert made.run()[0] == 0
    events = [(e.start_s, e.end_s) for e in made.meta().events["night_b"]]
    assert events == sorted([(60.0, 70.0), *([event] if event else [])])
    notes = [line for line in made.meta().notes if line.startswith("night_b: ") and "Lights" not in line]
    assert notes == ([f"night_b: {note}"] if note else [])


def test_a_missing_package_is_one_line(project, monkeypatch):
    made = project("hea")
    monkeypatch.setitem(sys.modules, "wfdb", None)
    assert made.fails() == "night_a.hea: reading WFDB needs wfdb; pip install -r requirements-formats.txt"


def test_a_missing_record_is_not_looked_for_elsewhere(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("the network was asked"))
    for name in ("mitdb.hea", "100.hea", "night.edf"):
        with pytest.raises(DataError, match=f"{name}: no such file$"):
            read_recording(tmp_path / name)


@pytest.mark.parametrize("seed", range(10))
def test_noise_in_a_header_ends_in_one_line_or_in_a_recording(tmp_path, seed, capfd):
    rng = np.random.default_rng(seed)
    for kind, length in (("edf", 256 * 5), ("hea", 150)):
        path = WRITERS[kind](tmp_path / f"night.{kind}", steps_of(20.0), notes=[(1.0, 2.0, "Apnea")])
        content = bytearray(path.read_bytes())
        for at in rng.integers(0, min(length, len(content)), 3):
            content[at] = rng.choice(np.frombuffer(b"0123456789 -./\xff\x00", np.uint8))
        path.write_bytes(content)
        capfd.readouterr()
        try:
            read_recording(path)
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
        assert capfd.readouterr() == ("", "")
