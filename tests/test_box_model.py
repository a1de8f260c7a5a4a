"""The model that ships: small, deterministic, made by diffusers' own classes, and it shows what a caption asks for."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline
from PIL import Image

from ivmixed import PRESETS
from ivmixed.clips.media import as_frames, read_clip, read_settings
from ivmixed.measures.pixels import flicker, frame_distance, sharpness
from ivmixed.standalone import Settings, demo, generate, load
from ivmixed.standalone.box import FRAMES, MODEL
from ivmixed.standalone.box.checker import read
from ivmixed.standalone.box.scenes import random_scene, render
from ivmixed.standalone.txt2vid import complete
from training.train import make_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipe():
    return load(complete(Settings(prompt="x"), CPU), CPU)


def clip(pipe, prompt, seed=1, steps=6, **more):
    settings = Settings(prompt=prompt, seed=seed, steps=steps, **more)
    return generate(settings, "cpu", pipe=pipe, progress=False)


PLAIN = PRESETS["plain"].options
PROMPTS = ("a red circle moves right", "a green triangle moves up", "a yellow star bounces")


@pytest.fixture(scope="module")
def plain(pipe):
    """A plain clip of each of the prompts, of the seeds 0, 1 and 2."""
    return [clip(pipe, prompt, seed, options=PLAIN).frames for seed, prompt in enumerate(PROMPTS)]


def seen(frames):
    return read(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)


def test_ten_megabytes_at_most():
    assert sum(path.stat().st_size for path in MODEL.rglob("*.safetensors")) <= 10_000_000


def test_it_is_a_diffusers_pipeline_with_animatediffs_tables(pipe):
    loaded = AnimateDiffPipeline.from_pretrained(MODEL)
    assert loaded.scheduler.config.beta_schedule == "linear"
    assert pipe.size == (64, 64) and pipe.video.unet.config.motion_max_seq_length >= FRAMES


def test_the_same_seed_makes_the_same_clip(pipe, plain):
    assert plain[0].shape == (FRAMES, 64, 64, 3)
    first, again, other = (clip(pipe, PROMPTS[0], seed=seed, steps=2, frames=4).frames for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_motion_modules_join_the_frames(plain):
    """Without them every frame is a picture of its own."""
    other = load(complete(Settings(prompt="x"), CPU), CPU)
    with torch.no_grad():
        for name, weight in other.video.unet.named_parameters():
            if "motion_modules" in name and "proj_out" in name:
                weight.zero_()
    apart = clip(other, PROMPTS[0], seed=0, options=PLAIN).frames
    assert flicker(plain[0]) < 0.5 * flicker(apart)


def test_captions_are_obeyed(plain):
    readings = [seen(frames) for frames in plain]
    assert sum(reading.caption == prompt for reading, prompt in zip(readings, PROMPTS)) >= 2
    assert all(reading.colour == prompt.split()[1] for reading, prompt in zip(readings, PROMPTS))


@pytest.mark.thorough
def test_captions_of_every_kind_are_obeyed(pipe):
    prompts = ("a red circle moves right", "a yellow triangle moves right", "a white circle moves left",
               "a purple square moves left", "a green triangle moves up", "a red circle moves up",
               "a yellow square moves down", "a green circle moves down", "a yellow star bounces",
               "a blue circle bounces", "a purple circle turns", "a blue triangle turns", "a white circle turns",
               "a red triangle turns")
    readings = [seen(clip(pipe, prompt, seed, 10, options=PLAIN).frames) for seed, prompt in enumerate(prompts)]
    assert sum(reading.caption == prompt for reading, prompt in zip(readings, prompts)) >= 10
    assert sum(reading.colour == prompt.split()[1] for reading, prompt in zip(readings, prompts)) >= 13
    assert sum(reading.motion == "turns" for reading in readings[-4:]) >= 3


def test_iv_mixed_frames_are_sharper_and_nearer_to_real_ones(pipe, plain):
    prompts, plain = PROMPTS[:2], plain[:2]
    generator = torch.Generator().manual_seed(0)
    real = np.concatenate([as_frames(render(random_scene(generator, prompt), FRAMES)) for prompt in prompts * 4])
    mixed = [clip(pipe, prompt, seed, options=PRESETS["quality"].options).frames for seed, prompt in enumerate(prompts)]
    assert np.mean([sharpness(frames) for frames in mixed]) > 1.3 * np.mean([sharpness(frames) for frames in plain])
    assert frame_distance(np.concatenate(mixed), real) < frame_distance(np.concatenate(plain), real)


def test_its_tokenizer_is_the_one_that_training_makes(pipe):
    assert pipe.video.tokenizer.get_vocab() == make_tokenizer().get_vocab()


def test_demo_writes_its_pictures_and_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "PROMPTS", demo.PROMPTS[:1])
    monkeypatch.setattr(demo, "STEPS", 6)
    table = demo.demo(tmp_path, "cpu", as_json=True)
    assert json.loads(capsys.readouterr().out) == table
    assert table["plain"]["evaluations"] == 6 and table["IV-mixed"]["evaluations"] == 8
    assert table["real"]["obeyed"] == 1
    assert 0 <= table["real"]["distance"] < table["plain"]["distance"]
    frames, _ = read_clip(tmp_path / "demo.gif")
    assert frames.shape[0] == FRAMES and read_settings(tmp_path / "demo.gif")["checkpoint"] == "box"
    assert Image.open(tmp_path / "demo.png").size[1] > 2 * 128
