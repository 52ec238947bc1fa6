"""The viewer of one recording: one HTML file with its signals, which needs neither network nor server.

The page's script draws with uPlot, which lies beside the template. Signals are whole numbers of 16 bits, as base64.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from evaluation.event_overlap import pair_events
from recordings.event_files import KINDS
from recordings.wall_clock import clock_at, seconds_of_day
from reports.run_view import RunView, start_of

WEB = Path(__file__).parent / "web"
LEVELS = 65534                           # of a value: -32767 to 32767, and -32768 for a missing one
FINE = 256                               # levels that the middle 98 % of a signal need; below, floats are stored
EVIDENCE = {                             # of an event, in words, with decimals and unit
    "reduction": ("reduction", 0, "%"), "baseline_reduction": ("reduction, 2-min baseline", 0, "%"),
    "effort": ("effort", 0, "%"), "desaturation": ("desaturation", 0, "points"),
    "desaturation_delay_s": ("its delay", 0, "s"), "confidence": ("confidence", 2, ""),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """An event found or missed, a desaturation or lost signal; `key` is its anchor in the viewer.

    verdict: hit, false, missed, plain (nobody knows), desaturation or fault. `label` holds start_s, end_s and kind of
    the labelled event that it is, or that was missed.
    """

    key: str
    verdict: str
    kind: str
    start_s: float
    end_s: float
    when: str
    channel: str = ""
    found_by: str = ""
    evidence: tuple[tuple[str, str], ...] = ()
    confidence: float = math.nan
    label: tuple[float, float, str] | None = None


def findings_of(run: RunView, place: int) -> list[Finding]:
    """Return what was found and missed in a recording, in time order, numbered in it: e1, e2, ..., m1, ..."""
    about = run.recordings[place]
    events, labels = run.rows_of(about["name"])
    partner = _partners(events, labels)
    taken = set(partner.values())
    found = []
    for k, row in enumerate(events):
        label = labels[partner[k]] if k in partner else None
        found.append(_finding(run, about, row, _verdict(row), row["found_by"], label))
    for k, row in enumerate(labels):
        if k not in taken:
            found.append(_finding(run, about, row, "hit" if row["found_by"] else "missed", "", row))
    return _numbered(found)


def _verdict(row: Mapping[str, Any]) -> str:
    """Return the verdict on a row of `events.csv`."""
    by_rule = {"signal_loss": "fault", "oximetry": "desaturation"}.get(row["found_by"])
    if by_rule or row["is_false"] == "":
        return by_rule or "plain"
    return "false" if float(row["is_false"]) else "hit"


def _partners(events: Sequence[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return event -> label of the events that match one, in one-to-one pairs of the same kind of label."""
    pairs: dict[int, int] = {}
    for kind in dict.fromkeys(row["matched_label"] for row in events if row["matched_label"]):
        mine = [k for k, row in enumerate(events) if row["matched_label"] == kind and _verdict(row) == "hit"]
        theirs = [k for k, row in enumerate(labels) if row["kind"] == kind]
        spans, wanted = ([(rows[k]["start_s"], rows[k]["end_s"]) for k in places] for rows, places in
                         ((events, mine), (labels, theirs)))  # fmt: skip
        pairs |= {mine[i]: theirs[j] for i, j in pair_events(spans, wanted, 1e-9)}
    return pairs


def _finding(
    run: RunView, about: Mapping[str, Any], row: Mapping[str, Any], verdict: str, found_by: str,
    label: Mapping[str, Any] | None,
) -> Finding:  # fmt: skip
    confidence = row.get("confidence", "")
    return Finding(
        key="", verdict=verdict, kind=row["kind"], start_s=row["start_s"], end_s=row["end_s"],
        when=when(run, about, row), channel=row.get("channel", ""), found_by=found_by, evidence=_evidence(row),
        confidence=float(confidence) if confidence else math.nan,
        label=(label["start_s"], label["end_s"], label["kind"]) if label else None,
    )  # fmt: skip


def _numbered(found: Sequence[Finding]) -> list[Finding]:
    """Return findings in time order with their keys: a letter by verdict, and a number."""
    letters, counts, numbered = {"missed": "m", "fault": "f", "desaturation": "d"}, {}, []
    for one in sorted(found, key=lambda one: one.start_s):
        letter = letters.get(one.verdict, "e")
        counts[letter] = counts.get(letter, 0) + 1
        numbered.append(replace(one, key=f"{letter}{counts[letter]}"))
    return numbered


def _evidence(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what an event rests on, as (what, text)."""
    told = [("component", row["component"].replace("_", " "))] if row.get("component") else []
    for name, (what, decimals, unit) in EVIDENCE.items():
        if row.get(name):
            value = float(row[name]) * (100 if unit == "%" else 1)
            told.append((what, f"{value:.{decimals}f} {unit}".strip()))
    return (*told, *(("profile", row["profile"]) for _ in [0] if row.get("profile")))


def when(run: RunView, about: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Return when an event began: timestamp of its row, clock, or time from the start."""
    if run.is_series:
        return row["start_timestamp"]
    start = start_of(about)
    return clock_at(start, row["start_s"]).partition(".")[0] if start else clock(row["start_s"])


def clock(t: float) -> str:
    """Return a time in s as h:mm:ss or m:ss."""
    seconds = round(abs(t))
    hours, minutes = divmod(seconds // 60, 60)
    text = f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"
    return f"\N{MINUS SIGN}{text}" if t < 0 and seconds else text


# ---- the file -------------------------------------------------------------------------------


class Packed:
    """Arrays as bytes, one after the other, and for each of them where it lies and how it is read."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, y: np.ndarray) -> dict[str, float | str | None]:
        """Add an array (T,), NaN = missing: one value if it has a single one, else 16 bits a step, or floats.

        A value of 16 bits is off by at most 1/131068 of the range. Where an outlier stretches the range so much that
        the middle 98 % of the signal keep fewer than FINE levels, floats are stored.
        """
        y = np.asarray(y, np.float32)
        finite = y[np.isfinite(y)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)
        if len(finite) == len(y) and low == high:
            return {"kind": "constant", "value": low}
        if not len(finite):
            return {"kind": "constant", "value": None}
        step = (high - low) / LEVELS or 1.0
        middle = np.subtract(*np.percentile(finite[:: max(1, len(finite) // 20000)], [99, 1]))
        if 0 < middle < FINE * step:
            return self._put(np.where(np.isfinite(y), y, np.nan).astype("<f4"), {"kind": "float"})
        codes = np.where(np.isfinite(y), np.round((y - low) / step) - LEVELS // 2, -LEVELS // 2 - 1)
        return self._put(codes.astype("<i2"), {"kind": "short", "low": low, "step": step})

    def _put(self, y: np.ndarray, about: dict[str, float | str]) -> dict[str, float | str | None]:
        place, content = self.size, y.tobytes()
        self.parts.append(content)
        self.size += len(content)
        return about | {"at": place}

    def base64(self) -> str:
        return base64.b64encode(b"".join(self.parts)).decode()


def segments_of(t: np.ndarray, rate_hz: float) -> list[tuple[float, int]]:
    """Return the parts of times (T,) that follow each other step by step, as (first time in s, steps)."""
    cuts = np.flatnonzero(np.abs(np.diff(t) * rate_hz - 1) > 0.25) + 1
    edges = [0, *cuts.tolist(), len(t)]
    return [(float(t[a]), b - a) for a, b in zip(edges, edges[1:], strict=False)]


def viewer_page(run: RunView, place: int, findings: Sequence[Finding]) -> str:
    """Return the viewer of a recording as HTML."""
    about, signals, packed = run.recordings[place], run.signals(place), Packed()
    start = start_of(about)
    channels = [
        {"name": c["name"], "unit": c["unit"] or "", "measures": c["measures"]}
        | {name: packed.add(signals[name][:, k]) for name in ("values", "forecast")}
        for k, c in enumerate(run.data["channels"])
    ]
    facts = {
        "recording": about["name"], "isSeries": run.is_series, "isLabelled": about["is_labelled"],
        "rate": run.data["rate_hz"], "lead": about["lead_s"], "start": about["start_s"], "end": about["end_s"],
        "zero": seconds_of_day(start) if start else None, "clock": clock_at(start, 0.0) if start else "",
        "segments": segments_of(signals["t"], run.data["rate_hz"]), "channels": channels,
        "score": packed.add(signals["score"]), "threshold": packed.add(signals["threshold"]),
        "findings": [_facts_of(one) for one in findings], "kinds": list(KINDS),
        "made": run.made["finished"],
    }  # fmt: skip
    return render(
        "viewer.html", ("uPlot.iife.min.js", "viewer.js"), ("uPlot.min.css", "style.css", "viewer.css"),
        title=about["name"], is_series=run.is_series, is_labelled=about["is_labelled"],
        simulated=bool(run.data["simulated"]), is_scored=run.metrics.found is not None, facts=_json(facts),
        signals=packed.base64(),
    )  # fmt: skip


def _facts_of(one: Finding) -> dict[str, Any]:
    label = dict(zip(("start", "end", "kind"), one.label, strict=True)) if one.label else None
    return {"key": one.key, "verdict": one.verdict, "kind": one.kind, "start": one.start_s, "end": one.end_s,
            "channel": one.channel, "foundBy": one.found_by, "evidence": one.evidence, "label": label}  # fmt: skip


def _json(content: Any) -> str:
    """Return JSON that may stand in a script element: no letter of it can end the element."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def render(template: str, scripts: Sequence[str], styles: Sequence[str], **content: Any) -> str:
    """Return a page with its scripts and styles in it; its policy allows these scripts, and no others.

    Written into each file rather than beside it: 80 kB, so that a page can be moved, mailed and opened alone.
    """
    script, style = ("\n".join(_asset(name) for name in names) for names in (scripts, styles))
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    return _templates().get_template(template).render(script=script, style=style, policy=policy, **content)


@functools.cache
def _asset(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8").strip()


@functools.cache
def _templates() -> jinja2.Environment:
    blocks = {"trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB), autoescape=True, undefined=jinja2.StrictUndefined, **blocks
    )
