"""The training of the bundled model, cut to a few steps: seeded, logged, resumable, and its export loads."""
from __future__ import annotations

import json

import pytest
import torch
from diffusers import AnimateDiffPipeline

from ivmixed.standalone.box.scenes import CAPTIONS
from training import train
from training.data import degrade, poor_clips, stills


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(train, "STEPS", {"vae": 2, "image": 4, "detail": 1, "motion": 2})
    monkeypatch.setattr(train, "BATCH", {"vae": 2, "image": 2, "detail": 2, "motion": 1})
    monkeypatch.setattr(train, "PICTURES", (8, 1))
    monkeypatch.setattr(train, "STILLS", 6)
    monkeypatch.setattr(train, "CLIPS", 2)
    monkeypatch.setattr(train, "SAVE_EVERY", 1)
    monkeypatch.setattr(train, "FRAMES", 3)


def trained(folder, stop_after=None):
    run = train.Run(folder, torch.device("cpu"))
    run.train_vae()
    if stop_after is not None:
        run.fit, fit = None, run.fit

        def stopped(stage, parts, loss_of):
            steps = []

            def counted(generator):
                if len(steps) == stop_after:
                    raise KeyboardInterrupt
                steps.append(1)
                return loss_of(generator)

            fit(stage, parts, counted)

        run.fit = stopped
    run.train_image("image")
    run.train_image("detail")
    return run, run.train_motion()


@pytest.mark.thorough
def test_a_stopped_run_goes_on_as_if_it_had_not_been(short, tmp_path):
    run, model = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", stop_after=2)
    again, other = trained(tmp_path / "parts")
    for one, two in ((run.unet, again.unet), (run.text_encoder, again.text_encoder), (model, other)):
        for (name, a), b in zip(one.state_dict().items(), two.state_dict().values()):
            assert torch.equal(a, b), name


def test_a_run_is_logged_its_export_loads_and_only_motion_modules_learn_motion(short, tmp_path):
    run, model = trained(tmp_path)
    for name, weight in run.unet.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    assert any(weight.abs().max() > 0 for name, weight in model.state_dict().items() if name.endswith("proj_out.weight")
               and "motion_modules" in name)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in log if "step" in line] == [
        *(("vae", k) for k in (1, 2)), *(("image", k) for k in (1, 2, 3, 4)),
        ("detail", 1), *(("motion", k) for k in (1, 2))]

    run.export(tmp_path / "model", model)
    loaded = AnimateDiffPipeline.from_pretrained(tmp_path / "model")
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], weight.half().float()), name
    assert loaded.scheduler.config.beta_schedule == "linear"


def test_captions_fit_and_differ_for_the_text_encoder():
    tokenizer = train.make_tokenizer()
    ids = [tuple(tokenizer(caption).input_ids) for caption in CAPTIONS]
    assert len(set(ids)) == len(CAPTIONS) and max(map(len, ids)) <= tokenizer.model_max_length
    for caption in CAPTIONS:
        assert tokenizer.tokenize(caption) == [word + "</w>" for word in caption.split()]
    assert "".join(tokenizer.tokenize("kite")) == "kite</w>"


def test_data_is_seeded_and_poor_clips_are_blurred_and_pale():
    (images, captions), (same, _) = (stills(3, torch.Generator().manual_seed(1), 12) for _ in range(2))
    assert torch.equal(images, same) and images.shape == (3, 3, 64, 64) and set(captions) <= set(CAPTIONS)
    clips, _ = poor_clips(2, torch.Generator().manual_seed(1), 4)
    assert clips.shape == (2, 4, 3, 64, 64) and clips.dtype == torch.uint8
    checks = (torch.arange(64)[:, None] + torch.arange(64)) // 4 % 2
    crisp = checks.float().expand(2, 3, 64, 64)
    poor = degrade(crisp, torch.Generator().manual_seed(1)).float() / 255
    assert 0.1 < poor.std() / crisp.std() < 0.75
    assert poor.diff(dim=-1).abs().max() < 0.6  # of 1
