"""A UNet by structure: blocks that are lists of layers, into which AnimateDiff puts its own, and skip connections.

4 channels throughout, but where an output block takes those of an input block too.
"""
import networks
import torch

from ldm.modules.diffusionmodules.util import GroupNorm32


class ResBlock(torch.nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.in_layers = torch.nn.Sequential(GroupNorm32(2, channels))
        self.out_layers = torch.nn.Sequential(GroupNorm32(2, 4))
        self.join = torch.nn.Identity() if channels == 4 else torch.nn.Conv2d(channels, 4, 1)
        self.weight = torch.nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x, emb):
        networks.network_apply_weights(self)
        inner = self.out_layers(self.join(self.in_layers(x)))
        return self.join(x) + torch.tanh(inner * self.weight + emb[:, :, None, None])


class SpatialTransformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.GroupNorm(2, 4)
        self.transformer_blocks = torch.nn.ModuleList()
        self.weight = torch.nn.Parameter(torch.randn(4))

    def forward(self, x, context):
        networks.network_apply_weights(self)
        for block in self.transformer_blocks:
            x = block(x)
        return x + (context.mean(dim=1) * self.weight)[:, :, None, None] * self.norm(x)


class TimestepEmbedSequential(torch.nn.Sequential):
    def forward(self, x, emb, context):
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNetModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.input_blocks, self.output_blocks = (
            torch.nn.ModuleList(TimestepEmbedSequential(ResBlock(channels), SpatialTransformer()) for _ in range(2))
            for channels in (4, 8))
        self.middle_block = TimestepEmbedSequential(ResBlock(), SpatialTransformer(), ResBlock())
        self.out = torch.nn.Sequential(GroupNorm32(2, 4))

    def forward(self, x, timesteps=None, context=None):
        emb = torch.stack([(timesteps * rate).sin() for rate in (0.001, 0.01, 0.1, 0.7)], dim=1)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb, context)
        return torch.tanh(self.out(x) * 0.5)
