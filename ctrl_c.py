"""Ctrl-C while a script is still importing ends it with one line, as it does later: each script imports this first."""

import os
import signal
import sys


def end(number: int, _frame: object) -> None:
    """Say so and end at once: nothing has begun, and an exception could be lost in a library's import."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def is_script(path: str | None) -> bool:
    """Return whether the file that Python was started with is one of those beside this one."""
    return path is not None and os.path.dirname(os.path.abspath(path)) == os.path.dirname(os.path.abspath(__file__))


if signal.getsignal(signal.SIGINT) is signal.default_int_handler and is_script(
    getattr(sys.modules["__main__"], "__file__", None)
):
    signal.signal(signal.SIGINT, end)
