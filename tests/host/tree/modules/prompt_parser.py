"""Prompts as tensors.

A prompt is a schedule, [(last step, tensor of (tokens, 4)), ...]; a batch has one for every row.
"""
import zlib

import torch

CHUNK = 7
"""Tokens of a short prompt; 77 in the host."""


def encode(text, chunks=1):
    """The conditioning of a text: the same for the same text, ``chunks`` times the length of a short prompt."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return torch.randn(chunks * CHUNK, 4, generator=generator)


def encode_prompt(text):
    """That of a prompt as it is written: BREAK begins another chunk."""
    return encode(text, 1 + text.count("BREAK"))


def reconstruct_cond_batch(batch, step):
    """The rows' tensors in a step; past the end of a schedule its first entry again."""
    return torch.stack([
        next((tensor for last, tensor in schedule if step <= last), schedule[0][1]) for schedule in batch])


def reconstruct_multicond_batch(batch, step):
    """The same, with the parts that AND makes of each row; here one."""
    return [[(row, 1.0)] for row in range(len(batch))], reconstruct_cond_batch(batch, step)
