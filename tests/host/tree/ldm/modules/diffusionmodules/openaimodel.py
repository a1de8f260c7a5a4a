"""A UNet by structure: blocks that are lists of layers, into which AnimateDiff puts its own. 4 channels throughout."""
import torch

from ldm.modules.diffusionmodules.util import GroupNorm32


class ResBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = GroupNorm32(2, 4)
        self.weight = torch.nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x, emb):
        return x + torch.tanh(self.norm(x) * self.weight + emb[:, :, None, None])


class SpatialTransformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4))

    def forward(self, x, context):
        return x + (context.mean(dim=1) * self.weight)[:, :, None, None]


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
            torch.nn.ModuleList(TimestepEmbedSequential(ResBlock(), SpatialTransformer()) for _ in range(2))
            for _ in range(2))
        self.middle_block = TimestepEmbedSequential(ResBlock(), SpatialTransformer(), ResBlock())

    def forward(self, x, timesteps=None, context=None):
        emb = torch.stack([(timesteps * rate).sin() for rate in (0.001, 0.01, 0.1, 0.7)], dim=1)
        for block in (*self.input_blocks, self.middle_block, *self.output_blocks):
            x = block(x, emb, context)
        return torch.tanh(x * 0.5)
