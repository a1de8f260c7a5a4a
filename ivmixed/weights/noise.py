"""What a checkpoint says of itself besides its weights: what it predicts, and on which noise it was trained.

Single files say it by empty tensors ``v_pred`` and ``ztsnr`` (as ComfyUI and AUTOMATIC1111 read them), by their own
``alphas_cumprod``, or by a configuration of the same name beside them (``X.yaml`` beside ``X.safetensors``);
diffusers folders by the configuration of their scheduler.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..schedule import VIDEOCRAFTER2_SCALE, Schedule
from ..untrusted import shown

PREDICTIONS = ("epsilon", "v_prediction")
SPELLINGS = {"eps": "epsilon", "epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}

SCALED_LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""Stable Diffusion's table."""
LINEAR = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
"""That of AnimateDiff's motion modules for SD 1.5, which AnimateDiff gives to the checkpoint too."""

DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "linspace"}
"""DDIM as AnimateDiff and the released loops run it."""

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
MOST_TIMESTEPS = 10_000
YAML_BYTES = 1 << 18
ZERO_SNR = ("ztsnr", "zero_snr", "zero_terminal_snr", "rescale_betas_zero_snr")
"""Names in a .yaml for zero terminal SNR."""

IN_FOLDERS = ("its scheduler_config.json",)
"""Where a folder says it."""

SCHEDULERS = frozenset({
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "PNDMScheduler",
    "LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
    "SASolverScheduler", "LCMScheduler", "TCDScheduler"})
"""diffusers' schedulers on a table of betas. The others are of flow matching or of EDM."""


class NoiseError(ValueError):
    """What a file says of itself cannot be used. The message is one line that goes on after its name."""


@dataclass(frozen=True)
class Noise:
    """What a network was trained on.

    ``prediction``: one of PREDICTIONS. ``betas``: those of diffusers' schedulers, by their names. ``zero_snr``: whether
    the table is to be rescaled so that it ends in pure noise. ``scaled``: whether clips were scaled, as VideoCrafter2's
    were. ``said``: where all this was read; nothing for what holds
    where a file says nothing.
    """

    prediction: str = "epsilon"
    zero_snr: bool = False
    betas: Mapping[str, Any] = field(default_factory=lambda: dict(SCALED_LINEAR))
    said: tuple[str, ...] = ()
    scaled: bool = False

    @classmethod
    def of_scheduler(cls, config: Mapping[str, Any]) -> Noise:
        """From the scheduler_config.json of a diffusers folder. Raises NoiseError."""
        name = config.get("_class_name", "DDIMScheduler")
        if not isinstance(name, str) or name not in SCHEDULERS:
            raise NoiseError(f"is {shown(name, 60)}, and no table of noise for a model of this family")
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS:
            raise NoiseError(f"says prediction_type = {shown(prediction, 60)}; known are {', '.join(PREDICTIONS)}")
        own = SCALED_LINEAR if name == "LCMScheduler" or name == "TCDScheduler" else {
            "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
        betas = {key: config[key] if config.get(key) is not None else value for key, value in own.items()}
        count = config.get("num_train_timesteps", 1000)
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MOST_TIMESTEPS:
            raise NoiseError(f"says num_train_timesteps = {shown(count, 60)}")
        if config.get("trained_betas") is not None:
            betas = {"trained_betas": config["trained_betas"]}
        betas["num_train_timesteps"] = count
        zero_snr = config.get("rescale_betas_zero_snr") or False
        if not isinstance(zero_snr, bool):
            raise NoiseError(f"says rescale_betas_zero_snr = {shown(zero_snr, 60)}")
        noise = cls(str(prediction), zero_snr, betas, IN_FOLDERS)
        noise.table()
        return noise

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, torch.Tensor], path: Path) -> Noise:
        """From a single file's tensors, on the CPU, of which only ``alphas_cumprod`` is looked into, and from the .yaml
        beside ``path``. Raises NoiseError."""
        signs = [name for name in ("v_pred", "ztsnr") if name in tensors]
        noise = cls("v_prediction" if "v_pred" in signs else "epsilon", "ztsnr" in signs, said=tuple(signs))
        if "alphas_cumprod" in tensors:
            noise = noise._with_table(tensors["alphas_cumprod"])
        beside = path.with_suffix(".yaml")
        return noise._with_yaml(beside) if beside.is_file() else noise

    def _with_table(self, tensor: torch.Tensor) -> Noise:
        """With a file's own alphas_cumprod, where it is a table (merges leave sums of such), not Stable Diffusion's."""
        unused = replace(self, said=(*self.said, "its alphas_cumprod is no table of noise, and was left"))
        if tensor.ndim != 1 or not 2 <= len(tensor) <= MOST_TIMESTEPS or not tensor.is_floating_point():
            return unused
        table, near = tensor.double(), torch.finfo(tensor.dtype).eps
        for zero_snr in (False, True):
            usual = torch.tensor(replace(self, zero_snr=zero_snr).table().abars, dtype=torch.float64)
            if len(table) == len(usual) and torch.allclose(table, usual, rtol=max(2 * near, 1e-4), atol=1e-7):
                said = (*self.said, "its alphas_cumprod") if zero_snr and not self.zero_snr else self.said
                return replace(self, zero_snr=zero_snr or self.zero_snr, said=said)
        betas = 1 - table / torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])
        own = replace(self, betas={"trained_betas": betas.tolist(), "num_train_timesteps": len(table)},
                      said=(*self.said, "its alphas_cumprod"))
        try:
            own.table()
        except NoiseError:  # NaN, infinite, or not falling from 1 to 0
            return unused
        return own

    def _with_yaml(self, path: Path) -> Noise:
        values = _yaml(path)
        noise, said = self, False
        if "parameterization" in values:
            prediction = SPELLINGS.get(str(values["parameterization"]))
            if prediction is None:
                raise NoiseError(f"has {path.name} beside it, which says parameterization = "
                                 f"{shown(values['parameterization'], 60)}; known are eps and v")
            if "v_pred" in self.said and prediction != "v_prediction":
                raise NoiseError(f"has a tensor v_pred, and {path.name} beside it says eps; give --prediction")
            noise, said = replace(noise, prediction=prediction), True
        for name in ZERO_SNR:
            if name in values:
                if not isinstance(values[name], bool):
                    raise NoiseError(f"has {path.name} beside it, which says {name} = {shown(values[name], 60)}")
                noise, said = replace(noise, zero_snr=noise.zero_snr or values[name]), True
        usual = {"linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000}
        if "trained_betas" not in noise.betas and any(values.get(key, value) != value for key, value in usual.items()):
            own = {**usual, **{key: values[key] for key in usual if key in values}}
            noise, said = replace(noise, betas={
                "beta_schedule": "scaled_linear", "beta_start": own["linear_start"], "beta_end": own["linear_end"],
                "num_train_timesteps": own["timesteps"]}), True
            noise.table()
        return replace(noise, said=(*noise.said, path.name)) if said else noise

    def override(self, prediction: str | None, zero_snr: bool | None) -> Noise:
        """With what the user says, which wins over what the file says."""
        noise = self
        if prediction is not None:
            noise = replace(noise, prediction=prediction)
        if zero_snr is not None:
            noise = replace(noise, zero_snr=zero_snr)
        return self if noise == self else replace(noise, said=("your settings",))

    def with_motion(self) -> Noise:
        """With AnimateDiff's table in place of the checkpoint's: its modules were trained on linear betas."""
        return replace(self, betas=dict(LINEAR))

    def table(self) -> Schedule:
        """The noise table. Raises NoiseError where the betas make none, or none that the scale fits."""
        schedule = _schedule(self.betas)
        if self.zero_snr:
            schedule = schedule.with_zero_snr()
        if not self.scaled:
            return schedule
        if len(schedule) != len(VIDEOCRAFTER2_SCALE):
            raise NoiseError(f"has a table of {len(schedule)} timesteps, where VideoCrafter2 has 1000")
        return Schedule(schedule.abars, VIDEOCRAFTER2_SCALE)

    def scheduler(self) -> Any:
        """The same as diffusers' DDIMScheduler, which knows no input scale."""
        from diffusers import DDIMScheduler

        return DDIMScheduler(**DDIM, **self.betas, prediction_type=self.prediction,
                             rescale_betas_zero_snr=self.zero_snr)

    def to_dict(self) -> dict[str, Any]:
        """For reports: what was taken, and from where."""
        table = self.table()
        return {"prediction": self.prediction, "zero_snr": self.zero_snr, "timesteps": len(table),
                "sigma_max": round(table.sigma_max, 4), "said_by": list(self.said)}

    def __str__(self) -> str:
        what = f"{self.prediction}, {'zero terminal SNR, ' if self.zero_snr else ''}"
        return f"{what}noise up to sigma {self.table().sigma_max:.1f}"


def _schedule(given: Mapping[str, Any]) -> Schedule:
    """Raises NoiseError."""
    count = given.get("num_train_timesteps", 1000)
    betas: Any = given.get("trained_betas")
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MOST_TIMESTEPS:
        raise NoiseError(f"says that the table has {shown(count, 60)} timesteps")
    try:
        if betas is not None:
            if not isinstance(betas, list) or len(betas) != count or not all(map(_is_beta, betas)):
                raise NoiseError(f"says trained_betas that are no list of {count} numbers from 0 to 1")
            return Schedule.from_betas(betas)
        kind, start, end = given["beta_schedule"], given["beta_start"], given["beta_end"]
        if kind not in BETA_SCHEDULES:
            raise NoiseError(f"says beta_schedule = {shown(kind, 60)}; known are {', '.join(BETA_SCHEDULES)}")
        if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal, arXiv 2102.09672, equation 17
            bar = [math.cos((k / count + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(count + 1)]
            return Schedule.from_betas(min(1 - after / before, 0.999) for before, after in zip(bar, bar[1:]))
        if not (_is_beta(start) and _is_beta(end)):
            raise NoiseError(f"says betas from {shown(start, 60)} to {shown(end, 60)}; they lie between 0 and 1")
        return (Schedule.linear if kind == "linear" else Schedule.scaled_linear)(start, end, count)
    except NoiseError:
        raise
    except ValueError as error:
        raise NoiseError(f"says betas that make no table of noise ({error})") from error


def _is_beta(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _yaml(path: Path) -> dict[str, Any]:
    """What ``model: params:`` says in a .yaml. Raises NoiseError where it cannot be read."""
    import yaml

    try:
        if path.stat().st_size > YAML_BYTES:
            raise NoiseError(f"has {path.name} beside it, which is too long for a configuration")
        value = yaml.safe_load(path.read_bytes())
        for key in ("model", "params"):
            value = value.get(key, {}) if isinstance(value, dict) else {}
    except NoiseError:
        raise
    except (OSError, yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise NoiseError(f"has {path.name} beside it, which cannot be read ({type(error).__name__}); mend it or move "
                         "it away") from error
    return value if isinstance(value, dict) else {}
