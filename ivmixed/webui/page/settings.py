"""The extension's page in the host's settings."""
from __future__ import annotations

import logging

import gradio as gr

from modules import shared

from .. import NAME, log, presets

SECTION = presets.SECTION, NAME
CHUNK, FOLDER, MEASURED, LOG = (f"ivmixed_{name}" for name in ("chunk", "motion_folder", "measures", "log"))
MOST_CHUNK = 64
LEVELS = {"everything": logging.INFO, "warnings": logging.WARNING, "nothing": logging.CRITICAL + 1}


def add() -> None:
    """Adds the settings; called before the host makes its page of them."""
    shared.opts.add_option(presets.CLOSED, shared.OptionInfo(
        presets.PUBLISHED, "Preset of clips that are made while the panel is not ticked", gr.Dropdown,
        lambda: {"choices": list(presets.every())}, section=SECTION))
    # as the host has its own folders: hidden, and not to be set, with --hide-ui-dir-config
    folder = shared.OptionInfo(
        "", "Another folder of motion modules, for built-in motion and the tab txt2vid",
        component_args=getattr(shared, "hide_dirs", None), section=SECTION)
    folder.restrict_api = True  # a path is not for whoever may ask for pictures
    shared.opts.add_option(FOLDER, folder)
    shared.opts.add_option(CHUNK, shared.OptionInfo(
        0, "Frames that the image model takes at a time: fewer need less memory; 0 is as many as the motion module "
        "sees (sd-forge-animatediff keeps to that)", gr.Slider, {"minimum": 0, "maximum": MOST_CHUNK, "step": 1},
        section=SECTION))
    shared.opts.add_option(MEASURED, shared.OptionInfo(
        True, "Measure the clips of the tab txt2vid: sharpness, flicker, motion", section=SECTION))
    shared.opts.add_option(LOG, shared.OptionInfo(
        "everything", "What is said in the console", gr.Radio, {"choices": list(LEVELS)}, section=SECTION,
        onchange=_set_level))
    _set_level()


def _set_level() -> None:
    chosen = getattr(shared.opts, LOG)
    log.setLevel(LEVELS.get(chosen, logging.INFO) if isinstance(chosen, str) else logging.INFO)


def measures() -> bool:
    """Whether clips are measured."""
    return bool(getattr(shared.opts, MEASURED, True))


def chunk(context: int) -> int:
    """Frames that the image model takes at a time, where the motion module sees ``context``."""
    chosen = getattr(shared.opts, CHUNK, 0)  # the host's API takes any value for a setting
    return int(chosen) if isinstance(chosen, (int, float)) and 1 <= chosen <= MOST_CHUNK else context


def folder() -> str:
    """Another folder of motion modules; "" for none."""
    chosen = getattr(shared.opts, FOLDER, "")
    return chosen.strip() if isinstance(chosen, str) else ""
