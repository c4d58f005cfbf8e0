"""Feature networks from files of others: found, checked, and computing what their papers' code does."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench.errors import UserError
from bench.features import dinov2, inception
from bench.features.base import coloured, evaluated, features_of, lacking
from bench.features.files import WeightFile
from bench.metrics.base import Fitted
from bench.metrics.evaluate import evaluate
from bench.metrics.images import sets
from bench.registry import get
from test_metrics_images import Images, Painter

RGB = (3, 32, 32)


@pytest.fixture(autouse=True)
def empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which weight files are looked for, and nothing loaded before."""
    monkeypatch.setenv("SIVIBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path / "cache"))
    features_of.cache_clear()
    (tmp_path / "data" / "features").mkdir(parents=True)
    yield tmp_path / "data" / "features"
    features_of.cache_clear()


# ---- files


def test_a_missing_file_says_which_where_and_what_checksum(empty_folders: Path) -> None:
    for module in (inception, dinov2):
        with pytest.raises(UserError) as error:
            module.FILE.path()
        for part in (str(empty_folders / module.FILE.name), module.FILE.url, module.FILE.sha256, "cache"):
            assert part in str(error.value)
    assert dinov2.FILE.sha256 in lacking("dinov2", RGB)
    with pytest.raises(UserError, match=r"dinov2_vitl14_pretrain\.pth"):
        features_of("dinov2")


def test_a_file_is_taken_from_the_data_folder_or_the_cache_and_checked(empty_folders: Path) -> None:
    file = WeightFile("w.pth", "https://example.org/w.pth", hashlib.sha256(b"good").hexdigest(), 1)
    cached = empty_folders.parents[1] / "cache" / "features" / "w.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"good")
    assert file.path() == cached and file.lacking() is None
    (empty_folders / "w.pth").write_bytes(b"bad")
    with pytest.raises(UserError, match="has sha256"):
        file.path()
    (empty_folders / "w.pth").write_bytes(b"good")
    assert file.path() == empty_folders / "w.pth"


def test_a_run_without_the_files_says_why_it_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Images()
    target.shape = RGB
    for name in ("fid", "kid", "fd_dinov2", "recall_dinov2", "precision_inception"):
        reason = get("metric", name).obj().applies(Painter(target), target)
        assert reason and ("sivibench[fid]" in reason or "sha256" in reason)
    monkeypatch.setattr(inception, "find_spec", lambda name: object())
    assert inception.FILE.url in lacking("inception", RGB)


# ---- DINOv2


def test_the_vit_has_the_tensors_of_metas_file() -> None:
    with torch.device("meta"):
        network = dinov2.ViT()
    assert len(network.state_dict()) == 343 and sum(p.numel() for p in network.parameters()) == 304_368_640
    assert network.pos_embed.shape == (1, 1 + 37**2, 1024)


def test_a_block_is_that_of_torch() -> None:
    torch.manual_seed(0)
    width, heads = 16, 4
    block = dinov2.Block(width, heads)
    other = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "linear1": "mlp.fc1",
        "linear2": "mlp.fc2",
        "self_attn.out_proj": "attn.proj",
    }
    state = {f"{a}.{end}": block.state_dict()[f"{b}.{end}"] for a, b in names.items() for end in ("weight", "bias")}
    state |= {f"self_attn.in_proj_{end}": block.state_dict()[f"attn.qkv.{end}"] for end in ("weight", "bias")}
    other.load_state_dict(state)
    x = torch.randn(3, 5, width)
    assert torch.allclose(block(x), other(x), atol=1e-5)
    with torch.no_grad():
        block.ls1.gamma.zero_()
        block.ls2.gamma.zero_()
    assert torch.equal(block(x), x)


def test_position_embeddings_are_interpolated_with_metas_scale() -> None:
    network = dinov2.ViT(width=1, depth=0, side=14 * 4)
    with torch.no_grad():
        network.pos_embed[0, 1:, 0] = torch.arange(4.0).repeat(4)  # the column
        network.pos_embed[0, 0, 0] = 7.0
    assert network.positions(4) is network.pos_embed
    found = network.positions(2)[0, :, 0]
    assert found[0] == 7.0 and found.shape == (5,)
    # Column i of 2 lies at (i + 1/2) 4 / 2.1 - 1/2; Keys' cubic kernel with a = -3/4 reproduces no line exactly.
    at = [(i + 0.5) * 4 / 2.1 - 0.5 for i in range(2)]
    assert found[1:3].tolist() == pytest.approx([_cubic(at[0]), _cubic(at[1])], abs=1e-5)
    assert torch.allclose(found[1:3], found[3:5])


def _cubic(x: float, a: float = -0.75) -> float:
    """Cubic convolution of the values 0, 1, 2, 3 at x, edges repeated."""
    total = 0.0
    for i in range(math.floor(x) - 1, math.floor(x) + 3):
        d = abs(x - i)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        total += (near if d <= 1 else far) * min(max(i, 0), 3)
    return total


def test_images_for_dinov2_are_resized_by_pillow_and_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    network = dinov2.ViT(width=8, depth=0)
    monkeypatch.setattr(network, "forward", lambda x: seen.append(x) or x[:, :, 0, 0])
    image = torch.randint(256, (1, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dinov2.DINOv2(network)(image)
    assert seen[0].shape == (1, 3, 224, 224)
    expected = np.asarray(Image.fromarray(image[0, 0].numpy()).resize((224, 224), Image.Resampling.BICUBIC)) / 255
    for channel, (mean, sd) in enumerate(zip(dinov2.MEAN, dinov2.SD, strict=True)):
        assert np.allclose(seen[0][0, channel].numpy() * sd + mean, expected, atol=1e-6)


def test_fd_dinov2_from_a_local_file(empty_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of the same form, small, through the metric to the record."""
    torch.manual_seed(0)
    small = partial(dinov2.ViT, width=16, depth=2, heads=2)
    weights = small()
    for parameter in weights.parameters():
        nn.init.normal_(parameter, std=0.3)
    path = empty_folders / dinov2.FILE.name
    torch.save(weights.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(dinov2, "ViT", small)
    monkeypatch.setattr(dinov2, "FILE", dataclasses.replace(dinov2.FILE, sha256=digest))
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    whole, parts = (torch.cat(list(evaluated(features_of("dinov2"), images.split(n), "cpu"))) for n in (5, 2))
    assert whole.shape == (5, 16) and torch.allclose(whole, parts, atol=1e-5) and whole.std() > 0.01

    target = Images()
    metrics, protocols, skipped = evaluate(["fd_dinov2"], Fitted(Painter(target), target, 0), {"fd_dinov2": {"n": 60}})
    assert not skipped and math.isfinite(metrics["fd_dinov2"]["value"])
    (protocol,) = protocols.values()
    assert protocol["features"]["network"] == "dinov2" and protocol["n_images"] == 200

    # The reference is kept for the next process, and found by its content.
    (kept,) = (empty_folders.parents[1] / "cache" / "images").iterdir()
    monkeypatch.setattr(sets.RealImages, "take", lambda self, index: pytest.fail("computed again"))
    monkeypatch.setattr(sets.RealImages, "sha256", lambda self: protocol["images"])
    sets.reference.cache_clear()
    again, _, _ = evaluate(["fd_dinov2"], Fitted(Painter(target), target, 0), {"fd_dinov2": {"n": 60}})
    assert again == metrics
    kept.write_bytes(kept.read_bytes()[:50])
    sets.reference.cache_clear()
    with pytest.raises(UserError, match="is damaged"):
        evaluate(["fd_dinov2"], Fitted(Painter(target), target, 0), {"fd_dinov2": {"n": 60}})

    torch.save({"nothing": torch.zeros(1)}, path)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(dinov2, "FILE", dataclasses.replace(dinov2.FILE, sha256=content))
    with pytest.raises(UserError, match="does not hold a DINOv2 ViT-L/14"):
        dinov2.load("dinov2")


# ---- Inception


def test_the_inception_network_is_torch_fidelitys(empty_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = _torch_fidelity()
    torch.manual_seed(0)
    path = empty_folders / inception.FILE.name
    with monkeypatch.context() as context:  # its constructor insists on a file: take the tensors it would fill
        context.setattr(extractor, "load_state_dict", lambda self, state: None)
        context.setattr(torch, "load", lambda *args, **kwargs: None)
        torch.save(extractor("fake", ["2048"], "fake").state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "FILE", dataclasses.replace(inception.FILE, sha256=digest))
    images = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    whole, parts = (torch.cat(list(evaluated(features_of("inception"), images.split(n), "cpu"))) for n in (3, 2))
    assert whole.shape == (3, 2048) and torch.allclose(whole, parts, rtol=1e-4)
    expected = extractor("again", ["2048"], str(path))(images.repeat(1, 3, 1, 1))[0]
    assert torch.allclose(whole, expected, rtol=1e-4)


def _torch_fidelity():
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    return FeatureExtractorInceptionV3


def test_a_library_that_cannot_be_imported_is_named(empty_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_folders / inception.FILE.name).write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(inception, "FILE", dataclasses.replace(inception.FILE, sha256=digest))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r"torch-fidelity cannot be imported[\s\S]*sivibench\[fid\]"):
        features_of("inception")


def test_grey_images_get_three_equal_channels() -> None:
    grey, colour = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert coloured(grey).shape == colour.shape and coloured(colour) is colour
