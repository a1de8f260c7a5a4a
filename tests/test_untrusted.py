"""JSON from strangers, and how a message repeats their values."""
from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivmixed import untrusted

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2**64, 2**64) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=4),
    max_leaves=20)


@given(VALUES)
def test_what_json_holds_comes_back(value):
    assert untrusted.parse(json.dumps(value)) == value
    assert untrusted.parse(json.dumps(value).encode()) == value


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_anything_is_a_value_or_refused(text):
    try:
        value = untrusted.parse(text)
    except untrusted.JsonError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert json.loads(text) == value


@pytest.mark.parametrize("text, problem", [
    ("[" * 200_000, "nested too deep"),
    ('{"a":' * 200_000, "nested too deep"),
    ("[" * 33 + "1" + "]" * 33, "nested too deep"),
    ("1" + "0" * 400, "too large"),
    ("9" * 10_000, "too large"),
    (str(2**64 + 1), "too large"),
    ("1e999", "too large"),
    ("[NaN]", "NaN, which is no number"),
    ("-Infinity", "-Infinity, which is no number"),
    ('"\\ud800"', "surrogate"),
    ('{"\\udfff": 1}', "surrogate"),
    (b"\xff\xfe\x00", "no JSON"),
    (b"\xff", "no JSON"),
    ("", "no JSON"),
    ("{", "no JSON"),
    ('"' + "x" * (1 << 20), "too long"),
])
def test_refused(text, problem):
    with pytest.raises(untrusted.JsonError, match=problem):
        untrusted.parse(text)


def test_what_just_fits():
    assert untrusted.parse("[" * 32 + "]" * 32)
    assert untrusted.parse(str(2**64)) == 2**64
    assert untrusted.parse('"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize("text", ["[]", "1", '"a"', "null"])
def test_no_object(text):
    with pytest.raises(untrusted.JsonError, match="no JSON object"):
        untrusted.parse_object(text)


def test_a_message_repeats_little():
    loop: list[object] = []
    loop.append(loop)
    for value in ("x" * 10_000, 10**5000, loop, ["y"] * 1000, math.nan, "a\nb\ud800", None):
        text = untrusted.shown(value)
        assert len(text) <= 200 and "\n" not in text
        text.encode()
    assert untrusted.shown("plain") == "plain"
