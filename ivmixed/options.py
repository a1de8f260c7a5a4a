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
from typing import Any

_PUBLISHED = ("IV-IV", "VV-VV", "II-II")
FORMS = _PUBLISHED + tuple(sorted({f"{add}{then_add}-{remove}{then_remove}" for add, then_add, remove, then_remove in
                                   itertools.product("IVR", "IVR", "IV", "IV")} - set(_PUBLISHED)))
"""Which models make the two moves that add noise, and after the dash the two that remove it; R is fresh noise."""

Pair = tuple[float, float]


class OptionError(ValueError):
    """A value was refused. ``field`` is the option, ``value`` what was given, ``allowed`` what may be given."""

    def __init__(self, field: str, value: Any, allowed: str, problem: str = "is not allowed"):
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"IV-mixed: {field} = {value!r} {problem}; allowed: {allowed}.")


@dataclass(frozen=True)
class Option:
    """What is declared of one option. ``kind`` is ``choice`` (str), ``number`` (float) or ``pair`` (start, end)."""

    name: str
    kind: str
    default: Any
    label: str
    help: str
    choices: tuple[str, ...] = ()
    spelled: str = ""
    """How the choices are made, in words, where they are too many to list."""
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

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        if self.kind == "choice":
            return self.spelled or "one of " + ", ".join(self.choices)
        span = f"{self.minimum:g} to {self.maximum:g}" + (f" {self.unit}" if self.unit else "")
        if self.kind == "number":
            return f"a number from {span}"
        words = f"[start, end], each from {span}"
        words += ", start not above end" if self.ascending else ", or one number for both"
        return words + (f", or nothing for the same as {self.follows}" if self.follows else "")

    def check(self, value: Any) -> Any:
        """``value`` in its canonical type (str, float, (float, float) or None). Raises OptionError."""
        if value is None and self.follows:
            return None
        if self.kind == "choice":
            if not isinstance(value, str) or value not in self.choices:
                raise OptionError(self.name, value, self.allowed)
            return value
        if self.kind == "number":
            return self._number(value, value)
        if isinstance(value, (list, tuple)) and len(value) == 2:
            start, end = (self._number(part, value) for part in value)
            if self.ascending and start > end:
                raise OptionError(self.name, value, self.allowed)
            return start, end
        if self.ascending:
            raise OptionError(self.name, value, self.allowed)
        return (self._number(value, value),) * 2

    def _number(self, number: Any, value: Any) -> float:
        is_number = isinstance(number, Real) and not isinstance(number, bool)
        if not is_number or not self.minimum <= number <= self.maximum:  # NaN fails the comparison
            raise OptionError(self.name, value, self.allowed)
        return float(number)

    def to_text(self, value: Any) -> str:
        """The value as infotext, without commas or colons: ``IV-IV``, ``66.7``, ``6 to 2``."""
        if isinstance(value, tuple):
            start, end = (repr(part).removesuffix(".0") for part in value)
            return start if start == end and not self.ascending else f"{start} to {end}"
        return value if isinstance(value, str) else repr(value).removesuffix(".0")

    def from_text(self, text: str) -> Any:
        """The inverse of `to_text`. Raises OptionError."""
        if self.kind == "choice":
            return self.check(text)
        try:
            numbers = [float(part) for part in text.split(" to ")]
        except ValueError:
            raise OptionError(self.name, text, self.allowed) from None
        return self.check(numbers if len(numbers) > 1 else numbers[0])


def _option(kind: str, default: Any, label: str, help: str, **more: Any) -> Any:
    return field(default=default, metadata=dict(kind=kind, default=default, label=label, help=help, **more))


def _gamma(default: Pair | None, label: str, help: str, **more: Any) -> Any:
    return _option("pair", default, label, help, minimum=0.0, maximum=30.0, step=0.1, **more)


@dataclass(frozen=True)
class Options:
    """One checked set of options. Raises OptionError, which names the field, the value and the allowed range."""

    form: str = _option(
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
    z_percent: float = _option(
        "number", 0.0, "IV-mixed z percent", minimum=0.0, maximum=100.0, step=0.1, unit="%",
        help="Share of the active steps that run VV-VV instead of the form, spread evenly",
    )
    interval: Pair = _option(
        "pair", (0.0, 100.0), "IV-mixed interval", minimum=0.0, maximum=100.0, step=1.0, unit="%", ascending=True,
        help="Part of the steps in which the extra loop runs; the other steps are plain",
    )
    active_percent: float = _option(
        "number", 100.0, "IV-mixed active percent", minimum=0.0, maximum=100.0, step=1.0, unit="%", advanced=True,
        help="Share of the interval's steps that run the extra loop, spread evenly; the others are plain",
    )
    back_moves: str = _option(
        "choice", "evaluate", "IV-mixed back moves", choices=("evaluate", "reuse"), advanced=True,
        help="The inversion moves ask the models again (evaluate), or take what these predicted in the denoising moves "
             "(reuse: 2 evaluations less a step)",
    )
    fresh_percent: float = _option(
        "number", 100.0, "IV-mixed fresh percent", minimum=0.0, maximum=100.0, step=1.0, unit="%", advanced=True,
        help="Share of the active steps whose extra loop asks the models, spread evenly; the loop of the others takes "
             "what the models predicted before",
    )
    rho: float = _option(
        "number", 7.0, "IV-mixed rho", minimum=1.0, maximum=100.0, step=0.1, advanced=True,
        help="Curvature of the ramp from a gamma's start to its end; 1 is a straight line",
    )
    schedule_match: str = _option(
        "choice", "sigma", "IV-mixed schedule match", choices=("sigma", "timestep"), advanced=True,
        help="The image model is evaluated at the video model's noise level (sigma) or at its timestep",
    )
    above_sigma_max: str = _option(
        "choice", "clamp", "IV-mixed above sigma max", choices=("clamp", "skip"), advanced=True,
        help="Above the image model's largest noise level: evaluate it at that level (clamp), "
             "or let the video model make the move (skip)",
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
        for option in OPTIONS:
            object.__setattr__(self, option.name, option.check(getattr(self, option.name)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Options:
        """Options from values by name, as JSON carries them; what is left out has its default."""
        if not isinstance(values, Mapping):
            raise OptionError("options", values, "an object with option names as keys")
        names = [option.name for option in OPTIONS]
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise OptionError(str(name), values[name], ", ".join(names), f"is no option{hint}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All values by name, ready for JSON (pairs as lists)."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    def to_infotext(self) -> dict[str, str]:
        """The values that differ from the defaults, as infotext keys and texts."""
        return {option.label: option.to_text(getattr(self, option.name))
                for option in OPTIONS if getattr(self, option.name) != option.default}

    @classmethod
    def from_infotext(cls, infotext: Mapping[str, Any]) -> Options:
        """The inverse of `to_infotext`; other keys are ignored."""
        return cls(**{option.name: option.from_text(str(infotext[option.label]))
                      for option in OPTIONS if option.label in infotext})

    def gammas(self, model: str, direction: str) -> Pair:
        """(start, end) of the gamma of ``model`` ("image", "video") in ``direction`` ("go", "back")."""
        own: Pair | None = getattr(self, f"gamma_{model}_{direction}")
        shared: Pair = getattr(self, f"gamma_{direction}")
        return shared if own is None else own


OPTIONS: tuple[Option, ...] = tuple(Option(name=f.name, **f.metadata) for f in dataclasses.fields(Options))


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
