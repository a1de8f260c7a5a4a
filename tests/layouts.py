"""Model files as tests need them: names and shapes of published layouts, random tensors of these, and files of such."""
import json
import math
import os
from functools import cache

import torch
from safetensors.torch import save_file


def dense(name, out, inp, *kernel, bias=True):
    return {f"{name}.weight": (out, inp, *kernel), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def attention_block(block, width, attentions):
    """The part that SD's and AnimateDiff's transformer blocks share: ``attentions`` are (name, input width)."""
    shapes = {}
    for name, inp in attentions:
        for part, source in (("to_q", width), ("to_k", inp), ("to_v", inp)):
            shapes |= dense(f"{block}.{name}.{part}", width, source, bias=False)
        shapes |= dense(f"{block}.{name}.to_out.0", width, width)
    return shapes | dense(f"{block}.ff.net.0.proj", 8 * width, width) | dense(f"{block}.ff.net.2", width, 4 * width)


def motion_shapes(widths, positions=32, middle=False):
    """AnimateDiff's motion modules: 560 tensors, 588 with a middle block; ``positions`` None: no tables."""
    shapes = {}

    def module(name, width):
        name += ".temporal_transformer"
        block = f"{name}.transformer_blocks.0"
        shapes.update(norm(f"{name}.norm", width) | dense(f"{name}.proj_in", width, width))
        shapes.update(attention_block(block, width, [(f"attention_blocks.{n}", width) for n in (0, 1)]))
        for number in (0, 1):
            shapes.update(norm(f"{block}.norms.{number}", width))
            if positions:
                shapes[f"{block}.attention_blocks.{number}.pos_encoder.pe"] = (1, positions, width)
        shapes.update(norm(f"{block}.ff_norm", width) | dense(f"{name}.proj_out", width, width))

    for side, levels, count in (("down", widths, 2), ("up", widths[::-1], 3)):
        for level, width in enumerate(levels):
            for number in range(count):
                module(f"{side}_blocks.{level}.motion_modules.{number}", width)
    if middle:
        module("mid_block.motion_modules.0", widths[-1])
    return shapes


@cache
def sinusoids(positions, width):
    """AnimateDiff's position table."""
    angles = [[p * 10000 ** (-(i - i % 2) / width) for i in range(width)] for p in range(positions)]
    return torch.tensor([[[math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(row)] for row in angles]])


def random(shapes, seed=0):
    """Tensors that keep activations finite; position tables are AnimateDiff's."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("pos_encoder.pe"):
            tensors[name] = sinusoids(*shape[1:]).clone()
        elif name.endswith("position_ids"):
            tensors[name] = torch.arange(77)[None]
        else:
            fan = math.prod(shape[1:]) if len(shape) > 1 else 100
            tensors[name] = torch.randn(shape, generator=generator) / math.sqrt(fan)
    return tensors


def sparse(path, shapes):
    """A safetensors file whose header is true and whose data are a hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    return path


def saved(path, tensors, **wrapped):
    """``tensors`` in a file of the kind that the suffix names; a .ckpt holds them as ``state_dict`` beside others."""
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, **wrapped} if wrapped else tensors, path)
    return path
