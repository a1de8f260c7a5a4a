"""AnimateDiff's motion modules: attention over time, one temporal transformer behind every layer of a UNet.

Names, shapes and arithmetic are those of AnimateDiff's ``models/motion_module.py`` (Guo et al., arXiv 2307.04725), so a
state dict in the published layout is one of `MotionModule`. Feature maps have the shape (sets x frames, channels,
height, width): the frames of a clip, once for every prompt (cond and uncond, in any order).
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..schedule import Schedule

ATTENTION_COLUMNS = 2**15
"""Columns of frames in one attention call: kernels of CUDA take no more than 65535."""


@dataclass(frozen=True)
class Distilled:
    """How a module that was distilled to a few steps wants to be sampled."""

    fewest: int
    most: int
    """Steps."""
    cfg: float
    """The largest CFG scale: guidance is in its weights."""
    solver: str
    """The ordinary step, one of `ivmixed.plan.SOLVERS`. The levels begin at the last timestep and end one step before
    the first: diffusers' spacing "trailing", a WebUI's schedule type SGM Uniform."""

    def advice(self, name: str, steps: int, cfg_scale: float) -> str:
        """In one line what is wrong with the ``steps`` and the CFG scale of a clip, "" where nothing is."""
        wrong = [f"{given:g} {word}" for given, word, fits in (
            (steps, "steps", self.fewest <= steps <= self.most), (cfg_scale, "as CFG scale", cfg_scale <= self.cfg))
            if not fits]
        wanted = f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most}"
        return "" if not wrong else (
            f"{name} was distilled to {wanted} step{'s' * (self.most > 1)} at CFG scale {self.cfg:g} or less, and the "
            f"clip has {' and '.join(wrong)}: it will look burnt or blurred")


@dataclass(frozen=True)
class ModuleKind:
    """One of the published modules, and what it wants of the model that it is put into."""

    name: str
    family: str
    """The checkpoints that it is made for: "SD 1.5" or "SDXL"."""
    betas: Callable[[], Tensor]
    """Makes the variances of the 1000 steps that it was trained on, float32."""
    norms_span_frames: bool = False
    """It was trained with a UNet whose residual blocks and output normalise the frames of a clip together."""
    distilled: Distilled | None = None
    """It was distilled to a few steps."""

    def alphas_cumprod(self) -> Tensor:
        """The noise table that it was trained on, (1000,), in float32 as the training had it."""
        return (1 - self.betas()).cumprod(0)

    def schedule(self) -> Schedule:
        """The same for plans."""
        return Schedule.from_betas(self.betas().tolist())


def _linear() -> Tensor:
    return torch.linspace(0.00085, 0.012, 1000)


def _scaled_linear(end: float) -> Tensor:
    return torch.linspace(0.00085**0.5, end**0.5, 1000) ** 2


# Sources: ``configs/inference/inference-v1.yaml`` to v3 (use_inflated_groupnorm is false in v1's alone) and, on the
# branch sdxl, ``inference.yaml``; AnimateLCM's ``configs/inference-t2v.yaml`` and its
# page (4 to 8 steps, CFG scale 1 to 2); HotShot-XL's ``fine_tune.py`` (the
# scheduler is SDXL's own) and ``hotshot_xl/models/resnet.py`` (norms of all frames).
V1 = ModuleKind("AnimateDiff v1", "SD 1.5", _linear, norms_span_frames=True)
V2 = ModuleKind("AnimateDiff v2", "SD 1.5", _linear)
V3 = ModuleKind("AnimateDiff v3", "SD 1.5", _linear)
LCM = ModuleKind("AnimateLCM", "SD 1.5", _linear, distilled=Distilled(4, 8, 2.0, "lcm"))
SDXL = ModuleKind("AnimateDiff-SDXL", "SDXL", partial(_scaled_linear, 0.020))
HOTSHOT = ModuleKind("HotShot-XL", "SDXL", partial(_scaled_linear, 0.012), norms_span_frames=True)
LIGHTNING = {steps: ModuleKind(f"AnimateDiff-Lightning {steps}-step", "SD 1.5", _linear,
                         distilled=Distilled(steps, 3 if steps == 2 else steps, 1.0, "euler"))
             for steps in (1, 2, 4, 8)}
"""By the steps that they were distilled to, from v2 (Lin and Yang, arXiv 2403.12706; its model card: Euler, trailing
timesteps of linear betas, CFG scale 1, and 3 steps with the one for 2)."""

AUTO = "auto"
"""In place of the name of a kind: what the file tells."""
ALIKE = (V1, V3, V2, *LIGHTNING.values(), HOTSHOT, SDXL)
"""Kinds that a file may leave in doubt."""


@dataclass(frozen=True)
class Layout:
    """The measures of a motion module."""

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of the UNet's levels."""
    layers: int = 2
    """Transformers of a level on the way down; on the way up there is one more."""
    middle: bool = False
    """There is one in the middle block."""
    positions: int = 32
    """The most frames that it can number, and so see at a time."""
    heads: int = 8
    groups: int = 32
    """Groups of its group norms."""
    norm_over_frames: bool = False
    """Its own group norms take the frames of a clip together, as diffusers has it; AnimateDiff takes each by itself."""


class MotionModule(nn.Module):
    """The temporal transformers of a UNet, by the names of the published files. Without a forward: see `attach`.

    ``name``: what messages call it. ``doubt``: what its file left open, see `loading.Found`.
    """

    def __init__(self, kind: ModuleKind, layout: Layout, name: str = "", doubt: str = ""):
        super().__init__()
        self.kind, self.layout, self.name, self.doubt = kind, layout, name or kind.name, doubt
        self.down_blocks = nn.ModuleList(_block(width, layout.layers, layout) for width in layout.widths)
        self.up_blocks = nn.ModuleList(_block(width, layout.layers + 1, layout) for width in reversed(layout.widths))
        self.mid_block = _block(layout.widths[-1], 1, layout) if layout.middle else None

    def transformers(self, part: str) -> list[TemporalTransformer]:
        """Those of "down", "mid" or "up", in the order in which the UNet's layers run."""
        return [module for name, module in self.named_modules()
                if name.startswith(f"{part}_block") and isinstance(module, TemporalTransformer)]


def _block(width: int, number: int, layout: Layout) -> nn.ModuleDict:
    transformers = (TemporalTransformer(width, layout) for _ in range(number))
    return nn.ModuleDict({"motion_modules": nn.ModuleList(
        nn.ModuleDict({"temporal_transformer": transformer}) for transformer in transformers)})


class TemporalTransformer(nn.Module):
    """Adds to every pixel what attention sees along its column of frames."""

    def __init__(self, width: int, layout: Layout):
        super().__init__()
        self.width, self.norm_over_frames = width, layout.norm_over_frames
        self.norm = nn.GroupNorm(layout.groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, layout)])
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, frames: int, strength: Tensor | None = None, attention_scale: float = 1.0) -> Tensor:
        """``x``: (sets x frames, channels, height, width). In its dtype and memory layout, computed in the dtype of the
        weights. ``strength``: (frames,), a factor on what is added to each frame; None is 1, without a multiplication.
        ``attention_scale``: as of `TemporalAttention`."""
        dtype = self.norm.weight.dtype
        given = x.to(dtype)
        normed = depth_to_frames(self.norm(frames_to_depth(given, frames))) if self.norm_over_frames \
            else self.norm(given)
        clips = normed.to(dtype).unflatten(0, (-1, frames))  # under autocast norms give float32
        columns = clips.permute(0, 3, 4, 1, 2).flatten(0, 2)
        columns = self.proj_in(columns)
        for block in self.transformer_blocks:
            columns = block(columns, attention_scale)
        sets, height, width = len(clips), *x.shape[2:]
        out = self.proj_out(columns).unflatten(0, (sets, height, width)).permute(0, 3, 4, 1, 2)
        added = out.to(x.dtype)
        if strength is not None:
            added = added * strength.to(x.dtype).view(-1, 1, 1, 1)
        # x first: a sum has the memory layout of its first operand
        moved: Tensor = x.unflatten(0, (sets, frames)) + added
        return moved.flatten(0, 1)


class TransformerBlock(nn.Module):
    """Twice attention over the frames, then a feed-forward network; each on normed input, added to what it had."""

    def __init__(self, width: int, layout: Layout):
        super().__init__()
        self.attention_blocks = nn.ModuleList(TemporalAttention(width, layout) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, attention_scale: float = 1.0) -> Tensor:
        """``x``: (columns, frames, channels), a column for every pixel of a clip."""
        for norm, attention in zip(self.norms, self.attention_blocks):
            x = attention(norm(x).to(x.dtype), attention_scale) + x
        return self.ff(self.ff_norm(x).to(x.dtype)) + x  # type: ignore[no-any-return]


class TemporalAttention(nn.Module):
    """Self-attention over the frames, which are numbered by a table of sinusoids."""

    def __init__(self, width: int, layout: Layout):
        super().__init__()
        self.heads = layout.heads
        self.pos_encoder = PositionTable(layout.positions, width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """``x``: (columns, frames, channels). ``scale``: a factor on the keys, so on the logits; 0 is the mean of all
        frames, more than 1 sharpens which of them a frame looks at.

        Fused kernels want four dimensions: (columns, heads, frames, channels of a head).
        """
        width = x.shape[-1] // self.heads
        factor = None if scale == 1 else scale / math.sqrt(width)
        x = x + self.pos_encoder.pe[:, :x.shape[1]]
        projected = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                     for layer in (self.to_q, self.to_k, self.to_v))
        seen = [functional.scaled_dot_product_attention(q, k, v, scale=factor) for q, k, v in
                zip(*(columns.split(ATTENTION_COLUMNS) for columns in projected))]
        joined = seen[0] if len(seen) == 1 else torch.cat(seen)
        return self.to_out[0](joined.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class PositionTable(nn.Module):
    """The table that numbers the frames, (1, positions, channels)."""

    pe: Tensor

    def __init__(self, positions: int, width: int):
        super().__init__()
        empty = torch.empty(1, positions, width)
        self.register_buffer("pe", empty if empty.is_meta else sinusoids(positions, width))


class FeedForward(nn.Module):
    """A gated layer four times as wide, and back. The middle entry stands where the published code has dropout."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(_GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class _GEGLU(nn.Module):
    """GELU-gated linear unit (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)  # type: ignore[no-any-return]


def sinusoids(positions: int, width: int) -> Tensor:
    """The position table of Vaswani et al. 2017 (arXiv 1706.03762, section 3.5): (1, positions, width), float32."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(positions)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]


def frames_to_depth(x: Tensor, frames: int) -> Tensor:
    """(sets x frames, channels, height, width) -> (sets, channels, frames, height, width)."""
    clips: Tensor = x.unflatten(0, (-1, frames))
    return clips.transpose(1, 2)


def depth_to_frames(x: Tensor) -> Tensor:
    """The inverse of `frames_to_depth`."""
    return x.transpose(1, 2).flatten(0, 1)
