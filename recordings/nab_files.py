"""The files of the Numenta Anomaly Benchmark, a local copy or downloaded once and checked, and of one's own series.

Files are downloaded from the pinned commit and checked against the SHA-256 sums in nab_manifest.json.
A local copy may be another version; a warning is logged if it is. A folder in NAB's layout may hold other
series, in data/ and in labels/combined_windows.json.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from config import check_name
from utils import DataError, counted, sha256_of, write_bytes

log = logging.getLogger(__name__)

COMMIT = "ea702d75cc2258d9d7dd35ca8e5e2539d71f3140"
BASE_URL = f"https://raw.githubusercontent.com/numenta/NAB/{COMMIT}/"
MANIFEST = Path(__file__).with_name("nab_manifest.json")
LABELS = "labels/combined_windows.json"

CONNECT_TIMEOUT_S = 10.0                # for each address of the host
TIMEOUT_S = 20.0                        # without a byte
WAITS_S = (1.0, 2.0)                    # before the second and the third try of a file
CLONE = "git clone https://github.com/numenta/NAB"
OFFLINE_HINT = f"--nab-root DIR reads a local copy ({CLONE})"


# ---------------------------------------------------------------- names of the series


@dataclass(frozen=True)
class SeriesFile:
    """Where a series is read from; `path`: its name in the label file, `labels`: None = nothing is labelled."""

    name: str
    path: str
    file: Path
    labels: Path | None = None
    is_nabs: bool = True


def series_names(root: Path | None = None) -> dict[str, str]:
    """Return {name: path below data/} of all 58 series, such as `nyc_taxi`: `realKnownCause/nyc_taxi.csv`.

    Args:
        root: a folder in NAB's layout, whose other series are appended.
    """
    paths = [PurePosixPath(file).relative_to("data") for file in _manifest() if file.startswith("data/")]
    return {path.stem: str(path) for path in paths} | (own_series(root) if root else {})


def own_series(root: Path) -> dict[str, str]:
    """Return {name: path below data/} of the series of a folder in NAB's layout that are not NAB's.

    Raises: DataError if two have the same name.
    """
    known = series_names()
    found: dict[str, str] = {}
    try:
        files = sorted((root / "data").rglob("*.[cC][sS][vV]"))
    except OSError:                                              # said where the root is checked
        return {}
    for file in files:
        path = file.relative_to(root / "data").as_posix()
        if path in known.values():
            continue
        check_name(file.stem, f"{root}: the name of a series,")
        other = found.get(file.stem) or known.get(file.stem)
        if other:
            whose = other if file.stem in found else f"NAB's {other}"
            raise DataError(f"{root}: {path} has the name of {whose}; rename the file")
        found[file.stem] = path
    return found


def series_of(category: str) -> list[str]:
    """Return the names of the series in a category such as `realKnownCause`; none if there is no such category."""
    return [name for name, path in series_names().items() if path.startswith(f"{category}/")]


def known_cause() -> list[str]:
    """Return the names of the seven series whose anomalies have known causes."""
    return series_of("realKnownCause")


def find_series(text: str, root: Path | None = None) -> str:
    """Return the name of a series given by name or by path below data/, with or without `.csv`.

    Args:
        root: a folder in NAB's layout that may hold other series; None = NAB's alone.
    Raises: DataError with the nearest names if there is no such series.
    """
    names = series_names(root)
    wanted = text.removesuffix(".csv")
    for name, path in names.items():
        if wanted in (name, path.removesuffix(".csv")):
            return name
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(wanted.rpartition("/")[2].lower(), by_lower)
    nearest = " or ".join(repr(by_lower[name]) for name in near)
    hint = f"did you mean {nearest}?" if near else f"data_preprocess_NAB.py --list lists the {len(names)} names"
    where = f"not below {root / 'data'}" if root and own_series(root) else "not in NAB"
    raise DataError(f"series {text!r}: {where}; {hint}")


# ---------------------------------------------------------------- files of the series

def local_files(names: Sequence[str], root: Path | None, cache: Path, base_url: str | None = None) -> Path:
    """Return a folder that holds some series, below data/, and labels/combined_windows.json.

    Args:
        names: the series, as accepted by `find_series`.
        root: a local copy of NAB, read as it is; None = download the files missing in `cache`.
        cache: folder for downloads; a file in it with the right checksum is not downloaded again.
        base_url: where the files are; None = the environment's NAB_BASE_URL, or else the pinned commit on GitHub.
    Returns: `root` or `cache`.
    Raises: DataError for an unknown series, a file missing in `root`, or a failed download with its URL and reason.
    """
    paths = series_names(root)
    files = list(dict.fromkeys([LABELS, *(f"data/{paths[find_series(name, root)]}" for name in names)]))
    if root is not None:
        if not any(file in _manifest() for file in files[1:]):       # one's own series alone; labels are optional
            return root
        _check_local_copy(root, files)
        return root
    _fill_cache(cache, files, base_url or os.environ.get("NAB_BASE_URL") or BASE_URL)
    return cache


def sources_of(names: Sequence[str], root: Path) -> list[SeriesFile]:
    """Return where some series of a folder in NAB's layout are read from; log if its own ones have no labels."""
    paths, own = series_names(root), own_series(root)
    labels = root / LABELS if (root / LABELS).exists() else None
    if labels is None:
        log.warning("%s: no %s; nothing is labelled", root, LABELS)
    return [SeriesFile(name, paths[name], root / "data" / paths[name], labels, name not in own) for name in names]


def _check_local_copy(root: Path, files: list[str]) -> None:
    """Raise DataError unless `root` holds the files; warn if they are not those of the manifest."""
    try:
        if not root.is_dir():
            raise DataError(f"{root}: {'a file' if root.exists() else 'no such folder'}; expected NAB ({CLONE})")
        missing = [file for file in files if not (root / file).is_file()]
        if missing and any((root / path).exists() for path in series_names().values()):
            raise DataError(f"{root}: NAB's data folder; expected its parent folder, {root.resolve().parent}")
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            raise DataError(f"{root}: no {missing[0]}{more}; expected NAB ({CLONE})")
        changed = [file for file in files if file in _manifest() and not _is_intact(root, file)]
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror})") from error
    if changed:
        log.warning(
            "%s: %d of %s differ from NAB's commit %s, first %s; results may differ from published ones",
            root, len(changed), counted(len(files), "file"), COMMIT[:12], changed[0],
        )


def _fill_cache(cache: Path, files: list[str], base_url: str) -> None:
    """Download those of the files that are missing or damaged in `cache`."""
    from tqdm import tqdm

    try:
        missing = [file for file in files if not _is_intact(cache, file)]
        if not missing:
            return
        _check_url(base_url)
        size_mb = sum(_manifest()[file]["bytes"] for file in missing) / 1e6
        log.info("downloading %s of NAB (%.1f MB) into %s", counted(len(missing), "file"), size_mb, cache)
        cache.mkdir(parents=True, exist_ok=True)
        for file in tqdm(missing, desc="NAB", unit="file", disable=None):
            if (cache / file).exists():
                log.warning("%s: damaged (wrong checksum); downloading it again", cache / file)
            write_bytes(cache / file, _fetched(f"{base_url.rstrip('/')}/{file}", _manifest()[file]["sha256"]))
    except OSError as error:
        raise DataError(f"{error.filename or cache}: cannot fill the cache ({error.strerror or error})") from error


def _check_url(base_url: str) -> None:
    try:
        url = urlsplit(base_url)
        usable = url.scheme in ("http", "https") and url.hostname
    except ValueError:
        usable = False
    if not usable:
        raise DataError(f"base URL {base_url!r}: expected http://HOST/... or https://HOST/...; check NAB_BASE_URL")


def _fetched(url: str, sha256: str) -> bytes:
    """Return the content of a URL; try again where that may help."""
    import requests

    for wait_s in (*WAITS_S, None):
        try:
            answer = requests.get(url, timeout=(CONNECT_TIMEOUT_S, TIMEOUT_S))
            answer.raise_for_status()
            found = hashlib.sha256(answer.content).hexdigest()
            if found == sha256:
                return answer.content
            raise ValueError(f"wrong checksum: expected SHA-256 {sha256[:12]}..., found {found[:12]}...")
        except (requests.RequestException, ValueError) as error:
            if wait_s is None or not _may_succeed_later(error):
                raise DataError(f"{url}: {_reason(error)}; {OFFLINE_HINT}") from error
        time.sleep(wait_s)


def _may_succeed_later(error: Exception) -> bool:
    """Return whether another try may help; of a host that does not answer, all addresses have been tried."""
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return not isinstance(error, requests.ConnectTimeout)


def _reason(error: Exception) -> str:
    """Return in a few words why a download failed."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}".strip()
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was lost during the download"
    cause = _system_error(error) if isinstance(error, requests.ConnectionError) else error
    if isinstance(cause, (requests.Timeout, TimeoutError)):
        limit_s = CONNECT_TIMEOUT_S if isinstance(error, requests.ConnectTimeout) else TIMEOUT_S
        return f"timed out: no data for {limit_s:g} s"
    text = " ".join((getattr(cause, "strerror", None) or str(cause)).split())
    return text if cause is error else f"the connection failed ({text})"


def _system_error(error: BaseException) -> BaseException:
    """Return the error of the operating system that requests and urllib3 wrapped, or `error` if there is none."""
    import requests

    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and not isinstance(link, requests.RequestException):
            return link
        link = link.__cause__ or link.__context__
    return error


def _manifest() -> dict[str, dict[str, Any]]:
    """Return {path: {"sha256": ..., "bytes": ...}} of all files of the benchmark."""
    return json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]


def _is_intact(folder: Path, file: str) -> bool:
    path = folder / file
    return path.is_file() and sha256_of(path) == _manifest()[file]["sha256"]
