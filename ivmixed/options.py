"""The options of the sampler, declared once: API, panel, infotext and plan all read this file.

``OPTIONS`` lists the declarations, ``Options`` is one checked set of values::

    Options(gamma_go=6, interval=(0, 50))          # a number stands for [start, end] of a gamma
    Options.from_dict({"form": "II-II"})           # unknown names are refused

Source: IV-Mixed Sampler, arXiv 2410.04171, section 3 (gamma, z%) and its released code (the ramp, the interval).
"""
from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

from .untrusted import Refusal

if TYPE_CHECKING:
    from typing_extensions import Self

_PUBLISHED = ("IV-IV", "VV-VV", "II-II")
FORMS = _PUBLISHED + tuple(sorted({f"{add}{then_add}-{remove}{then_remove}" for add, then_add, remove, then_remove in
                                   itertools.product("IVR", "IVR", "IV", "IV")} - set(_PUBLISHED)))
"""Which models make the two moves that add noise, and after the dash the two that remove it; R is fresh noise."""

IMAGE_RESIZES = ("change", "nearest", "bilinear", "area")
"""Ways to bring the latent to the image model's size and back. The released ModelScope loop takes "nearest"."""

Pair = tuple[float, float]
Size = tuple[int, int]
Curve = tuple[Pair, ...]
"""(percent of the steps, value), percents ascending: straight lines between, constant beyond the first and the last."""


class OptionError(Refusal):
    """A value was refused. ``field`` is the option, ``value`` what was given, ``allowed`` what may be given."""

    def __init__(self, field: str, value: Any, allowed: str, problem: str = "is not allowed"):
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"IV-mixed: {field} = {value!r} {problem}; allowed: {allowed}.")


@dataclass(frozen=True)
class Option:
    """What is declared of one option.

    ``kind`` is ``choice`` (str), ``number`` (float), ``pair`` (start, end), ``curve`` (keyframes; empty for none),
    ``size`` (width, height in pixels; None for the clip's own), ``whole`` (int), ``text`` (str) or ``several`` of the
    choices (tuple of str).
    """

    name: str
    kind: str
    default: Any
    label: str
    help: str
    choices: tuple[str, ...] = ()
    spelled: str = ""
    """What is allowed, in words, where a list of choices or a range does not say it."""
    minimum: float = 0.0
    maximum: float = 0.0
    step: float = 1.0
    unit: str = ""
    ascending: bool = False
    """Of a pair: start may not exceed end, and one number is not enough."""
    advanced: bool = False
    """Most users leave it alone."""
    follows: str = ""
    """The option whose value serves while this one is None."""
    of_clip: bool = False
    """It belongs to a clip, as its prompt does: no part of a preset."""
    webui: bool = False
    """Only a WebUI has it."""

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        if self.spelled:
            return self.spelled
        if self.kind in ("choice", "several"):
            return ("one of " if self.kind == "choice" else "a list of one or more of ") + ", ".join(self.choices)
        if self.kind == "text":
            return "a text"
        span = f"{self.minimum:g} to {self.maximum:g}" + (f" {self.unit}" if self.unit else "")
        if self.kind in ("number", "whole"):
            return f"a {'whole ' * (self.kind == 'whole')}number from {span}"
        words = f"[start, end], each from {span}"
        words += ", start not above end" if self.ascending else ", or one number for both"
        return words + (f", or nothing for the same as {self.follows}" if self.follows else "")

    def check(self, value: Any) -> Any:
        """``value`` in its canonical type, see `kind`, or None. Raises OptionError."""
        if value is None and self.follows:
            return None
        if self.kind == "size":
            return self._size(value)
        if self.kind == "choice":
            if not isinstance(value, str) or value not in self.choices:
                raise OptionError(self.name, value, self.allowed)
            return value
        if self.kind == "text":
            if not isinstance(value, str):
                raise OptionError(self.name, value, self.allowed)
            return value.strip()
        if self.kind == "several":
            if not isinstance(value, (list, tuple)) or not value or any(part not in self.choices for part in value):
                raise OptionError(self.name, value, self.allowed)
            return tuple(choice for choice in self.choices if choice in value)
        if self.kind in ("number", "whole"):
            number = self._number(value, value)
            if self.kind == "number":
                return number
            if not number.is_integer():
                raise OptionError(self.name, value, self.allowed)
            return int(number)
        if self.kind == "curve":
            return self._curve(value)
        if isinstance(value, (list, tuple)) and len(value) == 2:
            start, end = (self._number(part, value) for part in value)
            if self.ascending and start > end:
                raise OptionError(self.name, value, self.allowed)
            return start, end
        if self.ascending:
            raise OptionError(self.name, value, self.allowed)
        return (self._number(value, value),) * 2

    def _number(self, number: Any, value: Any, maximum: float | None = None) -> float:
        is_number = isinstance(number, Real) and not isinstance(number, bool)
        most = self.maximum if maximum is None else maximum
        if not is_number or not self.minimum <= number <= most:  # NaN fails the comparison
            raise OptionError(self.name, value, self.allowed)
        return float(number)

    def _size(self, value: Any) -> Size | None:
        if value is None or value == "":
            return None
        try:
            sides = map(int, value.lower().split("x")) if isinstance(value, str) else value
            width, height = (self._number(side, value) for side in sides)
        except (TypeError, ValueError):
            raise OptionError(self.name, value, self.allowed) from None
        if width % self.step or height % self.step:
            raise OptionError(self.name, value, self.allowed)
        return int(width), int(height)

    def _curve(self, value: Any) -> Curve:
        keys = value
        if isinstance(value, str):
            try:
                keys = [[float(part) for part in key.split("=")] for key in value.split()]
            except ValueError:
                raise OptionError(self.name, value, self.allowed) from None
        if not isinstance(keys, (list, tuple)) or not all(isinstance(k, (list, tuple)) and len(k) == 2 for k in keys):
            raise OptionError(self.name, value, self.allowed)
        curve = tuple((self._number(percent, value, 100.0), self._number(part, value)) for percent, part in keys)
        if not all(before[0] < after[0] for before, after in zip(curve, curve[1:])):
            raise OptionError(self.name, value, self.allowed)
        return curve

    def to_text(self, value: Any) -> str:
        """The value as infotext, without commas or colons but in a text: ``IV-IV``, ``66.7``, ``6 to 2``,
        ``0=6 50=2``, ``512x512``, ``GIF MP4``."""
        if self.kind == "several":
            return " ".join(value)
        if self.kind == "size":
            return "" if value is None else f"{value[0]}x{value[1]}"
        if self.kind == "curve":
            return " ".join("=".join(repr(part).removesuffix(".0") for part in key) for key in value)
        if isinstance(value, tuple):
            start, end = (repr(part).removesuffix(".0") for part in value)
            return start if start == end and not self.ascending else f"{start} to {end}"
        return value if isinstance(value, str) else repr(value).removesuffix(".0")

    def from_text(self, text: str) -> Any:
        """The inverse of `to_text`. Raises OptionError."""
        if self.kind in ("choice", "text", "curve", "size"):
            return self.check(text)
        if self.kind == "several":
            return self.check(text.split())
        try:
            numbers = [float(part) for part in text.split(" to ")]
        except ValueError:
            raise OptionError(self.name, text, self.allowed) from None
        return self.check(numbers if len(numbers) > 1 else numbers[0])


def declare(kind: str, default: Any, label: str, help: str, **more: Any) -> Any:
    """A field of an `OptionSet`: what `Option` says of it."""
    return field(default=default, metadata=dict(kind=kind, default=default, label=label, help=help, **more))


def _gamma(default: Pair | None, label: str, help: str, **more: Any) -> Any:
    return declare("pair", default, label, help, minimum=0.0, maximum=30.0, step=0.1, **more)


class OptionSet:
    """One checked set of options: the base of dataclasses whose fields are made by `declare`.

    Raises OptionError, which names the field, the value and the allowed range.
    """

    @classmethod
    def declared(cls) -> tuple[Option, ...]:
        """The declarations, in their order."""
        return tuple(Option(name=f.name, **f.metadata) for f in dataclasses.fields(cls))  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        for option in self.declared():
            object.__setattr__(self, option.name, option.check(getattr(self, option.name)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Values by name, as JSON carries them; what is left out has its default."""
        if not isinstance(values, Mapping):
            raise OptionError("options", values, "an object with option names as keys")
        names = [option.name for option in cls.declared()]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise OptionError(str(name), values[name], ", ".join(names), f"is no option{hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All values by name, ready for JSON (tuples as lists)."""
        return {name: _lists(value) for name, value in vars(self).items()}

    def to_infotext(self) -> dict[str, str]:
        """The values that differ from the defaults, as infotext keys and texts."""
        return {option.label: option.to_text(getattr(self, option.name))
                for option in self.declared() if getattr(self, option.name) != option.default}

    @classmethod
    def from_infotext(cls, infotext: Mapping[str, Any]) -> Self:
        """The inverse of `to_infotext`; other keys are ignored."""
        return cls(**{option.name: option.from_text(str(infotext[option.label]))
                      for option in cls.declared() if option.label in infotext})


def _gamma_curve(label: str, help: str) -> Any:
    return declare(
        "curve", (), label, help, minimum=0.0, maximum=30.0, advanced=True,
        spelled='keyframes as in "0=6 50=2 100=4": percent of the steps = gamma, percents ascending from 0 to 100, '
                "gammas from 0 to 30; or nothing")


@dataclass(frozen=True)
class Options(OptionSet):
    """One checked set of options. Raises OptionError, which names the field, the value and the allowed range."""

    form: str = declare(
        "choice", "IV-IV", "IV-mixed form", choices=FORMS,
        spelled='two of I, V, R, a dash, two of I, V (noise R cannot remove noise), as in "IV-IV"',
        help="Which models add noise - which remove it in the extra loop: I = image model, V = video model, R = fresh "
             "random noise instead of a model",
    )
    gamma_go: Pair = _gamma(
        (4.0, 4.0), "IV-mixed gamma go",
        help="Guidance of the denoising moves of the extra loop, at the first and at the last step",
    )
    gamma_back: Pair = _gamma(
        (4.0, 4.0), "IV-mixed gamma back",
        help="Guidance of the inversion moves (it acts with a negative sign), at the first and at the last step",
    )
    z_percent: float = declare(
        "number", 0.0, "IV-mixed z percent", minimum=0.0, maximum=100.0, step=0.1, unit="%",
        help="Share of the active steps that run VV-VV instead of the form",
    )
    z_pattern: str = declare(
        "choice", "even", "IV-mixed z pattern", choices=("even", "first", "last"), advanced=True,
        help="Which of the active steps are those of z percent: evenly spread, the first or the last of them",
    )
    interval: Pair = declare(
        "pair", (0.0, 100.0), "IV-mixed interval", minimum=0.0, maximum=100.0, step=1.0, unit="%", ascending=True,
        help="Part of the steps in which the extra loop runs; the other steps are plain",
    )
    image_prompt: str = declare(
        "text", "", "IV-mixed image prompt", spelled="a text; or nothing", of_clip=True,
        help="Prompt of the image model alone: that of the clip where nothing is given. In a WebUI, LoRAs in it are "
             "for the image model alone, which then has a UNet of its own in memory",
    )
    image_negative_prompt: str = declare(
        "text", "", "IV-mixed image negative prompt", spelled="a text; or nothing", of_clip=True,
        help="Negative prompt of the image model alone: that of the clip where nothing is given",
    )
    image_checkpoint: str = declare(
        "text", "", "IV-mixed image checkpoint", of_clip=True, webui=True,
        spelled="a checkpoint of the WebUI's list, by name or hash; or nothing",
        help="Another checkpoint as the image model, of the kind of the loaded one and held in memory beside it",
    )
    controlnet: str = declare(
        "choice", "both", "IV-mixed ControlNet", choices=("both", "video", "image"), advanced=True, webui=True,
        help="The model that ControlNet and IP-Adapter act on: both, the video or the image model alone",
    )
    loop_order: str = declare(
        "choice", "denoise-first", "IV-mixed loop order", choices=("denoise-first", "noise-first", "animatediff"),
        advanced=True,
        help="The extra loop goes down two noise levels and comes back (denoise-first, as released), or up two and "
             "comes back (noise-first); animatediff is denoise-first with the two denoising moves swapped, as that "
             "released loop has them",
    )
    active_percent: float = declare(
        "number", 100.0, "IV-mixed active percent", minimum=0.0, maximum=100.0, step=1.0, unit="%", advanced=True,
        help="Share of the interval's steps that run the extra loop, spread evenly; the others are plain",
    )
    back_moves: str = declare(
        "choice", "evaluate", "IV-mixed back moves", choices=("evaluate", "reuse"), advanced=True,
        help="The inversion moves ask the models anew (evaluate), or reuse what these found in the denoising moves",
    )
    fresh_percent: float = declare(
        "number", 100.0, "IV-mixed fresh percent", minimum=0.0, maximum=100.0, step=1.0, unit="%", advanced=True,
        help="Share of the active steps whose extra loop asks the models, spread evenly; the loop of the others takes "
             "what these found before",
    )
    reused: str = declare(
        "choice", "prediction", "IV-mixed reused", choices=("prediction", "features"), advanced=True,
        help="What serves again where the models are not asked anew: their prediction, which costs nothing, or the "
             "deep features of their UNet, of which only the outer layers are then evaluated",
    )
    gamma_go_curve: Curve = _gamma_curve(
        "IV-mixed gamma go curve",
        "Gamma go by keyframes, for both models, instead of gamma go: straight lines between them",
    )
    gamma_back_curve: Curve = _gamma_curve(
        "IV-mixed gamma back curve",
        "Gamma back by keyframes, for both models, instead of gamma back: straight lines between them",
    )
    guidance_rescale: float = declare(
        "number", 0.0, "IV-mixed guidance rescale", minimum=0.0, maximum=1.0, step=0.01, advanced=True,
        help="How far the moves of the extra loop are rescaled to the strength of the prediction without guidance, "
             "against over-saturation; 0 is not at all",
    )
    rho: float = declare(
        "number", 7.0, "IV-mixed rho", minimum=1.0, maximum=100.0, step=0.1, advanced=True,
        help="Curvature of the ramp from a gamma's start to its end; 1 is a straight line",
    )
    schedule_match: str = declare(
        "choice", "sigma", "IV-mixed schedule match", choices=("sigma", "timestep"), advanced=True,
        help="The image model is evaluated at the video model's noise level (sigma) or at its timestep",
    )
    above_sigma_max: str = declare(
        "choice", "clamp", "IV-mixed above sigma max", choices=("clamp", "skip"), advanced=True,
        help="Above the image model's largest noise level: evaluate it at that level (clamp), "
             "or let the video model make the move (skip)",
    )
    image_size: Size | None = declare(
        "size", None, "IV-mixed image size", minimum=8, maximum=8192, step=8, advanced=True,
        spelled='WIDTHxHEIGHT in pixels, each a multiple of 8 from 8 to 8192, as in "512x512"; or nothing',
        help="Size at which the image model looks at the frames: that of the clip where nothing is given",
    )
    image_resize: str = declare(
        "choice", "change", "IV-mixed image resize", choices=IMAGE_RESIZES, advanced=True,
        help="How the latent gets to the image model's size and back: change brings back only what the image model "
             "changed, so that no detail is lost; the others bring back all of it (nearest, as released)",
    )
    gamma_image_go: Pair | None = _gamma(
        None, "IV-mixed gamma image go", "Gamma go of the image model alone", follows="gamma_go")
    gamma_image_back: Pair | None = _gamma(
        None, "IV-mixed gamma image back", "Gamma back of the image model alone", follows="gamma_back")
    gamma_video_go: Pair | None = _gamma(
        None, "IV-mixed gamma video go", "Gamma go of the video model alone", follows="gamma_go")
    gamma_video_back: Pair | None = _gamma(
        None, "IV-mixed gamma video back", "Gamma back of the video model alone", follows="gamma_back")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loop_order == "noise-first" and self.back_moves == "reuse":
            raise OptionError("back_moves", self.back_moves, '"evaluate" with loop_order "noise-first", whose '
                              "inversion moves come before the denoising moves that they would reuse")
        for direction in ("go", "back"):
            curve = f"gamma_{direction}_curve"
            own = [name for name in (f"gamma_image_{direction}", f"gamma_video_{direction}") if getattr(self, name)]
            if getattr(self, curve) and own:
                raise OptionError(curve, getattr(self, curve), f"nothing beside {own[0]}: the curve is of both models")

    def setting(self) -> Options:
        """The options as a preset has them: without what belongs to one clip."""
        return dataclasses.replace(self, **{option.name: option.default for option in OPTIONS if option.of_clip})

    def gammas(self, model: str, direction: str) -> Pair:
        """(start, end) of the gamma of ``model`` ("image", "video") in ``direction`` ("go", "back"), without curves."""
        own: Pair | None = getattr(self, f"gamma_{model}_{direction}")
        shared: Pair = getattr(self, f"gamma_{direction}")
        return shared if own is None else own

    def gamma(self, model: str, direction: str, u: float) -> float:
        """The gamma of ``model`` in ``direction``, u = 0 at the first step, 1 at the last: on its curve or its ramp."""
        curve: Curve = getattr(self, f"gamma_{direction}_curve")
        return on_curve(curve, 100 * u) if curve else ramp(*self.gammas(model, direction), u, self.rho)


OPTIONS: tuple[Option, ...] = Options.declared()


def _lists(value: Any) -> Any:
    return [_lists(part) for part in value] if isinstance(value, tuple) else value


def ramp(start: float, end: float, u: float, rho: float = 7.0) -> float:
    """Karras ramp: ``(start^(1/rho) + u (end^(1/rho) - start^(1/rho)))^rho``, u = 0 at the first step, 1 at the last.

    Exactly ``start`` at u = 0 and ``end`` at u = 1. Source: Karras et al. 2022, equation 5, used for gamma by the
    authors' released code.
    """
    if start == end or u == 0:
        return start
    if u == 1:
        return end
    low, high = start ** (1 / rho), end ** (1 / rho)
    return math.pow(low + u * (high - low), rho)


def on_curve(curve: Curve, percent: float) -> float:
    """The value of a curve of at least one keyframe at ``percent`` of the steps, 0 to 100."""
    if percent <= curve[0][0]:
        return curve[0][1]
    for (before, low), (after, high) in zip(curve, curve[1:]):
        if percent <= after:
            return low + (high - low) * (percent - before) / (after - before)
    return curve[-1][1]
