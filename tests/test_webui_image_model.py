"""The image model of one's choice in a WebUI: its own words, LoRAs and checkpoint, against doubles of the hosts."""
import gc
import sys
import weakref

import pytest
import safetensors.torch
import torch
from fastapi import HTTPException

from ivmixed import Schedule, make_plan
from ivmixed.webui.options import WebUIOptions

from .device import DEVICE, watched
from .host import NAME, loaded
from .host.forge_host import loaded_forge
from .test_webui_forge import plan_of as forge_plan
from .test_webui_motion import request, with_modules
from .test_webui_sampler import SMALL, changed_by, moves_and_evaluations, plan_of, watch_sampling

ONE_WINDOW = {"frames": 4, "context": 4, "steps": 3}
LORA = "<lora:glow:0.5>"


@pytest.fixture
def host():
    with loaded() as host:
        yield host


@pytest.fixture
def folder(host, tmp_path):
    """Checkpoints of the host: ``own``, the loaded one, and ``other``; and three LoRAs."""
    torch.manual_seed(5)
    for name, factor in ("own", 0.0), ("other", 1.0):
        state = {key: value + factor * torch.randn_like(value)
                 for key, value in host.model.model.diffusion_model.state_dict().items()}
        tensors = {f"model.diffusion_model.{key}": value for key, value in state.items()}
        tensors["cond_stage_model.transformer.weight"] = 1 + factor * torch.randn(4)
        safetensors.torch.save_file(tensors, tmp_path / f"{name}.safetensors")
    host.sd_models.folder = tmp_path
    host.sd_models.list_models()
    host.model.sd_checkpoint_info = host.sd_models.checkpoint_aliases["own"]
    host.networks = sys.modules["networks"]
    host.networks.on_disk.update(
        glow={"diffusion_model_middle_block_0": torch.randn(4, 1, 1), "transformer": torch.randn(4)},
        haze={"diffusion_model_input_blocks_0_1": torch.randn(4)}, alien={})
    return tmp_path


def contexts(evaluation):
    """The text that the network was given, cond before uncond."""
    return torch.cat([call.context for call in evaluation.calls])


def told(host, prompt, negative, frames):
    return torch.cat([host.encode(text).expand(frames, -1, -1) for text in (prompt, negative)])


# --- words

@pytest.mark.parametrize("options, image", [
    ({"image_prompt": "a sharp photo"}, ("a sharp photo", "blurry")),
    ({"image_negative_prompt": "noise"}, ("a photo of an astronaut", "noise")),
    ({"image_prompt": "a sharp photo", "image_negative_prompt": "noise"}, ("a sharp photo", "noise")),
    ({"image_prompt": "a sharp photo", "interval": [0, 0], "finish_percent": 20}, ("a sharp photo", "blurry")),
])
@pytest.mark.parametrize("batch_cond_uncond", [True, False])
def test_the_image_model_hears_its_own_words(host, options, image, batch_cond_uncond):
    host.shared.opts.batch_cond_uncond = batch_cond_uncond
    p = host.clip(options=options, **ONE_WINDOW)
    host.run(p)
    models = set()
    for move, evaluation in moves_and_evaluations(host, p, WebUIOptions(**options)):
        words = image if move.model == "image" else ("a photo of an astronaut", "blurry")
        assert torch.equal(contexts(evaluation), told(host, *words, 4))
        models.add(move.model)
    assert models == {"image", "video"}
    assert p.extra_generation_params["IV-mixed image prompt"] == options["image_prompt"] if (
        "image_prompt" in options) else "IV-mixed image prompt" not in p.extra_generation_params


def test_the_clips_own_words_make_the_clip_without_any(host):
    same = {"image_prompt": "a photo of an astronaut", "image_negative_prompt": "blurry"}
    clips = [host.run(host.clip(options=options, prompt="a photo of an astronaut", **SMALL))
             for options in ({}, same, {"image_prompt": "a sharp photo"})]
    assert torch.equal(clips[0], clips[1])
    assert (clips[0] - clips[2]).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"interval": [30, 100]}])
def test_prompts_that_change_along_the_clip_are_the_video_models(host, options):
    """AnimateDiff keeps what it hears in the first evaluation, which may be the image model's."""
    options = {**options, "image_prompt": "a sharp photo"}
    p = host.clip(options=options, prompt_map={0: "day", 3: "night"},
                  prompt=lambda frame: "day" if frame < 3 else "night", **ONE_WINDOW)
    host.run(p)
    part = torch.tensor([0, 1 / 3, 2 / 3, 1])[:, None, None]
    day, night = (host.encode(text).expand(4, -1, -1) for text in ("day", "night"))
    for move, evaluation in moves_and_evaluations(host, p, WebUIOptions(**options)):
        clip = torch.lerp(day, night, part)
        expected = host.encode("a sharp photo").expand(4, -1, -1) if move.model == "image" else clip
        torch.testing.assert_close(contexts(evaluation)[:4], expected)


def test_both_passes_of_hires_fix_have_them(host):
    p = host.clip(options={"image_prompt": "a sharp photo"}, enable_hr=True, **ONE_WINDOW)
    host.run(p)
    second = len(host.evaluations) - int(p.extra_generation_params[f"{NAME} hires"].split()[0])
    for evaluations in host.evaluations[:second], host.evaluations[second:]:
        heard = [torch.equal(contexts(evaluation)[:4], host.encode("a sharp photo").expand(4, -1, -1))
                 for evaluation in evaluations]
        assert set(heard) == {True, False}


@pytest.mark.parametrize("options, words", [
    ({"image_prompt": "<hypernet:x:1>"}, "no <hypernet:...>"),
    ({"image_prompt": "<lora:missing:1>"}, "names a LoRA that is not there, missing"),
    ({"image_prompt": "<lora:alien:1>"}, "names a LoRA that fits nothing in the checkpoint, alien"),
    ({"image_checkpoint": "missing"}, "is not in the WebUI's list; allowed: one of other.safetensors, own.safetensors"),
    ({"image_checkpoint": "missing", "form": "VV-VV"}, "is not in the WebUI's list"),
])
def test_what_cannot_be_is_refused_before_the_first_evaluation(host, folder, options, words):
    host.run(host.clip(**ONE_WINDOW))
    p = host.clip(options=options, **ONE_WINDOW)
    before = host.snapshot()
    with pytest.raises(HTTPException) as refused:
        host.run(p)
    assert refused.value.status_code == 422 and words in refused.value.detail
    assert host.evaluations == []
    lists = {f"modules.sd_models.{name}" for name in ("checkpoints_list", "checkpoint_aliases")}  # looked up again
    assert before.changed(host.snapshot()) <= {"mm_animatediff.ad_params", *lists}
    assert host.networks.loaded_networks == []


# --- checkpoint and LoRAs

def by_hand(host, folder, checkpoint="other", loras=()):
    """The weights that the image model must have, as a UNet beside the host's; and its text's."""
    state = safetensors.torch.load_file(folder / f"{checkpoint}.safetensors")
    unet = type(host.model.model.diffusion_model)()
    unet.load_state_dict({key.removeprefix("model.diffusion_model."): value for key, value in state.items()
                          if key.startswith("model.diffusion_model.")})
    text = state["cond_stage_model.transformer.weight"]
    layers = {f"diffusion_model_{name.replace('.', '_')}": layer for name, layer in unet.named_modules()}
    for name, weight in loras:
        for layer, change in host.networks.on_disk[name].items():
            if layer == "transformer":
                text = text + weight * change
            else:
                layers[layer].weight.data += weight * change
    return unet, text


def assert_models(host, p, options, image, text, frames=4, changed_text=True):
    """Every image evaluation is of ``image`` and what ``text`` makes of the words, every other one is not."""
    seen = set()
    for move, evaluation in moves_and_evaluations(host, p, WebUIOptions(**options)):
        seen.add(move.model)
        words = told(host, "a photo of an astronaut", "blurry", frames)
        for call in evaluation.calls:
            with torch.no_grad():
                alike = torch.allclose(call.out, image(call.x, timesteps=call.t, context=call.context), atol=1e-6)
            assert alike == (move.model == "image")
        if move.model == "image":
            torch.testing.assert_close(contexts(evaluation), words * text)
        else:
            assert torch.equal(contexts(evaluation), words)
    assert seen == {"image", "video"}


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
@pytest.mark.parametrize("options", [{}, {"reuse_percent": 50}, {"interval": [0, 0], "finish_percent": 20}])
def test_another_checkpoint_is_the_image_model(host, folder, version, options):
    options = {"image_checkpoint": "other", **options}
    still, clip = host.run(host.still("Euler")), host.run(host.clip(version=version, **ONE_WINDOW))
    left = watch_sampling(host)
    p = host.clip(options=options, version=version, **ONE_WINDOW)
    changed, latents = changed_by(host, p)
    assert_models(host, p, options, *by_hand(host, folder)) if "reuse_percent" not in options else None
    assert changed <= {"mm_animatediff.ad_params"} and left == [set()]
    assert (latents - clip).abs().max() > 1e-3
    assert torch.equal(host.run(host.still("Euler")), still)
    assert torch.equal(host.run(host.clip(version=version, **ONE_WINDOW)), clip)
    assert p.extra_generation_params["IV-mixed image checkpoint"] == "other"


@pytest.mark.parametrize("fields", [ONE_WINDOW, SMALL])
def test_the_loaded_checkpoint_as_another_makes_the_same_clip(host, folder, fields):
    clips = [host.run(host.clip(options=options, **fields)) for options in (
        {}, {"image_checkpoint": "own"}, {"image_checkpoint": "own.safetensors [0123456789]"})]
    assert torch.equal(clips[0], clips[1]) and torch.equal(clips[0], clips[2])


def test_a_checkpoint_is_what_it_holds_whatever_its_name(host, folder):
    options = {"image_checkpoint": "other"}
    clip = host.run(host.clip(options=options, **ONE_WINDOW))
    state = safetensors.torch.load((folder / "other.safetensors").read_bytes())
    torch.save({"state_dict": state, "epoch": 1}, folder / "other.safetensors")
    assert torch.equal(host.run(host.clip(options=options, **ONE_WINDOW)), clip)


def test_a_quantized_checkpoint_is_refused(host, folder):
    state = safetensors.torch.load_file(folder / "other.safetensors")
    whole = {name: tensor.to(torch.int8) for name, tensor in state.items()}
    safetensors.torch.save_file(whole, folder / "whole.safetensors")
    with pytest.raises(HTTPException, match=r"weights in torch\.int8"):
        host.run(host.clip(options={"image_checkpoint": "whole"}, **ONE_WINDOW))


def test_prompts_that_change_along_the_clip_go_through_the_other_text_encoder(host, folder):
    options = {"image_checkpoint": "other"}
    p = host.clip(options=options, prompt_map={0: "day", 3: "night"},
                  prompt=lambda frame: "day" if frame < 3 else "night", **ONE_WINDOW)
    host.run(p)
    part = torch.tensor([0, 1 / 3, 2 / 3, 1])[:, None, None]
    clip = torch.lerp(*(host.encode(text).expand(4, -1, -1) for text in ("day", "night")), part)
    text = by_hand(host, folder)[1]
    for move, evaluation in moves_and_evaluations(host, p, WebUIOptions(**options)):
        expected = clip * text if move.model == "image" else clip
        torch.testing.assert_close(contexts(evaluation)[:4], expected)


def activate(host, *loras):
    """The clip's own LoRAs, as the host does before it encodes the prompt."""
    host.networks.load_networks([name for name, _ in loras], *([weight for _, weight in loras] for _ in range(2)),
                                [None] * len(loras))


@pytest.mark.parametrize("clips, image, own", [
    ([], f"{LORA}", [("glow", 0.5)]),
    ([("haze", 0.8)], LORA, [("haze", 0.8), ("glow", 0.5)]),
    ([("glow", 0.9)], LORA, [("glow", 0.5)]),  # of the same LoRA, the image model has the weight in its own prompt
])
@pytest.mark.parametrize("checkpoint", ["", "other"])
def test_loras_of_the_image_model_alone(host, folder, clips, image, own, checkpoint):
    options = {"image_prompt": f"a photo of an astronaut {image}", "image_checkpoint": checkpoint}
    activate(host, *clips)
    plain = host.run(host.clip("Euler", **ONE_WINDOW))
    host.networks.merged.clear()
    p = host.clip(options=options, prompt="a photo of an astronaut", **ONE_WINDOW)
    host.run(p)
    unet, text = by_hand(host, folder, checkpoint or "own", own)
    clips_text = by_hand(host, folder, "own", clips)[1]
    video = by_hand(host, folder, "own", clips)[0]
    for move, evaluation in moves_and_evaluations(host, p, WebUIOptions(**options)):
        words = told(host, "a photo of an astronaut", "blurry", 4)
        torch.testing.assert_close(contexts(evaluation), words * (text if move.model == "image" else clips_text))
        for call in evaluation.calls:
            with torch.no_grad():
                answer = (unet if move.model == "image" else video)(call.x, timesteps=call.t, context=call.context)
            assert torch.allclose(call.out, answer, atol=1e-6) == (move.model == "image")
    layers = [name for name in host.networks.merged if not name.startswith("transformer")]
    assert len(layers) == len(set(layers)), "put into the image model's weights once, and never into the video model's"
    assert [(network.name, network.unet_multiplier) for network in host.networks.loaded_networks] == clips
    assert torch.equal(host.run(host.clip("Euler", **ONE_WINDOW)), plain)
    assert p.extra_generation_params["IV-mixed image prompt"] == options["image_prompt"]
    assert "Lora hashes" not in p.extra_generation_params


def test_a_prompt_of_loras_alone_leaves_the_words_to_the_clip(host, folder):
    clips = [host.run(host.clip(options={"image_prompt": text}, prompt="a photo of an astronaut", **ONE_WINDOW))
             for text in (LORA, f"a photo of an astronaut {LORA}")]
    assert torch.equal(*clips)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_in_any_evaluation_the_host_has_its_own_weights(host, folder, kind):
    fields = dict(options={"image_checkpoint": "other", "image_prompt": LORA}, **ONE_WINDOW)
    still, mixed = host.run(host.still("Euler")), host.run(host.clip(**fields))
    left = watch_sampling(host)
    for n in range(1, len(host.evaluations) + 1):
        error = kind("from the network")
        host.fail_at = n, 1, error
        changed, _ = changed_by(host, host.clip(**fields), error)
        host.fail_at = None
        assert left.pop() <= {"networks.merged"}
        if kind is not KeyboardInterrupt:
            assert changed <= {"mm_animatediff.ad_params", "networks.merged"}
        assert host.networks.loaded_networks == []
        assert torch.equal(host.run(host.still("Euler")), still)
    assert torch.equal(host.run(host.clip(**fields)), mixed)


def test_after_an_interrupt_the_host_has_its_own_weights(host, folder):
    fields = dict(options={"image_checkpoint": "other"}, **ONE_WINDOW)
    still = host.run(host.still("Euler"))
    p = host.clip(**fields)
    host.run(p)
    for n in range(1, plan_of(host, p).evaluations):
        host.on_evaluated[:] = [lambda count, n=n: count == n and host.shared.state.interrupt()]
        changed, _ = changed_by(host, host.clip(**fields))
        assert len(host.evaluations) == n and changed <= {"mm_animatediff.ad_params", "state.interrupted"}
        host.on_evaluated.clear()
        assert torch.equal(host.run(host.still("Euler")), still)


def test_out_of_memory_with_two_models_they_take_turns(host, folder):
    fields = dict(options={"image_checkpoint": "other"}, **ONE_WINDOW)
    mixed = host.run(host.clip(**fields))
    evaluations = len(host.evaluations)
    for n in range(1, evaluations + 1):
        host.fail_at = n, 1, torch.cuda.OutOfMemoryError("from the network")
        clip = host.run(host.clip(**fields))
        assert torch.equal(clip, mixed) and len(host.evaluations) == evaluations + 1
    assert host.log.lines.count("out of memory with two models: they take turns now, which takes longer") == evaluations
    again = torch.cuda.OutOfMemoryError("again")
    host.fail_at = 1, 1, again
    host.script_callbacks.on_cfg_denoiser(lambda params: setattr(host, "fail_at", (len(host.evaluations), 1, again)))
    with pytest.raises(torch.cuda.OutOfMemoryError, match="again"):
        host.run(host.clip(**fields))
    assert len(host.evaluations) == 2
    host.script_callbacks.callback_map["cfg_denoiser"].pop()
    host.fail_at = None
    assert torch.equal(host.run(host.clip(**fields)), mixed)


@pytest.mark.parametrize("tensors, words", [
    ({"model.diffusion_model.input_blocks.1.attn2.to_k.weight": (8, 2048)}, "is a checkpoint file for SDXL"),
    ({"motion_modules.x": (1,)}, "is an AnimateDiff motion module"),
    ({"model.diffusion_model.input_blocks.1.attn2.to_k.weight": ()}, "has a tensor of a wrong shape"),
    ({"model.diffusion_model.input_blocks.1.attn2.to_k.weight": (8,)}, "has a tensor of a wrong shape"),
    ({"model.diffusion_model.input_blocks.0.0.weight": (3, 1, 1)}, "has other layers than the loaded checkpoint"),
])
def test_a_checkpoint_of_another_kind_is_refused(host, folder, tensors, words):
    safetensors.torch.save_file({name: torch.zeros(shape) for name, shape in tensors.items()},
                                folder / "wrong.safetensors")
    with pytest.raises(HTTPException) as refused:
        host.run(host.clip(options={"image_checkpoint": "wrong"}, **ONE_WINDOW))
    assert refused.value.detail.startswith(f"IV-mixed: image_checkpoint = 'wrong.safetensors' {words}")
    assert host.evaluations == []


@pytest.mark.parametrize("change, words", [
    (lambda host: setattr(host.model, "is_sd1", False), "has no place beside the loaded checkpoint"),
    (lambda host: setattr(sys.modules["modules.sd_unet"], "current_unet", "TensorRT"), "nothing with TensorRT"),
    (lambda host: host.extra_networks.extra_network_registry.clear(), "the WebUI's Lora extension is off"),
])
def test_hosts_that_cannot_have_another_model_say_so(host, folder, change, words):
    change(host)
    with pytest.raises(HTTPException) as refused:
        host.run(host.clip(options={"image_checkpoint": "other", "image_prompt": LORA}, **ONE_WINDOW))
    assert words in refused.value.detail and host.evaluations == []


@pytest.mark.parametrize("error", [None, RuntimeError("from the network")])
def test_its_memory_is_free_after_the_request(host, folder, error):
    """Whoever holds on to the request: the host's objects go round in circles."""
    module, weights = host.module("image_model.swapped"), []
    kind, p = module._Weights, host.clip(options={"image_checkpoint": "other"}, **ONE_WINDOW)
    made = kind.__init__

    def noting(self, *args):
        made(self, *args)
        weights.extend(map(weakref.ref, module._parameters(self.states)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "__init__", noting)
        if error is None:
            host.run(p)
        else:
            host.fail_at = 3, 1, error
            with pytest.raises(RuntimeError):
                host.run(p)
            error.__traceback__ = None
    host.fail_at = None
    host.evaluations.clear()
    gc.collect()
    assert weights and not any(reference() for reference in weights)
    assert host.run(host.clip(**ONE_WINDOW)) is not None and (p.sampler is None) == (error is not None)


class Weight:
    """A parameter on `DEVICE` or in memory; PyTorch lets none of its own go from the one to the other."""

    def __init__(self, data):
        self.data, self._version = data, 0

    def __getattr__(self, name):
        return getattr(self.data, name)

    def add_(self, value):
        """An operation in place: PyTorch counts these."""
        self.data.add_(value)
        self._version += 1


@pytest.fixture
def turns(host):
    """(a layer on `DEVICE`, other weights for it, as they are in memory)."""
    swapped = host.module("image_model.swapped")
    layer = torch.nn.Linear(4, 3, device=DEVICE)
    weights = swapped._Weights(swapped._layers(layer, ""), {"weight": torch.randn(3, 4), "bias": torch.randn(3)}, None)
    for state in (vars(layer), weights.states[0]):
        state["_parameters"] = {name: Weight(parameter.data) for name, parameter in state["_parameters"].items()}
    return layer, weights, [parameter.data for parameter in swapped._parameters(weights.states)]


def test_models_that_take_turns_are_copied_one_way(turns):
    """To the device each time; from it the host's weights once, and then what was changed there, by a LoRA say."""
    layer, weights, in_memory = turns
    size, own = weights.size, layer._parameters

    def turn(change=None):
        with watched() as seen:
            with weights.exchanged(beside=False):
                assert layer._parameters["weight"].is_meta and not own["weight"].is_meta
                if change is not None:
                    change(layer._parameters)
            assert layer._parameters is own and own["weight"].is_meta and not ours["weight"].is_meta
        return seen.there, seen.back

    ours = weights.states[0]["_parameters"]
    assert [turn(), turn(), turn()] == [(2 * size, size), (2 * size, 0), (2 * size, 0)]
    assert all(ours[name].data is tensor for name, tensor in zip(ours, in_memory))
    assert [turn(lambda now: now["weight"].add_(1))[1], turn()[1]] == [48, 0]
    assert [turn(lambda now: setattr(now["bias"], "data", now["bias"].half()))[1], turn()[1]] == [6, 0]
    own["weight"].add_(1)
    assert [turn()[1], turn()[1]] == [48, 0]


def test_a_model_that_stays_beside_is_copied_there_once_and_never_back(turns):
    layer, weights, in_memory = turns
    with watched() as seen:
        for _ in range(3):
            with weights.exchanged(beside=True):
                assert layer._parameters["weight"].is_meta
        weights.leave()
    assert (seen.there, seen.back) == (weights.size, 0)
    assert all(weight.data is tensor for weight, tensor in zip(weights.states[0]["_parameters"].values(), in_memory))


def test_every_change_of_a_parameter_is_seen(host):
    mark = host.module("image_model.swapped")._mark
    weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    marks = [mark(weight)]
    assert mark(weight) == marks[0]
    weight.copy_(torch.zeros(3))
    marks.append(mark(weight))
    weight.data = weight.data.clone()
    marks.append(mark(weight))
    weight.data = weight.data.half()
    marks.append(mark(weight))
    with torch.inference_mode():
        uncounted = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    assert len(set(marks)) == 4 and mark(uncounted) != mark(uncounted)


def test_weights_are_copied_as_they_are_into_one_block_of_each_kind(host):
    packed = host.module("image_model.swapped")._packed
    tensors = [torch.randn(2, 3), torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last),
               torch.randn(5).half(), torch.tensor(1.5)]
    cpu = torch.device("cpu")
    copies = packed(tensors, [(torch.float32, cpu), (torch.float32, cpu), (torch.float32, cpu), (torch.float16, cpu)])
    for copy, tensor in zip(copies, tensors):
        assert torch.equal(copy, tensor.to(copy.dtype)) and copy.stride() == tensor.stride()
    assert [copy.dtype for copy in copies] == [torch.float32] * 3 + [torch.float16]
    assert len({copy.untyped_storage().data_ptr() for copy in copies[:3]}) == 1
    assert all(copy.data_ptr() != tensor.data_ptr() for copy, tensor in zip(copies, tensors))
    assert packed([], []) == []


# --- ControlNet, and guidance 1

@pytest.mark.parametrize("kind", ["ControlNet", "LLLite"])
@pytest.mark.parametrize("model", ["both", "video", "image"])
def test_controls_act_on_the_model_of_choice(host, kind, model):
    images = torch.randn(8, 4, 4, 4)
    if kind == "LLLite":
        control = host.controlnet.ControlParams(kind, control_model=host.controlnet.PlugableControlLLLite(images))
        images = torch.tanh(images)
    else:
        control = host.controlnet.ControlParams(kind, host.controlnet.Hint(images, torch.device("cpu")))
    acted = []
    unet = host.model.model.diffusion_model
    plain = type(unet).forward
    watched = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(unet), "forward", lambda self, x, timesteps=None, context=None: (
            watched.update(x=x), plain(self, x, timesteps=timesteps, context=context))[1])
        network = host.model.apply_model

        def apply_model(x, t, cond):
            out = network(x, t, cond)
            acted.append(not torch.equal(watched["x"], x))
            torch.testing.assert_close(watched["x"], x + 0.1 * images * acted[-1])
            return out

        patch.setattr(host.model, "apply_model", apply_model)
        options = {"controlnet": model, "finish_percent": 20}
        p = host.clip(options=options, controls=[control], **ONE_WINDOW)
        host.run(p)
    plan = plan_of(host, p, WebUIOptions(**options))
    assert plan.finishing_steps
    assert acted == [model in ("both", move.model) for move in plan.moves]
    assert p.extra_generation_params.get("IV-mixed ControlNet") == (None if model == "both" else model)


@pytest.mark.parametrize("options", [{"image_prompt": "a castle"}, {"image_checkpoint": "other"}])
def test_controlnet_can_tell_the_image_models_words_apart(host, folder, options):
    sys.modules["scripts.hook"] = host.controlnet
    marks = []
    host.script_callbacks.on_cfg_denoiser(lambda params: None)
    control = host.controlnet.ControlParams("ControlNet", host.controlnet.Hint(torch.randn(1, 4, 4, 4),
                                                                               torch.device("cpu")))
    p = host.clip(options=options, controls=[control], **ONE_WINDOW)
    file = host.module("image_model.conds")
    with pytest.MonkeyPatch.context() as patch:
        wrap = file.ImageConds.wrap_callback
        patch.setattr(file.ImageConds, "wrap_callback", lambda self, *args: (marks.append(
            {name: {schedule.positive for schedule in conds} for name, conds in self.args.items()}),
            wrap(self, *args))[1])
        host.run(p)
    expected = {"cond": {True}, "uncond": {False}}
    assert marks and all(mark == {name: expected[name] for name in mark} for mark in marks)


@pytest.mark.parametrize("built_in", [True, False])
@pytest.mark.parametrize("cfg_scale, options, alone", [
    (7.0, {}, ()), (1.0, {}, ("ordinary",)), (1.0, {"gamma_go": 1}, ("ordinary", "go")),
    (1.0, {"gamma_go": 1, "reuse_percent": 50}, ()), (1.0, {"interval": (0, 0), "finish_percent": 20}, ("ordinary",)),
])
def test_guidance_1_costs_one_network_pass(host, tmp_path, monkeypatch, built_in, cfg_scale, options, alone):
    """AnimateDiff's windows need the negative prompt's rows all the same."""
    if built_in:
        with_modules(host, tmp_path)

    def clip():
        p = request(host, NAME, options=options) if built_in else host.clip(options=options, **ONE_WINDOW)
        p.cfg_scale = cfg_scale
        return host.run(p), p

    latents, p = clip()
    sigmas = p.sampler.get_sigmas(p, p.steps)
    video = Schedule.from_sigmas(p.sampler.model_wrap.sigmas.tolist())
    image = Schedule.from_sigmas(host.denoiser().sigmas.tolist())
    plan = make_plan(WebUIOptions(**options), sigmas.tolist(), video, image)
    for move, evaluation in zip(plan.moves, host.evaluations, strict=True):
        rows = sum(len(call.x) for call in evaluation.calls)
        one = move.kind in alone and (built_in or move.model == "image")
        assert rows == (4 if one else 8 if move.evaluates else 0)
    assert "Skip Early CFG" not in p.extra_generation_params
    monkeypatch.setattr(host.module("hosts.a1111").A1111Strategy, "_cond_alone", lambda self, move: False)
    torch.testing.assert_close(clip()[0], latents, rtol=1e-3, atol=1e-3)


# --- the Forge family

@pytest.mark.parametrize("kind", ["forge_previous", "forge_main", "classic"])
@pytest.mark.parametrize("cfg_scale", [7.0, 1.0])
def test_the_image_model_hears_its_own_words_on_forge(kind, cfg_scale):
    options = {"image_prompt": "a sharp photo", "image_negative_prompt": "noise"}
    with loaded_forge(kind) as host:
        p = host.clip(options=options, cfg_scale=cfg_scale, **ONE_WINDOW)
        host.run(p)
        plan = forge_plan(host, WebUIOptions(**options))
        for move, evaluation in zip(plan.moves, host.evaluations, strict=True):
            image = move.model == "image"
            cond, uncond = ("a sharp photo", "noise") if image else ("a photo of an astronaut", "blurry")
            words = told(host, uncond, cond, 4)  # uncond comes first
            heard = contexts(evaluation)
            assert torch.equal(heard, words[-len(heard):]) and (len(heard) == 8 or move.kind == "ordinary")
