"""The extension's part of the host's API: the options, the presets, and the plan of a clip before it is made.

It stands beside the host's own API, behind the same door: where the host is started without ``--api`` there is none,
and ``--api-auth`` is asked for here as there. No model is touched.
"""
from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request

from ..options import LONGEST_TEXT, MOST_KEYS, OPTIONS, Option, OptionError, Options, unknown
from ..untrusted import MAX_BYTES, JsonError, parse
from . import NAME, presets, preview

ROOT = "/ivmixed/v1"
_KEY = r"[0-9.]+=[0-9.]+"
HOST_ROUTE = "/sdapi/v1/options"

FIELDS = {option.name: option for option in (
    preview.STEPS,
    Option("sampler", "text", NAME, "", "One of the samplers of this extension, by name"),
    Option("scheduler", "text", preview.AUTOMATIC, "", "Schedule type, by the name in the page's list"),
    Option("denoising_strength", "number", None, "", "Of img2img, which leaves steps out", minimum=0, maximum=1),
    preview.FRAMES, preview.WIDTH, preview.HEIGHT,
)}
"""What `plan` may be asked for besides ``sigmas`` and ``options``."""


def register(demo: Any, app: FastAPI) -> None:
    """Adds the routes; called by the host once its own are there."""
    door = next((route for route in app.routes if getattr(route, "path", None) == HOST_ROUTE), None)
    if door is None:
        return
    for method, name, endpoint in ("GET", "options", options), ("GET", "presets", all_presets), ("POST", "plan", plan):
        body = {"requestBody": {"content": {"application/json": {"schema": _request()}}, "required": True}}
        app.add_api_route(f"{ROOT}/{name}", endpoint, methods=[method], tags=[NAME], dependencies=door.dependencies,
                          openapi_extra=body if endpoint is plan else None)


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
    arithmetic, and seconds, once a clip was timed on this machine. A refused option is answered with status 422."""
    try:
        given, sigmas = _given(body)
    except OptionError as error:
        raise _wrong([error.field], str(error)) from None
    try:
        made = preview.plan_of(Options.from_dict(body.get("options", {})), given["steps"], given["scheduler"],
                               given["denoising_strength"], sigmas, given["sampler"])
        cost = preview.price(made, given["frames"], given["width"], given["height"])
    except OptionError as error:
        raise HTTPException(status_code=422, detail=str(error)) from None
    return {"description": made.describe(), "cost": cost, "active_steps": made.active_steps,
            "finishing_steps": made.finishing_steps, **made.to_dict()}


def _given(body: Any) -> tuple[dict[str, Any], list[float] | None]:
    """The checked `FIELDS` and ``sigmas`` of a request for a plan. Raises OptionError."""
    names = [*FIELDS, "sigmas", "options"]
    if not isinstance(body, dict):
        raise OptionError("body", body, f"an object of {', '.join(names)}")
    for name, value in body.items():
        if name not in names:
            raise unknown(name, value, names, "field")
    if not isinstance(body.get("options", {}), dict):
        raise OptionError("options", body["options"], "an object with option names as keys")
    sigmas = body.get("sigmas")
    allowed = f"2 to {preview.MOST_STEPS + 1} levels of noise that descend, to 0 or above"
    numbers = isinstance(sigmas, list) and len(sigmas) <= preview.MOST_STEPS + 1 and all(
        isinstance(sigma, (int, float)) and not isinstance(sigma, bool) for sigma in sigmas)
    if sigmas is not None and not numbers:
        raise OptionError("sigmas", sigmas, allowed)
    given = {name: option.check(body.get(name, option.default)) for name, option in FIELDS.items()}
    return given, None if sigmas is None else [float(sigma) for sigma in sigmas]


def _request() -> dict[str, Any]:
    """What `plan` may be asked for, as a JSON schema."""
    properties = {option.name: {**_schema(option), "description": f"{option.help}. Allowed: {option.allowed}."}
                  for option in FIELDS.values()}
    return {"type": "object", "additionalProperties": False, "properties": {
        **properties,
        "sigmas": {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2,
                   "maxItems": preview.MOST_STEPS + 1, "nullable": True,
                   "description": "noise levels, descending, instead of steps and scheduler"},
        "options": {"type": "object", "description": "of the sampler, by name, see GET options; the rest at default"}}}


def _schema(option: Option) -> dict[str, Any]:
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    schema: dict[str, Any] = {"title": option.label, "description": f"{option.help}. Allowed: {option.allowed}.",
                              "default": default, "x-infotext": option.label}
    if option.unit:
        schema["x-unit"] = option.unit
    if option.kind == "choice":
        return {**schema, "enum": list(option.choices)}
    if option.kind == "text":
        return {**schema, "type": "string", "maxLength": LONGEST_TEXT}
    number = {"type": "number", "minimum": option.minimum, "maximum": option.maximum}
    if option.kind == "whole":
        number["type"] = "integer"
    if option.kind in ("number", "whole"):
        return {**schema, **number}
    if option.kind == "size":
        side = {**number, "type": "integer", "multipleOf": option.step}
        return {**schema, "anyOf": [{"type": "array", "items": side, "minItems": 2, "maxItems": 2},
                                    {"type": "string", "pattern": "^([0-9]+[xX][0-9]+)?$"}, {"type": "null"}]}
    if option.kind == "curve":
        key = {"type": "array", "prefixItems": [{**number, "minimum": 0, "maximum": 100}, number],
               "minItems": 2, "maxItems": 2}
        return {**schema, "anyOf": [{"type": "array", "items": key, "maxItems": MOST_KEYS},
                                    {"type": "string", "maxLength": LONGEST_TEXT,
                                     "pattern": f"^({_KEY}( +{_KEY})*)?$"}]}
    kinds = [{"type": "array", "items": number, "minItems": 2, "maxItems": 2}]
    if not option.ascending:
        kinds.append(number)
    if option.follows:
        kinds.append({"type": "null"})
        schema["x-follows"] = option.follows
    return {**schema, "anyOf": kinds}
