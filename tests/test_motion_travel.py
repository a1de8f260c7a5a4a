"""Prompt travel against AnimateDiff's WebUI extension (tests/vectors/motion), and the blend against its formula."""
import json
import math
from pathlib import Path

import pytest
import torch

from ivmixed.motion import Travel, TravelError

RECORDED = json.loads((Path(__file__).parent / "vectors" / "motion" / "travel.json").read_text())


@pytest.mark.parametrize("text, length, expected", RECORDED)
def test_prompts_and_weights_are_those_of_the_extension(text, length, expected):
    travel = Travel.parse(text, length)
    if expected is None:
        assert travel is None
        return
    assert travel.frames == tuple(expected["frames"])
    assert travel.prompts == tuple(expected["prompts"])
    for closed in (False, True):
        for ours, theirs in zip(travel.weights(length, closed), expected["closed" if closed else "open"], strict=True):
            assert ours[2] == pytest.approx(theirs[2], abs=1e-12)
            # where nothing is gone of the way, its end does not count
            assert ours[:2] == tuple(theirs[:2]) or (ours[0] == theirs[0] and ours[2] == 0)


def test_the_parts_of_the_text():
    travel = Travel.parse("best quality\n\n0:a seed\n8: a tree, (blossom:1.2)\r\nsoft light\nend", 16)
    assert travel.frames == (0, 8)
    assert travel.prompts == ("best quality, , a seed, soft light, end",
                              "best quality, , a tree, (blossom:1.2), soft light, end")
    assert Travel.parse("one prompt\nof 2: lines", 16) is None


@pytest.mark.parametrize("text, words", [
    ("0: a\n16: b", "line 2 .'16: b'. gives frame 16 of a clip with frames 0 to 15"),
    ("8: a\n4: b", "line 2 .'4: b'. gives frame 4 after frame 8; let frames ascend"),
    ("8: a\n8: b", "gives frame 8 after frame 8"),
    ("9" * 5000 + ": a", "gives a frame of 5000 digits; the clip's are 0 to 15"),
    ("head\n0: a\ntail\n4: b", "line 4 .'4: b'. gives a frame after the tail has begun"),
    ("0: a\n4:  ", "line 2 .'4:'. has no prompt; write"),
])
def test_what_is_no_prompt_travel_is_refused_with_its_line(text, words):
    with pytest.raises(TravelError, match=words):
        Travel.parse(text, 16)


def arc(a, b, t):
    """Along the arc from a to b, in plain numbers."""
    size = [math.sqrt(sum(x * x for x in v)) for v in (a, b)]
    angle = math.acos(sum(x * y for x, y in zip(a, b)) / size[0] / size[1])
    return [(math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle) for x, y in zip(a, b)]


@pytest.mark.parametrize("closed", [False, True])
def test_the_blend_runs_along_the_arc(closed):
    travel = Travel((2, 5, 9), ("a", "b", "c"))
    encoded = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    made = travel.blend(encoded, 12, closed)
    assert made.shape == (12, 4, 6)
    for frame, (one, other, t) in enumerate(travel.weights(12, closed)):
        ends = (encoded[k].flatten().tolist() for k in (one, other))
        expected = encoded[one].flatten().tolist() if one == other else arc(*ends, t)
        assert made[frame].flatten().tolist() == pytest.approx(expected, abs=1e-5)
    held = (0, 1, 2, 9, 10, 11)
    if not closed:
        assert all(torch.equal(made[frame], encoded[0 if frame < 5 else 2]) for frame in held[:2] + held[3:])
    else:
        assert not torch.equal(made[0], encoded[0]) and not torch.equal(made[11], encoded[2])


def test_prompts_that_are_all_but_the_same_are_blended_along_a_line():
    a = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    encoded = torch.cat([a, 1.001 * a])
    made = Travel((0, 4), ("a", "b")).blend(encoded, 5)
    torch.testing.assert_close(made[1:2], 1.00025 * a, rtol=0, atol=1e-6)
    same = Travel((0, 4), ("a", "b")).blend(torch.cat([a, a]), 5)
    torch.testing.assert_close(same, a.expand(5, -1, -1), rtol=0, atol=1e-6)


def test_half_precision_stays_and_an_empty_encoding_harms_nothing():
    encoded = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).half()
    made = Travel((0, 4), ("a", "b")).blend(encoded, 6)
    assert made.dtype == torch.float16 and made.isfinite().all()
    assert torch.equal(Travel((3,), ("a",)).blend(torch.zeros(1, 4, 6), 5), torch.zeros(5, 4, 6))
