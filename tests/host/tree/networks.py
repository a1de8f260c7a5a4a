"""The host's Lora extension: a list says what is in force, and each layer sees to its weights before it runs.

A LoRA on the disk is {layer name: what is added to its weight}, by its own name in ``on_disk``.
"""
from types import SimpleNamespace

import torch
from extra_networks_lora import ExtraNetworkLora

from modules import extra_networks

loaded_networks = []
on_disk = {}
merged = []
"""The layers that had LoRAs put into their weights, in order."""


def assign_network_names_to_compvis_modules(sd_model):
    for prefix, part in (("", sd_model.cond_stage_model.wrapped), ("", sd_model.model)):
        for name, module in part.named_modules():
            module.network_layer_name = prefix + name.replace(".", "_")


def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
    """Every one anew from the disk, as the setting lora_in_memory_limit 0 has it."""
    loaded_networks.clear()
    for index, name in enumerate(names):
        if name in on_disk:
            loaded_networks.append(SimpleNamespace(
                name=name, mentioned_name=name, modules=on_disk[name], dyn_dim=dyn_dims[index] if dyn_dims else 1.0,
                te_multiplier=te_multipliers[index] if te_multipliers else 1.0,
                unet_multiplier=unet_multipliers[index] if unet_multipliers else 1.0))


def network_apply_weights(layer):
    name = getattr(layer, "network_layer_name", None)
    if name is None:
        return
    wanted = tuple((x.name, x.te_multiplier, x.unet_multiplier, x.dyn_dim) for x in loaded_networks)
    if getattr(layer, "network_weights_backup", None) is None and wanted:
        layer.network_weights_backup = layer.weight.detach().clone()
    if getattr(layer, "network_current_names", ()) == wanted:
        return
    with torch.no_grad():
        layer.weight.copy_(layer.network_weights_backup)
        for network in loaded_networks:
            if name in network.modules:
                weight = network.te_multiplier if name.startswith("transformer") else network.unet_multiplier
                layer.weight.add_(network.modules[name] * weight)
    merged.append(name)
    layer.network_current_names = wanted


extra_networks.extra_network_registry["lora"] = ExtraNetworkLora()
