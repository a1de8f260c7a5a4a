"""A video as the hint of ControlNet's units: each frame of a clip is steered by its own.

The units keep their preprocessor, model, weight and resize mode; what they get is the frames in the place of a picture.
How they get them is in the extensions' files, see `Host.fed_controlnet`.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ...clips.source import Excerpt
from ...motion import MotionOptions
from .. import hosts, log, request
from . import start

SAID = "IV-mixed motion control"
"""The infotext's key for which frames of the video were taken."""


def prepare(p: Any, options: MotionOptions) -> None:
    """Lets the units of ControlNet without a picture of their own take the frames of the request's control video.

    Raises OptionError, MediaError."""
    p.extra_generation_params.pop(SAID, None)  # a script's requests share it
    if options.control_video is None:
        return
    taken = frames_of(options, _fit(p))
    log.info(taken.said)
    kept = request.of(p)
    kept.check_controls = kept.until_sampled.enter_context(
        hosts.find().fed_controlnet(p, [np.asarray(frame) for frame in taken.frames]))
    p.extra_generation_params[SAID] = taken.said


def frames_of(options: MotionOptions, fit: Callable[[Image.Image], Image.Image]) -> Excerpt:
    """The frames of the control video, one for each of the clip's. Raises MediaError."""
    assert options.control_video is not None
    return start.take("control_video", options.control_video, options.frames, options.fps, fit)


def _fit(p: Any) -> Callable[[Image.Image], Image.Image]:
    """Pictures no larger than the clip needs: the units crop and resize them as they are told to."""
    width, height = p.width, p.height
    if getattr(p, "enable_hr", False):
        scaled = width * p.hr_scale, height * p.hr_scale
        width, height = max(width, p.hr_resize_x or scaled[0]), max(height, p.hr_resize_y or scaled[1])

    def fit(picture: Image.Image) -> Image.Image:
        factor = max(width / picture.width, height / picture.height)
        if factor >= 1:
            return picture
        size = round(picture.width * factor), round(picture.height * factor)
        return picture.resize(size, Image.Resampling.LANCZOS)
    return fit
