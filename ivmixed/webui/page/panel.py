"""The panel of the sampler, and the options of a generation: from the panel, the API, or a cell of an X/Y/Z plot."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from modules import sd_models
from modules.infotext_utils import PasteField
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion

from ...options import Option
from .. import NAME, SAMPLERS, presets, request
from ..options import WebUIOptions
from . import form


@dataclass
class Panel:
    """The panel of a tab: what the script hands over, and what is there to see and to press. `live` makes it work."""

    elem_id: Callable[[str], str]
    opened: bool = False
    """Ticked when the page is opened; then most of what is in it is folded away."""
    components: list[Any] = field(default_factory=list)
    """In the order of the script's arguments. The first is the accordion, which is ticked or not."""
    fields: list[PasteField] = field(default_factory=list)
    """What pastes infotext into them."""

    def __post_init__(self) -> None:
        self.form = form.Form(WebUIOptions, NAME, self.elem_id, _uses_sampler,
                              drawn={"image_checkpoint": self._checkpoints})
        with InputAccordion(self.opened, label=NAME, elem_id=self.elem_id("open")) as accordion:
            with accordion.extra():
                self.price = self._shown("price")
            if not self.opened:
                gr.HTML(f"Settings of the sampling method <b>{NAME}</b>, for clips. Unticked: uses the preset from "
                        f"Settings &gt; {NAME}.")
            self._build_presets()
            self.picture = self._shown("picture")
            self.refresh, self.choose, self.recognised = (gr.Button(name, visible=False, elem_id=self.elem_id(name))
                                                          for name in ("refresh", "choose", "recognised"))
            folded = gr.Accordion("Form, guidance, interval and image model", open=False,
                                  elem_id=self.elem_id("basic")) if self.opened else nullcontext()
            with folded:
                self.form.draw(form.basic(WebUIOptions))
            with gr.Accordion("Advanced", open=False, elem_id=self.elem_id("advanced")):
                self.form.draw(form.advanced(WebUIOptions))
        self.components = [accordion, *self.form.components]
        self.fields = [PasteField(accordion, _is_open), *self.form.fields]

    def _build_presets(self) -> None:
        self.preset = gr.Dropdown([presets.CUSTOM, *presets.every()], value=presets.CUSTOM, label="Preset",
                                  info="Settings in one click", elem_id=self.elem_id("preset"))
        with gr.Accordion("Your own presets", open=False, elem_id=self.elem_id("own_presets")):
            self.name = gr.Textbox("", label="Name", max_lines=1, elem_id=self.elem_id("preset_name"),
                                   info="What the settings below, with the CFG scale, are saved as")
            with gr.Row():
                self.save, self.rename, self.delete = (
                    gr.Button(text, size="sm", elem_id=self.elem_id(f"preset_{name}"))
                    for name, text in (("save", "Save"), ("rename", "Rename the chosen one"),
                                       ("delete", "Delete the chosen one")))
            self.message = self._shown("preset_message")
        for component in (self.preset, self.name, self.save, self.rename, self.delete):
            component.do_not_save_to_config = True  # the host's ui-config.json would keep them as they are now

    def _shown(self, name: str) -> gr.HTML:
        return gr.HTML("", elem_id=self.elem_id(name))

    def _checkpoints(self, option: Option, shared: dict[str, Any]) -> list[Any]:
        with gr.Row():
            made = gr.Dropdown(checkpoints(), value=option.default, allow_custom_value=True, **shared)
            create_refresh_button(made, sd_models.list_models, lambda: {"choices": checkpoints()},
                                  self.elem_id(f"refresh_{option.name}"))
        return [made]


def checkpoints() -> list[str]:
    """What the image model may be: the loaded checkpoint, which has no name here, or another of the host's list."""
    return ["", *sd_models.checkpoint_tiles()]


def options_of(p: Any) -> WebUIOptions:
    """The options of a generation, with those of its cell in an X/Y/Z plot. Raises OptionError.

    From the API the script's first argument is an object by option name; from the panel all its values come. Where the
    script does not run (ADetailer's own pass, say) they are those of a closed panel.
    """
    return replace(_given(p), **request.of(p).of_cell(WebUIOptions))


def _given(p: Any) -> WebUIOptions:
    for script in getattr(p.scripts, "alwayson_scripts", None) or ():
        if script.title() == NAME:
            return from_arguments(p.script_args[script.args_from:script.args_to])
    return closed()


def closed() -> WebUIOptions:
    """The options while the panel is not ticked."""
    return presets.every()[presets.closed()].options


def from_arguments(arguments: Any) -> WebUIOptions:
    """Options from the values of a `Panel`'s components, or from one object by option name. Raises OptionError."""
    given = form.of_arguments(WebUIOptions, arguments, f'"{NAME}": {{"args": [{{"form": "IV-IV"}}]}}')
    return closed() if given is None else given


def values_of(options: WebUIOptions) -> list[Any]:
    """The values of a `Panel`'s components that show these options; the inverse of `from_arguments`."""
    return [True, *form.values_of(options)]


def of_setting(options: WebUIOptions) -> list[Any]:
    """The same for a preset: what belongs to a clip stays as it is."""
    return [True, *(gr.update() if option.of_clip else value
                    for option, value in zip(_of_components(), form.values_of(options)))]


def _of_components() -> Iterator[Option]:
    """The options that a `Panel`'s components are of, behind the first of them."""
    for option in form.ordered(WebUIOptions):
        yield from [option] * len(option.kind.ends)


def _uses_sampler(params: dict[str, Any]) -> bool:
    return not SAMPLERS.keys().isdisjoint((params.get("Sampler"), params.get("Hires sampler")))


def _is_open(params: dict[str, Any]) -> bool | None:
    """Whether pasting ticks the panel: where the clip was made otherwise than an unticked one would make it.

    What could not be read of the infotext was other too, and the form says so.
    """
    if not _uses_sampler(params):
        return None
    values, errors = WebUIOptions.read_infotext(params)
    return bool(errors) or WebUIOptions(**values) != closed()
