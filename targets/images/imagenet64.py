"""ImageNet at 64 x 64 pixels from the zip that EDM's dataset_tool.py writes: dataset.json and PNG files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.errors import UserError
from bench.places import data_places
from bench.registry import register
from targets.images.stored import Source, StoredImages, expect_count, read_image

FILE = "imagenet/imagenet-64x64.zip"
COUNT = 1_281_167


def edm_zip(path: Path) -> Source:
    """The pictures of an EDM zip in the order of their names; known by the checksums the zip keeps of them.

    Raises:
        UserError: no zip, or one without dataset.json.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.filename)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a zip: {error}", "make it again with EDM's dataset_tool.py"
        ) from error
    if "dataset.json" not in (info.filename for info in infos):
        raise UserError(f"{path} has no dataset.json", "expected a zip made by EDM's dataset_tool.py")
    pictures = [info for info in infos if info.filename.endswith(".png")]

    def images() -> Iterator[np.ndarray]:
        with zipfile.ZipFile(path) as archive:
            for info in pictures:
                with archive.open(info) as file:
                    yield read_image(file)

    return Source([(info.filename, info.CRC) for info in pictures], images)


@register(
    "target", "imagenet64", source="Deng et al. 2009; cropped and resized by EDM's dataset_tool.py, Karras et al. 2022"
)
class ImageNet64(StoredImages):
    """ImageNet's 1,281,167 training images at 64 x 64, without labels; none held out.

    Args:
        teacher: id or path of a teacher (`sivibench teacher convert`).
    """

    shape = (3, 64, 64)
    metrics = ("fid", "kid", "nfe")
    curve_metric = "fid"
    teacher_command = "sivibench teacher convert imagenet64_uncond_100M_1500K.pt --format improved-diffusion --size 64"

    def __init__(self, *, teacher: str = "") -> None:
        super().__init__(teacher=teacher)

    def source(self, part: str) -> Source:
        if part != "train":
            return Source([], lambda: iter(()))
        places = data_places(FILE)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise UserError(
                f"cannot find {' nor '.join(map(str, places))}",
                "make it with EDM's dataset_tool.py (--resolution=64x64 --transform=center-crop; without the transform "
                "pictures are squashed) and set SIVIBENCH_DATA",
            )
        found = edm_zip(path)
        expect_count(found.listing, COUNT, str(path))
        return found
