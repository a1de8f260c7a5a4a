"""The options: published defaults, everything wrong refused in words, and the ways through JSON and infotext."""
import dataclasses
import functools
import inspect
import json
import math
import re

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivmixed import OPTIONS, ConflictError, OptionError, Options, ramp
from ivmixed.kinds import (
    LONGEST_TEXT,
    MOST_KEYS,
    Choice,
    Curve,
    Dimensions,
    Kind,
    Loras,
    NotAllowed,
    Number,
    Range,
    Several,
    Switch,
    Text,
    Whole,
)
from ivmixed.motion import MotionOptions
from ivmixed.options import declare
from ivmixed.untrusted import SHOWN, shown

from . import hostile
from .hostile import assert_in_words

DECLARED = {option.name: option for option in OPTIONS}


def of_kind(kind):
    """The names of the options of a kind."""
    return [name for name, option in DECLARED.items() if isinstance(option.kind, kind)]


CURVES, NUMBERS, TEXTS, CHOICES = map(of_kind, (Curve, Number, Text, Choice))
MAY_BE_NONE = [name for name, option in DECLARED.items() if option.default is None]


@functools.singledispatch
def any_value(kind):
    """Every value that may be given for an option of a kind."""
    raise NotImplementedError


@any_value.register
def _(kind: Choice):
    return st.sampled_from(kind.choices)


@any_value.register
def _(kind: Text):
    return st.text(alphabet="aB1 <>().-[]", max_size=20).map(lambda text: "a" + text if text.strip() else "")


@any_value.register
def _(kind: Number):
    return numbers(kind)


def numbers(kind):
    return st.floats(kind.minimum, kind.maximum) | st.integers(int(kind.minimum), int(kind.maximum))


@any_value.register
def _(kind: Range):
    return st.tuples(numbers(kind), numbers(kind)).map(sorted)


@any_value.register
def _(kind: Curve):
    number = numbers(kind)
    percents = st.lists(st.floats(0, 100), min_size=1, max_size=4, unique=True).map(sorted)
    keys = percents.flatmap(lambda keys: st.tuples(*(st.tuples(st.just(key), number) for key in keys)))
    curve = number | st.tuples(number, number) | keys
    return curve | curve.map(kind.to_json) | curve.map(lambda value: kind.to_text(kind.check(value)))


@any_value.register
def _(kind: Dimensions):
    side = st.integers(1, 1024).map(lambda eighth: 8 * eighth)
    size = st.tuples(side, side)
    return size | size.map(list) | size.map(kind.to_text)


def any_options(of=Options, **values):
    """Every valid set of options, or those with ``values``."""
    none = st.sampled_from([None, ""])
    return st.fixed_dictionaries({
        option.name: any_value(option.kind) | none if option.default is None else any_value(option.kind)
        for option in of.declared()}).map(lambda given: of(**{**given, **values}))


def refused(**values):
    """The error that the values raise, by name and as a dictionary."""
    with pytest.raises(OptionError) as by_name:
        Options(**values)
    with pytest.raises(OptionError) as by_dict:
        Options.from_dict(values)
    assert str(by_name.value) == str(by_dict.value)
    return by_name.value


# --- defaults

def test_defaults_are_the_published_setting():
    assert Options().to_dict() == {
        "form": "IV-IV",
        "gamma_go": 4.0,
        "gamma_back": 4.0,
        "z_percent": 0.0,
        "interval": [0.0, 100.0],
        "active_percent": 100.0,
        "finish_percent": 0.0,
        "image_prompt": "",
        "image_negative_prompt": "",
        "gamma_image_go": None,
        "gamma_image_back": None,
        "rho": 7.0,
        "guidance_rescale": 0.0,
        "reuse_percent": 0.0,
        "reused": "prediction",
        "z_pattern": "even",
        "loop_order": "denoise-first",
        "finish_by": "timesteps",
        "finish_smoothing": 0.0,
        "image_attention": "own",
        "schedule_match": "sigma",
        "above_sigma_max": "clamp",
        "image_size": None,
        "image_resize": "change",
    }


def test_declared_defaults_are_those_of_the_values():
    for option in OPTIONS:
        assert option.check(option.default) == option.default == getattr(Options(), option.name)


def test_the_declaration_lists_every_field_once():
    assert [option.name for option in OPTIONS] == [field.name for field in dataclasses.fields(Options)]
    assert len({option.label for option in OPTIONS}) == len(OPTIONS)


# --- what is taken

@pytest.mark.parametrize("name", CURVES)
def test_a_gamma_is_a_number_a_ramp_or_keyframes(name):
    keys = (0.0, 6.0), (50.0, 2.5), (100.0, 4.0)
    for value, forms in (
            (6.0, [6, "6", " 6.0 ", [6, 6], "6 to 6", [[20, 6]], "0=6 100=6"]),
            ((6.0, 2.0), [[6, 2], (6, 2), "6 to 2", "6.0 to 2"]),
            (keys, [keys, [[0, 6], [50, 2.5], [100, 4]], "0=6 50=2.5 100=4", " 0=6.0  5e1=2.5 100=4"])):
        for form in forms:
            assert getattr(Options(**{name: form}), name) == value
    for form, text in (6, "6"), ([6, 2], "6 to 2"), (keys, "0=6 50=2.5 100=4"):
        assert Options(**{name: form}).to_infotext() == {DECLARED[name].label: text}


@pytest.mark.parametrize("words, value", [
    (["6"], 6.0), (["6", "2"], (6.0, 2.0)), (["6", "to", "2"], (6.0, 2.0)), (["6 to 2"], (6.0, 2.0)),
    (["0=6", "50=2"], ((0.0, 6.0), (50.0, 2.0))), (["0=6 50=2"], ((0.0, 6.0), (50.0, 2.0)))])
def test_a_gamma_in_the_words_of_a_command_line(words, value):
    assert DECLARED["gamma_go"].from_words(words) == value


@given(any_options())
def test_values_have_one_canonical_type(options):
    types = {Choice: str, Text: str, Number: float, Range: tuple, Dimensions: tuple, Curve: (float, tuple)}
    for option in OPTIONS:
        value = getattr(options, option.name)
        assert value is None or isinstance(value, types[type(option.kind)])
        if isinstance(value, tuple):
            parts = [part for key in value for part in (key if isinstance(key, tuple) else (key,))]
            assert {type(part) for part in parts} == {int if option.name == "image_size" else float}
        assert option.check(value) == value and option.check(options.to_dict()[option.name]) == value


def test_options_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().rho = 3.0


@pytest.mark.parametrize("direction", ["go", "back"])
def test_the_gamma_of_the_image_model_goes_before_the_common_one(direction):
    common = Options(**{f"gamma_{direction}": (6, 2)})
    assert common.curve("image", direction) == common.curve("video", direction) == (6.0, 2.0)
    own = dataclasses.replace(common, **{f"gamma_image_{direction}": (1, 3)})
    assert own.curve("image", direction) == (1.0, 3.0)
    assert own.curve("video", direction) == (6.0, 2.0)


def test_a_gamma_of_zero_is_not_taken_for_none():
    assert Options(gamma_image_go=0).curve("image", "go") == 0.0


def test_a_hosts_own_set_at_its_defaults_asks_for_the_same():
    @dataclasses.dataclass(frozen=True, eq=False)
    class More(Options):
        more: float = declare(Number(0, 1), 0.0, "IV-mixed more", help="")

    assert More(rho=3) == Options(rho=3) and hash(More(rho=3)) == hash(Options(rho=3))
    assert More(more=0.5) != Options() and Options(rho=3) != More() != MotionOptions()
    assert type(More(rho=3).plain()) is type(More().setting()) is More


# --- what is refused

def assert_refused_in_words(name, value):
    error = refused(**{name: value})
    assert error.field == name
    assert error.value is value
    assert f"{name} = {shown(repr(value) if isinstance(value, str) else value)}" in str(error)
    assert error.allowed == DECLARED[name].allowed and error.allowed in str(error)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["", "iv-iv", "RR", "IV-IV ", 1, True, None, ["IV-IV"], b"IV-IV"])
def test_wrong_choice(name, value):
    assert_refused_in_words(name, value)


WRONG_NUMBERS = ["4", "", True, False, math.nan, math.inf, -math.inf, -0.001, 1000, 10**400, 1j, {}, b"4"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [*WRONG_NUMBERS, None, [], [1.0], (1.0, 2.0)])
def test_wrong_number(name, value):
    assert_refused_in_words(name, value)


@pytest.mark.parametrize("value", [*WRONG_NUMBERS, [], [1.0], [1.0, 2.0, 3.0], [[1.0, 2.0], 3.0], [None, 2.0], {1, 2},
                                   None, 50.0, "0 to 50"])
def test_wrong_interval(value):
    assert_refused_in_words("interval", value)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("value", [
    *(wrong for wrong in WRONG_NUMBERS if wrong not in ("4", "")), [], [1.0], [1.0, 2.0, 3.0], [[1.0, 2.0], 3.0],
    [None, 2.0], {1, 2}, "6 2", "6 to", "1 to 2 to 3", "0=4 50", "0:4", "0=4, 50=2", "50=4 0=2", "50=4 50=2", "0=-1",
    "0=31", "-1=4", "101=4", "0=nan", "nan=4", "1_0=4", True, {}, [[0, 4], [50]], [[0, 4, 1]], [["0", 4]], [[0, True]],
    [[50, 1], [0, 2]], "4=", "much",
])
def test_wrong_gamma(name, value):
    assert_refused_in_words(name, value)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("value", [4, True, [], ["a"], {}, b"a"])
def test_wrong_text(name, value):
    assert_refused_in_words(name, value)


def test_a_preset_has_nothing_that_belongs_to_a_clip():
    words = {"image_prompt": " a sharp photo ", "image_negative_prompt": "blur"}
    options = Options(gamma_go=6, image_size=(512, 512), **words)
    assert options.image_prompt == "a sharp photo"
    assert options.setting() == Options(gamma_go=6, image_size=(512, 512))
    assert [name for name, option in DECLARED.items() if option.of_clip] == list(words)


@pytest.mark.parametrize("name", ["interval", *CURVES])
@pytest.mark.parametrize("wrong", WRONG_NUMBERS)
def test_one_wrong_end_of_a_pair(name, wrong):
    assert_refused_in_words(name, [wrong, 20.0])
    assert_refused_in_words(name, (2.0, wrong))


@pytest.mark.parametrize("value", [
    "512", "51_2x512", "512.0x512", "100x64", (512, 0), "8x8x8", 512, "512x8200", "ax8", [512.5, 512], (8, -8), True,
    {}, [None, 8], "x",
])
def test_wrong_size(value):
    assert_refused_in_words("image_size", value)


def test_a_size_may_be_a_text_or_a_pair():
    for value in "512x256", "512X256", [512, 256], (512, 256):
        assert Options(image_size=value).image_size == (512, 256)
    assert Options(image_size=(512, 256)).to_infotext() == {"IV-mixed image size": "512x256"}
    assert Options(image_size="") == Options(image_size=None) == Options()


@pytest.mark.parametrize("name", [name for name in DECLARED if name not in MAY_BE_NONE])
def test_none_only_where_it_is_the_default(name):
    assert_refused_in_words(name, None)


@pytest.mark.parametrize("name", [*NUMBERS, *CURVES, "interval"])
def test_the_ends_of_a_range_belong_to_it(name):
    kind = DECLARED[name].kind
    ends = kind.minimum, kind.maximum
    for number in ends:
        assert Options(**{name: [number, number] if name == "interval" else number})
    for beyond in math.nextafter(ends[0], -math.inf), math.nextafter(ends[1], math.inf):
        assert_refused_in_words(name, [beyond, beyond] if name == "interval" else beyond)


@given(st.floats(0, 100), st.floats(0, 100))
def test_an_interval_does_not_end_before_it_starts(start, end):
    if start <= end:
        assert Options(interval=(start, end)).interval == (start, end)
    else:
        assert "start not above end" in str(refused(interval=(start, end)))


@pytest.mark.parametrize("name, near", [
    ("gama_go", "gamma_go"), ("Form", "form"), ("zpercent", "z_percent"), ("gamma_image_bak", "gamma_image_back"),
    ("z", None), ("", None), (3, None),
])
def test_unknown_names_are_refused_with_a_hint(name, near):
    with pytest.raises(OptionError) as error:
        Options.from_dict({"rho": 5, name: 4})
    assert error.value.field == str(name)
    assert f"{name} = 4" in str(error.value)
    hint = re.search(r"did you mean (\w+)\?", str(error.value))
    assert (hint and hint[1]) == near
    assert all(known in str(error.value) for known in DECLARED)


@pytest.mark.parametrize("values", [None, 4, "form", ["form"], [("form", "IV-IV")]])
def test_only_an_object_becomes_options(values):
    with pytest.raises(OptionError, match="an object with option names as keys"):
        Options.from_dict(values)


@pytest.mark.parametrize("old", ["gamma_go_curve", "gamma_video_back", "fresh_percent", "back_moves"])
def test_names_that_are_not_there_are_refused_by_name(old):
    with pytest.raises(OptionError, match=f"{old} = 1 is no option") as error:
        Options.from_dict({old: 1})
    assert error.value.field == old


def test_a_conflict_names_both_and_says_what_to_do():
    with pytest.raises(ConflictError) as error:
        MotionOptions(context=4, overlap=4)
    conflict = error.value
    assert (conflict.field, conflict.value, conflict.other, conflict.other_value) == ("overlap", 4, "context", 4)
    assert str(conflict) == ("IV-mixed: overlap = 4 cannot be used with context = 4: a window would share all of its "
                             "frames; take an overlap below 4.")
    with pytest.raises(OptionError) as error:
        MotionOptions(overlap=64)
    assert not isinstance(error.value, ConflictError)


def test_an_option_error_is_a_value_error():
    assert issubclass(OptionError, ValueError)


# --- JSON

@given(any_options())
def test_round_trip_through_json(options):
    assert Options.from_dict(json.loads(json.dumps(options.to_dict(), allow_nan=False))) == options


@given(any_options(), st.sets(st.sampled_from(sorted(DECLARED))))
def test_what_is_left_out_of_a_dictionary_has_its_default(options, names):
    given_values = {name: options.to_dict()[name] for name in names}
    made = Options.from_dict(given_values)
    for name in DECLARED:
        assert getattr(made, name) == getattr(options if name in names else Options(), name)


def test_from_dict_leaves_its_argument_alone():
    values = {"gamma_go": [6, 2]}
    Options.from_dict(values)
    assert values == {"gamma_go": [6, 2]}


# --- infotext

@settings(max_examples=25)
@given(any_options())
def test_round_trip_through_infotext(options):
    infotext = options.to_infotext()
    assert Options.from_infotext(infotext) == options
    assert Options.from_infotext({"Steps": "20", "Sampler": "IV-mixed", **infotext, "Size": "512x512"}) == options


@given(any_options())
def test_infotext_can_be_read_by_the_host(options):
    for key, text in options.to_infotext().items():
        # the host splits a line into keys and values with this expression, and quotes values with a comma or a colon
        assert re.fullmatch(r"\w[\w \-/]+", key)
        assert not key.startswith("AnimateDiff"), "that extension chokes on keys of its name"
        assert isinstance(text, str) and text
        assert not re.search(r"[,:\"'\n\\]", text)
        assert text == text.strip()


@given(any_options())
def test_infotext_goes_through_a_line_of_parameters(options):
    line = "Steps: 20, " + ", ".join(f"{key}: {text}" for key, text in options.to_infotext().items())
    read = dict(re.findall(r"\s*(\w[\w \-/]+):\s*([^,]+)(?:,|$)", line))
    assert Options.from_infotext(read) == options


@given(any_options())
def test_only_what_differs_from_the_defaults_is_in_the_infotext(options):
    differing = {option.label for option in OPTIONS if getattr(options, option.name) != getattr(Options(), option.name)}
    assert set(options.to_infotext()) == differing


def test_infotext_of_a_few_values():
    assert Options().to_infotext() == {}
    options = Options(form="II-II", gamma_go=(6, 2), gamma_image_back=3.5, z_percent=66.7, interval=(0, 50))
    assert options.to_infotext() == {
        "IV-mixed form": "II-II",
        "IV-mixed gamma go": "6 to 2",
        "IV-mixed gamma image back": "3.5",
        "IV-mixed z percent": "66.7",
        "IV-mixed interval": "0 to 50",
    }


def test_a_gamma_of_its_own_is_told_even_where_it_equals_the_common_one():
    options = Options(gamma_image_go=4)
    assert options.to_infotext() == {"IV-mixed gamma image go": "4"}
    assert Options.from_infotext(options.to_infotext()) == options != Options()


@pytest.mark.parametrize("name, text", [
    ("form", "XX-XX"), ("rho", "seven"), ("rho", ""), ("rho", "nan"), ("rho", "inf"), ("rho", "0.5"), ("rho", "2 to 3"),
    ("gamma_go", "6 to"), ("gamma_go", "1 to 2 to 3"), ("gamma_go", "-1"), ("interval", "50"), ("interval", "60 to 40"),
])
def test_wrong_infotext_is_refused(name, text):
    with pytest.raises(OptionError) as error:
        Options.from_infotext({DECLARED[name].label: text})
    assert error.value.field == name
    assert DECLARED[name].allowed in str(error.value)


# --- the curve of a gamma

@pytest.mark.parametrize("u, value", [(0, 6), (0.1, 6), (0.2, 6), (0.35, 4), (0.5, 2), (0.6, 2.2), (1, 3)])
def test_a_curve_runs_straight_between_its_keyframes(u, value):
    options = Options(gamma_go="20=6 50=2 100=3")
    assert options.gamma("image", "go", u) == options.gamma("video", "go", u) == pytest.approx(value)
    assert options.gamma("image", "back", u) == 4


@given(st.floats(0, 30), st.floats(0, 30), st.floats(0, 1))
def test_a_curve_of_two_ends_is_the_ramp_that_is_straight(start, end, u):
    curve = Options(gamma_back=[[0, start], [100, end]]).gamma("video", "back", u)
    assert curve == pytest.approx(Options(gamma_back=(start, end), rho=1).gamma("video", "back", u), abs=1e-9)


# --- the ramp of a gamma

gamma = st.floats(0, 30)
any_rho = st.floats(1, 100)


@given(gamma, gamma, any_rho)
def test_ramp_meets_its_ends_exactly(start, end, rho):
    assert ramp(start, end, 0.0, rho) == start
    assert ramp(start, end, 1.0, rho) == end


@given(gamma, st.floats(0, 1), any_rho)
def test_ramp_between_equal_ends_is_constant(value, u, rho):
    assert ramp(value, value, u, rho) == value


@given(gamma, gamma, st.floats(0, 1))
def test_ramp_with_rho_1_is_a_straight_line(start, end, u):
    assert ramp(start, end, u, 1.0) == pytest.approx(start + u * (end - start), rel=1e-12, abs=1e-12)


@given(gamma, gamma, st.floats(0, 1), st.floats(0, 1), any_rho)
def test_ramp_is_monotone_and_stays_between_its_ends(start, end, u, v, rho):
    first, second = ramp(start, end, min(u, v), rho), ramp(start, end, max(u, v), rho)
    slack = 1e-9
    assert min(start, end) - slack <= first <= max(start, end) + slack
    assert (second - first) * (1 if end >= start else -1) >= -slack


def test_ramp_has_the_values_of_karras():
    # ((10^(1/7) + 0.1^(1/7)) / 2)^7, computed with 50 digits
    assert ramp(10.0, 0.1, 0.5, 7.0) == pytest.approx(1.4507321135661914539678536653, rel=1e-12)
    assert ramp(4.0, 1.0, 0.5, 2.0) == pytest.approx(2.25, rel=1e-12)
    assert ramp(10.0, 0.1, 0.5) == ramp(10.0, 0.1, 0.5, 7.0), "rho is 7 unless told"


def test_ramp_may_start_or_end_at_zero():
    assert ramp(0.0, 8.0, 0.5, 3.0) == pytest.approx(1.0, rel=1e-12)
    assert ramp(8.0, 0.0, 0.5, 3.0) == pytest.approx(1.0, rel=1e-12)


def test_presets_are_what_their_names_say():
    from ivmixed import PRESETS
    from ivmixed.released import RELEASED

    assert PRESETS["paper"].options == Options() and PRESETS["paper"].cfg_scale == 7.5
    assert PRESETS["paper-videocrafter"].options.z_percent == 66.7 and PRESETS["paper-videocrafter"].cfg_scale == 9
    assert {preset.loop for preset in PRESETS.values()} == {"", *RELEASED}
    assert all(loop in (name.removeprefix("released-"), "") for name, loop in
               ((name, preset.loop) for name, preset in PRESETS.items()))


@pytest.mark.parametrize("name, least, most", [("fast", 0.8, 0.99), ("balanced", 1, 1.5), ("quality", 1, 1.5)])
def test_the_prices_of_presets_are_what_is_said_of_them(name, least, most):
    from ivmixed import PRESETS, Schedule, make_plan
    from ivmixed.cost import times_plain

    video, image = Schedule.linear(), Schedule.scaled_linear()
    for steps in (10, 15, 20, 25, 30, 50, 100):
        sigmas = [*(video.timestep_to_sigma(999 * k / (steps - 1)) for k in range(steps - 1, -1, -1)), 0.0]
        plan = make_plan(PRESETS[name].options, sigmas, video, image)
        assert least < times_plain(plan) <= most
        assert name == "fast" or plan.evaluations / steps <= most


# --- what strangers send

@pytest.mark.parametrize("name, value, words", [
    ("image_prompt", "\ud800", "half a surrogate pair"),
    ("image_prompt", "x" * (LONGEST_TEXT + 1), f"has {LONGEST_TEXT + 1} characters"),
    ("gamma_go", "0=1 " * LONGEST_TEXT, "characters"),
    ("gamma_go", [[k / 20, 1] for k in range(MOST_KEYS + 1)], f"has {MOST_KEYS + 1} keyframes"),
    ("image_size", {512, 256}, "WIDTHxHEIGHT"),
    ("image_size", "9" * 5000 + "x8", "WIDTHxHEIGHT"),
    ("z_percent", 10**5000, "a number from 0 to 100"),
    ("form", ["IV-IV"] * 10**5, "two of I, V, R"),
], ids=lambda value: "")
def test_what_is_too_long_is_refused_shortly(name, value, words):
    error = refused(**{name: value})
    assert error.field == name and error.value is value and words in str(error)
    assert_in_words(str(error))
    repeated = str(error).split(" = ", 1)[1].split(" is not allowed")[0].split(" has ")[0]
    assert len(repeated) <= SHOWN


def test_texts_and_curves_as_long_as_allowed():
    text, keys = "é" * LONGEST_TEXT, [[k / 10, k % 30] for k in range(MOST_KEYS)]
    options = Options(image_prompt=text, gamma_go=keys)
    assert options.image_prompt == text
    assert [options.gamma("image", "go", percent / 100) for percent in (0, 0.1, 50.05, 99.95, 100)] == pytest.approx(
        [0, 1, (500 % 30 + 501 % 30) / 2, 999 % 30, 999 % 30])


def test_a_long_unknown_name_is_refused_shortly():
    with pytest.raises(OptionError) as error:
        Options.from_dict({"z" * 10**6: 1})
    assert_in_words(str(error.value))


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([*DECLARED, "other"]), hostile.values(list(DECLARED)), max_size=4)
       | hostile.values(list(DECLARED)))
def test_any_object_is_options_or_refused_in_words(value):
    try:
        options = Options.from_dict(value)
    except OptionError as error:
        assert_in_words(str(error))
    else:
        json.dumps(options.to_dict(), allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([option.label for option in OPTIONS]),
                       st.text(max_size=20) | st.sampled_from([v for v in hostile.LEAVES if isinstance(v, str)])))
def test_of_an_infotext_what_can_be_read_is_read(infotext):
    """And what cannot be is named: the values that are left go together."""
    values, errors = Options.read_infotext(infotext)
    options = Options(**values)
    assert {option.label for option in OPTIONS if option.name in values} | {
        DECLARED[error.field].label for error in errors} == infotext.keys()
    for error in errors:
        assert_in_words(str(error))
    if errors:
        with pytest.raises(OptionError):
            Options.from_infotext(infotext)
    else:
        assert Options.from_infotext(infotext) == options


def test_values_of_an_infotext_that_do_not_go_together():
    infotext = {"IV-mixed motion context": "4", "IV-mixed motion overlap": "9", "IV-mixed motion fps": "3",
                "IV-mixed motion stride": "many"}
    values, errors = MotionOptions.read_infotext(infotext)
    assert values == {"context": 4, "fps": 3.0}
    assert [error.field for error in errors] == ["stride", "overlap"]


# --- kinds

def subclasses(kind):
    return {kind, *(more for own in kind.__subclasses__() for more in subclasses(own))}


KINDS = {
    Switch(): [True, False], Several(("a", "b", "c")): [("a",), ("a", "c")], Whole(-3, 2**60): [-3, 0, 2**60],
    Loras(): [(), (("zoom", 1.0),), (("zoom", 0.5), ("pan", -1.0))], Range(0, 100): [(0.0, 0.5)],
    Dimensions(8, 64, step=8): [(8, 64)], Curve(0, 30): [4.0, (6.0, 2.0), ((0.0, 1e-5), (50.5, 2.0))],
}


@pytest.mark.parametrize("kind, value", [(kind, value) for kind, values in KINDS.items() for value in values])
def test_a_value_comes_back_from_its_text_its_json_and_a_command_line(kind, value):
    text = kind.to_text(value)
    assert kind.check(value) == kind.from_text(text) == kind.check(json.loads(json.dumps(kind.to_json(value)))) == value
    assert isinstance(kind, Loras) or kind.from_words([text]) == value
    jsonschema.validate(kind.to_json(value), kind.schema())


@pytest.mark.parametrize("value", ["zoom:11", "zoom:nan", "zoom:much", "a:b:1", [["zoom"]], [["a,b", 1]], [[1, 1]],
                                   ["a"] * 21, {}, None, [["zoom", True]]])
def test_wrong_loras(value):
    with pytest.raises(NotAllowed):
        Loras().check(value)


def test_loras_in_several_words():
    assert Loras().from_words(["zoom:0.5", "pan"]) == Loras().check("zoom:0.5, pan") == (("zoom", 0.5), ("pan", 1.0))


@pytest.mark.parametrize("kind", sorted(subclasses(Kind), key=str), ids=lambda kind: kind.__name__)
def test_every_kind_has_a_noun(kind):
    assert inspect.isabstract(kind) or kind.noun
