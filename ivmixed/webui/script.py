"""The script's hooks: the panel, and the options in the infotext."""
from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any

from modules import scripts

from ..options import OptionError
from . import MOTION, NAME, SAMPLERS, presets, request, sampler
from .builtin import generation, output
from .errors import RefusedError, refusing
from .extensions import animatediff
from .image_model.checkpoints import check_stays
from .options import OPTIONS, WebUIOptions
from .page import motion_panel, panel
from .page.live import Live

PRESET = f"{NAME} preset"
"""The infotext's key for the name of the settings, for readers: pasting goes by the settings themselves."""


class MotionScript(scripts.Script):
    """Makes a request one clip with built-in motion; see `builtin`."""

    def title(self) -> str:
        return MOTION

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        components, self.infotext_fields = motion_panel.build(self.elem_id, is_img2img)
        self.paste_field_names = [field.label for field in self.infotext_fields if field.label]
        return components

    def before_process(self, p: Any, *arguments: Any) -> None:
        generation.prepare(p, lambda: motion_panel.options_of(p, arguments))

    def postprocess_batch_list(self, p: Any, pp: Any, *arguments: Any, **kwargs: Any) -> None:
        output.keep(p, pp)
        clip = request.of(p).clip
        if clip is not None:
            clip.tell_prompt()

    def postprocess(self, p: Any, processed: Any, *arguments: Any) -> None:
        kept = request.of(p)
        try:
            if kept.clip is not None:
                output.finish(kept.clip, processed)
        finally:
            kept.finish()


class IVMixedScript(scripts.Script):
    """Holds the sampler's options; the sampler itself reads them, see `page.panel.options_of`."""

    def title(self) -> str:
        return NAME

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        self.live.panel = made = panel.Panel(self.elem_id)
        self.infotext_fields = made.fields
        self.paste_field_names = [field.label for field in self.infotext_fields if field.label]
        return made.components

    def after_component(self, component: Any, **kwargs: Any) -> None:
        self.live.after_component(component)

    @cached_property
    def live(self) -> Live:
        return Live("img2img" if self.is_img2img else "txt2img")

    def process(self, p: Any, *arguments: Any) -> None:
        ours = not SAMPLERS.keys().isdisjoint((p.sampler_name, getattr(p, "hr_sampler_name", None)))
        kept = request.of(p)
        built_in = kept.clip is not None
        for key in (NAME, sampler.HIRES, sampler.IGNORED, PRESET, *(option.label for option in OPTIONS)):
            p.extra_generation_params.pop(key, None)  # a script's requests share it
        if ours or built_in:
            kept.guard()
        # the host only logs what a hook raises: what is wrong is said where it stops the generation
        if built_in or (ours and animatediff.asked(p) is not None):
            try:
                with refusing():
                    check_stays(p)
            except RefusedError as error:
                kept.refuse(error)
        if ours:
            with suppress(OptionError):
                _write(p.extra_generation_params, panel.options_of(p))

    def postprocess(self, p: Any, processed: Any, *arguments: Any) -> None:
        kept = request.of(p)
        kept.finish()
        if kept.script_run is not None:
            kept.script_run.finished += 1


def _write(infotext: dict[str, Any], options: WebUIOptions) -> None:
    infotext.update(options.to_infotext())
    if options.setting() != WebUIOptions() and (name := presets.name_of(options)) is not None:
        infotext[PRESET] = name
