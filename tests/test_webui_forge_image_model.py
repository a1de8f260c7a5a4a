"""The image model of one's choice on the Forge family: checkpoint, LoRAs, controls; and deep features kept."""
import sys
import weakref
from types import SimpleNamespace
from typing import ClassVar

import pytest
import safetensors.torch
import torch
from fastapi import HTTPException

from ivmixed.webui.options import WebUIOptions

from .host import NAME
from .host.forge_host import HOSTS, across, loaded_forge
from .test_webui_forge import REQUEST, plan_of
from .test_webui_motion import request, with_modules

ONE_WINDOW = {"frames": 4, "context": 4, "steps": 3}
WORDS = "a photo of an astronaut"


@pytest.fixture(params=HOSTS)
def host(request, tmp_path):
    """A host with its checkpoints, ``own``, the loaded one, and ``other``; and three LoRAs."""
    with loaded_forge(request.param) as host:
        host.base.Block.reads_modifiers = True
        torch.manual_seed(5)
        for name, factor in ("own", 0.0), ("other", 1.0):
            unet = host.network.diffusion_model.state_dict()
            tensors = {f"model.diffusion_model.{key}": value + factor * torch.randn_like(value)
                       for key, value in unet.items()}
            tensors["cond_stage_model.transformer.weight"] = 1 + factor * torch.randn(4)
            safetensors.torch.save_file(tensors, tmp_path / f"{name}.safetensors")
        host.sd_models.folder = tmp_path
        host.sd_models.list_models()
        host.model.sd_checkpoint_info = host.sd_models.checkpoint_aliases["own"]
        host.networks = sys.modules["networks"]
        host.networks.on_disk.update(
            glow={"diffusion_model.middle_block.0.weight": torch.randn(4, 1, 1),
                  "transformer.weight": torch.randn(4)},
            haze={"diffusion_model.input_blocks.0.1.weight": torch.randn(4)}, alien={"x": torch.ones(1)})
        yield host


def by_hand(host, checkpoint="other", loras=()):
    """(the UNet that the image model must be, what its text encoder makes of a text)."""
    tensors = safetensors.torch.load_file(f"{host.sd_models.folder}/{checkpoint}.safetensors")
    model = host.sd_model_type.from_tensors(tensors)
    unet, text = model.forge_objects.unet.model, model.forge_objects.clip.patcher.model
    with torch.no_grad():
        for name, weight in loras:
            for key, value in host.networks.on_disk[name].items():
                {**dict(unet.named_parameters()), **dict(text.named_parameters())}[key].add_(weight * value)
    return unet.diffusion_model, lambda words: host.encode(words) * text.transformer.weight.detach()


def asked(host, p, options):
    """The moves of a run, with the network's calls."""
    return list(zip(plan_of(host, WebUIOptions(**options)).moves, host.evaluations, strict=True))


def loras(**weights):
    return {"lora": [SimpleNamespace(positional=[name, str(weight)]) for name, weight in weights.items()]}


# --- checkpoint and LoRAs

LORAS = [
    ({}, "", []), ({}, "<lora:glow:0.5>", [("glow", 0.5)]),
    ({"glow": 0.9}, "<lora:glow:0.5>", [("glow", 0.5)]),  # of the same LoRA, the image model has its own weight
    ({"glow": 0.9}, "", [("glow", 0.9)]),
]
BOTH = {"haze": 0.8}, "<lora:glow:0.5>", [("haze", 0.8), ("glow", 0.5)]


@pytest.mark.parametrize("host, checkpoint, clips, asked_for, own", across(
    [("other", *BOTH)], [(checkpoint, *case) for checkpoint in ("", "other") for case in LORAS] + [("", *BOTH)],
), indirect=["host"])
def test_the_image_model_is_the_chosen_checkpoint_with_its_loras(host, checkpoint, clips, asked_for, own):
    options = {"image_checkpoint": checkpoint, "image_prompt": asked_for, "finish_percent": 20}
    fields = dict(extra_network_data=loras(**clips), prompt=WORDS, **ONE_WINDOW)
    plain = host.run(host.clip("Euler", **fields))
    loaded, targets = host.networks.loaded_networks[:], host.model.current_lora_hash
    p = host.clip(options=options, **fields)
    host.run(p)
    video, of_clip = by_hand(host, "own", clips.items())
    image, of_image = by_hand(host, checkpoint or "own", own if checkpoint or asked_for else clips.items())
    answers = {"image": 0, "video": 0}
    for move, evaluation in asked(host, p, options):
        words = of_image if move.model == "image" else of_clip
        for call in evaluation.calls:
            torch.testing.assert_close(call.context[-4:], words(WORDS).expand(4, -1, -1))
            with torch.no_grad():
                right, wrong = (unet(call.x, call.t, call.context) for unet in (image, video))
            assert torch.allclose(call.out, right, atol=1e-6) == (move.model == "image")
            if move.model == "image" and (checkpoint or asked_for):
                assert not torch.allclose(right, wrong, atol=1e-3)
            answers[move.model] += 1
    assert all(answers.values())
    assert [network.mentioned_name for network in host.networks.loaded_networks] == [
        network.mentioned_name for network in loaded]
    assert host.model.current_lora_hash == targets
    assert torch.equal(host.run(host.clip("Euler", **fields)), plain)
    assert p.extra_generation_params.get("IV-mixed image checkpoint") == (checkpoint or None)


def test_the_loaded_checkpoints_own_file_makes_the_clip_without_any(host):
    clips = [host.run(host.clip(options={"image_checkpoint": name}, **ONE_WINDOW)) for name in ("", "own", "other")]
    assert torch.equal(clips[0], clips[1])
    assert (clips[0] - clips[2]).abs().max() > 1e-3


def test_both_passes_of_hires_fix_have_it_read_once(host):
    p = host.clip(options={"image_checkpoint": "other"}, enable_hr=True, hr_cfg=5, **ONE_WINDOW)
    host.run(p)
    image, _ = by_hand(host)
    second = len(host.evaluations) - int(p.extra_generation_params[f"{NAME} hires"].split()[0])
    for evaluations in host.evaluations[:second], host.evaluations[second:]:
        with torch.no_grad():
            by = [torch.allclose(call.out, image(call.x, call.t, call.context), atol=1e-6)
                  for evaluation in evaluations for call in evaluation.calls]
        assert set(by) == {True, False}
    assert sum("image model: other.safetensors" in line for line in host.log.lines) == 1


@pytest.mark.parametrize("host", HOSTS[:1], indirect=True)  # of all of them
def test_a_finish_of_all_steps_within_its_table_has_its_checkpoint(host):
    """The steps above it are the video model's, so that there is motion to average along."""
    options = {"image_checkpoint": "other", "interval": (0, 0), "finish_percent": 100, "finish_smoothing": 100,
               "above_sigma_max": "skip"}
    p = host.clip(options=options, **ONE_WINDOW)
    host.run(p)
    image, _ = by_hand(host)
    models = set()
    for move, evaluation in asked(host, p, options):
        models.add(move.model)
        for call in evaluation.calls:
            with torch.no_grad():
                by = torch.allclose(call.out, image(call.x, call.t, call.context), atol=1e-6)
            assert by == (move.model == "image")
    assert models == {"image", "video"}


def test_tiling_and_windows_are_those_of_the_clip(host, tmp_path):
    """Built-in motion takes as many frames at a time as the motion module sees."""
    host.animatediff = None
    with_modules(host, tmp_path)
    seen = []
    made = host.module("image_model.loaded").LoadedImageModel.chosen

    def chosen(self, p):
        seen.append(self.sd_model)
        return made(self, p)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host.module("image_model.loaded").LoadedImageModel, "chosen", chosen)
        p = request(host, NAME, options={"image_checkpoint": "other"}, frames=8, context=4)
        p.tiling = True
        host.run(p)
    assert [model.tiling_enabled for model in seen] == [True]
    image = [len(call.x) for evaluation in host.evaluations for call in evaluation.calls
             if torch.allclose(call.out, by_hand(host)[0](call.x, call.t, call.context).detach(), atol=1e-6)]
    assert image and max(image) <= 8


@pytest.mark.parametrize("host, options, words", across([
    ({"image_prompt": "<lora:missing:1>"}, "names a LoRA that is not there, missing"),
    ({"image_checkpoint": "half"}, "cannot be loaded"),
], [
    ({"image_prompt": "<lora:alien:1>"}, "names a LoRA that fits nothing in the checkpoint, alien"),
    ({"image_prompt": "<hypernet:x:1>"}, "no <hypernet:...>"),
    ({"image_checkpoint": "missing"}, "is not in the WebUI's list; allowed: one of half.safetensors, other.safetens"),
    ({"image_checkpoint": "xl"}, "is a checkpoint file for SDXL"),
]), indirect=["host"])
def test_what_cannot_be_is_refused_before_the_first_evaluation(host, tmp_path, options, words):
    for name, key, shape in (("xl", "model.diffusion_model.input_blocks.1.attn2.to_k.weight", (8, 2048)),
                             ("half", "model.diffusion_model.input_blocks.0.0.weight", (3, 1, 1))):
        safetensors.torch.save_file({key: torch.zeros(shape)}, tmp_path / f"{name}.safetensors")
    still, _ = host.run(host.still("Euler")), host.run(host.clip("Euler", **ONE_WINDOW))
    before = host.snapshot()
    with pytest.raises(HTTPException) as refused:
        host.run(host.clip(options=options, **ONE_WINDOW))
    assert refused.value.status_code == 422 and words in refused.value.detail
    assert host.evaluations == []
    looked_up = {"modules.sd_models.checkpoints_list", "modules.sd_models.checkpoint_aliases",
                 "networks.available_network_aliases"}
    assert before.changed(host.snapshot()) <= REQUEST | looked_up
    assert torch.equal(host.run(host.still("Euler")), still)


def test_no_image_evaluations_no_image_model(host):
    expected = host.run(host.clip(options={"form": "VV-VV"}, **ONE_WINDOW))
    options = {"form": "VV-VV", "image_checkpoint": "other"}
    assert torch.equal(host.run(host.clip(options=options, **ONE_WINDOW)), expected)
    assert not any("image model" in line for line in host.log.lines)


@pytest.mark.parametrize("host, kind", across(
    [(torch.OutOfMemoryError,)], [(None,), (RuntimeError,), (None,)]), indirect=["host"])  # None: an interrupt
def test_afterwards_the_host_is_as_before_and_its_memory_free(host, kind):
    fields = dict(options={"image_checkpoint": "other", "image_prompt": "<lora:glow:0.5>"}, **ONE_WINDOW)
    still, mixed = host.run(host.still("Euler")), host.run(host.clip(**fields))
    count = len(host.evaluations)
    network = []
    load = host.sd_model_type.from_tensors.__func__

    def noting(cls, tensors):
        model = load(cls, tensors)
        network.append(weakref.ref(model.forge_objects.unet.model))
        return model

    host.sd_model_type.from_tensors = classmethod(noting)
    for tried, n in enumerate((1, 2, count), 1):  # an evaluation of either model, and the last
        before = host.snapshot()
        if kind is None:
            host.on_evaluated[:] = [lambda done, n=n: done == n and host.shared.state.interrupt()]
            host.run(host.clip(**fields))
            host.on_evaluated.clear()
        else:
            host.fail_at = n, 1, kind("from the network")
            with pytest.raises(kind):
                host.run(host.clip(**fields))
            host.fail_at = None
        allowed = REQUEST | {"networks.available_network_aliases", "state.interrupted"}
        if host.kind == "forge_previous" and kind is None:  # where the host puts its tables back itself
            allowed |= {f"{part}._buffers{place}" for part in ("table", "sd_model")
                        for place in ("", "[sigmas]", "[log_sigmas]", "[alphas_cumprod]")}
        assert before.changed(host.snapshot()) <= allowed
        own = [entry.model.model for entry in host.model_management.current_loaded_models]
        assert all(part in (host.network, host.model.forge_objects.clip.patcher.model) for part in own)
        assert torch.equal(host.run(host.still("Euler")), still)
        assert len(network) == tried and network[-1]() is None
    assert not any(reference() for reference in network)
    assert torch.equal(host.run(host.clip(**fields)), mixed)


# --- controls

class IPAdapter:
    """What IP-Adapter puts in the place of an attention to the text."""

    acted: ClassVar[list[str]] = []  # clones of the UNet's patcher have copies of it

    def __call__(self, context):
        self.acted.append("IP-Adapter")
        return context.mean(dim=1) * 0.5


IPAdapter.__module__ = "lib_ipadapter.IPAdapterPlus"


@pytest.mark.parametrize("host, model, reuse_percent", across(
    [("video", 50)], [("both", 0), ("video", 0), ("image", 0), ("both", 50), ("image", 50)]), indirect=["host"])
def test_controls_act_on_the_model_of_choice(host, model, reuse_percent):
    acted, patched = IPAdapter.acted, []

    def control(rows):
        acted.append("ControlNet")
        return torch.ones(rows, 4, 4, 4)

    def another(context):
        patched.append(len(host.evaluations))
        return context.mean(dim=1)

    unet = host.model.forge_objects_after_applying_lora.unet
    unet.controlnet_linked_list = control
    unet.set_model_attn2_replace(IPAdapter(), "middle", 0)
    unet.set_model_attn2_replace(another, "output", 0)
    options = {"controlnet": model, "reuse_percent": reuse_percent, "finish_percent": 20}
    p = host.clip(options=options, **ONE_WINDOW)
    by_evaluation = []
    host.on_evaluated.append(lambda n: (by_evaluation.append(set(acted)), acted.clear()))
    host.run(p)
    for (move, _), seen in zip(asked(host, p, options), by_evaluation, strict=True):
        acts = move.evaluates and model in ("both", move.model)
        assert seen == ({"ControlNet", "IP-Adapter"} if acts else set())
    assert set(patched) == {n for n, (move, _) in enumerate(asked(host, p, options), 1) if move.evaluates}
    assert unet.controlnet_linked_list is control


# --- deep features

def deep_and_rest(network, x, t, context, deep=None):
    """(what the layers but the outermost give, what the UNet makes of it), ``deep`` in its place."""
    emb = torch.stack([(t * rate).sin() for rate in (0.001, 0.01, 0.1, 0.7)], dim=1)
    blocks = (*network.input_blocks, network.middle_block, *network.output_blocks)
    with torch.no_grad():
        for number, block in enumerate(blocks[:-1]):
            x = block(x, emb, context, {"block": number})
        deep = x if deep is None else deep
        x = blocks[-1](deep, emb, context, {"block": len(blocks) - 1})
        return deep, torch.tanh(network.out(x) * 0.5)


@pytest.mark.parametrize("host, options, fits", across(
    [({"form": "II-II", "reuse_percent": 50}, False),
     ({"form": "II-II", "reuse_percent": 50, "image_checkpoint": "other"}, True)],
    [({"form": "II-II", "reuse_percent": 75}, True), ({"form": "II-II", "reuse_percent": 75}, False),
     ({"form": "II-II", "reuse_percent": 50, "guidance_rescale": 0.5}, True),
     ({"form": "II-II", "reuse_percent": 50, "guidance_rescale": 0.5}, False)]), indirect=["host"])
def test_features_that_serve_again_are_those_of_the_latest_evaluation(host, options, fits):
    host.shared.fits_in_memory = fits
    options = {"reused": "features", **options}
    p = host.clip(options=options, **{**ONE_WINDOW, "steps": 5})
    host.run(p)
    network = by_hand(host)[0] if "image_checkpoint" in options else host.network.diffusion_model
    latest, shallow = [], 0
    evaluations = iter(host.evaluations)
    for move in plan_of(host, WebUIOptions(**options)).moves:
        evaluation = next(evaluations)
        if "guidance_rescale" in options and move.kind != "ordinary":
            assert next(evaluations).calls == []  # about guidance 1, from memory
        if move.model != "image":
            continue
        if not move.reuse:
            latest = [deep_and_rest(network, call.x, call.t, call.context)[0] for call in evaluation.calls]
        for call, deep in zip(evaluation.calls, latest, strict=True):
            again = deep if move.reuse else None
            torch.testing.assert_close(call.out, deep_and_rest(network, call.x, call.t, call.context, again)[1])
        shallow += move.reuse == "features"
    assert shallow > 0


def test_features_of_the_video_model_have_its_motion(host):
    """Motion in the deep layers is in what is kept; behind the last of them, and further out, it acts anew."""
    options = {"reused": "features", "form": "VV-VV", "reuse_percent": 50}
    calls = []
    host.motion.mm_animatediff.load("v3")
    for number, block in enumerate(host.motion.mm_animatediff.mm.blocks):
        block.register_forward_hook(lambda *args, number=number: calls.append((len(host.evaluations), number)))
    p = host.clip(options=options, **ONE_WINDOW)
    latents = host.run(p)
    for n, (move, _) in enumerate(asked(host, p, options), 1):
        assert {number for evaluation, number in calls if evaluation == n} == (
            {0, 3, 4} if move.reuse == "features" else {0, 1, 2, 3, 4})
    whole = host.run(host.clip(options={"form": "VV-VV"}, **ONE_WINDOW))
    assert latents.isfinite().all() and not torch.equal(latents, whole)


def test_other_rows_than_were_kept_are_evaluated_whole(host):
    """The host batches cond and uncond by the memory that is free just then."""
    host.on_evaluated.append(lambda n: setattr(host.shared, "fits_in_memory", n % 2 == 0))
    options = {"reused": "features", "form": "II-II", "reuse_percent": 50}
    p = host.clip(options=options, **ONE_WINDOW)
    host.run(p)
    compared = 0
    for move, evaluation in asked(host, p, options):
        if move.model == "image" and move.reuse:
            for call in evaluation.calls:
                whole = torch.equal(call.out, host.unet(call.x, call.t, call.context))
                compared += whole
    assert compared > 0


def test_other_rows_than_were_kept_have_motion_behind_all_layers(host):
    host.on_evaluated.append(lambda n: setattr(host.shared, "fits_in_memory", n % 3 == 0))
    host.motion.mm_animatediff.load("v3")
    ran = {"layer": 0, "motion": 0}

    def count(name):
        return lambda *args: ran.update({name: ran[name] + 1})

    host.network.diffusion_model.middle_block[0].register_forward_hook(count("layer"))
    host.motion.mm_animatediff.mm.blocks[2].register_forward_hook(count("motion"))
    host.run(host.clip(options={"reused": "features", "form": "VV-VV", "reuse_percent": 50}, **ONE_WINDOW))
    assert ran["layer"] == ran["motion"] > 0


def test_windows_elsewhere_in_every_step_have_no_features_in_common(host):
    with pytest.raises(HTTPException, match=r"reuse_percent = 75\.0 cannot be used with reused = 'features'"):
        host.run(host.clip(options={"reused": "features", "reuse_percent": 75}, frames=8, context=4, steps=3))


@pytest.mark.parametrize("host", HOSTS[:1], indirect=True)  # of all of them
def test_a_controls_part_in_the_deep_layers_is_left_out(host):
    module = host.module("extensions.forge_controlnet")
    control = {"input": ["i3", "i2", "i1"], "middle": ["m"], "output": ["o1", "o2", "o3"]}
    kept = module.outermost(control)
    assert kept == {"input": [None, None, "i1"], "middle": [], "output": ["o1", None, None]}
    assert [kept["input"].pop() for _ in range(3)] == ["i1", None, None]  # as the UNet takes them
    assert module.outermost({"output": ["o1"]}) == {"input": [], "middle": [], "output": ["o1"]}


def test_options_that_are_wrong_are_refused_beside_another_image_model(host):
    """They are read before the sampling, to know whether the image model will be asked."""
    options = {"image_checkpoint": "other", "z_percent": 101}
    with pytest.raises(host.sampler.RefusedError, match="z_percent = 101"):
        host.run(host.clip(options=options, frames=4, context=4, steps=3))
