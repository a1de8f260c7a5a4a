"""The settings of a clip: what is taken, what is refused, and back from JSON."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivmixed import OptionError, Options
from ivmixed.standalone import Settings
from ivmixed.standalone.settings import BOX

sides = st.integers(1, 128).map(lambda eighth: 8 * eighth)


@given(st.builds(
    Settings, prompt=st.text(), negative_prompt=st.text(), frames=st.none() | st.integers(1, 1024),
    size=st.none() | st.tuples(sides, sides), fps=st.floats(0.1, 240), steps=st.integers(1, 1000),
    cfg=st.none() | st.floats(0, 100), seed=st.none() | st.integers(0, 2**63 - 2),
    checkpoint=st.sampled_from([BOX, "a.safetensors", "/b/c"]),
    image_lora=st.lists(st.tuples(st.sampled_from(["x.pt", "C:/y.pt"]), st.floats(-10, 10)), max_size=2),
    loop=st.sampled_from(["", "animatediff"]), options=st.builds(Options, gamma_go=st.floats(0, 30))))
def test_round_trip_through_json(settings):
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize("field, value, text", [
    ("size", (512, 768), "512x768"), ("frames", 16, "16"), ("cfg", 7.5, "7.5"), ("seed", 1, "1"), ("fps", 12.5, "12.5"),
    ("image_lora", (("x.pt", 0.8),), "x.pt:0.8"), ("image_lora", (("x.pt", 1.0),), "x.pt"),
    ("image_lora", (("x.pt", -0.5), ("y.pt", 1.0)), ["x.pt:-0.5", "y.pt"]),
])
def test_text_of_a_command_line_is_the_value(field, value, text):
    words = text if isinstance(text, list) else [text]
    assert getattr(Settings(**{field: value}), field) == Settings.option(field).from_words(words)


def test_paths_are_kept_absolute_and_the_box_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = Settings(checkpoint="a.safetensors", motion_module=Path("b.ckpt"), image_lora=["c.pt:0.5"])
    assert settings.checkpoint == str(tmp_path / "a.safetensors")
    assert settings.motion_module == str(tmp_path / "b.ckpt")
    assert settings.image_lora == ((str(tmp_path / "c.pt"), 0.5),)
    assert Settings().checkpoint == BOX


@pytest.mark.parametrize("field, value", [
    ("size", "512"), ("size", "100x64"), ("size", (512, 0)), ("size", "8x8x8"), ("size", 512), ("frames", 0),
    ("frames", 1025), ("frames", 2.5), ("frames", True), ("steps", 0), ("steps", "x"), ("cfg", -1), ("cfg", "nan"),
    ("fps", 0), ("seed", -1), ("seed", "abc"), ("precision", "fp8"), ("loop", "other"),
    ("image_lora", "x.pt:11"), ("image_lora", 5), ("checkpoint", ""), ("prompt", 5),
    ("solver", "heun"),
    ("checkpoint", None), ("image_chunk", 0), ("checkpoint", "a\0b"), ("vae", "~no-such-user/x"), ("zero_snr", 1),
    ("zero_snr", "on"), ("steps", "25"),
    ("zero_snr", "yes"), ("prediction", "x0"), ("lora", [{"a": 1}]), ("lora", [["a"]]), ("lora", [None]), ("lora", {}),
])
def test_wrong_values_are_refused_by_name(field, value):
    with pytest.raises(OptionError) as refusal:
        Settings(**{field: value})
    assert refusal.value.field == field and refusal.value.allowed == Settings.option(field).allowed
    assert repr(value) in str(refusal.value)


@pytest.mark.parametrize("field, value", [
    ("prompt", "\ud800"), ("prompt", "a" * 20_001), ("checkpoint", "\udcff.ckpt"), ("checkpoint", "a" * 5000),
    ("cfg", 10**400), ("frames", "9" * 5000), ("lora", ["a"] * 65)])
def test_what_no_file_or_number_can_hold_is_refused(field, value):
    with pytest.raises(OptionError) as refusal:
        Settings(**{field: value})
    assert refusal.value.field == field


def test_switches_are_on_or_off_on_a_command_line():
    assert [Settings.option("zero_snr").from_words([word]) for word in ("on", "off")] == [True, False]
    assert [Settings(zero_snr=value).zero_snr for value in (True, False, None)] == [True, False, None]


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(OptionError, match="did you mean prompt"):
        Settings.from_dict({"promt": "a kite"})
    with pytest.raises(OptionError, match="gamma_go"):
        Settings(options={"gama_go": 4})
