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
FIRST_STEP = 16                                    # steps before the first update and the first forecast


@dataclass(frozen=True)
class OnlineOptions:
    """Architecture and training of the networks, the same for all series.

    hidden_units: D. members: E networks per series, with different initial weights; the forecast is their mean.
    horizon: H, steps ahead. window: T, steps of a training window. windows: B, per update, including the newest one.
    updates: per step up to `warm_up_steps`, at `warm_up_rate`. update_every: steps between updates after that, at
    `rate`; 0 = no more updates.
    """

    hidden_units: int = 24
    members: int = 3
    horizon: int = 8
    window: int = 32
    windows: int = 4
    warm_up_steps: int = 60
    updates: int = 6
    warm_up_rate: float = 0.01
    update_every: int = 2
    rate: float = 0.001


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

    def forecast(self, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Return the forecast changes (N, B, T, H, C) for windows x (N, B, T, 2C) of the first N networks."""
        n, batch, steps, inputs = x.shape
        into, recurrent, bias, head, head_bias = weights or [weight[:n] for weight in self.weights]
        gates = torch.baddbmm(bias, x.reshape(n, batch * steps, inputs), into)
        gates = gates.reshape(n, batch, steps, 4 * self.units)
        hidden = cell = torch.zeros(n, batch, self.units)
        outputs = []
        for gate in gates.unbind(2):
            gate = torch.baddbmm(gate, hidden, recurrent)                          # (N, B, 4D)
            take, keep, give = torch.sigmoid(gate[:, :, : 3 * self.units]).chunk(3, dim=2)   # input, forget, output
            cell = keep * cell + take * torch.tanh(gate[:, :, 3 * self.units :])
            hidden = give * torch.tanh(cell)
            outputs.append(hidden)
        flat = torch.stack(outputs, dim=2).reshape(n, batch * steps, self.units)
        return torch.baddbmm(head_bias, flat, head).reshape(n, batch, steps, -1, self.channels)

    def update(self, x: Tensor, target: Tensor, rate: float) -> None:
        """Update the first N networks on windows x (N, B, T, 2C).

        Args:
            target: (N, B, T, H, C) changes to forecast, NaN = not known yet.
        """
        n = len(x)
        weights = [weight[:n].detach().requires_grad_() for weight in self.weights]
        forecast = self.forecast(x, weights)
        known = torch.isfinite(target)
        losses = torch.nn.functional.huber_loss(forecast, torch.nan_to_num(target), reduction="none") * known
        loss = losses.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)
        self._adam(torch.autograd.grad(loss.sum(), weights), rate)             # the sum keeps the networks apart

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
                    on_step: Callable[[int, int], None] | None = None) -> list[np.ndarray]:
    """Return the forecasts of each series' networks at every step, after learning from the steps up to it.

    Args:
        series: (T_i, C) scaled values, of any lengths.
        on_step: called with the number of steps done and in total, for a progress bar.
    Returns: (T_i, H, C) for each series; `forecast[t, h]` is for step t + 1 + h and made from the values up to t. NaN
        for the first 16 steps.
    """
    order = sorted(range(len(series)), key=lambda index: -len(series[index]))      # longest first: active ones in front
    lengths = np.array([len(series[index]) for index in order])
    steps, channels = int(lengths.max()), series[0].shape[1]
    inputs, values = _inputs([series[index] for index in order], options)
    nets = BatchedLSTMs(len(order), channels, options, seed)
    generator = np.random.default_rng(seed)
    found = np.full((len(order), steps, options.horizon, channels), np.nan, dtype=np.float32)
    for now in range(FIRST_STEP, steps):
        active = int((lengths > now).sum())
        warming = now < options.warm_up_steps
        rate = options.warm_up_rate if warming else options.rate
        is_due = options.update_every > 0 and now % options.update_every == 0
        for _ in range(options.updates if warming else int(is_due)):
            window_ends = _window_ends(now, options, generator)
            nets.update(*_windows(inputs[:active], values[:active], window_ends, now, options), rate)
        newest, _ = _windows(inputs[:active], values[:active], np.array([now]), now, options)
        with torch.no_grad():
            change = nets.forecast(newest)[:, 0, -1].unflatten(0, (active, options.members)).mean(1)    # (A, H, C)
        found[:active, now] = (values[:active, now + options.window, None] + change).numpy()
        if on_step is not None:
            on_step(now + 1, steps)
    by_index = dict(zip(order, range(len(order)), strict=True))
    return [found[by_index[index], : len(values_of)] for index, values_of in enumerate(series)]


def _inputs(series: Sequence[np.ndarray], options: OnlineOptions) -> tuple[Tensor, Tensor]:
    """Return the inputs (S, T, 2C), value and change, and the values (S, T, C), both after one window of padding."""
    steps = max(map(len, series)) + options.window + options.horizon
    values = torch.zeros(len(series), steps, series[0].shape[1])
    for row, values_of in zip(values, series, strict=True):
        row[options.window : options.window + len(values_of)] = torch.from_numpy(np.asarray(values_of, np.float32))
    change = torch.diff(values, dim=1, prepend=values[:, :1])
    change[:, options.window] = 0                                            # the first step has no previous one
    return torch.cat([values, change], dim=2), values


def _window_ends(now: int, options: OnlineOptions, generator: np.random.Generator) -> np.ndarray:
    """Return the last steps (B,) of an update's windows: the newest, a recent one, others from the whole past."""
    old = generator.integers(min(options.window // 2, now), now + 1, options.windows - 1)
    old[:1] = max(now - int(generator.integers(options.window)), 0)
    return np.append(now, old)


def _windows(inputs: Tensor, values: Tensor, window_ends: np.ndarray, now: int,
             options: OnlineOptions) -> tuple[Tensor, Tensor]:
    """Return inputs (A * E, B, T, 2C) and targets (A * E, B, T, H, C) of windows; targets after `now` are NaN."""
    steps = torch.from_numpy(window_ends)[:, None] + 1 + torch.arange(options.window)          # in padded steps
    ahead = steps[:, :, None] + 1 + torch.arange(options.horizon)                              # (B, T, H)
    known = (ahead <= now + options.window) & (steps >= options.window)[:, :, None]
    change = values[:, ahead] - values[:, steps, None]                                         # (A, B, T, H, C)
    target = torch.where(known[..., None], change, torch.nan)
    members = options.members
    return inputs[:, steps].repeat_interleave(members, 0), target.repeat_interleave(members, 0)
