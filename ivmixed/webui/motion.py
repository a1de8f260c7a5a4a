"""The motion in the host's UNet while a clip is sampled: what the sampler asks of it, on every host."""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn

from .page import settings


class ClipMotion(Protocol):
    """AnimateDiff's motion or the built-in one. What one of them needs nothing for is here as it is then."""

    context: int
    """Frames that are evaluated at a time."""
    needs_both: bool = False
    """Whether it needs the prompt's and the negative prompt's rows in one call, of one length, where the host puts them
    into one batch."""
    modules: Sequence[nn.Module] = ()
    """What it has put between the layers of the UNet: no weights of the checkpoint's."""
    missing_sigmas: Tensor | None = None
    """The noise levels that it was trained on, one a timestep, float32, where the sampler is to put them into the host;
    None: they are there."""

    @property
    def image_context(self) -> int:
        """Frames that the image model takes at a time."""
        return settings.chunk(self.context)

    @abstractmethod
    def checkpoint_sigmas(self) -> Tensor:
        """The noise levels of the checkpoint's own table, one a timestep, with the host's settings for it."""

    @abstractmethod
    def blended(self, cond: Any) -> Any:
        """The encoded prompts of a step, (frames, ...), as they change along the clip."""

    @abstractmethod
    def left_out(self) -> AbstractContextManager[None]:
        """Within the block the UNet is the checkpoint's own, to the bit."""

    def watched(self) -> AbstractContextManager[None]:
        """Around an evaluation with motion. Raises RefusedError at its end where the UNet has never called it."""
        return nullcontext()

    def around(self, network: Any) -> AbstractContextManager[None]:
        """Within the block, which is one with motion left out, another network than the clip's takes as many frames at
        a time."""
        return nullcontext()

    def outermost(self, transformer_options: dict[str, Any], last: int) -> dict[str, Any]:
        """The Forge family's options of one call of the network, for one where deep features serve again: motion acts
        behind the layers that follow them alone. ``last`` is the number of the UNet's last output block."""
        return transformer_options


def sigmas_of(alphas_cumprod: Tensor) -> Tensor:
    """The noise levels of a noise table, as k-diffusion computes them."""
    return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
