"""The measures: known answers on constructed clips, and the right order on scenes made worse step by step."""
import math

import numpy as np
import pytest
import torch

from ivmixed.clips.media import as_frames
from ivmixed.measures.pixels import flicker, frame_distance, frame_features, motion, sharpness, warping_error
from ivmixed.standalone.box.scenes import Scene, random_scene, render


def scene(seed, frames=8):
    return as_frames(render(random_scene(torch.Generator().manual_seed(seed)), frames)).astype(float)


def scenes(seeds):
    """Frames of many clips, three of each."""
    return np.concatenate([scene(seed, 12)[::5] for seed in seeds])


def blurred(clip, sigma):
    reach = np.arange(-8, 9)
    kernel = np.exp(-reach**2 / (2 * sigma**2)) if sigma else (reach == 0).astype(float)
    kernel /= kernel.sum()
    padded = np.pad(clip, ((0, 0), (8, 8), (8, 8), (0, 0)), mode="edge")
    rows = sum(w * padded[:, k:k + clip.shape[1]] for k, w in enumerate(kernel))
    return sum(w * rows[:, :, k:k + clip.shape[2]] for k, w in enumerate(kernel))


def faint(clip, contrast):
    return 128 + contrast * (clip - 128)


def noisy(clip, level):
    return clip + np.random.default_rng(0).normal(0, level, clip.shape)


def moving_texture(speed, frames=5, size=64, share=1.0):
    """Smooth noise that moves right over the left ``share`` of a still clip; whole pixels a frame."""
    texture = blurred(np.random.default_rng(1).uniform(0, 255, (1, size, size * 2, 1)).repeat(3, axis=3), 3)[0]
    texture = (texture - texture.mean()) * 8 + 128
    clip = np.stack([texture[:, size - speed * k:2 * size - speed * k] for k in range(frames)])
    clip[:, :, round(share * size):] = clip[:1, :, round(share * size):]
    return clip


# --- sharpness

def test_sharpness_of_a_chequerboard():
    """The Laplacian of 100 and 0 in turns is -400 and 400, of variance 160,000."""
    board = np.indices((18, 18)).sum(axis=0) % 2 * 100
    assert sharpness(np.stack([board] * 3, axis=-1)[None].astype(np.uint8)) == pytest.approx(160_000)


def test_sharpness_is_the_mean_over_frames_and_that_of_luma():
    board = np.indices((18, 18)).sum(axis=0) % 2 * 100.0
    clip = np.zeros((2, 18, 18, 3))
    clip[0, :, :, 1] = board
    assert sharpness(clip) == pytest.approx(160_000 * 0.587**2 / 2)


def test_a_ramp_has_no_sharpness():
    assert sharpness(np.indices((1, 32, 32, 3))[2] * 3.0) == pytest.approx(0)


def test_blur_lowers_sharpness():
    values = [sharpness(blurred(scene(0), sigma)) for sigma in (0, 0.4, 0.8, 1.6)]
    assert values == sorted(values, reverse=True) and values[-1] < 0.1 * values[0]


# --- flicker

def test_flicker_of_known_steps():
    clip = np.zeros((3, 16, 16, 3), np.uint8)
    clip[1], clip[2] = 30, 20  # 30 up, 10 down, and no wrap-around of uint8
    assert flicker(clip) == pytest.approx(20)
    clip[1, :, :8] = 0
    assert flicker(clip) == pytest.approx((15 + 15) / 2)


def test_a_still_has_neither_flicker_nor_motion():
    still = scene(0)[:1].repeat(4, axis=0)
    assert flicker(still) == 0 and motion(still) == 0


# --- motion

@pytest.mark.parametrize("speed, share", [(1, 0.4), (2, 1.0), (3, 0.4), (4, 1.0)])
def test_motion_of_a_texture(speed, share):
    assert motion(moving_texture(speed, share=share)) == pytest.approx(speed, abs=0.3)


def test_motion_is_in_pixels_of_the_clip():
    large = moving_texture(2).repeat(4, axis=1).repeat(4, axis=2)
    assert motion(large) == pytest.approx(8, abs=4 * 0.3)


def test_motion_of_a_very_small_thing_counts_in_part():
    """Of a thing that fills about half of the 5%, about half of the speed is left: an amount, not a speed alone."""
    clip = moving_texture(2)
    clip[:, 10:] = clip[:1, 10:]
    clip[:, :, 16:] = clip[:1, :, 16:]
    assert 0.4 < motion(clip) < 1.4


def test_motion_of_scenes():
    """A few of them have stripes that fool every optical flow: across the motion, and less than three steps apart."""
    ratios = []
    for seed in range(16):
        drawn: Scene = random_scene(torch.Generator().manual_seed(seed))
        if drawn.motion == "bounces":
            heights = [drawn.speed * abs(math.sin(math.pi * (k / 8 + drawn.phase))) for k in range(8)]
            speed = np.abs(np.diff(heights)).mean()
        else:
            speed = abs(drawn.speed) * (drawn.radius if drawn.motion == "turns" else 1)
        ratios.append(motion(scene(seed)) / speed)
    assert np.median(ratios) == pytest.approx(1, abs=0.1)
    assert np.mean(np.abs(np.array(ratios) - 1) < 0.35) >= 0.85


def test_noise_and_flicker_are_not_motion():
    still = scene(0)[:1].repeat(6, axis=0)
    assert motion(noisy(still, 8)) < 0.1
    assert motion(still + np.arange(6).reshape(-1, 1, 1, 1) % 2 * 20) < 0.1


def test_blur_contrast_and_noise_hardly_change_motion():
    clip = scene(0)
    for worse in (blurred(clip, 1), faint(clip, 0.5), noisy(clip, 5)):
        assert motion(worse) == pytest.approx(motion(clip), rel=0.2)


# --- warping error

@pytest.mark.parametrize("speed, share", [(1, 1.0), (2, 0.4), (3, 1.0), (4, 0.4)])
def test_motion_alone_is_no_warping_error(speed, share):
    clip = moving_texture(speed, share=share)
    assert warping_error(clip) < 0.08 * flicker(clip)


def test_a_still_has_no_warping_error():
    assert warping_error(scene(0)[:1].repeat(4, axis=0)) == 0


def test_what_is_covered_and_uncovered_hardly_counts():
    """Shapes on a ground: nearly all of their flicker is at their edges."""
    clips = [scene(seed) for seed in range(4)]
    assert sum(map(warping_error, clips)) < 0.25 * sum(map(flicker, clips))


@pytest.mark.parametrize("level", [2, 10])
def test_noise_counts_in_full_with_motion_or_without(level):
    alone = flicker(noisy(np.full((8, 64, 64, 3), 128.0), level))
    assert alone == pytest.approx(level * 2 / math.sqrt(math.pi), rel=0.02)
    for clip in (scene(0), scene(0)[:1].repeat(8, axis=0)):
        assert warping_error(noisy(clip, level)) == pytest.approx(alone, rel=0.05)


@pytest.mark.parametrize("step", [5, 20])
def test_light_that_goes_up_and_down_counts_in_full(step):
    assert warping_error(scene(0) + np.arange(8).reshape(-1, 1, 1, 1) % 2 * step) == pytest.approx(step, rel=0.05)


def test_jitter_and_cuts_count():
    shifts = np.random.default_rng(0).integers(-2, 3, (8, 2))
    shaken = np.stack([np.roll(frame, shift, (0, 1)) for frame, shift in zip(scene(0), shifts)])
    assert warping_error(shaken) > 10 * warping_error(scene(0))
    cuts = np.stack([scene(seed)[0] for seed in range(4)])
    assert warping_error(cuts) > 0.5 * flicker(cuts)


# --- distance of frames

REAL = scenes(range(100, 130))


def test_distance_to_the_same_frames_is_zero_in_any_order():
    assert frame_distance(REAL, REAL) == 0
    assert frame_distance(REAL[::-1], REAL) == pytest.approx(0, abs=1e-9)


def test_other_scenes_are_near():
    good = scenes(range(20))
    assert 0 < frame_distance(good, REAL) < 0.1 * frame_distance(blurred(good, 0.8), REAL)


@pytest.mark.parametrize("worse", [
    [blurred(REAL, sigma) for sigma in (0, 0.4, 0.6, 0.8, 1.2, 2)],
    [faint(REAL, contrast) for contrast in (1, 0.9, 0.7, 0.5, 0.3, 0)],
    [noisy(REAL, level) for level in (0, 2, 5, 10, 20)],
], ids=["blur", "contrast", "noise"])
def test_the_worse_the_farther(worse):
    distances = [frame_distance(clip, REAL) for clip in worse]
    assert all(before < after for before, after in zip(distances, distances[1:]))


def test_halved_contrast_is_an_octave():
    """Crispness and slope stay; the grey level that is added takes a little."""
    moved = (frame_features(REAL) - frame_features(faint(REAL, 0.5))).mean(axis=0)
    assert moved == pytest.approx([1, 1, 0, 0], abs=0.15)


def test_a_flat_clip_is_finite():
    assert math.isfinite(frame_distance(np.zeros((2, 16, 16, 3), np.uint8), np.full((3, 16, 16, 3), 9, np.uint8)))


# --- what is refused

@pytest.mark.parametrize("clip", [np.zeros((2, 3, 16, 16)), np.zeros((16, 16, 3)), np.zeros((2, 8, 16, 3))])
@pytest.mark.parametrize("measure", [sharpness, flicker, motion, warping_error, frame_features])
def test_what_is_no_clip_is_refused(measure, clip):
    with pytest.raises(ValueError, match=r"clip of shape .*; needed: \(frames, height, width, 3\)"):
        measure(clip)


@pytest.mark.parametrize("measure", [flicker, motion, warping_error])
def test_one_frame_has_no_time(measure):
    with pytest.raises(ValueError, match="frames at least 2"):
        measure(np.zeros((1, 16, 16, 3)))
