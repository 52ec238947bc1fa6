"""The journal of a grid search: one JSON line a run, appended and forced to disk before it counts.

A process that is killed while it appends leaves a torn last line; it is recognised and cut off.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils import DataError, jsonable

STATUSES = ("finished", "paused", "stopped", "failed")
log = logging.getLogger(__name__)


def read_journal(path: Path, mend: bool = True) -> list[dict[str, Any]]:
    """Return the journal's records, oldest first; a torn last line is left out and, to `mend`, cut off the file.

    Raises: DataError naming the line if one before the last is no record.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    records, good = [], 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record is None and number < len(lines):
            raise DataError(f"{path}: line {number} is no record; restore the file, or start a new grid")
        if record is not None:
            records.append(record)
            good += len(line)
    if mend and good < len(content):
        log.warning("%s: its last line was cut off by a crash; that run counts as not done", path.name)
        os.truncate(path, good)
    return records


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and _is_sound(record) else None


def _is_sound(record: Mapping[str, Any]) -> bool:
    """Return whether a record has what a grid goes on from, and plain numbers and texts beside it."""
    texts = all(isinstance(record.get(name, ""), str) for name in ("key", "status", "error", "rule"))
    known = isinstance(record.get("key"), str) and record.get("status") in STATUSES
    until = record.get("until")
    plain = all(
        value is None or isinstance(value, str) == (name in ("key", "status", "error", "rule"))
        and isinstance(value, (int, float, str))
        for name, value in record.items()
    )
    return texts and known and plain and (until is None or type(until) is int)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record; when this returns, it is on disk."""
    line = json.dumps(jsonable(dict(record)), allow_nan=False) + "\n"
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk: names of files made or replaced in it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Force all files below a folder to disk, and their names."""
    for folder, _, files in os.walk(root):
        for name in files:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(folder))
