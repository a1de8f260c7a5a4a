"""What the sampler knows of the hosts' Lora extension: LoRAs for the image model alone.

In AUTOMATIC1111 which LoRAs are in force is a list, and what each weighs is written on it. Before a layer runs the
extension compares that with what the layer has in its weights, and only where they differ does it restore them and put
others in. Source: ``extensions-builtin/Lora/networks.py`` (``loaded_networks``, ``load_networks``,
``network_apply_weights``) and ``extra_networks_lora.py`` of AUTOMATIC1111 1.10.1. The Forge family's activates them the
same way and patches the chosen checkpoint instead: see `image_model.loaded`.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from modules import extra_networks

from ...options import OptionError, Options

WEIGHTS = ("te_multiplier", "unet_multiplier", "dyn_dim")

Networks = list[tuple[Any, tuple[Any, ...]]]
"""LoRAs and what each weighs: of `WEIGHTS`."""

KEPT = ("network_current_names", "network_weights_backup", "network_bias_backup", "fp16_weight", "fp16_bias")
"""What the extension notes on a layer: which LoRAs are in its weights, and these without them."""


def extension() -> Any:
    """Its module ``networks``; None where it is off."""
    return sys.modules.get("networks") if "lora" in extra_networks.extra_network_registry else None


def required(options: Options) -> Any:
    """The same. Raises OptionError where it is off."""
    networks = extension()
    if networks is None:
        raise OptionError("image_prompt", options.image_prompt, "no <lora:...>: the WebUI's Lora extension is off")
    return networks


def activate(entries: list[Any]) -> None:
    """Puts LoRAs in force, given as the host reads them from a prompt, and no others."""
    request = SimpleNamespace(all_prompts=[], extra_generation_params={}, is_hr_pass=False)  # what it notes on one
    extra_networks.extra_network_registry["lora"].activate(request, list(entries))


def missing(options: Options, name: str) -> OptionError:
    """The error for a LoRA of the image prompt that is not there."""
    return OptionError("image_prompt", options.image_prompt, "names of LoRAs that are there",
                       f"names a LoRA that is not there, {name}")


def unfit(options: Options, name: str) -> OptionError:
    """The error for one of another kind of checkpoint."""
    return OptionError("image_prompt", options.image_prompt, "LoRAs made for the checkpoint",
                       f"names a LoRA that fits nothing in the checkpoint, {name}")


# AUTOMATIC1111's ------------------------------------------------------------------------------------------------------

def in_force() -> Networks:
    """The LoRAs of the clip now."""
    networks = extension()
    return [] if networks is None else [
        (network, tuple(getattr(network, name) for name in WEIGHTS)) for network in networks.loaded_networks]


@contextmanager
def forced(wanted: Networks) -> Iterator[None]:
    """Within the block ``wanted`` are in force; nothing is put into weights that have them already."""
    before = in_force()
    try:
        _force(wanted)
        yield
    finally:
        _force(before)


@contextmanager
def of_image(options: Options, asked: list[Any]) -> Iterator[Networks]:
    """The clip's LoRAs, and for the image model those of its prompt, ``asked``, of which one may be in both.

    Within the block words that they bring (textual inversion) are known to the host. Raises OptionError.
    """
    networks, clip = required(options), in_force()
    try:
        activate(asked)
        image = in_force()
        loaded = {network.mentioned_name: network for network, _ in image}
        for name in (entry.positional[0] for entry in asked):
            if name not in loaded:
                raise missing(options, name)
            if not loaded[name].modules:
                raise unfit(options, name)
        names = {network.name for network, _ in image}
        both = [entry for entry in clip if entry[0].name not in names] + image
        with forced(both):
            yield both
    finally:
        # by the extension's own way, which forgets the words of the others
        networks.load_networks([network.mentioned_name or network.name for network, _ in clip],
                               *(list(weights) for weights in zip(*(weights for _, weights in clip))))


def _force(wanted: Networks) -> None:
    networks = extension()
    if networks is None:
        return
    networks.loaded_networks[:] = [network for network, _ in wanted]
    for network, weights in wanted:
        for name, weight in zip(WEIGHTS, weights):
            setattr(network, name, weight)
