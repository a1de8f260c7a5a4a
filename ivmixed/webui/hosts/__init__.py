"""Which host this is, told by a module that only it has."""
from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TypeVar

from modules import script_callbacks

from .. import api
from ..page import settings, xyz

T = TypeVar("T")

MARKS = {
    "modules_forge.presets": "forge_neo",
    "modules_forge.main_entry": "forge_main",
    "ldm_patched.modules.patcher_extension": "reforge",
    "ldm_patched.modules.tomesd": "classic",
    "modules_forge.forge_sampler": "forge_previous",
}
"""The first that is there decides; AUTOMATIC1111 has none of them."""
FILES = {"a1111": "a1111", "forge_neo": "forge.neo", "forge_main": "forge.main", "reforge": "forge.reforge",
         "classic": "forge.classic", "forge_previous": "forge.previous"}


def name() -> str:
    """The file of this package that knows the host."""
    return next((host for mark, host in MARKS.items() if _exists(mark)), "a1111")


def register() -> None:
    """Puts this host's sampler where its dropdowns and its API look, and asks to be called where the host calls."""
    sampler = import_module("ivmixed.webui.sampler")
    sampler.register(import_module(f"{__package__}.{FILES[name()]}").IVMixedSampler)
    import_module("ivmixed.webui.selectable").register()
    built_in = import_module("ivmixed.webui.builtin.generation")
    script_callbacks.on_cfg_denoiser(built_in.on_cfg_denoiser)
    script_callbacks.on_ui_settings(settings.add)
    script_callbacks.on_before_ui(xyz.add_axes)
    script_callbacks.on_ui_tabs(import_module("ivmixed.webui.page.txt2vid").build)
    script_callbacks.on_app_started(api.register)


def motion() -> ModuleType:
    """How built-in motion comes into this host's UNet."""
    return import_module(f"ivmixed.webui.builtin.{'a1111' if name() == 'a1111' else 'forge'}")


def animates() -> bool:
    """Whether the AnimateDiff extension has an effect on this host."""
    return name() in ("a1111", "forge_previous")


def tab_title(name_of_tab: str) -> str:
    """The name of a tab, written as the host writes its own."""
    return name_of_tab.capitalize() if name() == "forge_main" else name_of_tab


def in_its_thread(function: Callable[[], T]) -> T:
    """What ``function`` gives, called where the host makes the generations of its page."""
    if not _exists("modules_forge.main_thread"):
        return function()
    result: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function())
        except BaseException as error:  # the host would only print it, or lose its thread
            raised.append(error)

    import_module("modules_forge.main_thread").run_and_wait_result(work)
    if raised:
        raise raised[0]
    return result[0]


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False
