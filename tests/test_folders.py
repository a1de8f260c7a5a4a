"""Diffusers folders as strangers make them: every part whole, by content, and none of their code run."""
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ivmixed.standalone import folders
from ivmixed.standalone.loading import LoadError, check, load_image, load_video, most_frames, noise

from . import tiny

UNET = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of each kind of pipeline."""
    root = tmp_path_factory.mktemp("folders")
    for name, make in (("image", tiny.stable_diffusion), ("video", tiny.animatediff), ("modelscope", tiny.modelscope)):
        tiny.saved(root / name, make())
    return root


@pytest.fixture
def copy(saved, tmp_path):
    def copied(name: str = "image") -> Path:
        return Path(shutil.copytree(saved / name, tmp_path / name))

    return copied


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path, words: str, load: object = load_image) -> str:
    with pytest.raises(LoadError) as error:
        load(folder)
    line = str(error.value)
    assert words in line and "\n" not in line and len(line) < 900, line
    return line


# --- whole, by content

@pytest.mark.parametrize("name, part", [
    ("image", "unet"), ("image", "vae"), ("image", "text_encoder"), ("video", "unet"), ("video", "motion_adapter"),
    ("modelscope", "unet"), ("modelscope", "text_encoder")])
@pytest.mark.parametrize("harm, words", [
    ("lost", "lacks 1 of its"), ("more", "would stay unused"), ("shape", "in place of"), ("empty", "has no weights")])
def test_a_part_that_is_not_whole_is_refused_before_anything_is_loaded(name, part, harm, words, copy):
    folder = copy(name)
    file = next((folder / part).glob("*.safetensors"))
    weights = load_file(file)
    key = sorted(weights)[0]
    if harm == "lost":
        del weights[key]
    elif harm == "more":
        weights["layers.evil.weight"] = torch.zeros(2)
    elif harm == "shape":
        weights[key] = weights[key][..., :1].repeat(2, *[1] * (weights[key].ndim - 1)).contiguous()
    file.unlink()
    if harm != "empty":
        save_file(weights, file)
    load = load_image if name == "image" else load_video
    line = refused(folder, words, load)
    assert part in line
    with pytest.raises(LoadError, match=words):
        check(folder, image_checkpoint=folder if name == "image" else None)


@pytest.mark.parametrize("harm, words", [
    ("none", "has no tokenizer/"), ("vocabulary", "vocabulary has gaps"), ("short", "words, and a text encoder"),
    ("merge", "merges do not fit"), ("unmerged", "without the merges"), ("no merges", "has no tokenizer/merges.txt"),
    ("mark", "without its eos_token"), ("text", "is no JSON"), ("code", "auto_map")])
def test_a_tokenizer_that_is_not_whole_is_refused(harm, words, copy):
    folder = copy()
    path = folder / "tokenizer"
    vocabulary = json.loads((path / "tokenizer.json").read_text())["model"]["vocab"]
    (path / "tokenizer.json").unlink()
    merges = "#version: 0.2\n"
    if harm == "vocabulary":
        del vocabulary["k"]
    elif harm == "short":
        vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    elif harm == "merge":
        merges += "a b</w>\n"
    elif harm == "unmerged":
        vocabulary = {("ab" if token == "b" else token): number for token, number in vocabulary.items()}
    elif harm == "mark":
        change(path / "tokenizer_config.json", eos_token="<|nothing|>")
    elif harm == "code":
        change(path / "tokenizer_config.json", auto_map={"AutoTokenizer": "evil.Evil"})
    if harm != "none":
        (path / "vocab.json").write_text(json.dumps(vocabulary)[:None if harm != "text" else -9])
    if harm != "no merges":
        (path / "merges.txt").write_text(merges)
    refused(folder, words)


def test_both_forms_of_a_tokenizer_read_alike(copy):
    folder = copy()
    path = folder / "tokenizer"
    own = load_image(folder).tokenizer
    vocabulary = json.loads((path / "tokenizer.json").read_text())["model"]["vocab"]
    (path / "tokenizer.json").unlink()
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    theirs = load_image(folder).tokenizer
    text = "a red kite"
    assert theirs(text).input_ids == own(text).input_ids == tiny.tokenizer()(text).input_ids
    assert theirs.model_max_length == own.model_max_length == 12


def shard(folder: Path, part: str, variant: str, index: bool = True) -> None:
    """The weights of a part as two files."""
    file = folder / part / f"{UNET}.safetensors"
    weights = load_file(file)
    file.unlink()
    names = sorted(weights)
    stem = f"{UNET}.{variant}" if variant else UNET
    weight_map = {}
    for number, half in enumerate((names[::2], names[1::2]), 1):
        shard = f"{stem}-0000{number}-of-00002.safetensors"
        save_file({name: weights[name].half() for name in half}, folder / part / shard)
        weight_map.update(dict.fromkeys(half, shard))
    if index:
        end = f".{variant}" if variant else ""
        (folder / part / f"{UNET}.safetensors.index{end}.json").write_text(json.dumps({"weight_map": weight_map}))


def variant(folder: Path, part: str, kind: str, keep: bool = False) -> None:
    file = next((folder / part).glob("*.safetensors"))
    if not keep:
        file.rename(file.with_suffix(f".{kind}.safetensors"))
    else:
        shutil.copy(file, file.with_suffix(f".{kind}.safetensors"))


@pytest.mark.parametrize(
    "form", ["plain", "sharded", "sharded fp16", "no index", "bf16", "fp16 and non_ema", "mixed", "bin"])
def test_all_weights_there_are_found_under_every_name(form, copy):
    folder = copy()
    expected = {name: tensor.half().float() for name, tensor in load_image(folder).unet.state_dict().items()}
    if form.startswith("sharded") or form == "no index":
        shard(folder, "unet", "fp16" if "fp16" in form else "", index=form != "no index")
    elif form == "bf16":
        for part in ("unet", "vae", "text_encoder"):
            variant(folder, part, "bf16")
    elif form == "fp16 and non_ema":
        wrong = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
        variant(folder, "unet", "fp16")
        save_file(wrong, folder / "unet" / f"{UNET}.non_ema.safetensors")
    elif form == "mixed":
        variant(folder, "vae", "fp16")
        variant(folder, "text_encoder", "fp16")
    elif form == "bin":
        file = folder / "unet" / f"{UNET}.safetensors"
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    loaded = load_image(folder).unet.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name].half().float(), tensor, rtol=0, atol=0)


def test_a_missing_shard_is_named_and_an_index_names_files_beside_it_alone(copy):
    folder = copy()
    shard(folder, "unet", "")
    index = folder / "unet" / f"{UNET}.safetensors.index.json"
    (folder / "unet" / f"{UNET}-00002-of-00002.safetensors").unlink()
    refused(folder, "has 1 of the 2 files")
    for name in ("../vae/diffusion_pytorch_model.safetensors", "/etc/passwd", "a\\b.safetensors", "x.pkl", 5):
        index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
        refused(folder, "index.json")


def test_old_names_of_the_vaes_attention_are_mapped(copy):
    folder = copy()
    file = folder / "vae" / f"{UNET}.safetensors"
    weights = load_file(file)
    expected = {name: tensor.clone() for name, tensor in load_image(folder).vae.state_dict().items()}
    old = {}
    for name, tensor in weights.items():
        for ours, theirs in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        old[name] = tensor
    assert old.keys() != weights.keys()
    save_file(old, file)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_image(folder).vae.state_dict().items())
    single = folder.parent / "old.vae.safetensors"
    save_file(old, single)
    video = load_video(tiny.saved(folder.parent / "video", tiny.animatediff()), vae=single)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in video.vae.state_dict().items())


# --- code and paths

EVIL = "import pathlib\npathlib.Path(__file__).with_name('sprung').touch()\nclass Evil:\n    pass\n"


@pytest.mark.parametrize("part, value", [
    ("unet", ["evil", "Evil"]), ("unet", ["diffusers", "AutoencoderKL"]), ("vae", ["pipeline_evil", "Evil"]),
    ("text_encoder", ["transformers", "AutoModel"]), ("scheduler", ["evil", "EvilScheduler"]),
    ("tokenizer", ["os", "system"]), ("extra", ["evil", "Evil"]), ("unet", ["diffusers"]), ("unet", {"a": 1}),
    ("safety_checker", ["evil", "Evil"]), ("unet", ["diffusers", ["UNet2DConditionModel"]]), ("unet", None),
    ("_class_name", ["pipeline", "Evil"]), ("_class_name", "Evil"), ("_class_name", None)])
def test_classes_of_a_folders_own_are_refused_and_not_imported(part, value, copy, monkeypatch):
    folder = copy()
    for path in (folder, folder / "unet", folder / "vae", folder / "scheduler"):
        for name in ("evil", "pipeline", "pipeline_evil"):
            (path / f"{name}.py").write_text(EVIL)
    change(folder / "model_index.json", **{part: value})
    monkeypatch.syspath_prepend(str(folder))
    refused(folder, "")
    assert not list(folder.rglob("sprung")) and "evil" not in sys.modules


def test_the_names_that_stable_diffusions_own_folder_has_are_known(copy):
    folder = copy()
    change(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
           feature_extractor=["transformers", "CLIPImageProcessor"], image_encoder=[None, None],
           scheduler=["diffusers", "PNDMScheduler"])
    change(folder / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True)
    assert load_image(folder).safety_checker is None


# --- configurations

@pytest.mark.parametrize("file, text, words", [
    ("unet/config.json", "{", "is no JSON"), ("unet/config.json", "[]", "is no JSON object"),
    ("unet/config.json", "{}", ""), ("vae/config.json", "{}", ""), ("text_encoder/config.json", "{}", ""),
    ("model_index.json", "{", "without a readable model_index.json"), ("model_index.json", "{}", "_class_name"),
    ("scheduler/scheduler_config.json", "{", "is no JSON"),
    ("scheduler/scheduler_config.json", '{"beta_schedule": "cubic"}', "beta_schedule = cubic"),
    ("scheduler/scheduler_config.json", '{"beta_start": "x"}', "betas"),
    ("scheduler/scheduler_config.json", '{"num_train_timesteps": 1e9}', "num_train_timesteps"),
    ("scheduler/scheduler_config.json", '{"num_train_timesteps": 1000000000}', "num_train_timesteps"),
    ("scheduler/scheduler_config.json", '{"trained_betas": [0.5, 2]}', "trained_betas"),
    ("scheduler/scheduler_config.json", '{"prediction_type": "sample"}', "prediction_type = sample"),
    ("scheduler/scheduler_config.json", '{"_class_name": "FlowMatchEulerDiscreteScheduler"}', "FlowMatch"),
    ("unet/config.json", "[" * 200_000, "nested too deep")])
def test_a_configuration_that_is_none_is_one_line(file, text, words, copy):
    folder = copy()
    (folder / file).write_text(text)
    refused(folder, words)


@pytest.mark.parametrize("part, values, words", [
    ("unet", {"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"), ("unet", {"layers_per_block": 10**9}, "layers_per"),
    ("unet", {"block_out_channels": [8] * 99}, "block_out_channels"), ("unet", {"block_out_channels": "x"}, ""),
    ("unet", {"in_channels": 9}, "in place of"), ("unet", {"time_cond_proj_dim": 256}, "distilled LCM"),
    ("unet", {"attention_type": "gated"}, "GLIGEN"), ("unet", {"addition_embed_type": "text_time"}, "inputs"),
    ("unet", {"new_setting": 3}, "not known here"), ("unet", {"cross_attention_dim": None}, ""),
    ("unet", {"_class_name": "UNet1DModel"}, "UNet1DModel"), ("text_encoder", {"hidden_act": "evil"}, ""),
    ("text_encoder", {"num_hidden_layers": 10**9}, "num_hidden"), ("text_encoder", {"vocab_size": "x"}, ""),
    ("vae", {"shift_factor": 0.1}, "another space"), ("vae", {"latents_mean": [0, 0, 0, 0]}, "another space")])
def test_a_value_that_cannot_be_is_named(part, values, words, copy):
    folder = copy()
    change(folder / part / "config.json", **values)
    refused(folder, words)


def test_a_model_for_inpainting_is_named_as_one(copy):
    folder = copy()
    change(folder / "unet" / "config.json", in_channels=9)
    file = folder / "unet" / f"{UNET}.safetensors"
    weights = load_file(file)
    save_file({**weights, "conv_in.weight": torch.zeros(8, 9, 3, 3)}, file)
    refused(folder, "for inpainting or editing (9 input channels)")


# --- what a folder says of itself

def test_a_scheduler_says_prediction_and_table(copy):
    folder = copy()
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    taken = noise("image_checkpoint", folder)
    assert (taken.prediction, taken.zero_snr) == ("v_prediction", True)
    scheduler = load_image(folder).scheduler
    assert scheduler.config.prediction_type == "v_prediction" and float(scheduler.alphas_cumprod[-1]) == 0
    assert load_image(folder, prediction="epsilon", zero_snr=False).scheduler.config.prediction_type == "epsilon"


def test_the_positions_of_a_module_are_known_before_it_is_loaded(saved, tmp_path):
    tiny.adapter().save_pretrained(tmp_path / "motion")
    assert most_frames(saved / "video") == most_frames(saved / "image", tmp_path / "motion") == 16
    assert most_frames(saved / "modelscope") is None


def test_reading_a_folders_file_is_bounded(tmp_path):
    (tmp_path / "config.json").write_text('{"a": "' + "x" * (1 << 20) + '"}')
    with pytest.raises(folders.FolderError, match="too long"):
        folders.read_object(tmp_path / "config.json")
