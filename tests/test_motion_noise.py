"""The noise that clips begin with: FreeNoise and FreeInit, against diffusers' own and by their statistics."""
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivmixed.controls import FILTERS
from ivmixed.motion.noise import low_pass, mixed, order, sample_again

diffusers = pytest.importorskip("diffusers")

from diffusers import DDIMScheduler  # noqa: E402
from diffusers.pipelines.free_init_utils import FreeInitMixin  # noqa: E402
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin  # noqa: E402


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("frames, context, shift", [(24, 16, 4), (40, 16, 12), (33, 8, 3), (17, 16, 16), (9, 16, 4)])
def test_freenoise_is_that_of_diffusers(frames, context, shift):
    theirs = SimpleNamespace(
        vae_scale_factor=8, _free_noise_context_length=context, _free_noise_context_stride=shift,
        _free_noise_noise_type="shuffle_context")
    latents = AnimateDiffFreeNoiseMixin._prepare_latents_free_noise(
        theirs, 1, 4, frames, 16, 16, torch.float32, torch.device("cpu"), generator())
    drawing = generator()
    noise = torch.randn(1, 4, frames, 2, 2, generator=drawing)
    assert torch.equal(noise[:, :, order("freenoise", frames, context, shift, drawing)], latents)


def test_repeated_noise_and_each_its_own():
    assert order("repeat", 7, 3, 2, generator()) == [0, 1, 2, 0, 1, 2, 0]
    assert order("random", 7, 3, 2, generator()) == [0, 1, 2, 3, 4, 5, 6]


@given(frames=st.integers(1, 200), context=st.integers(1, 32), data=st.data(), seed=st.integers(0, 2**32))
def test_windows_share_the_noise_of_the_first_in_another_order(frames, context, data, seed):
    shift = data.draw(st.integers(1, context))
    rows = order("freenoise", frames, context, shift, generator(seed))
    assert rows[:context] == list(range(min(frames, context)))
    for start in range(0, frames - context + 1, shift):
        assert sorted(rows[start:start + context]) == list(range(context))


def test_shuffled_noise_has_variance_1_and_other_frames_are_apart():
    noise = torch.randn(64, 4, 16, 16, generator=generator())
    made = noise[order("freenoise", 64, 16, 12, generator())]
    assert made.var().item() == pytest.approx(1, abs=0.02) and made.mean().abs() < 0.02
    orders = {tuple(order("freenoise", 64, 16, 12, generator(seed))) for seed in range(8)}
    assert len(orders) == 8
    assert any(order("freenoise", 64, 16, 12, generator())[k:k + 16] != list(range(16)) for k in (12, 24, 36, 48))


@pytest.mark.parametrize("noise, context, shift", [("white", 8, 2), ("freenoise", 8, 9), ("repeat", 8, 0)])
def test_what_is_out_of_range_is_refused(noise, context, shift):
    with pytest.raises(ValueError, match=r"white|shift = "):
        order(noise, 20, context, shift, generator())


# --- FreeInit

def theirs(filter, latents, noise, fresh, scheduler=None):
    """diffusers' noise for the second pass, (frames, channels, height, width)."""
    mixin = FreeInitMixin()
    mixin.enable_free_init(num_iters=2, method=filter)
    mixin.scheduler = scheduler or DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    clips = [part.transpose(0, 1)[None] for part in (noise, latents)]
    mixin._apply_free_init(clips[0], 0, 5, torch.device("cpu"), torch.float32, None)
    drawing = generator(9)
    made, _ = mixin._apply_free_init(clips[1], 1, 5, torch.device("cpu"), torch.float32, drawing)
    return made[0].transpose(0, 1)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("frames, height, width", [(16, 8, 8), (8, 12, 16)])
def test_free_init_is_that_of_diffusers(filter, frames, height, width):
    noise, latents = torch.randn(2, frames, 4, height, width, generator=generator()).unbind()
    fresh = torch.randn(1, 4, frames, height, width, generator=generator(9))[0].transpose(0, 1)
    seen = []

    def sample(given):
        seen.append(given)
        return latents

    abar = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear").alphas_cumprod[-1].item()
    assert sample_again(sample, noise, 2, fresh=lambda: fresh, abar=abar, filter=filter) is latents
    assert seen[0] is noise
    torch.testing.assert_close(seen[1], theirs(filter, latents, noise, fresh), rtol=0, atol=2e-6)


def test_one_pass_is_the_sampling_itself_and_a_stop_ends_it():
    noise = torch.randn(4, 4, 8, 8, generator=generator())
    calls = []

    def sample(given):
        calls.append(given)
        return given + 1

    never = None  # not called
    assert torch.equal(sample_again(sample, noise, 1, fresh=never, abar=0.01), noise + 1)
    sample_again(sample, noise, 5, fresh=lambda: noise, abar=0.01, stopped=lambda: len(calls) == 3)
    assert len(calls) == 3 and all(given is noise for given in calls[:2])


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("size", [(7, 9, 5), (16, 8, 8)])
def test_a_clip_with_itself_is_itself_and_low_frequencies_stay(filter, size):
    x = torch.randn(size[0], 4, *size[1:], generator=generator())
    torch.testing.assert_close(mixed(x, x, filter), x, rtol=0, atol=2e-6)
    share = low_pass(*size, filter)
    assert share[0, 0, 0, 0] == 1 and share.min() >= 0 and share.max() <= 1
    still = x.mean((0, 2, 3), keepdim=True)
    torch.testing.assert_close(mixed(still.expand_as(x), x, filter).mean((0, 2, 3)), still.flatten(), rtol=0, atol=1e-6)


def test_noise_of_two_passes_has_nearly_variance_1():
    """The paper's own: where both are independent, the filter's frequencies have a little less."""
    low, high = torch.randn(2, 16, 4, 32, 32, generator=generator()).unbind()
    share = low_pass(16, 32, 32)
    assert mixed(low, high).var().item() == pytest.approx(1, abs=0.03)
    assert share[0, 0, 8, 0].item() == pytest.approx(1 / (1 + 4.0**4), rel=1e-5)  # half of the largest frequency
