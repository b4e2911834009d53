"""Arrays as they are stored become inputs with channels first and labels; how they were read is said."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from consilience.checks import check_tokens, describe, with_one_label
from consilience.errors import InputError
from consilience.tasks import NUMBERS

LAYOUTS = ("auto", "channels-first", "channels-last", "rows")
MOST_CHANNELS = 4  # of pictures: gray, gray with alpha, colors, colors with alpha
ASK = "set layout (--layout) to channels-first or channels-last"


def read_inputs(array: np.ndarray, where: str, layout: str = "auto") -> tuple[Tensor, str]:
    """Return float32 (n, ...), or int64 (n, t) of integers, which are tokens; and, in words, the layout it was read in.

    Bytes are pixels, scaled to [0, 1]; floating point numbers stay. Images (n, H, W, C), (n, C, H, W) and (n, H, W)
    become (n, C, H, W); floating point arrays (n, H, W) are rows unless ``layout`` says that they are images.
    """
    is_bytes = array.dtype == np.uint8
    if array.dtype.kind in "iu" and array.ndim == 2 and not is_bytes:
        tokens = torch.from_numpy(np.require(array, np.int64, ["C", "W"]))
        check_tokens(tokens, where)
        return tokens, "tokens"
    if not (is_bytes and array.ndim in (2, 3, 4)) and array.dtype.kind != "f":
        wanted = "bytes uint8 (n, H, W), (n, H, W, C), (n, C, H, W) or (n, d), or floating point (n, ...)"
        wanted += ", or tokens, integers (n, t)"
        cure = "x.astype('float32') makes a table of numbers"
        raise InputError(f"{where} must be {wanted}, got {describe(array)}", cure=cure)
    read = _layout_of(array, where, layout)
    if is_bytes:
        pixels = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    else:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the check finds
            pixels = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    if read != "rows" and array.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif read == "channels-last":
        pixels = pixels.permute(0, 3, 1, 2)
    tensor = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    words = "rows" if read == "rows" else f"images with {read.replace('-', ' ') if array.ndim == 4 else 'one channel'}"
    return tensor.div_(255) if is_bytes else tensor, words


def read_labels(array: np.ndarray, n: int, where: str) -> Tensor:
    """Return labels (n,) of int64, of a column, one-hot rows, booleans or whole floats."""
    is_number = array.dtype.kind in "fiub"
    labels = with_one_label(array, n, where) if is_number else None
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        cure = f"y.argmax(1) for rows of scores; np.unique(y, return_inverse=True)[1] for names; {NUMBERS}"
        raise InputError(f"{where} must be integer labels (n,), got {describe(array)}", cure=cure)
    return labels.long()


def _layout_of(array: np.ndarray, where: str, layout: str) -> str:
    """Return "channels-first", "channels-last" or "rows"; raise where an array may be either."""
    if array.ndim not in (3, 4):
        if layout.startswith("channels"):
            raise InputError(f"{where} must be images for layout {layout!r}, got {describe(array)}")
        return "rows"
    if layout != "auto":
        return layout
    if array.ndim == 3:
        return "channels-last" if array.dtype == np.uint8 else "rows"
    _, a, b, c = array.shape
    few = [size <= MOST_CHANNELS for size in (a, c)]
    square = [b == c != a, a == b != c]  # as images with channels first, with channels last
    reading = few if few[0] != few[1] else square
    if few[0] != few[1] and square[0] != square[1] and few != square:
        raise _either(array, where)
    if reading[0] != reading[1] and few != [False, False]:
        return "channels-first" if reading[0] else "channels-last"
    if array.dtype != np.uint8 and not (few == [False, False] and square[1]):
        return "channels-first"  # as torch has them, of however many channels
    raise _either(array, where)


def _either(array: np.ndarray, where: str) -> InputError:
    return InputError(f"{where} must have channels first or last, got either in {describe(array)}", cure=ASK)
