"""Prompts of the command line: emphasis, length, and what is refused."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivmixed import OptionError
from ivmixed.standalone import prompts

from . import tiny


@pytest.mark.parametrize("text, words", [
    ("a kite", [("a kite", 1)]),
    ("a (red) kite", [("a ", 1), ("red", 1.1), (" kite", 1)]),
    ("a ((red)) kite", [("a ", 1), ("red", 1.21), (" kite", 1)]),
    ("a [red] kite", [("a ", 1), ("red", 1 / 1.1), (" kite", 1)]),
    ("(red:1.3), b", [("red", 1.3), (", b", 1)]),
    ("((red:1.3) kite)", [("red", 1.43), (" kite", 1.1)]),
    ("(a (b) c:2)", [("a ", 2), ("b", 2.2), (" c", 2)]),
    ("(red: -.5)", [("red", -0.5)]),
    (r"a \(red\) \[kite\]", [("a (red) [kite]", 1)]),
    ("a (red", [("a ", 1), ("red", 1.1)]),
    ("red) kite]", [("red) kite]", 1)]),
    ("(12:30)", [("12", 30)]),
    ("at 12:30", [("at 12:30", 1)]),
    ("a BREAK b", [("a ", 1), ("BREAK", -1), (" b", 1)]),
    ("(a BREAK b:1.5)", [("a ", 1.5), ("BREAK", -1), (" b", 1.5)]),
    ("BREAKFAST", [("BREAKFAST", 1)]),
    ("", []),
])
def test_the_parts_and_weights_of_a_prompt(text, words):
    parsed = prompts.parse(text)
    assert [part for part, _ in parsed] == [part for part, _ in words]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in words])


@pytest.mark.parametrize("text, words", [
    ("a kite <lora:style:0.8>", "--lora"), ("<LORA:x>", "--lora"), ("<hypernet:x:1>", "no extra networks"),
    ("0: a seed\n8: a tree", "prompt travel"), ('"0": "a"', "prompt travel"), ("head\n 4 : b", "prompt travel"),
    ("0: a, 8: b", "prompt travel"), ("a AND b", "joined by AND"), ("[a:b:0.5]", "prompt editing"),
    ("[a|b]", "prompt editing"), ("embedding:bad", "textual inversions"), ("(x:999)", "weights lie between"),
    ("(x:" + "9" * 5000 + ")", "weights lie between"), ("(" * 100, "brackets inside"),
])
def test_what_is_no_description_is_refused_with_what_to_do(text, words):
    with pytest.raises(OptionError) as refusal:
        prompts.check("prompt", text)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@given(st.text(alphabet=r"ab ,:.(1)[]\\|<>BREAK" + "\n", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        prompts.check("prompt", text)
    except OptionError:
        return
    assert all(abs(weight) <= prompts.MOST for _, weight in prompts.parse(text))


@pytest.fixture(scope="module")
def pipeline():
    """Its text encoder's answers have a mean, as a trained one's have: a random one's is rounding about 0."""
    pipeline = tiny.stable_diffusion()
    for name, parameter in pipeline.text_encoder.named_parameters():
        if name.endswith("final_layer_norm.bias"):
            parameter.data.fill_(0.5)
    return pipeline


@pytest.mark.parametrize("text", ["", "a red kite", "abcdefghij"])
def test_a_short_plain_prompt_is_what_diffusers_makes_of_it(text, pipeline):
    (ours,) = prompts.encode(pipeline, [text], torch.device("cpu"))
    theirs, _ = pipeline.encode_prompt(text, "cpu", 1, False)
    assert torch.equal(ours, theirs)


def test_longer_prompts_are_read_in_chunks_and_all_get_as_many(pipeline):
    long, short = prompts.encode(pipeline, ["abcdefghijkl", "a BREAK b"], torch.device("cpu"))

    def alone(text):
        return pipeline.encode_prompt(text, "cpu", 1, False)[0]

    assert long.shape == short.shape == (1, 24, 16)
    inside = pipeline.tokenizer("abcdefghijkl").input_ids[1:-1]
    for part, tokens in ((long[:, :12], inside[:10]), (long[:, 12:], inside[10:])):
        numbers = [52, *tokens, 53, *[53] * (10 - len(tokens))]
        assert torch.equal(part, pipeline.text_encoder(torch.tensor([numbers]))[0])
    assert torch.equal(short, torch.cat([alone("a"), alone("b")], dim=1))
    one, two = prompts.encode(pipeline, ["a", "a BREAK b"], torch.device("cpu"))
    assert torch.equal(one, torch.cat([alone("a"), alone("")], dim=1)) and torch.equal(two, short)


def test_emphasis_multiplies_and_keeps_the_mean(pipeline):
    plain, strong = (prompts.encode(pipeline, [text], torch.device("cpu"))[0] for text in ("a b", "a (b:1.5)"))
    factors = torch.tensor([1, 1, 1.5, *[1] * 9])[None, :, None]
    expected = plain * factors * (plain.mean() / (plain * factors).mean())
    torch.testing.assert_close(strong, expected)
    assert strong.mean().item() == pytest.approx(plain.mean().item(), rel=1e-4)


class Letters:
    """A token a letter."""

    model_max_length, unk_token_id = 12, 0

    def convert_tokens_to_ids(self, token):
        return ord(token[0])

    def __call__(self, text, **_):
        return type("Encoded", (), {"input_ids": [ord(letter) for letter in text]})


@pytest.mark.parametrize("text, parts", [
    ("abcdefghijklm", ["abcdefghij", "klm"]),
    ("abcd,efghijkl", ["abcd,", "efghijkl"]),
    ("abcdefghi,jk", ["abcdefghi,", "jk"]),
    ("abcdefghij,k", ["abcdefghij", ",k"]),
    ("ab,cdefghijkl,mnopqrstu", ["ab,", "cdefghijkl", ",mnopqrstu"]),
])
def test_a_chunk_ends_at_a_comma_that_is_near(text, parts):
    found = prompts.chunks(Letters(), ((text, 1.0),))
    assert ["".join(map(chr, tokens)) for tokens, _ in found] == parts
    assert all(len(tokens) == len(weights) for tokens, weights in found)
