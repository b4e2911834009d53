"""Many small pictures as one image, whose tiles a page draws one by one."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Sprite:
    """Tiles of one size in rows, as a PNG in a data URI."""

    uri: str
    columns: int
    width: int  # of a tile, in pixels
    height: int


def sprite_of(pictures: Sequence[Bytes], budget: int, colors: str | None = None) -> Sprite | None:
    """Return pictures (C, h, w) of one shape, C = 1 or 3, as tiles; None where there are none.

    Together they have at most about ``budget`` numbers: beyond, they are made smaller. Pictures of one channel are
    grey, or in a color map of matplotlib.
    """
    if not pictures:
        return None
    channels, height, width = pictures[0].shape
    share = min(1.0, math.sqrt(budget / (len(pictures) * channels * height * width)))
    size = max(1, int(share * width)), max(1, int(share * height))
    columns = math.ceil(math.sqrt(len(pictures)))
    sheet = Image.new("RGB" if channels == 3 else "L", (columns * size[0], -(-len(pictures) // columns) * size[1]))
    for number, picture in enumerate(pictures):
        tile = Image.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1) if channels == 3 else picture[0]))
        row, column = divmod(number, columns)
        sheet.paste(tile if share == 1 else tile.resize(size, Image.Resampling.BOX), (column * size[0], row * size[1]))
    if colors is not None and channels == 1:
        sheet.putpalette(mpl.colormaps[colors](np.arange(256), bytes=True)[:, :3].tobytes())
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return Sprite(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", columns, *size)
