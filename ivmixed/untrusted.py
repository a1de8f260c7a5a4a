"""JSON that strangers wrote: marks in clips, sidecars, shared presets, headers of LoRAs, configurations of folders.

    parse('{"a": [1, 2.5]}')         # {"a": [1, 2.5]}
    parse('{"a": NaN}')              # JsonError: holds NaN, which is no number

What comes out is bounded in size and depth, finite, and can be written as UTF-8. What it means is for the caller to
check.
"""
from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_BYTES = 1 << 20
"""Characters or bytes of one text, by default."""
MAX_DEPTH = 32
"""Arrays and objects inside each other."""
MAX_WHOLE = 1 << 64
"""Whole numbers lie between minus this and this: every seed fits."""
SHOWN = 200
"""Characters of a stranger's value that a message repeats."""


class Refusal(ValueError):
    """What somebody gave cannot be used. The message is one line for them: what is wrong, where, and what to do."""


class JsonError(ValueError):
    """A text is refused. The message is one line that goes on after the name of what was read: ``is no JSON (...)``."""


def parse(text: str | bytes, *, most: int = MAX_BYTES) -> Any:
    """The value of a JSON text. Numbers are finite, strings are valid Unicode.

    ``most``: characters (of bytes: bytes) that are looked at. Raises JsonError: too long, too deep, no JSON, a number
    that is NaN, infinite or beyond `MAX_WHOLE`, or half a surrogate pair in a string.
    """
    if len(text) > most:
        raise JsonError(f"is too long ({len(text)} characters, {most} are allowed)")
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except JsonError:
        raise
    except RecursionError:
        raise JsonError(f"is nested too deep (more than {MAX_DEPTH} levels)") from None
    except ValueError as error:  # also bytes that are no UTF-8
        raise JsonError(f"is no JSON ({shown(str(error))})") from None
    _check(value)
    return value


def parse_object(text: str | bytes, *, most: int = MAX_BYTES) -> dict[str, Any]:
    """As `parse`, of a text that has to be an object. Raises JsonError."""
    value = parse(text, most=most)
    if not isinstance(value, dict):
        raise JsonError("is no JSON object")
    return value


def shown(value: Any, most: int = SHOWN) -> str:
    """A value as a message repeats it: on one line, printable, at most ``most`` characters."""
    if isinstance(value, str):
        text = value if len(value) <= most else value[:most]
    else:
        try:
            text = repr(value)
        except (ValueError, RecursionError):  # a whole number of thousands of digits, a list that holds itself
            text = f"a {type(value).__name__}"
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= most else text[:most - 3] + "..."


def _no_number(name: str) -> NoReturn:
    raise JsonError(f"holds {name}, which is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise JsonError(f"holds the number {shown(digits, 40)}, which is too large")
    return number


def _whole(digits: str) -> int:
    if len(digits) > 21 or abs(int(digits)) > MAX_WHOLE:
        raise JsonError(f"holds the number {shown(digits, 40)}, which is too large")
    return int(digits)


def _check(value: Any) -> None:
    """Bounds the depth, and refuses half surrogate pairs; without recursion. Raises JsonError."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        texts = [part for part in level if isinstance(part, str)]
        objects = [part for part in level if isinstance(part, dict)]
        texts += [key for part in objects for key in part]
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise JsonError("holds half a surrogate pair, which is no character") from None
        level = [inner for part in level if isinstance(part, (dict, list))
                 for inner in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return
    raise JsonError(f"is nested too deep (more than {MAX_DEPTH} levels)")
