"""Parts of the host's page."""
import html

import gradio as gr

refresh_symbol = "\N{CLOCKWISE RIGHTWARDS AND LEFTWARDS OPEN CIRCLE ARROWS}"


def plaintext_to_html(text, classname=None):
    attribute = f" class='{classname}'" if classname else ""
    return f"<p{attribute}>{'<br>'.join(html.escape(line) for line in text.split(chr(10)))}</p>"


def create_refresh_button(refresh_component, refresh_method, refreshed_args, elem_id):
    def refresh():
        refresh_method()
        return gr.update(**refreshed_args())

    button = gr.Button("refresh", elem_id=elem_id)
    button.click(refresh, outputs=[refresh_component])
    return button
