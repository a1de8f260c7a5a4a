"""The kinds of options: what a value may be, how it is written as text, and how it is told to people and programs.

    Number(0, 100, unit="%").check(50)        # 50.0
    Curve(0, 30).from_text("6 to 2")          # (6.0, 2.0)

A new kind is one class here. How a page draws it is said in `ivmixed.webui.page.form`, where its text does not do.
"""
from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .options import OptionSet

LONGEST_TEXT = 20_000
"""Characters of an option that is a text, or is given as one: some two hundred times what a CLIP encoder reads at once.
"""
MOST_KEYS = 1000
"""Keyframes of a curve."""

Pair = tuple[float, float]
Size = tuple[int, int]
Gamma = float | Pair | tuple[Pair, ...]
"""A number, a ramp (start, end), or keyframes (percent of the steps, value), percents ascending."""

Schema = dict[str, Any]


class NotAllowed(ValueError):
    """A kind refuses a value. ``allowed``: what may be given, where the kind's own words do not say it."""

    def __init__(self, problem: str = "is not allowed", allowed: str = ""):
        super().__init__(problem)
        self.problem, self.allowed = problem, allowed


class Kind(ABC):
    """What the values of an option are."""

    noun: ClassVar[str]
    """What documents call it."""
    metavar: str = "X"
    """What stands for a value in the help of a command line."""
    nargs: ClassVar[str | None] = None
    """Words of its flag on a command line: None for one, "+" for some, "*" where the flag may be repeated."""
    typed: ClassVar[bool] = False
    """A page shows it as text, and its text is taken wherever a value is."""
    ends: ClassVar[tuple[str, ...]] = ("",)
    """The names of its parts, where a page has a component for each."""
    words: str = ""
    """What is allowed, where the kind's own words do not do."""
    longest: ClassVar[int] = LONGEST_TEXT
    """Characters of a value that is given as a text."""

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        return self.words or self._allowed()

    @abstractmethod
    def _allowed(self) -> str:
        """The same from the kind's own fields."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """The value in its canonical type. Raises NotAllowed."""

    @abstractmethod
    def schema(self) -> Schema:
        """What `check` takes, as far as JSON Schema has words for it."""

    def to_text(self, value: Any) -> str:
        """A canonical value as text, on one line but in a text."""
        return str(value)

    def from_text(self, text: str) -> Any:
        """The inverse of `to_text`. Raises NotAllowed."""
        return self.check(text)

    def from_words(self, words: Sequence[str]) -> Any:
        """The value that the words of a command line are. Raises NotAllowed."""
        return self.from_text(" ".join(words))

    def to_json(self, value: Any) -> Any:
        """A canonical value as JSON has it; `check` takes it again."""
        return _lists(value)


@dataclass(frozen=True)
class Choice(Kind):
    """One of some texts. ``shown``: the few that a page lists, where any other is to be typed."""

    noun = "choice"
    choices: tuple[str, ...]
    shown: tuple[str, ...] = ()
    words: str = ""

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return "|".join(filter(None, self.choices)) if len(self.choices) <= 5 else "X"

    def _allowed(self) -> str:
        return "one of " + ", ".join(filter(None, self.choices))

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise NotAllowed
        return value

    def schema(self) -> Schema:
        return {"enum": list(self.choices)}


@dataclass(frozen=True)
class Several(Kind):
    """One or more of some texts, in their order, as a tuple."""

    noun = "several of a choice"
    choices: tuple[str, ...]
    words: str = ""

    def _allowed(self) -> str:
        return "a list of one or more of " + ", ".join(self.choices)

    def check(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not value or any(part not in self.choices for part in value):
            raise NotAllowed
        return tuple(choice for choice in self.choices if choice in value)

    def to_text(self, value: Any) -> str:
        return " ".join(value)

    def from_text(self, text: str) -> tuple[str, ...]:
        return self.check(text.split())

    def schema(self) -> Schema:
        return {"type": "array", "items": {"enum": list(self.choices)}, "minItems": 1}


@dataclass(frozen=True)
class Switch(Kind):
    """True or False; as text "on" or "off"."""

    noun = "switch"
    metavar = "on|off"

    def _allowed(self) -> str:
        return "on or off"

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise NotAllowed
        return value

    def to_text(self, value: Any) -> str:
        return "on" if value else "off"

    def from_text(self, text: str) -> bool:
        if text not in ("on", "off"):
            raise NotAllowed
        return text == "on"

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Bounded(Kind):
    """What is made of numbers from ``minimum`` to ``maximum``. ``step``, ``slider``: of a page's slider, and its ends
    where the range is too wide for one."""

    minimum: float
    maximum: float
    step: float = 1.0
    unit: str = ""
    slider: Pair | None = None
    words: str = ""

    @property
    def span(self) -> str:
        """The range, in words."""
        return f"{self.minimum:g} to {self.maximum:g}" + (f" {self.unit}" if self.unit else "")

    def number(self, value: Any) -> float:
        """One of its numbers, as a float. Raises NotAllowed."""
        return _number(value, self.minimum, self.maximum)

    def number_schema(self) -> Schema:
        """The schema of one of its numbers."""
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True)
class Number(Bounded):
    """A float."""

    noun = "number"

    def _allowed(self) -> str:
        return f"a number from {self.span}"

    def check(self, value: Any) -> float:
        return self.number(value)

    def to_text(self, value: Any) -> str:
        return _digits(value)

    def from_text(self, text: str) -> float:
        return self.check(_parsed(text))

    def schema(self) -> Schema:
        return self.number_schema()


@dataclass(frozen=True)
class Whole(Number):
    """An int."""

    noun = "whole number"
    metavar = "N"

    def _allowed(self) -> str:
        return f"a whole number from {self.span}"

    def check(self, value: Any) -> int:
        self.number(value)
        if value != int(value):
            raise NotAllowed
        return int(value)

    def from_text(self, text: str) -> int:
        return self.check(_parsed(text, int))

    def schema(self) -> Schema:
        return {**self.number_schema(), "type": "integer"}


@dataclass(frozen=True)
class Range(Bounded):
    """(start, end), start not above end."""

    noun = "start and end"
    nargs = "+"
    ends = ("start", "end")

    def _allowed(self) -> str:
        return f"[start, end], each from {self.span}, start not above end"

    def check(self, value: Any) -> Pair:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise NotAllowed
        start, end = map(self.number, value)
        if start > end:
            raise NotAllowed
        return start, end

    def to_text(self, value: Any) -> str:
        return " to ".join(map(_digits, value))

    def from_text(self, text: str) -> Pair:
        return self.check([_parsed(part) for part in text.split(" to ")])

    def from_words(self, words: Sequence[str]) -> Pair:
        return self.from_text(" to ".join(words) if len(words) == 2 else " ".join(words))

    def schema(self) -> Schema:
        return {"type": "array", "items": self.number_schema(), "minItems": 2, "maxItems": 2}


_DIGITS = r"[-+.0-9eE]+"


@dataclass(frozen=True)
class Curve(Bounded):
    """A value over the steps, see `Gamma`. What does not change is a number: ``[4, 4]`` is 4.0.

    ``over``, ``last``: what the keys of keyframes are, and the last of them, where they are no percent of the steps.
    """

    over: str = "percent of the steps"
    last: float = 100

    noun = "number, ramp or keyframes"
    nargs = "+"
    typed = True

    def _allowed(self) -> str:
        high, low, mean = (6, 2, 4) if self.maximum >= 6 else (2, 0, 1)
        return (f'a number from {self.span}; or a ramp, as in "{high} to {low}" or [{high}, {low}]; or at most '
                f'{MOST_KEYS} keyframes, {self.over} = value, as in "0={high} 50={low} 100={mean}" or '
                f'[[0, {high}], [50, {low}], [100, {mean}]]')

    def check(self, value: Any) -> Gamma:
        if isinstance(value, str):
            value = _parsed_curve(value)
        if not isinstance(value, (list, tuple)):
            return self.number(value)
        if value and all(isinstance(key, (list, tuple)) and len(key) == 2 for key in value):
            return self._keyframes(value)
        if len(value) != 2:
            raise NotAllowed
        start, end = map(self.number, value)
        return start if start == end else (start, end)

    def _keyframes(self, keys: Sequence[Sequence[Any]]) -> Gamma:
        if len(keys) > MOST_KEYS:
            raise NotAllowed(f"has {len(keys)} keyframes", f"at most {MOST_KEYS} keyframes")
        curve = tuple((_number(place, 0, self.last), self.number(part)) for place, part in keys)
        if not all(before[0] < after[0] for before, after in zip(curve, curve[1:])):
            raise NotAllowed
        return curve if len({part for _, part in curve}) > 1 else curve[0][1]

    def to_text(self, value: Any) -> str:
        if not isinstance(value, tuple):
            return _digits(value)
        if isinstance(value[0], tuple):
            return " ".join("=".join(map(_digits, key)) for key in value)
        return " to ".join(map(_digits, value))

    def from_text(self, text: str) -> Gamma:
        return self.check(text)

    def from_words(self, words: Sequence[str]) -> Gamma:
        return self.check(" to ".join(words) if len(words) == 2 and "=" not in "".join(words) else " ".join(words))

    def schema(self) -> Schema:
        number = self.number_schema()
        key = {"type": "array", "prefixItems": [{**number, "minimum": 0, "maximum": self.last}, number],
               "minItems": 2, "maxItems": 2}
        pattern = rf"^\s*({_DIGITS}( to {_DIGITS})?|{_DIGITS}={_DIGITS}(\s+{_DIGITS}={_DIGITS})*)\s*$"
        return {"anyOf": [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2},
                          {"type": "array", "items": key, "minItems": 1, "maxItems": MOST_KEYS},
                          {"type": "string", "maxLength": LONGEST_TEXT, "pattern": pattern}]}


def _parsed_curve(text: str) -> Any:
    if "=" in text:
        return [[_parsed(part) for part in key.split("=")] for key in text.split()]
    numbers = [_parsed(part) for part in text.split(" to ")]
    return numbers if len(numbers) > 1 else numbers[0]


@dataclass(frozen=True)
class Dimensions(Bounded):
    """(width, height), whole multiples of ``step``; as text "512x768"."""

    noun = "width and height"
    metavar = "WxH"
    typed = True

    def _allowed(self) -> str:
        return (f"WIDTHxHEIGHT in pixels, each a multiple of {self.step:g} from {self.minimum:g} to {self.maximum:g}, "
                'as in "512x512"')

    def check(self, value: Any) -> Size:
        if isinstance(value, str):
            value = [_parsed(side, int) for side in value.lower().split("x")]
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise NotAllowed
        width, height = map(self.number, value)
        if width % self.step or height % self.step:
            raise NotAllowed
        return int(width), int(height)

    def to_text(self, value: Any) -> str:
        return "x".join(map(str, value))

    def from_text(self, text: str) -> Size:
        return self.check(text)

    def schema(self) -> Schema:
        side = {**self.number_schema(), "type": "integer", "multipleOf": self.step}
        return {"anyOf": [{"type": "array", "items": side, "minItems": 2, "maxItems": 2},
                          {"type": "string", "pattern": "^[0-9]+[xX][0-9]+$"}]}


@dataclass(frozen=True)
class Text(Kind):
    """A text of Unicode characters, without the blanks around it."""

    noun = "text"
    metavar = "TEXT"
    typed = True
    words: str = ""

    def _allowed(self) -> str:
        return f"a text of at most {LONGEST_TEXT} characters"

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise NotAllowed
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotAllowed("holds half a surrogate pair, which is no character") from None
        return value.strip()

    def schema(self) -> Schema:
        return {"type": "string", "maxLength": LONGEST_TEXT}


@dataclass(frozen=True)
class Data(Kind):
    """The bytes of a file, no more than ``most``; in JSON as base64, which may be in a data URL. Never a path."""

    noun = "file"
    most: ClassVar[int] = 1 << 28
    longest = 4 * most // 3 + 200
    words: str = ""

    def _allowed(self) -> str:
        return f"the bytes of a file in base64, at most {self.most >> 20} MiB"

    def check(self, value: Any) -> bytes:
        if isinstance(value, str):
            try:
                value = base64.b64decode(value.partition(";base64,")[2] if value.startswith("data:") else value,
                                         validate=True)
            except (binascii.Error, ValueError):
                raise NotAllowed("is no base64") from None
        if not isinstance(value, bytes) or not 0 < len(value) <= self.most:
            raise NotAllowed
        return value

    def to_text(self, value: Any) -> str:
        return ""

    def to_json(self, value: Any) -> str:
        return base64.b64encode(value).decode()

    def schema(self) -> Schema:
        return {"type": "string", "contentEncoding": "base64", "maxLength": self.longest}


@dataclass(frozen=True)
class Loras(Text):
    """LoRAs with their weights, ((name, weight), ...); as text "one:0.8, other"; the weight is 1 where none is given.
    """

    noun = "LoRAs and weights"
    metavar = "NAME:WEIGHT"
    nargs = "*"
    most: int = 20
    most_weight: float = 10.0
    """Either sign."""

    def _allowed(self) -> str:
        return (f"at most {self.most} names, with weights from {-self.most_weight:g} to {self.most_weight:g}, "
                'as in "v2_lora_ZoomIn:0.8, v2_lora_PanLeft" or [["v2_lora_ZoomIn", 0.8]]')

    def check(self, value: Any) -> Any:
        entries = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(entries, (list, tuple)) or len(entries) > self.most:
            raise NotAllowed
        return tuple(self._entry(_weighted(part) if isinstance(part, str) else part) for part in entries)

    def _entry(self, entry: Any) -> tuple[str, float]:
        if not isinstance(entry, (list, tuple)) or len(entry) != 2:
            raise NotAllowed
        return self.name(entry[0]), _number(entry[1], -self.most_weight, self.most_weight)

    def name(self, value: Any) -> str:
        """The name of a LoRA. Raises NotAllowed."""
        name = super().check(value)
        if not name or "," in name or ":" in name:
            raise NotAllowed
        return name

    def from_words(self, words: Sequence[str]) -> Any:
        return self.check(list(words))

    def to_text(self, value: Any) -> str:
        return ", ".join(name if weight == 1 else f"{name}:{_digits(weight)}" for name, weight in value)

    def schema(self) -> Schema:
        weight = {"type": "number", "minimum": -self.most_weight, "maximum": self.most_weight}
        entry = {"type": "array", "prefixItems": [{"type": "string"}, weight], "minItems": 2, "maxItems": 2}
        return {"anyOf": [{"type": "array", "items": {"anyOf": [entry, {"type": "string"}]}, "maxItems": self.most},
                          {"type": "string", "maxLength": LONGEST_TEXT}]}


def _weighted(text: str) -> tuple[str, float]:
    """"name:0.8", or a name alone: a Windows path has a colon too."""
    name, _, weight = text.rpartition(":")
    try:
        return (name, _parsed(weight)) if name else (text, 1.0)
    except NotAllowed:
        return text, 1.0


@dataclass(frozen=True)
class Many(Kind):
    """Some values of one kind, as a tuple; as text with commas between. One by itself is taken for a list of it."""

    noun = "list"
    nargs = "*"
    of: Kind
    most: int
    words: str = ""

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return self.of.metavar

    def _allowed(self) -> str:
        return f"at most {self.most}, each {self.of.allowed}"

    def check(self, value: Any) -> Any:
        values = value if isinstance(value, (list, tuple)) else [value]
        if len(values) > self.most:
            raise NotAllowed
        return tuple(self.of.check(part) for part in values)

    def to_text(self, value: Any) -> str:
        return ", ".join(self.of.to_text(part) for part in value)

    def from_text(self, text: str) -> Any:
        return self.from_words([part.strip() for part in text.split(",") if part.strip()])

    def from_words(self, words: Sequence[str]) -> Any:
        return self.check([self.of.from_text(word) for word in words])

    def schema(self) -> Schema:
        each = self.of.schema()
        return {"anyOf": [each, {"type": "array", "items": each, "maxItems": self.most}]}


@dataclass(frozen=True)
class Nested(Kind):
    """An option set, or an object with its options by name, of which the set raises its own errors."""

    noun = "options"
    of: type[OptionSet]

    def _allowed(self) -> str:
        return "an object with option names as keys"

    def check(self, value: Any) -> OptionSet:
        if isinstance(value, self.of):
            return value
        if not isinstance(value, Mapping):
            raise NotAllowed
        return self.of.from_dict(value)

    def to_json(self, value: Any) -> Mapping[str, Any]:
        made: Mapping[str, Any] = value.to_dict()
        return made

    def schema(self) -> Schema:
        return self.of.schema()


def _number(value: Any, minimum: float, maximum: float) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not minimum <= value <= maximum:  # NaN fails the comparison
        raise NotAllowed
    return float(value)


def _parsed(text: str, kind: type[float] = float) -> float:
    """A number in a text. Raises NotAllowed, also for what Python alone reads: ``1_0`` is 10 there."""
    try:
        if "_" in text:
            raise NotAllowed
        return kind(text)
    except ValueError:
        raise NotAllowed from None


def _digits(number: float) -> str:
    return repr(number).removesuffix(".0")


def _lists(value: Any) -> Any:
    return [_lists(part) for part in value] if isinstance(value, tuple) else value
