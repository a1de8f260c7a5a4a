"""The X/Y/Z plot's axes: every option of the sampler and of how motion acts, and the presets.

A value travels on the processing object of its cell, so that it ends with the cell. Read beside the hosts'
``xyz_grid.py`` (``AxisOption``, ``process_axis``, ``cell``), which copies that object for every cell.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modules import scripts

from ...controls import MotionControls
from ...kinds import Choice, Number
from ...options import Option, OptionError
from .. import NAME, presets, request
from ..image_model.checkpoints import chosen
from ..options import OPTIONS, WebUIOptions
from .panel import checkpoints

FILE = "xyz_grid.py"
MARK = f"[{NAME}] "


def add_axes() -> None:
    """Adds the axes to the host's plot, once; called before the page is built."""
    for data in scripts.scripts_data:
        if Path(data.path).name == FILE:
            others = [axis for axis in data.module.axis_options if not axis.label.startswith(MARK)]
            own = [_axis(data.module.AxisOption, option) for option in (*OPTIONS, *MotionControls.declared())]
            data.module.axis_options[:] = [*others, _axis_of_presets(data.module.AxisOption), *own]


def _axis(axis: Callable[..., Any], option: Option) -> Any:
    def check_all(p: Any, values: list[Any]) -> None:
        for value in values:
            if option in OPTIONS:
                chosen(WebUIOptions(**{option.name: value}))
            else:
                option.check(value)

    more: dict[str, Any] = {}
    if isinstance(option.kind, Choice):
        more["choices"] = lambda: list(option.kind.choices)
    elif option.name == "image_checkpoint":
        more["choices"] = checkpoints
    return axis(MARK + option.label.removeprefix(NAME).strip(),
                _Number(option) if isinstance(option.kind, Number) else option.from_text,
                lambda p, value, values: _set(p, {option.name: value}), confirm=check_all,
                format_value=lambda p, opt, value: f"{opt.label}: {option.to_text(option.check(value))}", **more)


class _Number:
    """The type of an axis of numbers. The plot reads ranges ("1-5 (+2)") itself where the type equals float."""

    def __init__(self, option: Option):
        self.option = option

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return other is float

    def __call__(self, value: Any) -> float:
        """The option's value. Raises OptionError."""
        return self.option.from_text(str(value))  # type: ignore[no-any-return]


def _axis_of_presets(axis: Callable[..., Any]) -> Any:
    def check_all(p: Any, values: list[str]) -> None:
        known = presets.every()
        for value in values:
            if value not in known:
                raise OptionError("preset", value, "one of " + ", ".join(known))

    def apply(p: Any, value: str, values: list[str]) -> None:
        preset = presets.every()[value]
        _set(p, preset.options.to_dict())
        if preset.cfg_scale is not None:
            p.cfg_scale = preset.cfg_scale

    return axis(f"{MARK}preset", str, apply, confirm=check_all, choices=lambda: list(presets.every()))


def _set(p: Any, values: Mapping[str, Any]) -> None:
    request.of(p).cell.update(values)
