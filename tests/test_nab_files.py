import hashlib
import json
import logging
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recordings import nab_files
from recordings.nab_files import LABELS, find_series, known_cause, local_files, series_names
from utils import ROOT, DataError

NAB = ROOT.parent / "shared" / "data" / "nab"
needs_nab = pytest.mark.skipif(not NAB.is_dir(), reason="../shared/data/nab is absent")
TAXI, SPEED, TWEETS = (
    "data/realKnownCause/nyc_taxi.csv", "data/realTraffic/speed_6005.csv", "data/realTweets/Twitter_volume_FB.csv"
)
NAMES = ["nyc_taxi", "speed_6005", "Twitter_volume_FB"]
ORDER = [LABELS, TAXI, SPEED, TWEETS]   # in which the files of NAMES are fetched
FILES = {
    TAXI: b"timestamp,value\n2014-07-01 00:00:00,10844\n",
    SPEED: b"timestamp,value\n2015-08-31 18:22:00,90\n",
    TWEETS: b"timestamp,value\n2015-02-26 21:42:53,53\n",
    "labels/combined_labels.json": b"{}",
    LABELS: b'{"realTraffic/speed_6005.csv": []}',
    "config/profiles.json": b'{"standard": {}}',
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def held(folder):
    """Return every file below a folder, temporary ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def line_of(caught):
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Let the benchmark be the three series of FILES."""
    entries = {name: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for name, c in FILES.items()}
    path = tmp_path / "tiny_manifest.json"
    path.write_text(json.dumps({"commit": nab_files.COMMIT, "files": entries}))
    monkeypatch.setattr(nab_files, "MANIFEST", path)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


class Server:
    """Serve FILES over HTTP on 127.0.0.1; `asked` holds the paths in order, `faults` what goes wrong with some."""

    def __init__(self):
        self.asked, self.faults, self.drops, self.over = [], {}, 0, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):
                self.answer(handler)

            def log_message(handler, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler):
        name = handler.path.removeprefix("/")
        self.asked.append(name)
        fault, content = self.faults.get(name), FILES.get(name, b"")
        if self.drops > 0 or fault == "drop":
            self.drops -= 1
            return                      # the connection closes without an answer
        if fault == "silent":
            self.over.wait(5)
            return
        if fault == "other":
            content += b"more"
        handler.send_response(fault if isinstance(fault, int) else 200 if name in FILES else 404)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:10] if fault in ("cut", "stall") else content)
        if fault == "stall":
            handler.wfile.flush()
            self.over.wait(5)

    def close(self):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(tiny, monkeypatch):
    """Serve FILES, without waiting between tries and with no way to any other server."""
    monkeypatch.setattr(nab_files, "WAITS_S", (0.0, 0.0))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(nab_files, "BASE_URL", "http://127.0.0.1:9/default/")
    monkeypatch.delenv("NAB_BASE_URL", raising=False)
    serving = Server()
    yield serving
    serving.close()


# ---------------------------------------------------------------- the manifest

def test_the_manifest_names_58_series_of_which_7_have_known_causes():
    names = series_names()
    assert len(names) == 58 and list(names.values()) == sorted(names.values())
    assert names["nyc_taxi"] == "realKnownCause/nyc_taxi.csv"
    assert len(known_cause()) == 7 and "machine_temperature_system_failure" in known_cause()
    manifest = json.loads(nab_files.MANIFEST.read_text())
    assert manifest["commit"] == nab_files.COMMIT and nab_files.COMMIT in nab_files.BASE_URL
    assert {f"data/{path}" for path in names.values()} == {file for file in manifest["files"] if file[:5] == "data/"}
    assert LABELS in manifest["files"]


def test_importing_waits_for_no_download_package():
    code = "import sys\nfrom recordings import nab_files\nsys.exit(bool({'requests', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "text", ["nyc_taxi", "nyc_taxi.csv", "realKnownCause/nyc_taxi", "realKnownCause/nyc_taxi.csv"]
)
def test_a_series_is_found_by_name_or_path(text):
    assert find_series(text) == "nyc_taxi"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nyc_taxis", "series 'nyc_taxis': not in NAB; did you mean 'nyc_taxi'?"),
        ("NYC_TAXI", "series 'NYC_TAXI': not in NAB; did you mean 'nyc_taxi'?"),
        ("realTweets/nyc_taxi.csv", "series 'realTweets/nyc_taxi.csv': not in NAB; did you mean 'nyc_taxi'?"),
        ("twitter_volume_fb", "did you mean 'Twitter_volume_FB' or 'Twitter_volume_"),
        ("../../etc/passwd",
         "series '../../etc/passwd': not in NAB; data_preprocess_NAB.py --list lists the 58 names"),
        ("a\nb", r"series 'a\nb': not in NAB; data_preprocess_NAB.py --list lists the 58 names"),
        ("", "series '': not in NAB; data_preprocess_NAB.py --list lists the 58 names"),
        ("labels/combined_windows", "series 'labels/combined_windows': not in NAB; "),
    ],
)
def test_an_unknown_series_names_the_nearest_ones(text, expected):
    with pytest.raises(DataError) as caught:
        find_series(text)
    assert expected in line_of(caught)


# ---------------------------------------------------------------- a local copy

def test_a_local_copy_is_read_as_it_is(tiny, tmp_path, cache, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "requests", None)
    root = write(tmp_path / "NAB", {name: FILES[name] for name in (LABELS, TAXI)})
    write(root, {SPEED.removeprefix("data/"): b"of the user, beside data/"})
    assert local_files(["realKnownCause/nyc_taxi.csv"], root, cache) == root
    assert not caplog.messages and not cache.exists()


def test_another_version_is_warned_of_once(tiny, tmp_path, cache, caplog):
    root = write(tmp_path / "NAB", {**FILES, TAXI: b"other", TWEETS: b"other"})
    assert local_files([*NAMES, "nyc_taxi.csv"], root, cache) == root
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.WARNING
    assert f"{root}: 2 of 4 files differ from NAB's commit ea702d75cc22, first {TAXI};" in caplog.messages[0]


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("nowhere", "nowhere: no such folder; expected NAB (git clone https://github.com/numenta/NAB)"),
        (TAXI, "nyc_taxi.csv: a file; expected NAB (git clone"),
        ("data", "data: NAB's data folder; expected its parent folder, {folder}"),
        ("labels", "labels: no labels/combined_windows.json and 1 more; expected NAB (git clone"),
        (".", "no data/realTweets/Twitter_volume_FB.csv; expected NAB (git clone"),
        ("x" * 300, "cannot be read (File name too long)"),
    ],
)
def test_a_wrong_root_is_one_line(tiny, tmp_path, cache, root, expected):
    write(tmp_path, {name: FILES[name] for name in (LABELS, TAXI)})
    with pytest.raises(DataError) as caught:
        local_files(["Twitter_volume_FB"], tmp_path / root, cache)
    assert expected.format(folder=tmp_path) in line_of(caught)


@needs_nab
def test_the_benchmark_here_is_the_one_of_the_manifest(cache, caplog):
    assert local_files(list(series_names()), NAB, cache) == NAB
    assert not caplog.messages


# ---------------------------------------------------------------- downloads

def test_requested_files_are_downloaded_and_kept(server, cache, caplog):
    caplog.set_level(logging.WARNING)
    assert local_files(["nyc_taxi", "nyc_taxi.csv"], None, cache, server.url) == cache
    assert held(cache) == {name: FILES[name] for name in (LABELS, TAXI)}
    assert server.asked == [LABELS, TAXI] and not caplog.messages
    assert (cache / TAXI).stat().st_mode & 0o777 == 0o644
    local_files(["nyc_taxi"], None, cache, server.url)
    local_files(["nyc_taxi"], None, cache, "http://127.0.0.1:9/")     # not even asked
    assert server.asked == [LABELS, TAXI]


def test_a_full_cache_needs_no_network(server, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    assert local_files(NAMES, None, write(cache, FILES)) == cache


def test_an_interrupted_download_resumes_with_the_missing_files(server, cache):
    server.faults = {SPEED: 404}
    with pytest.raises(DataError):
        local_files(NAMES, None, cache, server.url)
    assert held(cache) == {name: FILES[name] for name in (LABELS, TAXI)}
    server.faults, server.asked[:] = {}, []
    local_files(NAMES, None, cache, server.url)
    assert server.asked == [SPEED, TWEETS]
    assert held(cache) == {name: FILES[name] for name in ORDER}


def test_a_damaged_file_is_fetched_again(server, cache, caplog):
    caplog.set_level(logging.WARNING)
    write(cache, {**FILES, TAXI: FILES[TAXI][:-5]})
    local_files(NAMES, None, cache, server.url)
    assert server.asked == [TAXI] and held(cache) == FILES
    assert caplog.messages == [f"{cache / TAXI}: damaged (wrong checksum); downloading it again"]


@pytest.mark.parametrize(
    ("fault", "tries", "why"),
    [
        (404, 1, "the server answered 404 Not Found"),
        (403, 1, "the server answered 403 Forbidden"),
        (429, 3, "the server answered 429 Too Many Requests"),
        (503, 3, "the server answered 503 Service Unavailable"),
        ("drop", 3, "the connection failed (Remote end closed connection without response)"),
        ("cut", 3, "the connection was lost during the download"),
        ("other", 3, "wrong checksum: expected SHA-256 {expected}..., found {got}..."),
    ],
)
def test_a_failed_download_names_url_and_reason_and_leaves_nothing(server, cache, fault, tries, why):
    server.faults = {TAXI: fault}
    with pytest.raises(DataError) as caught:
        local_files(["nyc_taxi"], None, cache, server.url)
    expected, got = (hashlib.sha256(FILES[TAXI] + more).hexdigest()[:12] for more in (b"", b"more"))
    offline = "--nab-root DIR reads a local copy (git clone https://github.com/numenta/NAB)"
    assert line_of(caught) == f"{server.url}{TAXI}: {why.format(expected=expected, got=got)}; {offline}"
    assert server.asked == [LABELS, *[TAXI] * tries]
    assert held(cache) == {LABELS: FILES[LABELS]}


def test_a_failed_repair_does_not_pass_for_a_good_file(server, cache):
    write(cache, {**FILES, TAXI: b"damaged"})
    server.faults = {TAXI: "other"}
    for _ in range(2):
        with pytest.raises(DataError, match="wrong checksum"):
            local_files(["nyc_taxi"], None, cache, server.url)
    assert held(cache) == {**FILES, TAXI: b"damaged"}


def test_dropped_requests_are_tried_again(server, cache, monkeypatch):
    monkeypatch.setattr(nab_files, "WAITS_S", (1.0, 2.0))
    waits = []
    monkeypatch.setattr(nab_files.time, "sleep", waits.append)
    server.drops = 2
    local_files(["nyc_taxi"], None, cache, server.url)
    assert server.asked == [LABELS, LABELS, LABELS, TAXI] and waits == [1.0, 2.0]
    assert held(cache) == {name: FILES[name] for name in (LABELS, TAXI)}


@pytest.mark.parametrize("fault", ["silent", "stall"])
def test_a_silent_server_is_a_time_out(server, cache, monkeypatch, fault):
    monkeypatch.setattr(nab_files, "TIMEOUT_S", 0.1)
    server.faults = {LABELS: fault}
    with pytest.raises(DataError) as caught:
        local_files(["nyc_taxi"], None, cache, server.url)
    assert line_of(caught).startswith(f"{server.url}{LABELS}: timed out: no data for 0.1 s; --nab-root")
    assert server.asked == [LABELS] * 3 and not held(cache)


def test_a_host_that_does_not_answer_is_asked_once(server, cache, monkeypatch):
    tries = []

    def connect(*args, **kwargs):
        tries.append(args)
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    with pytest.raises(DataError, match="timed out: no data for 10 s; --nab-root"):
        local_files(["nyc_taxi"], None, cache, server.url)
    assert len(tries) == 1


def test_an_unreachable_server_is_one_line(server, cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(DataError) as caught:
            local_files(["nyc_taxi"], None, cache, url)
    assert line_of(caught).startswith(f"{url}{LABELS}: the connection failed (Connection refused); --nab-root DIR")


def test_no_network(server, cache, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("no_proxy", "*")
    try:
        raise FileNotFoundError(2, "of the caller, who falls back on a download")
    except FileNotFoundError:
        with pytest.raises(DataError) as caught:
            local_files(["nyc_taxi"], None, cache, "https://raw.invalid/NAB/")
    assert line_of(caught).startswith(
        f"https://raw.invalid/NAB/{LABELS}: the connection failed (Name or service not known); --nab-root DIR"
    )


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_base_url_is_argument_then_environment_then_the_commit(server, cache, monkeypatch, slash):
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:9/default/labels/combined_windows\.json: "):
        local_files(["nyc_taxi"], None, cache)
    monkeypatch.setenv("NAB_BASE_URL", server.url.rstrip("/") + slash)
    local_files(["nyc_taxi"], None, cache)
    assert server.asked == [LABELS, TAXI]
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:9/argument/data"):
        local_files(["speed_6005"], None, cache, "http://127.0.0.1:9/argument")


@pytest.mark.parametrize("url", ["github.com/numenta", "ftp://host/nab", "file:///nab", "http:///x", "http://[::1/"])
def test_a_base_url_of_no_web_server_is_refused(server, cache, monkeypatch, url):
    monkeypatch.setenv("NAB_BASE_URL", url)
    with pytest.raises(DataError) as caught:
        local_files(["nyc_taxi"], None, cache)
    assert line_of(caught) == (
        f"base URL {url!r}: expected http://HOST/... or https://HOST/...; check NAB_BASE_URL"
    )
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path):
    a_file = write(tmp_path, {"taken": b""}) / "taken"
    with pytest.raises(DataError) as caught:
        local_files(["nyc_taxi"], None, a_file, server.url)
    assert line_of(caught) == f"{a_file}: cannot fill the cache (File exists)"
    (tmp_path / "cache" / LABELS).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        local_files(["nyc_taxi"], None, tmp_path / "cache", server.url)
    assert line_of(caught) == f"{tmp_path / 'cache' / LABELS}: cannot fill the cache (Is a directory)"


def test_an_unknown_series_fetches_nothing(server, cache):
    with pytest.raises(DataError, match="did you mean 'nyc_taxi'"):
        local_files(["speed_6005", "nyc_taxy"], None, cache, server.url)
    assert not server.asked and not cache.exists()


def test_one_bar_counts_the_files(server, cache, monkeypatch):
    bars = []

    def bar(files, **options):
        bars.append((list(files), options["unit"]))
        return files

    monkeypatch.setattr("tqdm.tqdm", bar)
    write(cache, {LABELS: FILES[LABELS]})
    local_files(NAMES, None, Path(cache), server.url)
    local_files(NAMES, None, Path(cache), server.url)
    assert bars == [([TAXI, SPEED, TWEETS], "file")]
