"""The LSTM along recordings: a forecast at every step, of whole recordings side by side or of one as it comes.

The LSTM's state is carried along, but not indefinitely: a recording is cut into blocks, and for each block the LSTM
starts from a zero state some steps before the block begins, a burn-in long enough to forget that start. The blocks of
one recording can thus go through the network side by side, and no state grows much older than those of training.

On a CPU with oneDNN, whole recordings and pieces give the same bits: there a row of a batch is computed in the same
order whatever else is in the batch and however its steps are cut, provided that the products have at least
MIN_PRODUCT_ROWS rows. Elsewhere the two agree up to 32-bit rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import lstm_model
from lstm_model import StackedLSTM, State
from recordings.stateful import checked_like

MIN_BURN_IN = 512                       # steps before a block, at least; trained LSTMs forget within some 400
BURN_INS_PER_BLOCK = 8                  # length of a block: the burn-in adds an eighth of the work
MIN_PRODUCT_ROWS = 16                   # of a matrix product: with fewer, rounding depends on their number
MAX_FORECASTS_PER_PASS = 10_000_000     # steps x leads x channels, unless one block has more: 40 MB
MAX_CPU_BLOCKS_PER_PASS = 8             # as fast per step as with more
MIN_CPU_PASSES = 4                      # if there are as many blocks: all threads have work


@dataclass(frozen=True)
class Block:
    """Steps first to last (excluded) of a recording; the LSTM's burn-in begins at `start`."""

    recording: int
    start: int
    first: int
    last: int


class Forecaster:
    """A copy of a trained model that forecasts along recordings.

    Args:
        window: steps of a training window; the burn-in is at least twice as long.
    """

    def __init__(self, model: StackedLSTM, device: str, window: int) -> None:
        self.model, self.device = copy.deepcopy(model).to(device, torch.float32).eval(), device
        self.burn_in = max(2 * window, MIN_BURN_IN)
        self.block = BURN_INS_PER_BLOCK * self.burn_in

    def blocks(self, lengths: Sequence[int]) -> Iterator[list[Block]]:
        """Yield the blocks of recordings of these lengths, grouped by the pass through the network.

        Blocks of one pass have about the same length: full ones first, that of a recording's start before the others,
        then the shorter ones, the longest first. Those of a recording keep their order.
        """

        def place(block: Block) -> tuple[bool, int]:
            length, is_full = block.last - block.start, block.last - block.first == self.block
            return not is_full, length if is_full else -length

        blocks = [
            Block(k, max(first - self.burn_in, 0), first, min(first + self.block, length))
            for k, length in enumerate(lengths)
            for first in range(0, length, self.block)
        ]
        blocks.sort(key=place)
        forecasts = self.model.horizon * self.model.channels * (self.burn_in + self.block)     # of a block
        per_pass = max(MAX_FORECASTS_PER_PASS // forecasts, 1)
        if self.device == "cpu":
            per_pass = min(per_pass, MAX_CPU_BLOCKS_PER_PASS, -(-len(blocks) // MIN_CPU_PASSES))
        passes = -(-len(blocks) // per_pass)
        for k in range(passes):
            yield blocks[len(blocks) * k // passes : len(blocks) * (k + 1) // passes]

    def changes(self, blocks: Sequence[Block], scaled: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the forecast changes (n, H, C) at the steps of each block, scaled (., C) from its start on."""
        rows = np.full((len(blocks), max(map(len, scaled)), self.model.channels), np.nan, np.float32)
        for row, part in zip(rows, scaled, strict=True):
            row[: len(part)] = part
        changes, _ = self.run(rows, None)                                            # (B, T, H, C)
        return [row[block.first - block.start : block.last - block.start] for row, block in zip(changes, blocks)]

    @torch.inference_mode()
    def run(self, scaled: np.ndarray, state: State | None) -> tuple[np.ndarray, State]:
        """Return the forecast changes (B, n, H, C) at the steps of scaled (B, n, C), and the state after them."""
        rows, steps = scaled.shape[:2]
        padded = torch.arange(max(rows, 2, -(-MIN_PRODUCT_ROWS // steps))).clamp(max=rows - 1)   # repeats the last row
        x = torch.from_numpy(scaled)[padded].to(self.device)
        if state is not None:
            state = tuple(part[:, padded].contiguous() for part in state)
        change, state = self.model.changes(x, state)
        return change[:rows].cpu().numpy(), tuple(part[:, :rows] for part in state)


class ForecastStream:
    """The forecasts of one recording as it comes: those of the whole recording, whatever the size of the pieces.

    The state has a lane for the current block, and one for the next as soon as its burn-in has begun.
    """

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster
        self.restart()

    def restart(self) -> None:
        """Begin a new recording."""
        self.seen, self.state = 0, self._zero_state()

    def update(self, scaled: np.ndarray) -> np.ndarray:
        """Return the forecast changes (n, H, C) at the next steps, scaled (n, C), NaN = missing."""
        block, next_start = self.forecaster.block, self.forecaster.block - self.forecaster.burn_in
        parts, done = [], 0
        while done < len(scaled):
            place, lanes = self.seen % block, self.state[0].shape[1]
            piece = scaled[done : done + (next_start if place < next_start else block) - place]
            changes, self.state = self.forecaster.run(np.repeat(piece[None], lanes, axis=0), self.state)
            parts.append(changes[0])
            done += len(piece)
            self.seen += len(piece)
            if self.seen % block == next_start:                              # a lane for the next block
                self.state = tuple(torch.cat(pair, dim=1) for pair in zip(self.state, self._zero_state()))
            elif self.seen % block == 0:                                     # which becomes the current one
                self.state = tuple(part[:, 1:] for part in self.state)
        return np.concatenate(parts)

    def _zero_state(self) -> State:
        lstm = self.forecaster.model.lstm
        return (torch.zeros(lstm.num_layers, 1, lstm.hidden_size, device=self.forecaster.device),) * 2

    def state_dict(self) -> dict[str, Any]:
        """Return the steps seen and the LSTM's states as arrays (layers, 1 or 2, D)."""
        hidden, cell = (part.cpu().numpy() for part in self.state)
        return {"seen": self.seen, "hidden": hidden, "cell": cell}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict()`. Raises ValueError if it belongs to another model."""
        lstm, (block, burn_in) = self.forecaster.model.lstm, (self.forecaster.block, self.forecaster.burn_in)
        self.seen = checked_like(0, state["seen"], "seen")
        lanes = 1 + (self.seen % block >= block - burn_in)
        parts = [np.asarray(state[name], np.float32) for name in ("hidden", "cell")]
        if any(part.shape != (lstm.num_layers, lanes, lstm.hidden_size) for part in parts):
            raise ValueError("the state is of another model")
        if self.seen < 0 or not all(np.isfinite(part).all() for part in parts):
            raise ValueError("the LSTM's state is not finite")
        self.state = tuple(torch.from_numpy(part).to(self.forecaster.device) for part in parts)


def network_input(scaled: np.ndarray) -> np.ndarray:
    """Return steps (n, C) as the LSTM sees them, in 64 bits: what forecast changes are added to."""
    return lstm_model.network_input(torch.from_numpy(scaled)).double().numpy()


def forecasts_of(scaled: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Return the forecasts (n, H, C) in 64 bits, of steps (n, C) and the changes from them; in memory (H, C, n).

    Along time, numpy works through thousands of values at once, along leads or channels through a few.
    """
    by_lead = np.ascontiguousarray(changes.reshape(len(changes), -1).T).reshape(*changes.shape[1:], -1)
    return (network_input(scaled).T + by_lead).transpose(2, 0, 1)
