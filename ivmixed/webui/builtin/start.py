"""A clip of built-in motion that starts from another: the host's img2img with a picture for each frame.

The host takes a picture for each row of a batch, resizes and encodes it (``StableDiffusionProcessingImg2Img.init`` in
its ``modules/processing.py``). What stays of the other clip is a mask by frames, in the place of the host's own, which
is of all rows alike.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from modules import images, shared

from ...clips import decode, source
from ...clips.encode import MediaError
from ...clips.source import Excerpt, crop_and_resize
from ...motion import MotionOptions
from ...options import ConflictError, OptionError
from .. import log, request

SAID = "IV-mixed motion start"
"""The infotext's key for which frames of the other clip were taken."""
ASIS = 3
"""The host's resize mode that leaves pictures as they are: it resizes the latents."""


def prepare(p: Any, options: MotionOptions) -> None:
    """Gives the request ``p`` the frames of its init video as pictures. Raises OptionError, MediaError."""
    p.extra_generation_params.pop(SAID, None)  # a script's requests share it
    if options.init_video is None:
        return
    if getattr(p, "init_images", None) is None:
        raise OptionError("init_video", f"{len(options.init_video)} bytes", "a request of img2img, or the tab txt2vid",
                          "is not for txt2img")
    taken = frames_of(options, _fit(p), shared.opts.data.get("img2img_background_color") or source.BACKGROUND)
    log.info(taken.said)
    if any(p.init_images):
        log.info("the picture of img2img is not used: the clip takes its place")
    pictures = taken.frames
    if options.extend:
        if getattr(p, "image_mask", None) is not None:
            raise ConflictError("extend", options.extend, "a mask", because="it is a mask itself, of whole frames",
                                remedy="take 0, or no mask")
        pictures = pictures + [pictures[-1]] * (options.frames - len(pictures))
        request.of(p).change(
            init=_keeping(p, len(taken.frames), options.frames), mask=None, nmask=None)
    request.of(p).change(init_images=pictures)
    p.extra_generation_params[SAID] = taken.said


def frames_of(options: MotionOptions, fit: Callable[[Image.Image], Image.Image],
              background: str = source.BACKGROUND) -> Excerpt:
    """The frames of the init video with which a clip begins. Raises MediaError."""
    assert options.init_video is not None
    return take("init_video", options.init_video, options.extend or options.frames, options.fps, fit,
                background=background, last=bool(options.extend))


def take(name: str, video: bytes, frames: int, fps: float, fit: Callable[[Image.Image], Image.Image],
         **more: Any) -> Excerpt:
    """What `ivmixed.clips.source.take` takes of the file that the option ``name`` holds. Raises MediaError."""
    try:
        ending = decode.ending_of(video[:16])
    except ValueError:
        raise MediaError(f"{name} is no clip; allowed: {', '.join(decode.SIGNATURES)}") from None
    with tempfile.TemporaryDirectory(prefix="ivmixed-") as folder:
        file = Path(folder, f"{name}{ending}")
        file.write_bytes(video)
        return source.take(file, frames, fps, fit=fit, **more)


def _fit(p: Any) -> Callable[[Image.Image], Image.Image]:
    """What the host does with a picture, done here for each as it is read, so that large ones take no memory."""
    mask = getattr(p, "image_mask", None)
    if mask is not None:  # which the host may cut out of the pictures: they are to lie as it does
        return lambda picture: crop_and_resize(picture, *mask.size)
    if p.resize_mode == ASIS:
        return lambda picture: picture
    return lambda picture: images.resize_image(p.resize_mode, picture, p.width, p.height)


def _keeping(p: Any, kept: int, frames: int) -> Callable[..., None]:
    """The request's ``init``, after which its mask is that of its first frames: they stay."""
    init = p.init

    def keeping(*args: Any, **kwargs: Any) -> None:
        init(*args, **kwargs)
        latents = p.init_latent
        p.mask = torch.zeros(frames, 1, 1, 1, device=latents.device, dtype=latents.dtype)
        p.mask[:kept] = 1
        p.nmask = 1 - p.mask
    return keeping
