"""Where the runs of a grid happen: in this process, on the cores of this machine, or on a Dask cluster.

A task is a dict of plain values. `one_run` does it, wherever it is, and never raises: what goes wrong
becomes the record of a failed run.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ExperimentConfig, read_json, validate
from evaluation.results import LSTM, RunMetrics
from experiment import run_experiment
from grid.journal import sync_folder, sync_tree
from grid.plan import files_fingerprint
from reports.run_folder import RunFolder
from utils import DataError, FolderInUse, resolve_device, write_json, write_text

if TYPE_CHECKING:
    from distributed import Client, Future

    from data_loader import Dataset

log = logging.getLogger(__name__)

Task = Mapping[str, Any]
Record = dict[str, Any]
ONE_AT_A_TIME = threading.Lock()                     # torch's random state belongs to the whole process
ENVIRONMENT = {                                      # of every worker process, before it starts
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),        # Dask's own low value halves torch's speed
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
}
SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,  # a worker holds one run: if it dies, it takes no other along
    "distributed.scheduler.allowed-failures": 1,     # a run whose worker died is tried once more
    "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
    "distributed.worker.memory.target": False,       # nothing here can be spilled,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,        # and a paused worker would wait for ever
    "distributed.comm.retry.count": 3,
}
INSTALL = "pip install -r requirements-grid.txt"


# ---- one run --------------------------------------------------------------------------------


def one_run(task: Task) -> Record:
    """Do one run, or go on with it; return what the journal keeps of it.

    Args:
        task: key, folder (of the run), config (with its seed), data (folder), fingerprint, device,
            until (epoch to pause at, or None), shared_validation.
    Returns: key, until, status (finished, paused or failed), seconds; metrics unless failed, else error.
    """
    began, folder = time.perf_counter(), Path(task["folder"])
    record: Record = {"key": task["key"], "until": task["until"]}
    logging.getLogger().setLevel(logging.INFO)                   # for the run's log.txt
    try:
        with ONE_AT_A_TIME, one_thread(), quietly():
            folder.mkdir(parents=True, exist_ok=True)
            record = patiently(task, folder) | record
    except Exception as error:                                   # whatever it was, the other runs go on
        record |= {"status": "failed", "error": reason_of(error)}
        with contextlib.suppress(OSError):
            write_text(folder / "error.txt", traceback.format_exc())
    return {"seconds": round(time.perf_counter() - began, 3)} | record


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: the same sums in the same order wherever a run happens."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep progress bars and remarks of a training off the terminal; its log file has them."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def patiently(task: Task, folder: Path) -> Record:
    """Return the run's record; wait while a process of a driver that was killed is still at it."""
    while True:
        if (folder / "result.json").is_file():
            return read_json(folder / "result.json")
        try:
            return train_and_measure(task, folder)
        except FolderInUse:
            time.sleep(1.0)


def train_and_measure(task: Task, folder: Path) -> Record:
    """Train a run to its end or its next pause; return its metrics when they are on disk."""
    from detection.checkpoint import load_checkpoint

    began = time.perf_counter()
    config = validate(ExperimentConfig, task["config"], "run")
    channels, run = config.dataset.channels, RunFolder(folder)
    dataset = read_dataset(task["data"], tuple(channels) if channels else None, task["fingerprint"])
    device = resolve_device(task["device"])
    results = run_experiment(config, dataset, run, device, plots=False, until=task["until"])
    state = load_checkpoint(run.checkpoint)
    progress = state["training"]["progress"]
    record: Record = {
        "status": "paused" if results is None else "finished",
        "best_epoch": progress["best_epoch"],
        "epochs": progress["epoch"],
        "val_loss": progress["best_loss"],
        "val_skill": skill_of(state, dataset, task["shared_validation"], device),
    }
    if results is not None:
        record |= {"calibration_events_per_hour": results.calibration.events_per_hour} | numbers_on_test(results)
        (folder / "scores.csv").unlink(missing_ok=True)          # one row a step: too much for each of a grid
        (folder / "error.txt").unlink(missing_ok=True)
    sync_tree(folder)
    if results is not None:
        write_json(folder / "result.json", record | {"seconds": round(time.perf_counter() - began, 3)})
        sync_folder(folder)
    return record


@functools.lru_cache(maxsize=4)
def read_dataset(folder: str, channels: tuple[str, ...] | None, fingerprint: str) -> Dataset:
    """Read a dataset once a process; it has to be the one that the grid was planned with."""
    from data_loader import load_dataset

    if files_fingerprint(Path(folder)) != fingerprint:
        raise DataError(f"{folder} on {socket.gethostname()}: not the data that this grid was planned with")
    return load_dataset(Path(folder), channels)


def skill_of(
    state: Mapping[str, Any], dataset: Dataset, shared_validation: Mapping[str, Any], device: str
) -> float | None:
    """Return the forecast skill of the best weights on validation data: 1 - MSE / MSE of the last value.

    Mean over the channels that all runs of the grid have, over leads, warm-up and windows that they share:
    unlike the loss it can be compared between any two of them. None if no channel is shared.
    """
    import torch

    from data_loader import fitting_length, validation_batches
    from detection.checkpoint import model_from
    from detection.detector import steps

    config = validate(ExperimentConfig, state["config"], "run")
    rate, names = dataset.meta.rate_hz, shared_validation["channels"]
    model = model_from(config.model, len(dataset.channels), rate, state["training"]["progress"]["best_model"])
    model = model.to(device).eval()
    warm_up, horizon = steps(shared_validation["warm_up_s"], rate, least=0), steps(shared_validation["horizon_s"], rate)
    length = fitting_length(steps(shared_validation["window_s"], rate), dataset.splits["val"], horizon, warm_up)
    shape = {"steps": length, "horizon": horizon, "least": warm_up + horizon + 1, "batch_size": 64}
    place = [dataset.channels.index(name) for name in names]
    squares = torch.zeros(2, len(names), dtype=torch.float64)
    with torch.inference_mode():
        for x, series in validation_batches(dataset.scaled("val"), **shape):
            forecast = model(x.to(device))[0][:, warm_up:, :horizon, place].cpu()                # (B, T, H, C)
            target = series[:, :, place].unfold(1, horizon, 1)[:, warm_up + 1 :].transpose(2, 3)
            last = x[:, warm_up:, None, place]                                                   # (B, T, 1, C)
            for k, guess in enumerate((forecast, last)):
                error = (target - guess).double().where(torch.isfinite(target - last), 0.0)
                squares[k] += error.square().sum(dim=(0, 1, 2))
    moves = squares[1] > 0
    return float((1 - squares[0, moves] / squares[1, moves]).mean()) if moves.any() else None


def numbers_on_test(results: RunMetrics) -> dict[str, float]:
    """Return numbers of the test split, for reporting only: nothing is ranked by them."""
    lstm = results.detectors[LSTM]
    return {
        "test_false_events_per_hour": lstm.events.false_events_per_hour,
        "test_event_recall": lstm.events.recall,
        "test_auc_pr": lstm.threshold_free.auc_pr,
        "test_vus_pr": lstm.threshold_free.vus_pr,
    } | {f"test_recall_{kind}": of_kind.recall for kind, of_kind in lstm.kinds.items()}


def reason_of(error: BaseException) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split())[:300]
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "allocate memory" in text:
        return f"out of memory: {text or name}"
    if name == "KilledWorker":
        return "its worker process was killed each time it was tried (out of memory?)"
    return text if isinstance(error, DataError) else f"{name}: {text}"


# ---- engines --------------------------------------------------------------------------------


def in_process(tasks: Iterable[Task], on_wait: Callable[[int], None]) -> Iterator[Record]:
    """Yield the record of each task, one after the other."""
    for task in tasks:
        on_wait(1)
        yield one_run(task)


def on_dask(client: Client, tasks: Iterable[Task], on_wait: Callable[[int], None]) -> Iterator[Record]:
    """Yield the record of each task as it is done; as many are out as there are workers.

    A future is let go when the caller comes back for the next record, that is, has this one on disk:
    Dask would run a finished task again if its worker died and its result were still wanted.

    Args:
        on_wait: called every few seconds with the number of tasks that are out.
    """
    from distributed import wait

    waiting, running = deque(tasks), {}
    while waiting or running:
        width = max(len(client.nthreads()), 1)
        while waiting and len(running) < width:
            task = waiting.popleft()
            name = f"run-{task['key'][:12]}-{uuid.uuid4().hex[:8]}"
            running[client.submit(one_run, task, key=name, pure=False)] = task
        on_wait(len(running))
        with contextlib.suppress(TimeoutError):
            for future in wait(list(running), timeout=2, return_when="FIRST_COMPLETED").done:
                task = running.pop(future)
                yield record_of(future, task)
                future.release()


def record_of(future: Future, task: Task) -> Record:
    """Return the record of a future that is done; one whose worker died each time is a failed run."""
    if future.status == "finished":
        return future.result()
    if future.status in ("cancelled", "lost"):
        raise DataError("the connection to the Dask scheduler is lost")
    return {"key": task["key"], "until": task["until"], "status": "failed", "error": reason_of(future.exception())}


def need_dask(wanted_by: str) -> None:
    """Raise DataError with the way out if Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise DataError(f"{wanted_by} needs Dask; {INSTALL}, or use --jobs 1") from None


def jobs_for(cores: int, free_bytes: float, one_bytes: float, runs: int) -> int:
    """Return how many runs to have at once: one a core, as many as the memory holds, at least one."""
    return max(min(cores, int(free_bytes // max(one_bytes, 1)), runs), 1)


def cores_and_memory() -> tuple[int, int]:
    """Return the cores and free bytes that this process may use, limits of a container included."""
    import psutil
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    used = psutil.Process().memory_info().rss
    return CPU_COUNT, min(psutil.virtual_memory().available, MEMORY_LIMIT - used)


def gpu_of_worker(worker: int, gpus: Sequence[str], runs_per_gpu: int) -> str:
    """Return the CUDA device of a worker: a card's workers are not next to each other, so that few spread."""
    if worker >= len(gpus) * runs_per_gpu:
        raise ValueError(f"worker {worker} of {len(gpus)} cards with {runs_per_gpu} each")
    return gpus[worker % len(gpus)]


def visible_gpus(count: int, visible: str | None) -> list[str]:
    """Return the names of the CUDA devices, as CUDA_VISIBLE_DEVICES has them if it is set."""
    named = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return named[:count] if named else [str(k) for k in range(count)]


@contextlib.contextmanager
def local_cluster(
    jobs: int, dashboard: int | None, gpus: Sequence[str] = (), runs_per_gpu: int = 1
) -> Iterator[Client]:
    """Give a client of worker processes on this machine, one thread each, reachable from it alone."""
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    wanted = dashboard is not None
    place = {"host": "127.0.0.1", "dashboard_address": f"127.0.0.1:{dashboard or 0}", "dashboard": wanted}
    inside = {"host": "127.0.0.1", "nthreads": 1, "memory_limit": MEMORY_LIMIT // jobs, "dashboard": False,
              "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}  # fmt: skip
    workers = {}
    for k in range(jobs):
        card = {"env": {"CUDA_VISIBLE_DEVICES": gpu_of_worker(k, gpus, runs_per_gpu)}} if gpus else {}
        workers[k] = {"cls": Nanny, "options": inside | card}
    with tempfile.TemporaryDirectory() as scratch, dask.config.set(SETTINGS | {"temporary-directory": scratch}):
        for chatty in ("distributed", "tornado"):                # of connections that Ctrl-C cuts
            logging.getLogger(chatty).setLevel(logging.CRITICAL)
        quiet_tracker()
        front = {"cls": Scheduler, "options": place}
        with SpecCluster(workers=workers, scheduler=front, silence_logs=logging.CRITICAL) as cluster:
            try:
                with Client(cluster) as client:
                    client.wait_for_workers(jobs, timeout=60)
                    yield client
            except BaseException:
                kill_workers(cluster)
                raise


def quiet_tracker() -> None:
    """Start Python's tracker of shared resources with its input_warnings about killed workers switched off."""
    from multiprocessing import resource_tracker

    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


def kill_workers(cluster: Any) -> None:
    """End worker processes at once: their runs go on from their checkpoints another time."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.process is not None and nanny.process.process is not None:
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(nanny.process.process.pid, 9)


@contextlib.contextmanager
def running_cluster(address: str, out: Path) -> Iterator[Client]:
    """Give a client of a Dask scheduler that runs already, once its workers have proved usable.

    Raises: DataError if none answers, there is no worker, or one cannot do its work.
    """
    import dask
    from distributed import Client

    with dask.config.set({"distributed.comm.retry.count": 3}):
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        try:
            client = Client(address, timeout=10)
        except (OSError, TimeoutError, ValueError) as error:
            raise DataError(f"--scheduler {address}: no Dask scheduler answers there ({reason_of(error)})") from None
        with client:
            try:
                client.wait_for_workers(1, timeout=30)
            except TimeoutError:
                raise DataError(f"--scheduler {address}: it has no workers; start some, see the README") from None
            check_workers(client, address, out)
            yield client


def check_workers(client: Client, address: str, out: Path) -> None:
    """Raise DataError unless every worker has our code, our packages, one thread and the shared folder."""
    token = uuid.uuid4().hex
    proof = out / f".{token}"
    proof.touch()
    try:
        answers = client.run(look_around, str(proof), on_error="return")
    finally:
        proof.unlink(missing_ok=True)
    mine = look_around(str(proof))
    for worker, threads in client.nthreads().items():
        answer = answers.get(worker)
        if isinstance(answer, BaseException):
            raise DataError(
                f"--scheduler {address}: worker {worker} cannot load this code ({reason_of(answer)}); "
                "start it with PYTHONPATH set to this folder"
            )
        if threads != 1:
            raise DataError(f"--scheduler {address}: worker {worker} has {threads} threads; start it with --nthreads 1")
        if answer and not answer["sees_folder"]:
            raise DataError(f"--scheduler {address}: worker {worker} does not see {out}; share it at the same path")
        if answer and answer["versions"] != mine["versions"]:
            log.warning("worker %s has other versions, results may differ: %s", worker, answer["versions"])


def look_around(proof: str) -> dict[str, Any]:
    """Return what a worker has: versions, and whether it sees a file of the driver's."""
    from utils import versions

    return {"versions": versions(), "sees_folder": Path(proof).exists()}
