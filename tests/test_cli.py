"""The command line, run in this process on tiny random models that lie on the disk as diffusers folders."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ivmixed.clips.media import read_clip, read_settings, write_clip
from ivmixed.options import OPTIONS
from ivmixed.standalone import Settings, txt2vid
from ivmixed.standalone.box import CFG, FRAMES
from ivmixed.standalone.cli import SETTINGS, build_parser, main, settings_of
from ivmixed.standalone.txt2vid import complete

from . import tiny
from .layouts import motion_shapes, sparse


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return tiny.saved(tmp_path_factory.mktemp("models") / "video", tiny.animatediff())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return tiny.saved(tmp_path_factory.mktemp("models") / "image", tiny.stable_diffusion())


@pytest.fixture(scope="module")
def modelscope(tmp_path_factory):
    return tiny.saved(tmp_path_factory.mktemp("models") / "modelscope", tiny.modelscope())


def run(capsys, *args):
    """Exit code, standard output, standard error."""
    code = main(["txt2vid", *map(str, args)])
    return code, *capsys.readouterr()


def make(video, *more):
    return ["--checkpoint", video, "--prompt", "a red kite", "--frames", 3, "--steps", 3, "--size", "16x16", "--device",
            "cpu", "--quiet", *more]


def test_from_repeats_the_clip_and_flags_beside_it_win(capsys, tmp_path, video):
    first, again, other = (tmp_path / f"{name}.png" for name in ("first", "again", "other"))
    options = ["--gamma-go", 3, 2, "--interval", 0, 80, "--schedule-match", "timestep", "--negative-prompt", "ö, \"x\""]
    code, out, _ = run(capsys, *make(video, "--out", first, "--json", *options))
    assert code == 0
    report = json.loads(out)
    assert report["settings"]["seed"] is not None and report["settings"]["precision"] == "fp32"
    assert report["clips"]["IV-mixed"]["evaluations"] == 9 and "first-0001.png" in report["files"][0]
    assert Settings.from_dict(read_settings(first)).options.gamma_go == (3, 2)
    assert run(capsys, "--from", first, "--trust-paths", "--out", again, "--device", "cpu", "--quiet")[0] == 0
    assert run(capsys, "--from", first, "--checkpoint", video, "--out", other, "--seed", 7, "--device", "cpu",
               "--quiet")[0] == 0
    assert (read_clip(first)[0] == read_clip(again)[0]).all()
    assert (read_clip(first)[0] != read_clip(other)[0]).any()
    assert read_settings(other) == {**read_settings(first), "seed": 7}


@pytest.mark.parametrize("extension", ["gif", "mp4"])  # of all the others: test_media
def test_a_format_carries_the_settings(capsys, tmp_path, video, extension):
    path = tmp_path / f"clip.{extension}"
    assert run(capsys, *make(video, "--seed", 3, "--out", path))[0] == 0
    frames, fps = read_clip(path)
    assert frames.shape == (3, 16, 16, 3) and fps == pytest.approx(8, abs=0.4)
    assert read_settings(path)["seed"] == 3


def test_compare_puts_the_plain_clip_of_the_same_seed_beside_it(capsys, tmp_path, video):
    path = tmp_path / "clip.png"
    code, out, _ = run(capsys, *make(video, "--seed", 3, "--out", path, "--compare"))
    assert code == 0 and "IV-mixed: evaluations 9" in out and "plain: evaluations 3" in out
    alone = tmp_path / "alone.png"
    assert run(capsys, *make(video, "--seed", 3, "--out", alone, "--interval", 0, 0))[0] == 0
    assert (read_clip(tmp_path / "clip-plain.png")[0] == read_clip(alone)[0]).all()
    assert (read_clip(path)[0] != read_clip(alone)[0]).any()
    both = read_clip(tmp_path / "clip-compare.png")[0]
    assert both.shape[2] >= 2 * 256
    # the halves show the two clips, enlarged
    sharp = np.asarray(read_clip(path)[0])[0].repeat(16, 0).repeat(16, 1)
    assert any((both[0, top:top + 256, :256] == sharp).all() for top in range(both.shape[1] - 255))


def test_plan_is_printed_without_a_model(capsys):
    settings = ["--checkpoint", "no/such/file.safetensors", "--steps", "25", "--plan"]
    code, out, _ = run(capsys, *settings)
    assert code == 0 and out.startswith("IV-IV, 24 of 25 steps active, 119 evaluations (72 video, 47 image)")
    code, out, _ = run(capsys, *settings, "--json", "--preset", "released-animatediff")
    plan = json.loads(out)
    assert plan["evaluations"] == 125 and plan["moves"][0]["model"] == "image"


def test_preset_and_flags(capsys):
    def settings(*args):
        return settings_of(build_parser().parse_args(["txt2vid", *args]))

    assert settings("--preset", "paper-videocrafter").options.z_percent == 66.7
    assert settings("--preset", "paper-videocrafter").cfg == 9
    assert settings("--preset", "paper-videocrafter", "--cfg", "5", "--z-percent", "10").options.z_percent == 10
    assert settings("--preset", "released-modelscope").loop == "modelscope"
    assert settings().options == Settings().options and settings().cfg == Settings().cfg
    assert settings("--preset", "plain", "--cfg", "3").options.interval == (0, 0)


@pytest.mark.parametrize("args, cfg, frames", [
    ([], CFG, FRAMES), (["--cfg", "7.5", "--frames", "5"], 7.5, 5), (["--preset", "plain"], CFG, FRAMES),
    (["--checkpoint", "sd15.safetensors"], 7.5, 16), (["--checkpoint", "sd15.safetensors", "--cfg", "3"], 3, 16),
])
def test_what_is_left_out_is_what_suits_the_model(args, cfg, frames):
    settings = complete(settings_of(build_parser().parse_args(["txt2vid", *args])), torch.device("cpu"))
    assert (settings.cfg, settings.frames, settings.precision) == (cfg, frames, "fp32")


def test_every_setting_and_option_is_a_flag():
    flags = {flag for action in build_parser()._subparsers._group_actions[0].choices["txt2vid"]._actions
             for flag in action.option_strings}
    for name in [option.name for option in (*Settings.declared(), *OPTIONS) if option.name != "options"]:
        assert "--" + name.replace("_", "-") in flags


def test_image_checkpoint_is_another_image_model(capsys, tmp_path, video, image):
    own, other = tmp_path / "own.png", tmp_path / "other.png"
    assert run(capsys, *make(video, "--seed", 3, "--out", own))[0] == 0
    assert run(capsys, *make(video, "--seed", 3, "--out", other, "--image-checkpoint", image))[0] == 0
    assert (read_clip(own)[0] != read_clip(other)[0]).any()


def test_image_lora_is_for_the_image_model_alone(capsys, tmp_path, image):
    tiny.adapter().save_pretrained(tmp_path / "motion")
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
    generator = torch.Generator().manual_seed(0)
    save_file({f"{layer}.lora_down.weight": torch.randn(2, 16, generator=generator),
               f"{layer}.lora_up.weight": torch.randn(8, 2, generator=generator)}, tmp_path / "style.safetensors")

    def clip(name, *more):
        path = tmp_path / f"{name}.png"
        code, *_ = run(capsys, *make(image, "--motion-module", tmp_path / "motion", "--seed", 3, "--out", path, *more))
        assert code == 0
        return read_clip(path)[0]

    lora = str(tmp_path / "style.safetensors")
    own = clip("own")
    assert (clip("with", "--image-lora", f"{lora}:2") != own).any()
    assert (clip("both", "--image-lora", f"{lora}:1.5", "--image-lora", f"{lora}:-1.5") == own).mean() > 0.99
    plain = clip("plain", "--interval", "0", "0")
    assert (clip("plain-with", "--interval", "0", "0", "--image-lora", f"{lora}:2") == plain).all()


def test_mini_sd_looks_at_modelscopes_own_size(capsys, tmp_path, modelscope, image):
    """A Stable Diffusion that was trained on to half the size is the same network, and nothing is resized for it."""
    mini = tiny.stable_diffusion()
    mini.unet.register_to_config(sample_size=4)
    clips = []
    for name, model in (("sd", image), ("mini", tiny.saved(tmp_path / "mini", mini))):
        path = tmp_path / f"{name}.png"
        code, out, _ = run(capsys, *make(modelscope, "--seed", 3, "--image-checkpoint", model, "--json", "--out", path))
        assert code == 0 and "(6 video, 3 image)" in json.loads(out)["plan"]
        clips.append(read_clip(path)[0])
    assert (clips[0] == clips[1]).all()


def test_modelscope_with_resizing(capsys, tmp_path, modelscope, image):
    clips = []
    for resize in ("nearest", "bilinear", "area"):
        path = tmp_path / f"{resize}.png"
        code, *_ = run(capsys, *make(modelscope, "--seed", 3, "--image-checkpoint", image, "--image-size", "24x24",
                                     "--image-resize", resize, "--out", path))
        assert code == 0
        clips.append(read_clip(path)[0])
    assert all((a != b).any() for a, b in zip(clips, clips[1:]))
    code, _, error = run(capsys, *make(modelscope, "--out", tmp_path / "x.gif"))
    assert code == 2 and "image_checkpoint" in error


@pytest.mark.parametrize("args, words", [
    (["--size", "100x64"], "size = '100x64'"),
    (["--frames", "0"], "frames = '0'"),
    (["--steps", "many"], "steps = 'many'"),
    (["--z-percent", "120"], "z_percent = '120'"),
    (["--gamma-go", "1", "2", "3"], "gamma_go"),
    (["--interval", "50", "20"], "interval = "),
    (["--gama-go", "4"], "--gama-go"),
    (["--form", "XX-IV"], "form = 'XX-IV'"),
    (["--preset", "cheapest"], "--preset"),
    (["--out", "clip.avi"], "clip.avi"),
    (["--checkpoint", "nothing.safetensors"], "nothing.safetensors"),
    (["--motion-module", "nothing.ckpt"], "nothing.ckpt"),
    (["--lora", "nothing.safetensors:0.5"], "nothing.safetensors does not exist"),
    (["--prediction", "x0"], "prediction = 'x0'"),
    (["--image-zero-snr", "on"], "image_zero_snr = True cannot be used with"),
    (["--device", "cpu:abc"], "device = 'cpu:abc'"),
    (["--device", "cuda:99"], "device = 'cuda:99'"),
    (["--device", "cpu:" + "9" * 500], "device = "),
    (["--checkpoint", "~no-such-user/x"], "checkpoint = '~no-such-user/x'"),
    (["--cfg", "nan"], "cfg = 'nan'"),
    (["--frames", "9" * 5000], "frames = "),
    (["--steps", "1e400"], "steps = '1e400'"),
    (["--prompt", "a kite <lora:x:1>"], "--lora FILE:WEIGHT"),
    (["--prompt", "0: a seed, 8: a tree"], "prompt travel"),
    (["--negative-prompt", "(bad:1e9) [a|b]"], "prompt editing"),
    (["--prompt", "a \udcff kite"], "no UTF-8"),
    (["--out", "\ud800.gif"], "no UTF-8"),
    (["--image-lora", "nothing.safetensors:0.5"], "image_checkpoint = None is missing"),
    (["--from", "nothing.mp4"], "nothing.mp4"),
    (["--device", "warp"], "device = 'warp'"),
    (["--prompt", " "], "prompt"),
    (["--loop", "animatediff", "--gamma-go", "3"], "equal gammas"),
    (["--fps", "0"], "fps = '0'"),
])
def test_wrong_input_is_one_clear_line_and_exit_code_2(capsys, tmp_path, monkeypatch, video, args, words):
    monkeypatch.chdir(tmp_path)
    given = make(video, "--out", "clip.gif")
    for flag in args[::len(args)]:  # the wrong value stands in the place of the right one
        if flag in given:
            del given[given.index(flag):given.index(flag) + 2]
    code, out, error = run(capsys, *given, *args)
    assert code == 2 and out == ""
    assert error.startswith("ivmixed: ") and error.count("\n") == 1 and words in error
    assert list(tmp_path.iterdir()) == []


def test_a_context_beyond_the_modules_positions_is_refused(capsys, tmp_path, video, monkeypatch):
    monkeypatch.setattr(txt2vid, "load", None)
    code, _, error = run(capsys, *make(video, "--frames", 17, "--context", 17, "--out", tmp_path / "clip.gif"))
    assert code == 2 and "context = 17 is too much for a clip of 17 frames" in error and "2 to 16" in error
    code, _, error = run(capsys, *make(video, "--prompt", "0: one\n9: two", "--out", tmp_path / "clip.gif"))
    assert code == 2 and "gives frame 9 of a clip with frames 0 to 2" in error


def test_a_long_clip_with_all_options_of_motion(capsys, tmp_path, video):
    path, again = tmp_path / "long.png", tmp_path / "again.png"
    options = ["--context", 4, "--overlap", 2, "--fuse", "linear", "--noise", "freenoise", "--free-init", 2,
               "--seed", 1, "--motion-strength", 1.5, 0.5, "--motion-strength-frames", "0=1", "5=0",
               "--attention-scale", 0.8, "--prompt", "0: one\n5: two"]
    code, out, _ = run(capsys, *make(video, "--out", path, "--json", *options, "--frames", 6))
    assert code == 0
    report = json.loads(out)
    assert report["clips"]["IV-mixed"]["evaluations"] == 2 * 9
    made = report["settings"]
    assert made["motion_strength"] == [1.5, 0.5] and made["motion_strength_frames"] == [[0, 1], [5, 0]]
    assert run(capsys, "--from", path, "--trust-paths", "--device", "cpu", "--quiet", "--out", again)[0] == 0
    assert len(read_clip(path)[0]) == 6 and (read_clip(path)[0] == read_clip(again)[0]).all()


def test_the_plan_has_all_passes(capsys, video):
    code, out, _ = run(capsys, *make(video, "--plan", "--free-init", 3))
    assert code == 0 and "3 passes of these (FreeInit): 27 evaluations" in out
    assert json.loads(run(capsys, *make(video, "--plan", "--free-init", 3, "--json"))[1])["evaluations"] == 27


@pytest.mark.parametrize("name, given, wanted", [
    ("animatediff_lightning_4step_diffusers.safetensors", [], (4, 1.0, "euler", "trailing")),
    ("animatediff_lightning_2step_comfyui.safetensors", ["--steps", "2"], (2, 1.0, "euler", "trailing")),
    ("lightning_8step.safetensors", ["--cfg", "2", "--solver", "dpmpp_2m"], (8, 2.0, "dpmpp_2m", "trailing")),
    ("lightning_8step.safetensors", ["--loop", "animatediff"], (8, 1.0, None, None)),
    ("AnimateLCM_sd15_t2v.safetensors", [], (8, 1.0, "lcm", "trailing")),
    ("v3_sd15_mm.safetensors", [], (25, 7.5, None, None))])
def test_a_distilled_module_brings_how_it_is_sampled(name, given, wanted, tmp_path):
    shapes = motion_shapes((32,) * 4, None if "LCM" in name else 32, "v3" not in name)
    module = sparse(tmp_path / name, shapes)
    settings = settings_of(build_parser().parse_args(
        ["txt2vid", "--checkpoint", "sd15.safetensors", "--motion-module", str(module), *given]))
    settings = complete(settings, torch.device("cpu"))
    assert (settings.steps, settings.cfg, settings.solver, settings.spacing) == wanted
    said = [line for line in txt2vid.said(settings) if "distilled" in line]
    assert len(said) == (settings.cfg == 2)


def test_ctrl_c_leaves_nothing(capsys, tmp_path, monkeypatch, video):
    from ivmixed.standalone.denoiser import Denoiser

    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    original = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", interrupted)
    code, _, error = run(capsys, *make(video, "--out", tmp_path / "clip.mp4"))
    assert code == 130 and "nothing was written" in error and list(tmp_path.iterdir()) == []


def test_the_box_says_what_it_knows(capsys, tmp_path):
    code, _, error = run(capsys, "--prompt", "a kite", "--steps", 2, "--frames", 2, "--quiet", "--device", "cpu",
                         "--out", tmp_path / "clip.gif")
    assert code == 0 and "triangle" in error


def test_a_preset_without_a_scale_keeps_that_of_the_clip(tmp_path):
    clip = tmp_path / "clip.png"
    write_clip(clip, np.zeros((2, 16, 16, 3), np.uint8), 8, Settings(prompt="x", cfg=3).to_dict())

    def again(*args):
        return settings_of(build_parser().parse_args(["txt2vid", "--from", f"{clip}.json", *args]))

    assert again("--preset", "plain").cfg == 3 and again("--preset", "paper").cfg == 7.5


def test_demo_refuses_a_file_in_place_of_its_folder(capsys, tmp_path):
    (tmp_path / "demo").write_text("")
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "demo" in capsys.readouterr().err and (tmp_path / "demo").read_text() == ""


def test_a_clip_survives_a_folder_that_is_gone_when_it_is_finished(capsys, tmp_path, monkeypatch, video):
    from ivmixed.standalone import txt2vid

    def generate(*args, **kwargs):
        clip = original(*args, **kwargs)
        (tmp_path / "out").rename(tmp_path / "elsewhere")
        return clip

    original = txt2vid.generate
    monkeypatch.setattr(txt2vid, "generate", generate)
    for name in ("out", "cwd"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    code, out, error = run(capsys, *make(video, "--out", tmp_path / "out" / "clip.gif"))
    assert code == 1 and f"the clip is in {tmp_path / 'cwd' / 'clip.gif'} instead" in error
    assert len(read_clip(tmp_path / "cwd" / "clip.gif")[0]) == 3
    assert str(tmp_path / "cwd" / "clip.gif") in out.splitlines()


def test_each_clip_of_a_comparison_is_saved_at_once(capsys, tmp_path, monkeypatch, video):
    from ivmixed.standalone import txt2vid

    def generate(settings, *args, **kwargs):
        if settings.options.interval == (0, 0):
            raise KeyboardInterrupt
        return original(settings, *args, **kwargs)

    original = txt2vid.generate
    monkeypatch.setattr(txt2vid, "generate", generate)
    code, _, error = run(capsys, *make(video, "--compare", "--out", tmp_path / "clip.gif"))
    assert code == 130 and f"stopped; written before: {tmp_path / 'clip.gif'}" in error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clip.gif", "clip.gif.json"]


@pytest.mark.parametrize("name", ["x" * 247 + ".gif", "x" * 240 + ".png", "a\udcff.gif"])
def test_names_that_cannot_be_written_are_refused_before_the_work(capsys, tmp_path, name):
    code, out, error = run(capsys, *make("nothing", "--compare", "--out", tmp_path / name))
    assert code == 2 and out == "" and error.count("\n") == 1
    assert "out = " in error or "no UTF-8" in error
    assert list(tmp_path.iterdir()) == []
# --- what a clip brings

def test_model_files_that_a_clip_names_are_listed_and_not_opened(capsys, tmp_path, monkeypatch):
    clip = tmp_path / "clip.png"
    named = Settings(prompt="x", checkpoint="/their/model.ckpt", motion_module="/their/motion.ckpt",
                     vae="/their/vae.pt", lora="/their/lora.pt:0.5", image_lora=["/their/style.pt"]).to_dict()
    write_clip(clip, np.zeros((2, 16, 16, 3), np.uint8), 8, named)
    monkeypatch.setattr(txt2vid, "check", None)
    out = ["--out", tmp_path / "new.gif", "--device", "cpu"]
    code, _, error = run(capsys, "--from", clip, *out)
    assert code == 2 and error.count("\n") == 1 and "--trust-paths" in error
    for name in ("model.ckpt", "motion.ckpt", "vae.pt", "--lora /their/lora.pt:0.5", "style.pt"):
        assert name in error
    own = ["--checkpoint", "a", "--motion-module", "b", "--vae", "c", "--lora", "d"]
    code, _, error = run(capsys, "--from", clip, *own, *out)
    assert code == 2 and "style.pt" in error and "model.ckpt" not in error

    def parsed(*args):
        return settings_of(build_parser().parse_args(["txt2vid", "--from", str(clip), *args]))

    assert parsed(*own, "--image-lora", "e").image_lora[0][0].endswith("/e")
    assert parsed("--trust-paths").checkpoint == "/their/model.ckpt"


# --- the video model's LoRA

def test_a_lora_is_for_both_models_of_a_checkpoint(capsys, tmp_path, image):
    tiny.adapter().save_pretrained(tmp_path / "motion")
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
    generator = torch.Generator().manual_seed(0)
    lora = tmp_path / "style.safetensors"
    save_file({f"{layer}.lora_down.weight": torch.randn(2, 16, generator=generator),
               f"{layer}.lora_up.weight": torch.randn(8, 2, generator=generator)}, lora)

    def pipe(**values):
        wanted = Settings(checkpoint=image, motion_module=tmp_path / "motion", prompt="x", precision="fp32", **values)
        txt2vid.check(wanted)
        return txt2vid.load(wanted, torch.device("cpu"))

    def weights(pipeline):
        return pipeline.unet.get_parameter("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight")

    plain, fused = pipe(), pipe(lora=[(lora, 0.5)])
    both = pipe(lora=[(lora, 0.5)], image_lora=[(lora, 1)])
    assert fused.image is None
    change = weights(fused.video) - weights(plain.video)
    product = load_file(lora)[f"{layer}.lora_up.weight"] @ load_file(lora)[f"{layer}.lora_down.weight"]
    torch.testing.assert_close(change, 0.5 * product)
    torch.testing.assert_close(weights(both.video), weights(fused.video))
    torch.testing.assert_close(weights(both.image) - weights(plain.video), 1.5 * product)


# --- what was taken of a checkpoint is said

def test_prediction_and_zero_snr_are_said_and_change_the_clip(capsys, tmp_path, video):
    frames = []
    for name, more in (("plain", []), ("v", ["--prediction", "v_prediction", "--zero-snr", "on"])):
        path = tmp_path / f"{name}.png"
        code, out, error = run(capsys, *make(video, "--seed", 3, "--json", "--out", path, *more))
        assert code == 0
        models = json.loads(out)["models"]
        assert models["video"]["prediction"] == ("v_prediction" if more else "epsilon")
        assert ("video model: v_prediction, zero terminal SNR" in error) == bool(more)
        assert Settings.from_dict(read_settings(path)).zero_snr == (True if more else None)
        frames.append(read_clip(path)[0])
    assert models["video"]["sigma_max"] == models["image"]["sigma_max"] == pytest.approx(4518.76, rel=1e-4)
    assert models["video"]["said_by"] == ["your settings"] and (frames[0] != frames[1]).any()


def test_clips_too_small_to_be_measured_are_made(capsys, tmp_path, video):
    code, out, _ = run(capsys, *make(video, "--size", "8x8", "--json", "--out", tmp_path / "small.png"))
    assert code == 0 and set(json.loads(out)["clips"]["IV-mixed"]) == {"evaluations", "seconds"}


# --- pipes, Ctrl-C, and anything at all

def test_a_closed_pipe_is_no_traceback(capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as output:  # whose end says nothing, as that of Python's own standard output
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["txt2vid", "--plan", "--json"]) == 1
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_torch_is_imported_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    # as in a terminal, also where the tests run in the background and Ctrl-C is ignored
    process = subprocess.Popen(
        [sys.executable, "-m", "ivmixed.standalone.cli", "txt2vid", "--prompt", "a red circle turns", "--out",
         str(tmp_path / "x.gif")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and error == "ivmixed: stopped; nothing was written\n"


WORDS = st.one_of(
    st.text(max_size=12), st.integers().map(str), st.floats().map(str), st.sampled_from(
        ["nan", "inf", "1e400", "9" * 400, "-1", "", "\0", "~no-such-user/x", "1x1", "8x9999999999", "x:nan",
         "\ud800", "[]"]))
FLAGS = st.sampled_from([option.name for option in SETTINGS] + ["preset", "gamma_go", "interval", "form", "rho"])


@given(st.lists(st.tuples(FLAGS, WORDS), min_size=1, max_size=3))
def test_any_value_of_any_flag_is_taken_or_refused_in_a_line(pairs):
    import contextlib
    import io

    line = [f"--{name.replace('_', '-')}={value}" for name, value in pairs]
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main(["txt2vid", "--plan", "--json", *line])
    assert code in (0, 2) and (error.getvalue().count("\n") == 1) == (code == 2)
    assert len(error.getvalue()) < 1500


def test_a_copy_without_the_bundled_model_says_so(monkeypatch, tmp_path, capsys):
    """As a zip of the repository is."""
    monkeypatch.setattr("ivmixed.standalone.box.MODEL", tmp_path / "model")
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "checkpoint = 'box' is not in this copy; allowed: a checkpoint of yours, or a git" in capsys.readouterr().err
