"""The panel of built-in motion, made from its declared options, and the way back from its values."""
from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from modules import paths
from modules.infotext_utils import PasteField
from modules.ui_common import refresh_symbol
from modules.ui_components import InputAccordion, ToolButton

from ...clips.encode import can_write
from ...clips.source import Excerpt, strip
from ...motion import FORMATS, MotionControls, MotionOptions
from ...options import ConflictError, Option
from ...untrusted import Refusal
from .. import MOTION, request
from ..builtin import control, generation, output, start
from . import form


class Source(NamedTuple):
    """Where motion comes from: the names of the motion modules that it can use now, and the folder to put one into;
    ``starts``: whether its clips can start from another."""

    names: Callable[[], list[str]]
    folder: Callable[[], Path]
    starts: bool = True


BUILT_IN = Source(lambda: list(generation.files()), lambda: Path(paths.models_path, "AnimateDiff"))


def build(elem_id: Callable[[str], str], is_img2img: bool) -> tuple[list[Any], list[PasteField]]:
    """The panel's components in the order of the script's arguments, and what pastes infotext into them.

    The first is the accordion: closed, there is no motion.
    """
    with InputAccordion(False, label=MOTION, elem_id=elem_id("open")) as accordion:
        gr.HTML("Makes a clip with an AnimateDiff motion module, with any sampler and without another extension. "
                "The batch size is the number of frames.")
        motion = components(elem_id, starts=is_img2img, controls=True)
    return [accordion, *motion.components], [PasteField(accordion, _is_open), *motion.fields]


class MotionForm(form.Form):
    """The form of the options of motion."""

    start: Any
    """Its accordion "Start from a clip"."""


STARTS = ("init_video", "extend")
"""The options of a clip that starts from another."""
CONTROLS = ("control_video",)
"""Those of ControlNet's units."""


def components(elem_id: Callable[[str], str], by: Any = None, sources: Mapping[Any, Source] | None = None,
               starts: bool = True, controls: bool = False, more: Callable[[], None] = lambda: None) -> MotionForm:
    """The form of the options.

    The list of motion modules is that of the source which the component ``by`` has as its value. ``starts``: whether a
    clip may start from another here; ``more`` draws what else belongs there. ``controls``: whether there are units of
    ControlNet beside it.
    """
    sources = sources or {None: BUILT_IN}
    made = MotionForm(MotionOptions, MOTION, elem_id, lambda params: MOTION in params, drawn={
        "model": lambda option, shared: [_modules(elem_id, shared, by, sources)], "formats": _formats})
    first, *others = form.basic(MotionOptions)
    made.draw([first])
    with gr.Row(elem_classes="ivmixed-pair"):
        made.draw(others)
    with gr.Accordion("Motion strength, windows, LoRAs, formats", open=False, elem_id=elem_id("advanced")):
        made.draw([option for option in form.advanced(MotionOptions) if option.name not in STARTS + CONTROLS])
    with gr.Accordion("Start from a clip", open=False, elem_id=elem_id("start"), visible=starts) as made.start:
        made.draw([MotionOptions.option(name) for name in STARTS])
        more()
        start_shown = gr.HTML("", elem_id=elem_id("start_preview"))
    with gr.Accordion("ControlNet video", open=False, elem_id=elem_id("control"), visible=controls):
        made.draw([MotionOptions.option(name) for name in CONTROLS])
        control_shown = gr.HTML("", elem_id=elem_id("control_preview"))
    named = dict(zip((option.name for option in form.ordered(MotionOptions)), made.components))
    if starts:
        def show_start(init_video: Any, extend: Any, frames: Any, fps: Any, source: Any = None) -> str:
            return preview_start(init_video, extend, frames, fps, sources[source])

        inputs = [named[name] for name in (*STARTS, "frames", "fps")] + ([] if by is None else [by])
        _preview(show_start, inputs, start_shown)
    if controls:
        _preview(preview_control, [named[name] for name in (*CONTROLS, "frames", "fps")], control_shown)
    return made


def _preview(preview: Callable[..., str], inputs: list[Any], shown: Any) -> None:
    """Below a clip: what will be used of it."""
    for component in inputs:
        component.change(preview, inputs=inputs, outputs=[shown], show_progress="hidden", queue=False)


def preview_start(init_video: Any, extend: Any, frames: Any, fps: Any, source: Source = BUILT_IN) -> str:
    """What a clip will begin with: in words, and some of the frames."""
    if init_video is not None and not source.starts:
        return ('<p role="alert" class="ivmixed-error">Only built-in motion starts from a clip: choose it under '
                "Motion comes from, or take the clip out.</p>")
    return _used("init_video", init_video, start.frames_of, extend=extend, frames=frames, fps=fps)


def preview_control(control_video: Any, frames: Any, fps: Any) -> str:
    """What ControlNet's units will get: in words, and some of the frames."""
    return _used("control_video", control_video, control.frames_of, frames=frames, fps=fps)


def _used(name: str, video: Any, frames_of: Callable[..., Excerpt], **values: Any) -> str:
    """What is used of the file in the option ``name``. ``frames_of`` takes its frames, of the options' ``values``."""
    if video is None:
        return ""
    try:
        options = MotionOptions(**{name: form.uploaded(MotionOptions.option(name), video)}, **values)
        taken = frames_of(options, lambda picture: picture.resize((max(1, 64 * picture.width // picture.height), 64)))
    except Refusal as error:
        words = str(error).removeprefix("IV-mixed: ")
        return f'<p role="alert" class="ivmixed-error">{html.escape(words)}</p>'
    file = io.BytesIO()
    strip(taken.frames).save(file, "JPEG")
    own = f"{taken.size[0]}x{taken.size[1]} pixels" + (f", {taken.fps:.4g} frames a second" if taken.fps else "")
    words = f"{taken.said[0].upper()}{taken.said[1:]}. The clip has {own}."
    return (f'<p class="ivmixed-info">{html.escape(words)}</p><img class="ivmixed-strip" alt="{html.escape(words)}" '
            f'src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">')


def options_of(p: Any, arguments: Any) -> MotionOptions | None:
    """The options of a generation, with those of its cell in an X/Y/Z plot; None: motion is off. Raises OptionError."""
    options, cell = from_arguments(arguments), request.of(p).of_cell(MotionControls)
    if options is None:
        for name, value in cell.items():
            raise ConflictError(name, value, "motion that is off", because=f"it is an option of {MOTION}",
                                remedy="switch that on")
        return None
    return replace(options, **cell)


def from_arguments(arguments: Any) -> MotionOptions | None:
    """Options from the values of `build`'s components, or from one object by option name; None: motion is off.

    Raises OptionError.
    """
    defaults = form.values_of(MotionOptions())
    if arguments and arguments[1:] and arguments[1] in _first_models:
        defaults[0] = arguments[1]
    options = form.of_arguments(MotionOptions, arguments, (
        f'"{MOTION}": {{"args": [{{"model": "mm_sd15_v3.safetensors", "frames": 16}}]}}'), defaults)
    if options is not None:
        output.check(options.formats)
    return options


_first_models: list[Any] = []
"""What the list of motion modules began with, on every page so far: files come and go."""


def _modules(elem_id: Callable[[str], str], shared: dict[str, Any], by: Any, sources: Mapping[Any, Source]) -> Any:
    """The list of motion modules; where there are none, what to do."""
    chosen = sources[by.value if by is not None else None]
    names = chosen.names()
    with gr.Row():
        made = gr.Dropdown(names, value=names[0] if names else None, **shared)
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


def _formats(option: Option, shared: dict[str, Any]) -> list[Any]:
    if not all(can_write(output.ending(name)) for name in FORMATS):
        shared["info"] += f". {output.NEEDS_AV}"
    return form.draw(option.kind, option, shared)


def _is_open(params: dict[str, Any]) -> bool | None:
    """Whether pasting ticks the panel: where the clip had motion, by a module that can be read."""
    if MOTION not in params:
        return False
    return True if "model" in MotionOptions.read_infotext(params)[0] else None
