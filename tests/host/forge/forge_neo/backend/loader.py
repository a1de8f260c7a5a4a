"""Forge Neo's way from a file to a model; on the way it notes what the file is."""
import safetensors.torch
from modules_forge.sd_model import SdModel

from backend.args import dynamic_args


def forge_loader(filename):
    dynamic_args.reset()
    dynamic_args.kontext = "kontext" in str(filename).lower()
    return SdModel.from_tensors(safetensors.torch.load_file(filename))
