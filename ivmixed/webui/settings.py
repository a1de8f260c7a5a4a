"""The extension's page in the host's settings."""
from __future__ import annotations

import logging

import gradio as gr

from modules import shared

from . import NAME, log, presets

SECTION = "ivmixed", NAME
CHUNK, FOLDER, MEASURED, LOG = (f"ivmixed_{name}" for name in ("chunk", "motion_folder", "measures", "log"))
LEVELS = {"everything": logging.INFO, "warnings": logging.WARNING, "nothing": logging.CRITICAL + 1}


def add() -> None:
    """Adds the settings; called before the host makes its page of them."""
    shared.opts.add_option(presets.CLOSED, shared.OptionInfo(
        presets.PUBLISHED, "Preset of clips that are made while the panel is not ticked", gr.Dropdown,
        lambda: {"choices": list(presets.every())}, section=SECTION))
    shared.opts.add_option(FOLDER, shared.OptionInfo(
        "", "Another folder of motion modules, for built-in motion and the tab txt2vid", section=SECTION))
    shared.opts.add_option(CHUNK, shared.OptionInfo(
        0, "Frames that the image model takes at a time: fewer need less memory; 0 is as many as the motion module "
        "sees (sd-forge-animatediff keeps to that)", gr.Slider, {"minimum": 0, "maximum": 64, "step": 1},
        section=SECTION))
    shared.opts.add_option(MEASURED, shared.OptionInfo(
        True, "Measure the clips of the tab txt2vid: sharpness, flicker, motion", section=SECTION))
    shared.opts.add_option(LOG, shared.OptionInfo(
        "everything", "What is said in the console", gr.Radio, {"choices": list(LEVELS)}, section=SECTION,
        onchange=_set_level))
    _set_level()


def _set_level() -> None:
    log.setLevel(LEVELS.get(getattr(shared.opts, LOG), logging.INFO))


def measures() -> bool:
    """Whether clips are measured."""
    return bool(getattr(shared.opts, MEASURED, True))


def chunk(context: int) -> int:
    """Frames that the image model takes at a time, where the motion module sees ``context``."""
    return int(getattr(shared.opts, CHUNK, 0)) or context


def folder() -> str:
    """Another folder of motion modules; "" for none."""
    return str(getattr(shared.opts, FOLDER, "")).strip()
