"""The options of the sampler, declared once: API, page, infotext, command line and plan all read this file.

``Options`` is one checked set of values, `Option` what is declared of one. Other sets (of a clip's motion, of a WebUI,
of the command line) are made of the same parts::

    Options(gamma_go="6 to 2", interval=(0, 50))
    Options.from_dict({"form": "II-II"})           # unknown names are refused

Source: IV-Mixed Sampler, arXiv 2410.04171, section 3 (gamma, z%) and its released code (the ramp, the interval).
"""
from __future__ import annotations

import bisect
import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from .kinds import (
    Choice,
    Curve,
    Dimensions,
    Gamma,
    Kind,
    NotAllowed,
    Number,
    Pair,
    Range,
    Schema,
    Size,
    Text,
)
from .untrusted import Refusal, shown

if TYPE_CHECKING:
    from typing_extensions import Self


class OptionError(Refusal):
    """A value was refused. ``field`` is the option, ``value`` what was given, ``allowed`` what may be given.

    The message is one line, which repeats at most `ivmixed.untrusted.SHOWN` characters of the value.
    """

    within: tuple[str, ...] = ()
    """The options that have the set of the field as their value, the outermost first."""

    def __init__(self, field: str, value: Any, allowed: str, problem: str = "is not allowed"):
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"IV-mixed: {_given(field, value)} {problem}; allowed: {allowed}.")


class ConflictError(OptionError):
    """A value was refused that is allowed, but not together with another thing.

    ``field``, ``value``: the option that is to change; ``other``, ``other_value``: what it cannot be used with, an
    option or, where it has no value, something that a request has. ``because``: the reason; ``allowed``: what to do.
    """

    def __init__(self, field: str, value: Any, other: str, other_value: Any = None, *, because: str, remedy: str):
        self.field, self.value, self.allowed = field, value, remedy
        self.other, self.other_value, self.because = other, other_value, because
        beside = other if other_value is None else _given(other, other_value)
        Refusal.__init__(
            self, f"IV-mixed: {_given(field, value)} cannot be used with {beside}: {because}; {remedy}.")


def _given(field: str, value: Any) -> str:
    return f"{shown(field, 60)} = {shown(repr(value) if isinstance(value, str) else value)}"


@dataclass(frozen=True)
class Option:
    """What is declared of one option: a name, the `Kind` of its values, a default.

    A default of None is a value too, which may be given as None or, where the kind is `typed`, as an empty text.
    """

    name: str
    kind: Kind
    default: Any
    label: str
    """Its key in the infotext, where it has one."""
    help: str
    """A plain sentence, which says what it does."""
    advanced: bool = False
    """Most users leave it alone."""
    follows: str = ""
    """The option whose value serves while this one is None."""
    of_clip: bool = False
    """It belongs to a clip, as its prompt does: no part of a preset."""
    title: str = ""
    """What a page calls it, where the end of its label does not do."""
    group: str = ""
    """Where the help of the command line has it."""

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        if self.follows:
            return f"{self.kind.allowed}; or nothing for the same as {self.follows}"
        return self.kind.allowed + "; or nothing" * (self.default is None)

    def check(self, value: Any) -> Any:
        """The value in the kind's canonical type, or None. Raises OptionError."""
        return self._checked(self.kind.check, value, value)

    def to_text(self, value: Any) -> str:
        """A value as infotext, without commas or colons but in a text: ``IV-IV``, ``66.7``, ``6 to 2``, ``512x512``."""
        return "" if value is None else self.kind.to_text(value)

    def from_text(self, text: str) -> Any:
        """The inverse of `to_text`. Raises OptionError."""
        return self._checked(self.kind.from_text, text, text)

    def from_words(self, words: list[str]) -> Any:
        """The value of a flag on a command line. Raises OptionError."""
        return self._checked(self.kind.from_words, words, " ".join(words))

    def schema(self) -> Schema:
        """JSON Schema of the values. Keys with x- are what it has no word for: the unit, the key in the infotext, the
        option that serves while this one is null."""
        more = {"x-infotext": self.label, "x-unit": getattr(self.kind, "unit", ""), "x-follows": self.follows}
        default = None if self.default is None else self.kind.to_json(self.default)
        said = {"title": self.label or self.name, "description": f"{self.help}. Allowed: {self.allowed}.",
                "default": default, **{key: value for key, value in more.items() if value}}
        if self.default is not None:
            return {**said, **self.kind.schema()}
        nothing = {"type": ["string", "null"], "pattern": r"^\s*$"} if self.kind.typed else {"type": "null"}
        return {**said, "anyOf": [self.kind.schema(), nothing]}

    def _checked(self, check: Callable[[Any], Any], given: Any, value: Any) -> Any:
        """``value``: what was given as a message repeats it."""
        empty = isinstance(value, str) and self.kind.typed and not value.strip()
        if self.default is None and (value is None or empty):
            return None
        if isinstance(value, str) and len(value) > self.kind.longest:
            raise OptionError(self.name, value, self.allowed, f"has {len(value)} characters")
        try:
            return check(given)
        except NotAllowed as error:
            raise OptionError(self.name, value, error.allowed or self.allowed, error.problem) from None
        except OptionError as error:
            error.within = (self.name, *error.within)
            raise


def declare(kind: Kind, default: Any, label: str = "", *, help: str, **more: Any) -> Any:
    """A field of an `OptionSet`: what `Option` says of it."""
    return field(default=default, metadata=dict(kind=kind, default=default, label=label, help=help, **more))


class OptionSet:
    """One checked set of options: the base of frozen dataclasses whose fields are made by `declare`.

    Raises OptionError, which names the field, the value and the allowed range; ConflictError where values that are
    allowed cannot be used together.
    """

    word = "option"
    """What its fields are called."""

    _declared: ClassVar[tuple[Option, ...]]

    @classmethod
    def declared(cls) -> tuple[Option, ...]:
        """The declarations, in their order."""
        if "_declared" not in vars(cls):  # kept with the class: a WebUI that reloads its page imports ours anew
            cls._declared = tuple(
                Option(name=f.name, **f.metadata) for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        return cls._declared

    @classmethod
    def option(cls, name: str) -> Option:
        """The declaration of that name."""
        return next(option for option in cls.declared() if option.name == name)

    @classmethod
    def schema(cls) -> Schema:
        """The set as a JSON schema: an object with options by name."""
        return {"type": "object", "properties": {option.name: option.schema() for option in cls.declared()},
                "additionalProperties": False}

    def __post_init__(self) -> None:
        for option in self.declared():
            object.__setattr__(self, option.name, option.check(getattr(self, option.name)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Values by name, as JSON carries them; what is left out has its default."""
        if not isinstance(values, Mapping):
            raise OptionError(f"{cls.word}s", values, f"an object with {cls.word} names as keys")
        names = [option.name for option in cls.declared()]
        for name in values:
            if name not in names:
                raise unknown(name, values[name], names, cls.word)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All values by name, ready for JSON (tuples as lists)."""
        values = {option.name: (option, getattr(self, option.name)) for option in self.declared()}
        return {name: None if value is None else option.kind.to_json(value) for name, (option, value) in values.items()}

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults, by name."""
        return {option.name: getattr(self, option.name) for option in self.declared()
                if getattr(self, option.name) != option.default}

    def to_infotext(self) -> dict[str, str]:
        """The values that differ from the defaults, as infotext keys and texts; of options that have a key."""
        options = {name: option for name in self.changed() if (option := self.option(name)).label}
        return {option.label: option.to_text(getattr(self, name)) for name, option in options.items()}

    @classmethod
    def from_infotext(cls, infotext: Mapping[str, Any]) -> Self:
        """The inverse of `to_infotext`; other keys are ignored. Raises OptionError for the first wrong value."""
        values, errors = cls.read_infotext(infotext)
        if errors:
            raise errors[0]
        return cls(**values)

    @classmethod
    def read_infotext(cls, infotext: Mapping[str, Any]) -> tuple[dict[str, Any], list[OptionError]]:
        """What can be read of an infotext: values by name that go together, and what is wrong with the others."""
        values: dict[str, Any] = {}
        errors: list[OptionError] = []
        for option in cls.declared():
            if option.label in infotext:
                try:
                    values[option.name] = option.from_text(str(infotext[option.label]))
                except OptionError as error:
                    errors.append(error)
        for _ in range(len(values)):
            try:
                cls(**values)
                break
            except ConflictError as error:
                errors.append(error)
                values.pop(error.field if error.field in values else error.other, None)
        return values, errors


def unknown(name: Any, value: Any, names: list[str], word: str) -> OptionError:
    """The error for a name that is none of ``names``; ``word`` is what these are."""
    name = str(name)
    near = difflib.get_close_matches(name, names, n=1) if len(name) < 100 else []
    hint = f" (did you mean {near[0]}?)" if near else ""
    return OptionError(name, value, ", ".join(names), f"is no {word}{hint}")


_FEW = ("IV-IV", "VV-VV", "II-II", "RR-IV", "RR-VV", "RR-II")
FORMS = _FEW + tuple(sorted({f"{add}{then_add}-{remove}{then_remove}" for add, then_add, remove, then_remove in
                             itertools.product("IVR", "IVR", "IV", "IV")} - set(_FEW)))
"""Which models make the two moves that add noise, and after the dash the two that remove it; R is fresh noise. The
first three are the paper's; the next three the benchmarks have figures for."""

IMAGE_RESIZES = ("change", "nearest", "bilinear", "area")
"""Ways to bring the latents to the image model's size and back. The released ModelScope loop takes "nearest"."""

ATTENTIONS = ("own", "neighbours", "first")
"""The frames that self-attention of the image model sees, see `ivmixed.neighbours`: a frame's own alone, those before
and after it too, or the first one too."""

_PERCENT = Number(0, 100, unit="%")
_GAMMA = Curve(0, 30)


@dataclass(frozen=True, eq=False)
class Options(OptionSet):
    """One checked set of options of the sampler. Raises OptionError.

    Two sets are equal where they ask for the same, so also a host's own (a derived class) that is at its defaults.
    """

    form: str = declare(
        Choice(FORMS, shown=_FEW,
               words='two of I, V, R, a dash, two of I, V (noise R cannot remove noise), as in "IV-IV"'),
        "IV-IV", "IV-mixed form",
        help="Which model runs each extra move: two that add noise, a dash, two that remove it (I image, V video, R "
             "fresh noise)",
    )
    gamma_go: Gamma = declare(
        _GAMMA, 4.0, "IV-mixed gamma go",
        help="Guidance of the denoising moves of the extra loop: a number, a ramp such as 6 to 2, or keyframes such as "
             "0=6 50=2 100=4",
    )
    gamma_back: Gamma = declare(
        _GAMMA, 4.0, "IV-mixed gamma back",
        help="Guidance of the inversion moves of the extra loop, which acts with a negative sign; written as gamma go",
    )
    z_percent: float = declare(
        Number(0, 100, step=0.1, unit="%"), 0.0, "IV-mixed z percent",
        help="Share of the active steps that run VV-VV instead of the form",
    )
    interval: Pair = declare(
        Range(0, 100, unit="%"), (0.0, 100.0), "IV-mixed interval",
        help="Part of the steps in which the extra loop runs; the other steps are plain",
    )
    active_percent: float = declare(
        _PERCENT, 100.0, "IV-mixed active percent",
        help="Share of the interval's steps that run the extra loop, spread evenly; the others are plain",
    )
    finish_percent: float = declare(
        _PERCENT, 0.0, "IV-mixed finish percent",
        help="Last part of the run, whose ordinary steps the image model takes instead of the video model, for its "
             "detail; 0 is none, 100 makes stills",
    )
    image_prompt: str = declare(
        Text(), "", "IV-mixed image prompt", of_clip=True, group="image model",
        help="Prompt of the image model alone; if empty, that of the clip. In a WebUI, LoRAs in it are for the image "
             "model alone, which then takes the memory of a second UNet",
    )
    image_negative_prompt: str = declare(
        Text(), "", "IV-mixed image negative prompt", of_clip=True, group="image model",
        help="Negative prompt of the image model alone; if empty, that of the clip",
    )
    gamma_image_go: Gamma | None = declare(
        _GAMMA, None, "IV-mixed gamma image go", follows="gamma_go", advanced=True,
        help="Gamma go of the image model alone; if empty, gamma go",
    )
    gamma_image_back: Gamma | None = declare(
        _GAMMA, None, "IV-mixed gamma image back", follows="gamma_back", advanced=True,
        help="Gamma back of the image model alone; if empty, gamma back",
    )
    rho: float = declare(
        Number(1, 100, step=0.1), 7.0, "IV-mixed rho", advanced=True, title="Curvature of the ramps (rho)",
        help="Curvature of a gamma's ramp: 1 is a straight line, more keeps it longer near its lower end",
    )
    guidance_rescale: float = declare(
        Number(0, 1, step=0.01), 0.0, "IV-mixed guidance rescale", advanced=True,
        help="How far the extra moves are rescaled to the contrast of the prediction without guidance, against "
             "over-saturation; 0 is not at all",
    )
    reuse_percent: float = declare(
        _PERCENT, 0.0, "IV-mixed reuse percent", advanced=True,
        help="Share of the extra moves that reuse an earlier result instead of calling a model: up to 50 % the second "
             "half of loops, above that whole loops too",
    )
    reused: str = declare(
        Choice(("prediction", "features")), "prediction", "IV-mixed reused", advanced=True,
        help="What is reused: the model's prediction, which costs nothing, or the deep features of its UNet, of which "
             "only the outer layers are then evaluated",
    )
    z_pattern: str = declare(
        Choice(("even", "first", "last")), "even", "IV-mixed z pattern", advanced=True,
        help="Which of the active steps are those of z percent: evenly spread, the first or the last of them",
    )
    loop_order: str = declare(
        Choice(("denoise-first", "noise-first", "animatediff")), "denoise-first", "IV-mixed loop order", advanced=True,
        help="Whether the extra loop goes down two noise levels and comes back (denoise-first), up two and comes back "
             "(noise-first), or down with its two denoising moves swapped (animatediff, as in that released code)",
    )
    finish_by: str = declare(
        Choice(("timesteps", "steps")), "timesteps", "IV-mixed finish by", advanced=True,
        help="What finish percent is a share of: the image model's timesteps, so that it takes over at one noise level "
             "whatever the steps and takes at least 4, or half of a short run; or the steps",
    )
    finish_smoothing: float = declare(
        _PERCENT, 0.0, "IV-mixed finish smoothing", advanced=True,
        help="How much of the detail that the image model adds in the last steps is averaged over a frame and its two "
             "neighbours, along the motion, so that texture does not boil: from 0, not at all, to 100, the mean of the "
             "three",
    )
    image_attention: str = declare(
        Choice(ATTENTIONS), "own", "IV-mixed image attention", advanced=True,
        help="Which frames the image model's self-attention sees: own alone, neighbours too, for texture that boils "
             "less, or the first one too; the clip must be no longer than the context",
    )
    schedule_match: str = declare(
        Choice(("sigma", "timestep")), "sigma", "IV-mixed schedule match", advanced=True,
        help="Where the image model is evaluated: at the video model's noise level (sigma) or at its timestep",
    )
    above_sigma_max: str = declare(
        Choice(("clamp", "skip")), "clamp", "IV-mixed above sigma max", advanced=True,
        help="Above the image model's largest noise level: evaluate it at that level (clamp), or let the video model "
             "make the move (skip)",
    )
    image_size: Size | None = declare(
        Dimensions(8, 8192, step=8), None, "IV-mixed image size", advanced=True,
        help="Size at which the image model sees the frames; if empty, that of the clip",
    )
    image_resize: str = declare(
        Choice(IMAGE_RESIZES), "change", "IV-mixed image resize", advanced=True,
        help="How the latents get to the image model's size and back: change brings back only what the image model "
             "changed, so that no detail is lost; the others bring back all of it (nearest, as released)",
    )

    def __eq__(self, other: object) -> bool:
        return self.changed() == other.changed() if isinstance(other, Options) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.changed().items()))

    def setting(self) -> Self:
        """The options as a preset has them: without what belongs to one clip."""
        own = {option.name: option.default for option in self.declared() if option.of_clip}
        return dataclasses.replace(self, **own)

    def plain(self) -> Self:
        """The same without an extra loop and without a step by the image model: plain sampling."""
        return dataclasses.replace(self, interval=(0.0, 0.0), finish_percent=0.0)

    def curve(self, model: str, direction: str) -> Gamma:
        """The gamma of ``model`` ("image", "video") in ``direction`` ("go", "back"), over all steps."""
        own: Gamma | None = getattr(self, f"gamma_image_{direction}") if model == "image" else None
        shared: Gamma = getattr(self, f"gamma_{direction}")
        return shared if own is None else own

    def gamma(self, model: str, direction: str, u: float) -> float:
        """The gamma of ``model`` in ``direction``, u = 0 at the first step, 1 at the last."""
        curve = self.curve(model, direction)
        if isinstance(curve, float):
            return curve
        if isinstance(curve[0], tuple):
            return on_curve(curve, 100 * u)
        start, end = curve
        return ramp(start, end, u, self.rho)


OPTIONS: tuple[Option, ...] = Options.declared()


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


def curve_at(curve: Gamma, place: float, last: float) -> float:
    """The value at ``place``, 0 to ``last``, of a number, of a ramp as a straight line, or of keyframes."""
    if isinstance(curve, float):
        return curve
    if isinstance(curve[0], tuple):
        return on_curve(curve, place)
    return on_curve(((0, curve[0]), (last, curve[1])), place) if last else curve[0]


def on_curve(curve: tuple[Pair, ...], percent: float) -> float:
    """The value at ``percent`` of the steps, 0 to 100, of one or more keyframes: straight lines between them, constant
    beyond the first and the last. The same where the keys are another thing, frames say."""
    following = bisect.bisect_left(curve, percent, key=lambda keyframe: keyframe[0])
    if following in (0, len(curve)):
        return curve[max(following - 1, 0)][1]
    (before, low), (after, high) = curve[following - 1:following + 1]
    return low + (high - low) * (percent - before) / (after - before)
