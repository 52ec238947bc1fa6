"""The LSTM along recordings: a forecast at every step, of whole recordings side by side or of one as it comes.

The state is carried along, but not for ever: a recording is cut into blocks, and for each block the LSTM starts from
zero some time before the block begins, long enough to forget where it started. So the blocks of one recording can go
through the network side by side, and no state grows much older than those of training.

Whole or piece by piece, the same bits come out on a CPU with oneDNN: there a row of a batch is computed in the same
order whatever else is in the batch and however its steps are cut, if only the products have LEAST_ROWS rows.
Elsewhere the two agree up to the rounding of 32-bit numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lstm_model import INPUT_LIMIT, StackedLSTM, State
from recordings.stateful import checked_like

MIN_BURN_IN = 512                       # steps before a block, at least; trained LSTMs forget within some 400
BURN_INS_PER_BLOCK = 8                      # a block is so many times longer, which costs an eighth of the work more
LEAST_ROWS = 16                         # of a product: with fewer, rounding depends on how many there are
FORECASTS_AT_ONCE = 10_000_000          # steps x leads x channels of one pass, if that is more than a block: 40 MB
BLOCKS_A_THREAD = 4                     # of one pass on a CPU: as fast a step as with more, and other threads have work


@dataclass(frozen=True)
class Block:
    """Steps first to last (excluded) of a recording, and the step that the LSTM starts from before them."""

    recording: int
    start: int
    first: int
    last: int


class Forecaster:
    """A trained model, ready to go along recordings.

    Args:
        window: steps of a training window. Before a block the LSTM sees at least twice as many.
    """

    def __init__(self, model: StackedLSTM, device: str, window: int) -> None:
        self.model, self.device = copy.deepcopy(model).to(device, torch.float32).eval(), device
        self.burn_in = max(2 * window, MIN_BURN_IN)
        self.block = BURN_INS_PER_BLOCK * self.burn_in

    def blocks(self, lengths: Sequence[int]) -> Iterator[list[Block]]:
        """Yield the blocks of recordings of these lengths, those together that go through the network at once.

        Blocks of one pass are about as long; a recording's come in their order, the shorter one at its end last.
        """
        blocks = [
            Block(k, max(first - self.burn_in, 0), first, min(first + self.block, length))
            for k, length in enumerate(lengths)
            for first in range(0, length, self.block)
        ]
        blocks.sort(key=lambda block: (block.last - block.first < self.block, block.last - block.start))
        forecasts = self.model.horizon * self.model.channels * (self.burn_in + self.block)     # of a block
        most = max(FORECASTS_AT_ONCE // forecasts, 1)
        most = min(most, BLOCKS_A_THREAD) if self.device == "cpu" else most
        passes = -(-len(blocks) // most)
        for k in range(passes):
            yield blocks[len(blocks) * k // passes : len(blocks) * (k + 1) // passes]

    def changes(self, blocks: Sequence[Block], scaled: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the forecast changes (n, H, C) at the steps of each block, scaled (., C) from its start on."""
        rows = np.full((len(blocks), max(map(len, scaled)), self.model.channels), np.nan, np.float32)
        for row, part in zip(rows, scaled, strict=True):
            row[: len(part)] = part
        made, _ = self.run(rows, None)                                               # (B, T, H, C)
        return [row[block.first - block.start : block.last - block.start] for row, block in zip(made, blocks)]

    @torch.inference_mode()
    def run(self, scaled: np.ndarray, state: State | None) -> tuple[np.ndarray, State]:
        """Return the forecast changes (B, n, H, C) at the steps of scaled (B, n, C), and the state behind them."""
        rows, steps = scaled.shape[:2]
        several = torch.arange(max(rows, 2, -(-LEAST_ROWS // steps))).clamp(max=rows - 1)     # the last one again
        x = torch.from_numpy(scaled)[several].to(self.device)
        if state is not None:
            state = tuple(part[:, several].contiguous() for part in state)
        change, state = self.model.changes(x, state)
        return change[:rows].cpu().numpy(), tuple(part[:, :rows] for part in state)


class ForecastStream:
    """The forecasts of one recording as it comes: those of whole recordings, whatever the size of the pieces."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster
        self.restart()

    def restart(self) -> None:
        """Begin a new recording."""
        self.seen, self.state = 0, self._fresh()             # of this block and, where it has started, of the next

    def update(self, scaled: np.ndarray) -> np.ndarray:
        """Return the forecast changes (n, H, C) at the next steps, scaled (n, C), NaN = missing."""
        parts, done = [], 0
        while done < len(scaled):
            piece = scaled[done : done + self._until_turn()]
            lanes = self.state[0].shape[1]
            made, self.state = self.forecaster.run(np.repeat(piece[None], lanes, axis=0), self.state)
            parts.append(made[0])
            done += len(piece)
            self.seen += len(piece)
            self._turn()
        return np.concatenate(parts)

    def _until_turn(self) -> int:
        """Return the steps until the LSTM starts for the next block, or that begins."""
        block, burn_in = self.forecaster.block, self.forecaster.burn_in
        at = self.seen % block
        return block - burn_in - at if at < block - burn_in else block - at

    def _turn(self) -> None:
        block, burn_in = self.forecaster.block, self.forecaster.burn_in
        at = self.seen % block
        if at == block - burn_in:
            self.state = tuple(torch.cat(parts, dim=1) for parts in zip(self.state, self._fresh()))
        elif at == 0:
            self.state = tuple(part[:, 1:] for part in self.state)

    def _fresh(self) -> State:
        lstm = self.forecaster.model.lstm
        return (torch.zeros(lstm.num_layers, 1, lstm.hidden_size, device=self.forecaster.device),) * 2

    def state_dict(self) -> dict[str, Any]:
        """Return the steps seen and the LSTM's states as arrays (layers, 1 or 2, D)."""
        hidden, cell = (part.cpu().numpy() for part in self.state)
        return {"seen": self.seen, "hidden": hidden, "cell": cell}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`. Raises ValueError if it belongs to another model."""
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
    return np.clip(np.nan_to_num(scaled, nan=0.0), -INPUT_LIMIT, INPUT_LIMIT).astype(float)
