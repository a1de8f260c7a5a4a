"""Forge main's ``k_diffusion.external.ForgeScheduleLinker``: the schedule of steps is the network's own table."""
import torch
from k_diffusion.sampling import append_zero


class ForgeScheduleLinker(torch.nn.Module):
    def __init__(self, sd_model, quantize=False):
        super().__init__()
        self.predictor = sd_model.forge_objects.unet.model.predictor
        self.inner_model = sd_model

    @property
    def sigmas(self):
        return self.predictor.sigmas

    def get_sigmas(self, n):
        return append_zero(self.predictor.sigma(torch.linspace(len(self.sigmas) - 1, 0, n)))
