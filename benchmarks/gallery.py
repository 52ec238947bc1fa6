"""The gallery: ten pictures of what was found, missed and mistaken, chosen by rule from three finished runs.

    python -m benchmarks.gallery --nights experiments/cpap --simulated experiments/simulated \
        --series experiments/machine_temperature_system_failure

Of the events of a kind it draws the one whose highest score is the median of their highest scores: a usual one, not
the best. docs/gallery.md has the commands that make the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports import plots
from reports.run_folder import AROUND_S
from reports.run_view import RunView, read_run, start_of
from utils import ROOT, ArgumentParser, DataError, run_cli, setup_logging

MISTAKEN = "false"                       # in the place of a kind: events that no label explains
PICTURES = {                             # run -> name of the picture -> kind, and whether it was found; None = all
    "nights": {
        "night": None,
        "central_apnea": ("central_apnea", True),
        "false_alarm": (MISTAKEN, True),
    },
    "simulated": {
        "obstructive_apnea": ("obstructive_apnea", True),
        "hypopnea": ("hypopnea", True),
        "periodic_breathing": ("periodic_breathing", True),
        "cough": ("cough", True),
        "tachypnea": ("tachypnea", True),
        "missed_belt_slip": ("belt_slip", False),
    },
    "series": {"series": None},
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """An event that can be drawn: where it is, and the highest score in it."""

    place: int
    start_s: float
    end_s: float
    peak: float


def view_of(run: RunView, place: int) -> plots.RecordingView:
    """Return what the plots of a recording of a finished run need."""
    about, signals = run.recordings[place], run.signals(place)
    alarms = pd.read_csv(run.folder.alarms, keep_default_na=False)
    alarms = alarms[alarms["recording"] == about["name"]].to_dict("records")
    found, lost = ([row for row in alarms if row["found_by"] == by] for by in ("lstm", "signal_loss"))
    truth = [bool(row["overlaps"]) if about["is_labelled"] else None for row in found]
    return plots.RecordingView(
        name=about["name"],
        **signals,
        lead_s=about["lead_s"],
        channels=tuple(channel["name"] for channel in run.data["channels"]),
        units=tuple(channel["unit"] or "" for channel in run.data["channels"]),
        found=[(r["start_s"], r["end_s"], is_true, r["channel"]) for r, is_true in zip(found, truth, strict=True)],
        labelled=[(r["start_s"], r["end_s"], r["kind"], bool(r["found_by"])) for r in run.rows_of(about["name"])[1]],
        faults=[(row["start_s"], row["end_s"], row["channel"]) for row in lost],
        note="simulated data" if run.data["simulated"] else "",
        gaps_missing=not run.is_series,
        start=start_of(about),
        row_s=1 / run.data["rate_hz"] if run.is_series else None,
    )


def usual(run: RunView, views: Sequence[plots.RecordingView], kind: str, is_found: bool) -> Shown:
    """Return the event of a kind with the median highest score. Raises: DataError if there is none."""
    shown = []
    for place, view in enumerate(views):
        false = [(start, end) for start, end, is_true, _ in view.found if is_true is False]
        labelled = [(start, end) for start, end, known, found in view.labelled if (known, found) == (kind, is_found)]
        for start, end in false if kind == MISTAKEN else labelled:
            score = view.score[slice(*np.searchsorted(view.t, (start, end)))]
            shown.append(Shown(place, start, end, np.max(score, initial=0.0, where=np.isfinite(score))))
    if not shown:
        what = "no false alarm" if kind == MISTAKEN else f"no {kind} that was {'found' if is_found else 'missed'}"
        raise DataError(f"{run.folder.root}: {what} to draw; name a run that has one")
    return sorted(shown, key=lambda one: one.peak)[len(shown) // 2]


def draw(run: RunView, wanted: dict[str, tuple[str, bool] | None]) -> dict[str, Figure]:
    """Return the pictures of a run by name."""
    views, figures = [view_of(run, place) for place in range(len(run.recordings))], {}
    for name, event in wanted.items():
        if event is None:
            figures[name] = plots.plot_recording(views[-1])
            continue
        one = usual(run, views, *event)
        view, (before_s, after_s) = views[one.place], AROUND_S
        title = f"{view.name}: {name.replace('_', ' ')}, at {one.start_s:.0f} s"
        figures[name] = plots.plot_span(view, one.start_s - before_s, one.end_s + after_s, title)
    return figures


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--nights", type=Path, required=True, metavar="RUN", help="of the dataset cpap")
    parser.add_argument("--simulated", type=Path, required=True, metavar="RUN", help="of the dataset simulated")
    parser.add_argument("--series", type=Path, required=True, metavar="RUN", help="of a series")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gallery", metavar="DIR", help="(docs/gallery)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        figures = {}
        for which, wanted in PICTURES.items():
            figures |= draw(read_run(getattr(args, which)), wanted)
        args.out.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            plots.save(figure, args.out / f"{name}.png")
        print(f"{len(figures)} pictures in {args.out}")
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
