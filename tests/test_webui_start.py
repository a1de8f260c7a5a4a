"""Clips with built-in motion that start from another, in img2img and by the API, on doubles of the hosts."""
import base64
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ivmixed import OptionError
from ivmixed.clips.media import write_clip
from ivmixed.motion import MotionOptions

from .host import NAME, loaded
from .host.forge_host import HOSTS, loaded_forge
from .test_webui_motion import MOTION, with_modules


@pytest.fixture(params=["a1111", *HOSTS])
def any_host(request, tmp_path):
    with (loaded() if request.param == "a1111" else loaded_forge(request.param)) as host:
        yield with_modules(host, tmp_path)


@pytest.fixture
def host(tmp_path):
    with loaded() as host:
        yield with_modules(host, tmp_path)


def colours(count, side=32):
    """Frames of one colour each, which the doubles' VAE brings back."""
    return np.stack([np.full((side, side, 3), (20 + 9 * k, 200 - 9 * k, 60), np.uint8) for k in range(count)])


def data(tmp_path, clip, name="in.webp", fps=8):
    folder = tmp_path / "start"
    folder.mkdir(exist_ok=True)
    write_clip(folder / name, clip, fps, {})
    return (folder / name).read_bytes()


def request(host, sampler="Euler", options=None, fields=None, **motion):
    given = {MOTION: [{"model": "v3.safetensors", "frames": 4, **motion}]}
    if options is not None:
        given[NAME] = [options]
    return host.processing.StableDiffusionProcessingImg2Img(**{
        "sd_model": host.model, "is_api": True, "sampler_name": sampler, "scripts": host.runner, "steps": 4,
        "prompt": "a photo", "negative_prompt": "blurry", "script_args": host.arguments(given), "init_images": [],
        **(fields or {})})


def latents(clip):
    """What the doubles' VAE makes of frames of one colour."""
    values = 6 * (torch.from_numpy(clip[:, 0, 0].astype(np.float32)) / 255 - 0.5)
    return torch.cat([values, torch.zeros(len(clip), 1)], 1)[:, :, None, None].expand(-1, -1, 4, 4)


@pytest.mark.parametrize("sampler", ["Euler", NAME])
def test_each_frame_begins_with_its_own(any_host, tmp_path, sampler):
    video = base64.b64encode(data(tmp_path, colours(12), fps=24)).decode()
    p = request(any_host, sampler, init_video=video)
    any_host.run(p)
    first = any_host.evaluations[0]
    frames = latents(colours(12)[::3])
    torch.testing.assert_close(first.x[:4], frames + p.noise(4) * first.sigma[0], rtol=1e-3, atol=1e-3)
    assert len(p.latents) == 4 and p.init_images == []  # as it was
    assert p.extra_generation_params["IV-mixed motion start"].startswith("4 frames of init_video.webp, 8 a second")
    assert video[:20] not in str(p.extra_generation_params)


def test_it_is_the_clip_of_as_many_pictures(any_host, tmp_path):
    """What the API gave before: init_images, one a frame."""
    pictures = [Image.fromarray(frame) for frame in colours(4)]
    expected = any_host.run(request(any_host, NAME, fields={"init_images": pictures}))
    given = "data:image/webp;base64," + base64.b64encode(data(tmp_path, colours(4))).decode()
    assert torch.equal(any_host.run(request(any_host, NAME, init_video=given)), expected)


def test_it_is_scaled_as_the_host_scales_pictures(host, tmp_path):
    wide = np.zeros((4, 32, 96, 3), np.uint8)
    wide[:, :, 32:64] = 255
    for mode, value in ((1, 255), (0, 85)):
        p = request(host, init_video=data(tmp_path, wide), fields={"resize_mode": mode})
        host.run(p)
        assert abs(p.init_latent[:, :3].mean() / 6 + 0.5 - value / 255) < 0.02


def test_a_picture_beside_it_is_said_to_be_unused(host, tmp_path):
    p = request(host, init_video=data(tmp_path, colours(4)), fields={"init_images": [Image.new("RGB", (32, 32))]})
    host.run(p)
    assert "the picture of img2img is not used: the clip takes its place" in host.log.lines
    assert torch.allclose(p.init_latent, latents(colours(4)), atol=1e-4)


@pytest.mark.parametrize("sampler", ["Euler", NAME])
def test_an_extended_clip_goes_on_from_the_last_frames(any_host, tmp_path, sampler):
    video = data(tmp_path, colours(9))
    p = request(any_host, sampler, init_video=video, extend=2, fields={"denoising_strength": 1.0})
    made = any_host.run(p)
    kept = latents(colours(9)[-2:])
    torch.testing.assert_close(made[:2], kept, rtol=1e-3, atol=1e-3)
    assert all((frame - kept[1]).abs().max() > 0.1 for frame in made[2:])
    torch.testing.assert_close(p.init_latent[2:], kept[1:].expand(2, -1, -1, -1), rtol=1e-3, atol=1e-3)
    assert "the last 2 frames" in p.extra_generation_params["IV-mixed motion start"]
    assert p.extra_generation_params["IV-mixed motion extend"] == "2"
    assert p.mask is None and "init" not in vars(p)  # nothing stays for the next one
    again = any_host.run(request(any_host, sampler, init_video=video, fields={"denoising_strength": 1.0}))
    assert (again[:2] - kept).abs().max() > 0.1


@pytest.mark.parametrize("options, words", [
    ({"init_video": "/etc/passwd"}, "init_video = '/etc/passwd' is no base64"),
    ({"init_video": base64.b64encode(b"/etc/passwd").decode()}, "init_video is no clip"),
    ({"init_video": base64.b64encode(b"GIF89a").decode()}, "cannot be read as a clip"),
    ({"init_video": ""}, "init_video"), ({"init_video": 5}, "init_video = 5 is not allowed"),
    ({"extend": 2}, "extend = 2 cannot be used with no init_video"),
])
def test_what_is_no_clip_is_refused(host, options, words):
    with pytest.raises(host.sampler.RefusedError) as refused:
        host.run(request(host, **options))
    assert words in str(refused.value) and "\n" not in str(refused.value) and host.evaluations == []


def test_there_is_a_frame_to_extend_by(tmp_path):
    with pytest.raises(OptionError, match="no frame would be new"):
        MotionOptions(init_video=b"x", extend=16)


def test_txt2img_takes_none(host, tmp_path):
    p = request(host, init_video=data(tmp_path, colours(4)), fields={"init_images": None})
    with pytest.raises(host.sampler.RefusedError, match="is not for txt2img"):
        host.run(p)


def test_nothing_is_read_by_its_name(host, tmp_path):
    """The page sends an object of gradio's; a text is data, whatever it says."""
    file = tmp_path / "in.webp"
    file.write_bytes(data(tmp_path, colours(4)))
    option = MotionOptions.option("init_video")
    uploaded = host.module("page.form").uploaded
    assert uploaded(option, SimpleNamespace(name=str(file))) == file.read_bytes()
    for value in (str(file), {"name": str(file)}, [str(file)]):
        assert uploaded(option, value) == value
        with pytest.raises(OptionError):
            MotionOptions(init_video=value)


def test_a_clip_goes_through_json(tmp_path):
    options = MotionOptions(init_video=data(tmp_path, colours(2)), frames=4)
    assert MotionOptions.from_dict(options.to_dict()) == options
    assert "" not in options.to_infotext() and len(str(options.to_infotext())) < 200
