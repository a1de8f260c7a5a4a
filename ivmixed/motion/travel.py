"""Prompt travel: the prompt changes along the clip, written in the syntax of AnimateDiff's WebUI extension::

    masterpiece, best quality       head lines: what all prompts begin with
    0: a seed in the ground         "frame: prompt", frames ascending
    8: a tree in blossom
    soft light                      tail lines: what all prompts end with

Between two of these frames the encoded prompts are blended along the arc between them.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..untrusted import Refusal
from .windows import on_device

ARC_LIMIT = 0.9995
"""Cosine of two encoded prompts above which they are blended along a straight line, since the arc has no angle."""

_KEY = re.compile(r"(\d+):\s*(.*)$")
_DIGITS = 9
"""Of a frame's number, at most: no clip has as many."""


class TravelError(Refusal):
    """A prompt is no proper prompt travel. The message names the line."""

    def __init__(self, number: int, line: str, problem: str):
        super().__init__(f"IV-mixed: prompt travel, line {number} ({line[:60]!r}) {problem}.")


@dataclass(frozen=True)
class Travel:
    """The frames at which a prompt is given, ascending from any frame, and the whole prompts of these."""

    frames: tuple[int, ...]
    prompts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, length: int) -> Travel | None:
        """What ``text`` says for a clip of ``length`` frames; None where it is one prompt for all.

        As in the extension head, prompt and tail are joined by commas also where one of them is empty, so that the
        same text gives the same clip. Raises TravelError.
        """
        head: list[str] = []
        tail: list[str] = []
        keys: dict[int, str] = {}
        for number, line in enumerate(text.strip().replace("\r\n", "\n").split("\n"), 1):
            match = _KEY.match(line)
            if match is None:
                (tail if keys else head).append(line)
                continue
            if len(match[1]) > _DIGITS:
                raise TravelError(number, line, f"gives a frame of {len(match[1])} digits; "
                                                f"the clip's are 0 to {length - 1}")
            frame, prompt = int(match[1]), match[2]
            if tail:
                raise TravelError(number, line, "gives a frame after the tail has begun; "
                                                "put the lines without a frame before or after all others")
            if not prompt.strip():
                raise TravelError(number, line, 'has no prompt; write "frame: prompt"')
            if frame >= length:
                raise TravelError(number, line, f"gives frame {frame} of a clip with frames 0 to {length - 1}")
            if keys and frame <= max(keys):
                raise TravelError(number, line, f"gives frame {frame} after frame {max(keys)}; let frames ascend")
            keys[frame] = prompt
        if not keys:
            return None
        before, after = ", ".join(head), ", ".join(tail)
        return cls(tuple(keys), tuple(f"{before}, {prompt}, {after}" for prompt in keys.values()))

    def weights(self, length: int, closed: bool = False) -> list[tuple[int, int, float]]:
        """For every frame of the clip: two of the prompts, by number, and how far it is from the one to the other.

        Before the first given frame and after the last the nearest prompt holds, or with ``closed`` (a closed loop) the
        last travels to the first over the clip's end.
        """
        return [self._at(frame, length, closed) for frame in range(length)]

    def _at(self, frame: int, length: int, closed: bool) -> tuple[int, int, float]:
        count = len(self.frames)
        following = sum(given <= frame for given in self.frames)  # the number of the next prompt
        if 0 < following < count or (closed and count > 1):
            one, other = (following - 1) % count, following % count
            gone = (frame - self.frames[one]) % length
            left = (self.frames[other] - frame) % length
            return one, other, gone / (gone + left)
        held = max(following - 1, 0)
        return held, held, 0.0

    def blend(self, encoded: Tensor, length: int, closed: bool = False) -> Tensor:
        """The encoded prompt of every frame, (length, ...), from those of the given frames, (prompts, ...).

        Spherical: ``(sin((1 - t) w) a + sin(t w) b) / sin w`` with w the angle between a and b, each taken as one
        long vector (Shoemake 1985). On the device of ``encoded``, without waiting for it, in its dtype.
        """
        weights = self.weights(length, closed)
        pairs = sorted({(one, other) for one, other, _ in weights})
        shape = (-1, *[1] * (encoded.ndim - 1))

        def column(values: Sequence[float]) -> Tensor:
            return on_device(values, encoded.device, torch.float32).view(shape)

        prompts = encoded.float()
        units = [prompt / prompt.norm() for prompt in prompts]
        cosines = torch.stack([(units[one] * units[other]).sum() for one, other in pairs])
        places = on_device([pairs.index((one, other)) for one, other, _ in weights], encoded.device)
        cosine = cosines.index_select(0, places).view(shape)
        a, b = (prompts.index_select(0, on_device([weight[side] for weight in weights], encoded.device))
                for side in (0, 1))
        gone, left = column([rate for *_, rate in weights]), column([1 - rate for *_, rate in weights])
        angle = cosine.clamp(-1, 1).acos()
        arc = ((left * angle).sin() * a + (gone * angle).sin() * b) / angle.sin()
        line = left * a + gone * b
        held = on_device([one == other for one, other, _ in weights], encoded.device, torch.bool).view(shape)
        return torch.where(held, a, torch.where(cosine.abs() > ARC_LIMIT, line, arc)).to(encoded.dtype)
