"""Forge main's way from a file to a model; of the other hosts it is ``modules_forge.forge_loader``."""
import safetensors.torch
from modules_forge.sd_model import SdModel


def forge_loader(filename):
    return SdModel.from_tensors(safetensors.torch.load_file(filename))
