"""The host's own components."""
import gradio as gr


class InputAccordion(gr.Checkbox):
    """An accordion whose value is whether it is open: a hidden checkbox, and the accordion that follows it."""

    def __init__(self, value, *, label, elem_id):
        super().__init__(value, label=label, elem_id=f"{elem_id}-checkbox", visible=False)
        self.accordion = gr.Accordion(label=label, elem_id=elem_id, open=value)

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, *error):
        self.accordion.__exit__(*error)

    def get_block_name(self):
        return "checkbox"
