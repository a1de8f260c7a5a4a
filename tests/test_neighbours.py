"""Self-attention of the image model that sees other frames."""
from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ivmixed import OptionError, Options, make_plan
from ivmixed.neighbours import attending, check_attention
from ivmixed.options import ATTENTIONS
from ivmixed.standalone.denoiser import image_view
from tests import tiny
from tests.attention import Attention
from tests.ldm_unet import LdmUNet

FRAMES = 4
LEVELS = [8.0, 4.0, 2.0, 1.0, 0.0]


class Network(torch.nn.Module):
    """One layer of self-attention; ``tiles``: parts of a picture that are attended to by themselves."""

    def __init__(self, tiles=1):
        super().__init__()
        torch.manual_seed(0)
        self.block, self.tiles = torch.nn.Module(), tiles
        self.block.attn1 = Attention()

    def forward(self, x):
        tiled = x.unflatten(1, (self.tiles, -1)).flatten(0, 1)
        return self.block.attn1(tiled).unflatten(0, (-1, self.tiles)).flatten(1, 2)


def tokens(sets=2, clips=1, seed=1):
    """(sets x frames x clips, tokens, width)."""
    return torch.randn(sets * FRAMES * clips, 6, 4, generator=torch.Generator().manual_seed(seed))


def seen_by(frame, sees):
    """The frames whose keys stand beside each other."""
    return {"first": [frame, 0], "neighbours": [frame, max(frame - 1, 0), min(frame + 1, FRAMES - 1)]}[sees]


@torch.no_grad()
def by_hand(attention, x, sees):
    """Frame by frame, of one clip (frames, tokens, width)."""
    def of(layer, frames):
        return layer(torch.cat([x[frame] for frame in frames])).unflatten(-1, (2, 2)).transpose(0, 1)
    return torch.stack([scaled_dot_product_attention(
        of(attention.to_q, [frame]), of(attention.to_k, seen_by(frame, sees)), of(attention.to_v, seen_by(frame, sees)),
    ).transpose(0, 1).flatten(1) for frame in range(FRAMES)])


@pytest.mark.parametrize("sees", ["neighbours", "first"])
@pytest.mark.parametrize("clips", [1, 3])
@torch.no_grad()
def test_a_frame_sees_its_clips_frames_and_no_others(sees, clips):
    network, x = Network(), tokens(clips=clips)
    with attending(network, sees, FRAMES, clips):
        seen = network(x).view(2, FRAMES, clips, 6, 4)
    for number, own in enumerate(x.view(2, FRAMES, clips, 6, 4).transpose(1, 2).flatten(0, 1)):
        torch.testing.assert_close(seen.transpose(1, 2).flatten(0, 1)[number], by_hand(network.block.attn1, own, sees))
    assert (seen.flatten(0, 2) - network(x)).abs().max() > 1e-2


@pytest.mark.parametrize("sees", ["neighbours", "first"])
@torch.no_grad()
def test_a_tile_sees_the_same_tile(sees):
    """As extensions part a picture in self-attention, HyperTile say."""
    network, x = Network(tiles=2), tokens(sets=1)
    with attending(network, sees, FRAMES):
        seen = network(x)
    for part in (slice(0, 3), slice(3, 6)):
        torch.testing.assert_close(seen[:, part], by_hand(network.block.attn1, x[:, part], sees))


@pytest.mark.parametrize("sees", ["neighbours", "first"])
@torch.no_grad()
def test_frames_that_are_alike_see_nothing_new(sees):
    network, x = Network(), tokens(sets=1)[:1].expand(FRAMES, -1, -1)
    with attending(network, sees, FRAMES):
        torch.testing.assert_close(network(x), Network()(x))


def hooks(network):
    return [(name, kind) for name, layer in network.named_modules()
            for kind in ("_forward_hooks", "_forward_pre_hooks") if getattr(layer, kind)]


@torch.no_grad()
def test_afterwards_it_is_as_before_also_after_errors():
    network, x = Network(), tokens()
    own = network(x)
    with pytest.raises(KeyboardInterrupt), attending(network, "first", FRAMES):
        assert hooks(network)
        raise KeyboardInterrupt
    assert not hooks(network) and torch.equal(network(x), own)
    with attending(network, "own", FRAMES):
        assert not hooks(network) and torch.equal(network(x), own)


@torch.no_grad()
def test_what_it_cannot_act_on_is_refused():
    network = Network()
    with pytest.raises(OptionError, match="image_attention = 'first' has no meaning for 7 rows of 4 frames"), \
            attending(network, "first", FRAMES):
        network(tokens()[:7])
    with pytest.raises(OptionError, match=r"has no effect here.*TensorRT"), attending(network, "first", FRAMES):
        pass
    assert not hooks(network)


@torch.no_grad()
def test_a_compiled_network_is_no_other():
    network, x = Network(), tokens()
    compiled = torch.compile(network, backend="eager")
    own = compiled(x)
    with attending(network, "neighbours", FRAMES):
        seen = compiled(x)
        assert torch.equal(seen, network(x))
    assert torch.equal(compiled(x), own) and not torch.equal(seen, own)


@torch.no_grad()
def test_both_layouts_of_a_real_unet_see_the_same():
    """diffusers' own, and that of the WebUIs."""
    unet = image_view(tiny.animatediff().unet)
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2 * FRAMES, 4, 8, 8, generator=generator), torch.randn(2 * FRAMES, 5, 16,
                                                                                   generator=generator)
    steps = torch.full([2 * FRAMES], 500)
    other = LdmUNet(unet)
    own = unet(x, steps, context, return_dict=False)[0]
    for sees in ("neighbours", "first"):
        with attending(unet, sees, FRAMES):
            seen = unet(x, steps, context, return_dict=False)[0]
        with attending(other, sees, FRAMES):
            torch.testing.assert_close(other(x, steps, context), seen)
        assert (seen - own).abs().max() > 1e-4
        if sees == "first":
            torch.testing.assert_close(seen[0], own[0])
    assert not hooks(unet)


@pytest.mark.parametrize("sees", ATTENTIONS)
def test_a_clip_longer_than_what_is_evaluated_at_once_is_refused(sees):
    plan = make_plan(Options(image_attention=sees), LEVELS)
    assert plan.image_attention == sees
    check_attention(plan, 16, 16)
    check_attention(make_plan(Options(image_attention=sees).plain(), LEVELS), 16, 8)
    if sees == "own":
        check_attention(plan, 16, 8)
        return
    with pytest.raises(OptionError, match=f"image_attention = '{sees}' cannot be used with 8 of 16 frames at once"):
        check_attention(plan, 16, 8)
