"""Noise schedules: the table of a model, and the same noise level in the tables of two models.

A network is trained on a table of ``abar`` (the cumulative product of ``1 - beta``), one entry a timestep. Samplers
speak of ``sigma = sqrt((1 - abar) / abar)``, the noise level of a latent ``x = x0 + sigma * noise``. Between entries
log sigma is interpolated linearly in the timestep, as k-diffusion's ``DiscreteSchedule`` does.

Some networks were trained on clips that are scaled: ``sqrt(abar) * s * x0 + sqrt(1 - abar) * noise``. Then there is
more noise in the same entry, ``sigma = sqrt(1 - abar) / (s * sqrt(abar))``, and what the network gets has no longer
variance 1: `Schedule.input_norm` is what x is divided by for it.
"""
from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from functools import lru_cache

TERMINAL_ABAR = 2.0**-24
"""What stands for an abar of 0, as in diffusers: sigma 4096, where a latent is noise to the last digit of a float32."""

ZERO_SNR_ABAR = 4.8973451890853435e-08
"""The last abar of a table that is rescaled to zero terminal SNR, as in AUTOMATIC1111, Forge and ComfyUI: sigma 4519,
beyond all others of AnimateDiff's table too, whose last but one becomes 3991."""

VIDEOCRAFTER2_SCALE = tuple(1 - 0.3 * min(t / 399, 1) for t in range(1000))
"""What VideoCrafter2's clips were scaled by, by timestep. Source: AILab-CVC/VideoCrafter, ``use_scale`` and ``scale_b``
in ``configs/inference_t2v_512_v2.0.yaml``, ``scale_arr`` in ``lvdm/models/ddpm3d.py``."""


def abar_to_sigma(abar: float) -> float:
    """``sqrt((1 - abar) / abar)``: the noise level (unitless, >= 0) of an ``abar`` in (0, 1].

    Raises ValueError outside that range.
    """
    if not 0 < abar <= 1:
        raise ValueError(f"abar = {abar} is not in (0, 1]")
    return math.sqrt((1 - abar) / abar)


def sigma_to_abar(sigma: float) -> float:
    """``1 / (1 + sigma^2)``, the inverse of `abar_to_sigma`. Raises ValueError for a negative sigma."""
    if not sigma >= 0:
        raise ValueError(f"sigma = {sigma} is negative or not a number")
    return 1 / (1 + sigma * sigma)


class Schedule:
    """The noise table of a model: the sigma of every timestep, ascending.

    ``alphas_cumprod``: abar by timestep, descending, any iterable of numbers (a tensor too; read once). The last may be
    0 (zero terminal SNR): its sigma would be infinite, and is that of `TERMINAL_ABAR`. ``input_scale``: s by timestep,
    as many numbers above 0, where the network was trained on scaled clips (see above); 1 where not given. Raises
    ValueError where the table is shorter than two entries, leaves (0, 1) elsewhere or does not descend, and where the
    scales do not fit it.
    """

    _unscaled: Schedule | None = None

    def __init__(self, alphas_cumprod: Iterable[float], input_scale: Iterable[float] | None = None):
        table = [float(abar) for abar in alphas_cumprod]
        if table[-1:] == [0.0]:
            table[-1] = TERMINAL_ABAR
        self._set(abar_to_sigma(abar) for abar in table)
        if input_scale is not None:
            scales = [float(scale) for scale in input_scale]
            if len(scales) != len(self) or not all(0 < scale < math.inf for scale in scales):
                raise ValueError(f"an input scale needs {len(self)} finite numbers above 0, one for each timestep")
            self._unscaled = Schedule.from_sigmas(self.sigmas)
            self._set(sigma / scale for sigma, scale in zip(self.sigmas, scales))

    @classmethod
    def from_sigmas(cls, sigmas: Iterable[float]) -> Schedule:
        """The same from sigmas, ascending (the ``sigmas`` of a k-diffusion denoiser)."""
        schedule = cls.__new__(cls)
        schedule._set(float(sigma) for sigma in sigmas)
        return schedule

    @classmethod
    def from_betas(cls, betas: Iterable[float]) -> Schedule:
        """The table that the variances ``betas`` of a forward process make."""
        abar, table = 1.0, []
        for beta in betas:
            abar *= 1 - float(beta)
            table.append(abar)
        return cls(table)

    @classmethod
    @lru_cache(8)
    def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Schedule:
        """Betas linear in their square root: Stable Diffusion 1.5's table (the image model)."""
        first, last = math.sqrt(start), math.sqrt(end)
        return cls.from_betas((first + (last - first) * t / (steps - 1)) ** 2 for t in range(steps))

    @classmethod
    @lru_cache(8)
    def linear(cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Schedule:
        """Linear betas: the table of AnimateDiff's SD 1.5 motion modules (the video model)."""
        return cls.from_betas(start + (end - start) * t / (steps - 1) for t in range(steps))

    @classmethod
    @lru_cache(1)
    def videocrafter2(cls) -> Schedule:
        """VideoCrafter2's table: Stable Diffusion's betas, and clips scaled by `VIDEOCRAFTER2_SCALE`."""
        return cls(cls.scaled_linear().abars, VIDEOCRAFTER2_SCALE)

    @property
    def unscaled(self) -> Schedule:
        """The same table without its input scale; itself where it has none."""
        return self._unscaled or self

    def with_zero_snr(self) -> Schedule:
        """The table shifted and scaled so that it begins where it did and ends in noise alone, `ZERO_SNR_ABAR`
        or less where the last but one is there already: zero terminal SNR, Lin et al., arXiv 2305.08891, algorithm 1.
        Without an input scale.
        """
        roots = [math.sqrt(abar) for abar in self.abars]
        first, last = roots[0], roots[-1]
        table = [((root - last) * first / (first - last)) ** 2 for root in roots[:-1]]
        return Schedule([*table, ZERO_SNR_ABAR if table[-1] > ZERO_SNR_ABAR else table[-1] / 2])

    def _set(self, sigmas: Iterable[float]) -> None:
        self.sigmas = tuple(sigmas)
        if len(self.sigmas) < 2:
            raise ValueError("a noise schedule needs at least two timesteps")
        if not all(0 < a < b < math.inf for a, b in zip(self.sigmas, self.sigmas[1:])):
            raise ValueError("a noise schedule needs finite sigmas above 0 that grow with the timestep")
        self._logs = tuple(math.log(sigma) for sigma in self.sigmas)

    def __len__(self) -> int:
        return len(self.sigmas)

    @property
    def abars(self) -> tuple[float, ...]:
        """The abar of every timestep, descending. An input scale is not in it."""
        return tuple(sigma_to_abar(sigma) for sigma in self.unscaled.sigmas)

    @property
    def sigma_min(self) -> float:
        """The smallest noise level the model was trained on."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> float:
        """The largest noise level the model was trained on."""
        return self.sigmas[-1]

    def timestep_to_sigma(self, timestep: float) -> float:
        """Sigma at a timestep, fractions allowed; clamped to the table's ends."""
        timestep = min(max(timestep, 0.0), len(self) - 1.0)
        low = min(int(timestep), len(self) - 2)
        part = timestep - low
        if part in (0.0, 1.0):
            return self.sigmas[low + int(part)]
        return math.exp((1 - part) * self._logs[low] + part * self._logs[low + 1])

    def sigma_to_timestep(self, sigma: float) -> float:
        """The timestep (a float) at which this table has ``sigma``; clamped to the table's ends.

        Raises ValueError where sigma is not a number.
        """
        if math.isnan(sigma):
            raise ValueError("sigma is not a number")
        if sigma <= self.sigma_min:
            return 0.0
        if sigma >= self.sigma_max:
            return len(self) - 1.0
        low = bisect.bisect_right(self.sigmas, sigma) - 1
        return low + (math.log(sigma) - self._logs[low]) / (self._logs[low + 1] - self._logs[low])

    def timestep_to_abar(self, timestep: float) -> float:
        """abar at a timestep, fractions allowed; clamped to the table's ends. An input scale is not in it."""
        return sigma_to_abar(self.unscaled.timestep_to_sigma(timestep))

    def abar_to_timestep(self, abar: float) -> float:
        """The timestep (a float) at which this table has ``abar``; clamped to the table's ends."""
        return self.unscaled.sigma_to_timestep(abar_to_sigma(abar))

    def input_scale(self, sigma: float) -> float:
        """What clips were scaled by at a noise level; 1 unless the table was made with a scale. Beyond the ends of the
        table, as there."""
        if self._unscaled is None:
            return 1.0
        timestep = self.sigma_to_timestep(sigma)
        return self._unscaled.timestep_to_sigma(timestep) / self.timestep_to_sigma(timestep)

    def input_norm(self, sigma: float) -> float:
        """What a latent ``x`` of a noise level is divided by for the network: ``1 / (s * sqrt(abar))`` at its timestep,
        which is ``sqrt(1 + sigma^2)`` without an input scale."""
        scale = self.input_scale(sigma)
        return math.sqrt(1 + (scale * sigma) ** 2) / scale


def match_timestep(timestep: float, source: Schedule, target: Schedule) -> float:
    """The timestep of ``target`` that has the noise level of ``timestep`` in ``source``.

    With AnimateDiff's linear and Stable Diffusion's scaled-linear table, 900 / 800 / 600 / 500 / 400 / 200 become
    994 / 901 / 705 / 600 / 490 / 250. Clamped to the ends of ``target``.
    """
    return target.sigma_to_timestep(source.timestep_to_sigma(timestep))
