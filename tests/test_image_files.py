"""Readers of CIFAR-10, CelebA and ImageNet, on small files of the same formats."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from bench.errors import UserError
from targets.images import celeba, imagenet64, stored
from targets.images.celeba import CelebA64, celeba_source
from targets.images.cifar10 import TEST, TRAIN, read_cifar10
from targets.images.imagenet64 import ImageNet64, edm_zip

RANDOM = np.random.RandomState(0)


def cifar_archive(path, parts, records=3):
    """Labels are 200 + part, so that a label taken for a pixel would show."""
    expected = {}
    with tarfile.open(path, "w:gz") as tar:
        for i, name in enumerate(parts):
            images = RANDOM.randint(0, 200, (records, 3072)).astype(np.uint8)
            content = np.concatenate([np.full((records, 1), 200 + i, np.uint8), images], axis=1).tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            expected[name] = images
    return expected


def test_cifar10(tmp_path):
    """Parts in their order whatever the archive's, labels left out."""
    expected = cifar_archive(tmp_path / "c.tar.gz", [*TEST, *reversed(TRAIN)])
    train, test = read_cifar10(tmp_path / "c.tar.gz")
    assert np.array_equal(train.numpy(), np.concatenate([expected[name] for name in TRAIN]))
    assert np.array_equal(test.numpy(), expected[TEST[0]])


def test_cifar10_that_is_incomplete_or_none(tmp_path):
    cifar_archive(tmp_path / "c.tar.gz", TRAIN)
    with pytest.raises(UserError, match="lacks test_batch.bin"):
        read_cifar10(tmp_path / "c.tar.gz")
    content = (tmp_path / "c.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="no gzipped tar"):
        read_cifar10(tmp_path / "cut.tar.gz")
    with tarfile.open(tmp_path / "odd.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("data_batch_1.bin")
        info.size = 3072
        tar.addfile(info, io.BytesIO(bytes(3072)))
    with pytest.raises(UserError, match="no multiple of 3073"):
        read_cifar10(tmp_path / "odd.tar.gz")


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """Four pictures of 178 x 218 pixels whose red is the row, whose green is the column."""
    folder = tmp_path / "data" / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    rows, columns = np.mgrid[:218, :178]
    for i in range(4):
        pixels = np.stack([rows, columns, np.full_like(rows, 40 * i)], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / f"{i:06d}.jpg", quality=100, subsampling=0)
    lines = "".join(f"{i:06d}.jpg {part}\n" for i, part in enumerate((0, 1, 0, 2)))
    (folder / "list_eval_partition.txt").write_text(lines)
    monkeypatch.setenv("SIVIBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(celeba, "COUNTS", {"train": 2, "test": 1})
    return folder


@pytest.mark.parametrize(("crop", "top", "left", "side"), [("ddim", 57, 25, 128), ("ddpm_torch", 40, 15, 148)])
def test_celeba_is_cropped_and_resized(faces, crop, top, left, side):
    """The middle of each of 64 x 64 cells of the square; the partition chooses the pictures."""
    target = CelebA64(crop=crop)
    assert target.dim == 12288 and len(target.pixels) == 2 and len(target.test_pixels) == 1
    image = target.pixels[1].reshape(3, 64, 64).numpy().astype(float)
    middle = (np.arange(64) + 0.5) * side / 64 - 0.5
    inner = slice(2, -2)  # a triangle filter sees the border
    assert np.abs(image[0][inner, 32] - (top + middle)[inner]).max() < 2.5
    assert np.abs(image[1][32, inner] - (left + middle)[inner]).max() < 2.5
    assert np.abs(image[2] - 80).max() < 3


def test_celeba_decodes_once_and_knows_its_source(faces, monkeypatch):
    first = CelebA64().pixels.clone()
    monkeypatch.setattr(stored, "_decode", lambda *arguments: pytest.fail("decoded again"))
    assert torch.equal(CelebA64().pixels, first)
    keys = {celeba_source(faces, part, crop, 64).key for part in ("train", "test") for crop in ("ddim", "ddpm_torch")}
    assert len(keys) == 4


def test_two_processes_may_decode_at_once(faces):
    """One is in the middle of its file when the other one begins and ends."""
    source = celeba_source(faces, "train", "ddim", 64)

    def slow():
        for i, image in enumerate(source.images()):
            if i == 1:
                assert stored.pixels("faces", source, (3, 64, 64))[0].any()
            yield image

    found = stored.pixels("faces", stored.Source(source.listing, slow), (3, 64, 64))
    assert torch.equal(found, CelebA64().pixels) and not list((faces.parents[1] / "cache" / "images").glob("*.part"))


def test_celeba_with_a_damaged_picture(faces):
    (faces / "img_align_celeba" / "000002.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="000002.jpg is no picture"):
        CelebA64().pixels  # noqa: B018


def test_celeba_that_is_incomplete(faces):
    (faces / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(UserError, match="000002.jpg does not exist"):
        CelebA64().pixels  # noqa: B018
    (faces / "list_eval_partition.txt").write_text("000000.jpg 0\n")
    with pytest.raises(UserError, match="holds 1 images, expected 2"):
        CelebA64().pixels  # noqa: B018
    (faces / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match="cannot find CelebA"):
        CelebA64().train_images()


def edm_archive(path, images, labels=True):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for i, image in reversed(list(enumerate(images))):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="png")
            archive.writestr(f"{i // 1000:05d}/img{i:08d}.png", buffer.getvalue())
        if labels:
            names = [[f"{i // 1000:05d}/img{i:08d}.png", 0] for i in range(len(images))]
            archive.writestr("dataset.json", json.dumps({"labels": names}))


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    monkeypatch.setenv("SIVIBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(imagenet64, "COUNT", 3)
    (tmp_path / "imagenet").mkdir()
    return tmp_path / "imagenet" / "imagenet-64x64.zip"


def test_imagenet_from_an_edm_zip(imagenet):
    images = RANDOM.randint(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    edm_archive(imagenet, images)
    target = ImageNet64()
    assert np.array_equal(target.pixels.numpy(), images.transpose(0, 3, 1, 2).reshape(3, -1))
    assert target.test_images().shape == (0, 12288)
    assert target.sample(5, torch.Generator().manual_seed(0)).abs().max() <= 1
    assert not list(target.buffers())  # 16 GB would be moved to the GPU


def test_imagenet_of_another_kind(imagenet, tmp_path):
    with pytest.raises(UserError, match="cannot find"):
        ImageNet64().pixels  # noqa: B018
    edm_archive(imagenet, RANDOM.randint(0, 256, (3, 32, 32, 3)).astype(np.uint8))
    with pytest.raises(UserError, match=r"img00000000.png is uint8 \(3, 32, 32\), expected"):
        ImageNet64().pixels  # noqa: B018
    assert not list((tmp_path / "cache" / "images").iterdir())
    edm_archive(imagenet, RANDOM.randint(0, 256, (2, 64, 64, 3)).astype(np.uint8))
    with pytest.raises(UserError, match="holds 2 images, expected 3"):
        ImageNet64().pixels  # noqa: B018
    edm_archive(imagenet, [], labels=False)
    with pytest.raises(UserError, match="no dataset.json"):
        edm_zip(imagenet)
    imagenet.write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be read as a zip"):
        edm_zip(imagenet)


def test_distilling_needs_no_images(monkeypatch, tmp_path):
    """Constructing the target and asking for its shape look for no file."""
    monkeypatch.setenv("SIVIBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path))
    for target in (CelebA64(teacher="x"), ImageNet64(teacher="x")):
        assert target.dim == 12288 and {"teacher", "images"} <= target.provides
        with pytest.raises(UserError, match="cannot find the teacher x"):
            target.teacher()
