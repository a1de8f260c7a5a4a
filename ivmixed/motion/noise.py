"""The noise that a clip begins with: FreeNoise and repeated noise for long clips, FreeInit for steady ones.

Frames of a clip that is longer than the context begin alike with `order`: the noise of the first window comes again in
every other, shuffled or as it was. `FreeInit` samples a clip several times, each time from noise whose low frequencies
are those of the clip before.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ..controls import FILTERS, NOISES, MotionControls


def order(noise: str, frames: int, context: int, shift: int, generator: torch.Generator) -> list[int]:
    """Whose noise each of ``frames`` frames has: the number of a frame, below ``context`` unless ``noise`` is "random".

    ``noise``: one of `NOISES`. ``shift``: by how many frames the next window lies further, 1 to ``context``; FreeNoise
    shuffles so many frames at a time. ``generator``: of the shuffles, on the CPU. Of a shift, the order is that of
    diffusers' "shuffle_context". Raises ValueError for values out of range.
    """
    if noise not in NOISES:
        raise ValueError(f"noise = {noise!r} is not one of {', '.join(NOISES)}")
    if frames < 1 or not 1 <= shift <= context:
        raise ValueError(f"frames = {frames}, context = {context}, shift = {shift}: there is 1 frame at least, and a "
                         "shift is 1 to the context")
    if noise == "random":
        return list(range(frames))
    if noise == "repeat":
        return [frame % context for frame in range(frames)]
    found = list(range(min(frames, context)))
    while len(found) < frames:
        source = len(found) - context
        found += [found[source + place] for place in torch.randperm(shift, generator=generator).tolist()]
    return found[:frames]


def order_of(controls: MotionControls, frames: int, seed: int) -> list[int]:
    """The same of a clip's options; ``seed`` is that of the shuffles."""
    return order(controls.noise, frames, controls.context, controls.context - controls.shared_frames,
                 torch.Generator().manual_seed(seed))


@lru_cache(maxsize=2)
def low_pass(frames: int, height: int, width: int, filter: str = "butterworth", cutoff: float = 0.25) -> Tensor:
    """How much of each frequency of a clip's latent is low: (frames, 1, height, width // 2 + 1), 0 to 1, float32, as
    ``torch.fft.rfftn`` orders them.

    ``filter``: one of `FILTERS`; ``cutoff``: the frequency at which it stops, in half sampling rates, in time as in
    space. The filters are those of the released code (Wu et al., arXiv 2312.07537, its ``freeinit_utils.py``), with a
    Butterworth filter of order 4; what it calls ideal stops at the square root of twice the cutoff. For sides and
    lengths that are odd its filters lie half a frequency beside the middle, and these do not.
    """
    squares = [(2 * frequency) ** 2 for frequency in
               (torch.fft.fftfreq(frames), torch.fft.fftfreq(height), torch.fft.rfftfreq(width))]
    distance = squares[0][:, None, None, None] + squares[1][:, None] + squares[2]
    if filter == "butterworth":
        made: Tensor = 1 / (1 + (distance / cutoff**2) ** 4)
    elif filter == "gaussian":
        made = (-distance / (2 * cutoff**2)).exp()
    elif filter == "ideal":
        made = (distance <= 2 * cutoff).float()
    else:
        raise ValueError(f"filter = {filter!r} is not one of {', '.join(FILTERS)}")
    return made


def mixed(low: Tensor, high: Tensor, filter: str = "butterworth") -> Tensor:
    """The low frequencies of ``low`` with the high ones of ``high``, both (frames, channels, height, width); in the
    dtype of ``high``, computed in float32."""
    axes = 0, 2, 3
    frames, _, *size = high.shape
    share = low_pass(frames, *size, filter).to(high.device)
    spectrum = [torch.fft.rfftn(part.to(torch.float32), dim=axes) for part in (low, high)]
    made: Tensor = torch.fft.irfftn(torch.lerp(spectrum[1], spectrum[0], share.to(spectrum[0].dtype)),
                                    s=(frames, *size), dim=axes)
    return made.to(high.dtype)


def sample_again(
    sample: Callable[[Tensor], Tensor],
    noise: Tensor,
    passes: int,
    *,
    fresh: Callable[[], Tensor],
    abar: float,
    filter: str = "butterworth",
    stopped: Callable[[], bool] = lambda: False,
) -> Tensor:
    """FreeInit: samples a clip ``passes`` times, and returns the latent of the last (algorithm 1 of the paper).

    ``sample(noise)``: from noise of variance 1, (frames, channels, height, width), to the clean latent. Between two
    passes that latent is brought to the noise level ``abar``, the last of the model's table, with the noise that the
    first pass began with; its low frequencies and the high ones of ``fresh()``, noise like ``noise``, are the next
    pass's. ``stopped()``: whether the user wants no further pass. One pass is ``sample(noise)`` itself.
    """
    first = noise
    for number in range(passes):
        latent = sample(noise)
        if number == passes - 1 or stopped():
            break
        again = math.sqrt(abar) * latent.to(first) + math.sqrt(1 - abar) * first
        noise = mixed(again, fresh().to(first), filter)
    return latent
