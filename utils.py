"""Process plumbing: seeds, threads, device, logging, atomic files, versions.

Nothing here knows what a window, a residual or a threshold is. torch is imported inside the
functions that need it, and numpy not at all, so that `--help` does not wait for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent


class DataError(Exception):
    """The user's data or arguments are wrong; the message is one line for the user."""


def lazy_import(name: str) -> ModuleType:
    """Return a module that is loaded when something of it is first used: `--help` must not wait for pandas."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_cli(body: Callable[[], int]) -> int:
    """Run the body of a script; turn errors of the user's input into one line and exit code 2."""
    try:
        return body()
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def setup_logging(verbose: bool = False) -> None:
    """Log to stderr, one line a message."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for noisy in ("matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def keep_freed_memory() -> None:
    """Let malloc keep what is freed: asking the system for every tensor again costs training a fifth.

    For a process that trains or scores; glibc alone has the call, elsewhere nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3                          # names of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 1 << 30)
        mallopt(mmap_threshold, 1 << 28) or mallopt(mmap_threshold, 1 << 25)     # older ones allow less


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Copy every log message to `path` as well, for as long as the context lasts."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
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
def process_group(device: str) -> Iterator[int]:
    """Join the processes that torchrun started, one a GPU; give this one's rank, 0 where it is alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield 0
        return
    import torch
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it over `path` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
