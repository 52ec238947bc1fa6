"""Physical units: spellings, conversion factors between units of the same quantity, and what they give away."""

from __future__ import annotations

import re
from collections.abc import Mapping

from config import BREATHING

# quantity -> unit -> its size in the first unit
QUANTITIES = {
    "voltage": {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9},
    "flow": {"L/s": 1.0, "L/min": 1 / 60, "mL/s": 1e-3, "mL/min": 1e-3 / 60},
    "volume": {"L": 1.0, "mL": 1e-3},
    "pressure": {"Pa": 1.0, "hPa": 100.0, "mbar": 100.0, "kPa": 1e3, "cmH2O": 98.0665, "mmHg": 133.322387415},
    "acceleration": {"m/s2": 1.0, "g": 9.80665, "mg": 9.80665e-3},
    "conductance": {"S": 1.0, "mS": 1e-3, "uS": 1e-6},
    "resistance": {"Ohm": 1.0, "kOhm": 1e3},
    "frequency": {"1/min": 1.0, "Hz": 60.0},
    "share": {"%": 1.0},
    "temperature": {"degC": 1.0},
    "angle": {"deg": 1.0},
}
SPELLINGS = {
    "lpm": "l/min", "lps": "l/s", "l/sec": "l/s", "ml/sec": "ml/s", "cmh20": "cmh2o", "cm h2o": "cmh2o",
    "m/s/s": "m/s2", "m/s^2": "m/s2", "m/s**2": "m/s2", "bpm": "1/min", "/min": "1/min", "min-1": "1/min",
    "beats/min": "1/min", "breaths/min": "1/min", "percent": "%", "pct": "%", "c": "degc", "celsius": "degc",
    "degr.": "deg", "degree": "deg", "volt": "v", "volts": "v", "microvolt": "uv", "millivolt": "mv",
}  # fmt: skip
# characters that look alike: two micro signs, two ohm signs, the degree and the ordinal sign
LOOKALIKES = str.maketrans(
    {"\u00b5": "u", "\u03bc": "u", "\u03a9": "ohm", "\u2126": "ohm", "°": "deg", "º": "deg", "²": "2", "₂": "2"}
)
LIKE_AIRFLOW = re.compile(r"flow|nasal|cannula|thermistor", re.IGNORECASE)         # in the name of a channel
NO_BREATHS = re.compile(r"leak|(minute|target).?vent|limit", re.IGNORECASE)        # what devices compute of airflow
UNSPECIFIED = ("", "nu", "a.u.", "au", "n/a", "none", "-")           # nu is WFDB's "no unit"


def factor_between(have: str, want: str) -> float | None:
    """Return the factor that converts a value in unit `have` to unit `want`; None if they are not convertible."""
    have, want = _normalized(have), _normalized(want)
    if have == want:
        return 1.0
    for scale in QUANTITIES.values():
        factors = {_normalized(unit): factor for unit, factor in scale.items()}
        if have in factors and want in factors:
            return factors[have] / factors[want]
    return None


def is_known(unit: str) -> bool:
    """Return whether the unit is in the table."""
    return any(_normalized(unit) == _normalized(known) for scale in QUANTITIES.values() for known in scale)


def unit_at_end(name: str) -> str:
    """Return the unit that a name such as `flow_lpm`, `flow_l_s` or `spo2_percent` ends in; "" if it ends in none.

    A single letter is taken for no unit: `temp_c` and `belt_v` may be many things.
    """
    words = re.split(r"[_ .-]+", name.strip().lower())
    for end in ("/".join(words[-2:]) if len(words) > 2 else "", words[-1] if len(words) > 1 else ""):
        for scale in QUANTITIES.values():
            for unit in scale:
                if len(end) > 1 and _normalized(end) == _normalized(unit):
                    return unit
    return ""


def is_unspecified(unit: str) -> bool:
    """Return whether the text stands for an unknown or arbitrary unit."""
    return _normalized(unit) in UNSPECIFIED


def _normalized(unit: str) -> str:
    text = " ".join(unit.translate(LOOKALIKES).lower().split())
    return SPELLINGS.get(text, text).replace(" ", "")


def doubts_about_breathing(units: Mapping[str, str], measures: Mapping[str, str]) -> list[str]:
    """Return what is wrong, in sentences, with what the channels of a breathing dataset are declared to measure.

    Args:
        units, measures: of each channel by its name.
    """
    doubts = []
    if not set(measures.values()) & {*BREATHING}:
        doubts.append(
            "no channel measures airflow or effort, so that no breathing pause can be found; declare one with "
            "channels.NAME.measures in dataset_config.json"
        )
    for name, what in measures.items():
        is_flow = LIKE_AIRFLOW.search(name) or factor_between(units[name], "L/min") is not None
        if what == "other" and is_flow and not NO_BREATHS.search(name):
            doubts.append(
                f"channel {name} looks like airflow, but is declared as 'other', so that no breathing pause is looked "
                f'for in it; set channels.{name}.measures to "airflow"'
            )
    return doubts
