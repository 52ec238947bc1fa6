"""Scripts as processes of their own that need not import torch first, which takes longer than most of their work.

    process = warm.Popen([sys.executable, "stream_detect.py", ...], stdin=..., start_new_session=True)     # or warm.run

The process is forked from a server that has imported packages, but nothing of the project: the script and all it
imports are read anew. It is a child of this process, with its own number, signals, pipes and exit code. What only a
fresh interpreter shows (what is imported, and in which order) needs subprocess.Popen, which this is away from Linux.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import inspect
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

PACKAGES = (
    "torch", "torch._dynamo", "torch.profiler", "safetensors.numpy", "safetensors.torch", "scipy.signal", "scipy.stats",
    "sklearn.covariance", "sklearn.metrics", "pandas", "pydantic.main", "matplotlib.figure", "jinja2", "filelock",
    "matplotlib.backends.backend_agg", "PIL.PpmImagePlugin", "PIL.GifImagePlugin", "tqdm", "distributed",
)  # fmt: skip
MOST_BYTES = 1 << 17                                             # of a command line and its environment
SET_CHILD_SUBREAPER = 36                                         # from linux/prctl.h
Fresh = subprocess.Popen                                         # whatever a test lets its name mean
ARGUMENTS = inspect.signature(Fresh._execute_child)


@functools.cache
def server() -> socket.socket:
    """Start the server of this process; it ends with it."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, str(its.fileno())]
    Fresh(command, pass_fds=[its.fileno()], env=os.environ | {"OMP_NUM_THREADS": "1"})
    its.close()
    return mine


class Popen(Fresh):
    """What subprocess.Popen is, for a command of this Python: a script, -m and a module, or -c and code."""

    def _execute_child(self, *arguments):
        given = ARGUMENTS.bind(self, *arguments).arguments
        command, pipes = given["args"], [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        assert command[0] == sys.executable and (command[1] in ("-m", "-c") or command[1][0] != "-"), command
        about = {
            "command": command[1:], "cwd": str(given["cwd"] or os.getcwd()), "env": dict(given["env"] or os.environ),
            "new_session": given["start_new_session"],
        }  # fmt: skip
        prctl = ctypes.CDLL(None).prctl
        prctl(SET_CHILD_SUBREAPER, 1)                            # a grandchild whose parent ends becomes our child
        data, descriptors = json.dumps(about).encode(), [k if end == -1 else end for k, end in enumerate(pipes)]
        socket.send_fds(server(), [data], descriptors)
        self.pid = int(server().recv(MOST_BYTES))
        prctl(SET_CHILD_SUBREAPER, 0)
        self._child_created = True
        self._close_pipe_fds(*(given[f"{a}2{b}{end}"] for a, b in ("pc", "cp") for end in ("read", "write")),
                             given["errread"], given["errwrite"])  # fmt: skip


if sys.platform != "linux":
    Popen = Fresh


def run(command: Sequence[str], stdin: Any = None, **where: Any) -> subprocess.CompletedProcess:
    """Run a command to its end; return its code and what it said, as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Popen(command, stdin=stdin, **pipes, **where) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


# ---- the server -----------------------------------------------------------------------------


def wait_for_work(requests: socket.socket) -> dict:
    """Fork for each request; return it in the process that is to do it. The server ends when nobody is left to ask."""
    while True:
        data, descriptors, *_ = socket.recv_fds(requests, MOST_BYTES, 3)
        if not data:
            raise SystemExit
        read, write = os.pipe()
        if not os.fork():
            if number := os.fork():
                os.write(write, str(number).encode())
                os._exit(0)
            for target, descriptor in enumerate(descriptors):
                os.dup2(descriptor, target)
            for descriptor in (*descriptors, read, write):
                os.close(descriptor)
            return json.loads(data)
        os.wait()                                                # by now the new process is the asking one's child
        requests.send(os.read(read, MOST_BYTES))
        for descriptor in (*descriptors, read, write):
            os.close(descriptor)


def serve(requests: socket.socket) -> None:
    for name in PACKAGES:
        with contextlib.suppress(ImportError):                   # an optional one
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork takes one thread along"
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        about = wait_for_work(requests)
        requests.close()
    if about["new_session"]:
        os.setsid()
    os.chdir(about["cwd"])
    os.environ.clear()
    os.environ.update(about["env"])
    start(*about["command"])


def start(name: str, *words: str) -> None:
    """Begin as Python does: with a script, -m and a module, or -c and code."""
    sys.argv = [name, *words]
    if name == "-m":
        sys.path[0], sys.argv = os.getcwd(), [*words]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif name == "-c":
        sys.path[0], sys.argv = "", [name, *words[1:]]
        exec(words[0], {"__name__": "__main__"})
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(name))
        runpy.run_path(name, run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
