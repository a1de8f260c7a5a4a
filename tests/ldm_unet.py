"""A test double of CompVis' ``openaimodel.UNetModel``: the layers of a diffusers UNet in the original layout.

The weights are those of the diffusers UNet, so what the two give can be compared. It carries what motion meets there:
``input_blocks``, ``middle_block``, ``output_blocks`` and ``out``, layers that are called one after the other, and in
residual blocks the norms that are called as the first of ``in_layers`` and ``out_layers``.
"""
from __future__ import annotations

import torch
from torch import nn


class ResBlock(nn.Module):
    def __init__(self, resnet):
        super().__init__()
        self.in_layers = nn.Sequential(resnet.norm1, nn.SiLU(), resnet.conv1)
        self.emb_layers = nn.Sequential(nn.SiLU(), resnet.time_emb_proj)
        self.out_layers = nn.Sequential(resnet.norm2, nn.SiLU(), resnet.dropout, resnet.conv2)
        self.skip_connection = resnet.conv_shortcut or nn.Identity()

    def forward(self, x, emb):
        h = self.in_layers(x)
        h = self.out_layers(h + self.emb_layers(emb)[:, :, None, None])
        return self.skip_connection(x) + h


class SpatialTransformer(nn.Module):
    def __init__(self, transformer):
        super().__init__()
        self.whole = transformer
        self.norm, self.transformer_blocks = transformer.norm, transformer.transformer_blocks

    def forward(self, x, context):
        return self.whole(x, encoder_hidden_states=context, return_dict=False)[0]


class Block(nn.Sequential):
    def forward(self, x, emb, context):
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class LdmUNet(nn.Module):
    """``unet``: a diffusers UNet2DConditionModel."""

    def __init__(self, unet):
        super().__init__()
        self.time_proj, self.time_embed = unet.time_proj, unet.time_embedding
        self.input_blocks = nn.ModuleList([Block(unet.conv_in)])
        for block in unet.down_blocks:
            self.input_blocks += layers(block)
            self.input_blocks += [Block(downsampler) for downsampler in block.downsamplers or ()]
        middle = unet.mid_block
        self.middle_block = Block(
            ResBlock(middle.resnets[0]), SpatialTransformer(middle.attentions[0]), ResBlock(middle.resnets[1]))
        self.output_blocks = nn.ModuleList()
        for block in unet.up_blocks:
            self.output_blocks += layers(block)
            for upsampler in block.upsamplers or ():
                self.output_blocks[-1].append(upsampler)
        self.out = nn.Sequential(unet.conv_norm_out, nn.SiLU(), unet.conv_out)

    def forward(self, x, timesteps, context):
        """Rows (n, channels, height, width), timesteps (n,), context (n, tokens, channels)."""
        emb = self.time_embed(self.time_proj(timesteps).to(x.dtype))
        skips = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb, context)
        return self.out(x)


def layers(block):
    """A block for every residual block, with the transformer that follows it."""
    transformers = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return [Block(ResBlock(resnet), *([SpatialTransformer(transformer)] if transformer is not None else []))
            for resnet, transformer in zip(block.resnets, transformers)]
