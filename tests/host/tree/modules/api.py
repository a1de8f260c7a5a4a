"""The API's routes; and what it does with the infotext of a request: fields by ``api`` name, scripts by component."""
import dataclasses
from secrets import compare_digest

import gradio as gr
from fastapi import Depends, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from modules import shared
from modules.processing import StableDiffusionProcessing


class Api:
    """One of the host's routes, behind the users and passwords of ``--api-auth`` where there are any."""

    def __init__(self, app):
        self.credentials = {}
        if shared.cmd_opts.api_auth:
            self.credentials = dict(user.split(":") for user in shared.cmd_opts.api_auth.split(","))
        more = {"dependencies": [Depends(self.auth)]} if self.credentials else {}
        app.add_api_route("/sdapi/v1/options", lambda: {}, methods=["GET"], **more)

    def auth(self, credentials: HTTPBasicCredentials = Depends(HTTPBasic())):  # noqa: B008  as FastAPI wants it
        if not compare_digest(credentials.password, self.credentials.get(credentials.username, "")):
            raise HTTPException(status_code=401, headers={"WWW-Authenticate": "Basic"})
        return True


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
