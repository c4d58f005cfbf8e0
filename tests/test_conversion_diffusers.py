"""Folders of diffusers as teachers, and that library as a second implementation of our U-Net."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.errors import UserError
from published_networks import scrambled
from targets.diffusion.conversion.convert import convert
from targets.diffusion.files import open_teacher
from targets.diffusion.networks.image_unet import ImageUNet

diffusers = pytest.importorskip("diffusers")

SHAPE = (3, 8, 8)
SMALL = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}


@pytest.fixture
def x():
    return torch.randn(3, 192, generator=torch.Generator().manual_seed(1)), torch.tensor([0.0, 41.0, 800.0])


@pytest.mark.parametrize("layout", ["bare", "pipeline"])
def test_diffusers_folder(tmp_path, x, layout):
    net = scrambled(
        diffusers.UNet2DModel(
            sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip
    folder = tmp_path / "ddpm"
    scheduler = diffusers.DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    if layout == "pipeline":
        diffusers.DDPMPipeline(net, scheduler).save_pretrained(folder)
    else:
        net.save_pretrained(folder)
        scheduler.save_config(folder)
    path, card = convert(folder, "diffusers", out=tmp_path)
    teacher = open_teacher(str(path), shape=SHAPE, data="test", schedule=None, make="make")
    rows, t = x
    expected = net(rows.view(-1, *SHAPE), t).sample.flatten(1)
    torch.testing.assert_close(teacher.eps(rows, t), expected)
    assert card.schedule == {"name": "linear", "steps": 1000, "first": 1e-4, "last": 0.02}


@pytest.fixture
def small(tmp_path):
    """A folder with a small network and its scheduler."""
    net = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(32,), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    net.save_pretrained(tmp_path / "small")
    diffusers.DDPMScheduler(beta_schedule="linear").save_config(tmp_path / "small")
    return tmp_path / "small"


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_weights_of_another_network_are_refused(small, change):
    """The library would draw what is missing at random, and warn."""
    file = small / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    if change == "missing":
        del state["conv_out.weight"]
    else:
        state["extra.weight"] = torch.zeros(1)
    save_file(state, file)
    with pytest.raises(UserError, match=f"{change} keys: (conv_out|extra).weight"):
        convert(small, "diffusers", out=small.parent)


@pytest.mark.parametrize(
    "file, values, message",
    [
        ("scheduler_config.json", {"_class_name": "ScoreSdeVeScheduler"}, "describes a ScoreSdeVeScheduler"),
        ("config.json", {"time_embedding_type": "fourier"}, "time_embedding_type=fourier"),
        ("config.json", {"sample_size": None}, "no sample_size"),
    ],
)
def test_another_kind_of_diffusion_is_refused(small, file, values, message):
    content = json.loads((small / file).read_text())
    (small / file).write_text(json.dumps({**content, **values}))
    if "time_embedding_type" in values:  # whose weights are others, too
        net = diffusers.UNet2DModel(**{k: v for k, v in {**content, **values}.items() if not k.startswith("_")})
        net.save_pretrained(small)
    with pytest.raises(UserError, match=message):
        convert(small, "diffusers", out=small.parent)


def test_the_ddpm_family_is_that_of_diffusers(x):
    """Two independent implementations, one set of weights."""
    ours = ImageUNet(SHAPE, family="ddpm", **SMALL)
    theirs = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=32, norm_eps=1e-6,
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, attention_head_dim=None,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scrambled(theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ours.load_state_dict(from_diffusers(theirs.state_dict()))
    rows, t = x
    torch.testing.assert_close(ours(rows, t), theirs(rows.view(-1, *SHAPE), t).sample.flatten(1))


def from_diffusers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters from those of diffusers' UNet2DModel: two levels, one block each."""
    residual = {"norm1": "norm0", "conv1": "conv0", "time_emb_proj": "affine", "norm2": "norm1", "conv2": "conv1"}
    residual |= {"conv_shortcut": "skip"}
    blocks = {
        "down_blocks.0.resnets.0": "encoder.0", "down_blocks.1.resnets.0": "encoder.2",
        "mid_block.resnets.0": "middle.0",
        "mid_block.resnets.1": "middle.1", "up_blocks.0.resnets.0": "decoder.0", "up_blocks.0.resnets.1": "decoder.1",
        "up_blocks.1.resnets.0": "decoder.3", "up_blocks.1.resnets.1": "decoder.4",
    }  # fmt: skip
    attention = {
        "down_blocks.1.attentions.0": "encoder.2", "mid_block.attentions.0": "middle.0",
        "up_blocks.0.attentions.0": "decoder.0", "up_blocks.0.attentions.1": "decoder.1",
    }  # fmt: skip
    single = {
        "time_embedding.linear_1": "embed.0", "time_embedding.linear_2": "embed.2", "conv_in": "first",
        "conv_norm_out": "norm", "conv_out": "last", "down_blocks.0.downsamplers.0.conv": "encoder.1.conv",
        "up_blocks.0.upsamplers.0.conv": "decoder.2.conv",
    }  # fmt: skip
    found: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        found |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for theirs, ours in single.items()}
        for theirs, ours in blocks.items():
            for old, new in residual.items():
                if f"{theirs}.{old}.{kind}" in state:
                    found[f"{ours}.{new}.{kind}"] = state[f"{theirs}.{old}.{kind}"]
        for theirs, ours in attention.items():
            joint = torch.cat([state[f"{theirs}.to_{letter}.{kind}"] for letter in "qkv"])
            out = state[f"{theirs}.to_out.0.{kind}"]
            matrix = kind == "weight"
            found[f"{ours}.attention.norm.{kind}"] = state[f"{theirs}.group_norm.{kind}"]
            found[f"{ours}.attention.qkv.{kind}"] = joint[..., None, None] if matrix else joint
            found[f"{ours}.attention.proj.{kind}"] = out[..., None, None] if matrix else out
    return found
