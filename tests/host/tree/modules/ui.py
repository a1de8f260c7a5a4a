"""The components of a tab that extensions look at, made in the host's order: its own, the scripts' panels, the results.

The hosts tell scripts of every component that is made; here of these alone.
"""
import gradio as gr

from modules import infotext_utils, script_callbacks, sd_samplers, sd_schedulers


def create_ui(runner, page):
    with gr.Blocks(analytics_enabled=False) as txt2img:
        create_tab(runner, "txt2img")
    interfaces = [(txt2img, "txt2img", "txt2img"), *script_callbacks.ui_tabs_callback()]
    with page() as demo:
        infotext_utils.connect_paste_params_buttons()
        with gr.Tabs(elem_id="tabs"):
            for interface, label, elem_id in interfaces:
                with gr.TabItem(label, id=elem_id, elem_id=f"tab_{elem_id}"):
                    interface.render()
    return demo


def create_tab(runner, tab):
    components = {}

    def made(component):
        components[component.elem_id] = component
        runner.after_component(component, elem_id=component.elem_id)

    with gr.Column(elem_id=f"{tab}_settings"):
        made(gr.Textbox("", label="Prompt", elem_id=f"{tab}_prompt"))
        names = [sampler.name for sampler in sd_samplers.all_samplers]
        made(gr.Dropdown(names, value=names[0], label="Sampling method", elem_id=f"{tab}_sampling"))
        labels = [scheduler.label for scheduler in sd_schedulers.schedulers]
        made(gr.Dropdown(labels, value=labels[0], label="Schedule type", elem_id=f"{tab}_scheduler"))
        made(gr.Slider(1, 150, value=20, step=1, label="Sampling steps", elem_id=f"{tab}_steps"))
        made(gr.Slider(64, 2048, value=512, step=8, label="Width", elem_id=f"{tab}_width"))
        made(gr.Slider(64, 2048, value=512, step=8, label="Height", elem_id=f"{tab}_height"))
        made(gr.Slider(1, 30, value=7, step=0.5, label="CFG Scale", elem_id=f"{tab}_cfg_scale"))
        if tab == "img2img":
            made(gr.Slider(
                0, 1, value=0.75, step=0.01, label="Denoising strength", elem_id=f"{tab}_denoising_strength"))
        made(gr.Number(value=16, label="Number of frames", precision=0, elem_id=f"{tab}-ad-video-length"))
        with gr.Group(elem_id=f"{tab}_script_container"):
            for script in runner.alwayson_scripts:
                runner.create_script_ui(script)
                for component in runner.inputs[script.args_from:script.args_to]:
                    if isinstance(component, gr.blocks.Block):
                        made(component)
        made(gr.Gallery(label="Output", elem_id=f"{tab}_gallery"))
    fields = {"Prompt": "prompt", "Steps": "steps", "CFG scale": "cfg_scale", "Sampler": "sampling"}
    infotext_utils.add_paste_fields(tab, None, [
        *((components[f"{tab}_{name}"], label) for label, name in fields.items()), *runner.infotext_fields])
