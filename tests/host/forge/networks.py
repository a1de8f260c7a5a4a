"""The Forge family's Lora extension: LoRAs are patches of the chosen checkpoint's parts, which the memory manager puts
into their weights as it brings them.

A LoRA on the disk is {layer name: what is added to its weight}, by its own name in ``on_disk``.
"""
from types import SimpleNamespace

from extra_networks_lora import ExtraNetworkLora

from modules import extra_networks, sd_models

loaded_networks = []
available_network_aliases = {}
on_disk = {}


def list_available_networks():
    available_network_aliases.clear()
    available_network_aliases.update(on_disk)


def load_networks(names, te_multipliers, unet_multipliers, dyn_dims=None):
    model = sd_models.model_data.get_sd_model()
    if any(name not in available_network_aliases for name in names):
        list_available_networks()
    loaded_networks[:] = [SimpleNamespace(mentioned_name=name) for name in names]
    targets = list(zip(names, unet_multipliers, te_multipliers))
    if model.current_lora_hash == str(targets):
        return
    model.current_lora_hash = str(targets)
    parts, original = model.forge_objects, model.forge_objects_original
    parts.unet, parts.clip = original.unet, original.clip
    for name, of_unet, of_text in targets:
        parts.unet, parts.clip = (_patched(part, available_network_aliases[name], weight)
                                  for part, weight in ((parts.unet, of_unet), (parts.clip, of_text)))
    model.forge_objects_after_applying_lora = parts.shallow_copy()


def _patched(part, added, weight):
    """A clone with a LoRA; the part itself where none of it fits."""
    clone = part.clone()
    return clone if clone.add_patches({key: weight * value for key, value in added.items()}) else part


extra_networks.extra_network_registry["lora"] = ExtraNetworkLora()
