"""The options: published defaults, everything wrong refused in words, and the ways through JSON and infotext."""
import dataclasses
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivmixed import OPTIONS, OptionError, Options, ramp

DECLARED = {option.name: option for option in OPTIONS}
PAIRS = [name for name, option in DECLARED.items() if option.kind == "pair"]
GAMMAS = [name for name in PAIRS if name.startswith("gamma")]
OWN_GAMMAS = [name for name in GAMMAS if DECLARED[name].follows]
NUMBERS = [name for name, option in DECLARED.items() if option.kind == "number"]
CHOICES = [name for name, option in DECLARED.items() if option.kind == "choice"]


def any_value(option):
    """Every value that may be given for an option."""
    if option.kind == "choice":
        return st.sampled_from(option.choices)
    number = st.floats(option.minimum, option.maximum) | st.integers(int(option.minimum), int(option.maximum))
    if option.kind == "number":
        return number
    pair = st.tuples(number, number)
    if option.ascending:
        return pair.map(sorted)
    return pair | pair.map(list) | number | (st.none() if option.follows else st.nothing())


def any_options():
    """Every valid set of options."""
    return st.builds(Options, **{name: any_value(option) for name, option in DECLARED.items()})


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
        "gamma_go": [4.0, 4.0],
        "gamma_back": [4.0, 4.0],
        "z_percent": 0.0,
        "interval": [0.0, 100.0],
        "active_percent": 100.0,
        "back_moves": "evaluate",
        "fresh_percent": 100.0,
        "rho": 7.0,
        "schedule_match": "sigma",
        "above_sigma_max": "clamp",
        "gamma_image_go": None,
        "gamma_image_back": None,
        "gamma_video_go": None,
        "gamma_video_back": None,
    }


def test_declared_defaults_are_those_of_the_values():
    for option in OPTIONS:
        assert option.check(option.default) == option.default == getattr(Options(), option.name)


def test_the_declaration_lists_every_field_once():
    assert [option.name for option in OPTIONS] == [field.name for field in dataclasses.fields(Options)]
    assert len({option.label for option in OPTIONS}) == len(OPTIONS)


# --- what is taken

@pytest.mark.parametrize("name", GAMMAS)
def test_one_number_stands_for_both_ends_of_a_gamma(name):
    assert Options(**{name: 6}) == Options(**{name: (6, 6)}) == Options(**{name: [6.0, 6.0]})
    assert getattr(Options(**{name: 6}), name) == (6.0, 6.0)


@given(any_options())
def test_values_have_one_canonical_type(options):
    for option in OPTIONS:
        value = getattr(options, option.name)
        if option.kind == "choice":
            assert type(value) is str
        elif option.kind == "number":
            assert type(value) is float
        elif value is not None:
            assert type(value) is tuple
            assert [type(part) for part in value] == [float, float]


def test_options_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().rho = 3.0


@pytest.mark.parametrize("model", ["image", "video"])
@pytest.mark.parametrize("direction", ["go", "back"])
def test_a_gamma_of_one_model_goes_before_the_common_one(model, direction):
    common = Options(**{f"gamma_{direction}": (6, 2)})
    assert common.gammas(model, direction) == (6.0, 2.0)
    own = dataclasses.replace(common, **{f"gamma_{model}_{direction}": (1, 3)})
    assert own.gammas(model, direction) == (1.0, 3.0)
    other = {"image": "video", "video": "image"}[model]
    assert own.gammas(other, direction) == (6.0, 2.0)


def test_a_gamma_of_zero_is_not_taken_for_none():
    assert Options(gamma_image_go=0).gammas("image", "go") == (0.0, 0.0)


# --- what is refused

def words_of_range(option):
    if option.spelled:
        return (option.spelled,)
    return option.choices or (f"{option.minimum:g}", f"{option.maximum:g}")


def assert_refused_in_words(name, value):
    error = refused(**{name: value})
    assert error.field == name
    assert error.value is value
    assert f"{name} = {value!r}" in str(error)
    for word in words_of_range(DECLARED[name]):
        assert word in str(error)


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["", "iv-iv", "RR", "IV-IV ", 1, True, None, ["IV-IV"], b"IV-IV"])
def test_wrong_choice(name, value):
    assert_refused_in_words(name, value)


WRONG_NUMBERS = ["4", "", True, False, math.nan, math.inf, -math.inf, -0.001, 1000, 10**400, 1j, {}, b"4"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [*WRONG_NUMBERS, None, [], [1.0], (1.0, 2.0)])
def test_wrong_number(name, value):
    assert_refused_in_words(name, value)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("value", [*WRONG_NUMBERS, [], [1.0], [1.0, 2.0, 3.0], [[1.0, 2.0], 3.0], [None, 2.0], {1, 2}])
def test_wrong_pair(name, value):
    assert_refused_in_words(name, value)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("wrong", WRONG_NUMBERS)
def test_one_wrong_end_of_a_pair(name, wrong):
    assert_refused_in_words(name, [wrong, 20.0])
    assert_refused_in_words(name, (2.0, wrong))


@pytest.mark.parametrize("name", [name for name in DECLARED if name not in OWN_GAMMAS])
def test_none_only_where_another_option_serves(name):
    assert_refused_in_words(name, None)


@pytest.mark.parametrize("name", NUMBERS + PAIRS)
def test_the_ends_of_a_range_belong_to_it(name):
    option = DECLARED[name]
    ends = option.minimum, option.maximum
    for number in ends:
        value = number if option.kind == "number" else [number, number]
        assert Options(**{name: value})
    for beyond in math.nextafter(ends[0], -math.inf), math.nextafter(ends[1], math.inf):
        assert_refused_in_words(name, beyond if option.kind == "number" else [beyond, beyond])


@given(st.floats(0, 100), st.floats(0, 100))
def test_an_interval_does_not_end_before_it_starts(start, end):
    if start <= end:
        assert Options(interval=(start, end)).interval == (start, end)
    else:
        assert "start not above end" in str(refused(interval=(start, end)))


def test_one_number_is_no_interval():
    assert_refused_in_words("interval", 50.0)


@pytest.mark.parametrize("name, near", [
    ("gama_go", "gamma_go"), ("Form", "form"), ("zpercent", "z_percent"), ("gamma_video_bak", "gamma_video_back"),
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
    assert all(word in str(error.value) for word in words_of_range(DECLARED[name]))


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
    from ivmixed.plan import RELEASED

    assert PRESETS["paper"].options == Options() and PRESETS["paper"].cfg_scale == 7.5
    assert PRESETS["paper-videocrafter"].options.z_percent == 66.7 and PRESETS["paper-videocrafter"].cfg_scale == 9
    assert {preset.loop for preset in PRESETS.values()} == {"", *RELEASED}
    assert all(loop in (name.removeprefix("released-"), "") for name, loop in
               ((name, preset.loop) for name, preset in PRESETS.items()))
