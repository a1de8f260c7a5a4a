"""The extension's part of the host's API: the options, the presets, and the plan of a clip before it is made.

It stands beside the host's own API, behind the same door: where the host is started without ``--api`` there is none,
and ``--api-auth`` is asked for here as there. No model is touched.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request

from ..options import OptionError
from ..untrusted import MAX_BYTES, JsonError, parse
from . import NAME, presets, preview
from .options import WebUIOptions
from .preview import PlanRequest

ROOT = "/ivmixed/v1"
HOST_ROUTE = "/sdapi/v1/options"


def register(demo: Any, app: FastAPI) -> None:
    """Adds the routes; called by the host once its own are there."""
    door = next((route for route in app.routes if getattr(route, "path", None) == HOST_ROUTE), None)
    if door is None:
        return
    dependencies = door.dependencies  # type: ignore[attr-defined]  # as the host's own routes have them: its password
    routes: list[tuple[str, str, Callable[..., Any]]] = [
        ("GET", "options", options), ("GET", "presets", all_presets), ("POST", "plan", plan)]
    for method, name, endpoint in routes:
        body = {"requestBody": {"content": {"application/json": {"schema": PlanRequest.schema()}}, "required": True}}
        app.add_api_route(f"{ROOT}/{name}", endpoint, methods=[method], tags=[NAME], dependencies=dependencies,
                          openapi_extra=body if endpoint is plan else None)


def options() -> dict[str, Any]:
    """The sampler's options as a JSON schema, with defaults, ranges and help. Keys with x- are what it has no word for:
    the unit, the key in the infotext, the option that serves while this one is null."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": NAME, **WebUIOptions.schema()}


def all_presets() -> list[dict[str, Any]]:
    """The presets: those that come along, then the user's own."""
    return [presets.to_dict(name, preset) for name, preset in presets.every().items()]


async def _body(request: Request) -> Any:
    """The request's JSON, bounded. Raises HTTPException."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise _wrong([], f"has more than {MAX_BYTES} bytes")
    try:
        return parse(data)
    except JsonError as error:
        raise _wrong([], str(error)) from None


def _wrong(place: list[str], problem: str) -> HTTPException:
    """Status 422, as FastAPI says it of its own."""
    return HTTPException(status_code=422, detail=[{"loc": ["body", *place], "msg": problem, "type": "value_error"}])


def plan(body: Any = Depends(_body)) -> dict[str, Any]:  # noqa: B008  as FastAPI wants it
    """The moves of a clip, and what they cost: evaluations of both models, how many times plain AnimateDiff in
    arithmetic, and seconds, once a clip was timed on this machine. What is refused is answered with status 422 and the
    place of the field."""
    try:
        asked = PlanRequest.from_dict(body)
    except OptionError as error:
        raise _wrong([*error.within, error.field], str(error)) from None
    try:
        made = preview.plan_of(asked.options, asked.steps, asked.scheduler, asked.denoising_strength, asked.sigmas,
                               asked.sampler, asked.video_table)
        timed = asked.frames if asked.video_table == preview.ANIMATEDIFF else None  # no other clip runs here
        cost = preview.price(made, timed, asked.width, asked.height, asked.free_init)
    except OptionError as error:
        within = ["options"] * any(error.field == option.name for option in WebUIOptions.declared())
        raise _wrong([*within, error.field], str(error)) from None
    return {"description": made.describe(), "cost": cost, "active_steps": made.active_steps,
            "finishing_steps": made.finishing_steps, **made.to_dict()}
