"""Noise: a generator for each row, so that a row does not depend on the batch it is in."""
import torch


class ImageRNG:
    def __init__(self, shape, seeds):
        self.shape = shape
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def next(self):
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in self.generators])
