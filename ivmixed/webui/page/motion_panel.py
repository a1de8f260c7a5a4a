"""The panel of built-in motion, made from its declared options, and the way back from its values."""
from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from modules import paths
from modules.infotext_utils import PasteField
from modules.ui_common import refresh_symbol
from modules.ui_components import InputAccordion, ToolButton

from ...motion import MotionOptions
from ...motion.options import MOTION_OPTIONS
from ...options import Option
from .. import MOTION
from ..builtin import generation, output
from .panel import given_of, tell_page, title

BASIC = tuple(option for option in MOTION_OPTIONS.values() if not option.advanced)
ADVANCED = tuple(option for option in MOTION_OPTIONS.values() if option.advanced)
SHOWN = BASIC + ADVANCED


class Source(NamedTuple):
    """Where motion comes from: the names of the motion modules that it can use now, and the folder to put one into."""

    names: Callable[[], list[str]]
    folder: Callable[[], Path]


BUILT_IN = Source(lambda: list(generation.files()), lambda: Path(paths.models_path, "AnimateDiff"))


def build(elem_id: Callable[[str], str]) -> tuple[list[Any], list[PasteField]]:
    """The panel's components in the order of the script's arguments, and what pastes infotext into them.

    The first is the accordion: closed, there is no motion.
    """
    with InputAccordion(False, label=MOTION, elem_id=elem_id("open")) as accordion:
        gr.HTML("Makes a clip with an AnimateDiff motion module, with any sampler and without another extension. "
                "The batch size is the number of frames.")
        shown, fields = components(elem_id)
    return [accordion, *shown], [PasteField(accordion, _is_open), *fields]


def components(elem_id: Callable[[str], str], by: Any = None, sources: Mapping[Any, Source] | None = None,
               ) -> tuple[list[Any], list[PasteField]]:
    """The components of the options in the order of `SHOWN`, and what pastes infotext into them.

    The list of motion modules is that of the source which the component ``by`` has as its value.
    """
    made = [_modules(elem_id, by, sources or {None: BUILT_IN})]
    with gr.Row():
        made += [_component(option, elem_id) for option in BASIC[1:]]
    with gr.Accordion("Formats, LoRAs, context windows", open=False, elem_id=elem_id("advanced")):
        made += [_component(option, elem_id) for option in ADVANCED]
    return made, [PasteField(component, lambda params, name=option.name: _paste(params, name))
                  for option, component in zip(SHOWN, made)]


def from_values(values: Iterable[Any]) -> MotionOptions:
    """Options from the values of `components`. Raises OptionError."""
    given = {option.name: value for option, value in zip(SHOWN, values)}
    given["model"] = given["model"] or ""  # the page's None, where no module is there
    return MotionOptions(**given)


def from_arguments(arguments: Any) -> MotionOptions | None:
    """Options from the values of `build`'s components, or from one object by option name; None: motion is off.

    Raises OptionError.
    """
    defaults = [_default(option) for option in SHOWN]
    if arguments and arguments[1:] and arguments[1] in _first_models:
        defaults[0] = arguments[1]
    given = given_of(
        arguments, defaults, f'"{MOTION}": {{"args": [{{"model": "mm_sd15_v3.safetensors", "frames": 16}}]}}')
    if given is None:
        return None
    options = MotionOptions.from_dict(given) if isinstance(given, dict) else from_values(given)
    output.check(options.formats)
    return options


def _default(option: Option) -> Any:
    """What its component begins with."""
    return list(option.default) if option.kind == "several" else option.default


_first_models: list[Any] = []
"""What the list of motion modules began with, on every page so far: files come and go."""


def _modules(elem_id: Callable[[str], str], by: Any, sources: Mapping[Any, Source]) -> Any:
    """The list of motion modules; where there are none, what to do."""
    chosen = sources[by.value if by is not None else None]
    names = chosen.names()
    with gr.Row():
        made = gr.Dropdown(names, value=names[0] if names else None, **_shared(MOTION_OPTIONS["model"], elem_id))
        again = ToolButton(value=refresh_symbol, elem_id=elem_id("refresh_model"))
    missing = gr.HTML(_missing(chosen, names), visible=not names, elem_id=elem_id("missing"))
    if made.value not in _first_models:
        _first_models.append(made.value)

    def update(source: Any, value: dict[str, Any]) -> list[Any]:
        names = sources[source].names()
        return [gr.update(choices=names, **value),
                gr.update(value=_missing(sources[source], names), visible=not names)]

    def look_again(said: str, source: Any = None) -> list[Any]:
        first = next(iter(sources[source].names()), None)
        return update(source, {"value": first} if said else {})  # none was there, so none is chosen

    def change(value: str | None, source: Any) -> list[Any]:
        names = sources[source].names()
        return update(source, {"value": value if value in names else next(iter(names), None)})

    again.click(look_again, inputs=[missing, *([] if by is None else [by])], outputs=[made, missing])
    if by is not None:
        by.change(change, inputs=[made, by], outputs=[made, missing], show_progress="hidden", queue=False)
    return made


def _missing(source: Source, names: list[str]) -> str:
    if names:
        return ""
    return (f'<p class="ivmixed-error">No motion module is there yet, so no clip can be made: put one '
            f"(mm_sd15_v3.safetensors, say) into {html.escape(str(source.folder()))} and press {refresh_symbol}.</p>")


def _shared(option: Option, elem_id: Callable[[str], str]) -> dict[str, Any]:
    return {"label": title(option, MOTION), "info": option.help, "elem_id": elem_id(option.name)}


def _component(option: Option, elem_id: Callable[[str], str]) -> Any:
    shared = _shared(option, elem_id)
    if option.kind == "choice":
        return gr.Dropdown(list(option.choices), value=option.default, **shared)
    if option.kind == "several":
        if not all(output.can_write(output.ending(name)) for name in option.choices):
            shared["info"] += f". {output.NEEDS_AV}"
        return gr.CheckboxGroup(list(option.choices), value=_default(option), **shared)
    if option.kind == "text":
        return gr.Textbox(option.default, **shared)
    step = 1 if option.kind == "whole" else option.step
    return gr.Slider(option.minimum, option.maximum, value=option.default, step=step, **shared)


def _paste(params: dict[str, Any], name: str) -> Any:
    """The pasted value of an option; its default where the infotext leaves it out; None: leave it as it is."""
    if MOTION not in params:
        return None
    values, errors = MotionOptions.read_infotext(params)
    for error in errors:
        if error.field == name:
            tell_page(f"not pasted: {error}")
            return None
    value = values.get(name, MOTION_OPTIONS[name].default)
    return list(value) if isinstance(value, tuple) else value


def _is_open(params: dict[str, Any]) -> bool | None:
    """Whether pasting ticks the panel: where the clip had motion, by a module that can be read."""
    if MOTION not in params:
        return False
    return True if "model" in MotionOptions.read_infotext(params)[0] else None
