"""Write small signal files with other people's packages, and beside them the values that those packages read.

    pip install pyEDFlib==0.1.42 edfio==0.4.18 mne==1.13.2 wfdb==4.3.1
    python tests/golden/make_golden.py tests/golden

pyEDFlib wraps the C library EDFlib. MNE exports EDF by way of edfio. wfdb is PhysioNet's Python package; nothing here
is written by the WFDB library in C. All samples are simulated. expected.json holds for each file the reader, start,
annotations, and of each signal unit, rate in Hz and values; values of EDF and BDF are read by one package and have to
be those of a second one.
"""

import argparse
import datetime
import json
from pathlib import Path

import edfio
import mne
import numpy as np
import pyedflib
import wfdb

START = datetime.datetime(2023, 12, 31, 23, 59, 55)
RATES = {"Flow": 25, "SpO2": 1, "Effort": 10}                        # Hz
UNITS = {"Flow": "L/min", "SpO2": "%", "Effort": "uV"}
LIMITS = {"Flow": (-80.0, 80.0), "SpO2": (0.0, 102.3), "Effort": (-312.5, 187.5)}
DURATION_S = 20
NOTES = [(0.0, 0.5, "Lights off"), (4.5, 10.5, "Apnée centrale"), (12.0, 0.0, "Ωmega, movement")]


def waves() -> dict[str, np.ndarray]:
    """Return simulated signals, some samples at the ends of their range."""
    random = np.random.default_rng(7)
    found = {}
    for name, rate in RATES.items():
        low, high = LIMITS[name]
        t = np.arange(DURATION_S * rate) / rate
        wave = 0.3 * np.sin(2 * np.pi * 0.25 * t) + 0.02 * random.normal(size=len(t)) + 0.5
        found[name] = low + (high - low) * wave
        found[name][[3, 7]] = low, high
    return found


def write_edflib(path: Path, kind: int) -> None:
    digital = (-(2**23), 2**23 - 1) if kind == pyedflib.FILETYPE_BDFPLUS else (-32768, 32767)
    with pyedflib.EdfWriter(str(path), len(RATES), file_type=kind) as writer:
        writer.setSignalHeaders([
            {
                "label": name, "dimension": UNITS[name], "sample_frequency": rate, "physical_min": LIMITS[name][0],
                "physical_max": LIMITS[name][1], "digital_min": digital[0], "digital_max": digital[1],
                "transducer": "simulated", "prefilter": "",
            }
            for name, rate in RATES.items()
        ])  # fmt: skip
        writer.setStartdatetime(START)
        writer.writeSamples(list(waves().values()))
        for onset, duration, text in NOTES:
            writer.writeAnnotation(onset, duration, text)


def write_edfio(path: Path) -> None:
    """Write records of 0.4 s that start within a second."""
    signals = [
        edfio.EdfSignal(
            values, RATES[name], label=name, physical_dimension=UNITS[name],
            physical_range=LIMITS[name],
        )
        for name, values in waves().items() if name != "SpO2"
    ]  # fmt: skip
    edfio.Edf(
        signals, starttime=START.time().replace(microsecond=250000), data_record_duration=0.4,
        recording=edfio.Recording(startdate=START.date()),
        annotations=[edfio.EdfAnnotation(onset, duration or None, text) for onset, duration, text in NOTES],
    ).write(path)  # fmt: skip


def write_mne(path: Path) -> None:
    info = mne.create_info(["Thorax", "Abdomen"], 25.0, "eeg")
    values = 1e-4 * (waves()["Flow"] / 80)
    raw = mne.io.RawArray(np.stack([values, -0.5 * values]), info, verbose="error")
    raw.set_meas_date(START.replace(tzinfo=datetime.UTC))
    onsets, durations, texts = zip(*NOTES, strict=True)
    raw.set_annotations(mne.Annotations(onsets, durations, texts))
    mne.export.export_raw(path, raw, fmt="edf", overwrite=True, verbose="error")


def write_wfdb(folder: Path, name: str, fmt: str) -> None:
    values = np.column_stack([waves()["Flow"], -0.25 * waves()["Flow"] + 3])
    wfdb.wrsamp(
        name, fs=25, units=["L/min", "cmH2O"], sig_name=["Flow", "Pressure"], p_signal=values, fmt=[fmt, fmt],
        base_datetime=START, write_dir=str(folder),
    )  # fmt: skip
    samples = np.array([round(25 * onset) for onset, *_ in NOTES])
    texts = [text.encode("ascii", "ignore").decode() for *_, text in NOTES]
    wfdb.wrann(name, "atr", samples, ['"'] * len(NOTES), aux_note=texts, fs=25, write_dir=str(folder))


def by_edflib(path: Path) -> dict:
    with pyedflib.EdfReader(str(path)) as reader:
        signals = {
            label: {"unit": reader.getPhysicalDimension(k), "rate_hz": reader.getSampleFrequency(k),
                    "values": reader.readSignal(k).tolist()}
            for k, label in enumerate(reader.getSignalLabels())
        }  # fmt: skip
        read = zip(*reader.readAnnotations(), strict=True)
        notes = [[float(onset), max(float(duration), 0.0), str(text)] for onset, duration, text in read]
        start = reader.getStartdatetime()
    return {"reader": "pyEDFlib", "start": start.isoformat(), "annotations": notes, "signals": signals}


def by_edfio(path: Path) -> dict:
    edf = (edfio.read_bdf if path.suffix == ".bdf" else edfio.read_edf)(path)
    signals = {
        s.label: {"unit": s.physical_dimension, "rate_hz": s.sampling_frequency, "values": s.data.tolist()}
        for s in edf.signals
    }
    notes = [[a.onset, a.duration or 0.0, a.text] for a in edf.annotations]
    start = datetime.datetime.combine(edf.startdate, edf.starttime)
    return {"reader": "edfio", "start": start.isoformat(), "annotations": notes, "signals": signals}


def by_wfdb(folder: Path, name: str) -> dict:
    record, notes = wfdb.rdrecord(str(folder / name)), wfdb.rdann(str(folder / name), "atr")
    signals = {
        label: {"unit": record.units[k], "rate_hz": float(record.fs), "values": record.p_signal[:, k].tolist()}
        for k, label in enumerate(record.sig_name)
    }
    found = [[s / 25, 0.0, text.strip("\0")] for s, text in zip(notes.sample, notes.aux_note, strict=True)]
    return {"reader": "wfdb", "start": record.base_datetime.isoformat(), "annotations": found, "signals": signals}


def checked(found: dict, other: dict) -> dict:
    """Return what one package reads, having compared it with what another reads.

    The start is the first one's: EDFlib reads fractions of a second in another way (see recordings/edf.py).
    """
    assert found["signals"].keys() == other["signals"].keys()
    for name, signal in found["signals"].items():
        low, high = min(signal["values"]), max(signal["values"])
        np.testing.assert_allclose(signal["values"], other["signals"][name]["values"], atol=1e-9 * (high - low))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write_edflib(folder / "edflib.edf", pyedflib.FILETYPE_EDFPLUS)
    write_edflib(folder / "edflib.bdf", pyedflib.FILETYPE_BDFPLUS)
    write_edfio(folder / "edfio.edf")
    write_mne(folder / "mne.edf")
    expected = {}
    for name in ("edflib.edf", "edflib.bdf"):
        expected[name] = checked(by_edflib(folder / name), by_edfio(folder / name))
    for name in ("edfio.edf", "mne.edf"):
        expected[name] = checked(by_edfio(folder / name), by_edflib(folder / name))
    for fmt in ("16", "24", "80", "212"):
        write_wfdb(folder, f"wfdb_{fmt}", fmt)
        expected[f"wfdb_{fmt}.hea"] = by_wfdb(folder, f"wfdb_{fmt}")
    text = json.dumps(expected, ensure_ascii=False, separators=(",", ":"))
    (folder / "expected.json").write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
