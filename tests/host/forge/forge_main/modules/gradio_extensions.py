"""Gradio 4 as extensions written for gradio 3 want it: events take their JavaScript by its old name, ``_js``."""
from functools import wraps

import gradio as gr


def _with_old_name(cls):
    made = cls.__init__

    @wraps(made)  # gradio reads the names of its properties there
    def __init__(self, *args, **kwargs):
        made(self, *args, **kwargs)
        for event in cls.EVENTS:
            setattr(self, str(event), _renaming(getattr(self, str(event))))

    cls.__init__ = __init__


def _renaming(listener):
    def listen(*args, **kwargs):
        if "_js" in kwargs:
            kwargs["js"] = kwargs.pop("_js")
        return listener(*args, **kwargs)
    return listen


if gr.__version__.startswith("4."):  # the tests of the sampler run this host on gradio 3 as well
    import gradio.component_meta

    gradio.component_meta.create_or_modify_pyi = lambda *args: None  # it writes beside the file of every component
    gradio.component_meta.updateable = lambda function: function  # as the host has it
    for _cls in (gr.Button, gr.Checkbox, gr.Dropdown, gr.File, gr.Number, gr.Slider, gr.Textbox):
        _with_old_name(_cls)
