"""Process plumbing: how a script ends, logging, seeds, threads, device, atomic files, locks, versions.

Nothing here knows what a window, a residual or a threshold is. torch is imported inside the functions that
need it, and numpy not at all, so that `--help` does not wait for them.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import hashlib
import json
import logging
import math
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent


class DataError(Exception):
    """The user's data or arguments are wrong; the message is one line for the user."""


class FolderInUse(DataError):
    """Another process is at work in the folder, or at the file."""


# ---- how a script begins and ends -----------------------------------------------------------


class ArgumentParser(argparse.ArgumentParser):
    """Shows a script's docstring as it is written; a wrong argument is one line, and no option may be cut short."""

    def __init__(self, description: str | None) -> None:
        form = argparse.RawDescriptionHelpFormatter
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        is_module = spec is not None and not spec.name.endswith("__main__")      # argparse knows it from Python 3.14 on
        prog = f"python -m {spec.name}" if is_module else None
        super().__init__(prog, description=description, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"error: {message}; {self.prog} --help lists the arguments\n")


def add_file_names(parser: argparse.ArgumentParser, files: str, when: str = "") -> None:
    """Declare the options that say what files, or an input, call otherwise than a model."""
    parser.add_argument(
        "--channel", action="append", default=[], metavar="NAME=COLUMN[:UNIT]",
        help=f"{when}what {files} calls a channel of the model, and its unit where it does not say",
    )  # fmt: skip
    parser.add_argument("--time-column", metavar="NAME", help=f"{when}the time column of {files}")
    parser.add_argument("--time-format", metavar="F", help=f"{when}format of its timestamps, for strptime")
    parser.add_argument("--time-zone", metavar="ZONE", help=f"{when}zone of its clock, where it changes")


def plain_text(text: str) -> str:
    """Return text with what a terminal would act upon, or cannot show, as `\\x1b`; line ends and tabs stay.

    The standard library escapes quotes as well (`repr`), or everything that is not ASCII.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """Return the first few of some names on one line, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(plain_text(name[:80]).replace("\r", "\\r").replace("\n", "\\n") for name in names[:most]) + more


class PlainFormatter(logging.Formatter):
    """Formats messages that may quote what strangers wrote."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_text(super().format(record))


class Stopped(KeyboardInterrupt):
    """SIGINT (Ctrl-C) or SIGTERM, which end a process alike."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def signals_to_stop() -> list[signal.Signals]:
    """Return those of SIGINT and SIGTERM that are not ignored: who ignores one wants it to stay so."""
    return [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]


_unfinished: set[Path] = set()           # files that `atomic_path` is writing
_deferred: list[int] = []                # the signal that waits for them
_raised: list[int] = []                  # the signals that stopped the run: compiled code may lose the exception


def _stop(number: int, _frame: FrameType | None) -> None:
    if _unfinished and not _deferred:
        _deferred.append(number)                                 # the file at hand is finished first; a second
    else:                                                        # signal does not wait
        _raised.append(number)
        raise Stopped(number)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise Stopped, as soon as a file that is being written has its name.

    What fails after such a signal failed because of it: matplotlib's compiled paths, for one, turn a Stopped that
    reaches them into a ValueError.
    """
    _raised.clear()
    wanted = signals_to_stop() if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.signal(number, _stop) for number in wanted}
    try:
        yield
    except Exception:
        if _raised:
            raise Stopped(_raised[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_cli(body: Callable[[], int]) -> int:
    """Run the body of a script; one line and exit code 2 for what the user or the disk has wrong, 130 for Ctrl-C."""
    try:
        with stopped_by_signals():
            code = body()
            sys.stdout.flush()
            return code
    except DataError as error:
        print(f"error: {plain_text(' '.join(str(error).splitlines()))}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:                 # torch has no class of its own for the CPU's memory
        is_gpu = type(error).__name__ == "OutOfMemoryError"
        if isinstance(error, RuntimeError) and not is_gpu and "allocate memory" not in str(error):
            raise
        print("error: not enough memory for this; use shorter recordings or a smaller model", file=sys.stderr)
        return 2
    except BrokenPipeError:                                      # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:                                         # a full disk, a folder that is not ours
        place = f"{error.filename}: " if error.filename is not None else ""
        advice = "check the path, its permissions and the space that is left"
        print(f"error: {place}{error.strerror or error}; {advice}", file=sys.stderr)
        with contextlib.suppress(OSError):                           # what stdout could not take must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    finally:
        atexit.register(_end_at_once)                            # the last one registered is called first


def _end_at_once() -> None:
    """Let Ctrl-C end a process that has nothing left to do: raised in what libraries do at exit, it is a traceback."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def setup_logging() -> None:
    """Log to stderr, one line a message."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("matplotlib", "PIL", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def keep_freed_memory() -> None:
    """Let malloc keep what is freed: asking the system for every tensor again costs training a fifth.

    For a process that trains or scores; glibc alone has the call, elsewhere nothing happens.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8           # names of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(arena_max, 1)                                        # that of a further thread gives back
        mallopt(trim_threshold, 1 << 30)
        mallopt(mmap_threshold, 1 << 28) or mallopt(mmap_threshold, 1 << 25)     # older ones allow less


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Copy every log message to `path` as well, for as long as the context lasts; a full disk ends no run here."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None                    # else a traceback for each message
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def seed_everything(seed: int) -> None:
    """Seed torch and ask it for deterministic kernels; every other draw has a generator of its own."""
    import torch

    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False     # a fifth of the training time; all is written


def resolve_device(name: str) -> str:
    """Return 'cpu' or 'cuda' for `auto`, `cpu` or `cuda`; asking for a missing GPU is an error."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch sees no CUDA device here; use --device auto or cpu")
    return name


@contextlib.contextmanager
def one_thread_each() -> Iterator[tuple[Executor, int]]:
    """Give a pool of as many threads as torch computes with here, and their number; each computes alone.

    Numpy's products otherwise have threads of their own, which go on spinning when a product is done.
    """
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with threadpool_limits(1, user_api="blas"), pool:
            yield pool, threads
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it over `path` only if the block succeeds.

    By hand since no maintained package does it (atomicwrites is archived).

    Args:
        durable: force it to disk first, so that a power cut leaves the old file or the new one, never a torn one.
    Raises: OSError that names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    _unfinished.add(temporary)
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and (error.filename is None or str(error.filename) == str(temporary)):
            error.filename = str(path)                           # a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)
        if _deferred and not _unfinished:
            signal.raise_signal(_deferred.pop())                 # in the main thread, whichever this one is


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write plain values as indented JSON, atomically; NaN and infinities become null."""
    write_text(path, json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """Return `value` with numpy scalars and arrays as plain values and non-finite floats as None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):                                     # numpy's arrays and scalars
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


# ---- one process at a time ------------------------------------------------------------------

LOCK = ".lock"                           # in a folder
TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")          # as `atomic_path` names them


@contextlib.contextmanager
def only_run_here(root: Path) -> Iterator[None]:
    """Hold a folder for this process, and make it if need be; a second process in it is an error.

    Temporary files that killed processes left in it are removed, but not those of a file or folder with its own lock.

    Raises: FolderInUse naming the process; DataError if the folder cannot be written.
    """
    with _held(root / LOCK, root):
        _remove_temporary(root)
        yield


@contextlib.contextmanager
def only_writer_of(path: Path) -> Iterator[None]:
    """Hold a file that is written again and again; a second process that would write it is an error.

    Raises: FolderInUse naming the process; DataError if the folder cannot be written.
    """
    with _held(path.with_name(f".{path.name}{LOCK}"), path):
        for left in path.parent.iterdir():
            if (match := TEMPORARY.fullmatch(left.name)) and match[1] == path.name[:200]:
                left.unlink(missing_ok=True)
        yield


def _remove_temporary(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not (path / LOCK).exists():
            _remove_temporary(path)
        elif (match := TEMPORARY.fullmatch(path.name)) and not (folder / f".{match[1]}{LOCK}").exists():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(lock_file: Path, place: Path) -> Iterator[None]:
    """Hold a lock until the block or this process ends; within, the same process may ask for it again.

    The lock is `flock`, which dies with its process. A disk without it is refused; on a shared disk whose server
    does not pass locks on, other machines are not kept out.
    """
    import filelock

    lock = filelock.FileLock(lock_file, 0, thread_local=False, is_singleton=True, fallback_to_soft=False)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        holder = ""
        with contextlib.suppress(OSError):                       # it may just have ended
            holder = lock_file.read_text(errors="replace")[:100]
        raise FolderInUse(f"{place}: another run{holder and f', process {holder},'} is at work in it") from None
    except OSError as error:
        raise DataError(f"{place}: cannot be written or locked ({error.strerror})") from None
    try:
        with contextlib.suppress(OSError):                       # on a full disk it is held all the same
            lock_file.write_text(f"{os.getpid()} on {platform.node()}")
        yield
    finally:
        if lock.lock_counter == 1:
            lock_file.unlink(missing_ok=True)                    # filelock leaves it; gone, it is not part of a result
        lock.release()


# ---- what made a result ---------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that make the numbers."""
    import importlib.metadata

    packages = ("torch", "numpy", "pandas", "scipy", "scikit-learn", "matplotlib", "pydantic", "jinja2")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_commit() -> str | None:
    """Return the checkout's commit, with '-dirty' where files differ; None outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
