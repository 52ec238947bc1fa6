"""The files of the Numenta Anomaly Benchmark: a local copy, or downloaded once and checked.

    python -m recordings.nab_files                          # the 58 series that the manifest names
    python -m recordings.nab_files --make-manifest NAB      # nab_manifest.json again, from a checkout of COMMIT

A download comes from the pinned commit, and nab_manifest.json holds the SHA-256 of each of its files:
what is in the cache has been checked. A local copy may be another version; the log says so.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from utils import ArgumentParser, DataError, run_cli, setup_logging, sha256_of, write_json

if TYPE_CHECKING:
    from pooch import Pooch

log = logging.getLogger(__name__)

COMMIT = "ea702d75cc2258d9d7dd35ca8e5e2539d71f3140"
BASE_URL = f"https://raw.githubusercontent.com/numenta/NAB/{COMMIT}/"
MANIFEST = Path(__file__).with_name("nab_manifest.json")
LABELS = "labels/combined_windows.json"
OTHER_FILES = (LABELS, "labels/combined_labels.json", "config/profiles.json")

CONNECT_TIMEOUT_S = 10.0                # for each address of the host
TIMEOUT_S = 20.0                        # without a byte
WAITS_S = (1.0, 2.0)                    # before the second and the third try of a file
CHECKOUT = "git clone https://github.com/numenta/NAB"
OFFLINE = f"--nab-root DIR reads a local copy ({CHECKOUT})"


class _WrongSum(ValueError):
    """What came is not the file of the manifest."""


# ---------------------------------------------------------------- which series there are

def series_names() -> dict[str, str]:
    """Return the path below data/ of each series by its name, sorted by path.

    Returns: 58 entries such as `nyc_taxi`: `realKnownCause/nyc_taxi.csv`.
    """
    paths = [PurePosixPath(file).relative_to("data") for file in _manifest() if file.startswith("data/")]
    return {path.stem: str(path) for path in paths}


def series_of(category: str) -> list[str]:
    """Return the names of the series of a category such as `realKnownCause`; none if there is no such category."""
    return [name for name, path in series_names().items() if path.startswith(f"{category}/")]


def known_cause() -> list[str]:
    """Return the names of the seven series whose anomalies have known causes."""
    return series_of("realKnownCause")


def find_series(text: str) -> str:
    """Return the name of the series that a user means.

    Args:
        text: a name or a path below data/, with `.csv` or without: `nyc_taxi`, `realKnownCause/nyc_taxi.csv`.
    Raises: DataError with the nearest names if there is no such series.
    """
    names = series_names()
    wanted = text.removesuffix(".csv")
    for name, path in names.items():
        if wanted in (name, path.removesuffix(".csv")):
            return name
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(wanted.rpartition("/")[2].lower(), by_lower)
    meant = " or ".join(repr(by_lower[name]) for name in near)
    advice = f"did you mean {meant}?" if near else f"`python -m recordings.nab_files` lists the {len(names)} names"
    raise DataError(f"series {text!r}: not in NAB; {advice}")


# ---------------------------------------------------------------- where its files are

def local_files(names: Sequence[str], root: Path | None, cache: Path, base_url: str | None = None) -> Path:
    """Return a NAB folder that holds some series, below data/, and labels/combined_windows.json.

    Args:
        names: the series, as `find_series` takes them.
        root: a local copy of NAB, read as it is; None = fetch what `cache` lacks.
        cache: folder for downloads; a file in it with the right checksum is not fetched again.
        base_url: where the files are; None = the environment's NAB_BASE_URL, or else the pinned commit on GitHub.
    Returns: `root` or `cache`.
    Raises: DataError in one line: an unknown series, what `root` lacks, or which URL failed and why.
    """
    paths = series_names()
    files = list(dict.fromkeys([LABELS, *(f"data/{paths[find_series(name)]}" for name in names)]))
    if root is not None:
        _check_local_copy(root, files)
        return root
    _fill_cache(cache, files, base_url or os.environ.get("NAB_BASE_URL") or BASE_URL)
    return cache


def _check_local_copy(root: Path, files: list[str]) -> None:
    """Raise DataError unless `root` holds the files; warn if they are not those of the manifest."""
    try:
        if not root.is_dir():
            raise DataError(f"{root}: {'a file' if root.exists() else 'no such folder'}; expected NAB ({CHECKOUT})")
        missing = [file for file in files if not (root / file).is_file()]
        if missing and any((root / path).exists() for path in series_names().values()):
            raise DataError(f"{root}: NAB's data folder; expected the one above it, {root.resolve().parent}")
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            raise DataError(f"{root}: no {missing[0]}{more}; expected NAB ({CHECKOUT})")
        other = [file for file in files if not _is_right(root, file)]
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror})") from error
    if other:
        log.warning(
            "%s: %d of %d files differ from NAB's commit %s, %s first; results may differ from published ones",
            root, len(other), len(files), COMMIT[:12], other[0],
        )


def _fill_cache(cache: Path, files: list[str], base_url: str) -> None:
    """Fetch those of the files that `cache` lacks or holds damaged."""
    from tqdm import tqdm

    try:
        missing = [file for file in files if not _is_right(cache, file)]
        if not missing:
            return
        dog = _pooch(cache, base_url)
        size_mb = sum(_manifest()[file]["bytes"] for file in missing) / 1e6
        log.info("fetching %d files of NAB (%.1f MB) into %s", len(missing), size_mb, cache)
        for file in tqdm(missing, desc="NAB", unit="file", disable=None):
            if (cache / file).exists():
                log.warning("%s: damaged, its checksum is wrong; fetching it again", cache / file)
            _fetch(dog, file)
    except OSError as error:
        raise DataError(f"{error.filename or cache}: cannot fill the cache ({error.strerror or error})") from error


def _pooch(cache: Path, base_url: str) -> Pooch:
    """Return what fetches the manifest's files into `cache`, and says nothing itself."""
    try:
        import pooch
    except ImportError as error:
        raise DataError(f"pooch is not installed; pip install -r requirements.txt, or {OFFLINE}") from error
    try:
        url = urlsplit(base_url)
        usable = url.scheme in ("http", "https") and url.hostname
    except ValueError:
        usable = False
    if not usable:
        raise DataError(f"base URL {base_url!r}: expected http://HOST/... or https://HOST/...; check NAB_BASE_URL")
    pooch.get_logger().setLevel(logging.ERROR)
    registry = {file: f"sha256:{entry['sha256']}" for file, entry in _manifest().items()}
    cache.mkdir(parents=True, exist_ok=True)
    return pooch.create(cache, base_url, registry=registry)


def _fetch(dog: Pooch, file: str) -> None:
    """Fetch one file, again where that may help: pooch's own retries would repeat a 404 as well."""
    import requests

    for wait_s in (*WAITS_S, None):
        try:
            dog.fetch(file, downloader=partial(_download, sha256=_manifest()[file]["sha256"]))
            return
        except (requests.RequestException, ValueError) as error:
            if wait_s is None or not _may_pass(error):
                raise DataError(f"{dog.get_url(file)}: {_why(error)}; {OFFLINE}") from error
        time.sleep(wait_s)


def _download(url: str, output_file: str, dog: Pooch, *, sha256: str) -> None:
    """Download into pooch's temporary file, which pooch renames or, after an exception, deletes."""
    import pooch

    http = pooch.HTTPDownloader(chunk_size=2**16, timeout=(CONNECT_TIMEOUT_S, TIMEOUT_S))
    http(url, output_file, dog)
    got = sha256_of(Path(output_file))
    if got != sha256:
        raise _WrongSum(f"wrong checksum: expected SHA-256 {sha256[:12]}..., got {got[:12]}...")
    os.chmod(output_file, 0o644)        # temporary files are 0600; others may share the cache


def _may_pass(error: Exception) -> bool:
    """Return whether another try may help; a host that does not answer had all its addresses tried."""
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return not isinstance(error, requests.ConnectTimeout)


def _why(error: Exception) -> str:
    """Return in few words why a download failed."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}".strip()
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off half-way"
    cause = _system_error(error) if isinstance(error, requests.ConnectionError) else error
    if isinstance(cause, (requests.Timeout, TimeoutError)):
        limit_s = CONNECT_TIMEOUT_S if isinstance(error, requests.ConnectTimeout) else TIMEOUT_S
        return f"time-out: nothing came for {limit_s:g} s"
    words = " ".join((getattr(cause, "strerror", None) or str(cause)).split())
    return words if cause is error else f"the connection failed ({words})"


def _system_error(error: BaseException) -> BaseException:
    """Return the error of the operating system that requests and urllib3 wrapped, or `error` if there is none."""
    import requests

    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and not isinstance(link, requests.RequestException):
            return link
        link = link.__cause__ or link.__context__
    return error


# ---------------------------------------------------------------- the manifest

def _manifest() -> dict[str, dict[str, Any]]:
    """Return sha256 and bytes of each file of the benchmark by its path."""
    return json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]


def _is_right(folder: Path, file: str) -> bool:
    path = folder / file
    return path.is_file() and sha256_of(path) == _manifest()[file]["sha256"]


def make_manifest(folder: Path) -> None:
    """Write nab_manifest.json from a copy of NAB, which has to be the one of COMMIT.

    Raises: DataError if the folder lacks files or two series share a name.
    """
    series = sorted(path.relative_to(folder).as_posix() for path in folder.glob("data/*/*.csv"))
    missing = [file for file in OTHER_FILES if not (folder / file).is_file()]
    if missing or not series:
        raise DataError(f"{folder}: no {(missing or ['data/*/*.csv'])[0]}; expected NAB at {COMMIT[:12]} ({CHECKOUT})")
    if len({PurePosixPath(file).stem for file in series}) < len(series):
        raise DataError(f"{folder}: two series share a file name; expected one name a series")
    files = {
        file: {"sha256": sha256_of(folder / file), "bytes": (folder / file).stat().st_size}
        for file in (*series, *OTHER_FILES)
    }
    write_json(MANIFEST, {"commit": COMMIT, "files": files})


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--make-manifest", type=Path, metavar="DIR", help="a copy of NAB at COMMIT")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    setup_logging()

    def body() -> int:
        if args.make_manifest is not None:
            make_manifest(args.make_manifest)
            print(f"{MANIFEST}: {len(series_names())} series")
        else:
            print("\n".join(series_names().values()))
        return 0

    return run_cli(body)


if __name__ == "__main__":
    raise SystemExit(main())
