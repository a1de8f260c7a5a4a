"""What the API does with the infotext of a request: fields of the request by ``api`` name, scripts by component."""
import dataclasses

import gradio as gr

from modules.processing import StableDiffusionProcessing


def script_arguments_of_infotext(runner, params):
    """The scripts' arguments that an infotext names, by index."""
    request = {field.name for field in dataclasses.fields(StableDiffusionProcessing)}
    for field in runner.infotext_fields:
        if field.api and _value(field, params) is not None and field.api not in request:
            raise ValueError(f'"StableDiffusionProcessingTxt2Img" object has no field "{field.api}"')
    indexes = {component: index for index, component in enumerate(runner.inputs)
               if isinstance(component, gr.blocks.Block)}
    values = {indexes[field.component]: _value(field, params) for field in runner.infotext_fields}
    return {index: value for index, value in values.items() if value is not None}


def _value(field, params):
    value = field.function(params) if field.function else params.get(field.label)
    kind = type(field.component.value)
    return value if value is None or isinstance(value, kind) else kind(value)
