"""The script's hooks: the panel, and the options in the infotext."""
from __future__ import annotations

from contextlib import suppress
from typing import Any

from modules import scripts

from ..options import OptionError
from . import NAME, panel


class IVMixedScript(scripts.Script):
    """Holds the sampler's options; the sampler itself reads them, see `a1111`."""

    def title(self) -> str:
        return NAME

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        components, self.infotext_fields = panel.build(self.elem_id)
        self.paste_field_names = [field.label for field in self.infotext_fields if field.label]
        return components

    def process(self, p: Any, *arguments: Any) -> None:
        if NAME not in (p.sampler_name, getattr(p, "hr_sampler_name", None)):
            return
        # the host only logs what a hook raises: the sampler refuses wrong values, where it stops the generation
        with suppress(OptionError):
            p.extra_generation_params.update(panel.from_arguments(arguments).to_infotext())
