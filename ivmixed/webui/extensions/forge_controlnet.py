"""What the sampler knows of the Forge family's ControlNet: how one model is asked without it.

A control network is in a list of the UNet's patcher; IP-Adapter and ControlNet-LLLite are entries in its options.
Source: ``lib_ipadapter/IPAdapterPlus.py`` and ``lib_controllllite/lib_controllllite.py`` in the hosts'
``extensions-builtin``, ``apply_control`` in their UNets.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...patch import replaced

OWNERS = ("lib_ipadapter", "lib_controllllite")
"""How the modules begin whose objects are controls. Patches of other extensions stay."""


@contextmanager
def switched_off(unet: Any) -> Iterator[None]:
    """Within the block the controls of a patcher ``unet`` are as if there were none; its options are left as they are,
    see `left_out`."""
    with replaced(unet, "controlnet_linked_list", None):
        yield


def left_out(model_options: dict[str, Any]) -> dict[str, Any]:
    """A patcher's options without IP-Adapter and LLLite."""
    inner = dict(model_options["transformer_options"])
    if "patches" in inner:
        inner["patches"] = {name: [entry for entry in entries if not _is_control(entry)]
                            for name, entries in inner["patches"].items()}
    if "patches_replace" in inner:
        inner["patches_replace"] = {name: {place: entry for place, entry in entries.items() if not _is_control(entry)}
                                    for name, entries in inner["patches_replace"].items()}
    return {**model_options, "transformer_options": inner}


def _is_control(entry: Any) -> bool:
    return (getattr(entry, "__module__", None) or "").startswith(OWNERS)


def outermost(control: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What a control network adds, by the UNet's parts, where deep features serve again: to the outer layers alone.

    The UNet takes each list from its end, block by block.
    """
    def none(count: int) -> list[None]:
        return [None] * max(count, 0)

    output, into = control.get("output", []), control.get("input", [])
    return {"output": output[:1] + none(len(output) - 1), "input": none(len(into) - 1) + into[-1:], "middle": []}
