"""DINOv2 ViT-L/14 (Oquab et al. 2023, arXiv:2304.07193), for FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675).

The 1024 features are the class token after the last layer norm, in float32 without TF32, from Meta's own file.  Images
are resized to 224 x 224 by Pillow's bicubic filter (which rounds to eight bits) and normalised by ImageNet's mean and
standard deviation, as the authors of FD-DINOv2 do.  The position embeddings are interpolated from 37 x 37 to 16 x 16
with the scale (16 + 0.1) / 37 of Meta's code, which timm and transformers do not follow: hence a network of our own.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import UserError
from bench.features.base import Features, coloured
from bench.features.files import WeightFile

FILE = WeightFile(
    "dinov2_vitl14_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    1218,
)
SIDE, PATCH, TRAINED = 224, 14, 518
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Scale(nn.Module):
    """Channelwise factors of a residual branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class Attention(nn.Module):
    """Self-attention among tokens [n, m, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each normalised before and scaled behind."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), MLP(width)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """The vision transformer, its parameters named as in Meta's files; the defaults are ViT-L/14."""

    def __init__(self, width: int = 1024, depth: int = 24, heads: int = 16, side: int = TRAINED) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (side // PATCH) ** 2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the training only; in the file
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Class token of normalised images [n, 3, side, side] -> [n, width]."""
        patches = self.patch_embed["proj"](x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).mT], 1)
        tokens = tokens + self.positions(patches.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens[:, 0])
        return normed

    def positions(self, side: int) -> Tensor:
        """Embeddings of the class token and of side x side patches, [1, 1 + side^2, width]."""
        first, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        trained = round(grid.shape[1] ** 0.5)
        if side == trained:
            return self.pos_embed
        square = grid.mT.unflatten(-1, (trained, trained))
        square = F.interpolate(square, scale_factor=(side + 0.1) / trained, mode="bicubic")
        return torch.cat([first, square.flatten(2).mT], 1)


class DINOv2(Features):
    """The class token of a ``ViT``."""

    batch = 50
    slow = True

    def __init__(self, network: ViT, sha256: str = FILE.sha256) -> None:
        identity = {"network": "dinov2", "sha256": sha256, "side": SIDE, "resize": "pillow bicubic"}
        super().__init__(identity, network.norm.normalized_shape[0])
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        pixels = torch.stack([_resized(image) for image in coloured(images).cpu()]).to(images.device)
        mean, sd = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, SD))
        features: Tensor = self.network((pixels.float() / 255 - mean) / sd)
        return features


def _resized(image: Tensor) -> Tensor:
    """Unsigned bytes [3, H, W] -> [3, 224, 224]."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def lacking(name: str, shape: tuple[int, ...]) -> str | None:
    """Why images [C, H, W] have no such features here, or None."""
    return FILE.lacking()


def load(name: str) -> DINOv2:
    """The network.

    Raises:
        UserError: its file is missing or another one.
    """
    path = FILE.path()
    with torch.device("meta"):
        network = ViT()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except RuntimeError as error:
        raise UserError(f"{path} does not hold a DINOv2 ViT-L/14: {error}", "restore the file") from error
    return DINOv2(network)
