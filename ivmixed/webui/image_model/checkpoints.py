"""The host's list of checkpoints, and what a file in it is, before its weights are read."""
from __future__ import annotations

from pathlib import PurePath
from typing import Any

from modules import sd_models, shared

from ...options import ConflictError, OptionError
from ...untrusted import shown
from ...weights import files

SD15, SDXL = "SD 1.5", "SDXL"
SAME_MODULES = "Use same choices"
"""What the hires pass of Forge main and Neo says for the VAE and text encoders of the first pass."""
MARKS = {SD15: "is_sd1", SDXL: "is_sdxl"}
"""How the hosts mark a loaded checkpoint of that family."""


def family_of(sd_model: Any) -> str | None:
    """The family of a loaded checkpoint; None for any other."""
    return next((name for name, mark in MARKS.items() if getattr(sd_model, mark, False)), None)


def chosen(options: Any) -> Any:
    """The host's entry of the checkpoint that an option names; None where it names none. Raises OptionError."""
    name = options.image_checkpoint
    if not name:
        return None
    if name not in sd_models.checkpoint_aliases:
        sd_models.list_models()  # it may have come since
    if name not in sd_models.checkpoint_aliases:
        known = ", ".join(info.name for info in sd_models.checkpoints_list.values())
        raise OptionError("image_checkpoint", name, f"one of {known}, or nothing", "is not in the WebUI's list")
    return sd_models.checkpoint_aliases[name]


def check(info: Any, family: str | None) -> None:
    """Raises OptionError for a file that is no checkpoint of ``family``, that of the loaded one; None: of a family that
    has no other image model."""
    if family is None:
        raise refused(info, "has no place beside the loaded checkpoint", "nothing beside one of its kind")
    allowed = f"an {family} checkpoint beside an {family} checkpoint"
    try:
        header = files.read(info.filename, "meta")
        what = files.kind(header)
        if what != files.CHECKPOINT:
            raise refused(info, f"is {what}", allowed)
        key = next((key for key in header if key.endswith("attn2.to_k.weight")), None)
        theirs = SD15 if key is None else files.FAMILIES.get(files.shape(key, header[key], (2,))[1], SD15)
    except files.FileError as error:
        raise refused(info, str(error), allowed) from None
    if theirs != family:
        raise refused(info, f"is {what} for {theirs}", allowed)


def check_stays(p: Any) -> None:
    """Raises OptionError for a request that goes on with another checkpoint than it begins with: motion is in one UNet.

    To be called when that is loaded. A refiner that is the loaded checkpoint is none.
    """
    loaded = p.sd_model.sd_checkpoint_info
    for name in ("refiner_checkpoint", "hr_checkpoint_name"):
        chosen = getattr(p, name, None)
        if chosen in (None, "", "None", "none", "Use same checkpoint"):
            continue
        info = sd_models.get_closet_checkpoint_match(chosen)  # None: the host refuses it
        if name == "hr_checkpoint_name" and (info is None or not p.enable_hr):
            continue
        if info is not None and info.filename != loaded.filename:
            raise ConflictError(name, shown(chosen), "a clip", because="it stays with one checkpoint",
                                remedy=f"take none, or {loaded.name}, which is loaded")
        p.refiner_checkpoint_info = None  # the host compares with its list, which may be another by now
    _check_modules_stay(p)


def _check_modules_stay(p: Any) -> None:
    """Raises OptionError where hires fix asks for other VAE and text encoders: the host loads the checkpoint again.

    Source: ``modules_change`` in Forge main's ``modules_forge/main_entry.py``, which compares with this setting.
    """
    chosen = getattr(p, "hr_additional_modules", None)
    if not getattr(p, "enable_hr", False) or not isinstance(chosen, list) or SAME_MODULES in chosen:
        return
    loaded = [PurePath(path).name for path in shared.opts.data.get("forge_additional_modules", [])]
    if sorted(PurePath(path).name for path in chosen) != sorted(loaded):
        raise OptionError("hr_additional_modules", chosen, f'["{SAME_MODULES}"]: a clip stays with one VAE and text '
                          "encoder")


def refused(info: Any, problem: str, allowed: str) -> OptionError:
    """The error for a checkpoint that cannot be the image model."""
    return OptionError("image_checkpoint", info.name, allowed, problem)
