"""Streams whose state is saved and restored: what a live process needs to resume where another one stopped."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Stateful:
    """Names in STATE what has to outlive the process: plain values, arrays, other stateful objects, lists of them."""

    STATE: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return the state; arrays are not copied."""
        return {name: _state_of(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`. Raises ValueError if it belongs to something else."""
        if set(state) != set(self.STATE):
            raise ValueError(f"state of {type(self).__name__} has {sorted(state)}; expected {sorted(self.STATE)}")
        for name, value in state.items():
            mine = getattr(self, name)
            if hasattr(mine, "load_state_dict"):
                mine.load_state_dict(value)
            elif isinstance(mine, list) and mine and hasattr(mine[0], "load_state_dict"):
                for part, its_state in zip(mine, value, strict=True):
                    part.load_state_dict(its_state)
            else:
                setattr(self, name, checked_like(mine, value, name))


def checked_like(mine: Any, value: Any, name: str) -> Any:
    """Return a value of a stored state. Raises ValueError if it is not of the kind of mine.

    A list that is empty as long as nothing has come, is one of pairs of numbers.
    """
    if isinstance(mine, np.ndarray):
        if (np.shape(value), getattr(value, "dtype", None)) != (mine.shape, mine.dtype):
            raise ValueError(f"{name} has shape {np.shape(value)}; expected {mine.shape} of {mine.dtype}")
    elif isinstance(mine, list) and isinstance(value, (list, tuple)) and (not mine or len(value) == len(mine)):
        for k, part in enumerate(value):
            checked_like(mine[k] if mine else [0.0, 0.0], part, name)
    elif isinstance(mine, (bool, str)) or isinstance(value, (bool, str)):
        if type(value) is not type(mine):
            raise ValueError(f"{name} is {value!r:.60}; expected {mine!r}")
    elif isinstance(mine, int):
        if not isinstance(value, int) or not -1 <= value < 2**53:
            raise ValueError(f"{name} is {value!r:.60}; expected a count")
    elif not isinstance(mine, float) or not isinstance(value, (int, float)) or 2**53 < abs(value) < math.inf:
        raise ValueError(f"{name} is {value!r:.60}; expected {mine!r:.60}")
    return value


def _state_of(value: Any) -> Any:
    if isinstance(value, list):
        return [_state_of(part) for part in value]
    return value.state_dict() if hasattr(value, "state_dict") else value
