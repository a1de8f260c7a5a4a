"""UMT-FVD: the Frechet distance between features of UMT's vision tower, as ChronoMagic-Bench computes it.

Source: PKU-YuanGroup/ChronoMagic-Bench e6b75ffc, folder ``UMT/`` (Apache-2.0): ``dataset/video_utils.py`` (frames),
``dataset/__init__.py`` (resizing), ``models/backbones/vit/vit.py`` and ``models/umt.py`` (the network),
``tasks/video_feature_extract_utils.py`` (features), ``src/metrics/metric_utils.py`` and ``step1_get_umtfvd.sh``
(subsets and seeds). The root of the covariances is scipy's there, on matrices of 768 numbers a side and rank 31 at
least; here its trace is exact (`neural.frechet_distance`). On the reference features the two differ by less than
0.0003.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..clips.encode import Frames
from ..options import OptionError
from ..untrusted import shown
from ..weights import files, pickles
from .neural import Features, frechet_distance

FRAMES, SIDE, PATCH, HEAD = 12, 224, 16, 64
"""Frames of a clip; pixels of a picture, of a patch; width of an attention head (that of ViT-L)."""
SUBSETS = (32, 64, 128, 256, 300, 512, 1024)
SEEDS = (12, 22, 32, 42)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOST = 1 << 24  # numbers of reference features


def frame_indices(count: int) -> list[int]:
    """Which frames of a clip of ``count`` are looked at: the middles of twelve equal parts, the last one repeated
    where there are fewer."""
    parts = min(FRAMES, count)
    edges = np.linspace(0, count, parts + 1).astype(int)
    chosen = [(int(start) + int(end) - 1) // 2 for start, end in zip(edges, edges[1:])]
    return chosen + chosen[-1:] * (FRAMES - parts)


class UMTFeatures:
    """``UMTFeatures(file, device)(clips)``: the features of clips, (clips, 768) in float64, not normalised.

    ``file``: UMT-msrvtt-7k.pth, or any checkpoint of UMT with its vision tower and ``vision_proj``; nothing in it is
    run. On a GPU the network runs in fp16 by autocast, as the bench's does, elsewhere in fp32. Raises OptionError for
    another file.
    """

    def __init__(self, file: Path, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        try:
            self.tower = _Tower.of(files.read(file)).eval().to(self.device)
        except (files.FileError, KeyError, RuntimeError, ValueError) as error:
            raise OptionError("umt", str(file), "a checkpoint of UMT with its vision tower, such as UMT-msrvtt-7k.pth",
                              f"cannot be loaded ({shown(files.one_line(error), 100)})") from error

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Frames]) -> Features:
        pictures = torch.stack([_pictures(clip) for clip in clips]).to(self.device)
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            features = self.tower(pictures)
        found: Features = features.double().cpu().numpy()
        return found


def reference(file: Path) -> Features:
    """The features of the real clips, (clips, 768): ``UMT/gt_feature/gt150_feats.pt`` and its like of the bench's
    repository. Raises OptionError."""
    try:
        found = pickles.load(file, "cpu")
    except (pickles.PickleError, OSError, ValueError, RuntimeError, EOFError) as error:
        raise OptionError("umt_reference", str(file), "features of the bench, such as gt150_feats.pt",
                          f"cannot be read ({shown(files.one_line(error), 100)})") from error
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) < 2 or found.numel() > _MOST:
        raise OptionError("umt_reference", str(file), "one tensor of features, (clips, features)", "holds none")
    features: Features = found.double().numpy()
    return features


def umt_fvd(made: Features, real: Features) -> tuple[float, dict[int, list[float]]]:
    """The distance of one generation to the reference, and for each size of a subset that of each seed.

    ``made``, ``real``: (clips, features). A subset is drawn anew for each seed, from both sets with the same one; a set
    that is no larger is taken whole. The distance is the mean over the seeds, then over the sizes. Raises ValueError
    for sets of fewer than two clips or of other features.
    """
    if min(len(made), len(real)) < 2 or made.shape[1:] != real.shape[1:]:
        raise ValueError(f"features of shapes {made.shape} and {real.shape}; needed: at least 2 clips, of one network")
    values = {size: [frechet_distance(_subset(made, size, seed), _subset(real, size, seed)) for seed in SEEDS]
              for size in SUBSETS}
    return float(np.mean([np.mean(of_seeds) for of_seeds in values.values()])), values


def _subset(features: Features, size: int, seed: int) -> NDArray[np.float64]:
    if size >= len(features):
        return features
    return features[random.Random(seed).sample(range(len(features)), size)]


def _pictures(clip: Frames) -> Tensor:
    """(12, 3, 224, 224): resized as torchvision does with pictures of uint8, normalised."""
    chosen = torch.tensor(clip[frame_indices(len(clip))]).permute(0, 3, 1, 2).float()
    resized = F.interpolate(chosen, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255).round() / 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    return (resized - mean) / deviation


class _Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        q, k, v = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        found: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = _Attention(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        found: Tensor = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return found


class _Tower(nn.Module):
    """UMT's vision encoder without a mask, and its projection; the names are those of the checkpoint."""

    vision_encoder: Any
    vision_proj: Any
    positions: Tensor

    def __init__(self, width: int, hidden: int, depth: int, features: int):
        super().__init__()
        encoder: Any = nn.Module()
        encoder.patch_embed = nn.Module()
        encoder.patch_embed.proj = nn.Conv3d(3, width, (1, PATCH, PATCH), (1, PATCH, PATCH))
        encoder.blocks = nn.ModuleList(_Block(width, hidden) for _ in range(depth))
        encoder.norm = nn.LayerNorm(width, 1e-6)
        self.vision_encoder = nn.Module()
        self.vision_encoder.encoder = encoder
        self.vision_encoder.pool_norm = nn.LayerNorm(width, 1e-6)
        self.vision_proj = nn.Linear(width, features)
        self.register_buffer("positions", _positions(FRAMES * (SIDE // PATCH) ** 2, width), persistent=False)

    @classmethod
    def of(cls, tensors: files.Tensors) -> _Tower:
        """From a checkpoint's tensors; those of its other parts are passed over. Raises KeyError, RuntimeError."""
        own = {name: tensor.float() for name, tensor in tensors.items()
               if name.startswith(("vision_encoder.encoder.", "vision_encoder.pool_norm.", "vision_proj."))}
        features, width = own["vision_proj.weight"].shape
        hidden = len(own["vision_encoder.encoder.blocks.0.mlp.fc1.weight"])
        depth = 1 + max(int(name.split(".")[3]) for name in own if name.startswith("vision_encoder.encoder.blocks."))
        if width % HEAD or not 0 < depth <= 64:
            raise ValueError(f"a tower of width {width} and {depth} blocks")
        tower = cls(width, hidden, depth, features)
        tower.load_state_dict(own)
        return tower

    def forward(self, pictures: Tensor) -> Tensor:
        """(clips, frames, 3, height, width) to (clips, features)."""
        encoder = self.vision_encoder.encoder
        x = encoder.patch_embed.proj(pictures.transpose(1, 2)).flatten(2).transpose(1, 2)
        x = x + self.positions.to(x.dtype)
        for block in encoder.blocks:
            x = block(x)
        pooled = self.vision_encoder.pool_norm(encoder.norm(x).unflatten(1, (FRAMES, -1)).mean(2))
        features: Tensor = self.vision_proj(pooled).mean(1)
        return features


def _positions(count: int, width: int) -> Tensor:
    """Sines and cosines, (1, count, width)."""
    angle = np.arange(count)[:, None] / np.power(10000, 2 * (np.arange(width) // 2) / width)
    table = np.where(np.arange(width) % 2, np.cos(angle), np.sin(angle))
    return torch.tensor(table, dtype=torch.float32)[None]
