"""The learned model: a stacked LSTM that forecasts the next steps at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]

INPUT_LIMIT = 10.0                                 # scaled units; a spike must not saturate the state


class StackedLSTM(nn.Module):
    """Maps steps (B, T, C) and a state to a forecast at every step (B, T, H, C) and the next state.

    The head forecasts the change from the current step, so that short leads need no capacity.
    A missing value is NaN: the network sees zero, the channel's center, in its place, and for each
    channel a second input that says whether the value is present.

    Args:
        channels: C, channels in and out.
        hidden_units: D, units of each layer.
        num_layers: stacked LSTM layers.
        horizon: H, steps ahead; `forecast[:, t, h]` is for step t + 1 + h.
        dropout: between the layers, in training.
    """

    def __init__(self, channels: int, hidden_units: int, num_layers: int, horizon: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.channels, self.horizon = channels, horizon
        self.lstm = nn.LSTM(
            input_size=2 * channels,
            hidden_size=hidden_units,
            num_layers=num_layers,
            dropout=dropout if num_layers > 1 else 0.0,
            batch_first=True,
        )
        self.head = nn.Linear(hidden_units, horizon * channels)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the forecasts (B, T, H, C) and the state after the last step."""
        change, state = self.changes(x, state)
        return network_input(x).unsqueeze(2) + change, state

    def changes(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the forecast changes (B, T, H, C) from each current step, and the state after the last step."""
        if x.ndim != 3 or x.shape[2] != self.channels:
            raise ValueError(f"x must be (B, T, {self.channels}), got {tuple(x.shape)}")
        present = ~torch.isnan(x)
        steps = torch.cat([network_input(x), present.to(x.dtype)], dim=2)        # (B, T, 2C)
        hidden, state = self.lstm(steps, state)                            # (B, T, D)
        flat = self.head(hidden)                                           # (B, T, H*C)
        return flat.unflatten(-1, (self.horizon, self.channels)), state    # (B, T, H, C)


def network_input(x: Tensor) -> Tensor:
    """Return the values of steps (B, T, C) as the network sees them."""
    return torch.nan_to_num(x, nan=0.0).clamp(-INPUT_LIMIT, INPUT_LIMIT)
