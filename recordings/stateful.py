"""Streams whose state is saved and restored, so that a live process can resume where another one stopped."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Stateful:
    """Base of streams; STATE names the attributes to save: plain values, arrays, stateful objects, lists of them."""

    STATE: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return the state; arrays are not copied."""
        return {name: _state_of(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict()`. Raises ValueError if it does not fit."""
        if set(state) != set(self.STATE):
            raise ValueError(f"state of {type(self).__name__} has {sorted(state)}; expected {sorted(self.STATE)}")
        for name, value in state.items():
            current = getattr(self, name)
            if hasattr(current, "load_state_dict"):
                current.load_state_dict(value)
            elif isinstance(current, list) and current and hasattr(current[0], "load_state_dict"):
                for part, part_state in zip(current, value, strict=True):
                    part.load_state_dict(part_state)
            else:
                setattr(self, name, checked_like(current, value, name))


def checked_like(current: Any, value: Any, name: str) -> Any:
    """Return a value of a stored state. Raises ValueError unless it has the type, and shape, of the current one.

    The items of a list that is currently empty must be pairs of numbers.
    """
    if isinstance(current, np.ndarray):
        if (np.shape(value), getattr(value, "dtype", None)) != (current.shape, current.dtype):
            raise ValueError(f"{name} has shape {np.shape(value)}; expected {current.shape} of {current.dtype}")
    elif isinstance(current, list) and isinstance(value, (list, tuple)) and (not current or len(value) == len(current)):
        for k, part in enumerate(value):
            checked_like(current[k] if current else [0.0, 0.0], part, name)
    elif isinstance(current, (bool, str)) or isinstance(value, (bool, str)):
        if type(value) is not type(current):
            raise ValueError(f"{name} is {value!r:.60}; expected {current!r}")
    elif isinstance(current, int):
        if not isinstance(value, int) or not -1 <= value < 2**53:
            raise ValueError(f"{name} is {value!r:.60}; expected a count")
    elif not isinstance(current, float) or not isinstance(value, (int, float)) or 2**53 < abs(value) < math.inf:
        raise ValueError(f"{name} is {value!r:.60}; expected {current!r:.60}")
    return value


def _state_of(value: Any) -> Any:
    if isinstance(value, list):
        return [_state_of(part) for part in value]
    return value.state_dict() if hasattr(value, "state_dict") else value
