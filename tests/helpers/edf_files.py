"""EDF and BDF files written byte by byte, so that a test can have any header it wants; cards made of them."""

from datetime import timedelta
from pathlib import Path

import numpy as np

FIELDS = ("label", "transducer", "unit", "physical_min", "physical_max", "digital_min", "digital_max", "prefilter",
          "samples", "reserved")  # fmt: skip
WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)


def signal(label, digital, rate, unit="L/min", gain=0.01, **header):
    """Return one signal: physical = gain * digital, unless the header says otherwise."""
    most = 32767
    limits = {"physical_min": f"{-gain * most:.8g}"[:8], "physical_max": f"{gain * most:.8g}"[:8]}
    limits |= {"digital_min": -most, "digital_max": most}
    return {"label": label, "unit": unit, **limits, **header, "digital": np.asarray(digital), "rate": rate}


def tal(at, texts=(), lasts=None):
    """Return one timestamped annotation list."""
    duration = b"" if lasts is None else b"\x15" + str(lasts).encode()
    onset = at if isinstance(at, str) else f"{at:+.9g}"
    return onset.encode() + duration + b"\x14" + b"".join(t.encode() + b"\x14" for t in texts or [""]) + b"\0"


def edf_bytes(signals, annotations=None, record_s=1.0, onsets=None, bdf=False, **head):
    """Return a file's bytes.

    Args:
        annotations: (at, lasts, text) of an EDF+; None = plain EDF. onsets: of the records; None = one after the other.
        head: fields of the header's first part as text or bytes, where they differ.
    """
    width = 3 if bdf else 2
    records = len(signals[0]["digital"]) // round(signals[0]["rate"] * record_s) if signals else len(annotations) + 1
    onsets = np.arange(records) * record_s if onsets is None else onsets
    blocks = [[_block(one, k, record_s, width) for one in signals] for k in range(records)]
    rows = [{**one, "samples": round(one["rate"] * record_s)} for one in signals]
    if annotations is not None:
        lists = [tal(onset) for onset in onsets]
        for k, (at, lasts, text) in enumerate(annotations):
            lists[min(k + 1 - bool(signals), records - 1)] += tal(at, [text], lasts)
        size = -(-max(map(len, lists)) // width) + 4
        most = 2 ** (8 * width - 1)
        limits = {"physical_min": -1, "physical_max": 1, "digital_min": -most, "digital_max": most - 1}
        rows.append({"label": "BDF Annotations" if bdf else "EDF Annotations", "unit": "", "samples": size, **limits})
        blocks = [[*block, text.ljust(width * size, b"\0")] for block, text in zip(blocks, lists, strict=True)]
    kind = ("BDF" if bdf else "EDF") + "+C" if annotations is not None else ""
    fields = {
        "version": b"\xffBIOSEMI" if bdf else "0", "patient": "X X X X", "recording": "Startdate 30-MAR-2024 X X X",
        "date": "30.03.24", "time": "23.55.00", "bytes": 256 * (len(rows) + 1), "reserved": kind, "records": records,
        "record_s": f"{record_s:g}", "signals": len(rows), **head,
    }  # fmt: skip
    sizes = (8, 80, 80, 8, 8, 8, 44, 8, 8, 4)
    header = b"".join(_padded(text, size) for text, size in zip(fields.values(), sizes, strict=True))
    for field, size in zip(FIELDS, WIDTHS, strict=True):
        header += b"".join(_padded(row.get(field, ""), size) for row in rows)
    return header + b"".join(part for block in blocks for part in block)


def _block(one, record, record_s, width):
    count = round(one["rate"] * record_s)
    part = one["digital"][record * count : (record + 1) * count].astype("<i4")
    return part.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()


def _padded(text, size):
    content = text if isinstance(text, bytes) else str(text).encode("latin-1")
    assert len(content) <= size, text
    return content.ljust(size)


# ---- cards ----------------------------------------------------------------------------------


def breaths(seconds, rate=25, pauses=(), seed=0):
    """Return flow in steps of 0.002 L/s: breaths of 4 s, flat in pauses (start, end) in s."""
    t = np.arange(round(seconds * rate)) / rate
    flow = 0.5 * np.sin(2 * np.pi * t / 4) + 0.02 * np.random.default_rng(seed).normal(size=len(t))
    for start, end in pauses:
        flow[(t >= start) & (t < end)] *= 0.03
    return np.round(flow / 0.002).astype(int)


def write_session(night: Path, start, seconds, pauses=(), spo2=None, pulse=None, seed=0, kinds=("BRP", "PLD", "SA2")):
    """Write the files of one session: records of 60 s, limits as a ResMed device has them, a checksum in each."""
    night.mkdir(parents=True, exist_ok=True)
    flow = breaths(seconds, pauses=pauses, seed=seed)
    brp = {"digital_min": -1000, "digital_max": 1500, "physical_min": "-2.00", "physical_max": "3.00"}
    pressure = {"digital_min": 0, "digital_max": 2000, "physical_min": "0.00", "physical_max": "40.00"}
    leak = {"digital_min": 0, "digital_max": 100, "physical_min": "0.00", "physical_max": "2.00"}
    off = np.full(seconds, -1)
    files = {
        "BRP": [signal("Flow.40ms", flow, 25, "L/s", **brp), signal("Press.40ms", flow + 500, 25, "cmH2O", **pressure)],
        "PLD": [signal("Leak.2s", np.arange(seconds // 2) % 20 - 1, 0.5, "L/s", **leak)],
        "SA2": [
            signal("Pulse.1s", off if pulse is None else pulse, 1, "bpm", **_plain(300)),
            signal("SpO2.1s", off if spo2 is None else spo2, 1, "%", **_plain(100)),
        ],
    }
    for kind in kinds:
        checksum = signal("Crc16", np.zeros(seconds // 60), 1 / 60, "", **_plain(32767))
        content = edf_bytes([*files[kind], checksum], record_s=60, **stamps(start))
        (night / f"{start:%Y%m%d_%H%M%S}_{kind}.edf").write_bytes(content)


def write_events(night: Path, start, events, kind="EVE"):
    """Write a file of annotations alone: (seconds from its start, duration, text), records of 0 s."""
    notes = [(0, None, "Recording starts"), *events]
    content = edf_bytes([], notes, 0.0, onsets=np.zeros(len(notes) + 1), reserved="EDF+D", **stamps(start))
    (night / f"{start:%Y%m%d_%H%M%S}_{kind}.edf").write_bytes(content)


def write_empty(night: Path, start, kind="BRP"):
    """Write a session of 0 records, as a mask that was on for a moment leaves it."""
    content = edf_bytes([signal("Flow.40ms", [], 25, "L/s")], record_s=60, records=0, **stamps(start))
    (night / f"{start:%Y%m%d_%H%M%S}_{kind}.edf").write_bytes(content)


def write_card(card: Path, start, sessions=((1200, ((400, 425),)), (1200, ((300, 320),)))):
    """Write a card of one night: sessions (seconds, pauses), 10 min apart, each pause an event stamped at its end."""
    night, events, begun = card / "DATALOG" / f"{start - timedelta(hours=12):%Y%m%d}", [], start
    for number, (seconds, pauses) in enumerate(sessions):
        write_session(night, begun, seconds, pauses, seed=number)
        offset = (begun - start).total_seconds() + 10
        events += [(round(offset + end), round(end - first), "Central Apnea") for first, end in pauses]
        begun += timedelta(seconds=seconds + 600)
    write_events(night, start - timedelta(seconds=10), events)
    (card / "STR.edf").write_bytes(edf_bytes([signal("Date", [1], 1 / 86400, "")], record_s=86400))
    return night


def stamps(start):
    """Return the header's fields of a start."""
    about = f"Startdate {start:%d}-{start:%b}-{start:%Y}".upper().replace("STARTDATE", "Startdate")
    return {"recording": about + " X X X", "date": f"{start:%d.%m.%y}", "time": f"{start:%H.%M.%S}"}


def _plain(most):
    return {"digital_min": 0, "digital_max": most, "physical_min": 0, "physical_max": most}
