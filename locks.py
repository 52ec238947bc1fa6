"""One process at a time in a folder, or at a file: a lock that dies with its process, and what a killed one left.

The lock is `flock`: the system lets it go when its process ends, however it ends, and no process number that came
again can hold it. The file that it is on says who holds it. A system that shares a disk with another one may not
see the other's locks: whoever holds one touches its file every few seconds, and one of another machine counts as
held until it was silent for a while. So does every lock where there is no `flock`.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from utils import DataError

try:
    import fcntl
except ImportError:                                              # no Unix
    fcntl = None

NAME = ".lock"                           # in a folder
BEAT_S, SILENT_S = 5.0, 60.0             # a lock is touched so often; one of another machine is dead after
TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")          # as `utils.atomic_path` names them
HELD: set[Path] = set()                  # by this process


class FolderInUse(DataError):
    """Another process is at work in the folder."""


@contextlib.contextmanager
def only_run_here(root: Path) -> Iterator[None]:
    """Hold a folder for this process, and make it if need be; a second process in it is an error.

    Temporary files in it are those of killed processes, and go; what has a lock of its own is left alone.

    Raises: FolderInUse naming the process; DataError if the folder cannot be written.
    """
    with _held(root / NAME, root):
        _sweep(root)
        yield


@contextlib.contextmanager
def only_writer_of(path: Path) -> Iterator[None]:
    """Hold a file that is written again and again; a second process that would write it is an error.

    Raises: FolderInUse naming the process; DataError if the folder cannot be written.
    """
    with _held(path.with_name(f".{path.name}{NAME}"), path):
        for left in path.parent.iterdir():
            if (match := TEMPORARY.fullmatch(left.name)) and match[1] == path.name:
                left.unlink(missing_ok=True)
        yield


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not (path / NAME).exists():
            _sweep(path)
        elif (match := TEMPORARY.fullmatch(path.name)) and not (folder / f".{match[1]}{NAME}").exists():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(lock: Path, place: Path) -> Iterator[None]:
    """Hold a lock; within, the same process may ask for it again."""
    lock = lock.absolute()
    if lock in HELD:
        yield
        return
    stop = threading.Event()
    beat = threading.Thread(target=_touch, args=(lock, stop), daemon=True)
    with _locked(lock, place):
        HELD.add(lock)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            HELD.discard(lock)
            lock.unlink(missing_ok=True)                         # before it is let go, see `_locked`


def _locked(lock: Path, place: Path) -> IO[bytes]:
    """Return the open file of a lock, which is this process's for as long as the file is open."""
    while True:
        try:
            with contextlib.suppress(FileExistsError):           # a file in the folder's place: the next line says it
                lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a+b", buffering=0)
        except OSError as error:
            raise DataError(f"{place}: cannot be written ({error.strerror})") from None
        try:
            is_sure = _flock(file, place)
            if not _is_at(file, lock):                           # its holder ended and took it away meanwhile
                file.close()
                continue
            file.seek(0)
            process, _, host = file.read().decode(errors="replace").strip().partition("@")
            if process.isdigit() and not (is_sure and host in ("", socket.gethostname())):
                _check_silent(file, place, process, host)
            with contextlib.suppress(OSError):                   # on a full disk it is held all the same
                file.truncate(0)
                file.write(f"{os.getpid()}@{socket.gethostname()}".encode())
        except BaseException:
            file.close()
            raise
        return file


def _flock(file: IO[bytes], place: Path) -> bool:
    """Lock an open file; return False where the system cannot.

    Raises: FolderInUse if another process has it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise _in_use(place, *file.read().decode(errors="replace").strip().partition("@")[::2]) from None
    except OSError:                                              # a shared disk without locks
        return False
    return True


def _check_silent(file: IO[bytes], place: Path, process: str, host: str) -> None:
    """Raise FolderInUse unless a lock that cannot be tried was silent for a while."""
    clock = place.with_name(f".clock.{os.getpid()}")             # both times from the shared disk's clock
    try:
        clock.touch()
        if clock.stat().st_mtime - os.fstat(file.fileno()).st_mtime < SILENT_S:
            raise _in_use(place, process, host)
    finally:
        clock.unlink(missing_ok=True)


def _in_use(place: Path, process: str, host: str) -> FolderInUse:
    where = f" on {host}" if host not in ("", socket.gethostname()) else ""
    who = f", process {process}{where}," if process.isdigit() else ""
    return FolderInUse(f"{place}: another run{who} is at work in it")


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _touch(lock: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(lock)
