"""The network with its noise table: latents and noise levels in, denoised latents out."""
from types import SimpleNamespace

import torch

from modules import shared


class ModelSampling(torch.nn.Module):
    def __init__(self, model_config):
        super().__init__()
        betas = torch.linspace(model_config.linear_start**0.5, model_config.linear_end**0.5, 1000) ** 2
        abar = torch.cumprod(1 - betas, dim=0)
        self.set_sigmas(((1 - abar) / abar) ** 0.5)

    def set_sigmas(self, sigmas):
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())

    def timestep(self, sigma):
        return (sigma.log() - self.log_sigmas[:, None]).abs().argmin(dim=0)

    def sigma(self, timestep):
        low, high, part = timestep.floor().long(), timestep.ceil().long(), timestep.frac()
        return ((1 - part) * self.log_sigmas[low] + part * self.log_sigmas[high]).exp()


class BaseModel(torch.nn.Module):
    watch = SimpleNamespace(call=None)
    """``watch.call(x, t, context, run)`` stands around every network call of a test, of any checkpoint."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model_config = SimpleNamespace(linear_start=0.00085, linear_end=0.012)
        self.diffusion_model = UNetModel()
        setattr(self, "predictor" if shared.host == "forge_main" else "model_sampling",
                ModelSampling(self.model_config))
        self.manual_cast_dtype = None

    def get_dtype(self):
        return torch.float32

    def apply_model(self, x, t, c_crossattn, control=None, transformer_options=None):
        table = self.predictor if shared.host == "forge_main" else self.model_sampling
        sigma, timestep = t[:, None, None, None], table.timestep(t).float()
        scaled = x / (sigma**2 + 1) ** 0.5

        def run():
            return self.diffusion_model(scaled, timestep, c_crossattn, control, transformer_options or {})

        eps = run() if self.watch.call is None else self.watch.call(scaled, timestep, c_crossattn, run)
        return x - eps * sigma


class Block(torch.nn.Sequential):
    """Layers, with what extensions want done before and after each. reForge's does not ask them."""

    reads_modifiers = True

    def forward(self, x, emb, context, options):
        modifiers = options.get("block_inner_modifiers", []) if self.reads_modifiers else []
        for index, layer in enumerate(self):
            for modifier in modifiers:
                x = modifier(x, "before", layer, index, self, options)
            x = layer(x, emb, context, options)
            for modifier in modifiers:
                x = modifier(x, "after", layer, index, self, options)
        return x


class ResBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.in_layers = torch.nn.Sequential(torch.nn.GroupNorm(2, 4))
        self.out_layers = torch.nn.Sequential(torch.nn.GroupNorm(2, 4))
        self.weight = torch.nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x, emb, context, options):
        wrapper = options.get("group_norm_wrapper") if shared.host == "forge_main" else None
        inner = x
        for layers in (self.in_layers, self.out_layers):
            inner = layers(inner) if wrapper is None else wrapper(layers[0], inner, options)
        return x + torch.tanh(inner * self.weight + emb[:, :, None, None])


class SpatialTransformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.GroupNorm(2, 4)
        self.transformer_blocks = torch.nn.ModuleList()
        self.weight = torch.nn.Parameter(torch.randn(4))

    def forward(self, x, emb, context, options):
        for block in self.transformer_blocks:
            x = block(x)
        replace = options.get("patches_replace", {}).get("attn2", {}).get(options["block"])
        told = context.mean(dim=1) * self.weight if replace is None else replace(context)
        return x + told[:, :, None, None] * self.norm(x)


class UNetModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.input_blocks, self.output_blocks = (
            torch.nn.ModuleList(Block(ResBlock(), SpatialTransformer()) for _ in range(2)) for _ in range(2))
        self.middle_block = Block(ResBlock(), SpatialTransformer(), ResBlock())
        self.out = torch.nn.Sequential(torch.nn.GroupNorm(2, 4))

    def forward(self, x, timesteps, context, control=None, transformer_options=None):
        emb = torch.stack([(timesteps * rate).sin() for rate in (0.001, 0.01, 0.1, 0.7)], dim=1)
        if control is not None:
            x = x + 0.1 * control
        for name, blocks in (("input", self.input_blocks), ("middle", [self.middle_block]),
                             ("output", self.output_blocks)):
            for number, block in enumerate(blocks):
                x = block(x, emb, context, {**(transformer_options or {}), "block": (name, number)})
        return torch.tanh(self.out(x) * 0.5)
