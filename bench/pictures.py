"""Small pictures of generated images for run records: a grid as PNG in base64."""

from __future__ import annotations

import base64
import io
from typing import Any

from torch import Tensor

from bench.features.base import as_bytes

BYTES = 6144
"""Most pixels of a grid: records must stay small."""

COLUMNS = 8
PICTURED = 40
"""Images of a grid, where they are small enough."""


def grid(rows: Tensor, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The first images of [n, C * H * W] in [-1, 1] side by side, as they would be saved.

    Returns:
        ``png`` (base64), and how many images it shows in ``columns``.
    """
    from PIL import Image

    channels, height, width = shape
    columns = max(1, min(COLUMNS, len(rows), BYTES // (channels * height * width)))
    lines = max(1, min(len(rows) // columns, BYTES // (channels * height * width * columns)))
    images = as_bytes(rows[: lines * columns], shape).cpu()
    tiles = images.reshape(lines, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    pixels = tiles.reshape(lines * height, columns * width, channels).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).save(file, "PNG", optimize=True)
    return {"png": base64.b64encode(file.getvalue()).decode(), "images": lines * columns, "columns": columns}
