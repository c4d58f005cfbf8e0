"""Grids of generated images in records and on the report's page."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from bench.pictures import BYTES, grid
from bench.report.gallery import gallery


def pixels(found: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found["png"]))))


def test_a_grid_holds_the_first_images_in_reading_order():
    rows = torch.linspace(-1, 1, 40)[:, None].expand(40, 64)
    found = grid(rows, (1, 8, 8))
    assert (found["images"], found["columns"]) == (40, 8)
    shown = pixels(found)
    assert shown.shape == (40, 64)
    assert shown[0, 0] == 0 and shown[-1, -1] == 255
    assert (shown[::8, ::8].flatten() == ((rows[:, 0] + 1) * 127.5).round().numpy()).all()


def test_colours_and_sizes_stay_within_the_bound():
    rows = torch.zeros(40, 3 * 32 * 32)
    rows[0, : 32 * 32] = 1.0  # the red channel of the first image
    found = grid(rows, (3, 32, 32))
    shown = pixels(found)
    assert shown.ndim == 3 and shown.size <= max(BYTES, 3 * 32 * 32)
    assert tuple(shown[0, 0]) == (255, 128, 128)


def test_the_page_shows_one_picture_per_configuration():
    record = {"seed": 3, "images": grid(torch.zeros(8, 64), (1, 8, 8))}
    groups = [SimpleNamespace(label="a <b>", done=[{"seed": 1}, record]), SimpleNamespace(label="c", done=[])]
    found = gallery(cast(Any, SimpleNamespace(groups=groups)))
    assert found is not None and found.count("<img") == 1 and "a &lt;b&gt; · seed 3" in found
    assert gallery(cast(Any, SimpleNamespace(groups=groups[1:]))) is None
