"""One form for any option set: its components, what they send, and what pasted infotext puts into them.

How an option is drawn goes by its kind, see `draw`. Another way for one option of one page is given to its `Form`.
"""
from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial, singledispatch
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import gradio.context

from modules.infotext_utils import PasteField

from ...kinds import Choice, Data, Kind, Number, Range, Several, Text
from ...options import Option, OptionError, OptionSet
from .. import log

Set = TypeVar("Set", bound=OptionSet)
Params = dict[str, Any]
"""An infotext's keys and values, as the host reads them."""


FILE_TYPES = [".gif", ".mp4", ".webm", ".webp", ".png"]


class Form:
    """The components of an option set, which `draw` adds to the page.

    ``script``: the beginning of the options' labels, which their titles leave out. ``told``: whether an infotext speaks
    of the options at all. ``resets``: what it leaves out is at its default then, and else as the page shows it.
    ``drawn``: other ways to draw options, by name; ``pasted``: other ways to read them from an infotext.
    """

    def __init__(self, options: type[OptionSet], script: str, elem_id: Callable[[str], str],
                 told: Callable[[Params], bool], *, resets: bool = True,
                 drawn: Mapping[str, Callable[[Option, dict[str, Any]], list[Any]]] | None = None,
                 pasted: Mapping[str, Callable[[Params], Any]] | None = None):
        self.options, self.script, self.elem_id, self.told, self.resets = options, script, elem_id, told, resets
        self.drawn, self.pasted = drawn or {}, pasted or {}
        self._made: dict[str, list[Any]] = {}
        self.fields: list[PasteField] = []
        """What pastes infotext into them."""

    @property
    def components(self) -> list[Any]:
        """All of them, in the order of `ordered`, wherever they were drawn."""
        return [component for option in ordered(self.options) for component in self._made.get(option.name, ())]

    def draw(self, options: Sequence[Option]) -> None:
        """Adds the components of some options to the page."""
        for option in options:
            shared = {"label": title(option, self.script), "info": option.help, "elem_id": self.elem_id(option.name)}
            own = self.drawn.get(option.name)
            made = own(option, shared) if own else draw(option.kind, option, shared)
            self._made[option.name] = made
            for end, component in enumerate(made):
                self.fields.append(PasteField(component, partial(self._paste, option, end)))

    def _paste(self, option: Option, end: int, params: Params) -> Any:
        """The pasted value of a component; None: leave it as it is."""
        if option.name in self.pasted:
            return self.pasted[option.name](params)
        if not self.told(params):
            return None
        values, errors = self.options.read_infotext(params)
        for error in errors:
            if error.field == option.name:
                if end == 0:
                    tell_page(f"not pasted: {error}")
                return None
        if option.name not in values and not self.resets:
            return None
        return shown(option, values.get(option.name, option.default))[end]


@singledispatch
def draw(kind: Kind, option: Option, shared: dict[str, Any]) -> list[Any]:
    """The components of an option, one for each of its kind's `ends`; ``shared``: label, info and elem_id."""
    return [gr.Textbox(option.to_text(option.default), **shared)]


@draw.register
def _text(kind: Text, option: Option, shared: dict[str, Any]) -> list[Any]:
    return [gr.Textbox(option.to_text(option.default), lines=2, **shared)]


@draw.register
def _choice(kind: Choice, option: Option, shared: dict[str, Any]) -> list[Any]:
    return [gr.Dropdown(list(kind.shown or kind.choices), value=option.default, allow_custom_value=bool(kind.shown),
                        **shared)]


@draw.register
def _data(kind: Data, option: Option, shared: dict[str, Any]) -> list[Any]:
    """The host's gradio keeps what is dropped there; its file components have no room for help."""
    made = gr.File(label=shared["label"], elem_id=shared["elem_id"], file_types=FILE_TYPES)
    gr.HTML(f'<p class="ivmixed-info">{html.escape(option.help)}</p>')
    return [made]


@draw.register
def _several(kind: Several, option: Option, shared: dict[str, Any]) -> list[Any]:
    return [gr.CheckboxGroup(list(kind.choices), value=list(option.default), **shared)]


@draw.register
def _number(kind: Number, option: Option, shared: dict[str, Any]) -> list[Any]:
    low, high = kind.slider or (kind.minimum, kind.maximum)
    return [gr.Slider(low, high, value=option.default, step=kind.step, **shared)]


@draw.register
def _range(kind: Range, option: Option, shared: dict[str, Any]) -> list[Any]:
    with gr.Row(elem_classes="ivmixed-pair"):
        made = [gr.Slider(kind.minimum, kind.maximum, value=value, step=kind.step, min_width=120,
                          label=f"{shared['label']}, {end}", elem_id=f"{shared['elem_id']}_{end}")
                for end, value in zip(kind.ends, option.default)]
    gr.HTML(f'<p class="ivmixed-info">{html.escape(option.help)}</p>')  # beside one of them it would push it down
    return made


def title(option: Option, script: str) -> str:
    """What a page calls an option of the script of that name."""
    words = option.title or option.label.removeprefix(script).strip()
    words = words[0].upper() + words[1:]
    unit = getattr(option.kind, "unit", "")
    return f"{words} ({unit})" if unit and not words.endswith("percent") else words


def basic(options: type[OptionSet]) -> tuple[Option, ...]:
    """The options that a page shows at once."""
    return tuple(option for option in options.declared() if not option.advanced)


def advanced(options: type[OptionSet]) -> tuple[Option, ...]:
    """The options that a page folds away."""
    return tuple(option for option in options.declared() if option.advanced)


def ordered(options: type[OptionSet]) -> tuple[Option, ...]:
    """All of them, in the order of a form's components."""
    return basic(options) + advanced(options)


def shown(option: Option, value: Any) -> list[Any]:
    """What the components of an option show."""
    if option.kind.typed:
        return [option.to_text(value)]
    if isinstance(option.kind, Data):
        return [None]  # a page is given no files back
    made: Any = None if value is None else option.kind.to_json(value)
    return list(made) if len(option.kind.ends) > 1 else [made]


def values_of(options: OptionSet) -> list[Any]:
    """The values of the components that show these options; the inverse of `of_values`."""
    return [part for option in ordered(type(options)) for part in shown(option, getattr(options, option.name))]


def of_values(options: type[Set], values: Sequence[Any]) -> Set:
    """Options from the values of a form's components. Raises OptionError."""
    left = iter(values)
    given = {}
    for option in ordered(options):
        parts = [next(left) for _ in option.kind.ends]
        value = parts if len(parts) > 1 else parts[0]
        if isinstance(option.kind, Data):
            value = uploaded(option, value)
        given[option.name] = "" if value is None and option.kind.typed else value  # a list without entries sends None
    return options(**given)


def uploaded(option: Option, value: Any) -> Any:
    """The bytes of what was dropped into a page, a file that gradio keeps; JSON has no such object, and no path is
    taken from it. Raises OptionError."""
    path = getattr(value, "name", None)
    if path is None:
        return value
    try:
        if os.path.getsize(path) > option.kind.most:  # type: ignore[attr-defined]
            raise OptionError(option.name, os.path.basename(path), option.allowed, "is too large")
        return Path(path).read_bytes()
    except OSError as error:
        raise OptionError(option.name, os.path.basename(path), option.allowed,
                          f"cannot be read any more ({error.strerror}): drop it again") from None


def of_arguments(options: type[Set], arguments: Any, example: str, defaults: Sequence[Any] | None = None) -> Set | None:
    """What a script was given: one object of options by name, from the API, or the tick of its accordion and then the
    values of its form's components; None where that is not ticked.

    ``defaults``: the values with which the page began, those of the options' defaults where not given. The host puts
    them where the API's arguments leave them out. What else comes along would have no effect: it is refused.
    ``example``: of the object, in words. Raises OptionError.
    """
    if not arguments:
        return None
    first, *values = arguments
    defaults = values_of(options()) if defaults is None else defaults
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
        return options.from_dict(first)
    if first and len(values) < len(defaults):
        raise OptionError("args", list(arguments), f"{whole}; or all {len(defaults) + 1} values of the panel",
                          f"has {len(arguments)} values")
    return of_values(options, values) if first else None


def tell_page(message: str) -> None:
    """Says something in the log, and on the page where it is the page that asked."""
    log.warning(message)
    local = getattr(gradio.context, "LocalContext", None)  # gradio 4's; 3 has it by thread
    event = local.event_id.get() if local else getattr(gradio.context.thread_data, "event_id", None)
    if event is not None:
        gr.Warning(html.escape(message, quote=False))
