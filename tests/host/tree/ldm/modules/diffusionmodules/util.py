"""The group norm whose forward AnimateDiff swaps for its v1 modules."""
import torch


class GroupNorm32(torch.nn.GroupNorm):
    def forward(self, x):
        return super().forward(x.float()).type(x.dtype)
