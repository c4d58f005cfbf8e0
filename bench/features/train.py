"""``sivibench features``: train a classifier again by its recipe, and compare it with the recorded one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Generator, Tensor
from torch.nn import functional as F

from bench.features.base import as_bytes
from bench.features.classifier import FOLDER, Classifier, about
from bench.files import write_atomic, write_json_atomic
from bench.noise import generator
from bench.reference.provenance import provenance
from bench.registry import get
from targets.fetch import sha256_of

Labelled = tuple[Tensor, Tensor]


def train(name: str, folder: Path | None = None, *, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train the classifier ``name`` by its recipe on one thread, and write weights and provenance.

    Args:
        name: a classifier of ``weights/``.
        folder: where to write; None: train and compare only.
        tell: hears a line per epoch.

    Returns:
        The provenance, with ``same`` (the bits are the recorded ones) and ``largest_difference`` of a parameter.

    Raises:
        UserError: no such classifier, or its data cannot be had.
    """
    described = about(name)
    recipe = described["recipe"]
    target = get("target", recipe["target"]).obj(**recipe["target_arguments"])
    parts = {part: _prepared(target, part, recipe["side"]) for part in ("train", "test")}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order give other bits
    try:
        network = fit(parts["train"], recipe, tell)
    finally:
        torch.set_num_threads(threads)
    accuracy = {part: accuracy_of(network, *labelled) for part, labelled in parts.items()}
    counts = {part: len(labels) for part, (_, labels) in parts.items()}
    found = {"recipe": recipe, "images": counts, "accuracy": accuracy, "provenance": provenance()}
    recorded = FOLDER / f"{name}.safetensors"
    difference = _largest_difference(network, recorded) if recorded.is_file() else math.inf
    if folder is not None:
        path = folder / f"{name}.safetensors"
        write_atomic(path, save(network.state_dict()))
        found = {"sha256": sha256_of(path), **found}
        write_json_atomic(path.with_suffix(".json"), found)
    return {**found, "same": difference == 0.0, "largest_difference": difference}


def fit(labelled: Labelled, recipe: dict[str, Any], tell: Callable[[str], None]) -> Classifier:
    """Cross entropy by Adam with a cosine schedule; every image is moved by up to ``shift`` pixels, afresh each time.

    Args:
        labelled: images in [-1, 1], [N, 1, side, side], and labels [N].
        recipe: ``side``, ``classes``, ``epochs``, ``batch``, ``lr``, ``shift``, ``seed``.
        tell: hears a line per epoch.
    """
    images, labels = labelled
    random = generator(recipe["seed"], "features")
    network = Classifier(recipe["side"], recipe["classes"])
    _initialise(network, random)
    steps = recipe["epochs"] * (len(labels) // recipe["batch"])
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(recipe["epochs"]):
        total = 0.0
        for rows in torch.randperm(len(labels), generator=random).split(recipe["batch"]):
            if len(rows) < recipe["batch"]:
                break
            loss = F.cross_entropy(network(moved(images[rows], recipe["shift"], random)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() / (len(labels) // recipe["batch"])
        tell(f"epoch {epoch + 1}/{recipe['epochs']}  loss {total:.4f}")
    return network


def moved(x: Tensor, by: int, random: Generator) -> Tensor:
    """Every image shifted by up to ``by`` pixels in both directions, dark where nothing is left; [n, 1, H, W]."""
    side = x.shape[-1]
    padded = F.pad(x, (by, by, by, by), value=-1.0)
    down, right = torch.randint(2 * by + 1, (2, len(x), 1), generator=random) + torch.arange(side)
    return padded[torch.arange(len(x))[:, None, None], 0, down[:, :, None], right[:, None, :]][:, None]


@torch.no_grad()
def accuracy_of(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images whose label the network finds."""
    return float((network(images).argmax(1) == labels).double().mean())


def _prepared(target: Any, part: str, side: int) -> Labelled:
    """Images as the features see them (eight bits in [-1, 1]) and labels of one part of a target."""
    rows = target.train_images() if part == "train" else target.test_images()
    return as_bytes(rows, (1, side, side)).float() / 127.5 - 1, target.labels(part)


def _initialise(network: Classifier, random: Generator) -> None:
    """He's normal initialisation from a generator of its own, biases zero."""
    for parameter in network.parameters():
        fan_in = parameter[0].numel()
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * math.sqrt(2 / fan_in))
            else:
                parameter.zero_()


def _largest_difference(network: Classifier, path: Path) -> float:
    recorded, found = load_file(path), network.state_dict()
    if recorded.keys() != found.keys() or any(recorded[key].shape != found[key].shape for key in found):
        return math.inf
    return max(float((recorded[key] - value).abs().max()) for key, value in found.items())
