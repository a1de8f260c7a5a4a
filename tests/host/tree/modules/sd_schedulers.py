"""The schedule types of the dropdown."""
from types import SimpleNamespace

import torch
from k_diffusion.sampling import get_sigmas_karras


def simple_scheduler(n, sigma_min, sigma_max, inner_model, device):
    stride = len(inner_model.sigmas) / n
    return torch.tensor([float(inner_model.sigmas[-(1 + int(x * stride))]) for x in range(n)] + [0.0]).to(device)


schedulers = [
    SimpleNamespace(name="automatic", label="Automatic", aliases=None, function=None, need_inner_model=False),
    SimpleNamespace(name="karras", label="Karras", aliases=None, function=get_sigmas_karras, need_inner_model=False),
    SimpleNamespace(name="simple", label="Simple", aliases=None, function=simple_scheduler, need_inner_model=True),
]
schedulers_map = {**{x.name: x for x in schedulers}, **{x.label: x for x in schedulers}}
