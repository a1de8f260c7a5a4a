"""The panel, made from the declared options, and the way back from its values, the API's and the infotext's."""
from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
import gradio.context

from modules import sd_models
from modules.infotext_utils import PasteField
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion

from ...options import OPTIONS, Option, OptionError, Options
from .. import NAME, SAMPLERS, log, presets, request

BASIC = tuple(option for option in OPTIONS if not option.follows and not option.advanced)
ADVANCED = tuple(option for option in OPTIONS if not option.follows and option.advanced)
TEXTS = ("curve", "size", "text")  # kinds of option that are typed as text
SEPARATE = tuple(option for option in OPTIONS if option.follows)


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
        with InputAccordion(self.opened, label=NAME, elem_id=self.elem_id("open")) as accordion:
            with accordion.extra():
                self.price = self._shown("price")
            if not self.opened:
                gr.HTML(f"Settings of the sampling method <b>{NAME}</b>, for clips. While this is not ticked, clips "
                        f"are made with the preset that is chosen on the page {NAME} of the WebUI's settings.")
            self._build_presets()
            self.picture = self._shown("picture")
            self.refresh, self.relist = (gr.Button(name, visible=False, elem_id=self.elem_id(name))
                                         for name in ("refresh", "relist"))
            folded = gr.Accordion("Guidance, form, interval and image model", open=False,
                                  elem_id=self.elem_id("basic")) if self.opened else nullcontext()
            with folded:
                basic = [self._components(option) for option in BASIC]
            with gr.Accordion("Advanced", open=False, elem_id=self.elem_id("advanced")):
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
        label = title(option, NAME)
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
            with gr.Row(elem_classes="ivmixed-pair"):
                made = [gr.Slider(option.minimum, option.maximum, value=value, step=option.step, min_width=120,
                                  label=f"{label}, {end}" if end else label, info=None if end else option.help,
                                  elem_id=self.elem_id(f"{option.name}_{end}" if end else option.name))
                        for end, value in ends]
            if option.kind == "pair":  # beside one of them it would push it down
                gr.HTML(f'<p class="ivmixed-info">{html.escape(option.help)}</p>')
        for index, component in enumerate(made):
            self.fields.append(PasteField(component, lambda params, index=index: _paste(params, option, index)))
        return made


def title(option: Option, script: str) -> str:
    """What the page calls an option of the script of that name."""
    words = option.title or option.label.removeprefix(script).strip()
    words = words[0].upper() + words[1:]
    return f"{words} ({option.unit})" if option.unit and not words.endswith("percent") else words


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
    return replace(_given(p), **request.of(p).cell)


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
    given = given_of(arguments, values_of(Options())[1:], f'"{NAME}": {{"args": [{{"form": "IV-IV"}}]}}')
    if given is None:
        return closed()
    return Options.from_dict(given) if isinstance(given, dict) else _of_values(given)


def given_of(arguments: Any, defaults: Sequence[Any], example: str) -> dict[str, Any] | list[Any] | None:
    """What a script of ours was given: one object of options by name, from the API, or the values of a ticked panel's
    components; None where the panel is not ticked.

    ``defaults``: of the components behind the first, which is the panel's tick. The host puts them where the API's
    arguments leave them out. What else comes along would have no effect: it is refused. Raises OptionError.
    """
    if not arguments:
        return None
    first, *values = arguments
    whole = f"one object of options by name, as in {example}"
    objects = [value for value in values if isinstance(value, dict)]
    if not isinstance(first, (bool, dict)):
        raise OptionError("args", first, whole)
    if objects or len(values) > len(defaults):
        beside = objects[0] if objects else values[len(defaults)]
        raise OptionError("args", beside, f"{whole}; nothing beside it", "comes after the first argument")
    if isinstance(first, dict):
        for value, default in zip(values, defaults):
            if value != default:
                raise OptionError("args", value, f"{whole}; nothing beside it, also no infotext that has such options",
                                  "comes after the first argument")
        return first
    if first and len(values) < len(defaults):
        raise OptionError("args", list(arguments), f"{whole}; or all {len(defaults) + 1} values of the panel",
                          f"has {len(arguments)} values")
    return values if first else None


def _of_values(values: Sequence[Any]) -> Options:
    """The options of a ticked panel. Raises OptionError."""
    left = iter(values)
    given = {option.name: _take(option, left) for option in BASIC + ADVANCED}
    separate = next(left)
    if not isinstance(separate, bool):
        raise OptionError("separate", separate, "true or false")
    if separate:
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
    """Whether pasting ticks the panel: where the clip was made otherwise than an unticked one would make it.

    What could not be read of the infotext was other too, and `_paste` says so.
    """
    if not _uses_sampler(params):
        return None
    values, errors = Options.read_infotext(params)
    return bool(errors) or Options(**values) != closed()


def _is_separate(params: dict[str, Any]) -> bool | None:
    return any(option.label in params for option in SEPARATE) if _uses_sampler(params) else None


def _paste(params: dict[str, Any], option: Option, index: int) -> Any:
    """The pasted value of a component; its default where the infotext leaves it out; None: leave it as it is."""
    if not _uses_sampler(params):
        return None
    values, errors = Options.read_infotext(params)
    sources = [option.name, option.follows]
    for error in errors:
        if error.field in sources:
            if error.field == option.name and index == 0:
                tell_page(f"not pasted: {error}")
            return None
    value = next((values[name] for name in sources if values.get(name) is not None), None)
    if value is None:
        value = _declared(option.follows or option.name).default
    return value[index] if option.kind == "pair" else _shown(option, value)


def tell_page(message: str) -> None:
    """Says something in the log, and on the page where it is the page that asked."""
    log.warning(message)
    local = getattr(gradio.context, "LocalContext", None)  # gradio 4's; 3 has it by thread
    event = local.event_id.get() if local else getattr(gradio.context.thread_data, "event_id", None)
    if event is not None:
        gr.Warning(html.escape(message, quote=False))


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
