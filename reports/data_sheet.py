"""A windowed dataset in, its data sheet out: what it holds, where that comes from, and what was done to it.

    python -m reports.data_sheet datasets/collected-known-anomaly/cpap_flow --out cpap_flow.data.md

Composition and preprocessing after "Datasheets for Datasets" (Gebru et al. 2021, Communications of the ACM 64(12)), as
far as files can tell; who was recorded, why, and with whose consent is for people to say: `--notes FILE` adds it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recordings.windowing import SPLITS, Meta, read_meta, read_windows
from reports.tables import Table, markdown
from utils import ArgumentParser, DataError, run_cli, write_text


def data_sheet(folder: Path, notes: str = "") -> str:
    """Return the sheet of a dataset in Markdown.

    Args:
        notes: a page in Markdown about what no file tells.
    Raises: DataError if the dataset's files are missing, or violate their schema.
    """
    meta = read_meta(folder)
    made = "Simulated data." if meta.simulated else "Measured data."
    clock = f"a row of the series (about {1 / meta.rate_hz:g} s)" if meta.series else f"{1 / meta.rate_hz:g} s"
    about = [
        ["", ""],
        ["fingerprint of config and sources", f"`{meta.fingerprint}`"],
        ["a step", clock],
        ["a window", f"{meta.window_s:g} s"],
        ["left out between two splits", f"{meta.guard_s:g} s"],
        ["delay of the resampling filters", f"{meta.delay_s:g} s"],
        ["kinds of labels that are faults", ", ".join(meta.fault_kinds) or "none"],
    ]
    labels = _labels(meta)
    sections = {
        "Notes": notes.strip(),
        "Channels": markdown(_channels(folder, meta)),
        "Recordings": markdown(_recordings(meta)),
        "Labels": markdown(labels) if len(labels) > 1 else "No event is labelled.",
        "Preprocessing": _preprocessing(meta),
        "Files": _digests(meta),
    }
    head = f"# Data sheet: {meta.dataset}\n\n{meta.description}. {made}\n\n{markdown(about)}\n"
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items() if text)


def _channels(folder: Path, meta: Meta) -> Table:
    """Return a row a channel: what it is, how it is scaled, and the share of steps that have a value, by split."""
    shares = []                                                      # (C,) of each split that has steps
    splits = [split for split in SPLITS if meta.splits.get(split)]
    for split in splits:
        present = [np.isfinite(s.values) for s in read_windows(folder / f"{split}.csv", meta, list(meta.channels))]
        shares.append(np.concatenate(present).mean(axis=0))
    header = ["channel", "unit", "measures", "center", "scale", *(f"present in {split}" for split in splits)]
    rows = [
        [name, unit, meta.measures[name], f"{meta.scaler.center[k]:.4g}", f"{meta.scaler.scale[k]:.4g}",
         *(f"{share[k]:.1%}" for share in shares)]
        for k, (name, unit) in enumerate(meta.channels.items())
    ]  # fmt: skip
    return [header, *rows]


def _recordings(meta: Meta) -> Table:
    """Return a row a recording: its clock at time 0, length in each split, labelled events."""
    lengths: dict[str, Counter[str]] = defaultdict(Counter)              # steps
    for split, spans in meta.splits.items():
        for span in spans:
            lengths[span.recording][split] += span.steps
            lengths["all"][split] += span.steps
    counts = {name: len(events) for name, events in meta.events.items()}
    unit, form = ("rows", str) if meta.series else ("h", lambda steps: f"{steps / meta.rate_hz / 3600:.2f}")
    rows = [
        [name, meta.starts.get(name, ""), *(form(lengths[name][split]) for split in SPLITS), str(count)]
        for name, count in (counts | {"all": sum(counts.values())}).items()
    ]
    return [["recording", "begins", *(f"{split}, {unit}" for split in SPLITS), "labelled events"], *rows]


def _labels(meta: Meta) -> Table:
    """Return a row a kind of label: number, and shortest, median and longest duration."""
    durations: dict[str, list[float]] = defaultdict(list)
    for events in meta.events.values():
        for event in events:
            durations[event.kind].append(event.end_s - event.start_s)
    rows = [
        [kind, str(len(found)), f"{min(found):.4g}", f"{np.median(found):.4g}", f"{max(found):.4g}"]
        for kind, found in sorted(durations.items())
    ]
    return [["label", "events", "shortest, s", "median, s", "longest, s"], *rows]


def _preprocessing(meta: Meta) -> str:
    said = (
        "Every channel is resampled to one grid by a filter that looks back only; steps at which no channel has a "
        "value are left out."
    )
    if meta.series:
        said = "Rows are kept as they are."
    said += " No step is in two splits. Center and scale are fitted on the training split."
    lists = {"Dropped": meta.dropped, "Filled": meta.filled, "Peculiarities": meta.notes}
    return said + "".join(
        f"\n\n{title}:\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in lists.items() if lines
    )


def _digests(meta: Meta) -> str:
    sources = [f"{digest}  {name}" for name, digest in sorted(meta.sources.items())]
    made = [f"{digest}  {split}.csv" for split, digest in meta.hashes.items()]
    return "\n".join(["SHA-256 of every file that was read, and of those made from them:\n", "```", *sources, "", *made,
                      "```"])  # fmt: skip


def _text_of(notes: Path) -> str:
    if not notes.is_file():
        raise DataError(f"{notes}: no such file; expected a page in Markdown")
    try:
        return notes.read_text("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{notes}: no text in UTF-8; expected a page in Markdown") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(__doc__)
    parser.add_argument("dataset", type=Path, metavar="DATASET_DIR", help="folder of a preprocessed dataset")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="what no file tells, in Markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(DATASET_DIR/data_sheet.md)")
    args = parser.parse_args(argv)

    def body() -> int:
        out = args.out or args.dataset / "data_sheet.md"
        write_text(out, data_sheet(args.dataset, _text_of(args.notes) if args.notes else ""))
        print(out)
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
