"""What stands over a tab: the prompts and the buttons."""
from types import SimpleNamespace

import gradio as gr

from modules import shared


class Toprow:
    def __init__(self, is_img2img, is_compact=False, id_part=None):
        self.id_part = id_part or ("img2img" if is_img2img else "txt2img")
        self.prompt = self.negative_prompt = self.ui_styles = self.paste = None
        if is_compact:  # these are made one by one, where the tab asks for them
            return
        with gr.Row(elem_id=f"{self.id_part}_toprow"):
            with gr.Column(scale=6):
                self.prompt = gr.Textbox(label="Prompt", elem_id=f"{self.id_part}_prompt", lines=3, value="")
                self.negative_prompt = gr.Textbox(
                    label="Negative prompt", elem_id=f"{self.id_part}_neg_prompt", lines=3, value="")
            with gr.Column(scale=1):
                self.interrupt = gr.Button("Interrupt", elem_id=f"{self.id_part}_interrupt")
                self.skip = gr.Button("Skip", elem_id=f"{self.id_part}_skip")
                self.submit = gr.Button("Generate", elem_id=f"{self.id_part}_generate", variant="primary")
                self.paste = gr.Button("Paste", elem_id=f"{self.id_part}_paste")
                dropdown = gr.Dropdown([], value=[], multiselect=True, label="Styles")
        self.ui_styles = SimpleNamespace(dropdown=dropdown)
        self.skip.click(fn=shared.state.skip)
        self.interrupt.click(fn=shared.state.interrupt)
