"""Feed every reader with damaged and crafted files: each is read, or refused in one line.

    python -m benchmarks.fuzz --minutes 10 --seed 0
    python -m benchmarks.fuzz --minutes 1 --reader checkpoint

Valid files come from the project's own writers; hypothesis draws what is changed in them: values of JSON and of
checkpoints, cells of tables, bytes of anything. A reader has a process of its own, with bounded memory and time for
each input. Whatever is neither accepted nor refused is counted by where it came up, and its files are kept.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzz_readers import READERS
from utils import ROOT, DataError

LONGEST_S, MOST_BYTES = 20, 6_000_000_000            # of one input; of the address space beyond what is in use
KEPT = ROOT / "experiments" / "fuzz"
TEXTS = (
    "", "nan", "inf", "-1", "0", "1e308", "-1e308", "1e-320", "99999999999999999999", "1,5", "true", "null", "[]", "{}",
    "=cmd|' /C calc'!A0", "+1", "@x", "-x", "<script>alert(1)</script>", "../../x", "/etc/passwd", "CON", "..", "\0",
    "\x1b[2J", "$\\frac$", "$(x)", "%s{0}", "\u202eabc", "e\u0301\U0001f634", '"', "'", ",", ";", "\t", "\r", "\n",
    "a" * 300, "2024-13-45", "2024-05-01T22:30:00+02:00", "12:61:00", "0001-01-01 00:00:00", "\ufeff",
)  # fmt: skip
VALUES = (None, True, False, 0, -1, 2**31, 10**30, 0.0, -0.5, 1e-320, 1e12, 1e308, [], {}, [[]], {"a": 1}, [1.0] * 3)
Files = dict[str, bytes]


# ---- what is changed ------------------------------------------------------------------------


@st.composite
def changed(draw: Any, files: Files) -> Files:
    """Draw files with one to three changes in them."""
    files = dict(files)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        kinds = [change_bytes]
        if name.endswith(".json"):
            kinds += [change_json] * 4
        elif name.endswith((".csv", ".jsonl", ".hea")):
            kinds += [change_cells] * 3
        elif name.endswith((".safetensors", ".state")):
            kinds += [change_tensors] * 6 + [change_header]
        elif name.endswith(".npz"):
            kinds += [change_zip] * 3
        content = draw(st.sampled_from(kinds))(draw, files[name])
        files[name] = content if content is not None else files[name]
    return files


def change_bytes(draw: Any, content: bytes) -> bytes:
    """Flip, cut, double, remove or insert some bytes."""
    start = draw(st.integers(0, max(len(content) - 1, 0)))
    start = draw(st.sampled_from([start, start % 600]))              # headers stand in front
    end = min(start + draw(st.integers(1, 64)), len(content))
    new = draw(st.one_of(st.binary(max_size=8), st.sampled_from([text.encode() for text in TEXTS])))
    return draw(
        st.sampled_from([
            content[:start] + new + content[start + len(new):], content[:start], content[:start] + content[end:],
            content[:end] + content[start:], content[:start] + new + content[start:],
        ])
    )  # fmt: skip


def change_cells(draw: Any, content: bytes) -> bytes:
    """Replace a cell, or drop or double a row or a cell of it."""
    rows = [line.split(",") for line in content.decode("utf-8", "replace").split("\n")]
    row = rows[draw(st.integers(0, min(len(rows) - 1, 8)))]
    at = draw(st.integers(0, len(row) - 1))
    kind = draw(st.sampled_from(["cell", "cell", "cell", "drop", "double", "row", "column"]))
    if kind == "column":
        odd = draw(st.sampled_from(TEXTS))
        rows = [line[:at] + [odd] + line[at + 1 :] if len(line) == len(row) else line for line in rows]
    elif kind == "row":
        rows.insert(draw(st.integers(0, len(rows))), list(row))
    else:
        row[at : at + 1] = {"cell": [draw(st.sampled_from(TEXTS))], "drop": [], "double": [row[at]] * 2}[kind]
    return "\n".join(",".join(line) for line in rows).encode("utf-8", "surrogatepass")


def change_tree(draw: Any, content: Any, odd: Any) -> Any:
    """Replace, drop or rename something within nested values."""
    if not isinstance(content, (dict, list)) or not content or draw(st.integers(0, 15)) == 0:
        return draw(odd)
    keys = list(content) if isinstance(content, dict) else range(len(content))
    key = draw(st.sampled_from(keys))
    content = copy.copy(content)
    if draw(st.integers(0, 15)) == 0:
        del content[key]
    elif isinstance(content, dict) and draw(st.integers(0, 15)) == 0:
        content[draw(st.sampled_from(TEXTS))] = content.pop(key)
    else:
        content[key] = change_tree(draw, content[key], odd)
    return content


def change_json(draw: Any, content: bytes) -> bytes | None:
    try:
        tree = json.loads(content)
    except ValueError:
        return None
    tree = change_tree(draw, tree, st.sampled_from([*VALUES, *TEXTS, float("nan")]))
    return json.dumps(tree, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def change_tensors(draw: Any, content: bytes) -> bytes | None:
    """Change something in a file of tensors, and write it again as the project does."""
    import torch

    from detection.checkpoint import read_tensors, write_tensors

    nan, one = float("nan"), torch.ones(1)
    tensors = (
        one * nan, torch.zeros(2, 3), torch.zeros(0), one.half(), one.long(), one.to(torch.complex64), one.double(),
        one[0],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensors"
        path.write_bytes(content)
        try:
            tree = read_tensors(path)
        except ValueError:
            return None
        write_tensors(path, change_tree(draw, tree, st.sampled_from([*VALUES, *TEXTS, nan, (1, 2), *tensors])))
        return path.read_bytes()


def change_header(draw: Any, content: bytes) -> bytes | None:
    """Change names, types, shapes and places of tensors, under a right length of the header."""
    size = int.from_bytes(content[:8], "little")
    header = change_json(draw, content[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + content[8 + size :] if header else None


def change_zip(draw: Any, content: bytes) -> bytes | None:
    """Change the bytes of a member of a zip, under a right checksum."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zipfile.zlib.error):
        return None
    name = draw(st.sampled_from(sorted(parts)))
    parts[name] = change_bytes(draw, parts[name])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for part, its_bytes in parts.items():
            archive.writestr(part, its_bytes)
    return packed.getvalue()


# ---- what comes of it -----------------------------------------------------------------------


class Counts(NamedTuple):
    """What became of the inputs of one reader; crashes by the place where they came up."""

    tried: int
    accepted: int
    refused: int
    crashes: dict[str, int]


def outcome(read: Callable[[Path], Any], files: Files, folder: Path) -> bool:
    """Write files and read them; return whether they were accepted. Anything but a one-line refusal comes out."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    try:
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            read(folder)
    except DataError as error:
        assert str(error) and "\n" not in str(error), f"not one line: {error!r}"
        return False
    return True


def is_ours(path: Path) -> bool:
    return path.is_relative_to(ROOT) and ".venv" not in path.parts


def too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {LONGEST_S} s")


def fuzz(name: str, examples: int, number: int | None, folder: Path, until: float = float("inf")) -> Counts:
    """Try a reader on drawn inputs; number: of the draw, None = always the same."""
    files, read = READERS[name](folder / "valid")
    assert outcome(read, files, folder / "input"), f"{name}: the valid files are refused"
    counts, crashes = Counter(), Counter()

    @settings(max_examples=examples, deadline=None, database=None, derandomize=number is None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(changed(files))
    def one(inputs: Files) -> None:
        if time.monotonic() > until:
            return
        counts["tried"] += 1
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        try:
            counts["accepted" if outcome(read, inputs, folder / "input") else "refused"] += 1
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in place if is_ours(Path(frame.filename))] or place
            where = f"{type(error).__name__} in {Path(ours[-1].filename).name}:{ours[-1].lineno}: {str(error)[:100]}"
            if where.partition(": ")[0] not in {one.partition(": ")[0] for one in crashes}:
                KEPT.mkdir(parents=True, exist_ok=True)
                shutil.copytree(folder / "input", KEPT / f"{name}-{number}-{counts['tried']}", dirs_exist_ok=True)
            crashes[where] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    signal.signal(signal.SIGALRM, too_long)
    (seed(number)(one) if number is not None else one)()
    return Counts(counts["tried"], counts["accepted"], counts["refused"], dict(crashes))


def child(name: str, number: int, seconds: float) -> None:
    """Fuzz one reader for some time in this process; print its counts as JSON."""
    until, total = time.monotonic() + seconds, [0, 0, 0]
    crashes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        READERS[name](Path(folder) / "warm")                         # imports, before memory is bounded
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES,) * 2)
        while time.monotonic() < until:
            counts = fuzz(name, 200, number, Path(folder), until)
            total = [a + b for a, b in zip(total, counts, strict=False)]
            crashes.update(counts.crashes)
            number += 1000
    print(json.dumps([*total, crashes]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="for all readers together")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--reader", choices=sorted(READERS), help="only this one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    names = [args.reader] if args.reader else list(READERS)
    seconds = 60 * args.minutes / len(names)
    if args.child:
        child(args.reader, args.seed, seconds)
        return 0
    print("| reader | inputs | accepted | refused | crashes |\n|---|---|---|---|---|", flush=True)
    failed = []
    for name in names:
        arguments = ["--child", "--reader", name, "--seed", str(args.seed), "--minutes", str(seconds / 60)]
        script = [sys.executable, "-m", "benchmarks.fuzz"]
        done = subprocess.run([*script, *arguments], cwd=ROOT, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        tried, accepted, refused, crashes = json.loads(lines[-1]) if done.returncode == 0 else (0, 0, 0, {})
        if done.returncode:                                          # a crash of the interpreter itself, too
            crashes = {f"exit code {done.returncode}: {done.stderr[-300:]}": 1}
        print(f"| {name} | {tried} | {accepted} | {refused} | {sum(crashes.values())} |", flush=True)
        failed += [f"{name}: {count} x {where}" for where, count in crashes.items()]
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
