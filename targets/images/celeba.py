"""CelebA at 64 x 64 pixels from the folder of aligned pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from bench.checks import require_choice
from bench.errors import UserError
from bench.places import data_places
from bench.registry import register
from targets.images.stored import Source, StoredImages, expect_count, open_image

Crop = Literal["ddim", "ddpm_torch"]
CROPS: dict[Crop, tuple[int, int, int]] = {"ddim": (57, 25, 128), "ddpm_torch": (40, 15, 148)}
"""Top, left, side of the square that is kept of 218 x 178 pixels: the field has two, and FID depends on it."""

PARTS = {"train": "0", "test": "2"}
COUNTS = {"train": 162_770, "test": 19_962}


def celeba_folder() -> Path:
    """The folder with ``img_align_celeba/`` and ``list_eval_partition.txt``.

    Raises:
        UserError: there is none.
    """
    places = data_places("celeba")
    for place in places:
        if (place / "img_align_celeba").is_dir() and (place / "list_eval_partition.txt").is_file():
            return place
    raise UserError(
        f"cannot find CelebA: {' nor '.join(map(str, places))} holds img_align_celeba/ and list_eval_partition.txt",
        "get both from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and set SIVIBENCH_DATA",
    )


def celeba_source(folder: Path, part: str, crop: Crop, size: int) -> Source:
    """The pictures of one part, cropped and resized (bilinear, antialiased).

    Raises:
        UserError: the partition names a picture that is not there.
    """
    lines = [line.split() for line in (folder / "list_eval_partition.txt").read_text().splitlines() if line.strip()]
    names = sorted(line[0] for line in lines if line[1:] == [PARTS[part]])
    paths = [folder / "img_align_celeba" / name for name in names]
    if missing := next((path for path in paths if not path.is_file()), None):
        raise UserError(f"{missing} does not exist, but the partition names it", "extract img_align_celeba.zip again")
    top, left, side = CROPS[crop]

    def images() -> Iterator[np.ndarray]:
        from PIL import Image

        for path in paths:
            square = open_image(path).crop((left, top, left + side, top + side))
            yield np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)

    return Source([(f"{crop} {path.name}", path.stat().st_size) for path in paths], images)


@register(
    "target", "celeba64", source="Liu et al. 2015, arXiv:1411.7766; crop of DDIM (Song et al. 2021) or ddpm-torch"
)
class CelebA64(StoredImages):
    """CelebA's faces, cropped and resized to 64 x 64: 162,770 for training, 19,962 held out.

    Args:
        crop: ``ddim``: 128 x 128 pixels around the face, the crop of the reference statistics of HSIVI-SM (which
            are of 50,000 training images, ours of all: an FD is lower by some tenths);
            ``ddpm_torch``: 148 x 148.
        teacher: id or path of a teacher (`sivibench teacher convert`).
    """

    shape = (3, 64, 64)
    metrics = ("fid", "kid", "nfe")
    curve_metric = "fid"
    teacher_command = "sivibench teacher convert FILE --format ddpm-torch --size 64 --set eps=1e-5"

    def __init__(self, *, crop: Crop = "ddim", teacher: str = "") -> None:
        super().__init__(teacher=teacher)
        require_choice(Crop, "target", crop=crop)
        self.crop: Crop = crop

    def source(self, part: str) -> Source:
        found = celeba_source(celeba_folder(), part, self.crop, self.shape[1])
        expect_count(found.listing, COUNTS[part], f"CelebA's part {part!r}")
        return found
