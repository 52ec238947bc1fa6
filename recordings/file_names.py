"""What files call otherwise than a model's recordings, as it is said on a command line."""

from __future__ import annotations

import argparse
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from config import DatasetConfig, check_name
from recordings.series_files import SeriesColumns
from recordings.units import is_known
from utils import DataError

TIMES = ("time_column", "time_format", "time_zone")      # options, and keys of a dataset


@dataclass(frozen=True)
class FileNames:
    """What files call otherwise than the model: channel -> (column or signal, its unit or None), label -> kind."""

    channels: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    time_column: str | None = None
    time_format: str | None = None
    time_zone: str | None = None

    def __post_init__(self) -> None:
        if self.time_zone is not None and self.time_zone not in zoneinfo.available_timezones():
            raise DataError(f"--time-zone {self.time_zone}: unknown zone; expected such as Europe/Berlin, or UTC")

    @classmethod
    def parsed(cls, args: argparse.Namespace) -> FileNames:
        """Return what `NAME=COLUMN`, `NAME=COLUMN:UNIT` and `LABEL=KIND` say, of the options of `add_file_names`.

        Raises: DataError naming the option that cannot be read.
        """
        columns = {}
        for text in args.channel:
            name, column = _pair("--channel", text, "flow=Flow or flow=Flow:L/s")
            column, mark, unit = (column, "", "") if not is_known(column.rpartition(":")[2]) else column.rpartition(":")
            columns[name] = (column, unit) if mark else (column or unit, None)
        labels = getattr(args, "map_label", ())                  # live, there are none
        kinds = dict(_pair("--map-label", text, '"A. Central"=central_apnea') for text in labels)
        for kind in kinds.values():
            check_name(kind, "--map-label: kind")
        return cls(columns, kinds, **{name: getattr(args, name) for name in TIMES})

    def check(self, known: Sequence[str]) -> None:
        """Raise DataError if a channel is none of the model's."""
        unknown = [name for name in self.channels if name not in known]
        if unknown:
            raise DataError(f"--channel {unknown[0]}: not a channel of the model; it has {', '.join(known)}")

    def dataset(self, data: DatasetConfig) -> DatasetConfig:
        """Return what the model knows of recordings, with the names and units of the files."""
        channels = dict(data.channels)
        for name, (source, unit) in self.channels.items():
            channels[name] = channels[name].model_copy(update={"source": source, "source_unit": unit})
        changed = {"channels": channels, "labels": {**data.labels, **self.labels}}
        times = {name: getattr(self, name) for name in TIMES}
        return data.model_copy(update=changed | {key: value for key, value in times.items() if value})

    def series(self, data: Mapping[str, Any], channels: Sequence[str]) -> SeriesColumns:
        """Return the columns of a series that has the model's channels."""
        written = {key: data.get(key) for key in ("delimiter", "decimal")}
        written["time_format"] = self.time_format or data.get("time_format")
        columns = {name: column for name, (column, _) in self.channels.items()}
        usual = data.get("time_column") or SeriesColumns.usual_time
        return SeriesColumns(self.time_column, usual, columns, channels, **written)


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    name, mark, value = text.rpartition("=") if option == "--map-label" else text.partition("=")
    if not (name and mark and value):
        raise DataError(f"{option} {text}: expected such as {option} {example}")
    return name, value
