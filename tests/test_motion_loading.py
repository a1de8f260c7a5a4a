"""Motion module files in the layouts that people have become the module with those weights, or are refused."""
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ivmixed import Schedule
from ivmixed.motion import MotionError, check, load
from ivmixed.motion.loading import made_for, read, to_diffusers
from ivmixed.motion.module import LCM, LIGHTNING, V2

from .layouts import motion_shapes, random, saved, sinusoids, sparse

FULL = (320, 640, 1280, 1280)
WIDE = (32, 64, 64, 64)


def refusal(call, *args, **more):
    with pytest.raises(MotionError) as caught:
        call(*args, **more)
    line = str(caught.value)
    assert "\n" not in line and line.startswith("IV-mixed: motion module ") and line.endswith(".")
    return line


# --- what a file is

@pytest.mark.parametrize("name, widths, positions, middle, kind", [
    ("a.ckpt", FULL, 24, False, "AnimateDiff v1"),
    ("b.safetensors", FULL, 32, True, "AnimateDiff v2"),
    ("c.safetensors", FULL, 32, False, "AnimateDiff v3"),
    ("d.safetensors", FULL, None, True, "AnimateLCM"),
    ("e.safetensors", FULL[:3], 32, False, "AnimateDiff-SDXL"),
    ("f.safetensors", FULL[:3], 24, False, "HotShot-XL"),
])
def test_a_file_says_what_it_is_by_its_tensors(name, widths, positions, middle, kind, tmp_path):
    shapes = motion_shapes(widths, positions, middle)
    if name.endswith("ckpt"):
        path = saved(tmp_path / name, {"module." + key: torch.empty(shape, dtype=torch.float16) for key, shape in
                                       motion_shapes(WIDE, positions, middle).items()}, epoch=3)
    else:
        path = sparse(tmp_path / name, shapes)  # a header without data: reading weights would fail
    found = check(path)
    assert (found.name, found.norms_span_frames) == (kind, kind in ("AnimateDiff v1", "HotShot-XL"))
    assert found.family == ("SDXL" if len(widths) == 3 else "SD 1.5")


@pytest.mark.parametrize("name, kind, doubt", [
    ("animatediff_lightning_4step_comfyui.safetensors", "AnimateDiff-Lightning 4-step", ""),
    ("animatediff_lightning_1step_diffusers.safetensors", "AnimateDiff-Lightning 1-step", ""),
    ("AnimateDiff-Lightning-8-steps.ckpt", "AnimateDiff-Lightning 8-step", ""),
    ("lightning_2_step.pth", "AnimateDiff-Lightning 2-step", ""),
    ("lightning.safetensors", "AnimateDiff-Lightning 4-step", "not for how many steps"),
    ("lightning_12step.safetensors", "AnimateDiff-Lightning 4-step", "not for how many steps"),
    ("mm_sd_v15_v2.safetensors", "AnimateDiff v2", ""),
    ("anything_4step.safetensors", "AnimateDiff v2", "")])
def test_lightning_is_v2_by_its_tensors_and_told_by_its_name(name, kind, doubt, tmp_path):
    shapes = motion_shapes(WIDE, 32, True)
    if "diffusers" in name:
        shapes = {key: shape for key, shape in to_diffusers(shapes).items() if ".attn2.pos_encoder." not in key}
    if name.endswith("safetensors"):
        path = sparse(tmp_path / name, shapes)
    else:
        path = saved(tmp_path / name, {key: torch.zeros(shape) for key, shape in shapes.items()})
    found = read(path, "meta")
    assert found.kind.name == kind and doubt in found.doubt and bool(found.doubt) == bool(doubt)
    assert read(path, "meta", "AnimateDiff v2").kind.distilled is None
    assert read(path, "meta", "AnimateDiff-Lightning 2-step").kind.distilled.most == 3


def test_a_module_knows_what_its_file_is_said_to_be(tmp_path):
    path = saved(tmp_path / "lightning.safetensors", random(motion_shapes(WIDE, 32, True)))
    module = load(path)
    assert module.kind is LIGHTNING[4] and "not for how many steps" in module.doubt
    module = load(path, kind="AnimateDiff-Lightning 2-step")
    assert module.kind is LIGHTNING[2] and module.doubt == ""


def test_other_modules_are_never_lightning(tmp_path):
    path = saved(tmp_path / "lightning_4step.safetensors", random(motion_shapes(WIDE, 32)))
    assert check(path).name == "AnimateDiff v3"
    assert "is AnimateDiff v3, not AnimateDiff-Lightning 4-step" in refusal(
        load, path, kind="AnimateDiff-Lightning 4-step")


@pytest.mark.parametrize("kind, steps, cfg, words", [
    (LIGHTNING[4], 4, 1, ""), (LIGHTNING[2], 3, 1, ""), (LCM, 6, 1.8, ""), (V2, 25, 7.5, ""),
    (LIGHTNING[4], 25, 1, "4 steps at CFG scale 1 or less, and the clip has 25 steps"),
    (LIGHTNING[1], 1, 7.5, "1 step at CFG scale 1 or less, and the clip has 7.5 as CFG scale"),
    (LCM, 20, 7, "4 to 8 steps at CFG scale 2 or less, and the clip has 20 steps and 7 as CFG scale")])
def test_what_does_not_fit_a_distilled_module_is_said_in_a_line(kind, steps, cfg, words):
    said = kind.distilled.advice(kind.name, steps, cfg) if kind.distilled else ""
    assert words in said and bool(words) == bool(said) and "\n" not in said


def test_noise_tables(tmp_path):
    tables = {}
    for name, widths, positions in (("sd15", FULL, 32), ("sdxl", FULL[:3], 32), ("hotshot", FULL[:3], 24)):
        tables[name] = check(sparse(tmp_path / f"{name}.safetensors", motion_shapes(widths, positions))).schedule()
    torch.testing.assert_close(torch.tensor(tables["sd15"].sigmas), torch.tensor(Schedule.linear().sigmas))
    betas = torch.linspace(0.00085**0.5, 0.020**0.5, 1000, dtype=torch.float64) ** 2
    abar = (1 - betas).cumprod(0)
    expected = ((1 - abar) / abar).sqrt()
    torch.testing.assert_close(torch.tensor(tables["sdxl"].sigmas, dtype=torch.float64), expected, rtol=1e-6, atol=0)
    own = torch.tensor(Schedule.scaled_linear().sigmas)  # SDXL's
    torch.testing.assert_close(torch.tensor(tables["hotshot"].sigmas), own, rtol=1e-6, atol=0)


# --- weights

@pytest.mark.parametrize("name, prefix, wrapped, positions, middle", [
    ("m.safetensors", "", {}, 24, False), ("m.ckpt", "module.", {"epoch": 1}, 32, True), ("m.pth", "", {}, None, True),
    ("m.pt", "", {"animatediff_config": {"use_motion_module": True}}, 24, False)])
def test_every_weight_arrives(name, prefix, wrapped, positions, middle, tmp_path):
    tensors = random(motion_shapes(WIDE, positions, middle), seed=5)
    path = saved(tmp_path / name, {prefix + key: tensor for key, tensor in tensors.items()}, **wrapped)
    module = load(path)
    loaded = module.state_dict()
    assert module.layout.positions == (positions or 64)
    assert all(torch.equal(loaded.pop(key), tensor) for key, tensor in tensors.items())
    assert bool(loaded) == (positions is None)
    for key, table in loaded.items():
        assert key.endswith(".pos_encoder.pe")
        torch.testing.assert_close(table, sinusoids(64, table.shape[2]), rtol=0, atol=2e-5)


def test_a_learned_position_table_is_used_under_either_name(tmp_path):
    tensors = random(motion_shapes(WIDE, 40, True))
    for key in [key for key in tensors if key.endswith(".pe")]:
        tensors[key] = torch.randn_like(tensors[key])
    loaded = load(saved(tmp_path / "m.ckpt", tensors)).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors.items())
    other = {key.replace(".pe", ".pos_encoding"): tensor for key, tensor in tensors.items()}
    again = load(saved(tmp_path / "n.ckpt", other)).state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in tensors.items())


def test_hotshots_own_names(tmp_path):
    tensors = random(motion_shapes(WIDE[:3], 24))
    own = {key.replace("motion_modules", "temporal_attentions").replace(".temporal_transformer", "").replace(
        ".pe", ".positional_encoding"): tensor for key, tensor in tensors.items()}
    assert "down_blocks.0.temporal_attentions.1.transformer_blocks.0.attention_blocks.1.to_q.weight" in own
    path = saved(tmp_path / "m.safetensors", own)
    assert check(path).name == "HotShot-XL"
    loaded = load(path).state_dict()
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_dtype_is_the_files_or_as_asked_for(tmp_path):
    halves = {key: tensor.half() for key, tensor in random(motion_shapes(WIDE, 32)).items()}
    path = saved(tmp_path / "m.safetensors", halves)
    assert {tensor.dtype for tensor in load(path).state_dict().values()} == {torch.float16}
    module = load(path, dtype=torch.float32)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}
    assert not module.training and not any(parameter.requires_grad for parameter in module.parameters())


def adapter(heads=4, positions=24, middle=False):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    made = diffusers.MotionAdapter(
        block_out_channels=WIDE, motion_num_attention_heads=heads, motion_norm_num_groups=16,
        motion_max_seq_length=positions, use_motion_mid_block=middle)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.parametrize("variant, safe", [(None, True), ("fp16", True), (None, False)])
def test_a_folder_of_diffusers(variant, safe, tmp_path):
    theirs = adapter()
    theirs.save_pretrained(tmp_path, variant=variant, safe_serialization=safe)
    assert check(tmp_path).name == "AnimateDiff v1"
    module = load(tmp_path, as_diffusers=True)
    assert (module.layout.heads, module.layout.groups, module.layout.positions) == (4, 16, 24)
    x = torch.randn(6, 64, 2, 2, generator=torch.Generator().manual_seed(0))
    ours = module.transformers("up")[4](x, 3)
    expected = theirs.up_blocks[1].motion_modules[1](x, num_frames=3)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_a_file_in_the_layout_of_diffusers(tmp_path):
    theirs = adapter(heads=8, positions=32, middle=True)
    path = saved(tmp_path / "m.safetensors", theirs.state_dict())
    assert check(path).name == "AnimateDiff v2"
    ours = load(path).state_dict()["mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.norms.1.bias"]
    assert torch.equal(ours, theirs.mid_block.motion_modules[0].transformer_blocks[0].norm2.bias)


# --- spellings of whole modules

PREFIXES = ["unet.", "module.module.", "unet._orig_mod.module.", "a.b.c."]


@pytest.fixture(scope="module")
def flat():
    """The smallest module that the published number of groups allows, as shapes."""
    return {key: torch.zeros(shape) for key, shape in motion_shapes((32,) * 4, 32).items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix, flat, tmp_path):
    path = saved(tmp_path / "m.safetensors", {prefix + key: tensor for key, tensor in flat.items()})
    assert check(path).name == "AnimateDiff v3"
    assert load(path).state_dict().keys() == flat.keys()


@pytest.mark.parametrize("wrap", ["motion_module", "anything"])
def test_modules_inside_dictionaries(wrap, flat, tmp_path):
    torch.save({wrap: {"unet." + key: tensor for key, tensor in flat.items()}, "epoch": 1}, tmp_path / "m.pt")
    assert load(tmp_path / "m.pt").state_dict().keys() == flat.keys()


def test_of_two_modules_none_is_lost(flat, tmp_path):
    first = next(iter(flat))
    path = saved(tmp_path / "m.safetensors", flat | {"ema." + key: tensor.clone() for key, tensor in flat.items()})
    assert "holds several models (, ema.)" in refusal(check, path)
    theirs = first.replace(".temporal_transformer", "")
    path = saved(tmp_path / "n.safetensors", flat | {theirs: flat[first].clone()})
    assert "twice, in two spellings" in refusal(check, path)


# --- v1 or v3

def module_of(tmp_path, positions, table=None, widths=(32,) * 4, **config):
    """A file of zeros, with position tables of sinusoids or of ``table`` (positions, channels)."""
    tensors = {}
    for key, shape in motion_shapes(widths, positions).items():
        pe = key.endswith(".pe")
        tensors[key] = (sinusoids(*shape[1:]) if table is None else table[None].clone()) if pe else torch.zeros(shape)
    if config:
        torch.save({"state_dict": tensors, **config}, tmp_path / "m.ckpt")
        return tmp_path / "m.ckpt"
    return saved(tmp_path / "m.safetensors", {key: tensor.half() for key, tensor in tensors.items()})


def stretched(frames, positions, **more):
    rows = sinusoids(frames, 32)[0]
    return torch.nn.functional.interpolate(rows.T[None], size=positions, **more)[0].T.contiguous()


@pytest.mark.parametrize("made", [
    {"mode": "linear", "align_corners": True}, {"mode": "linear", "align_corners": False}, {"mode": "nearest"}])
def test_the_rows_of_a_table_tell_what_it_was_made_of(made):
    for positions in (40, 48, 64, 264):
        for frames in (24, 32):
            table = stretched(frames, positions, **made)
            assert made_for(table) == made_for(table.half().float()) == made_for(table.bfloat16().float()) == frames
            assert made_for(sinusoids(frames, 32)[0].repeat(11, 1)[:positions]) == frames
        assert made_for(sinusoids(positions, 32)[0]) is None
        assert made_for(torch.randn(positions, 32)) is None and made_for(torch.zeros(positions, 32)) is None
    assert made_for(stretched(24, 32, **made)) == 24


@pytest.mark.parametrize("positions", [32, 48])
def test_a_stretched_table_makes_the_kind(positions, tmp_path):
    path = module_of(tmp_path, positions, stretched(24, positions, mode="linear"))
    module = load(path)
    assert (check(path).name, module.kind.name, module.doubt) == ("AnimateDiff v1", "AnimateDiff v1", "")


@pytest.mark.parametrize("config, kind", [
    ({"animatediff_config": {"use_inflated_groupnorm": False}}, "AnimateDiff v1"),
    ({"unet_additional_kwargs": {"use_inflated_groupnorm": False}}, "AnimateDiff v1")])
def test_the_files_own_configuration_tells(config, kind, tmp_path):
    assert check(module_of(tmp_path, 48, **config)).name == kind


@pytest.mark.parametrize("widths, kinds", [
    ((32,) * 4, ("AnimateDiff v1", "AnimateDiff v3")), ((32,) * 3, ("HotShot-XL", "AnimateDiff-SDXL"))])
def test_where_nothing_tells_it_is_said_and_may_be_chosen(widths, kinds, tmp_path):
    path = module_of(tmp_path, 48, widths=widths)
    module = load(path)
    assert module.kind.name == kinds[1]
    assert module.doubt.startswith(f"has positions for 48 frames, where {kinds[0]} has 24 and {kinds[1]} 32")
    assert f"taken as {kinds[1]}. If it was made from {kinds[0]}" in module.doubt
    for kind in kinds:
        module = load(path, kind=kind)
        assert (module.kind.name, module.doubt, module.layout.positions) == (kind, "", 48)


def test_a_kind_that_it_cannot_be_is_refused(flat, tmp_path):
    path = saved(tmp_path / "m.safetensors", flat)
    assert "is AnimateDiff v3, not HotShot-XL; leave its kind at auto" in refusal(load, path, kind="HotShot-XL")
    assert load(path, kind="AnimateDiff v1").kind.norms_span_frames


# --- files of strangers

@pytest.mark.parametrize("end, tensor, words", [
    ("norm.weight", torch.tensor(1.0), "of a wrong shape"), ("norm.weight", torch.ones(0), "of a wrong shape"),
    ("norm.weight", torch.ones(4, 4), "of a wrong shape"), ("proj_in.weight", torch.ones(32), "of a wrong shape"),
    ("proj_in.weight", torch.ones(32, 32, dtype=torch.int8), "weights in int8"),
    ("attention_blocks.0.pos_encoder.pe", torch.ones(()), "of a wrong shape"),
    ("attention_blocks.0.pos_encoder.pe", torch.ones(1, 0, 32), "of a wrong shape"),
    ("attention_blocks.0.pos_encoder.pe", torch.ones(1, 5000, 32), "unknown layout"),
    ("attention_blocks.1.pos_encoder.pe", torch.ones(1, 31, 32), "of another size"),
    ("norm.bias", torch.full((32,), float("nan")), "holds values that are infinite or no numbers"),
    ("ff.net.2.bias", torch.full((32,), float("-inf")), "holds values that are infinite or no numbers"),
])
def test_wrong_tensors_are_refused(end, tensor, words, flat, tmp_path):
    name = next(key for key in flat if key.endswith(end))
    assert words in refusal(load, saved(tmp_path / "m.safetensors", flat | {name: tensor}))


@pytest.mark.parametrize("extra", [
    "down_blocks.0.motion_modules.9.temporal_transformer.norm.weight",
    "up_blocks.7.motion_modules.0.temporal_transformer.x",
    "down_blocks." + "9" * 300 + ".motion_modules.0.temporal_transformer.norm.weight", "time_embed.cond_proj.weight",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k_ip.weight"])
def test_what_nobody_maps_is_named(extra, flat, tmp_path):
    line = refusal(check, saved(tmp_path / "m.safetensors", flat | {extra: torch.ones(32)}))
    assert extra[:60] in line or "is incomplete" in line


def test_more_layers_than_a_unet_has(tmp_path):
    form = "down_blocks.0.motion_modules.{}.temporal_transformer.norm.weight"
    path = saved(tmp_path / "m.safetensors", {form.format(number): torch.ones(32) for number in range(500)})
    assert "unknown layout" in refusal(check, path)


@pytest.mark.parametrize("text, words", [
    ("{", "config.json that is no JSON"), ("[]", "config.json that is no JSON object"),
    ('{"motion_num_attention_heads": "8"}', "motion_num_attention_heads = 8, no whole number"),
    ('{"motion_norm_num_groups": 0}', "motion_norm_num_groups = 0, no whole number"),
    ('{"motion_num_attention_heads": 7}', "for 7 heads"), (None, "is a folder without config.json")])
def test_configurations_of_strangers(text, words, flat, tmp_path):
    saved(tmp_path / "diffusion_pytorch_model.safetensors", flat)
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert words in refusal(check, tmp_path)


NAMES = st.lists(st.sampled_from([
    "down_blocks.0.motion_modules.0.", "up_blocks.1.motion_modules.2.", "mid_block.motion_modules.0.",
    "temporal_transformer.", "transformer_blocks.0.", "norm.weight", "attn1.pos_embed.pe", "pos_encoder.pos_encoding",
    "attention_blocks.0.pos_encoder.pe", "unet.", "module.", "x", ".temporal_attentions.0."]), min_size=1, max_size=4)
TENSORS = st.tuples(st.lists(st.sampled_from([0, 1, 2, 32]), max_size=4), st.sampled_from([torch.float16, torch.int8]))


@given(st.dictionaries(NAMES.map("".join), TENSORS, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_tensors_break_it(tmp_path, tensors):
    path = saved(tmp_path / "m.safetensors", {
        name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in tensors.items()})
    for call in (check, load):
        assert len(refusal(call, path)) < 600


# --- motion LoRA

BLOCK = "down_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1."
SPELLED = {
    "animatediff": (BLOCK + "processor.to_{}_lora.{}.weight", "down", "up"),
    "kohya": ((BLOCK + "to_{}").replace(".", "_") + ".lora_{}.weight", "down", "up"),
    "diffusers": ("unet.down_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_{}.lora_{}.weight", "A", "B"),
}


@pytest.mark.parametrize("spelled, alpha", [*((spelled, None) for spelled in SPELLED), ("kohya", 2.0)])
def test_a_motion_lora_is_added(spelled, alpha, tmp_path):
    tensors = random(motion_shapes(WIDE, 32, True))
    path = saved(tmp_path / "m.safetensors", tensors)
    form, down, up = SPELLED[spelled]
    parts, changes = {}, {}
    for part in ("q", "v", "out"):
        here = part + ({"kohya": "_0", "diffusers": ".0"}.get(spelled, "") if part == "out" else "")
        a, b = torch.randn(4, 64), torch.randn(64, 4)
        parts |= {form.format(here, down): a, form.format(here, up): b}
        if alpha is not None:
            parts[form.format(here, down).replace(".lora_down.weight", ".alpha")] = torch.tensor(alpha)
        changes[BLOCK + f"to_{part}" + (".0" if part == "out" else "") + ".weight"] = b @ a * (alpha or 4) / 4
    file = saved(tmp_path / "zoom.ckpt", parts, animatediff_config={})
    loaded = load(path, loras=[(file, 0.5), (file, 0.25)]).state_dict()
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded[name], tensor + 0.75 * changes.get(name, 0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("contents, words", [
    ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 32)}, "it is a LoRA"),
    ({BLOCK.replace("1.motion", "7.motion") + "processor.to_q_lora.down.weight": (4, 64)}, "is not in the model"),
    ({BLOCK + "processor.to_q_lora.down.weight": (4, 64)}, "half of it is missing"),
    ({BLOCK + "processor.to_q_lora.down.weight": (4, 32), BLOCK + "processor.to_q_lora.up.weight": (32, 4)},
     "of another size"),
])
def test_other_loras_are_refused(contents, words, tmp_path):
    path = saved(tmp_path / "m.safetensors", random(motion_shapes(WIDE, 32)))
    file = saved(tmp_path / "l.safetensors", random(contents))
    line = refusal(load, path, loras=[(file, 1.0)])
    assert words in line and "m.safetensors cannot take the motion LoRA" in line and "for AnimateDiff v3" in line
    assert "does not exist" in refusal(load, path, loras=[(tmp_path / "gone.ckpt", 1.0)])


# --- refusals

@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    root = tmp_path_factory.mktemp("shelf")
    v3 = motion_shapes(FULL, 32)
    first = next(iter(v3))
    for name, shapes in {
        "hotshot": {"down_blocks.0.temporal_attentions.0.norm.weight": (320,)},
        "lora": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)},
        "motion_lora": {BLOCK + "processor.to_q_lora.down.weight": (4, 640)},
        "sd15": {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
        "pia": v3 | {"conv_in.weight": (320, 9, 3, 3)},
        "unknown": v3 | {"down_blocks.0.motion_modules.0.temporal_transformer.extra": (1,)},
        "size": v3 | {"up_blocks.0.motion_modules.0.temporal_transformer.proj_out.bias": (5,)},
        "incomplete": {name: shape for name, shape in v3.items() if name != first},
        "half": {name: shape for name, shape in v3.items() if not name.startswith("up_")},
        "other": {"a": (1,)},
    }.items():
        sparse(root / f"{name}.safetensors", shapes)
    (root / "page.ckpt").write_text("<!DOCTYPE html><html></html>")
    (root / "page.safetensors").write_text("<!DOCTYPE html><html></html>")
    with (root / "pia.safetensors").open("rb") as whole:  # a gigabyte
        (root / "cut.safetensors").write_bytes(whole.read(4000))
    torch.save({"state_dict": {"down_blocks.0.motion_modules.0.x": Code()}}, root / "code.ckpt")
    (root / "empty").mkdir()
    (root / "torn").mkdir()
    (root / "torn" / "config.json").write_text(json.dumps({"motion_num_attention_heads": 8}))
    return root


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("name, words", [
    ("gone.ckpt", "gone.ckpt does not exist; choose an AnimateDiff motion module"),
    ("hotshot.safetensors", "is incomplete, without down_blocks.0.motion_modules.0."),
    ("lora.safetensors", "is a LoRA; choose"),
    ("motion_lora.safetensors", "is an AnimateDiff motion LoRA; choose"),
    ("sd15.safetensors", "is a checkpoint file; choose"),
    ("pia.safetensors", "holds more than motion (conv_in.weight), as image-to-video modules and"),
    ("unknown.safetensors", "holds more than motion (down_blocks.0.motion_modules.0.temporal_transformer.extra)"),
    ("size.safetensors", "proj_out.bias of [5] in place of [1280]; choose"),
    ("incomplete.safetensors", "is incomplete, without down_blocks.0.motion_modules.0."),
    ("half.safetensors", "is incomplete, without up_blocks.0"),
    ("other.safetensors", "is no known model file; choose"),
    ("page.ckpt", "is damaged or no model file"),
    ("page.safetensors", "is damaged or no model file"),
    ("cut.safetensors", "is damaged or no model file"),
    ("code.ckpt", "holds Python code besides weights, which is never run"),
    ("empty", "is a folder without diffusion_pytorch_model.safetensors"),
    ("torn", "is a folder without diffusion_pytorch_model.safetensors"),
])
def test_what_is_no_motion_module_is_refused_in_one_line(name, words, shelf, capsys):
    for call in (check, load):
        assert words in refusal(call, shelf / name)
    assert "this must never run" not in capsys.readouterr().out


def test_a_layout_that_heads_and_groups_do_not_divide_is_refused(tmp_path):
    path = saved(tmp_path / "m.safetensors", random(motion_shapes((8, 16, 16, 16), 32)))
    assert "has an unknown layout" in refusal(check, path)
