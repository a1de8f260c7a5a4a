"""Schedules, and the Euler sampler as the host runs it."""
import torch


def append_zero(x):
    return torch.cat([x, x.new_zeros([1])])


def get_sigmas_karras(n, sigma_min, sigma_max, rho=7.0, device="cpu"):
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return append_zero((first + torch.linspace(0, 1, n, device=device) * (last - first)) ** rho)


@torch.no_grad()
def sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None, s_churn=0.0, s_tmin=0.0,
                 s_tmax=float("inf"), s_noise=1.0):
    rows = x.new_ones([x.shape[0]])
    for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:])):
        denoised = model(x, sigma * rows, **(extra_args or {}))
        slope = (x - denoised) / sigma
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        x = x + slope * (sigma_next - sigma)
    return x
