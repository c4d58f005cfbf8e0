"""A small convolutional classifier of handwritten digits; its last hidden layer is the features.

``weights/<name>.json`` says how it was trained (``recipe``: the target, its arguments, the optimiser's numbers), by
which code and to what accuracy; ``weights/<name>.safetensors`` holds its parameters.  ``sivibench features <name>``
trains it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import UserError
from bench.features.base import Features
from targets.fetch import sha256_of

FOLDER = Path(__file__).parent / "weights"
CHANNELS = (16, 32, 64)
WIDTH = 64


class Classifier(nn.Module):
    """Three 3 x 3 convolutions, halved by max pooling while the side is 4 or more, and two linear layers.

    Args:
        side: height and width of the images, which have one channel.
        classes: number of labels.
    """

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip((1, *CHANNELS), CHANNELS, strict=False)
        )
        for _ in CHANNELS:
            side = side // 2 if side >= 4 else side
        self.hidden = nn.Linear(CHANNELS[-1] * side**2, WIDTH)
        self.logits = nn.Linear(WIDTH, classes)

    def features(self, x: Tensor) -> Tensor:
        """ReLU of the hidden layer for x in [-1, 1]; [n, 1, side, side] -> [n, 64]."""
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
            x = F.max_pool2d(x, 2) if x.shape[-1] >= 4 else x
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, [n, classes]."""
        return self.logits(self.features(x))


class ClassifierFeatures(Features):
    """The hidden layer in float64: the same features for any batch size and on any device, to rounding.

    Larger images are cropped to the middle (padded MNIST).
    """

    def __init__(self, network: Classifier, side: int, identity: dict[str, Any]) -> None:
        super().__init__(identity, WIDTH)
        self.network, self.side = network.double(), side

    def forward(self, images: Tensor) -> Tensor:
        margin = (images.shape[-1] - self.side) // 2
        inside = images[..., margin : margin + self.side, margin : margin + self.side]
        return self.network.features(inside.double() / 127.5 - 1)


def names() -> list[str]:
    """The classifiers of this suite."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def about(name: str) -> dict[str, Any]:
    """Recipe, digest and provenance of a classifier.

    Raises:
        UserError: no such classifier.
    """
    if name not in names():
        raise UserError(f"unknown feature network {name!r}", f"choose from: {', '.join(names())}")
    return dict(json.loads((FOLDER / f"{name}.json").read_text()))


def lacking(name: str, shape: tuple[int, ...]) -> str | None:
    """Why images [C, H, W] have no such features, or None."""
    side = about(name)["recipe"]["side"]
    if shape in {(1, side, side), (1, side + 4, side + 4)}:
        return None
    return f"the {name} features are of 1 x {side} x {side} images, these are {' x '.join(map(str, shape))}"


def load(name: str) -> ClassifierFeatures:
    """The features called ``name``.

    Raises:
        UserError: no such classifier, or its weights are not those on record.
    """
    described, path = about(name), FOLDER / f"{name}.safetensors"
    if not path.is_file() or sha256_of(path) != described["sha256"]:
        raise UserError(f"{path} is missing or not the recorded one", f"restore it: git checkout -- {path}")
    recipe = described["recipe"]
    network = Classifier(recipe["side"], recipe["classes"])
    network.load_state_dict(load_file(path))
    return ClassifierFeatures(network, recipe["side"], {"network": name, "sha256": described["sha256"]})
