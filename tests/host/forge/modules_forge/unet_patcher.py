"""A part of a checkpoint with LoRAs, a UNet also with options that say how it is called. Clones share the network and
have options and LoRAs of their own."""
import copy

import torch


class ModelPatcher:
    def __init__(self, model):
        self.model = model
        self.patches = {}
        """What LoRAs add to its weights, in order."""

    def add_patches(self, added):
        """The keys that fit."""
        fitting = added.keys() & dict(self.model.named_parameters()).keys()
        for key in fitting:
            self.patches[key] = [*self.patches.get(key, ()), added[key]]
        return fitting

    def clone(self):
        clone = type(self)(self.model)
        clone.patches = dict(self.patches)
        return clone


class UnetPatcher(ModelPatcher):
    def __init__(self, model):
        super().__init__(model)
        self.model_options = {"transformer_options": {}}
        self.controlnet_linked_list = None
        self.load_device = torch.device("cpu")
        self.extra_preserved_memory_during_sampling = 0
        self.extra_model_patchers_during_sampling = []

    def clone(self):
        clone = super().clone()
        clone.model_options = copy.deepcopy(self.model_options)
        clone.controlnet_linked_list = self.controlnet_linked_list
        clone.extra_model_patchers_during_sampling = self.extra_model_patchers_during_sampling.copy()
        return clone

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def set_model_attn2_replace(self, patch, *place):
        patches = self.model_options["transformer_options"].setdefault("patches_replace", {})
        patches.setdefault("attn2", {})[place] = patch

    def add_alphas_cumprod_modifier(self, modifier):
        self.model_options.setdefault("alphas_cumprod_modifiers", []).append(modifier)

    def add_block_inner_modifier(self, modifier):
        self.model_options["transformer_options"].setdefault("block_inner_modifiers", []).append(modifier)

    def set_group_norm_wrapper(self, wrapper):
        """Forge main's."""
        self.model_options["transformer_options"]["group_norm_wrapper"] = wrapper
