"""The presets of this WebUI: those that come along, and the user's own in a file of the host's data folder."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modules import shared

from ..kinds import Number
from ..options import ConflictError, Option, OptionError
from ..presets import PRESETS, Preset
from ..untrusted import shown
from . import log
from .json_store import Damaged, Store, StoreError
from .options import WebUIOptions

CUSTOM = "custom"
"""Shown where the settings are no preset's."""
NAME_LENGTH = 60
MOST = 200
"""The user's own."""
SAID = 20
"""Presets that the log names, where very many are left out."""
PUBLISHED = "paper"
CLOSED = "ivmixed_closed"
"""The host's setting: the preset of clips that are made while the panel is not ticked."""
SECTION = "ivmixed"
"""The page of the host's settings that has it."""

BUILT_IN = {name: Preset(preset.help, WebUIOptions(**vars(preset.options)), preset.cfg_scale)
            for name, preset in PRESETS.items() if not preset.loop}
"""The released loops are not the sampler's moves."""

CFG_SCALE = Option("cfg_scale", Number(0, 100), None, "", "Of the ordinary steps; none leaves it as it is")

_store = Store("presets.json")


class PresetError(ValueError):
    """A preset cannot be saved, renamed, deleted or read. The message says why."""


class _Own:
    """The user's presets, as the file had them when it was last read."""

    def __init__(self) -> None:
        self.read: Mapping[str, Any] | StoreError | None = None
        self.presets: dict[str, Preset[WebUIOptions]] = {}
        self.problems: list[str] = []

    def update(self, read: Mapping[str, Any] | StoreError) -> None:
        """Reads the presets of a file that has changed, and says in the log what is wrong and was not before."""
        presets: dict[str, Preset[WebUIOptions]]
        told: list[str]
        if isinstance(read, StoreError):
            presets, problems, told = {}, [f"your presets are not there: {read}"], []
        else:
            presets, problems = _readable(read)
            told = self.problems
        new = [problem for problem in problems if problem not in told]
        for problem in new[:SAID]:
            log.warning(problem)
        if len(new) > SAID:
            log.warning(f"and {len(new) - SAID} more of your presets are left out")
        self.read, self.presets, self.problems = read, presets, problems


_own = _Own()


def every() -> dict[str, Preset[WebUIOptions]]:
    """All by name, the user's own last. What cannot be read is left out, and the log says so, once."""
    read: Mapping[str, Any] | StoreError
    try:
        read = _store.read()
    except StoreError as error:
        read = error
    if read is not _own.read:
        _own.update(read)
    return {**BUILT_IN, **_own.presets}


def _readable(entries: Mapping[str, Any]) -> tuple[dict[str, Preset[WebUIOptions]], list[str]]:
    """The presets among the entries of the file, and what is to be said of the others."""
    presets: dict[str, Preset[WebUIOptions]] = {}
    problems = []
    for number, (name, entry) in enumerate(entries.items()):
        if number == MOST:
            problems.append(f"the first {MOST} of {len(entries)} presets in your file are read: delete some")
            break
        try:
            presets[name] = checked(name, entry)[1]
        except (OptionError, PresetError) as error:
            problems.append(f"your preset {shown(repr(name))} is left out: {error}")
    return presets, problems


def closed() -> str:
    """The name of the preset that serves while the panel is not ticked, from the host's settings."""
    name = getattr(shared.opts, CLOSED, PUBLISHED)
    if isinstance(name, str) and name in every():
        return name
    log.warning(f"the preset {shown(repr(name))} of the settings is not there any more: {PUBLISHED} is used")
    return PUBLISHED


def is_own(name: str) -> bool:
    """Whether it is one of the user's."""
    return name not in BUILT_IN


def name_of(options: WebUIOptions) -> str | None:
    """The first preset with these options, whatever belongs to the clip."""
    return next((name for name, preset in every().items() if preset.options == options.setting()), None)


def checked(name: Any, entry: Any) -> tuple[str, Preset[WebUIOptions]]:
    """A preset's name and what it is: of one that is saved, and of one in the file. ``entry`` has its options and its
    CFG scale, None for any. Raises PresetError or OptionError."""
    name = _checked_name(name)
    if isinstance(entry, Damaged):
        raise PresetError(f"it {entry.problem}")
    if not isinstance(entry, Mapping) or entry.keys() != {"options", "cfg_scale"}:
        raise PresetError(f"it is {shown(entry)}: a preset is an object with options and cfg_scale")
    options = WebUIOptions.from_dict(entry["options"])  # an option that came with a later version has its default
    for option in options.declared():
        if option.of_clip and getattr(options, option.name) != option.default:
            raise ConflictError(option.name, getattr(options, option.name), "a preset",
                                because="it belongs to one clip", remedy="leave it out")
    return name, Preset("", options, CFG_SCALE.check(entry["cfg_scale"]))


def save(name: str, options: WebUIOptions, cfg_scale: float | None) -> str:
    """Saves settings under a name, anew or over the old ones; returns it as it was saved. Raises PresetError or
    OptionError."""
    name, preset = checked(" ".join(name.split()) if isinstance(name, str) else name,
                           {"options": options.setting().to_dict(), "cfg_scale": cfg_scale})

    def change(stored: dict[str, Any]) -> None:
        if name not in stored and len(stored) >= MOST:
            raise PresetError(f"your file has {len(stored)} presets, and {MOST} are read: delete some first")
        stored[name] = {"options": preset.options.to_dict(), "cfg_scale": preset.cfg_scale}

    _change(name, change)
    return name


def rename(old: str, new: str) -> str:
    """Gives one of the user's presets another name; returns it as it was saved. Raises PresetError."""
    new = _checked_name(" ".join(new.split()) if isinstance(new, str) else new)

    def change(stored: dict[str, Any]) -> None:
        _check_own(stored, old)
        if new in stored and new != old:
            raise PresetError(f"there is a preset {new!r} already: delete it first, or choose another name")
        entries = {new if name == old else name: entry for name, entry in stored.items()}  # in its old place
        stored.clear()
        stored.update(entries)

    _change(old, change)
    return new


def delete(name: str) -> None:
    """Deletes one of the user's presets. Raises PresetError."""
    def change(stored: dict[str, Any]) -> None:
        _check_own(stored, name)
        del stored[name]

    _change(name, change)


def _change(name: str, change: Callable[[dict[str, Any]], None]) -> None:
    _check_frozen(name)
    try:
        with _store.changing() as stored:
            change(stored)
    except StoreError as error:
        raise PresetError(str(error)) from None


def _check_frozen(name: str) -> None:
    """Raises PresetError where the host was started so that its settings, and presets with them, stay as they are."""
    def listed(flag: str) -> list[str]:
        return [part.strip() for part in (getattr(shared.cmd_opts, flag, None) or "").split(",")]

    if getattr(shared.cmd_opts, "freeze_settings", False):
        flag = "--freeze-settings"
    elif SECTION in listed("freeze_settings_in_sections"):
        flag = f"--freeze-settings-in-sections {SECTION}"
    elif CLOSED in listed("freeze_specific_settings") and name == getattr(shared.opts, CLOSED, PUBLISHED):
        flag = f"--freeze-specific-settings {CLOSED}, and this is the preset of that setting"
    else:
        return
    raise PresetError(f"presets cannot be changed: the WebUI was started with {flag}")


def _check_own(stored: dict[str, Any], name: Any) -> None:
    if not isinstance(name, str) or name not in stored:
        raise PresetError(f"{shown(repr(name))} is not one of your own presets: choose one of these first")


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH or not name.isprintable() or (
            name != " ".join(name.split())):
        raise PresetError(f"a preset's name has 1 to {NAME_LENGTH} characters: write one into the field Name")
    if name in BUILT_IN or name == CUSTOM:
        raise PresetError(f"{name!r} is taken by the extension: choose another name")
    return name


def to_dict(name: str, preset: Preset[WebUIOptions]) -> dict[str, Any]:
    """A preset as the API gives it."""
    return {"name": name, "own": is_own(name), "help": preset.help, "cfg_scale": preset.cfg_scale,
            "options": preset.options.to_dict()}
