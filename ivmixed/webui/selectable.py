"""The host's selectable scripts (X/Y/Z plot, Prompt matrix, ...) around clips of built-in motion.

Such a script asks the host for pictures, once or many times, and goes on with them: it lays them out in a grid, or
gathers them. In the place of a clip it gets one picture, the clip's first frame. When it has finished, the answer of an
API request has the clips, and what went wrong on the way is said.

Read beside ``ScriptRunner.run`` in the hosts' ``modules/scripts.py``, ``cell`` in ``scripts/xyz_grid.py`` (which copies
the request, shows an error and goes on with an empty picture) and ``scripts/prompt_matrix.py``.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from modules import errors, scripts

from .. import NonFiniteError
from ..options import ConflictError
from ..patch import replaced
from . import request
from .errors import RefusedError, refusing

STILLS = ("Loopback", "SD upscale", "Outpainting mk2", "Poor man's outpainting")
"""The titles of scripts that make the next picture from the one before, or a picture of many."""


class _StandIn(NamedTuple):
    picture: Any
    """What the script goes on with."""
    answer: list[Any]
    """The clip in an API's answer."""
    infotext: str


class ScriptRun:
    """What the requests of one run of a selectable script gave."""

    def __init__(self) -> None:
        self.finished = 0
        """Requests that were made."""
        self.clips: list[_StandIn] = []
        self.problems: list[str] = []
        """What the user is to know."""
        self.errors: list[Exception] = []
        """Ours, which the script has passed over."""

    def noting(self, display: Callable[..., None]) -> Callable[..., None]:
        """The host's ``errors.display``, which the X/Y/Z plot shows an error with that it goes on after."""
        def call(error: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(error, (RefusedError, NonFiniteError)):
                self.errors.append(error)
                self.problems.append(f"left out: {error}")
            display(error, *args, **kwargs)
        return call

    def put_into(self, result: Any) -> None:
        """Puts the clips into the answer to an API request: where the script has a clip's picture, the others last."""
        clips = {id(clip.picture): clip for clip in self.clips}
        images: list[Any] = []
        infotexts: list[str] = []
        for index, image in enumerate(result.images):
            clip = clips.pop(id(image), None)
            answer = [image] if clip is None else clip.answer
            text = result.infotexts[index] if index < len(result.infotexts) else result.info
            images += answer
            infotexts += [text] * len(answer)
        for clip in clips.values():
            images += clip.answer
            infotexts += [clip.infotext] * len(clip.answer)
        result.images, result.infotexts = images, infotexts


def watched() -> AbstractContextManager[None]:
    """Within the block a `ScriptRun` is around every run of a selectable script."""
    return replaced(scripts.ScriptRunner, "run", _watched(scripts.ScriptRunner.run))


def _watched(host_run: Callable[..., Any]) -> Callable[..., Any]:
    def run(runner: Any, p: Any, *args: Any) -> Any:
        if not (args and args[0]):
            return host_run(runner, p, *args)
        asked = ScriptRun()
        with (refusing(), replaced(request.of(p), "script_run", asked),
              replaced(errors, "display", asked.noting(errors.display))):
            result = host_run(runner, p, *args)
        if asked.errors and not asked.finished:
            raise asked.errors[0]
        if result is not None:
            said = [line for line in dict.fromkeys(asked.problems) if line not in result.comments]
            result.comments += "".join(f"\n{line}" for line in said)
            if getattr(p, "is_api", False):
                asked.put_into(result)
        return result
    return run


def stand_in(run: ScriptRun, picture: Any, answer: Sequence[Any], infotext: str) -> Any:
    """``picture``, which a script goes on with in the place of a clip; ``answer`` is that clip for an API."""
    run.clips.append(_StandIn(picture, list(answer), infotext))
    return picture


def check(p: Any) -> None:
    """Raises ConflictError where the chosen script can do nothing with a clip."""
    number = p.script_args[0]  # where the request has infotext, the page's word for none
    title = p.scripts.selectable_scripts[number - 1].title() if isinstance(number, int) and number > 0 else ""
    if title in STILLS:
        raise ConflictError("script", title, "built-in motion", because="it goes on with single pictures",
                            remedy="take none, or one that makes a clip of each request, as X/Y/Z plot, Prompt matrix "
                                   "and Prompts from file do")
