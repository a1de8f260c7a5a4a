"""Context windows: a clip longer than a motion module sees at a time is evaluated in overlapping parts, and fused.

`uniform_windows` makes the windows that AnimateDiff's WebUI extension makes from the same settings, and
`evaluate_in_windows` runs a denoiser in them. From step to step the windows move, so that no seam stays in its place.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..controls import FUSES, LOOPS


def uniform_windows(
    step: int,
    frames: int,
    context: int = 16,
    overlap: int | None = None,
    stride: int = 1,
    closed_loop: str = "R-P",
) -> list[list[int]]:
    """The windows of one step, each ``context`` frame numbers; a single one where ``frames`` fit into it.

    ``step``: number of the sampling step, from 0. ``overlap``: frames that neighbouring windows share, a quarter of
    ``context`` where not given. ``stride``: with 2, windows of every second frame come besides, with 3 those of every
    fourth too, as far as the clip is long enough. ``closed_loop``: one of `LOOPS`.
    Every frame is in a window. Raises ValueError for values out of range.

    The shift of a step is the van der Corput sequence (0, 1/2, 1/4, 3/4, 1/8, ...) times the length of the clip.
    """
    overlap = context // 4 if overlap is None else overlap
    if closed_loop not in LOOPS:
        raise ValueError(f"closed loop = {closed_loop!r} is not one of {', '.join(LOOPS)}")
    if step < 0 or frames < 1 or context < 1 or stride < 1:
        raise ValueError(f"step = {step}, frames = {frames}, context = {context}, stride = {stride}: "
                         "a step is 0 at least, the others 1 at least")
    if not 0 <= overlap < context:
        raise ValueError(f"overlap = {overlap} frames is not in 0 to {context - 1}, less than the context of {context}")
    if frames <= context:
        return [list(range(frames))]
    part = _mirrored(step)
    shift = round(frames * part)
    end = frames + shift - (0 if closed_loop == "A" else overlap)
    windows: list[list[int]] = []
    for spread in (2**power for power in range(min(stride, math.ceil(math.log2(frames / context)) + 1))):
        starts = range(shift + int(part * spread), end, context * spread - overlap)
        made = [[(start + spread * place) % frames for place in range(context)] for start in starts]
        windows += _within(made, frames, overlap) if closed_loop == "N" and spread == 1 else made
    if len({frame for window in windows for frame in window}) < frames:
        windows.append(list(range(context)))  # see `_within`; the extension leaves these frames without a value
    return windows


def _mirrored(step: int) -> float:
    """The van der Corput sequence: the binary digits of ``step`` mirrored behind the point."""
    value, digit = 0.0, 0.5
    while step:
        value += digit * (step & 1)
        step, digit = step >> 1, digit / 2
    return value


def _within(windows: list[list[int]], frames: int, overlap: int) -> Iterator[list[int]]:
    """The windows, of neighbouring frames, with those that reach over the clip's end put to its ends instead.

    A window with most of its frames before the end is moved back to it; the rest falls to the next window that reaches
    over, which is moved to the start, if one comes. One with fewer stands for both.
    """
    context = len(windows[0])
    first, last = list(range(context)), list(range(frames - context, frames))
    owed = False
    for window in windows:
        before_end = context if window[-1] >= window[0] else frames - window[0]
        if before_end == context:
            yield window
        elif owed:
            owed = False
            yield first
        elif before_end < context - overlap:
            yield from (last, first)
        else:
            owed = True
            yield last


def evaluate_in_windows(
    evaluate: Callable[[Tensor, int], Tensor],
    x: Tensor,
    windows: Sequence[Sequence[int]],
    frames: int,
    fuse: str = "mean",
    overlap: int | None = None,
) -> Tensor:
    """What ``evaluate`` gives for all rows of ``x``, asked window by window. The device is never waited for.

    ``x``: (sets x frames, ...). ``evaluate(rows, length)``: rows of ``x`` to evaluate (int64, on its device, set after
    set) and how many frames each set has of them; returns a row for each. ``fuse``: one of `FUSES`; a frame in several
    windows is that of the "last", as AnimateDiff's WebUI extension has it, or their mean with the weights of
    `window_weights`, taken in float32 at least. ``overlap``: frames that neighbouring windows share, for these.
    Returns rows as of ``x``, in the dtype that ``evaluate`` gives. Raises ValueError: rows or windows do not fit.
    """
    sets, rest = divmod(x.shape[0], frames)
    if rest or not sets:
        raise ValueError(f"{x.shape[0]} rows are no whole number of clips of {frames} frames")
    if fuse not in FUSES:
        raise ValueError(f"fuse = {fuse!r} is not one of {', '.join(FUSES)}")
    weights = [window_weights(fuse, len(window), overlap) for window in windows]
    sums = [0] * frames
    for window, own in zip(windows, weights):
        for frame, weight in zip(window, own):
            sums[frame] += weight
    if not all(sums):
        raise ValueError(f"frame {sums.index(0)} of {frames} is in no window")
    total: Tensor | None = None
    for window, own in zip(windows, weights):
        rows = on_device([frame + frames * number for number in range(sets) for frame in window], x.device)
        part = evaluate(rows, len(window))
        if total is None:
            dtype = part.dtype if fuse == "last" else torch.promote_types(part.dtype, torch.float32)
            given = part.dtype
            total = part.new_zeros((x.shape[0], *part.shape[1:]), dtype=dtype)
        if fuse == "last":
            total = _overwritten(total, part, window, frames)
            continue
        part = part.to(total.dtype)
        if fuse != "mean":
            part = part * on_device(own * sets, x.device, total.dtype).view(-1, *[1] * (part.ndim - 1))
        total.index_put_((rows,), part, accumulate=True)  # in a fixed order, unlike index_add_
    assert total is not None
    if fuse == "last":
        return total
    return (total / on_device(sums * sets, x.device).view(-1, *[1] * (total.ndim - 1))).to(given)


def window_weights(fuse: str, length: int, overlap: int | None = None) -> list[int]:
    """How much each frame of a window counts where windows are fused; of a frame's windows the weights are divided by
    their sum, so that they sum to one.

    ``fuse``: "mean" all alike; "pyramid" from 1 at the ends to the middle, as FreeNoise fuses (arXiv 2310.15169,
    section 3); "linear" up and down over the ``overlap`` frames that neighbouring windows share (a quarter of the
    length where not given), alike between.
    """
    if fuse == "pyramid":
        return [min(place + 1, length - place) for place in range(length)]
    if fuse == "linear":
        ramp = (length // 4 if overlap is None else overlap) + 1
        return [min(place + 1, length - place, ramp) for place in range(length)]
    return [1] * length


def _overwritten(total: Tensor, part: Tensor, window: Sequence[int], frames: int) -> Tensor:
    """``total`` with the rows of a window as in ``part``; of a frame that is twice in the window, the later one."""
    latest = {frame: place for place, frame in enumerate(window)}
    places, kept = list(latest.values()), list(latest)
    sets, length = total.shape[0] // frames, len(window)
    source = on_device([place + length * number for number in range(sets) for place in places], total.device)
    target = on_device([frame + frames * number for number in range(sets) for frame in kept], total.device)
    return total.index_copy_(0, target, part.index_select(0, source))


def on_device(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """A tensor on the device, which is not waited for: pinned memory is copied in its own time."""
    tensor = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return tensor.to(device, non_blocking=True)
