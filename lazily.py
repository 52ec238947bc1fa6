"""Libraries that are loaded when something of them is first used: `--help` must not wait for them.

Modules that a script imports before it has read its arguments take `np`, `pd` and `scipy` from here; all others import
them as usual.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["lazy_import", "np", "pd", "scipy"]


def lazy_import(name: str) -> ModuleType:
    """Return a module that is loaded when something of it is first used."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import scipy
else:
    np, pd, scipy = map(lazy_import, ("numpy", "pandas", "scipy"))
