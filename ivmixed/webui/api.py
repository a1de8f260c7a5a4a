"""The extension's part of the host's API: the options, the presets, and the plan of a clip before it is made.

It stands beside the host's own API, behind the same door: where the host is started without ``--api`` there is none,
and ``--api-auth`` is asked for here as there. No model is touched.
"""
from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from ..options import OPTIONS, Option, OptionError, Options
from . import NAME, presets, preview

ROOT = "/ivmixed/v1"
_KEY = r"[0-9.]+=[0-9.]+"
HOST_ROUTE = "/sdapi/v1/options"


class PlanRequest(BaseModel):
    """A clip that may be made. ``sigmas`` wins over ``steps`` and ``scheduler``."""

    steps: int = Field(25, ge=1, le=preview.MOST_STEPS, description="sampling steps")
    sampler: str = Field(NAME, description="one of the samplers of this extension, by name")
    scheduler: str = Field(preview.AUTOMATIC, description="schedule type, by the name in the page's list")
    sigmas: list[float] | None = Field(None, description="noise levels instead: steps + 1 of them, descending")
    denoising_strength: float | None = Field(None, ge=0, le=1, description="of img2img, which leaves steps out")
    options: dict[str, Any] = Field({}, description="of the sampler, by name, see GET options; the rest at default")
    frames: int | None = Field(None, ge=1, description="of the clip; with width and height the time is estimated")
    width: int | None = Field(None, ge=8, description="in pixels")
    height: int | None = Field(None, ge=8, description="in pixels")


def register(demo: Any, app: FastAPI) -> None:
    """Adds the routes; called by the host once its own are there."""
    door = next((route for route in app.routes if getattr(route, "path", None) == HOST_ROUTE), None)
    if door is None:
        return
    for method, name, endpoint in ("GET", "options", options), ("GET", "presets", all_presets), ("POST", "plan", plan):
        app.add_api_route(f"{ROOT}/{name}", endpoint, methods=[method], tags=[NAME], dependencies=door.dependencies)


def options() -> dict[str, Any]:
    """The sampler's options as a JSON schema, with defaults, ranges and help. Keys with x- are what it has no word for:
    the unit, the key in the infotext, the option that serves while this one is null."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": NAME, "type": "object",
        "properties": {option.name: _schema(option) for option in OPTIONS}, "additionalProperties": False,
    }


def all_presets() -> list[dict[str, Any]]:
    """The presets: those that come along, then the user's own."""
    return [presets.to_dict(name, preset) for name, preset in presets.every().items()]


def plan(request: PlanRequest) -> dict[str, Any]:
    """The moves of a clip, and what they cost: evaluations of both models, how many times plain AnimateDiff in
    arithmetic, and seconds, once a clip was timed on this machine. A refused option is answered with status 422."""
    try:
        made = preview.plan_of(Options.from_dict(request.options), request.steps, request.scheduler,
                               request.denoising_strength, request.sigmas, request.sampler)
        cost = preview.price(made, request.frames, request.width, request.height)
    except OptionError as error:
        raise HTTPException(status_code=422, detail=str(error)) from None
    return {"description": made.describe(), "cost": cost, "active_steps": made.active_steps,
            "finishing_steps": made.finishing_steps, **made.to_dict()}


def _schema(option: Option) -> dict[str, Any]:
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    schema: dict[str, Any] = {"title": option.label, "description": f"{option.help}. Allowed: {option.allowed}.",
                              "default": default, "x-infotext": option.label}
    if option.unit:
        schema["x-unit"] = option.unit
    if option.kind == "choice":
        return {**schema, "enum": list(option.choices)}
    if option.kind == "text":
        return {**schema, "type": "string"}
    number = {"type": "number", "minimum": option.minimum, "maximum": option.maximum}
    if option.kind == "number":
        return {**schema, **number}
    if option.kind == "size":
        side = {**number, "type": "integer", "multipleOf": option.step}
        return {**schema, "anyOf": [{"type": "array", "items": side, "minItems": 2, "maxItems": 2},
                                    {"type": "string", "pattern": "^([0-9]+[xX][0-9]+)?$"}, {"type": "null"}]}
    if option.kind == "curve":
        key = {"type": "array", "prefixItems": [{**number, "minimum": 0, "maximum": 100}, number],
               "minItems": 2, "maxItems": 2}
        return {**schema, "anyOf": [{"type": "array", "items": key},
                                    {"type": "string", "pattern": f"^({_KEY}( +{_KEY})*)?$"}]}
    kinds = [{"type": "array", "items": number, "minItems": 2, "maxItems": 2}]
    if not option.ascending:
        kinds.append(number)
    if option.follows:
        kinds.append({"type": "null"})
        schema["x-follows"] = option.follows
    return {**schema, "anyOf": kinds}
