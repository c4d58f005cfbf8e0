"""The Inception network of FID: TensorFlow's of 2015-12-05, as ported by torch-fidelity (extra ``fid``).

2048 features of the last pooling layer, in float32 without TF32.  Images are resized to 299 x 299 as TensorFlow 1 did
(bilinear, corners not aligned, no antialiasing); torchmetrics puts an antialiased resize in its place unless told
otherwise.  Other Inception files, torchvision's above all, give other numbers.
"""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from bench.errors import UserError
from bench.features.base import Features, coloured
from bench.features.files import WeightFile

FILE = WeightFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    96,
)
WIDTH = 2048
EXTRA = "pip install 'sivibench[fid]' (torchvision must fit the installed torch)"


class Inception(Features):
    """torch-fidelity's network from a checked file."""

    batch = 50
    slow = True

    def __init__(self) -> None:
        super().__init__({"network": "inception", "sha256": FILE.sha256, "port": "torch-fidelity"}, WIDTH)
        path = FILE.path()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # a torchvision for another torch raises RuntimeError
            raise UserError(f"torch-fidelity cannot be imported: {error}", EXTRA) from error
        # It unpickles the file without restrictions: only the checked content gets there.
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", [str(WIDTH)], str(path))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(coloured(images))[0]
        return features


def lacking(name: str, shape: tuple[int, ...]) -> str | None:
    """Why images [C, H, W] have no such features here, or None."""
    if find_spec("torch_fidelity") is None:
        return f"torch-fidelity is not installed: {EXTRA}"
    return FILE.lacking()


def load(name: str) -> Inception:
    """The network.

    Raises:
        UserError: its file is missing or another one, or its library is missing.
    """
    return Inception()
