"""Read files of tensors and plain values that anyone may have written: checkpoints and states of a stream.

A pickle is a program. Before torch runs it, with `weights_only`, this one is looked through: it may build
tensors and plain values and nothing else, the zip around it holds no byte that the file itself does not hold,
and no tensor or list is larger than what was stored of it.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from pathlib import Path
from typing import Any

NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Long", "Int", "Byte", "Bool")),
}
NEVER = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID", "BYTEARRAY8"}
DEEPEST = 50                             # of nested values


def load_tensors(path: Path) -> Any:
    """Return what `torch.save` wrote: nested plain values and dense tensors, on the CPU.

    Raises: whatever torch, zipfile and pickletools do about a damaged file; ValueError in words for one that
        could run code, or that would take more memory than its size shows.
    """
    import torch

    _check_zip(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    _check_values(content, path.stat().st_size)
    return content


def _check_zip(path: Path) -> None:
    """Raise ValueError unless a zip is stored as it is, and its pickle builds tensors and plain values alone."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed; expected a file of torch.save")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if len(pickles) != 1 or len({entry.filename for entry in entries}) < len(entries):
            raise ValueError(f"{len(pickles)} pickles in it; expected one, and every name once")
        content = archive.read(pickles[0])
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in NEVER or (operation.name == "GLOBAL" and argument not in NAMES):
            raise ValueError(f"it asks for {argument or operation.name}; expected tensors and plain values")


def _check_values(content: Any, most: int) -> None:
    """Raise ValueError if values are nested too deeply, are more than `most`, or are no plain ones.

    Each value takes a byte of the file at least, unless one list stands in many places.
    """
    import torch

    left, count = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        if count > most:
            raise ValueError("it has more values than bytes")
        if isinstance(value, dict):
            left += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple)):
            left += [(part, depth + 1) for part in value]
        elif isinstance(value, torch.Tensor):
            _check_tensor(value)
        elif not (value is None or isinstance(value, (bool, int, float, str))):
            raise ValueError(f"it holds a {type(value).__name__}; expected tensors and plain values")


def _check_tensor(tensor: Any) -> None:
    """Raise ValueError unless a tensor is dense and its storage holds every value of its shape."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(f"a tensor is {tensor.layout} on {tensor.device}; expected dense ones")
    if math.prod(tensor.shape) * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has fewer stored values than that")
