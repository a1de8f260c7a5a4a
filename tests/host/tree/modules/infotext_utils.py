"""Infotext: the line of parameters under a picture, and the way back into the page's components."""
import json
import re
from dataclasses import dataclass
from typing import Any

import gradio as gr

from modules import errors

_parameter = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


class PasteField(tuple):
    def __new__(cls, component, target, *, api=None):
        return super().__new__(cls, (component, target))

    def __init__(self, component, target, *, api=None):
        super().__init__()
        self.api = api
        self.component = component
        self.label = target if isinstance(target, str) else None
        self.function = target if callable(target) else None


@dataclass
class ParamBinding:
    """A button that pastes the text of a component into a tab."""

    paste_button: Any
    tabname: str
    source_text_component: Any = None
    source_image_component: Any = None


paste_fields = {}
bindings = []


def add_paste_fields(tabname, init_img, fields, override_settings_component=None):
    paste_fields[tabname] = fields


def register_paste_params_button(binding):
    bindings.append(binding)


def connect_paste_params_buttons():
    for binding in bindings:
        fields = paste_fields[binding.tabname]

        def paste(text, fields=fields):
            prompt, *_, line = text.split("\n")
            return pasted(fields, {"Prompt": prompt, **parse(line)})

        binding.paste_button.click(paste, inputs=[binding.source_text_component],
                                   outputs=[component for component, _ in fields])
        for name in ("recalculate_prompts", "switch_to"):
            binding.paste_button.click(fn=None, _js=f"{name}_{binding.tabname}", inputs=None, outputs=None)
    bindings.clear()


def quote(text):
    return json.dumps(text) if any(mark in str(text) for mark in ",\n:") else text


def line_of(params):
    """The last line of an infotext."""
    return ", ".join(f"{key}: {quote(value)}" for key, value in params.items() if value is not None)


def parse(line):
    """The parameters in that line."""
    return {key: json.loads(value) if value.startswith('"') else value for key, value in _parameter.findall(line)}


def pasted(fields, params):
    """What the paste button gives to each component: a value, or an empty update that leaves it as it is."""
    updates = []
    for component, target in fields:
        try:
            value = target(params) if callable(target) else params.get(target)
        except Exception as error:
            errors.report(f"paste: {error!r}")
            value = None
        if value is not None:
            kind = type(component.value)
            value = False if kind is bool and value == "False" else float(value) if kind is int else kind(value)
        updates.append(gr.update() if value is None else gr.update(value=value))
    return updates
