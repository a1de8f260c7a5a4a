"""What a network predicted in one evaluation, to serve another one without a call of the network.

The contract. A move whose ``reuse`` is "prediction" (`ivmixed.plan.Move`) asks its model about the latent and the noise
level of that model's latest evaluation once more, at another guidance: guidance is applied to what the network gives,
so this is the same. For each part of the batch, cond or uncond, it gives as many rows in the same order; only which
parts and how many rows share one call of the network may be other. So the rows are kept by part, and given again by
part and number.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class Predictions:
    """The rows of the latest evaluation of one model, by part of the batch."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, list[Tensor]] = {}

    def __contains__(self, part: Hashable) -> bool:
        return part in self._rows

    def keep(self, part: Hashable, rows: Tensor) -> None:
        """A call of the network gave ``rows``, (n, ...), for the next n rows of ``part``."""
        self._rows.setdefault(part, []).append(rows.clone())

    def again(self) -> Callable[[Hashable, int], Tensor]:
        """For one evaluation: ``take(part, n)`` gives the next n rows of ``part``, which the caller may write into.

        Raises LookupError where there are not so many.
        """
        left = {part: torch.cat(rows) for part, rows in self._rows.items()}

        def take(part: Hashable, count: int) -> Tensor:
            given, left[part] = left[part][:count], left[part][count:]
            if len(given) < count:
                raise IndexError(f"{count} rows of {part!r} are asked for, {len(given)} are left of the prediction")
            return given
        return take
