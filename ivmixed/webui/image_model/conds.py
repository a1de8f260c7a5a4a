"""The image model's own conds: prompts that the host encodes as it encodes the clip's, for image evaluations alone."""
from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from modules import extra_networks, prompt_parser

from ...options import OptionError, Options


class ImageConds:
    """What image evaluations get in the place of the clip's conds, as the host's denoiser takes it."""

    def __init__(self, args: dict[str, Any], blend: Callable[[Any], Any] | None = None):
        self.args = args
        """The denoiser's arguments ``cond`` and ``uncond``, those of them that are others."""
        self.blend = blend
        """What becomes of a step's ``cond`` where prompts change along the clip."""

    def wrap_callback(self, host: Callable[..., Any], clip: dict[str, Any]) -> Callable[..., Any]:
        """The host's callback at the start of an evaluation, ``host``, for one with these conds.

        What it calls gets the clip's own, ``clip``: AnimateDiff keeps for the whole clip what it gets first, and gives
        the clip's prompts to every evaluation.
        """
        def call(params: Any) -> None:
            step = params.denoiser.step
            own = {}
            if "cond" in self.args:
                own["text_cond"] = params.text_cond if self.blend is None else self.blend(params.text_cond)
                params.text_cond = prompt_parser.reconstruct_multicond_batch(clip["cond"], step)[1]
            if "uncond" in self.args:
                own["text_uncond"] = params.text_uncond
                params.text_uncond = prompt_parser.reconstruct_cond_batch(clip["uncond"], step)
            host(params)
            for name, value in own.items():
                setattr(params, name, value)
        return call


def without_networks(options: Options) -> tuple[str, list[Any]]:
    """The image prompt without its ``<lora:...>``, and these, as the host reads them. Raises OptionError."""
    text, networks = extra_networks.parse_prompt(options.image_prompt)
    others = networks.keys() - {"lora", "lyco"}
    if others:
        raise OptionError("image_prompt", options.image_prompt, f"no <{min(others)}:...>, which is not for one model "
                          "alone")
    return text.strip(), [entry for entries in networks.values() for entry in entries]


def own(p: Any, prompt: str, negative_prompt: str) -> ImageConds | None:
    """Those of an image model that has the loaded text encoder: of the prompts that are given."""
    names = {name for name, text in (("cond", prompt), ("uncond", negative_prompt)) if text}
    given = encoded(p, prompt, negative_prompt) if names else {}
    return ImageConds({name: given[name] for name in names}) if names else None


def encoded(p: Any, prompt: str, negative_prompt: str) -> dict[str, Any]:
    """Prompts as the denoiser's arguments ``cond`` and ``uncond``, for every frame; the clip's where none is given.

    By the request's own methods, on a copy: it knows the steps, the size, and which pass this is.
    """
    twin = copy(p)
    twin.hr_prompts = twin.prompts = _of_frames(p, "prompts", prompt)
    twin.hr_negative_prompts = twin.negative_prompts = _of_frames(p, "negative_prompts", negative_prompt)
    for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
        setattr(twin, name, [None, None])
    twin.enable_hr = p.is_hr_pass  # else both passes would be encoded
    twin.cfg_scale = twin.hr_cfg = 2  # hosts do not encode a negative prompt that they will not need
    twin.setup_conds()
    return dict(zip(("cond", "uncond"), twin.get_conds()))


def _of_frames(p: Any, name: str, text: str) -> list[str]:
    prompts: list[str] = getattr(p, f"hr_{name}" if p.is_hr_pass else name)
    return [text] * len(prompts) if text else prompts
