"""Model files in the layouts that people have, made at random with full key sets, become pipelines with those weights.

Weights are tested at small widths, through a folder of small configurations; what `check` says of files at full width,
through headers alone (the files are sparse).
"""
import json
import math
import os
import re
import socket
from collections import Counter
from functools import cache

import pytest
import torch

from ivmixed import Schedule

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from ivmixed.standalone import loading  # noqa: E402
from ivmixed.standalone.loading import (  # noqa: E402
    LoadError,
    check,
    check_controlnet,
    load_controlnet,
    load_image,
    load_video,
)
from ivmixed.standalone.text_to_video import TextToVideoPipeline  # noqa: E402
from ivmixed.weights import lora  # noqa: E402

from .layouts import attention_block, dense, motion_shapes, norm, random, saved, sinusoids, sparse  # noqa: E402

FULL = {"widths": (320, 640, 1280, 1280), "text": 768, "vae": (128, 256, 512, 512)}
SMALL = {"widths": (32, 32, 64, 64), "text": 32, "vae": (32, 32, 32, 32)}
KIND = {"SD 1.5": 768, "SD 2": 1024, "SDXL": 2048}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever dials is noted, even if the refusal is swallowed."""
    calls = []

    def connect(self, address):
        calls.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield
    assert not calls


@pytest.fixture(scope="module", autouse=True)
def one_tokenizer():
    """Stable Diffusion's tokenizer, which all its files and folders have, is made once for either."""
    made, make = {}, loading.folders.make_tokenizer

    def once(vocabulary, merges, settings):
        key = frozenset(vocabulary.items()), tuple(merges), repr(settings)
        if key not in made:
            made[key] = make(vocabulary, merges, settings)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_load_tokenizer", cache(loading._load_tokenizer))
        patch.setattr(loading.folders, "make_tokenizer", once)
        yield


# --- the layouts: tensor names and shapes

def unet_shapes(widths, text, channels=4):
    """SD 1.5's UNet in CompVis' layout: 686 tensors."""
    p, time = "model.diffusion_model.", 4 * widths[0]
    shapes = dense(p + "time_embed.0", time, widths[0]) | dense(p + "time_embed.2", time, time)

    def resnet(name, inp, out):
        shapes.update(norm(f"{p}{name}.in_layers.0", inp) | dense(f"{p}{name}.in_layers.2", out, inp, 3, 3))
        shapes.update(dense(f"{p}{name}.emb_layers.1", out, time) | norm(f"{p}{name}.out_layers.0", out))
        shapes.update(dense(f"{p}{name}.out_layers.3", out, out, 3, 3))
        if inp != out:
            shapes.update(dense(f"{p}{name}.skip_connection", out, inp, 1, 1))

    def transformer(name, width):
        block = f"{p}{name}.transformer_blocks.0"
        shapes.update(norm(f"{p}{name}.norm", width) | dense(f"{p}{name}.proj_in", width, width, 1, 1))
        shapes.update(attention_block(block, width, (("attn1", width), ("attn2", text))))
        for number in (1, 2, 3):
            shapes.update(norm(f"{block}.norm{number}", width))
        shapes.update(dense(f"{p}{name}.proj_out", width, width, 1, 1))

    shapes |= dense(p + "input_blocks.0.0", widths[0], channels, 3, 3)
    skips, current, index = [widths[0]], widths[0], 1
    for level, width in enumerate(widths):
        for _ in range(2):
            resnet(f"input_blocks.{index}.0", current, width)
            if level < 3:
                transformer(f"input_blocks.{index}.1", width)
            skips.append(current := width)
            index += 1
        if level < 3:
            shapes |= dense(f"{p}input_blocks.{index}.0.op", width, width, 3, 3)
            skips.append(width)
            index += 1
    resnet("middle_block.0", current, current)
    transformer("middle_block.1", current)
    resnet("middle_block.2", current, current)
    for index in range(12):
        level = 3 - index // 3
        resnet(f"output_blocks.{index}.0", current + skips.pop(), widths[level])
        current = widths[level]
        if level < 3:
            transformer(f"output_blocks.{index}.1", current)
        if index % 3 == 2 and level > 0:
            shapes |= dense(f"{p}output_blocks.{index}.{2 if level < 3 else 1}.conv", current, current, 3, 3)
    return shapes | norm(p + "out.0", current) | dense(p + "out.2", 4, current, 3, 3)


def vae_shapes(widths, prefix="first_stage_model.", latents=4):
    """SD 1.5's VAE in CompVis' layout: 248 tensors."""
    shapes, last = {}, widths[-1]

    def resnet(name, inp, out):
        shapes.update(norm(f"{name}.norm1", inp) | dense(f"{name}.conv1", out, inp, 3, 3))
        shapes.update(norm(f"{name}.norm2", out) | dense(f"{name}.conv2", out, out, 3, 3))
        if inp != out:
            shapes.update(dense(f"{name}.nin_shortcut", out, inp, 1, 1))

    for side, first, levels in (("encoder", 3, (0, 1, 2, 3)), ("decoder", latents, (3, 2, 1, 0))):
        name = prefix + side
        current = widths[0] if side == "encoder" else last
        shapes |= dense(name + ".conv_in", current, first, 3, 3)
        for level in levels:
            part, count, move = ("down", 2, "downsample") if side == "encoder" else ("up", 3, "upsample")
            for block in range(count):
                resnet(f"{name}.{part}.{level}.block.{block}", current, widths[level])
                current = widths[level]
            if level != levels[-1]:
                shapes |= dense(f"{name}.{part}.{level}.{move}.conv", current, current, 3, 3)
        resnet(name + ".mid.block_1", last, last)
        resnet(name + ".mid.block_2", last, last)
        shapes |= norm(name + ".mid.attn_1.norm", last)
        for part in ("q", "k", "v", "proj_out"):
            shapes |= dense(f"{name}.mid.attn_1.{part}", last, last, 1, 1)
        shapes |= norm(name + ".norm_out", current)
        shapes |= dense(name + ".conv_out", 2 * latents if side == "encoder" else 3, current, 3, 3)
    shapes |= dense(prefix + "quant_conv", 2 * latents, 2 * latents, 1, 1)
    return shapes | dense(prefix + "post_quant_conv", latents, latents, 1, 1)


def text_shapes(width, wrapper="text_model."):
    """CLIP's text encoder: 197 tensors."""
    p = "cond_stage_model.transformer." + wrapper
    shapes = {p + "embeddings.position_ids": (1, 77), p + "embeddings.token_embedding.weight": (49408, width),
              p + "embeddings.position_embedding.weight": (77, width)}
    for number in range(12):
        layer = f"{p}encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= dense(f"{layer}.self_attn.{part}", width, width)
        shapes |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        shapes |= dense(f"{layer}.mlp.fc1", 4 * width, width) | dense(f"{layer}.mlp.fc2", width, 4 * width)
    return shapes | norm(p + "final_layer_norm", width)


def checkpoint_shapes(widths, text, vae, channels=4):
    """What a pruned SD 1.5 file holds, and some of what others leave in."""
    extras = {"alphas_cumprod": (1000,), "model_ema.decay": (), "model_ema.diffusion_modelout2bias": (4,)}
    return unet_shapes(widths, text, channels) | vae_shapes(vae) | text_shapes(text) | extras


def controlnet_shapes(widths, text, prefix="control_model."):
    """An SD 1.5 ControlNet in the original layout: 340 tensors."""
    encoder = re.compile(r"model\.diffusion_model\.((input_blocks|middle_block|time_embed)\..+)")
    shapes = {prefix + match[1]: shape for name, shape in unet_shapes(widths, text).items()
              if (match := encoder.fullmatch(name))}
    hint, levels = (3, 16, 16, 32, 32, 96, 96, 256), [widths[0], *(width for width in widths for _ in range(3))][:12]
    levels[3::3] = widths[:3]
    for place, (inp, out) in enumerate(zip(hint, (*hint[1:], widths[0]))):
        shapes |= dense(f"{prefix}input_hint_block.{2 * place}", out, inp, 3, 3)
    for place, width in enumerate(levels):
        shapes |= dense(f"{prefix}zero_convs.{place}.0", width, width, 1, 1)
    return shapes | dense(prefix + "middle_block_out.0", widths[-1], widths[-1], 1, 1)


# --- files

@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The configurations of ``loading.SD15`` at small widths."""
    folder = tmp_path_factory.mktemp("config")
    changes = {
        "unet": {"block_out_channels": SMALL["widths"], "cross_attention_dim": SMALL["text"], "sample_size": 8},
        "vae": {"block_out_channels": SMALL["vae"], "sample_size": 64},
        "text_encoder": {"hidden_size": SMALL["text"], "intermediate_size": 4 * SMALL["text"],
                         "num_attention_heads": 4},
    }
    for part in ("unet", "vae", "text_encoder", "scheduler"):
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        values = json.loads((loading.SD15 / part / name).read_text()) | changes.get(part, {})
        (folder / part).mkdir()
        (folder / part / name).write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def weights():
    return random(checkpoint_shapes(**SMALL))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, weights):
    return saved(tmp_path_factory.mktemp("files") / "small.safetensors", weights)


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("files") / "v3.safetensors", random(motion_shapes(SMALL["widths"]), seed=3))


@pytest.fixture(scope="module")
def video(checkpoint, motion, config):
    return load_video(checkpoint, motion, config=config)


@pytest.fixture(scope="module")
def image(checkpoint, config):
    return load_image(checkpoint, config=config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, image, video):
    """The models as diffusers folders; ``halves`` has the files of the variant fp16 alone."""
    root = tmp_path_factory.mktemp("folders")
    image.save_pretrained(root / "image")
    image.save_pretrained(root / "halves", variant="fp16")
    video.save_pretrained(root / "video")
    return root


def content(tensors, but=()):
    """Every tensor's values, without its name (conversion renames) and dimensions (it flattens 1 x 1 kernels)."""
    return Counter(tensor.numpy().tobytes() for name, tensor in tensors.items()
                   if not any(part in name for part in but))


def part_of(tensors, prefix, but=()):
    return content({name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}, but)


def refusal(call, *args, **kwargs):
    """The one line of a refused call."""
    with pytest.raises(LoadError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- checkpoints

def test_the_layouts_have_the_numbers_of_tensors_that_real_files_have():
    assert len(unet_shapes(FULL["widths"], FULL["text"])) == 686
    assert len(vae_shapes(FULL["vae"])) == 248
    assert len(text_shapes(FULL["text"])) == 197
    assert [len(motion_shapes(FULL["widths"], middle=middle)) for middle in (False, True)] == [560, 588]


@pytest.mark.parametrize("form", ["safetensors", "ckpt", "without text_model"])
def test_every_weight_of_a_checkpoint_arrives(form, weights, checkpoint, config, tmp_path):
    path = checkpoint
    if form == "ckpt":
        path = saved(tmp_path / "small.ckpt", weights, epoch=3, global_step=470000)
    elif form == "without text_model":
        path = saved(tmp_path / "old.safetensors", {n.replace(".text_model.", "."): w for n, w in weights.items()})
    pipe = load_image(path, config=config)
    assert type(pipe) is diffusers.StableDiffusionPipeline
    unet, text = pipe.unet.state_dict(), pipe.text_encoder.state_dict()
    assert content(unet) == part_of(weights, "model.diffusion_model.")
    assert content(pipe.vae.state_dict()) == part_of(weights, "first_stage_model.")
    assert content(text, ["position_ids"]) == part_of(weights, "cond_stage_model.", ["position_ids"])
    for ours, theirs in (("down_blocks.0.resnets.0.conv1.weight", "input_blocks.1.0.in_layers.2.weight"),
                         ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
                          "middle_block.1.transformer_blocks.0.attn2.to_k.weight"),
                         ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight")):
        assert torch.equal(unet[ours], weights["model.diffusion_model." + theirs])
    end = "encoder.layers.7.self_attn.k_proj.weight"
    assert torch.equal(next(text[name] for name in text if name.endswith(end)),
                       weights["cond_stage_model.transformer.text_model." + end])


def test_everything_comes_in_the_asked_precision(checkpoint, motion, config, weights):
    dtype = torch.bfloat16
    pipe = load_video(checkpoint, motion, dtype=dtype, config=config)
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {dtype}
        assert not model.training
    expected = weights["model.diffusion_model.out.2.weight"].to(dtype)
    assert torch.equal(pipe.unet.conv_out.weight, expected)


def test_schedulers_have_the_tables_that_the_models_were_trained_on(video, image):
    for pipe, schedule in ((video, Schedule.linear()), (image, Schedule.scaled_linear())):
        sigmas = ((1 - pipe.scheduler.alphas_cumprod) / pipe.scheduler.alphas_cumprod).sqrt()
        torch.testing.assert_close(sigmas, torch.tensor(schedule.sigmas), rtol=1e-4, atol=0)
        assert (pipe.scheduler.config.clip_sample, pipe.scheduler.config.set_alpha_to_one) == (False, False)


def test_the_tokenizer_is_clips(video):
    ids = video.tokenizer("a photo of an astronaut riding a horse").input_ids
    assert ids == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 49407]
    assert video.tokenizer("Été 12! ☃").input_ids == [49406, 3459, 39694, 272, 273, 256, 1741, 481, 49407]
    assert len(video.tokenizer("", padding="max_length").input_ids) == video.tokenizer.model_max_length == 77


@pytest.mark.parametrize("lost", [
    "model.diffusion_model.input_blocks.4.0.in_layers.2.weight", "first_stage_model.decoder.mid.block_1.conv1.weight",
    "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.bias"])
def test_a_checkpoint_that_lacks_a_weight_is_refused(lost, weights, config, tmp_path):
    path = saved(tmp_path / "part.safetensors", {name: tensor for name, tensor in weights.items() if name != lost})
    assert str(path) in refusal(load_image, path, config=config)


BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0."


@pytest.mark.parametrize("name, words", [
    ("model.diffusion_model.time_embed.cond_proj.weight", "distilled LCM"), (BLOCK + "fuser.linear.weight", "GLIGEN"),
    (BLOCK + "attn2.to_k_ip.weight", "IP-Adapter"), ("position_net.linears.0.weight", "GLIGEN"),
    ("model.diffusion_model.input_blocks.1.2.temporal_transformer.proj_in.weight", "layers over time"),
    ("model.diffusion_model.label_emb.0.0.weight", "label_emb"), ("first_stage_model.decoder.extra.weight", "extra"),
    ("cond_stage_model.transformer.text_model.encoder.extra.weight", "extra"), ("other.weight", "other.weight")])
def test_what_is_left_over_in_a_checkpoint_is_named_before_anything_is_loaded(name, words, shelf):
    path = sparse(shelf / "more.safetensors", checkpoint_shapes(**FULL) | {name: (4, 4)})
    line = refusal(check, path, shelf / "v3.safetensors")
    assert "would stay unused" in line and words in line


@pytest.mark.parametrize("lost, part", [
    ("model.diffusion_model.output_blocks.2.1.conv.bias", "unet"),
    ("model.diffusion_model.input_blocks.3.0.op.bias", "unet"),
    ("first_stage_model.decoder.up.1.upsample.conv.bias", "vae"),
    ("first_stage_model.encoder.mid.attn_1.q.weight", "vae"),
    ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text_encoder")])
def test_what_a_checkpoint_lacks_is_seen_before_anything_is_loaded(lost, part, shelf):
    shapes = checkpoint_shapes(**FULL)
    del shapes[lost]
    line = refusal(check, sparse(shelf / "less.safetensors", shapes), shelf / "v3.safetensors")
    assert "lacks" in line and part in line


def test_what_is_known_to_be_harmless_is_taken(shelf):
    harmless = dict.fromkeys((
        "betas", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "logvar",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "lvlb_weights",
        "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
        "model_ema.num_updates", "model_ema.diffusion_modeltime_embed0weight", "first_stage_model.loss.logvar",
        "cond_stage_model.logit_scale", "cond_stage_model.transformer.visual_projection.weight", "v_pred", "ztsnr",
        "safety_checker.concept_embeds", "scale_factor"), (2,))
    check(sparse(shelf / "harmless.safetensors", checkpoint_shapes(**FULL) | harmless), shelf / "v3.safetensors")


def test_the_shipped_configurations_make_the_full_size_model():
    expected = checkpoint_shapes(**FULL)
    with torch.device("meta"):
        unet, vae = (cls.from_config(cls.load_config(loading.SD15, subfolder=part)) for cls, part in (
            (diffusers.UNet2DConditionModel, "unet"), (diffusers.AutoencoderKL, "vae")))
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(loading.SD15 / "text_encoder"))
    for model, prefix in ((unet, "model.diffusion_model."), (vae, "first_stage_model."), (text, "cond_stage_model.")):
        sizes = Counter(math.prod(shape) for name, shape in expected.items()
                        if name.startswith(prefix) and "position_ids" not in name)
        assert Counter(parameter.numel() for parameter in model.parameters()) == sizes


# --- motion modules

@pytest.mark.parametrize("name, positions, middle, prefix, wrapped", [
    ("mm_sd_v15.ckpt", 24, False, "module.", {"epoch": 1}),
    ("long.ckpt", 48, False, "", {"animatediff_config": {"use_motion_module": True}}),
    ("AnimateLCM.safetensors", None, True, "", {}),  # whose table of 64 positions its file leaves out
])
def test_every_weight_of_a_motion_module_arrives(
        name, positions, middle, prefix, wrapped, checkpoint, config, tmp_path):
    module = random(motion_shapes(SMALL["widths"], positions, middle), seed=5)
    path = saved(tmp_path / name, {prefix + key: tensor for key, tensor in module.items()}, **wrapped)
    check(checkpoint, path, config=config)
    unet = load_video(checkpoint, path, config=config).unet
    loaded = {key: tensor for key, tensor in unet.state_dict().items() if "motion_modules." in key}
    assert content(loaded, [".pe"]) == content(module, [".pe"])
    assert unet.config.motion_max_seq_length == (positions or 64)
    for key, tensor in loaded.items():
        if key.endswith(".pe"):
            torch.testing.assert_close(tensor, sinusoids(positions or 64, tensor.shape[2]), rtol=0, atol=2e-5)
    theirs = "up_blocks.1.motion_modules.2.temporal_transformer.transformer_blocks.0."
    ours = theirs.replace("temporal_transformer.", "")
    for new, old in (("attn1.to_q.weight", "attention_blocks.0.to_q.weight"), ("norm2.bias", "norms.1.bias"),
                     ("attn2.to_out.0.weight", "attention_blocks.1.to_out.0.weight"), ("norm3.bias", "ff_norm.bias")):
        assert torch.equal(loaded[ours + new], module[theirs + old])


def test_a_module_in_the_spellings_that_the_webui_takes(motion, video, checkpoint, config, tmp_path):
    spelled = {f"unet.module.{name}".replace(".pe", ".pos_encoding"): part for name, part in load_file(motion).items()}
    torch.save({"motion_module": spelled, "epoch": 1}, tmp_path / "m.safetensors")
    unet = load_video(checkpoint, tmp_path / "m.safetensors", config=config).unet
    assert content(unet.state_dict()) == content(video.unet.state_dict())


@pytest.mark.parametrize("tensors, words", [
    ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.tensor(1.0)}, "of a wrong shape"),
    ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.bias": torch.ones(32)}, "is incomplete, without"),
    ({"x.motion_modules.0.norm.weight": torch.ones(32)}, "is incomplete, without")])
def test_modules_of_strangers_are_refused_in_one_line(tensors, words, checkpoint, config, tmp_path):
    path = saved(tmp_path / "m.safetensors", tensors)
    assert words in refusal(check, checkpoint, path, config=config)


def test_a_learned_position_table_is_used_and_two_that_differ_are_refused(checkpoint, config, tmp_path):
    module = random(motion_shapes(SMALL["widths"]))
    block = "down_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks."
    learned = torch.randn(1, 32, SMALL["widths"][1])
    one = saved(tmp_path / "one.ckpt", module | {f"{block}{n}.pos_encoder.pe": learned for n in (0, 1)})
    loaded = load_video(checkpoint, one, config=config).unet
    assert torch.equal(loaded.down_blocks[1].motion_modules[0].transformer_blocks[0].pos_embed.pe, learned)
    two = saved(tmp_path / "two.ckpt", module | {block + "1.pos_encoder.pe": learned})
    assert "two position tables that differ" in refusal(load_video, checkpoint, two, config=config)


def test_the_clip_is_that_of_diffusers_own_assembly(video, image, motion, folders, config):
    adapter = diffusers.MotionAdapter(block_out_channels=SMALL["widths"], use_motion_mid_block=False)
    state = {}
    for name, tensor in load_file(motion).items():
        for old, new in ((".temporal_transformer", ""), ("attention_blocks.0", "attn1"),
                         ("attention_blocks.1", "attn2"), ("norms.0", "norm1"), ("norms.1", "norm2"),
                         ("ff_norm", "norm3")):
            name = name.replace(old, new)
        state[name] = tensor
    missing, _ = adapter.load_state_dict(state, strict=False)
    assert all(name.endswith("pos_embed.pe") for name in missing)
    theirs = diffusers.UNetMotionModel.from_unet2d(image.unet, adapter).eval()
    x, words = torch.randn(1, 4, 5, 8, 8), torch.randn(5, 77, SMALL["text"])
    adapter.save_pretrained(folders / "motion")
    same = [video, load_video(folders / "image", folders / "motion", config=config), load_video(folders / "video")]
    with torch.no_grad():
        expected = theirs(x, 500, words).sample
        assert not torch.allclose(expected, torch.stack([image.unet(x[:, :, i], 500, words[:1]).sample
                                                         for i in range(5)], dim=2), atol=1e-2)
        for pipe in same:
            torch.testing.assert_close(pipe.unet(x, 500, words).sample, expected, rtol=1e-4, atol=1e-4)


def test_the_loaded_pipeline_makes_a_clip(video):
    frames = video("a red kite", num_frames=3, height=64, width=64, num_inference_steps=2, output_type="pt",
                   generator=torch.Generator().manual_seed(1)).frames
    assert frames.shape == (1, 3, 3, 64, 64)
    assert frames.isfinite().all() and frames.std() > 0.01


# --- folders, VAEs

def test_another_motion_module_replaces_that_of_a_folder(folders, config, tmp_path):
    module = random(motion_shapes(SMALL["widths"], 24, middle=True), seed=8)
    pipe = load_video(folders / "video", saved(tmp_path / "v2.safetensors", module), config=config)
    loaded = {name: tensor for name, tensor in pipe.unet.state_dict().items() if "motion_modules." in name}
    assert content(loaded, [".pe"]) == content(module, [".pe"])
    assert pipe.unet.config.motion_max_seq_length == 24


@pytest.mark.parametrize("folder", ["image", "halves"])
def test_a_folder_gives_the_weights_of_its_file(folder, folders, weights, config):
    pipe = load_image(folders / folder, config=config)
    assert content(pipe.unet.state_dict()) == part_of(weights, "model.diffusion_model.")
    assert pipe.safety_checker is None


def test_modelscope_loads_from_a_folder_and_takes_no_motion_module(folders, motion, video, config, tmp_path):
    unet = diffusers.UNet3DConditionModel(
        block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=32, attention_head_dim=8,
        layers_per_block=1, norm_num_groups=32)
    TextToVideoPipeline(video.vae, video.text_encoder, video.tokenizer, unet, video.scheduler).save_pretrained(tmp_path)
    check(tmp_path, image_checkpoint=folders / "image", config=config)
    pipe = load_video(tmp_path, config=config)
    assert type(pipe) is TextToVideoPipeline
    assert content(pipe.unet.state_dict()) == content(unet.state_dict())
    assert "motion_module = " in refusal(check, tmp_path, motion, config=config)
    assert "image_checkpoint = None is missing" in refusal(check, tmp_path, image_lora=[("x", 1)], config=config)


@pytest.mark.parametrize("name, prefix", [("a.safetensors", ""), ("b.vae.pt", "first_stage_model.")])
def test_another_vae_takes_the_place_of_the_checkpoints(name, prefix, checkpoint, motion, config, tmp_path):
    own = random(vae_shapes(SMALL["vae"], prefix), seed=7)
    path = saved(tmp_path / name, own | {"loss.logvar": torch.zeros(())})
    pipe = load_video(checkpoint, motion, vae=path, config=config)
    assert content(pipe.vae.state_dict()) == content(own)


def test_a_vae_may_be_a_folder_and_the_checkpoint_too(checkpoint, folders, motion, config, tmp_path):
    own = random(vae_shapes(SMALL["vae"], ""), seed=7)
    path = saved(tmp_path / "vae.safetensors", own)
    pipe = load_video(folders / "image", motion, vae=path, config=config)
    assert content(pipe.vae.state_dict()) == content(own)
    pipe.vae.save_pretrained(tmp_path / "folder")
    pipe = load_video(checkpoint, motion, vae=tmp_path / "folder", config=config)
    assert content(pipe.vae.state_dict()) == content(own)


def test_a_checkpoint_without_a_vae_needs_one_for_video_alone(weights, motion, config, tmp_path):
    path = saved(tmp_path / "no_vae.safetensors", {n: w for n, w in weights.items() if "first_stage" not in n})
    assert "vae = None is missing" in refusal(load_video, path, motion, config=config)
    vae = saved(tmp_path / "vae.safetensors", random(vae_shapes(SMALL["vae"], "")))
    assert content(load_video(path, motion, vae=vae, config=config).vae.state_dict()) == content(load_file(vae))
    assert load_image(path, config=config).vae is None


# --- LoRA

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "up_blocks.3.resnets.0.conv1"
TEXT = "text_model.encoder.layers.2.self_attn.q_proj"
LAYERS = {ATTENTION: (32, 32), OUT: (64, 64), CONV: (32, 64, 3, 3), TEXT: (32, 32)}


def pairs(rank=4):
    """(up, down) of each layer."""
    made = {}
    for name, (out, *inp) in LAYERS.items():
        made[name] = torch.randn(out, rank, *[1] * (len(inp) - 1)), torch.randn(rank, *inp)
    return made


def kohya(path, made, alpha):
    tensors = {}
    for name, (up, down) in made.items():
        layer = ("lora_te_" if name == TEXT else "lora_unet_") + name.replace(".", "_")
        tensors |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down,
                    f"{layer}.alpha": torch.tensor(float(alpha))}
    return saved(path, tensors)


def peft(path, made, alpha):
    tensors = {}
    for name, (up, down) in made.items():
        layer = ("text_encoder." if name == TEXT else "unet.") + name
        tensors |= {f"{layer}.lora_B.weight": up, f"{layer}.lora_A.weight": down}
    header = {f"{owner}.lora_alpha": alpha for owner in ("unet", "text_encoder")}
    save_file(tensors, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(header)})
    return path


def older(path, made, alpha):
    """diffusers' layouts before peft; they have no alpha."""
    tensors = {}
    for name, (up, down) in made.items():
        if name == TEXT:
            layer = f"text_encoder.{name}.lora_linear_layer"
        elif name == CONV:
            layer = f"unet.{name}.lora"
        else:
            head, tail = name.removesuffix(".0").rsplit(".", 1)
            layer = f"unet.{head}.processor.{tail}_lora"
        tensors |= {f"{layer}.up.weight": up, f"{layer}.down.weight": down}
    return saved(path, tensors)


def of(pipe, name):
    text = dict(pipe.text_encoder.named_parameters())
    if name == TEXT:
        return next(text[key] for key in text if key.endswith(name.removeprefix("text_model.") + ".weight"))
    return pipe.unet.get_parameter(name + ".weight")


@pytest.mark.parametrize("form, alpha, file", [
    (kohya, 2, "style.safetensors"), (kohya, 1, "style.ckpt"), (peft, 8, "style.safetensors"), (older, 4, "style.pt")])
def test_a_lora_changes_the_layers_it_names_by_its_product(
        form, alpha, file, image, checkpoint, motion, config, tmp_path):
    made = pairs(rank=4)
    path = form(tmp_path / file, made, alpha)
    check(checkpoint, motion, image_lora=[(path, 0.5)], config=config)
    pipe = load_image(checkpoint, loras=[(path, 0.5)], config=config)
    for name, (up, down) in made.items():
        product = torch.einsum("or,ri...->oi...", up.flatten(1), down)
        torch.testing.assert_close(of(pipe, name) - of(image, name), 0.5 * alpha / 4 * product, rtol=1e-4, atol=1e-4)
    for part in ("unet", "text_encoder"):
        before, after = (getattr(p, part).state_dict() for p in (image, pipe))
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert len(changed) == {"unet": 3, "text_encoder": 1}[part]
        assert before.keys() == after.keys()


def test_the_original_names_are_those_of_diffusers_layers():
    """Every layer of SD 1.5 by its name in a checkpoint, as LoRAs for ComfyUI and others name it."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(
            diffusers.UNet2DConditionModel.load_config(loading.SD15, subfolder="unet"))
    theirs = {"unet_" + name.replace(".", "_"): layer.weight.shape for name, layer in unet.named_modules()
              if getattr(layer, "weight", None) is not None}
    for spelled in ("model.diffusion_model.{}", "diffusion_model.{}", "lora_unet_{}", "base_model.model.unet.{}", "{}"):
        ours = {}
        for name, shape in unet_shapes(FULL["widths"], FULL["text"]).items():
            if name.endswith(".weight"):
                layer = name.removeprefix("model.diffusion_model.").removesuffix(".weight")
                layer = spelled.format(layer.replace(".", "_") if spelled.endswith("_{}") else layer)
                named, = lora.layers_of({layer + ".lora_down.weight": torch.empty(0)})
                ours[named] = shape
        assert ours.keys() == theirs.keys()
        assert {name: math.prod(shape) for name, shape in ours.items()} == {
            name: math.prod(shape) for name, shape in theirs.items()}


def test_a_lora_of_several_spellings_is_added_as_its_plain_form(checkpoint, motion, config, tmp_path):
    made = pairs(rank=4)
    plain = load_image(checkpoint, loras=[(kohya(tmp_path / "plain.safetensors", made, 4), 1.0)], config=config)
    names = {
        ATTENTION: "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_{}.weight",
        OUT: "unet.base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_{}.weight",
        CONV: "lora_unet_output_blocks_9_0_in_layers_2.lora_{}.weight",
        TEXT: "text_encoder.text_model.encoder.layers.2.self_attn.to_q_lora.{}.weight"}
    tensors = {"bundle_emb.style.clip_l": torch.ones(1, 32)}
    for name, (up, down) in made.items():
        letters = ("B", "A") if name == OUT else ("up", "down")
        tensors |= {names[name].format(letters[0]): up, names[name].format(letters[1]): down}
    torch.save(tensors, tmp_path / "mixed.safetensors")
    check(checkpoint, motion, image_lora=[(tmp_path / "mixed.safetensors", 1.0)], config=config)
    pipe = load_image(checkpoint, loras=[(tmp_path / "mixed.safetensors", 1.0)], config=config)
    for part in ("unet", "text_encoder"):
        assert content(getattr(pipe, part).state_dict()) == content(getattr(plain, part).state_dict())


@pytest.mark.parametrize("tensors, words", [
    ({"lora_unet_x_attn2_to_k.lora_down.weight": torch.ones(1)}, "has a tensor of a wrong shape"),
    ({"lora_unet_x_attn2_to_k.lora_down.weight": torch.ones(())}, "has a tensor of a wrong shape"),
    ({"lora_unet_x_attn2_to_k.lora_down.weight": torch.ones(4, 32, dtype=torch.int8)}, "weights in int8")])
def test_loras_of_strangers_are_refused_in_one_line(tensors, words, checkpoint, motion, config, tmp_path):
    path = saved(tmp_path / "l.safetensors", tensors)
    assert words in refusal(check, checkpoint, motion, image_lora=[(path, 1.0)], config=config)


def test_loras_add_up_and_the_file_stays_as_it_is(image, checkpoint, config, tmp_path, weights):
    a, b = pairs(), pairs()
    loras = [(kohya(tmp_path / "a.safetensors", a, 4), 1.0), (kohya(tmp_path / "b.safetensors", b, 4), -0.3)]
    pipe = load_image(checkpoint, loras=loras, config=config)
    sums = a[TEXT][0] @ a[TEXT][1] - 0.3 * b[TEXT][0] @ b[TEXT][1]
    torch.testing.assert_close(of(pipe, TEXT) - of(image, TEXT), sums, rtol=1e-4, atol=1e-4)
    assert content(load_file(checkpoint)) == content(weights)


@pytest.mark.parametrize("name", [
    "lora_unet_down_blocks_9_attn2_to_k.lora_down.weight", "lora_unet_conv_in.lora_down.weight",
    "lora_te_text_model_encoder_layers_2_mlp_fc1.dora_scale"])
def test_a_lora_of_which_a_part_would_be_lost_is_refused(name, checkpoint, config, tmp_path):
    path = kohya(tmp_path / "odd.safetensors", pairs(), 4)
    saved(path, load_file(path) | {name: torch.zeros(4, 32)})
    layer = name.split(".")[0].removeprefix("lora_").replace("text_model_", "")
    line = refusal(load_image, checkpoint, loras=[(path, 1.0)], config=config)
    assert layer in line.replace("text_model_", "")


# --- ControlNets

@pytest.fixture(scope="module")
def control_weights():
    return random(controlnet_shapes(SMALL["widths"], SMALL["text"]), seed=7)


def test_the_layout_of_controlnets_has_the_number_of_tensors_that_real_files_have():
    assert len(controlnet_shapes(FULL["widths"], FULL["text"])) == 340


@pytest.mark.parametrize("form", ["prefix", "none", "checkpoint", "diffusers"])
def test_every_weight_of_a_controlnet_arrives(form, control_weights, weights, checkpoint, config, tmp_path):
    tensors = {"prefix": control_weights, "checkpoint": {**weights, **control_weights}}.get(form)
    if tensors is None:
        tensors = {name.removeprefix("control_model."): tensor for name, tensor in control_weights.items()}
    path = saved(tmp_path / "control.safetensors", tensors)
    if form == "diffusers":  # the folder, and its file by itself
        load_controlnet(path, checkpoint, config=config).save_pretrained(tmp_path / "folder")
        folder = load_controlnet(tmp_path / "folder", checkpoint, config=config)
        assert content(folder.state_dict()) == content(control_weights)
        path = tmp_path / "folder" / "diffusion_pytorch_model.safetensors"
    network = load_controlnet(path, checkpoint, dtype=torch.float32, config=config)
    assert content(network.state_dict()) == content(control_weights)
    assert not network.training


@pytest.mark.parametrize("change, words", [
    (lambda own: {name: tensor for name, tensor in own.items() if "zero_convs.5.0.w" not in name}, "lacks"),
    (lambda own: {**own, "control_model.more.weight": torch.zeros(1)}, "would stay unused"),
    (lambda own: {**own, "control_model.input_hint_block.0.weight": torch.zeros(16, 6, 3, 3)}, "of shape"),
    (lambda own: {name: tensor.to(torch.uint8) if "zero_convs.0.0.w" in name else tensor
                  for name, tensor in own.items()}, "quantised"),
])
def test_controlnets_of_strangers_are_refused_in_one_line(change, words, control_weights, checkpoint, config, tmp_path):
    path = saved(tmp_path / "odd.safetensors", change(control_weights))
    assert words in refusal(load_controlnet, path, checkpoint, config=config)


@pytest.mark.parametrize("changes, words", [
    ({"block_out_channels": [32, 32, 64, 32]}, "does not fit the checkpoint: its block_out_channels"),
    ({"global_pool_conditions": True}, "takes the mean of its hint over the whole picture (shuffle)"),
    ({"controlnet_conditioning_channel_order": "bgr"}, "another order of channels than RGB"),
    ({"conditioning_channels": 6}, "for hints of 6 channels"),
    ({"conditioning_embedding_out_channels": [16, 32]}, "is for latents of 2 pixels"),
    ({"cross_attention_dim": 2048}, "is a diffusers folder of ControlNetModel for SDXL"),
    ({"_class_name": "ControlNetUnionModel"}, "is a diffusers folder of ControlNetUnionModel"),
])
def test_controlnet_folders_that_do_not_fit_are_refused(changes, words, control_weights, checkpoint, config, tmp_path):
    path = saved(tmp_path / "control.safetensors", control_weights)
    load_controlnet(path, checkpoint, config=config).save_pretrained(tmp_path / "folder")
    file = tmp_path / "folder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    assert words in refusal(check_controlnet, tmp_path / "folder", [checkpoint], config)


# --- what check says

@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Files at full width, of which no byte of data is there to be read."""
    root = tmp_path_factory.mktemp("shelf")
    lora = {f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_{s}.weight": (4, 320) for s in
            ("up", "down")}
    contents = {
        "sd15": checkpoint_shapes(**FULL),
        "sd2": checkpoint_shapes(**FULL | {"text": 1024}),
        "sdxl": unet_shapes(FULL["widths"], 2048) | {"conditioner.embedders.0.transformer.text_model.x": (1,)},
        "inpainting": checkpoint_shapes(**FULL, channels=9),
        "no_text": unet_shapes(FULL["widths"], 768) | vae_shapes(FULL["vae"]),
        "flux": {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
        "v1": motion_shapes(FULL["widths"], 24),
        "v2": motion_shapes(FULL["widths"], 32, middle=True),
        "v3": motion_shapes(FULL["widths"], 32),
        "sdxl_motion": motion_shapes((320, 640, 1280), 32),
        "pia": motion_shapes(FULL["widths"], 32) | {"conv_in.weight": (320, 9, 3, 3)},
        "motion_lora": {"down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0."
                        "processor.to_q_lora.down.weight": (16, 320)},
        "vae": vae_shapes(FULL["vae"], ""),
        "flux_vae": vae_shapes(FULL["vae"], "", latents=16),
        "lora": {name: (4, 768) if "down" in name else (320, 4) for name in lora},
        "sdxl_lora": {name: (4, 2048) if "down" in name else (640, 4) for name in lora},
        "sd2_lora": {f"down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.{side}.weight": shape
                     for side, shape in (("down", (4, 1024)), ("up", (320, 4)))},
        "lyco": {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (320, 4)},
        "controlnet": controlnet_shapes(FULL["widths"], 768),
        "sd2_controlnet": controlnet_shapes(FULL["widths"], 1024),
        "sdxl_controlnet": {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
                            "add_embedding.linear_1.weight": (1280, 2816)},
        "sparsectrl": {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
                       "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)},
        "difference": {"control_model.zero_convs.0.0.weight": (320, 320, 1, 1), "difference": (1,)},
        "control_lora": {"lora_controlnet": (1,), "input_hint_block.0.weight": (16, 3, 3, 3)},
        "t2i": {"body.0.block1.weight": (320, 320, 3, 3)},
        "ip_adapter": {"image_proj.proj.weight": (3072, 1024), "ip_adapter.1.to_k_ip.weight": (320, 768)},
        "lllite": {"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.cond_emb.weight": (32, 32)},
        "embedding": {"emb_params": (8, 768)},
        "unet": {"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)},
        "other": {"a": (1,)},
    }
    for name, shapes in contents.items():
        sparse(root / f"{name}.safetensors", shapes)
    (root / "page.ckpt").write_text("<!DOCTYPE html><html></html>")
    (root / "page.safetensors").write_text("<!DOCTYPE html><html></html>")
    (root / "noise.ckpt").write_bytes(bytes(torch.randint(256, (5000,), generator=torch.Generator().manual_seed(4))))
    (root / "empty").mkdir()
    (root / "torn").mkdir()
    (root / "torn" / "model_index.json").write_text('{"_class_name": "Stable')
    (root / "upscaler").mkdir()
    (root / "upscaler" / "model_index.json").write_text('{"_class_name": "StableDiffusionUpscalePipeline"}')
    whole = (root / "lora.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[:-100])
    return root


@pytest.mark.parametrize("module", ["v1", "v2", "v3"])
def test_files_that_go_together_pass(module, shelf):
    file = {name: shelf / f"{name}.safetensors" for name in ("sd15", "vae", "lora", module)}
    check(file["sd15"], file[module], image_checkpoint=str(file["sd15"]), image_lora=[(file["lora"], 0.7)],
          vae=file["vae"])


@pytest.mark.parametrize("field, name, words", [
    ("checkpoint", "gone.safetensors", "does not exist"),
    ("checkpoint", "sd2.safetensors", "is a checkpoint file for SD 2;"),
    ("checkpoint", "sdxl.safetensors", "is a checkpoint file for SDXL;"),
    ("checkpoint", "inpainting.safetensors", "for inpainting or editing (9 input channels)"),
    ("checkpoint", "no_text.safetensors", "has no text encoder"),
    ("checkpoint", "flux.safetensors", "is a model of another family"),
    ("checkpoint", "v2.safetensors", "is an AnimateDiff motion module for SD 1.5;"),
    ("checkpoint", "lora.safetensors", "is a LoRA for SD 1.5;"),
    ("checkpoint", "vae.safetensors", "is a VAE file;"),
    ("checkpoint", "controlnet.safetensors", "is a ControlNet for SD 1.5;"),
    ("checkpoint", "unet.safetensors", "is the UNet of a diffusers folder (give the whole folder)"),
    ("checkpoint", "other.safetensors", "is no known model file;"),
    ("checkpoint", "page.ckpt", "is damaged or no model file"),
    ("checkpoint", "page.safetensors", "is damaged or no model file"),
    ("checkpoint", "noise.ckpt", "is damaged or no model file"),
    ("checkpoint", "torn", "is a folder without a readable model_index.json"),
    ("checkpoint", "empty", "is a folder without a readable model_index.json"),
    ("checkpoint", "upscaler", "is a diffusers folder of StableDiffusionUpscalePipeline;"),
    ("motion_module", "gone.ckpt", "does not exist"),
    ("motion_module", "sdxl_motion.safetensors", "is an AnimateDiff motion module for SDXL;"),
    ("motion_module", "motion_lora.safetensors", "is an AnimateDiff motion LoRA;"),
    ("motion_module", "pia.safetensors", "holds more than motion (conv_in.weight)"),
    ("motion_module", "sd15.safetensors", "is a checkpoint file for SD 1.5;"),
    ("image_checkpoint", "sdxl.safetensors", "is a checkpoint file for SDXL;"),
    ("image_checkpoint", "v1.safetensors", "is an AnimateDiff motion module for SD 1.5;"),
    ("vae", "sd15.safetensors", "is a checkpoint file for SD 1.5;"),
    ("vae", "flux_vae.safetensors", "is a VAE file for latents of 16 channels;"),
    ("image_lora", "sdxl_lora.safetensors", "is a LoRA for SDXL;"),
    ("image_lora", "sd2_lora.safetensors", "is a LoRA for SD 2;"),
    ("image_lora", "motion_lora.safetensors", "is an AnimateDiff motion LoRA;"),
    ("image_lora", "lyco.safetensors", "is a LyCORIS file (LoHa, LoKr or OFT);"),
    ("image_lora", "embedding.safetensors", "is a textual inversion embedding;"),
    ("image_lora", "cut.safetensors", "is damaged or no model file"),
])
def test_a_wrong_file_is_named_for_what_it_is(field, name, words, shelf):
    chosen = {"checkpoint": shelf / "sd15.safetensors", "motion_module": shelf / "v3.safetensors"}
    chosen |= {field: [(shelf / name, 1.0)] if field == "image_lora" else shelf / name}
    line = refusal(check, **chosen)
    assert line.startswith(f"IV-mixed: {field} = {shelf / name} ")
    assert words in line
    assert line.endswith(f"; expected: {' or '.join(loading.EXPECTED[field])}.")


@pytest.mark.parametrize("name, words", [
    ("gone", "does not exist"), ("sd2_controlnet", "is a ControlNet for SD 2;"),
    ("sdxl_controlnet", "is a ControlNet for SDXL;"), ("difference", "is a ControlNet that holds differences"),
    ("sparsectrl", "is a ControlNet with layers over time (SparseCtrl);"), ("control_lora", "is a Control-LoRA;"),
    ("t2i", "is a T2I-Adapter;"), ("ip_adapter", "is an IP-Adapter;"), ("lllite", "is a ControlNet-LLLite;"),
    ("sd15", "is a checkpoint file for SD 1.5;"), ("lora", "is a LoRA for SD 1.5;"), ("cut", "is damaged")])
def test_what_is_no_controlnet_is_named(name, words, shelf):
    line = refusal(check_controlnet, shelf / f"{name}.safetensors", [shelf / "sd15.safetensors"])
    assert words in line and line.endswith(f"; expected: {' or '.join(loading.EXPECTED['controlnet'])}.")
    check_controlnet(shelf / "controlnet.safetensors", [shelf / "sd15.safetensors"])


def test_a_missing_motion_module_is_asked_for(shelf, folders, config):
    assert "motion_module = None is missing" in refusal(check, shelf / "sd15.safetensors")
    assert "motion_module = None is missing" in refusal(check, folders / "image", config=config)
    check(folders / "video", config=config)
    assert "image_checkpoint = None is missing" in refusal(check, folders / "video", image_lora=[("x", 1.0)])


def test_a_motion_module_of_other_widths_than_a_folders_is_refused(folders, shelf):
    line = refusal(check, folders / "image", shelf / "v3.safetensors")
    assert "for blocks of [320, 640, 1280, 1280] channels" in line


def test_a_folder_without_weights_is_refused(config, shelf, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert "has no weights and config.json in its folder unet" in refusal(check, tmp_path, shelf / "v3.safetensors")


class Trap:
    """Pickled, it asks for a folder to be made when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_ckpt_is_refused_and_not_run(weights, motion, config, tmp_path):
    path = saved(tmp_path / "trap.ckpt", weights, callbacks=Trap(tmp_path / "sprung"))
    for call in (check, load_video):
        assert "Python code besides weights" in refusal(call, path, motion, config=config)
    assert not (tmp_path / "sprung").exists()


# --- manners

def test_loading_is_silent_and_leaves_the_libraries_as_they_were(checkpoint, motion, folders, config, capfd, weights,
                                                                tmp_path):
    logs = (diffusers.utils.logging, transformers.utils.logging)
    lost = saved(tmp_path / "part.safetensors", {n: w for n, w in weights.items() if "encoder.layers.3.mlp" not in n})
    for log in logs:
        log.set_verbosity_info()
    try:
        before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
        capfd.readouterr()
        load_video(checkpoint, motion, config=config)
        load_video(folders / "video", config=config)
        load_image(folders / "image", loras=[(kohya(tmp_path / "l.safetensors", pairs(), 4), 1.0)], config=config)
        refusal(load_image, lost, config=config)
        assert capfd.readouterr() == ("", "")
        assert [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs] == before
    finally:
        for log in logs:
            log.set_verbosity_warning()
