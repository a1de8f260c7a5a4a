"""The box world: scenes are what their captions say, and the checker reads that off the pixels or calls it unclear."""
import dataclasses
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ivmixed.standalone.box.checker import Reading, obeys, read
from ivmixed.standalone.box.scenes import CAPTIONS, COLOURS, MOTIONS, SHAPES, SIZE, random_scene, render

WORDS = ("colour", "shape", "motion")
UNCLEAR = Reading(None, None, None)
OPPOSITE = {"moves right": "moves left", "moves left": "moves right",
            "moves up": "moves down", "moves down": "moves up"}

seeds = st.integers(0, 2**31)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def uniform(generator, low, high):
    return low + (high - low) * float(torch.rand((), generator=generator))


def blurred(clip, sigma):
    offsets = torch.arange(-5, 6)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(clip.shape[1], 1, 1, -1)
    clip = torch.nn.functional.pad(clip, (5, 5, 5, 5), mode="replicate")
    for turned in (kernel, kernel.mT):
        clip = torch.nn.functional.conv2d(clip, turned, groups=clip.shape[1])
    return clip


def compressed(clip, quality):
    frames = []
    for frame in (clip.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=quality)
        frames.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


def degraded(clip, generator):
    """Blur of 1.0 to 1.4 pixels, contrast of 0.55 to 0.75 about mid-grey, JPEG of quality 25 to 40."""
    clip = blurred(clip, uniform(generator, 1.0, 1.4))
    clip = 0.5 + uniform(generator, 0.55, 0.75) * (clip - 0.5)
    return compressed(clip, int(uniform(generator, 25, 41)))


def blank(scene):
    """The scene without its object: that lies far outside of the frame."""
    return dataclasses.replace(scene, centre=(-500.0, scene.centre[1]))


def shares(pairs):
    """How often each word is read right, how often all three are, and how often any is read wrong (not: unclear)."""
    right = {word: sum(getattr(scene, word) == getattr(reading, word) for scene, reading in pairs) for word in WORDS}
    right["caption"] = sum(reading.caption == scene.caption for scene, reading in pairs)
    right["wrong"] = sum(any(getattr(reading, word) not in (None, getattr(scene, word)) for word in WORDS)
                         for scene, reading in pairs)
    return {word: count / len(pairs) for word, count in right.items()}


# Scenes ------------------------------------------------------------------------------------------------------------

def test_captions_are_every_combination_and_each_can_be_drawn():
    assert len(set(CAPTIONS)) == len(CAPTIONS) == len(COLOURS) * len(SHAPES) * len(MOTIONS) == 144
    for caption in CAPTIONS:
        scene = random_scene(seeded(0), caption)
        assert scene.caption == caption == f"a {scene.colour} {scene.shape} {scene.motion}"


def test_scenes_without_a_caption_cover_the_world():
    generator = seeded(1)
    assert {random_scene(generator).caption for _ in range(2000)} == set(CAPTIONS)


@pytest.mark.parametrize("caption", ["", "a red circle", "a pink circle turns", "a red circle turns "])
def test_a_caption_of_another_world_is_refused(caption):
    with pytest.raises(ValueError, match="no caption of this world") as refusal:
        random_scene(seeded(0), caption)
    assert repr(caption) in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="no caption of this world"):
        obeys(torch.zeros(12, 3, SIZE, SIZE), caption)


@given(seeds, st.integers(1, 16))
def test_render_is_a_clip_in_range_that_its_generator_determines(seed, frames):
    scene = random_scene(seeded(seed))
    assert random_scene(seeded(seed)) == scene
    clip = render(scene, frames)
    assert clip.shape == (frames, 3, SIZE, SIZE) and clip.dtype == torch.float32
    assert clip.min() >= 0 and clip.max() <= 1
    assert torch.equal(render(scene, frames), clip)
    assert torch.equal(render(scene, frames, times=range(frames)), clip)


@given(seeds)
def test_all_of_the_object_stays_in_the_frame(seed):
    scene = random_scene(seeded(seed))
    changed = (render(scene) - render(blank(scene))).abs().amax((0, 1)) > 0.02
    assert changed.any()
    assert not (changed[0].any() or changed[-1].any() or changed[:, 0].any() or changed[:, -1].any())


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_anti_aliased_and_crisp(shape):
    scene = random_scene(seeded(2), f"a white {shape} moves right")
    here, tenth, half = render(scene, times=[0.0, 0.1 / scene.speed, 0.5 / scene.speed])
    assert 0.02 < (tenth - here).abs().max() < 0.2  # the object follows a tenth of a pixel, and no pixel jumps
    assert (half - here).abs().max() < 0.7
    assert here.diff(dim=2).abs().max() > 0.35  # and still its edge is one pixel wide


@pytest.mark.parametrize("motion", MOTIONS[:4])
def test_motion_is_in_pixels_a_frame(motion):
    scene = random_scene(seeded(3), f"a green square {motion}")
    weight = (render(scene, times=[0.0, 11.0]) - render(blank(scene), times=[0.0, 11.0])).abs().sum(1)
    axis = torch.arange(SIZE) + 0.5
    x, y = ((weight * where).sum((1, 2)) / weight.sum((1, 2)) for where in (axis, axis[:, None]))
    heading = {"moves right": (1, 0), "moves left": (-1, 0), "moves up": (0, -1), "moves down": (0, 1)}[motion]
    way = [float(x[1] - x[0]), float(y[1] - y[0])]
    assert way == pytest.approx([11 * scene.speed * part for part in heading], abs=1.0)


# Readings ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def crisp():
    """Scenes, their clips and their readings: 58 captions of all colours, shapes and motions."""
    return drawn(every=5)


def drawn(every=1):
    generator = seeded(4)
    scenes = [random_scene(generator, caption) for caption in CAPTIONS * 2][::every]
    clips = [render(scene) for scene in scenes]
    return [(scene, clip, read(clip)) for scene, clip in zip(scenes, clips)]


def test_crisp_clips_are_read_right(crisp):
    share = shares([(scene, reading) for scene, _, reading in crisp])
    assert share["caption"] >= 0.98 and share["wrong"] == 0, share


def test_degraded_clips_are_read_right_or_called_unclear(crisp):
    generator = seeded(5)
    share = shares([(scene, read(degraded(clip, generator))) for scene, clip, _ in crisp[::2]])
    assert share["caption"] >= 0.95 and share["wrong"] == 0, share


@pytest.mark.thorough
def test_clips_of_every_caption_are_read_right():
    crisp, generator = drawn(), seeded(5)
    share = shares([(scene, reading) for scene, _, reading in crisp])
    assert share["caption"] >= 0.99 and share["wrong"] == 0, share
    share = shares([(scene, read(degraded(clip, generator))) for scene, clip, _ in crisp])
    assert share["caption"] >= 0.95 and share["wrong"] <= 0.02, share


def test_a_clip_obeys_its_own_caption_and_no_other(crisp):
    for scene, clip, _ in crisp[::20]:
        assert obeys(clip, scene.caption)
        others = [dataclasses.replace(scene, **{word: other}).caption
                  for word, values in zip(WORDS, (COLOURS, SHAPES, MOTIONS)) for other in values
                  if other != getattr(scene, word)]
        assert len(others) == 13
        reading = read(clip)
        assert not any(reading.caption == other for other in others)
        assert not any(obeys(clip, other) for other in others[::4])


def test_time_reversed_moves_read_as_the_opposite_and_the_rest_as_itself(crisp):
    for scene, clip, _ in crisp[:12]:
        expected = dataclasses.replace(scene, motion=OPPOSITE.get(scene.motion, scene.motion)).caption
        assert read(clip.flip(0)).caption == expected


def test_mirrored_and_transposed_moves_read_as_they_look():
    for motion, transposed in zip(MOTIONS[:4], ("moves down", "moves up", "moves left", "moves right")):
        clip = render(random_scene(seeded(6), f"a yellow circle {motion}"))
        assert read(clip.mT).caption == f"a yellow circle {transposed}"
        mirrored = OPPOSITE[motion] if motion in MOTIONS[:2] else motion
        assert read(clip.flip(3)).caption == f"a yellow circle {mirrored}"


def test_permuted_channels_read_as_the_colour_they_make():
    clip = render(random_scene(seeded(7), "a red square turns"))
    assert read(clip[:, [1, 2, 0]]).caption == "a blue square turns"
    assert read(clip[:, [2, 0, 1]]).caption == "a green square turns"


def test_a_colour_between_two_is_unclear():
    red, yellow = (render(dataclasses.replace(random_scene(seeded(8), "a red square turns"), colour=colour))
                   for colour in ("red", "yellow"))
    assert read((red + yellow) / 2) == Reading(None, "square", "turns")


def test_a_clip_of_another_brightness_reads_the_same(crisp):
    for scene, clip, _ in crisp[::9]:
        assert read(0.1 + 0.5 * clip).caption == scene.caption


def test_a_clip_that_fades_to_a_third_is_read_right_or_called_unclear(crisp):
    fade = torch.linspace(1, 0.35, 12).view(-1, 1, 1, 1)
    pairs = []
    for scene, clip, _ in crisp[::3]:
        ground = render(blank(scene))
        pairs.append((scene, read(ground + fade * (clip - ground))))
    share = shares(pairs)
    assert share["caption"] >= 0.9 and share["wrong"] == 0, share


# Unclear ------------------------------------------------------------------------------------------------------------

def test_still_clips_have_no_motion(crisp):
    generator = seeded(9)
    for scene, clip, _ in crisp[::8]:
        still = clip[6:7].expand(12, -1, -1, -1)
        assert read(still) == Reading(scene.colour, scene.shape, None)
        assert read(compressed(still + 0.02 * torch.randn(still.shape, generator=generator), 40)).motion is None


def test_shuffled_frames_have_no_motion(crisp):
    generator = seeded(10)
    for scene, clip, _ in crisp[::5]:
        order = torch.randperm(len(clip), generator=generator)
        assert read(clip[order]).motion is None, scene


def test_motion_that_is_too_small_is_unclear():
    for motion in ("moves right", "moves up"):
        scene = random_scene(seeded(11), f"a blue star {motion}")
        assert read(render(dataclasses.replace(scene, speed=0.3))).motion is None


def test_a_diagonal_move_is_unclear():
    clip = render(dataclasses.replace(random_scene(seeded(12), "a red circle moves right"), centre=(32.0, 32.0)))
    slanted = torch.stack([frame.roll(2 * (t - 6), dims=1) for t, frame in enumerate(clip)])
    assert read(slanted).motion is None


def test_an_empty_background_is_unclear(crisp):
    """Spoilt as badly as a clip can be and still be read, it may seem to have a thing, but never one of a caption."""
    generator = seeded(13)
    grounds = [render(blank(scene)) for scene, *_ in crisp[::5]]
    assert all(read(ground) == UNCLEAR for ground in grounds)
    spoilt = [read(degraded(ground, generator)) for ground in grounds]
    assert all(reading.caption is None for reading in spoilt)
    assert sum(reading == UNCLEAR for reading in spoilt) >= 0.9 * len(spoilt)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("frames", [1, 12])
def test_noise_is_unclear(sigma, frames):
    generator = seeded(14)
    noise = blurred(torch.randn(frames, 3, SIZE, SIZE, generator=generator), sigma)
    noise = (0.4 + 0.2 * noise / noise.std()).clamp(0, 1).expand(12, -1, -1, -1)
    assert read(noise) == UNCLEAR


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_flat_clip_is_unclear(level):
    assert read(torch.full((12, 3, SIZE, SIZE), level)) == UNCLEAR


@pytest.mark.parametrize("second", ["a red circle turns", "a yellow star turns", "a blue square turns"])
def test_two_objects_are_unclear(second):
    one, other = random_scene(seeded(15), "a red circle turns"), random_scene(seeded(16), second)
    one = dataclasses.replace(one, centre=(16.0, 20.0))
    other = dataclasses.replace(other, centre=(46.0, 44.0), ground=one.ground, hatch=one.hatch)
    assert read(render(one) + render(other) - render(blank(one))) == UNCLEAR


def test_a_clip_that_cuts_from_one_scene_to_another_has_no_caption(crisp):
    for (one, first, _), (other, second, _) in zip(crisp[:14:3], crisp[15:29:3]):
        assert one.colour != other.colour and one.caption != other.caption
        assert read(torch.cat([first[:6], second[6:]])).colour is None


@pytest.mark.parametrize("shape", [(3, 64, 64), (12, 3, 32, 32), (12, 4, 64, 64), (5, 3, 64, 64)])
def test_a_tensor_of_another_form_is_refused(shape):
    with pytest.raises(ValueError, match="cannot be read; allowed") as refusal:
        read(torch.zeros(shape))
    assert str(shape) in str(refusal.value)
