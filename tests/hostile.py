"""What strangers may send: values and JSON texts of every wrong kind, for the borders' property tests."""
from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

LEAVES = [
    None, True, False, 0, 1, -1, 7.5, 1e308, math.nan, math.inf, -math.inf, 10**400, -10**4000, "", "IV-IV", "<b>",
    "0=6 50=2", "512x512", "nan", "1e999", "9" * 5000, "\ud800", "a\0b", "x" * 30_000, "4 to 6",
]
"""Numbers beyond a float, half a surrogate pair, texts that are too long."""

LEAF_TEXTS = [
    "null", "true", "0", "1", "25", "-1", "7.5", "1e999", "NaN", "-Infinity", "1" + "0" * 400, "1" + "0" * 5000,
    r'"\ud800"', '"IV-IV"', '"IV-mixed"', '"Karras"', '""', json.dumps("x" * 30_000), "[" * 200 + "]" * 200, "{", "[1,",
    "[]", "{}", "[4, 2]", "'a'",
]
"""The same as JSON, some of it broken; and a number beyond the digits that Python prints."""


def values(names: list[str]) -> st.SearchStrategy[Any]:
    """Any Python value; keys of its objects are often ``names``."""
    return st.recursive(
        st.sampled_from(LEAVES) | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names(names), inner, max_size=3), max_leaves=6)


def texts(names: list[str]) -> st.SearchStrategy[str]:
    """Any JSON text, of an object mostly."""
    def member(pair: tuple[str, str]) -> str:
        return f"{json.dumps(pair[0])}: {pair[1]}"

    def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.lists(st.tuples(_names(names), inner).map(member), max_size=3).map(
            lambda members: f"{{{', '.join(members)}}}")

    inside = st.recursive(st.sampled_from(LEAF_TEXTS), lambda inner: objects(inner) | st.lists(inner, max_size=3).map(
        lambda parts: f"[{', '.join(parts)}]"), max_leaves=5)
    return objects(inside) | inside


def _names(names: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([*names, *names, "", "\ud800", "n" * 3000, "other"])


def assert_in_words(message: str) -> None:
    """One line that can be shown, and repeats little of what was sent."""
    assert "\n" not in message and len(message) < 1500
    message.encode()
