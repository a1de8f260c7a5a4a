"""LoRAs in the spellings that people have: the product lands on the layer that is meant, or the file is refused."""
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ivmixed.weights import lora
from ivmixed.weights.files import FileError

LAYERS = {
    "unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (8, 8),
    "unet_down_blocks_1_attentions_1_proj_in": (8, 8, 1, 1),
    "unet_down_blocks_0_resnets_0_conv1": (8, 8, 3, 3),
    "unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0": (8, 8),
    "unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_k": (8, 12),
    "te_encoder_layers_0_self_attn_q_proj": (8, 8),
    "te_encoder_layers_0_self_attn_out_proj": (8, 8),
}
Q, PROJ, CONV, OUT, K, TE_Q, TE_OUT = LAYERS


def model(dtype=torch.float32):
    """The layers that a LoRA may name, and one that it may not change; all of zeros."""
    made = {}
    for name, (out, inp, *kernel) in LAYERS.items():
        made[name] = nn.Conv2d(inp, out, kernel) if kernel else nn.Linear(inp, out)
        nn.init.zeros_(made[name].weight)
    made["unet_down_blocks_0"] = nn.ModuleList()
    made["unet_conv_norm_out"] = nn.GroupNorm(4, 8)
    return {name: layer.to(dtype).requires_grad_(False) for name, layer in made.items()}


def halves(name, rank=2, seed=0):
    """(down, up), and what they add."""
    torch.manual_seed(seed)
    out, inp, *kernel = LAYERS[name]
    down, up = torch.randn(rank, inp, *kernel), torch.randn(out, rank, *[1] * len(kernel))
    return down, up, torch.einsum("or,ri...->oi...", up.flatten(1), down)


def fused(path, tensors, weight=1.0, metadata=None):
    save_file(tensors, path, metadata=metadata)
    layers = model()
    lora.fuse(layers, path, weight)
    return {name: layers[name].weight for name in LAYERS}


SPELLINGS = [
    # kohya's, ComfyUI's, peft's and diffusers' names; the original names of SD 1.5's layers
    ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_{}.weight", "down", "up", Q),
    ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_{}.weight", "down", "up", Q),
    ("lora_unet_input_blocks_5_1_proj_in.lora_{}.weight", "down", "up", PROJ),
    ("lora_unet_input_blocks_1_0_in_layers_2.lora_{}.weight", "down", "up", CONV),
    ("lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0.lora_{}.weight", "down", "up", OUT),
    ("lora_unet_output_blocks_5_1_transformer_blocks_0_attn2_to_k.lora_{}.weight", "down", "up", K),
    ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_{}.weight", "A", "B", Q),
    ("diffusion_model.output_blocks.5.1.transformer_blocks.0.attn2.to_k.lora_{}.weight", "down", "up", K),
    ("model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0.lora_{}.weight", "down", "up", OUT),
    ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight", "A", "B", Q),
    ("unet.base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight", "A", "B", Q),
    ("base_model.model.unet.down_blocks.1.attentions.1.proj_in.lora_{}.weight", "A", "B", PROJ),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.default.weight", "A", "B", Q),
    ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.my-style_2.weight", "A", "B", Q),
    ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.{}.weight", "down", "up", OUT),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.{}.weight", "down", "up", Q),
    ("lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight", "down", "up", TE_Q),
    ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight", "down", "up", TE_Q),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.{}.weight", "down", "up", TE_Q),
    ("text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.{}.weight", "down", "up", TE_Q),
    ("text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.{}.weight", "down", "up", TE_OUT),
    ("text_encoder.base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight", "A", "B", TE_Q),
    ("base_model.model.text_model.encoder.layers.0.self_attn.out_proj.lora_{}.weight", "A", "B", TE_OUT),
    ("text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight", "A", "B", TE_Q),
    ("clip_l.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight", "A", "B", TE_Q),
]


@pytest.mark.parametrize("form, first, second, layer", SPELLINGS, ids=[form for form, *_ in SPELLINGS])
def test_spellings(form, first, second, layer, tmp_path):
    down, up, product = halves(layer)
    weights = fused(tmp_path / "l.safetensors", {form.format(first): down, form.format(second): up}, 0.5)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, 0.5 * product if name == layer else torch.zeros_like(weight))


def test_a_matrix_for_a_convolution_of_one_pixel(tmp_path):
    down, up, product = halves(Q)
    form = "lora_unet_down_blocks_1_attentions_1_proj_in.lora_{}.weight"
    weights = fused(tmp_path / "l.safetensors", {form.format("down"): down, form.format("up"): up})
    torch.testing.assert_close(weights[PROJ][..., 0, 0], product)


@pytest.mark.parametrize("alpha", [torch.tensor(4.0), torch.tensor([4.0]), torch.tensor(4), torch.tensor(4.0).half()])
def test_alpha(alpha, tmp_path):
    down, up, product = halves(Q)
    tensors = {f"lora_{Q}.lora_down.weight": down, f"lora_{Q}.lora_up.weight": up, f"lora_{Q}.alpha": alpha}
    torch.testing.assert_close(fused(tmp_path / "l.safetensors", tensors)[Q], 2 * product)


def plain(name=Q):
    down, up, _ = halves(name)
    return {f"lora_{name}.lora_down.weight": down, f"lora_{name}.lora_up.weight": up}


@pytest.mark.parametrize("metadata, scale", [
    (None, 1), ({"unet.lora_alpha": 4}, 2), ({"lora_alpha": 4.0, "r": 2}, 2), ({"text_encoder.lora_alpha": 4}, 1)])
def test_the_alpha_of_pefts_configuration(metadata, scale, tmp_path):
    note = metadata and {"lora_adapter_metadata": json.dumps(metadata)}
    torch.testing.assert_close(fused(tmp_path / "l.safetensors", plain(), metadata=note)[Q], scale * halves(Q)[2])


def test_pefts_own_configuration_lies_beside_its_weights(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 8, "r": 2}')
    torch.testing.assert_close(fused(tmp_path / "adapter_model.safetensors", plain())[Q], 4 * halves(Q)[2])
    torch.testing.assert_close(fused(tmp_path / "other.safetensors", plain())[Q], halves(Q)[2])


def test_bundled_embeddings_are_left_alone(tmp_path):
    extra = {"bundle_emb.style.clip_l": torch.ones(4, 12), "bundle_emb.b.string_to_param.*": torch.ones(1)}
    torch.testing.assert_close(fused(tmp_path / "l.safetensors", plain() | extra)[Q], halves(Q)[2])


# --- refusals

def refused(path, tensors=None, metadata=None, weight=1.0, dtype=torch.float32):
    """The one line; no layer is changed, also not one that would fit."""
    if tensors is not None:
        save_file(plain(OUT) | tensors, path, metadata=metadata)
    layers = model(dtype)
    with pytest.raises(ValueError) as caught:
        lora.fuse(layers, path, weight)
    assert not any(layers[name].weight.any() for name in LAYERS)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


DOWN, UP, ALPHA = f"lora_{Q}.lora_down.weight", f"lora_{Q}.lora_up.weight", f"lora_{Q}.alpha"
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("changed, words", [
    ({ALPHA: torch.tensor(NAN)}, "alpha that is no finite number"),
    ({ALPHA: torch.tensor(-INF)}, "alpha that is no finite number"),
    ({ALPHA: torch.ones(2)}, "alpha that is no finite number"),
    ({ALPHA: torch.ones(0)}, "alpha that is no finite number"),
    ({ALPHA: torch.tensor(3e38)}, "would hold values that are infinite"),
    ({DOWN: torch.full((2, 8), NAN)}, "infinite or no numbers"),
    ({UP: torch.full((8, 2), INF)}, "infinite or no numbers"),
    ({UP: torch.full((8, 2), 3e38)}, "infinite or no numbers"),
    ({DOWN: torch.tensor(1.0)}, "of a wrong shape"),
    ({DOWN: torch.ones(8)}, "of a wrong shape"),
    ({DOWN: torch.ones(0, 8)}, "of a wrong shape"),
    ({DOWN: torch.ones(2, 0)}, "of a wrong shape"),
    ({UP: torch.ones(8, 2, 1)}, "of a wrong shape"),
    ({UP: torch.ones(8, 2, 3, 3)}, "halves of ranks"),
    ({UP: torch.ones(8, 3)}, "halves of ranks 2 and 3"),
    ({UP: torch.ones(2, 8)}, "halves of ranks 2 and 8"),
    ({DOWN: torch.ones(2, 4)}, "of another size than in the model ([8, 4] in place of [8, 8])"),
    ({DOWN: torch.ones(2, 16), UP: torch.ones(4, 2)}, "of another size"),  # as many values, and others
    ({DOWN: torch.ones(2, 8, 3, 3)}, "of another size"),
    ({DOWN: torch.ones(2, 8, dtype=torch.int8)}, "weights in int8"),
    ({UP: torch.ones(8, 2, dtype=torch.uint8)}, "weights in uint8"),
    ({UP: torch.ones(8, 2, dtype=torch.complex64)}, "C64"),
    ({"lora_unet_down_blocks_0.lora_down.weight": torch.ones(2, 8)}, "is not in the model"),
    ({"lora_unet_conv_norm_out.lora_down.weight": torch.ones(2, 8)}, "is not in the model"),
    ({"lora_unet_conv_norm_out.alpha": torch.ones(())}, "is not in the model"),
    ({"lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": torch.ones(2, 8)}, "lora_te2_text"),
    ({"lora_unet_input_blocks_99_1_proj_in.lora_down.weight": torch.ones(2, 8)}, "is not in the model"),
    ({f"lora_{Q}.dora_scale": torch.ones(8)}, "is not part of a plain LoRA"),
    ({f"lora_{Q}.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "is not part of a plain LoRA"),
    ({f"lora_{Q}.lora_down.bias": torch.ones(2)}, "is not part of a plain LoRA"),
    ({"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 8)},
     "twice, in two spellings"),
    ({"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_down.weight": torch.ones(2, 8)},
     "twice, in two spellings"),
    ({"x" * 300 + ".y": torch.ones(2)}, "is not part of a plain LoRA"),
])
def test_what_does_not_fit_is_refused_before_anything_is_changed(changed, words, tmp_path):
    assert words in refused(tmp_path / "l.safetensors", plain() | changed)


def test_two_adapters_in_one_file(tmp_path):
    form = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.{}.weight"
    tensors = {form.format(name): torch.ones(2, 8) for name in ("one", "two")}
    assert "twice, in two spellings" in refused(tmp_path / "l.safetensors", tensors)


def test_a_layer_that_two_names_have_is_changed_once(tmp_path):
    save_file(plain(Q) | {f"lora_{OUT}{end}": tensor for end, tensor in
                          zip((".lora_down.weight", ".lora_up.weight"), halves(OUT))}, tmp_path / "l.safetensors")
    layers = model()
    layers[Q] = layers[OUT]
    with pytest.raises(ValueError, match="twice"):
        lora.fuse(layers, tmp_path / "l.safetensors", 1.0)
    assert not layers[Q].weight.any()


def test_sums_beyond_the_models_own_precision_are_refused(tmp_path):
    assert "infinite" in refused(tmp_path / "l.safetensors", {UP: torch.full((8, 2), 1e6), DOWN: torch.ones(2, 8)},
                                 dtype=torch.float16)
    assert "infinite" in refused(tmp_path / "l.safetensors", plain(), weight=NAN)


@pytest.mark.parametrize("text, words", [
    ("{", "is no JSON"), ("[]", "is no JSON object"), ('{"unet.lora_alpha": NaN}', "NaN"), ("[" * 100_000, "too deep"),
    ('{"unet.lora_alpha": [4]}', "lora_alpha = [4], which is no number"), ('{"unet.lora_alpha": true}', "no number"),
    ('{"unet.use_dora": true}', "unet.use_dora is set"), ('{"unet.alpha_pattern": {"a": 1}}', "alpha_pattern is set")])
def test_metadata_of_strangers(text, words, tmp_path):
    assert words in refused(tmp_path / "l.safetensors", {}, {"lora_adapter_metadata": text})


def test_nothing_but_embeddings_is_no_lora(tmp_path):
    save_file({"bundle_emb.a.clip_l": torch.ones(1, 8)}, tmp_path / "l.safetensors")
    assert "names no layer" in refused(tmp_path / "l.safetensors")


NAMES = st.sampled_from([
    DOWN, UP, ALPHA, f"lora_{K}.lora_up.weight", "diffusion_model.input_blocks.1.1.proj_in.lora_A.weight",
    "lora_unet_middle_block_9_x.lora_up.weight", "bundle_emb.a", "x.alpha", ".alpha", "lora_te_.alpha"])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 8, 12]), max_size=5)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.int8, torch.bool, torch.int64, torch.float8_e4m3fn])


@given(st.dictionaries(NAMES, st.tuples(SHAPES, DTYPES), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tensors_are_added_or_refused(tmp_path, tensors):
    path = tmp_path / "l.safetensors"
    save_file({name: torch.ones(shape).to(dtype) for name, (shape, dtype) in tensors.items()}, path)
    layers = model()
    try:
        lora.fuse(layers, path, 1.0)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        assert isinstance(error, FileError) or "layer" in str(error) or "plain LoRA" in str(error)
        assert not any(layers[name].weight.any() for name in LAYERS)
