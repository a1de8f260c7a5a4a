"""BRISQUE and PIQE: against recorded values of other programs, and the right order on pictures made worse."""
import math
import sys

import numpy as np
import pytest

from ivmixed.measures import quality
from ivmixed.measures.quality import brisque, piqe

from .test_metrics import blurred


def photo(seed=0, height=96, width=136):
    """Grey noise with the spectrum of photographs, whose amplitude falls with frequency."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
    frequency[0, 0] = 1
    picture = np.fft.ifft2(np.fft.fft2(np.random.default_rng(seed).normal(size=(height, width))) / frequency).real
    return as_clip(128 + 45 * (picture - picture.mean()) / picture.std())


def as_clip(picture):
    return picture.clip(0, 255).round()[None, :, :, None].repeat(3, axis=3)


def noisy(clip, level):
    """The same noise in all three colours, so that it is no question how they are weighted."""
    return as_clip(clip[0, :, :, 0] + np.random.default_rng(5).normal(0, level, clip.shape[1:3]))


def blocky(clip, share):
    """Squares of 8 pixels, as far as ``share`` goes, as coarse JPEG has them."""
    picture = clip[0, :, :, 0]
    means = picture.reshape(picture.shape[0] // 8, 8, -1, 8).mean(axis=(1, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return as_clip((1 - share) * picture + share * means)


PICTURES = {
    "photo": photo(), "other": photo(1, 96, 128), "blur": as_clip(blurred(photo(), 1.5)[0, :, :, 0]),
    "noise": noisy(photo(), 20), "blocks": blocky(photo(), 0.7),
}


@pytest.mark.parametrize("name, value", [
    ("photo", 39.102), ("other", 40.095), ("blur", 47.266), ("noise", 48.837), ("blocks", 33.206),
])
def test_brisque_is_that_of_the_package_brisque(name, value):
    """Recorded with brisque 0.2.0, numpy 1.26.4 and OpenCV 4.11; it finds its shapes by another search."""
    assert brisque(PICTURES[name]) == pytest.approx(value, abs=0.1)


@pytest.mark.parametrize("name, value", [
    ("photo", 51.354), ("other", 52.858), ("blur", 64.513), ("noise", 60.61), ("blocks", 18.236),
])
def test_piqe_is_that_of_the_package_pypiqe(name, value):
    """Recorded with pypiqe 1.2, which agrees with MATLAB."""
    assert piqe(PICTURES[name]) == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize("measure", [brisque, piqe])
@pytest.mark.parametrize("worse", [
    [blurred(photo(), sigma) for sigma in (1, 1.5, 2, 3)], [noisy(photo(), level) for level in (5, 10, 20, 40)],
], ids=["blur", "noise"])
def test_the_worse_the_more(measure, worse):
    values = [measure(clip) for clip in worse]
    assert all(before < after for before, after in zip(values, values[1:]))


@pytest.mark.parametrize("measure", [brisque, piqe])
def test_a_clip_has_the_mean_of_its_frames(measure):
    clips = [photo(), blurred(photo(), 2)]
    assert measure(np.concatenate(clips)) == pytest.approx(np.mean([measure(clip) for clip in clips]))


def test_what_is_flat_has_no_statistics():
    flat = np.full((2, 32, 32, 3), 77, np.uint8)
    assert math.isnan(brisque(flat)) and piqe(flat) == 100
    assert piqe(0 * flat) == 100
    mixed = np.concatenate([photo()[:, :32, :32], flat])
    assert brisque(mixed) == brisque(mixed[:1])


@pytest.mark.parametrize("measure", [brisque, piqe])
def test_any_picture_has_a_finite_value(measure):
    board = np.indices((16, 16)).sum(axis=0) % 2 * 255.0
    for picture in (board, np.eye(16) * 255, np.arange(17.0)[:, None].repeat(33, axis=1)):
        assert math.isfinite(measure(as_clip(picture)))


def test_without_the_package_brisque_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "brisque", None)
    quality._model.cache_clear()
    with pytest.raises(ModuleNotFoundError) as error:
        brisque(photo())
    assert error.value.name == "brisque"


def test_a_file_of_ranges_that_holds_code_is_not_run(tmp_path, monkeypatch):
    import pickle
    from importlib.machinery import ModuleSpec

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "normalize.pickle").write_bytes(pickle.dumps(print))
    monkeypatch.setattr(quality, "find_spec", lambda name: ModuleSpec(name, None, origin=str(tmp_path / "__init__.py")))
    quality._model.cache_clear()
    with pytest.raises(pickle.UnpicklingError, match=r"builtins.print in a file that should hold numbers"):
        brisque(photo())
    quality._model.cache_clear()
