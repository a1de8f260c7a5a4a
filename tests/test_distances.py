"""UMT-FVD and FVD as their authors compute them, with networks of the right layout and random weights."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch.nn import functional as F

from ivmixed.measures import fvd, umt
from ivmixed.measures.neural import frechet_distance
from ivmixed.options import OptionError

from . import tiny


def clips(count, shape=(16, 32, 48, 3), seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8))


def formula(made, real, ddof):
    """As both benches write it, with scipy's root."""
    means = made.mean(0) - real.mean(0)
    one, other = (np.cov(side, rowvar=False, ddof=ddof) for side in (made, real))
    return float(np.real(means @ means + np.trace(one + other - 2 * sqrtm(one @ other))))


# --- UMT-FVD

@pytest.mark.parametrize("count, chosen", [
    (12, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), (16, [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]),
    (5, [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]), (1, [0] * 12), (100, [3, 11, 20, 28, 36, 45, 53, 61, 70, 78, 86, 95]),
])
def test_the_frames_are_the_middles_of_twelve_parts(count, chosen):
    assert umt.frame_indices(count) == chosen


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("umt") / "UMT.pth"
    torch.save({"model": tiny.umt_tensors(128), "epoch": 7}, file)
    return file


def by_hand(tensors, pictures):
    """The tower written out: (frames, 3, 224, 224) to features."""
    def linear(x, name):
        return x @ tensors[name + ".weight"].T + tensors[name + ".bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return x * tensors[name + ".weight"] + tensors[name + ".bias"]

    encoder = "vision_encoder.encoder"
    kernel = tensors[f"{encoder}.patch_embed.proj.weight"].flatten(1)
    patches = pictures.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    x = patches @ kernel.T + tensors[f"{encoder}.patch_embed.proj.bias"]
    width = x.shape[1]
    for k in range(0, width, 2):
        angle = torch.arange(len(x)) / 10000 ** (k / width)
        x[:, k] += angle.sin()
        x[:, k + 1] += angle.cos()
    for block in (f"{encoder}.blocks.{k}" for k in range(2)):
        y = norm(x, f"{block}.norm1") @ tensors[f"{block}.attn.qkv.weight"].T
        q, k, v = y.split(width, dim=1)
        q, v = q + tensors[f"{block}.attn.q_bias"], v + tensors[f"{block}.attn.v_bias"]
        heads = []
        for start in range(0, width, 64):
            part = slice(start, start + 64)
            heads.append(((q[:, part] / 8) @ k[:, part].T).softmax(-1) @ v[:, part])
        x = x + linear(torch.cat(heads, 1), f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    pooled = norm(x, f"{encoder}.norm").reshape(12, -1, width).mean(1)
    return linear(norm(pooled, "vision_encoder.pool_norm"), "vision_proj").mean(0)


def test_features_are_those_of_the_tower_written_out(weights):
    two = clips(2, (16, 32, 48, 3))
    found = umt.UMTFeatures(weights)(two)
    assert found.shape == (2, 8) and found.dtype == np.float64
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    frames = torch.tensor(two[1][[0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14]]).permute(0, 3, 1, 2).float()
    pictures = F.interpolate(frames, (224, 224), mode="bicubic", antialias=True).round().clamp(0, 255) / 255
    with torch.no_grad():
        expected = by_hand(tiny.umt_tensors(128), (pictures - mean) / deviation)
    np.testing.assert_allclose(found[1], expected, rtol=1e-3, atol=1e-4)


def test_a_file_without_the_tower_is_refused(tmp_path, weights):
    incomplete = tiny.umt_tensors(128)
    del incomplete["vision_encoder.encoder.blocks.1.attn.q_bias"]
    torch.save(incomplete, tmp_path / "incomplete.pth")
    torch.save({"x": torch.zeros(3)}, tmp_path / "other.pth")
    for name in ("incomplete.pth", "other.pth", "nothing.pth"):
        with pytest.raises(OptionError, match=name):
            umt.UMTFeatures(tmp_path / name)
    for name in ("other.pth", "nothing.pth"):
        with pytest.raises(OptionError, match=name):
            umt.reference(tmp_path / name)
    torch.save(torch.arange(12.0).reshape(4, 3).half(), tmp_path / "features.pt")
    assert umt.reference(tmp_path / "features.pt").tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_umt_fvd_of_a_set_to_itself_is_0():
    features = np.random.default_rng(0).normal(size=(150, 6))
    assert umt.umt_fvd(features, features)[0] == pytest.approx(0, abs=1e-9)
    assert umt.umt_fvd(features, features + 3)[0] == pytest.approx(6 * 9)


def test_umt_fvd_is_the_benchs_procedure():
    """Its loops over sizes and seeds once more, with its random numbers and its root."""
    generator = np.random.default_rng(1)
    made, real = generator.normal(0, 1, (70, 5)), generator.normal(0.5, 2, (150, 5))
    means = []
    for size in (32, 64, 128, 256, 300, 512, 1024):
        values = []
        for seed in (12, 22, 32, 42):
            random.seed(seed)
            ours = made[random.sample(list(range(70)), size)] if size < 70 else made
            random.seed(seed)
            theirs = real[random.sample(list(range(150)), size)] if size < 150 else real
            values.append(formula(ours, theirs, ddof=0))
        means.append(np.mean(values))
    value, of_sizes = umt.umt_fvd(made, real)
    assert value == pytest.approx(np.mean(means))
    assert [np.mean(of_sizes[size]) for size in umt.SUBSETS] == pytest.approx(means)
    with pytest.raises(ValueError, match="at least 2 clips"):
        umt.umt_fvd(made[:1], real)


# --- FVD

def test_fvd_is_the_formula_with_numpys_covariance():
    generator = np.random.default_rng(2)
    made, real = generator.normal(0, 1, (40, 4)), generator.normal(1, 2, (30, 4))
    assert fvd.fvd(made, real) == pytest.approx(formula(made, real, ddof=1))
    assert frechet_distance(made, real) == pytest.approx(formula(made, real, ddof=0))
    # two clips: variances of n - 1 in the denominator
    assert fvd.fvd(np.array([[-1.0], [1.0]]), np.array([[-3.0], [3.0]])) == pytest.approx(2 * (3 - 1) ** 2)


def test_the_reading_in_batches_is_the_mean_over_batches_and_lengths():
    generator = np.random.default_rng(3)
    made, real = generator.normal(0, 1, (7, 3, 4)), generator.normal(1, 2, (9, 3, 4))
    values = []
    for start, end in ((0, 3), (3, 6)):
        for length in range(3):
            values.append(formula(made[start:end, length], real[start:end, length], ddof=1))
    values += [np.square(made[6, length] - real[6, length]).sum() for length in range(3)]  # one clip is left
    assert fvd.fvd_in_batches(made, real, 3) == pytest.approx(np.mean(values), rel=1e-6)


def test_cut_features_are_of_the_middle_from_minus_1_to_1(tmp_path):
    features = fvd.CutFeatures(tiny.saved_detector(tmp_path / "i3d.pt"))
    clip = np.zeros((20, 30, 60, 3), np.uint8)
    clip[:10, :, 15:45] = (255, 0, 51)  # what is left of it when the square in the middle is cut out
    clip[10:, :, 15:45] = (255, 255, 255)
    clip[:, :, :14] = 90
    found = features.of_all([clip])
    assert found.shape == (1, 7, 3)
    expected = [[1, (10 * -1 + (n - 10)) / n, (10 * -0.6 + (n - 10)) / n] for n in range(10, 17)]
    np.testing.assert_allclose(found[0], expected, atol=0.02)
    with pytest.raises(ValueError, match="at least 16"):
        features.of_all([clip[:15]])
