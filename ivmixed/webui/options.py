"""The sampler's options in a WebUI: the core's, and those of what only a WebUI has."""
from __future__ import annotations

from dataclasses import dataclass

from ..kinds import Choice, Text
from ..options import Options, declare


@dataclass(frozen=True, eq=False)
class WebUIOptions(Options):
    """One checked set of options of the sampler in a WebUI. Raises OptionError."""

    image_checkpoint: str = declare(
        Text(words="a checkpoint of the WebUI's list, by name or hash; or nothing"), "", "IV-mixed image checkpoint",
        of_clip=True,
        help="Another checkpoint as the image model, of the same kind as the loaded one; it stays in memory beside it",
    )
    controlnet: str = declare(
        Choice(("both", "video", "image")), "both", "IV-mixed ControlNet", advanced=True,
        help="Which model ControlNet and IP-Adapter act on: both, or the video or the image model alone",
    )


OPTIONS = WebUIOptions.declared()
