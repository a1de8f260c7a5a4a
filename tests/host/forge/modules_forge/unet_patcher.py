"""A UNet with options that say how it is called. Clones share the network and have options of their own."""
import copy

import torch


class UnetPatcher:
    def __init__(self, model):
        self.model = model
        self.model_options = {"transformer_options": {}}
        self.controlnet_linked_list = None
        self.load_device = torch.device("cpu")
        self.extra_preserved_memory_during_sampling = 0

    def clone(self):
        clone = UnetPatcher(self.model)
        clone.model_options = copy.deepcopy(self.model_options)
        clone.controlnet_linked_list = self.controlnet_linked_list
        return clone

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def add_alphas_cumprod_modifier(self, modifier):
        self.model_options.setdefault("alphas_cumprod_modifiers", []).append(modifier)

    def add_block_inner_modifier(self, modifier):
        self.model_options["transformer_options"].setdefault("block_inner_modifiers", []).append(modifier)

    def set_group_norm_wrapper(self, wrapper):
        """Forge main's."""
        self.model_options["transformer_options"]["group_norm_wrapper"] = wrapper
