"""What moves in the panel: the picture of the plan and its price follow the settings, and presets come and go.

The page asks for a new picture by pressing a hidden button, a moment after the last change (``javascript/``), as the
host's own token counters do; and draws what it gets. Likewise it asks for the settings of a chosen preset. The plan is
made here alone.
"""
from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ...options import OptionError, Options
from ...presets import Preset
from .. import NAME, SAMPLERS, presets, preview
from ..options import WebUIOptions
from ..presets import PresetError
from .panel import Panel, from_arguments, of_setting

WATCHED = {
    "sampler": "{tab}_sampling", "steps": "{tab}_steps", "scheduler": "{tab}_scheduler", "cfg_scale": "{tab}_cfg_scale",
    "width": "{tab}_width", "height": "{tab}_height", "denoising_strength": "img2img_denoising_strength",
    "frames": "{tab}-ad-video-length", "built_in": "script_{tab}_ivmixed_motion_open-checkbox",
    "built_in_frames": "script_{tab}_ivmixed_motion_frames", "free_init": "script_{tab}_ivmixed_motion_free_init",
}
"""The components of the host, of AnimateDiff and of built-in motion that the picture follows, by their ids; not every
host has all."""
LAST = "{tab}_gallery"
"""The host makes it when all of these are there."""

_answers = itertools.count()


class Live:
    """The panel of a tab, among the host's components, which come one by one."""

    def __init__(self, tab: str):
        self.panel: Panel | None = None
        self.ids = {elem_id.format(tab=tab): name for name, elem_id in WATCHED.items()
                    if "{tab}" in elem_id or elem_id.startswith(tab)}
        self.last = LAST.format(tab=tab)
        self.watched: dict[str, Any] = {}

    def after_component(self, component: Any) -> None:
        """The host has made a component."""
        elem_id = getattr(component, "elem_id", None)
        if elem_id in self.ids:
            self.watched[self.ids[elem_id]] = component
        elif elem_id == self.last and self.panel is not None:
            connect(self.panel, self.watched)


def connect(panel: Panel, watched: dict[str, Any]) -> None:
    """Makes a panel work beside ``watched``, the components that it follows by the names of `WATCHED`."""
    names = list(watched)
    inputs = [panel.preset, *watched.values(), *panel.components]
    cfg_scale = [watched["cfg_scale"]] if "cfg_scale" in watched else []

    def asking(answer: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        return lambda preset, *values: answer(preset, dict(zip(names, values)), values[len(names):])

    _on(panel.refresh.click, asking(look), inputs, [panel.picture, panel.price])
    for component in inputs[1:]:
        _call(component.change, "Changed", panel)
    _call(panel.recognised.click, "Recognised", panel, [panel.preset])
    _call(panel.preset.input, "Chosen", panel)
    _on(panel.choose.click, asking(choose), inputs, [panel.picture, panel.price, *panel.components, *cfg_scale])
    said = [panel.preset, panel.message]
    _on(panel.save.click, lambda name, *values: save(name, values[:len(cfg_scale)], values[len(cfg_scale):]),
        [panel.name, *cfg_scale, *panel.components], said)
    _on(panel.rename.click, rename, [panel.preset, panel.name], said)
    _on(panel.delete.click, delete, [panel.preset], said)


def _on(event: Callable[..., Any], function: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    event(function, inputs=inputs, outputs=outputs, show_progress="hidden", queue=False)


def _call(event: Callable[..., Any], name: str, panel: Panel, outputs: Sequence[Any] = ()) -> None:
    """An event calls a function of the page's script with the beginning of the panel's ids."""
    event(fn=None, _js=f"() => window.ivMixed{name}?.('{panel.elem_id('')}') || []", inputs=[], outputs=[*outputs])


def look(preset: str, host: dict[str, Any], arguments: Any) -> list[str]:
    """The picture, and the price beside the panel's title with the name of the preset that the settings are.

    ``preset``: as the list has it, ``host``: values of `WATCHED` by name, ``arguments``: of the panel's components.
    """
    shown = [True, *arguments[1:]]  # the picture is of what stands in the panel, ticked or not
    try:
        price = preview.in_words(_price(_plan(from_arguments(arguments), host), host))
    except OptionError as error:
        price = f"refused: {_without_name(error)}"
    if host.get("sampler", NAME) not in SAMPLERS:
        price = f"not in use: the sampling method is {host['sampler']}"
    try:
        options = from_arguments(shown)
        known = presets.every()
        mine = known.get(preset) if isinstance(preset, str) else None
        name = preset if mine and mine.options == options.setting() else presets.name_of(options)
        figure = _figure(options, host, *_about(known.get(name or ""), host))
    except OptionError as error:
        return [_words("ivmixed-error", _without_name(error)), _answer(price, preset or presets.CUSTOM)]
    return [figure, _answer(price, name or presets.CUSTOM)]


def _without_name(error: OptionError) -> str:
    return str(error).removeprefix(f"{NAME}: ")  # the panel has it


def _plan(options: Options, host: dict[str, Any]) -> Any:
    sampler = host.get("sampler", NAME)
    strength = host.get("denoising_strength") if host.get("init_video", True) is not None else None  # img2img: always
    return preview.plan_of(options, host.get("steps", 20), host.get("scheduler"), strength,
                           sampler=sampler if sampler in SAMPLERS else NAME)


def _price(plan: Any, host: dict[str, Any]) -> dict[str, Any]:
    frames = "built_in_frames" if host.get("built_in") else "frames"
    sizes = {"frames": frames, "width": "width", "height": "height"}
    passes = host.get("free_init", 1) if host.get("built_in", True) else 1
    size = {name: preview.PlanRequest.option(name).check(host.get(source) or None) for name, source in sizes.items()}
    return preview.price(plan, **size, passes=passes)


def _about(preset: Preset[WebUIOptions] | None, host: dict[str, Any]) -> list[str]:
    """What is said of the preset that the settings are; also that the page has another CFG scale than it wants."""
    if preset is None:
        return []
    wanted, there = preset.cfg_scale, host.get("cfg_scale")
    if wanted is None or there is None or wanted == there:
        return [preset.help]
    return [preset.help, f"CFG scale is {there:g} on this page, {wanted:g} in the preset: choose the preset from the "
                         "list to set it."]


def _figure(options: Options, host: dict[str, Any], help: str = "", warning: str = "") -> str:
    plan = _plan(options, host)
    data = preview.picture(plan, options, preview.CFG_SCALE.check(host.get("cfg_scale", 7)))
    price = _price(plan, host)
    detail = (f"{preview.steps_in_words(plan)}; {preview.evaluations(price['video'])} of the video model, "
              f"{price['image']} of the image model.")
    title = "Guidance over the steps, below zero on the way back; and the moves of each step"
    return (f'<figure class="ivmixed-figure">{_words("ivmixed-detail", title)}<div class="ivmixed-drawing" role="img" '
            f'aria-label="{html.escape(_description(data))}" data-picture="{html.escape(json.dumps(data))}">'
            f'</div><figcaption>{_words("ivmixed-total", preview.in_words(price))}{_words("ivmixed-detail", detail)}'
            f'{_words("ivmixed-help", help)}{_words("ivmixed-note", warning)}</figcaption></figure>')


def _description(data: dict[str, Any]) -> str:
    """The curves, in words for screen readers; the steps and the price stand below the picture as text."""
    asked = {" ".join(move.split()[:2]) for moves in data["steps"] for move in moves}
    said = [f"{name.replace('go', 'model, denoising').replace('back', 'model, inverting')}: "
            + (f"{curve[0]:g} throughout" if curve[0] == curve[-1] else f"from {curve[0]:g} to {curve[-1]:g}")
            for name, curve in data["curves"].items() if name in asked]
    return "Guidance over the steps. " + "; ".join([*said, f"the ordinary steps: {data['cfg']:g}."])


def _words(kind: str, text: str) -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>' if text else ""


def _answer(price: str, preset: str) -> str:
    """The price, with the preset that the list is to show and all that are in it.

    No two answers are the same, so that the page sees each come.
    """
    listed = gr.Dropdown([presets.CUSTOM, *presets.every()], render=False).choices  # as this gradio's page has them
    data = {"answer": next(_answers), "preset": preset, "presets": json.dumps(listed)}
    attributes = " ".join(f'data-{name}="{html.escape(str(value))}"' for name, value in data.items())
    return f'<p class="ivmixed-words" {attributes}>{html.escape(price)}</p>'


def choose(name: str, host: dict[str, Any], arguments: Any) -> list[Any]:
    """What `look` says of a preset's settings; the panel's values for them; the CFG scale, where ``host`` has it."""
    preset, nothing = presets.every().get(name) if isinstance(name, str) else None, gr.update()
    values = [nothing] * len(arguments) if preset is None else of_setting(preset.options)
    scale = [nothing if preset is None or preset.cfg_scale is None else preset.cfg_scale] * ("cfg_scale" in host)
    if scale and scale[0] != nothing:
        host = {**host, "cfg_scale": scale[0]}
    arguments = [old if new == nothing else new for old, new in zip(arguments, values)]
    return [*look(name, host, arguments), *values, *scale]


def save(name: str, cfg_scale: Any, arguments: Any) -> list[Any]:
    """Saves the panel's settings as one of the user's presets."""
    def change() -> tuple[str, str]:
        saved = presets.save(name, from_arguments([True, *arguments[1:]]), next(iter(cfg_scale), None))
        return saved, f"Saved as {saved}."
    return _changed(change)


def rename(preset: str, name: str) -> list[Any]:
    """Renames the chosen preset."""
    def change() -> tuple[str, str]:
        renamed = presets.rename(preset, name)
        return renamed, f"{preset} is {renamed} now."
    return _changed(change)


def delete(preset: str) -> list[Any]:
    """Deletes the chosen preset."""
    def change() -> tuple[str, str]:
        presets.delete(preset)
        return presets.CUSTOM, f"{preset} is deleted. Its settings are still in the panel."
    return _changed(change)


def _changed(change: Callable[[], tuple[str, str]]) -> list[Any]:
    """The list of presets, and what is said of a change to them."""
    try:
        name, said = change()
    except (OptionError, PresetError) as error:
        return [gr.update(), f'<p role="alert" class="ivmixed-error">{html.escape(str(error))}</p>']
    return [gr.update(choices=[presets.CUSTOM, *presets.every()], value=name),
            f'<p role="status">{html.escape(said)}</p>']
