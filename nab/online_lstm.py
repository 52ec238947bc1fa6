"""Small LSTMs that learn online, one for each series, computed together as one batch.

Each series has its own weights, untrained at first. They learn continuously: every update takes the newest window and
windows drawn from the whole past. The forecast made at a step depends only on the values of its own series up to that
step, so that a batch gives the same forecasts as each series alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FORGET_BIAS = 1.0                                  # an LSTM that keeps its cell state at first
CLIP_NORM = 1.0
BETAS = (0.9, 0.99)                                # of Adam: the second moment follows a drifting series
MAX_WAITING = 16                                   # steps that are forecast together, where no update is between
FIRST_BLOCK = 16                                   # blocks before the first update and the first forecast


@dataclass(frozen=True)
class OnlineOptions:
    """Architecture and training of the networks, the same for all series.

    hidden_units: D. members: E networks per series, with different initial weights; the forecast is their mean.
    phases: Q block sequences, interleaved: the blocks before and after step t in its own sequence are t - Q and t + Q.
    horizon: H, blocks ahead. window: T, blocks of a training window. windows: B, per update, with the newest one.
    updates: per block up to block `warm_up_blocks`, at `warm_up_rate`. update_every: blocks between updates after
    that, at `rate`; 0 = no more updates. Updates are spread over the phases.
    """

    hidden_units: int = 24
    members: int = 6
    phases: int = 4
    horizon: int = 8
    window: int = 32
    windows: int = 4
    warm_up_blocks: int = 60
    updates: int = 6
    warm_up_rate: float = 0.01
    update_every: int = 2
    rate: float = 0.001

    @property
    def padding(self) -> int:
        """Steps of a window."""
        return self.phases * self.window


class BatchedLSTMs:
    """N independent LSTMs of one layer with a linear head, each with its own Adam state.

    The initial weights depend on the seed and on the member, not on the series.
    """

    def __init__(self, series: int, channels: int, options: OnlineOptions, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        units, members = options.hidden_units, options.members

        def draw(*shape: int) -> Tensor:
            """Return uniform weights (S * E, *shape), equal for all series."""
            weights = 2 * torch.rand((members, *shape), generator=generator) - 1
            return (weights * units**-0.5).repeat(series, 1, 1)

        inputs, outputs = 2 * channels, options.horizon * channels
        self.units, self.channels, self.updates = units, channels, 0
        bias = torch.zeros(series * members, 1, 4 * units)                     # gates: input, forget, output, cell
        bias[:, :, units : 2 * units] = FORGET_BIAS
        head_bias = torch.zeros(series * members, 1, outputs)
        self.weights = [draw(inputs, 4 * units), draw(units, 4 * units), bias, draw(units, outputs), head_bias]
        self.first_moment = [torch.zeros_like(weight) for weight in self.weights]
        self.second_moment = [torch.zeros_like(weight) for weight in self.weights]

    def states(self, x: Tensor) -> Tensor:
        """Return the hidden states (N, B, D) after windows x (N, B, T, 2C), of the first N networks."""
        return self._run(self._gates(x))[:, -1]

    def forecast(self, states: Tensor) -> Tensor:
        """Return the forecast changes (N, B, H, C) from hidden states (N, B, D) of the first N networks."""
        head, head_bias = self.weights[3][: len(states)], self.weights[4][: len(states)]
        return torch.baddbmm(head_bias, states, head).unflatten(2, (-1, self.channels))

    def update(self, x: Tensor, target: Tensor, rate: float) -> None:
        """Update the first N networks on windows x (N, B, T, 2C).

        Args:
            target: (N, B, T, H, C) changes to forecast, NaN = not known yet.
        """
        n, batch, steps, _ = x.shape
        gates = self._gates(x).requires_grad_()                                    # (N, T, B, 4D)
        head, head_bias = (weight[:n].detach().requires_grad_() for weight in self.weights[3:])
        hidden = self._run(gates)                                                  # (N, T, B, D)
        forecast = torch.baddbmm(head_bias, hidden.flatten(1, 2), head)
        target = target.transpose(1, 2).reshape(forecast.shape)
        known = torch.isfinite(target)
        losses = torch.nn.functional.huber_loss(forecast, torch.nan_to_num(target), reduction="none") * known
        loss = losses.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
        parts = [gates, head, head_bias]
        slope, *of_head = torch.autograd.grad(loss.sum(), parts)                   # the sum keeps the networks apart
        slope = slope.flatten(1, 2)                                                # (N, T * B, 4D)
        before = torch.cat([torch.zeros(n, 1, batch, self.units), hidden.detach()[:, :-1]], dim=1).flatten(1, 2)
        inputs = x.transpose(1, 2).flatten(1, 2)                                   # (N, T * B, 2C)
        of_lstm = [inputs.mT @ slope, before.mT @ slope, slope.sum(1, keepdim=True)]
        self._adam(of_lstm + of_head, rate)

    def _gates(self, x: Tensor) -> Tensor:
        """Return what the inputs x (N, B, T, 2C) and the bias add to the gates (N, T, B, 4D)."""
        n, batch, steps, _ = x.shape
        inputs = x.transpose(1, 2).flatten(1, 2)
        return torch.baddbmm(self.weights[2][:n], inputs, self.weights[0][:n]).unflatten(1, (steps, batch))

    def _run(self, gates: Tensor) -> Tensor:
        """Return the hidden states (N, T, B, D)."""
        n, steps, batch, _ = gates.shape
        recurrent = self.weights[1][:n]                # its gradient follows from that of the gates, in one product
        hidden = cell = torch.zeros(n, batch, self.units)
        outputs = []
        for gate in gates.unbind(1):
            gate = torch.baddbmm(gate, hidden, recurrent)                          # (N, B, 4D)
            take, keep, give = torch.sigmoid(gate[:, :, : 3 * self.units]).chunk(3, dim=2)   # input, forget, output
            cell = keep * cell + take * torch.tanh(gate[:, :, 3 * self.units :])
            hidden = give * torch.tanh(cell)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)

    def _adam(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take one step of Adam, each network with its own gradient norm."""
        self.updates += 1
        norm = sum(gradient.square().sum((1, 2), keepdim=True) for gradient in gradients).sqrt()
        first_share, second_share = (1 - beta**self.updates for beta in BETAS)
        moments = zip(self.weights, self.first_moment, self.second_moment, gradients, strict=True)
        for weight, first, second, gradient in moments:
            n = len(gradient)
            gradient = gradient * (CLIP_NORM / norm.clamp(min=CLIP_NORM))
            first[:n].lerp_(gradient, 1 - BETAS[0])
            second[:n].lerp_(gradient.square(), 1 - BETAS[1])
            weight[:n] -= rate * (first[:n] / first_share) / ((second[:n] / second_share).sqrt() + 1e-8)


def forecast_online(series: Sequence[np.ndarray], options: OnlineOptions, seed: int = 0,
                    on_step: Callable[[], object] | None = None) -> list[np.ndarray]:
    """Return the forecasts of each series' networks at every step, after learning from the steps up to it.

    Args:
        series: (T_i, C) scaled values, of any lengths; the blocks of all phases in the order in which they end.
        on_step: called after each step, for a progress bar.
    Returns: (T_i, H, C) for each series; `forecast[t, h]` is for step t + Q * (1 + h) and made from the values up to t.
        NaN for the first 16 blocks.
    """
    order = sorted(range(len(series)), key=lambda index: -len(series[index]))      # longest first: active ones in front
    lengths = np.array([len(series[index]) for index in order])
    steps, channels = int(lengths.max()), series[0].shape[1]
    inputs, values = stacked_inputs([series[index] for index in order], options)
    nets = BatchedLSTMs(len(order), channels, options, seed)
    generator = np.random.default_rng(seed)
    found = np.full((len(order), steps, options.horizon, channels), np.nan, dtype=np.float32)
    waiting: list[int] = []                            # steps without a forecast, since the last update
    for now in range(FIRST_BLOCK * options.phases, steps):
        active = int((lengths > now).sum())
        rate = options.warm_up_rate if now < options.warm_up_blocks * options.phases else options.rate
        for _ in range(_updates_at(now, options)):
            ends = window_ends(now, options, generator)
            nets.update(*windows_of(inputs[:active], values[:active], ends, now, options), rate)
        waiting.append(now)
        if len(waiting) == MAX_WAITING or now + 1 == steps or _updates_at(now + 1, options):
            found[:, waiting] = _forecasts(nets, inputs, values, waiting, lengths, options)
            waiting = []
        if on_step is not None:
            on_step()
    by_index = dict(zip(order, range(len(order)), strict=True))
    return [found[by_index[index], : len(values_of)] for index, values_of in enumerate(series)]


def _forecasts(nets: BatchedLSTMs, inputs: Tensor, values: Tensor, steps: list[int], lengths: np.ndarray,
               options: OnlineOptions) -> np.ndarray:
    """Return the forecasts (S, K, H, C) made at K steps with the weights as they are; any after a series' end."""
    active = int((lengths > steps[0]).sum())
    windows, _ = windows_of(inputs[:active], values[:active], np.array(steps), steps[-1], options)
    with torch.no_grad():
        change = nets.forecast(nets.states(windows)).unflatten(0, (active, options.members)).mean(1)  # (A, K, H, C)
    made = np.full((len(inputs), *change.shape[1:]), np.nan, dtype=np.float32)
    made[:active] = values[:active, torch.tensor(steps) + options.padding, None] + change
    return made


def _updates_at(now: int, options: OnlineOptions) -> int:
    """Return the number of updates at a step: spread evenly in the warm-up, then each phase in its turn."""
    if now < options.warm_up_blocks * options.phases:
        return (now + 1) * options.updates // options.phases - now * options.updates // options.phases
    turn, place = divmod(now, options.update_every * options.phases) if options.update_every else (0, -1)
    return int(place == turn % options.phases)


def stacked_inputs(series: Sequence[np.ndarray], options: OnlineOptions) -> tuple[Tensor, Tensor]:
    """Return the inputs (S, T, 2C), value and change, and the values (S, T, C), both after one window of padding."""
    first, phases = options.padding, options.phases
    steps = max(map(len, series)) + first + phases * options.horizon
    values = torch.zeros(len(series), steps, series[0].shape[1])
    for row, values_of in zip(values, series, strict=True):
        row[first : first + len(values_of)] = torch.from_numpy(np.asarray(values_of, np.float32))
    change = torch.zeros_like(values)
    change[:, first + phases :] = values[:, first + phases :] - values[:, first : -phases]
    return torch.cat([values, change], dim=2), values


def window_ends(now: int, options: OnlineOptions, generator: np.random.Generator) -> np.ndarray:
    """Return the last steps (B,) of an update's windows: the newest, a recent one, others from the whole past."""
    half, whole = options.phases * options.window // 2, options.phases * options.window
    old = generator.integers(min(half, now), now + 1, options.windows - 1)
    old[:1] = max(now - int(generator.integers(whole)), 0)
    return np.append(now, old)


def windows_of(inputs: Tensor, values: Tensor, ends: np.ndarray, now: int,
               options: OnlineOptions) -> tuple[Tensor, Tensor]:
    """Return inputs (A * E, B, T, 2C) and targets (A * E, B, T, H, C) of windows; targets after `now` are NaN."""
    first, phases, members = options.padding, options.phases, options.members
    back = phases * torch.arange(options.window - 1, -1, -1)
    steps = first + torch.from_numpy(ends)[:, None] - back                              # in padded steps
    ahead = steps[:, :, None] + phases * (1 + torch.arange(options.horizon))                   # (B, T, H)
    known = (ahead <= now + first) & (steps >= first)[:, :, None]
    change = values[:, ahead] - values[:, steps, None]                                         # (A, B, T, H, C)
    target = torch.where(known[..., None], change, torch.nan)
    return inputs[:, steps].repeat_interleave(members, 0), target.repeat_interleave(members, 0)
