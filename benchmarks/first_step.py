"""Run the main script until its first training step is done, print the moment, and leave.

    python -m benchmarks.first_step --config pure_lstm_config.json --out /tmp/run

The moment is that of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import os
import runpy
import sys
import time

from utils import ROOT


def main() -> None:
    from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

    def leave(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
        os._exit(0)

    register_optimizer_step_post_hook(leave)
    sys.argv[0] = str(ROOT / "pure_lstm_anomaly_detection_main.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
