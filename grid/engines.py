"""One run of a grid, and where jobs happen: in this process, on the cores of this machine, or on a Dask cluster.

A task is a dict of plain values, and a job a function that does one. An engine takes tasks and yields their records
as they are done; an error becomes the record of a failed task.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ExperimentConfig, read_json, validate
from evaluation.results import LSTM, RunMetrics
from experiment import Experiment, prepare, run_experiment
from grid.plan import GridPlan, channels_of, read_dataset
from reports.run_folder import RunFolder
from utils import DataError, FolderInUse, resolve_device, write_json, write_text

if TYPE_CHECKING:
    from distributed import Client, Future
    from torch import Tensor

log = logging.getLogger(__name__)

Task = Mapping[str, Any]
Record = dict[str, Any]
Job = Callable[[Task], Record]
Engine = Callable[[Iterable[Task]], Iterator[Record]]

ONE_AT_A_TIME = threading.Lock()                     # torch's random state belongs to the whole process
SCHEDULER_ANSWERS_S = 10.0                           # a running scheduler answers within this time
WORKER_ENVIRONMENT = {                               # before a worker process starts
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),        # Dask's own low value halves torch's speed
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
}
DASK_SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,  # a worker holds one run: if it dies, it takes no other along
    "distributed.scheduler.allowed-failures": 1,     # a run whose worker died is tried once more
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    "distributed.worker.memory.target": False,       # nothing here can be spilled,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,        # and a paused worker would wait for ever
    "distributed.worker.preload": ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],   # ours ends them
    "distributed.worker.profile.enabled": False,     # samples of an hour's stacks: hundreds of MB
    "distributed.comm.retry.count": 3,
}
INSTALL = "pip install -r requirements-grid.txt"


# ---- one task -------------------------------------------------------------------------------


def attempt(job: Job, task: Task) -> Record:
    """Do a task in one thread, without a progress bar; wait while a process of a killed command is still at work on it.

    Args:
        task: key, folder (for the traceback if it fails), until (of a run that may pause), and what the job needs.
    Returns: key, until and seconds, and what the job returns; if that fails, status (failed) and error.
    """
    began = time.perf_counter()
    record = {name: task[name] for name in ("key", "until") if name in task}
    logging.getLogger().setLevel(logging.INFO)                   # for the job's log.txt
    try:
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(1)                                 # the same sums wherever a job is done
        without_bar = contextlib.redirect_stderr(io.StringIO())
        with ONE_AT_A_TIME, threadpool_limits(1), without_bar:
            record = _when_free(job, task) | record
    except Exception as error:                                   # whatever it was, the other tasks continue
        record |= {"status": "failed", "error": reason_of(error)}
        if (folder := Path(task["folder"])).is_dir():
            with contextlib.suppress(OSError):
                write_text(folder / "error.txt", traceback.format_exc())
    return {"seconds": round(time.perf_counter() - began, 3)} | record


def _when_free(job: Job, task: Task) -> Record:
    while True:
        try:
            return job(task)
        except FolderInUse:
            time.sleep(1.0)


def one_run(task: Task) -> Record:
    """Do one run of a grid, or resume it; return what the journal keeps of it.

    Args:
        task: key, folder (of the run), config (with its seed), data (folder), fingerprint, device,
            until (epochs after which it pauses, or None), shared_validation.
    Returns: status (finished or paused) and measures.
    """
    folder = Path(task["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "result.json").is_file():
        return read_json(folder / "result.json")
    return train_and_measure(task, folder)


def train_and_measure(task: Task, folder: Path) -> Record:
    """Train a run to its end or its next pause; return its metrics when they are on disk."""
    from detection.checkpoint import load_checkpoint

    began, run = time.perf_counter(), RunFolder(folder)
    config = validate(ExperimentConfig, task["config"], "run")
    dataset = read_dataset(task["data"], channels_of(config), task["fingerprint"])
    device = resolve_device(task["device"])
    experiment = prepare(config, dataset)
    results = run_experiment(experiment, run, device, plots=False, until=task["until"])
    progress = load_checkpoint(run.checkpoint)["training"]["progress"]
    record: Record = {
        "status": "paused" if results is None else "finished",
        "best_epoch": progress["best_epoch"],
        "epochs": progress["epoch"],
        "val_loss": progress["best_loss"],
        "val_skill": skill_of(experiment, progress["best_model"], task["shared_validation"], device),
    }
    if results is not None:
        record |= {"calibration_events_per_hour": results.calibration.events_per_hour} | test_measures(results)
        run.scores.unlink(missing_ok=True)                       # one row a step: too much for each run of a grid
        (folder / "error.txt").unlink(missing_ok=True)
    sync(*folder.rglob("*"), folder)
    if results is not None:
        write_json(folder / "result.json", record | {"seconds": round(time.perf_counter() - began, 3)})
        sync(folder)
    return record


def skill_of(
    experiment: Experiment, weights: Mapping[str, Tensor], shared_validation: Mapping[str, Any], device: str
) -> float | None:
    """Return the forecast skill of a model's weights on validation data: 1 - MSE / MSE of the last value.

    Mean over the channels that all runs of the grid have, over leads, warm-up and windows that they share:
    unlike the loss it can be compared between any two of them. None if no channel is shared.
    """
    import torch

    from data_loader import fitting_length, validation_batches
    from detection.checkpoint import model_from

    dataset, names = experiment.dataset, shared_validation["channels"]
    rate = dataset.meta.rate_hz
    model = model_from(experiment.resolved, weights).to(device).eval()
    horizon, window = (max(round(shared_validation[key] * rate), 1) for key in ("horizon_s", "window_s"))
    warm_up = round(shared_validation["warm_up_s"] * rate)
    length = fitting_length(window, dataset.splits["val"], horizon, warm_up)
    shape = {"steps": length, "horizon": horizon, "least": warm_up + horizon + 1, "batch_size": 64}
    place = [dataset.channels.index(name) for name in names]
    squares = torch.zeros(2, len(names), dtype=torch.float64)    # of the model's and the last value's errors
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


def test_measures(results: RunMetrics) -> dict[str, float]:
    """Return measures on the test split, for reporting only: nothing is ranked by them."""
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


def sync(*paths: Path) -> None:
    """Force files to disk; of a folder, the names of the files in it."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---- engines --------------------------------------------------------------------------------


@contextlib.contextmanager
def engine_for(
    job: Job, out: Path, jobs: int, scheduler: str | None = None, dashboard: int | None = None,
    runs_per_gpu: int | None = None,
) -> Iterator[Engine]:  # fmt: skip
    """Give what does tasks that write into the folder `out`; arguments as on the command line, but `jobs` > 0."""
    if scheduler:
        with running_cluster(scheduler, out) as client:
            yield functools.partial(on_dask, client, job)
    elif jobs > 1:
        with local_cluster(jobs, dashboard, visible_gpus() if runs_per_gpu else []) as client:
            yield functools.partial(on_dask, client, job)
    else:
        yield functools.partial(map, functools.partial(attempt, job))


def on_dask(client: Client, job: Job, tasks: Iterable[Task]) -> Iterator[Record]:
    """Yield the record of each task as it is done; each worker has one task at a time.

    A future is released when the caller comes back for the next record, that is, has this one on disk:
    Dask would run a finished task again if its worker died and its result were still wanted.
    """
    from distributed import wait

    tasks, running = iter(tasks), {}
    while True:
        free = max(len(client.nthreads()), 1) - len(running)     # workers come and go
        for task in itertools.islice(tasks, max(free, 0)):
            name = f"run-{task['key'][:12]}-{uuid.uuid4().hex[:8]}"
            running[client.submit(attempt, job, task, key=name, pure=False)] = task
        if not running:
            return
        with contextlib.suppress(TimeoutError):
            for future in wait(list(running), timeout=2, return_when="FIRST_COMPLETED").done:
                yield record_of(future, running.pop(future))
                future.release()


def record_of(future: Future, task: Task) -> Record:
    """Return the record of a future that is done; a task whose worker died each time has failed."""
    if future.status == "finished":
        return future.result()
    if future.status in ("cancelled", "lost"):
        raise DataError("the connection to the Dask scheduler is lost")
    known = {name: task[name] for name in ("key", "until") if name in task}
    return known | {"status": "failed", "error": reason_of(future.exception())}


# ---- how many at once -----------------------------------------------------------------------


def jobs_at_once(grid: GridPlan, jobs: int, scheduler: str | None, runs_per_gpu: int | None) -> int:
    """Return how many runs to have at once on this machine; `jobs` = 0: as many as suit it.

    Raises: DataError if Dask or a GPU is missing for what was asked.
    """
    on_gpu = not scheduler and resolve_device(grid.device) == "cuda"
    jobs = jobs_with_dask("--scheduler" if scheduler else "--runs-per-gpu" if runs_per_gpu else "--jobs", jobs)
    if runs_per_gpu:
        if not on_gpu:
            raise DataError("--runs-per-gpu: torch sees no CUDA device here, or the grid is for a CPU; use --jobs N")
        jobs = runs_per_gpu * len(visible_gpus())
    elif on_gpu and jobs > 1:
        raise DataError(f"--jobs {jobs} is for a CPU; on a GPU use --runs-per-gpu N, or --device cpu")
    elif jobs == 0:
        jobs = 1 if on_gpu else jobs_for_machine(grid)
    return min(jobs, len(grid.runs))


def jobs_with_dask(option: str, jobs: int) -> int:
    """Return how many jobs to have at once: those asked for, but 1 instead of 0, as many as suit, without Dask.

    Raises: DataError if Dask is missing for what the option asks.
    """
    if (option, jobs) != ("--jobs", 1) and importlib.util.find_spec("distributed") is None:
        asked = f"--jobs {jobs}" if option == "--jobs" else option
        if asked != "--jobs 0":
            raise DataError(f"{asked} needs Dask; {INSTALL}, or use --jobs 1")
        print(f"Dask is not installed ({INSTALL}): one after the other", file=sys.stderr)
        return 1
    return jobs


def visible_gpus() -> list[str]:
    """Return the names of the CUDA devices, as CUDA_VISIBLE_DEVICES has them if it is set."""
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(k) for k in range(count)]


def jobs_for_machine(grid: GridPlan) -> int:
    """Return how many runs suit this machine: one a core, as many as its memory holds, at least one.

    A worker takes about what this process has, data included, and the largest run's activations.
    """
    import psutil
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT  # of a container too

    rate, used = grid.meta.rate_hz, psutil.Process().memory_info().rss
    configs = [run.config.in_seconds(rate) for run in grid.runs]
    units = [one.training.batch_size * one.training.window_s * rate * one.model.hidden_units * one.model.num_layers
             for one in configs]  # fmt: skip
    each = used + 12 * 4 * max(units)                            # gates, states and their gradients, in float32
    free = min(psutil.virtual_memory().available, MEMORY_LIMIT - used)
    return max(min(CPU_COUNT, int(free // each)), 1)


# ---- Dask clusters --------------------------------------------------------------------------


@contextlib.contextmanager
def local_cluster(jobs: int, dashboard: int | None, gpus: Sequence[str] = ()) -> Iterator[Client]:
    """Give a client of worker processes on this machine, one thread each, reachable from it alone.

    Args:
        gpus: names of the cards that the workers share, one card each.
    """
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    wanted = dashboard is not None
    place = {"host": "127.0.0.1", "dashboard_address": f"127.0.0.1:{dashboard or 0}", "dashboard": wanted}
    inside = {"host": "127.0.0.1", "nthreads": 1, "memory_limit": MEMORY_LIMIT // jobs, "dashboard": False,
              "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}  # fmt: skip
    workers = {}
    for k in range(jobs):
        card = {"env": {"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]}} if gpus else {}
        workers[k] = {"cls": Nanny, "options": inside | card}
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")        # Python's tracker: of killed workers
    for chatty in ("distributed", "tornado"):                            # of connections that Ctrl-C cuts
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as scratch, dask.config.set(DASK_SETTINGS | {"temporary-directory": scratch}):
        front = {"cls": Scheduler, "options": place}
        cluster = SpecCluster(workers=workers, scheduler=front, silence_logs=logging.CRITICAL)
        with cluster, Client(cluster) as client:
            client.wait_for_workers(jobs, timeout=60)
            yield client


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
            client = Client(address, timeout=SCHEDULER_ANSWERS_S)
        except (OSError, TimeoutError, ValueError) as error:
            raise DataError(f"--scheduler {address}: no Dask scheduler answers there ({reason_of(error)})") from None
        with client:
            try:
                client.wait_for_workers(1, timeout=30)
            except TimeoutError:
                raise DataError(f"--scheduler {address}: it has no workers; start some, see docs/grid.md") from None
            check_workers(client, f"--scheduler {address}", out)
            yield client


def check_workers(client: Client, where: str, out: Path) -> None:
    """Raise DataError unless every worker has our code, our packages, one thread and the shared folder."""
    marker = out / f".{uuid.uuid4().hex}"
    marker.touch()
    try:
        answers = client.run(describe_worker, str(marker), on_error="return")
    finally:
        marker.unlink(missing_ok=True)
    ours = describe_worker(str(marker))["versions"]
    for worker, threads in client.nthreads().items():
        answer = answers.get(worker)
        if isinstance(answer, BaseException):
            raise DataError(f"{where}: worker {worker} cannot load this code ({reason_of(answer)}); "
                            "start it with PYTHONPATH set to this folder")  # fmt: skip
        if threads != 1:
            raise DataError(f"{where}: worker {worker} has {threads} threads; start it with --nthreads 1")
        if answer and not answer["sees_folder"]:
            raise DataError(f"{where}: worker {worker} does not see {out}; share it at the same path")
        if answer and answer["versions"] != ours:
            log.warning("worker %s has other versions, results may differ: %s", worker, answer["versions"])


def describe_worker(marker: str) -> dict[str, Any]:
    """Return the versions that a worker has, and whether it sees a file in the folder of the grid."""
    from utils import versions

    return {"versions": versions(), "sees_folder": Path(marker).exists()}
