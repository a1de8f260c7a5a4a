"""The panel, made from the declared options, and the way back from its values, the API's and the infotext's."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from modules.infotext_utils import PasteField
from modules.ui_components import InputAccordion

from ..options import OPTIONS, Option, OptionError, Options
from . import NAME, log

BASIC = tuple(option for option in OPTIONS if not option.follows and not option.advanced)
ADVANCED = tuple(option for option in OPTIONS if not option.follows and option.advanced)
SEPARATE = tuple(option for option in OPTIONS if option.follows)


def build(elem_id: Callable[[str], str]) -> tuple[list[Any], list[PasteField]]:
    """The panel's components in the order of the script's arguments, and what pastes infotext into them.

    The first is the accordion: closed, the sampler runs with the defaults.
    """
    fields: list[PasteField] = []
    with InputAccordion(False, label=NAME, elem_id=elem_id("open")) as accordion:
        gr.HTML(f"Settings of the sampler <b>{NAME}</b> (choose it as the sampling method, with AnimateDiff on). "
                "Closed, the defaults are used: IV-IV with gamma 4, as published.")
        basic = [_components(option, elem_id, fields) for option in BASIC]
        with gr.Accordion("Advanced", open=False):
            advanced = [_components(option, elem_id, fields) for option in ADVANCED]
            separate = gr.Checkbox(False, label="Separate gammas for the image and the video model",
                                   elem_id=elem_id("separate"))
            with gr.Column(visible=False) as column:
                own = [_components(option, elem_id, fields) for option in SEPARATE]
            separate.change(lambda on: gr.update(visible=on), inputs=[separate], outputs=[column], show_progress=False)
    fields.append(PasteField(accordion, lambda params: _any_pasted(params, OPTIONS)))
    fields.append(PasteField(separate, lambda params: _any_pasted(params, SEPARATE)))
    shown = [component for group in basic + advanced for component in group]
    return [accordion, *shown, separate, *(component for group in own for component in group)], fields


def options_of(p: Any) -> Options:
    """The options of a generation. Raises OptionError.

    From the API the script's first argument is an object by option name; from the panel all its values come. Where the
    script does not run (ADetailer's own pass, say) they are the defaults.
    """
    for script in getattr(p.scripts, "alwayson_scripts", None) or ():
        if script.title() == NAME:
            return from_arguments(p.script_args[script.args_from:script.args_to])
    return Options()


def from_arguments(arguments: Any) -> Options:
    """Options from the values of `build`'s components, or from one object by option name. Raises OptionError."""
    if not arguments:
        return Options()
    first, *values = arguments
    if isinstance(first, dict) and not any(isinstance(value, (dict, list)) for value in values):
        return Options.from_dict(first)
    if not isinstance(first, bool):
        example = f'"{NAME}": {{"args": [{{"form": "IV-IV"}}]}}'
        raise OptionError("args", first, f"one object of options by name, as in {example}")
    if not first:
        return Options()
    left = iter(values)
    given = {option.name: _take(option, left) for option in BASIC + ADVANCED}
    if next(left):
        own = {option.name: _take(option, left) for option in SEPARATE}
        # set to the common value, a separate one is none: so the infotext comes back as it was
        given.update((o.name, own[o.name]) for o in SEPARATE if own[o.name] != given[o.follows])
    return Options(**given)


def _take(option: Option, values: Iterator[Any]) -> Any:
    return (next(values), next(values)) if option.kind == "pair" else next(values)


def _components(option: Option, elem_id: Callable[[str], str], fields: list[PasteField]) -> list[Any]:
    """One component of an option, two of a pair; their paste fields go to ``fields``."""
    label = option.label.removeprefix(NAME).strip().capitalize() + (f" ({option.unit})" if option.unit else "")
    if option.kind == "choice":
        made = [gr.Dropdown(list(option.choices), value=option.default, label=label, info=option.help,
                            elem_id=elem_id(option.name))]
    else:
        default = option.default if option.default is not None else _declared(option.follows).default
        ends = zip(("start", "end"), default) if option.kind == "pair" else [("", default)]
        with gr.Row():
            made = [gr.Slider(option.minimum, option.maximum, value=value, step=option.step,
                              label=f"{label}, {end}" if end else label, info=option.help if end != "end" else None,
                              elem_id=elem_id(f"{option.name}_{end}" if end else option.name))
                    for end, value in ends]
    for index, component in enumerate(made):
        fields.append(PasteField(component, lambda params, index=index: _paste(params, option, index)))
    return made


def _declared(name: str) -> Option:
    return next(option for option in OPTIONS if option.name == name)


def _uses_sampler(params: dict[str, Any]) -> bool:
    return NAME in (params.get("Sampler"), params.get("Hires sampler"))


def _any_pasted(params: dict[str, Any], options: tuple[Option, ...]) -> bool | None:
    return any(option.label in params for option in options) if _uses_sampler(params) else None


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
    value = next(value for value in values if value is not None)
    return value[index] if option.kind == "pair" else value
