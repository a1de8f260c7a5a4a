"""The checkpoints that are there; the host's settings for the noise table, applied before every sampling."""
from pathlib import Path

import safetensors.torch

from modules import shared

folder = None
"""Where checkpoints are."""
checkpoints_list, checkpoint_aliases = {}, {}


class CheckpointInfo:
    """An entry of the list, which is made anew with it: two of one file are not equal."""

    def __init__(self, path):
        self.filename, self.name, self.title = str(path), path.name, f"{path.name} [0123456789]"


def get_closet_checkpoint_match(text):
    found = checkpoint_aliases.get(text)
    return found or next((info for info in checkpoints_list.values() if text and text in info.title), None)


def list_models():
    checkpoints_list.clear()
    checkpoint_aliases.clear()
    for path in sorted(Path(folder).glob("*.safetensors")) if folder else ():
        info = CheckpointInfo(path)
        checkpoints_list[info.title] = info
        checkpoint_aliases.update({info.title: info, info.name: info, path.stem: info})


def checkpoint_tiles():
    return list(checkpoints_list)


class SdModelData:
    """The chosen checkpoint."""

    sd_model = None

    def get_sd_model(self):
        return self.sd_model


model_data = SdModelData()


def get_checkpoint_state_dict(info, timer):
    return safetensors.torch.load_file(info.filename)


def get_state_dict_from_checkpoint(pl_sd):
    return pl_sd.pop("state_dict", pl_sd)


def apply_alpha_schedule_override(sd_model, p=None):
    table = sd_model.alphas_cumprod_original
    if shared.opts.use_downcasted_alpha_bar:
        table = table.half()
    if shared.opts.sd_noise_schedule == "Zero Terminal SNR":
        table = _zero_terminal_snr(table)
    sd_model.alphas_cumprod = table


def _zero_terminal_snr(abar):
    root = abar.sqrt()
    table = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    table[-1] = 4.8973451890853435e-08
    return table
