"""The host's own components."""
from contextlib import suppress
from functools import wraps

import gradio as gr

with suppress(ImportError):  # Forge main has it
    from modules import gradio_extensions  # noqa: F401


class ToolButton(gr.Button):
    """A small button with a symbol."""

    def __init__(self, value="", *args, elem_classes=(), **kwargs):
        super().__init__(value, *args, elem_classes=["tool", *elem_classes], **kwargs)

    def get_block_name(self):
        return "button"


def InputAccordion(value, *, label, elem_id):
    return InputAccordionImpl(value, setup=True, label=label, elem_id=elem_id)


class InputAccordionImpl(gr.Checkbox):
    """An accordion whose value is whether it is open: a hidden checkbox, and the accordion that follows it.

    Gradio 4 reads in ``__init__`` what a component shows, and makes it anew from that where its value changes.
    """

    @wraps(gr.Checkbox.__init__)
    def __init__(self, value=None, setup=False, **kwargs):
        if not setup:
            super().__init__(value=value, **kwargs)
            return
        label, elem_id = kwargs["label"], kwargs["elem_id"]
        super().__init__(value, label=label, elem_id=f"{elem_id}-checkbox", visible=False)
        self.change(fn=None, _js=f"(checked) => inputAccordionChecked('{elem_id}', checked)", inputs=[self])
        self.accordion = gr.Accordion(label=label, elem_id=elem_id, elem_classes=["input-accordion"], open=value)

    def extra(self):
        """What is made in it stands beside the label."""
        return gr.Column(elem_id=f"{self.accordion.elem_id}-extra", elem_classes="input-accordion-extra", min_width=0)

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, *error):
        self.accordion.__exit__(*error)

    def get_block_name(self):
        return "checkbox"
