"""Clips beside the host's selectable scripts, on a double of the host (tests/host)."""
import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ivmixed import Options

from .host import NAME, loaded
from .test_webui_motion import MOTION, request, with_modules

CLIP = {"formats": ["GIF", "WebP"], "frames": 4}
NO_SAVING = {"do_not_save_samples": True, "do_not_save_grid": True}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    with loaded() as host:
        with_modules(host, folder)
        host.shared.opts.outdir_txt2img_samples = str(folder / "pictures")
        yield host
        assert host.errors.reports == []


def asked(host, sampler="Euler", prompt="a photo", options=None, motion=None, **fields):
    p = request(host, sampler, prompt, options, **{**CLIP, **(motion or {})})
    for name, value in {**NO_SAVING, **fields}.items():
        setattr(p, name, value)
    return p


def frames_of(image):
    """What a file in an answer shows, lossless: the WebP."""
    moving = Image.open(io.BytesIO(base64.b64decode(image)))
    return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(moving)]


def clips(result):
    """The clips of an answer, by their WebP, and their infotexts."""
    pairs = [(image, text) for image, text in zip(result.images, result.infotexts, strict=True)
             if isinstance(image, str)]
    assert [base64.b64decode(image)[:3] for image, _ in pairs[::2]] == [b"GIF"] * (len(pairs) // 2)
    return [frames_of(image) for image, _ in pairs[1::2]], [text for _, text in pairs[1::2]]


def alone(host, **fields):
    (frames,), _ = clips(host.answer(asked(host, **fields)))
    return frames


def same(made, expected):
    return len(made) == len(expected) and all(np.array_equal(a, b) for a, b in zip(made, expected))


# --- prompt matrix

@pytest.mark.parametrize("sampler", ["Euler", NAME])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_prompt_matrix_makes_a_clip_of_each_prompt(host, sampler, batch_size):
    result = host.answer(asked(host, sampler, "a kite|red|blue", batch_size=batch_size), "Prompt matrix", False,
                         "positive")
    assert result.images[0].size == (64, 64)  # the grid of four first frames
    made, texts = clips(result)
    prompts = ["a kite", "a kite, red", "a kite, blue", "a kite, red, blue"]
    assert [text.split("\n")[0] for text in texts] == prompts
    assert all(same(clip, alone(host, sampler=sampler, prompt=prompt)) for clip, prompt in zip(made, prompts))


def test_prompt_matrix_of_negative_prompts_with_a_seed_for_each(host):
    p = asked(host)
    p.negative_prompt = "blurry|grey"
    made, texts = clips(host.answer(p, "Prompt matrix", True, "negative"))
    expected = []
    for seed, negative_prompt in ((1, "blurry"), (2, "blurry, grey")):
        expected.append(alone(host, seed=seed, negative_prompt=negative_prompt))
    assert all(map(same, made, expected)) and len(made) == 2
    assert ["Seed: 1" in texts[0], "Seed: 2" in texts[1]] == [True, True]


def test_prompts_of_a_matrix_may_travel(host):
    made, _ = clips(host.answer(asked(host, prompt="0: a kite\n3: a ball|red"), "Prompt matrix", False, "positive"))
    assert same(made[0], alone(host, prompt="0: a kite\n3: a ball"))
    assert same(made[1], alone(host, prompt="0: a kite\n3: a ball, red"))
    assert not same(made[0], made[1])


# --- prompts from file, X/Y/Z plot

def test_prompts_from_file_answer_with_the_clips(host):
    result = host.answer(asked(host, prompt="photo"), "Prompts from file or textbox", "a kite\na ball", None)
    assert all(isinstance(image, str) for image in result.images) and len(result.images) == 4
    made, texts = clips(result)
    assert [text.split("\n")[0] for text in texts] == ["a kite photo", "a ball photo"]
    assert same(made[0], alone(host, prompt="a kite photo")) and same(made[1], alone(host, prompt="a ball photo"))


def test_frames_come_where_they_are_asked_for(host):
    motion = {"formats": ["WebP", "PNG"]}
    result = host.answer(asked(host, motion=motion), "Prompts from file or textbox", "a kite\na ball", None)
    assert [type(image) for image in result.images] == [str, *[Image.Image] * 4] * 2
    assert same([np.asarray(image) for image in result.images[1:5]], frames_of(result.images[0]))
    assert len(result.infotexts) == 10


def test_what_one_request_of_a_script_was_made_with_is_not_said_of_the_next(host):
    """The copies of a request share what goes into the infotext."""
    p = asked(host, NAME, "photo", options={"gamma_go": 6}, s_churn=2.0)
    _, (first, second) = clips(host.answer(p, "Prompts from file or textbox", "a\nb", [NAME, "Euler"]))
    assert f"{NAME}: 9 evaluations" in first and "IV-mixed gamma go: 6" in first and "ignored" in first
    assert [key for key in (f"{NAME}:", "gamma go", "ignored") if key in second] == []
    assert f"{MOTION}: v3.safetensors" in second


def test_a_plot_answers_with_its_picture_and_the_clips(host):
    result = host.answer(asked(host, NAME), "X/Y/Z plot", "[IV-mixed] gamma go", "4, 6")
    grid, *_ = result.images
    assert grid.size == (64, 32) and result.infotexts[0] == "the grid"
    made, texts = clips(result)
    for clip, text, gamma in zip(made, texts, (4, 6), strict=True):
        assert same(clip, alone(host, sampler=NAME, options={"gamma_go": gamma}))
        assert Options.from_infotext(host.infotext_utils.parse(text.split("\n")[-1])).gamma_go == gamma
    assert np.array_equal(np.asarray(grid)[:, :32], made[0][0])


def test_in_the_page_a_script_gets_pictures_that_stand_for_the_clips(host):
    p = asked(host, motion={"formats": ["GIF"]}, do_not_save_samples=False)
    chosen = host.runner.selectable_scripts
    number, script = next((n, s) for n, s in enumerate(chosen, 1) if s.title().startswith("Prompts"))
    p.is_api, p.script_args = False, [number, *p.script_args[1:]]
    p.script_args[script.args_from:script.args_to] = "a kite\na ball", None
    host.shared.state.begin("a request")
    result = host.runner.run(p, *p.script_args)
    assert [Image.open(image.already_saved_as).n_frames for image in result.images] == [4, 4]
    assert len({image.already_saved_as for image in result.images}) == 2


def test_what_could_not_be_written_is_said_of_the_whole(host, monkeypatch):
    def full(*args):
        raise OSError("disk full")

    monkeypatch.setitem(host.output.WRITERS, ".gif", full)
    result = host.answer(asked(host), "Prompts from file or textbox", "a kite\na ball", None)
    assert result.comments.count("disk full") == 2


# --- one request many times

def test_a_request_asks_for_the_same_again(host):
    """As the tab img2img's batch does, with one request for all pictures."""
    p = asked(host, prompt="0: a kite\n2: a ball")
    before = {name: getattr(p, name) for name in ("prompt", "batch_size", "n_iter", "do_not_save_samples", "seed")}
    results = [host.answer(p) for _ in range(2)]
    assert results[0].images == results[1].images
    assert {name: getattr(p, name) for name in before} == before
    assert "sample" not in vars(p)


def test_a_script_that_goes_on_with_single_pictures_is_refused(host):
    host.evaluations.clear()
    with pytest.raises(host.sampler.RefusedError, match="'Loopback' cannot be used with built-in motion") as refused:
        host.answer(asked(host), "Loopback", 2, None)
    assert refused.value.status_code == 422 and host.evaluations == []
    still = host.still("Euler")
    host.answer(still, "Loopback", 2, None)


# --- errors

@pytest.mark.parametrize("label, text", [
    ("gamma go", "4, 31"), ("gamma go", "much"), ("z percent", "much"), ("z percent", "0-150 (+50)"),
    ("interval", "60 to 20"), ("form", ["XX-XX"]), ("preset", ["none such"]), ("image checkpoint", ["none such"]),
])
def test_a_wrong_value_of_an_axis_is_refused(host, label, text):
    with pytest.raises(host.sampler.RefusedError) as refused:
        host.answer(asked(host, NAME), "X/Y/Z plot", f"[IV-mixed] {label}", text)
    assert refused.value.status_code == 422 and label.replace(" ", "_") in str(refused.value)
    assert host.evaluations == []


@pytest.mark.parametrize("options, motion, words", [
    ({"gama_go": 6}, {}, "gama_go"), ({}, {"model": "gone"}, "is not in the folders")])
def test_a_request_that_is_wrong_in_every_cell_is_refused(host, options, motion, words):
    """The plot would go on with empty pictures."""
    p = asked(host, NAME, options=options, motion=motion)
    with pytest.raises(host.sampler.RefusedError, match=words):
        host.answer(p, "X/Y/Z plot", "Steps", ["3", "4"])
    assert host.evaluations == []


def test_a_cell_that_is_refused_is_said_and_the_others_are_made(host):
    p = asked(host, NAME, options={"reused": "features"}, motion={"context": 2})
    result = host.answer(p, "X/Y/Z plot", "[IV-mixed] reuse percent", "75, 50")
    assert len(clips(result)[0]) == 1
    assert "left out: IV-mixed: reuse_percent = 75.0 cannot be used with reused = 'features'" in result.comments


def test_the_hosts_scripts_are_watched_once_and_until_they_are_unloaded(host):
    for _ in range(2):
        host.load_scripts()
    assert host.scripts.ScriptRunner.run.__module__ == "ivmixed.webui.selectable"
    host.script_callbacks.script_unloaded_callback()
    assert host.scripts.ScriptRunner.run.__module__ == "modules.scripts"
    host.load_scripts()
