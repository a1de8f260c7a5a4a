"""The presets of this WebUI: those that come along, and the user's own in a file of the host's data folder."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import shared

from ..options import OptionError, Options
from ..presets import PRESETS, Preset
from . import log
from .store import Store, StoreError

CUSTOM = "custom"
"""Shown where the settings are no preset's."""
NAME_LENGTH = 60
PUBLISHED = "paper"
CLOSED = "ivmixed_closed"
"""The host's setting: the preset of clips that are made while the panel is not ticked."""

BUILT_IN = {name: preset for name, preset in PRESETS.items() if not preset.loop and not preset.model}
"""The released loops are not the sampler's moves, and others suit one model that no WebUI has."""

_store = Store("presets.json")


class PresetError(ValueError):
    """A preset cannot be saved, renamed or deleted. The message says why."""


def every() -> dict[str, Preset]:
    """All by name, the user's own last. What cannot be read is left out, and the log says so."""
    presets = dict(BUILT_IN)
    try:
        stored = _store.read()
    except StoreError as error:
        log.warning(f"your presets are not there: {error}")
        return presets
    for name, entry in stored.items():
        if name in presets:
            continue
        try:
            presets[name] = _preset(entry)
        except (OptionError, TypeError, KeyError, ValueError) as error:
            log.warning(f"your preset {name!r} is left out: {error}")
    return presets


def closed() -> str:
    """The name of the preset that serves while the panel is not ticked, from the host's settings."""
    name: str = getattr(shared.opts, CLOSED, PUBLISHED)
    if name in every():
        return name
    log.warning(f"the preset {name!r} of the settings is not there any more: {PUBLISHED} is used")
    return PUBLISHED


def is_own(name: str) -> bool:
    """Whether it is one of the user's."""
    return name not in BUILT_IN


def name_of(options: Options) -> str | None:
    """The first preset with these options, whatever belongs to the clip."""
    return next((name for name, preset in every().items() if preset.options == options.setting()), None)


def save(name: str, options: Options, cfg_scale: float | None) -> str:
    """Saves settings under a name, anew or over the old ones; returns it as it was saved. Raises PresetError."""
    name = _checked(name)
    setting = options.setting().to_dict()
    _change(lambda stored: stored.__setitem__(name, {"options": setting, "cfg_scale": cfg_scale}))
    return name


def rename(old: str, new: str) -> str:
    """Gives one of the user's presets another name; returns it as it was saved. Raises PresetError."""
    new = _checked(new)

    def change(stored: dict[str, Any]) -> None:
        _own(stored, old)
        if new in stored and new != old:
            raise PresetError(f"there is a preset {new!r} already: delete it first, or choose another name")
        entries = {new if name == old else name: entry for name, entry in stored.items()}  # in its old place
        stored.clear()
        stored.update(entries)

    _change(change)
    return new


def delete(name: str) -> None:
    """Deletes one of the user's presets. Raises PresetError."""
    def change(stored: dict[str, Any]) -> None:
        _own(stored, name)
        del stored[name]

    _change(change)


def _change(change: Callable[[dict[str, Any]], None]) -> None:
    try:
        with _store.changing() as stored:
            change(stored)
    except StoreError as error:
        raise PresetError(str(error)) from None


def _own(stored: dict[str, Any], name: str) -> None:
    if name not in stored:
        raise PresetError(f"{name!r} is not one of your own presets: choose one of these first")


def _checked(name: str) -> str:
    name = " ".join(str(name or "").split())
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise PresetError(f"a preset's name has 1 to {NAME_LENGTH} characters: write one into the field Name")
    if name in BUILT_IN or name == CUSTOM:
        raise PresetError(f"{name!r} is taken by the extension: choose another name")
    return name


def _preset(entry: dict[str, Any]) -> Preset:
    cfg_scale = entry["cfg_scale"]
    # an option that came with a later version has its default
    return Preset("", Options.from_dict(entry["options"]), None if cfg_scale is None else float(cfg_scale))


def to_dict(name: str, preset: Preset) -> dict[str, Any]:
    """A preset as the API gives it."""
    return {"name": name, "own": is_own(name), "help": preset.help, "cfg_scale": preset.cfg_scale,
            "options": preset.options.to_dict()}
