"""The machine's own limits: how fast it multiplies matrices, with the same threads, in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lstm_model import StackedLSTM

SIZE = 1024


def product_rate(repeats: int = 20) -> float:
    """Return the floating-point operations a second of a 1024 x 1024 float32 product (torch.mm), the best of some."""
    return _rate(torch.mm, repeats)


def best_product_rate(repeats: int = 20) -> float:
    """Return the same for the fastest product that torch has here: its mm, or that of oneDNN, which runs the LSTM."""

    def onednn(a: Tensor, b: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

    rates = [product_rate(repeats)]
    if torch.backends.mkldnn.is_available():
        rates.append(_rate(onednn, repeats))
    return max(rates)


def clock_of(threads: int) -> Callable[[], float]:
    """Return the clock to measure with: that of the processor for one thread, which other work hardly disturbs."""
    return time.process_time if threads == 1 else time.perf_counter


def _rate(product, repeats: int) -> float:
    a, b, clock = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE), clock_of(torch.get_num_threads())
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats + 3):                                 # the first ones warm up
            began = clock()
            product(a, b)
            best = min(best, clock() - began)
    return 2 * SIZE**3 / best


def forward_flops(model: StackedLSTM, steps: int) -> int:
    """Return the operations of the matrix products of one pass over so many steps: LSTM and head."""
    weights = [p for name, p in model.named_parameters() if "weight" in name]
    return 2 * steps * sum(weight.numel() for weight in weights)
