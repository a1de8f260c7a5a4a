"""Denoisers: a network of eps or v as a function of noise levels, through its noise table."""
import torch

from . import sampling


class DiscreteSchedule(torch.nn.Module):
    def __init__(self, sigmas, quantize):
        super().__init__()
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())
        self.quantize = quantize

    def get_sigmas(self, n):
        return sampling.append_zero(self.t_to_sigma(torch.linspace(len(self.sigmas) - 1, 0, n)))

    def t_to_sigma(self, t):
        low, high, part = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - part) * self.log_sigmas[low] + part * self.log_sigmas[high]).exp()

    def sigma_to_t(self, sigma):
        """The timestep of a level: log sigma is interpolated, ends are clamped; with ``quantize`` the nearest entry."""
        log = sigma.log()
        if self.quantize:
            return (log - self.log_sigmas[:, None]).abs().argmin(dim=0)
        low = torch.searchsorted(self.log_sigmas, log, right=True).sub(1).clamp(0, len(self.sigmas) - 2)
        before, after = self.log_sigmas[low], self.log_sigmas[low + 1]
        part = ((before - log) / (before - after)).clamp(0, 1)
        return (1 - part) * low + part * (low + 1)


def _column(values, like):
    return values.reshape(-1, *[1] * (like.ndim - 1))


class CompVisDenoiser(DiscreteSchedule):
    """The network predicts eps. It keeps the table that the model had when it was made."""

    def __init__(self, model, quantize=False, device="cpu"):
        super().__init__(((1 - model.alphas_cumprod) / model.alphas_cumprod) ** 0.5, quantize)
        self.inner_model = model

    def forward(self, input, sigma, **kwargs):
        level = _column(sigma, input)
        scaled = input * (1 / (level**2 + 1) ** 0.5)
        return input - level * self.inner_model.apply_model(scaled, self.sigma_to_t(sigma), **kwargs)


class CompVisVDenoiser(CompVisDenoiser):
    """The network predicts v."""

    def forward(self, input, sigma, **kwargs):
        level = _column(sigma, input)
        scaled = input * (1 / (level**2 + 1) ** 0.5)
        v = self.inner_model.apply_model(scaled, self.sigma_to_t(sigma), **kwargs)
        return input / (level**2 + 1) - level / (level**2 + 1) ** 0.5 * v
