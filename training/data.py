"""What the bundled model learns from: crisp stills, and clips as poor as those that real motion modules know."""
from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ivmixed.standalone.box.scenes import random_scene, render


def stills(count: int, generator: torch.Generator, frames: int) -> tuple[Tensor, list[str]]:
    """``count`` crisp frames, each of a scene of its own at a random moment of a clip of ``frames`` frames.

    Returns (count, 3, height, width), uint8 RGB, and the captions.
    """
    images, captions = [], []
    for _ in range(count):
        scene = random_scene(generator)
        moment = (frames - 1) * float(torch.rand((), generator=generator))
        images.append(_to_bytes(render(scene, frames, [moment])[0]))
        captions.append(scene.caption)
    return torch.stack(images), captions


def poor_clips(count: int, generator: torch.Generator, frames: int) -> tuple[Tensor, list[str]]:
    """``count`` degraded clips: (count, frames, 3, height, width), uint8 RGB, and the captions."""
    clips, captions = [], []
    for _ in range(count):
        scene = random_scene(generator)
        clips.append(degrade(render(scene, frames), generator))
        captions.append(scene.caption)
    return torch.stack(clips), captions


def degrade(clip: Tensor, generator: torch.Generator) -> Tensor:
    """A clip as a video site serves it: blurred, of low contrast, compressed.

    ``clip``: (frames, 3, height, width), float RGB, 0 to 1. Blur of 0.8 to 1.2 pixels (standard deviation), contrast of
    0.55 to 0.75 about its own mean, JPEG of quality 30 to 50, the same for all frames. Returns uint8.
    """
    blur, contrast, quality = torch.rand(3, generator=generator).tolist()
    clip = _blur(clip, 0.8 + 0.4 * blur)
    mean = clip.mean()
    clip = mean + (0.55 + 0.2 * contrast) * (clip - mean)
    return torch.stack([_jpeg(_to_bytes(frame), round(30 + 20 * quality)) for frame in clip])


def _blur(images: Tensor, sigma: float) -> Tensor:
    offsets = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    across = torch.nn.functional.conv2d(padded, kernel, groups=3)
    return torch.nn.functional.conv2d(across, kernel.transpose(2, 3), groups=3)


def _jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def _to_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)
