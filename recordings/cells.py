"""Cells of tables: numbers, their decimal sign, and words that mean that there is no value."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

NUMBER = re.compile(r"\s*[+-]?(\d*)([.,]?)(\d*)([eE][+-]?\d+)?\s*")
# by the decimal sign: 1.234 or 1.234,5 where it is a comma
THOUSANDS = {
    sign: re.compile(rf"[+-]?[1-9]\d{{0,2}}(\{other}\d{{3}})+(\{sign}\d*)?") for sign, other in ((",", "."), (".", ","))
}
# 1'234.5: certain, as none of these marks is a decimal sign; of a plain blank, a lost delimiter may be the cause
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(['\u2019\u00a0\u202f]\d{3})+([.,]\d*)?")
GROUP_MARKS = str.maketrans("", "", "'\u2019\u00a0\u202f")
# in lower case; the empty cell is one of them
MISSING = frozenset(
    {"", "-", "--", "---", "?", "*", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null", "none", "nil"}
)


def is_number(text: str, decimal: str | None) -> bool:
    """Return whether a cell is a number with this decimal sign; None = with either."""
    found = NUMBER.fullmatch(text)
    return bool(found and (found[1] or found[3]) and (decimal is None or found[2] in ("", decimal)))


def is_missing(text: str, more: Iterable[str] = ()) -> bool:
    """Return whether a cell holds no value: it is empty, one of the usual words, or one of `more`."""
    return text.strip().lower() in MISSING or text.strip() in more


def without_marks(text: str) -> str:
    """Return a number with a plain minus and without apostrophes or fixed blanks between thousands."""
    text = text.strip().replace("\u2212", "-")
    return text.translate(GROUP_MARKS) if GROUPED.fullmatch(text) else text


def plain_number(text: str, decimal: str, is_declared: bool) -> str:
    """Return a number with a plain minus and without its thousands separators; another text as it is.

    Commas and points beside a decimal sign, as in 1,076.00, are certain; without one, only if the sign is declared, as
    are plain blanks.
    """
    text = without_marks(text.replace(" ", "\u00a0") if is_declared else text)
    if not (is_declared or decimal in text) or not THOUSANDS[decimal].fullmatch(text):
        return text
    return text.replace("." if decimal == "," else ",", "")


def has_thousands(text: str) -> bool:
    """Return whether a text looks like a number with thousands separators of any kind."""
    return bool(re.fullmatch(r"[+-]?[1-9]\d{0,2}([., ]\d{3})+([.,]\d*)?", text.strip()))


@dataclass
class DecimalSigns:
    """The decimal signs that numbers show: 1,234 alone may be a fraction or thousands, 0,5 is a fraction."""

    seen: dict[str, str] = field(default_factory=dict)               # sign -> a number that has it
    proven: set[str] = field(default_factory=set)

    def take(self, cells: Iterable[str]) -> None:
        """Look at further cells."""
        for cell in cells:
            found = NUMBER.fullmatch(without_marks(cell))
            if found and found[2] and (found[1] or found[3]):
                self.seen[found[2]] = cell.strip()
                if len(found[3]) != 3 or len(found[1]) > 3 or found[1].startswith("0") or not found[1]:
                    self.proven.add(found[2])

    def sign(self, delimiter: str) -> str | None:
        """Return the decimal sign; None if the cells leave it open. Between commas, a bare point is one."""
        if delimiter == "," and "," not in self.seen:
            return "."
        return next(iter(self.proven)) if len(self.proven) == 1 else None

    @property
    def examples(self) -> str:
        return " and ".join(self.seen.values())
