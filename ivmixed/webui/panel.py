"""The panel, made from the declared options, and the way back from its values, the API's and the infotext's."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from modules import sd_models
from modules.infotext_utils import PasteField
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion

from ..options import OPTIONS, Option, OptionError, Options
from . import NAME, SAMPLERS, log, presets

GRID = "iv_mixed_grid"
"""The attribute of a processing object with the options of its cell in an X/Y/Z plot, by name."""

BASIC = tuple(option for option in OPTIONS if not option.follows and not option.advanced)
ADVANCED = tuple(option for option in OPTIONS if not option.follows and option.advanced)
TEXTS = ("curve", "size", "text")  # kinds of option that are typed as text
SEPARATE = tuple(option for option in OPTIONS if option.follows)


@dataclass
class Panel:
    """The panel of a tab: what the script hands over, and what is there to see and to press. `live` makes it work."""

    elem_id: Callable[[str], str]
    opened: bool = False
    """Ticked when the page is opened."""
    components: list[Any] = field(default_factory=list)
    """In the order of the script's arguments. The first is the accordion, which is ticked or not."""
    fields: list[PasteField] = field(default_factory=list)
    """What pastes infotext into them."""

    def __post_init__(self) -> None:
        with InputAccordion(self.opened, label=NAME, elem_id=self.elem_id("open")) as accordion:
            with accordion.extra():
                self.price = self._shown("price")
            gr.HTML(f"Settings of the sampling method <b>{NAME}</b>, for clips. While this is not ticked, clips are "
                    f"made with the preset that is chosen on the page {NAME} of the WebUI's settings.")
            self._build_presets()
            self.picture = self._shown("picture")
            self.refresh, self.relist = (gr.Button(name, visible=False, elem_id=self.elem_id(name))
                                         for name in ("refresh", "relist"))
            basic = [self._components(option) for option in BASIC]
            with gr.Accordion("Advanced", open=False):
                advanced = [self._components(option) for option in ADVANCED]
                separate = gr.Checkbox(False, label="Separate gammas for the image and the video model",
                                       elem_id=self.elem_id("separate"))
                with gr.Column(visible=False) as column:
                    own = [self._components(option) for option in SEPARATE]
                separate.change(lambda on: gr.update(visible=on), inputs=[separate], outputs=[column],
                                show_progress="hidden")
        self.fields.append(PasteField(accordion, _is_open))
        self.fields.append(PasteField(separate, _is_separate))
        shown = [component for group in basic + advanced for component in group]
        self.components = [accordion, *shown, separate, *(component for group in own for component in group)]

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

    def _components(self, option: Option) -> list[Any]:
        """One component of an option, two of a pair; their paste fields go to ``fields``."""
        label = option.label.removeprefix(NAME).strip().capitalize() + (f" ({option.unit})" if option.unit else "")
        if option.kind == "choice":
            made = [gr.Dropdown(list(option.choices), value=option.default, label=label, info=option.help,
                                elem_id=self.elem_id(option.name))]
        elif option.name == "image_checkpoint":
            with gr.Row():
                made = [gr.Dropdown(checkpoints(), value="", label=label, info=option.help, allow_custom_value=True,
                                    elem_id=self.elem_id(option.name))]
                create_refresh_button(made[0], sd_models.list_models, lambda: {"choices": checkpoints()},
                                      self.elem_id("refresh_image_checkpoint"))
        elif option.kind in TEXTS:
            made = [gr.Textbox(option.to_text(option.default), label=label, info=option.help,
                               lines=2 if option.kind == "text" else 1, elem_id=self.elem_id(option.name))]
        else:
            default = option.default if option.default is not None else _declared(option.follows).default
            ends = zip(("start", "end"), default) if option.kind == "pair" else [("", default)]
            with gr.Row():
                made = [gr.Slider(option.minimum, option.maximum, value=value, step=option.step,
                                  label=f"{label}, {end}" if end else label,
                                  info=option.help if end != "end" else None,
                                  elem_id=self.elem_id(f"{option.name}_{end}" if end else option.name))
                        for end, value in ends]
        for index, component in enumerate(made):
            self.fields.append(PasteField(component, lambda params, index=index: _paste(params, option, index)))
        return made


def checkpoints() -> list[str]:
    """What the image model may be: the loaded checkpoint, which has no name here, or another of the host's list."""
    return ["", *sd_models.checkpoint_tiles()]


def values_of(options: Options) -> list[Any]:
    """The values of the components that show these options; the inverse of `from_arguments`."""
    separate = any(getattr(options, option.name) is not None for option in SEPARATE)
    values: list[Any] = [True]
    for option in (*BASIC, *ADVANCED, None, *SEPARATE):
        if option is None:
            values.append(separate)
            continue
        value = getattr(options, option.name)
        if value is None and option.follows:
            value = getattr(options, option.follows)
        values += value if option.kind == "pair" else [_shown(option, value)]
    return values


def options_of(p: Any) -> Options:
    """The options of a generation, with those of its cell in an X/Y/Z plot. Raises OptionError.

    From the API the script's first argument is an object by option name; from the panel all its values come. Where the
    script does not run (ADetailer's own pass, say) they are those of a closed panel.
    """
    return replace(_given(p), **getattr(p, GRID, {}))


def _given(p: Any) -> Options:
    for script in getattr(p.scripts, "alwayson_scripts", None) or ():
        if script.title() == NAME:
            return from_arguments(p.script_args[script.args_from:script.args_to])
    return closed()


def closed() -> Options:
    """The options while the panel is not ticked."""
    return presets.every()[presets.closed()].options


def from_arguments(arguments: Any) -> Options:
    """Options from the values of a `Panel`'s components, or from one object by option name. Raises OptionError."""
    if not arguments:
        return closed()
    first, *values = arguments
    if isinstance(first, dict) and not any(isinstance(value, (dict, list)) for value in values):
        return Options.from_dict(first)
    if not isinstance(first, bool):
        example = f'"{NAME}": {{"args": [{{"form": "IV-IV"}}]}}'
        raise OptionError("args", first, f"one object of options by name, as in {example}")
    if not first:
        return closed()
    left = iter(values)
    given = {option.name: _take(option, left) for option in BASIC + ADVANCED}
    if next(left):
        own = {option.name: _take(option, left) for option in SEPARATE}
        # set to the common value, a separate one is none: so the infotext comes back as it was
        given.update((o.name, own[o.name]) for o in SEPARATE if own[o.name] != given[o.follows])
    return Options(**given)


def _take(option: Option, values: Iterator[Any]) -> Any:
    return (next(values), next(values)) if option.kind == "pair" else next(values)


def _declared(name: str) -> Option:
    return next(option for option in OPTIONS if option.name == name)


def _uses_sampler(params: dict[str, Any]) -> bool:
    return not SAMPLERS.keys().isdisjoint((params.get("Sampler"), params.get("Hires sampler")))


def _is_open(params: dict[str, Any]) -> bool | None:
    """Whether pasting ticks the panel: where the clip was made otherwise than an unticked one would make it."""
    if not _uses_sampler(params):
        return None
    try:
        return Options.from_infotext(params) != closed()
    except OptionError:
        return True


def _is_separate(params: dict[str, Any]) -> bool | None:
    return any(option.label in params for option in SEPARATE) if _uses_sampler(params) else None


def _paste(params: dict[str, Any], option: Option, index: int) -> Any:
    """The pasted value of a component; its default where the infotext leaves it out; None: leave it as it is."""
    if not _uses_sampler(params):
        return None
    sources = [option, _declared(option.follows)] if option.follows else [option]
    try:
        options = Options.from_infotext({o.label: params[o.label] for o in sources if o.label in params})
    except OptionError as error:
        log.warning(f"not pasted: {error}")
        return None
    values = (getattr(options, o.name) for o in sources)
    value = next((value for value in values if value is not None), None)
    return value[index] if option.kind == "pair" else _shown(option, value)


def of_setting(options: Options) -> list[Any]:
    """The same for a preset: what belongs to a clip stays as it is."""
    values = values_of(options)
    for index, option in enumerate(_of_components()):
        if option is not None and option.of_clip:
            values[index + 1] = gr.update()
    return values


def _of_components() -> Iterator[Option | None]:
    """The options that `Panel.components` are of, behind the first of them; None is the tick for separate gammas."""
    for option in (*BASIC, *ADVANCED, None, *SEPARATE):
        yield from [option] * (2 if option is not None and option.kind == "pair" else 1)


def _shown(option: Option, value: Any) -> Any:
    """What the component of an option that has one shows."""
    return option.to_text(value) if option.kind in TEXTS else value
