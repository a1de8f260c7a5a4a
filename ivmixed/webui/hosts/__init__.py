"""The host: which WebUI this is, and what the extension needs of it. Each has a file here, `find` chooses.

What a host does as all do is in no host's file; CONTRIBUTING.md says how to add one.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from ...clips.encode import Frames
    from ...motion import Motion
    from ..builtin.generation import BuiltinClip
    from ..motion import ClipMotion
    from ..run import Strategy
    from ..sampler import Sampler

T = TypeVar("T")


class Host(Protocol):
    """A WebUI. ``p`` is a request of its own, a ``StableDiffusionProcessing``."""

    # What the sampler needs -------------------------------------------------------------------------------------------

    def installed(self) -> AbstractContextManager[None]:
        """Around the time in which the extension's scripts are loaded: what else it changes in the host."""

    def prepare(self, p: Any) -> None:
        """Before anything is changed for a request with our sampler or our motion; the checkpoint is loaded."""

    def finished(self, p: Any) -> None:
        """At the end of any request: frees what was kept for it."""

    def failed(self, p: Any) -> None:
        """Instead of that after an error, possibly more than once: also puts back what a request has changed."""

    def strategy(self, sampler: Sampler, p: Any, motion: ClipMotion | None) -> AbstractContextManager[Strategy]:
        """Around one sampling: how the two models are asked in it. Raises RefusedError, OptionError."""

    # What motion needs ------------------------------------------------------------------------------------------------

    def attached(self, clip: BuiltinClip) -> AbstractContextManager[Motion]:
        """Within the block the clip's motion module is in the UNet, on the noise table that it was trained on.

        Raises MotionError where it does not fit.
        """

    def builtin_motion(self, sampler: Sampler, clip: BuiltinClip) -> ClipMotion:
        """The motion that `attached` has put there, for a sampling."""

    def animatediff_motion(self, sampler: Sampler, p: Any, frames: int) -> ClipMotion | None:
        """The AnimateDiff extension's for a latent of ``frames`` frames; None where the UNet has none, or the latent is
        no clip. Raises RefusedError, OptionError where the request asks for motion and there is none."""

    def fed_controlnet(self, p: Any, frames: Sequence[Frames]) -> AbstractContextManager[Callable[[], None]]:
        """Within the block, in which ControlNet prepares its units, those without a picture of their own take
        ``frames``, one for each of the clip's. What it gives raises RefusedError afterwards where they did not. Raises
        OptionError where it cannot be here."""

    # What the page needs ----------------------------------------------------------------------------------------------

    animatediff_acts: bool
    """Whether the AnimateDiff extension has an effect here."""

    def tab_title(self, name: str) -> str:
        """The name of a tab, written as the host writes its own."""

    def in_generation_thread(self, function: Callable[[], T]) -> T:
        """What ``function`` gives or raises, called where the host makes the generations of its page."""


@cache
def find() -> Host:
    """The host, told by a module that only it has."""
    if _has("modules_forge.presets"):
        from .forge.neo import ForgeNeo
        return ForgeNeo()
    if _has("modules_forge.main_entry"):
        from .forge.main import ForgeMain
        return ForgeMain()
    if _has("ldm_patched.modules.patcher_extension"):
        from .forge.reforge import ReForge
        return ReForge()
    if _has("ldm_patched.modules.tomesd"):
        from .forge.classic import ForgeClassic
        return ForgeClassic()
    if _has("modules_forge.forge_sampler"):
        from .forge.previous import ForgePrevious
        return ForgePrevious()
    from .a1111 import A1111
    return A1111()


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False
