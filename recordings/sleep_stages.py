"""Sleep stages of a recording, from a hypnogram beside it or from annotations. They are never events.

Of a recording NAME, the first of these that states a stage: `NAME.hypnogram.csv` (also .tsv, .txt), a table of start,
end or duration and stage, or a column of one stage for each epoch of 30 s; `NAME.hypnogram.edf` (EDF+); the annotation
files that events are read from too; the annotations in the recording itself.

Stages are W, N1, N2, N3, R; NREM where it is not said which, SLEEP where only that is known. What is unscored has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from recordings import event_files
from recordings.event_files import ANNOTATIONS, Place, TimeAxis, read_annotations
from recordings.reading import DETECT, Dialect, Event
from recordings.windowing import EventMeta
from utils import DataError, counted

FILES = ("{}.hypnogram.csv", "{}.hypnogram.tsv", "{}.hypnogram.txt", "{}.hypnogram.edf")
EPOCH_S = 30.0
WAKE, NREM, REM, SLEEP = "W", ("N1", "N2", "N3", "NREM"), "R", "SLEEP"
UNSCORED = ""
WORDS = {                                # in small letters; those of one letter or digit stand in hypnograms alone
    "wake": WAKE, "awake": WAKE, "n1": "N1", "n2": "N2", "n3": "N3", "n4": "N3", "nrem1": "N1", "nrem2": "N2",
    "nrem3": "N3", "nrem4": "N3", "nrem": "NREM", "rem": REM, "sleep": SLEEP, "asleep": SLEEP, "unscored": UNSCORED,
    "unknown": UNSCORED, "movement": UNSCORED, "artefact": UNSCORED, "artifact": UNSCORED, "mt": UNSCORED,
}  # fmt: skip
LETTERS = {"w": WAKE, "r": REM, "n": "NREM", "s": SLEEP, "m": UNSCORED, "?": UNSCORED, "u": UNSCORED}
NUMBERED = {"0": WAKE, "1": "N1", "2": "N2", "3": "N3", "4": "N3", "5": REM}        # of Rechtschaffen and Kales
NO_STAGE = ("-1", "-2", "6", "7", "8", "9")          # codes of epochs that are not scored
TITLES = ("stage", "stages", "sleep_stage", "sleep stage", "hypnogram", "hypno")
EXPECTED = "W, N1, N2, N3, R, wake, sleep, or ? where none is scored"


def file_of(recording: Path, name: str) -> Path | None:
    """Return the hypnogram beside a recording; None if there is none."""
    return next((path for path in map(recording.with_name, (f.format(name) for f in FILES)) if path.is_file()), None)


def read_stages(
    recording: Path, name: str, axis: TimeAxis, annotations: Sequence[Event] = (), dialect: Dialect = DETECT
) -> list[EventMeta] | None:
    """Return the scored stages of a recording in time order, clipped to it; None if nobody scored any.

    Args:
        annotations: those in the recording itself.
    Raises: DataError naming the file and row if a hypnogram cannot be read, or its stages overlap.
    """
    if (file := file_of(recording, name)) is not None:
        return _clipped(_hypnogram(file, axis, dialect), axis, file.name)
    beside = [path for path in map(recording.with_name, (f.format(name) for f in ANNOTATIONS)) if path.is_file()]
    for path in beside:
        if stages := _from_annotations(read_annotations(path, axis, dialect), path.suffix.lower() == ".annot"):
            return _clipped(stages, axis, path.name)
    stages = _from_annotations(annotations, False)
    return _clipped(stages, axis, recording.name) if stages else None


def stage_of(text: str, letters: bool = True) -> str | None:
    """Return the stage that a text names, UNSCORED for none; None if it speaks of something else.

    Args:
        letters: whether a single letter is a stage; in other annotations it may be a beat.
    """
    word = " ".join(re.sub(r"[_\s-]+", " ", text.lower()).split())
    plain = re.sub(r"^(sleep )?stage (.+?)( sleep)?$|^(n?rem) sleep$", r"\2\4", word)
    if plain != word:                                            # it says that it is a stage
        return NUMBERED.get(plain, LETTERS.get(plain, WORDS.get(plain.replace(" ", ""))))
    return LETTERS[word] if letters and word in LETTERS else WORDS.get(word.replace(" ", ""))


def _from_annotations(annotations: Sequence[Event], letters: bool) -> list[Event]:
    """Return annotations that name a stage, with it as their label; none unless one is W or asleep."""
    named = [(event, stage_of(event.label, letters)) for event in annotations]
    stages = [Event(event.start_s, event.end_s, stage) for event, stage in named if stage is not None]
    return stages if any(event.label for event in stages) else []


def _hypnogram(path: Path, axis: TimeAxis, dialect: Dialect) -> list[Event]:
    """Return what a hypnogram says, its stages as labels."""
    if path.suffix.lower() == ".edf":
        return _from_annotations(read_annotations(path, axis, dialect), True)
    lines = [line.strip() for line in event_files.text_of(path).splitlines()]
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line and not line.startswith("#")]
    if not rows:
        raise DataError(f"{path.name}: empty; expected a stage for each {EPOCH_S:g} s, or start_s,duration_s,stage")
    if re.search(r"[,;\t]", rows[0][1]):
        return _table(path, axis, dialect, rows[0][1])
    if rows[0][1].strip('"').lower() in TITLES:
        rows = rows[1:]
    stages = _stages_of([text.strip('"') for _, text in rows], lambda row: f"{path.name}: row {rows[row][0]}")
    hours, expected = len(stages) * EPOCH_S / 3600, (axis.end_s - axis.start_s) / 3600
    if abs(hours - expected) * 3600 > EPOCH_S + 1:
        raise DataError(
            f"{path.name}: {counted(len(stages), 'stage')} of {EPOCH_S:g} s are {hours:.2f} h, but the recording has "
            f"{expected:.2f} h; expected a stage for each {EPOCH_S:g} s of it, or a table of start_s,duration_s,stage"
        )
    starts = [axis.start_s + EPOCH_S * k for k in range(len(stages))]
    return [Event(start_s, start_s + EPOCH_S, stage) for start_s, stage in zip(starts, stages, strict=True)]


def _table(path: Path, axis: TimeAxis, dialect: Dialect, header: str) -> list[Event]:
    """Return the stages of a table with times."""
    names = [name.strip(' "') for name in re.split(r"[,;\t]", header)]
    columns = {"label": found[0]} if (found := [name for name in names if name.lower() in TITLES]) else {}
    events, place = event_files.table_events(path, axis, dialect, columns, [])
    stages = _stages_of([event.label or "?" for event in events], place)                # an empty cell is unscored
    return [Event(event.start_s, event.end_s, stage) for event, stage in zip(events, stages, strict=True)]


def _stages_of(texts: Sequence[str], place: Place) -> list[str]:
    """Return the stage of each text of a hypnogram, of words or of numbers.

    0 and 1 alone are wake and sleep; with a 5 (REM), 3 and 4 are N3. A 4 without any 5 is not certain: some programs
    count so, others write REM as 4.
    """
    codes = {*texts} - {*NO_STAGE}
    if codes and codes <= {*NUMBERED}:
        if "4" in codes and "5" not in codes:
            raise DataError(f"{place(texts.index('4'))}: stage 4 may be N3 or REM; write {EXPECTED}")
        known = {"0": WAKE, "1": SLEEP} if codes <= {"0", "1"} else NUMBERED
        return [known.get(text, UNSCORED) for text in texts]
    stages = [stage_of(text) for text in texts]
    if None in stages:
        k = stages.index(None)
        raise DataError(f"{place(k)}: {texts[k]!r} is no stage; expected {EXPECTED}")
    return stages


def _clipped(stages: Sequence[Event], axis: TimeAxis, where: str) -> list[EventMeta]:
    """Return scored stages within the recording, in time order."""
    spans = sorted((stage.start_s, stage.end_s, stage.label) for stage in stages if stage.label != UNSCORED)
    for (_, end_s, before), (start_s, _, after) in zip(spans, spans[1:], strict=False):
        if start_s < end_s - 0.5 and before != after:
            raise DataError(f"{where}: {after} begins at {start_s:g} s, before {before} ends at {end_s:g} s")
    within = [(max(start, axis.start_s), min(end, axis.end_s), stage) for start, end, stage in spans]
    kept = [EventMeta(start_s=start, end_s=end, kind=stage) for start, end, stage in within if end > start]
    if not kept:
        raise DataError(f"{where}: no stage within the recording, {axis.start_s:g} to {axis.end_s:g} s")
    return kept
