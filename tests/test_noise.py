"""What a checkpoint says of itself: its prediction and its table of noise."""
from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from ivmixed import OptionError, Schedule
from ivmixed.schedule import ZERO_SNR_ABAR
from ivmixed.standalone import Settings, loading
from ivmixed.standalone.loading import LoadError
from ivmixed.standalone.txt2vid import noises
from ivmixed.weights.noise import LINEAR, Noise, NoiseError

EMPTY = torch.zeros(0)
SD = torch.tensor(Schedule.scaled_linear().abars)


def file(path, yaml=None, **tensors):
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3), **tensors}, path)
    if yaml is not None:
        path.with_suffix(".yaml").write_text(yaml)
    return path


def params(**values):
    return "model:\n  params:\n" + "".join(f"    {name}: {json.dumps(value)}\n" for name, value in values.items())


def test_zero_terminal_snr_ends_in_noise_and_keeps_the_beginning():
    assert Schedule.scaled_linear(0.001, 0.02).with_zero_snr().sigma_max > 4519  # whose last but one is beyond 4519
    for table in (Schedule.scaled_linear(), Schedule.linear()):
        rescaled = table.with_zero_snr()
        assert rescaled.sigma_max == pytest.approx(((1 - ZERO_SNR_ABAR) / ZERO_SNR_ABAR) ** 0.5)
        assert rescaled.sigma_min == pytest.approx(table.sigma_min) and len(rescaled) == 1000
        # Lin et al., algorithm 1
        roots = torch.tensor(table.abars, dtype=torch.float64).sqrt()
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        torch.testing.assert_close(torch.tensor(rescaled.abars[:-1], dtype=torch.float64), roots[:-1] ** 2)


@pytest.mark.parametrize("prediction, zero_snr", [("epsilon", False), ("v_prediction", True), ("epsilon", True)])
@pytest.mark.parametrize("betas", [None, LINEAR, {"trained_betas": [0.1, 0.2, 0.4], "num_train_timesteps": 3}])
def test_diffusers_scheduler_has_the_same_table(prediction, zero_snr, betas):
    noise = Noise(prediction, zero_snr) if betas is None else Noise(prediction, zero_snr, betas)
    scheduler = noise.scheduler()
    assert scheduler.config.prediction_type == prediction
    theirs = Schedule(scheduler.alphas_cumprod.double().tolist())
    assert theirs.sigmas[:-1] == pytest.approx(noise.table().sigmas[:-1], rel=1e-3)
    assert theirs.sigmas[-1] == pytest.approx(4096 if zero_snr else noise.table().sigmas[-1], rel=1e-3)


@pytest.mark.parametrize("tensors, yaml, prediction, zero_snr, said", [
    ({}, None, "epsilon", False, ()),
    ({"v_pred": EMPTY}, None, "v_prediction", False, ("v_pred",)),
    ({"v_pred": EMPTY, "ztsnr": EMPTY}, None, "v_prediction", True, ("v_pred", "ztsnr")),
    ({}, params(parameterization="v"), "v_prediction", False, ("x.yaml",)),
    ({}, params(parameterization="eps"), "epsilon", False, ("x.yaml",)),
    ({"v_pred": EMPTY}, params(parameterization="v", ztsnr=True), "v_prediction", True, ("v_pred", "x.yaml")),
    ({}, "model: {}", "epsilon", False, ()), ({}, "[1, 2]", "epsilon", False, ()),
    ({"alphas_cumprod": SD}, None, "epsilon", False, ()),
    ({"alphas_cumprod": SD.half()}, None, "epsilon", False, ()),
    ({"alphas_cumprod": SD.bfloat16()}, None, "epsilon", False, ()),
    ({"alphas_cumprod": torch.tensor(Schedule.scaled_linear().with_zero_snr().abars)}, None, "epsilon", True,
     ("its alphas_cumprod",)),
])
def test_what_a_single_file_says(tensors, yaml, prediction, zero_snr, said, tmp_path):
    noise = loading.noise("checkpoint", file(tmp_path / "x.safetensors", yaml, **tensors))
    assert (noise.prediction, noise.zero_snr, noise.said) == (prediction, zero_snr, said)
    expected = Schedule.scaled_linear()
    assert noise.table().sigmas == pytest.approx((expected.with_zero_snr() if zero_snr else expected).sigmas, rel=1e-4)


def test_a_files_own_table_is_taken_and_one_that_is_none_is_left_and_said(tmp_path):
    own = Schedule.scaled_linear(0.001, 0.02)
    noise = loading.noise("checkpoint", file(tmp_path / "x.safetensors", alphas_cumprod=torch.tensor(own.abars)))
    assert noise.said == ("its alphas_cumprod",)
    assert noise.table().sigmas == pytest.approx(own.sigmas, rel=1e-3)
    broken = (torch.rand(1000), SD.flip(0), SD * float("nan"), SD[None], torch.arange(9), SD * 2)
    for number, table in enumerate(broken):
        path = file(tmp_path / f"{number}.safetensors", alphas_cumprod=table.contiguous())
        noise = loading.noise("checkpoint", path)
        assert "no table of noise" in noise.said[-1] and noise.table().sigmas == Schedule.scaled_linear().sigmas
    noise = loading.noise("checkpoint", file(tmp_path / "y.safetensors", params(linear_start=0.001, linear_end=0.02)))
    assert noise.table().sigmas == pytest.approx(own.sigmas)


@pytest.mark.parametrize("tensors, yaml, words", [
    ({"v_pred": EMPTY}, params(parameterization="eps"), "give --prediction"),
    ({}, params(parameterization="x0"), "parameterization = x0"), ({}, params(ztsnr="yes"), "ztsnr = yes"),
    ({}, "model: [", "cannot be read"), ({}, "!!python/object/apply:os.mkdir [sprung]", "cannot be read"),
    ({}, "a: " + "[" * 5000, "cannot be read"), ({}, "#" * (1 << 19), "too long"), ({}, "\x00", "cannot be read"),
    ({}, params(linear_end="x"), "betas"), ({}, params(timesteps=10**9), "timesteps"),
])
def test_what_cannot_be_read_is_refused(tensors, yaml, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError) as refusal:
        loading.noise("checkpoint", file(tmp_path / "x.safetensors", yaml, **tensors))
    assert words in str(refusal.value) and "\n" not in str(refusal.value) and not (tmp_path / "sprung").exists()


def test_settings_win_and_are_of_each_model_alone(tmp_path):
    own = file(tmp_path / "v.safetensors", v_pred=EMPTY, ztsnr=EMPTY)
    plain = file(tmp_path / "plain.safetensors")

    def taken(**values):
        found = noises(Settings(prompt="x", motion_module="m", **values))
        return [(found[name].prediction, found[name].zero_snr) for name in ("video", "image")]

    v, eps = ("v_prediction", True), ("epsilon", False)
    assert taken(checkpoint=own) == [v, v]
    assert taken(checkpoint=own, prediction="epsilon", zero_snr=False) == [eps, eps]
    assert taken(checkpoint=plain, prediction="v_prediction", zero_snr=True) == [v, v]
    assert taken(checkpoint=plain, image_checkpoint=own) == [eps, v]
    assert taken(checkpoint=own, image_checkpoint=own, image_prediction="epsilon", image_zero_snr=False) == [v, eps]
    video, image = (noises(Settings(checkpoint=own, motion_module="m"))[name].table() for name in ("video", "image"))
    assert video.sigmas == Schedule.linear().with_zero_snr().sigmas
    assert image.sigmas == Schedule.scaled_linear().with_zero_snr().sigmas


@pytest.mark.parametrize("config", [
    {"beta_schedule": 5}, {"beta_schedule": "linear", "beta_start": 2}, {"trained_betas": "x"}, {"trained_betas": []},
    {"trained_betas": [True] * 1000}, {"num_train_timesteps": True}, {"rescale_betas_zero_snr": "yes"},
    {"prediction_type": ["epsilon"]}, {"_class_name": ["DDIMScheduler"]}])
def test_a_scheduler_of_wrong_values_is_refused(config):
    with pytest.raises(NoiseError):
        Noise.of_scheduler(config)


def test_an_image_prediction_needs_an_image_checkpoint():
    from ivmixed.standalone.txt2vid import check

    with pytest.raises(OptionError, match="image_prediction"):
        check(Settings(prompt="a kite", image_prediction="epsilon"))
