"""Beside the scripts of a running WebUI, and what is refused there, through its API."""
import pytest

from .test_running_webui import different, nothing_leaks  # noqa: F401  after every test here too
from .webui import ANIMATEDIFF, BUILT_IN, NAME, Refused, WebUI, pixels, png

pytestmark = pytest.mark.live
GIF = {"formats": ["GIF"]}


@pytest.fixture(scope="module")
def built_in(webui):
    return WebUI(webui.url, BUILT_IN)


def gifs(result):
    return [pixels(file) for file in result.files if file[:3] == b"GIF"]


def refused(webui, *words, kind="txt2img", **fields):
    with pytest.raises(Refused) as error:
        webui.generate(kind, **fields)
    assert error.value.status == 422, error.value.text
    assert all(word in error.value.text for word in words), error.value.text


@pytest.fixture(scope="module")
def plot(built_in):
    """A plot's arguments for one axis, as the API takes them."""
    scripts = built_in.call("/sdapi/v1/script-info")
    info = next(script for script in scripts if script["name"] == "x/y/z plot" and not script["is_img2img"])
    axes, rest = info["args"][0]["choices"], [argument.get("value") for argument in info["args"]]

    def arguments(label, values):
        by_text = [argument["label"] for argument in info["args"]].index("Use text inputs instead of dropdowns")
        given = [*rest]
        given[:9], given[by_text] = [axes.index(label), values, [], 0, "", [], 0, "", []], True
        return {"script_name": "x/y/z plot", "script_args": given}

    return arguments


@pytest.mark.parametrize("sampler", ["Euler", NAME])
def test_prompt_matrix_makes_a_clip_of_each_prompt(built_in, sampler):
    script = {"script_name": "prompt matrix", "script_args": [False, False, "positive", "comma", 0]}
    made = gifs(built_in.generate(prompt="a kite|red", sampler_name=sampler, motion=GIF, **script))
    alone = [gifs(built_in.generate(prompt=prompt, sampler_name=sampler, motion=GIF))[0]
             for prompt in ("a kite", "a kite, red")]
    assert made == alone and different(*made)


def test_prompts_from_file_answers_with_clips(built_in):
    script = {"script_name": "prompts from file or textbox", "script_args": [False, False, "start", "one\ntwo"]}
    result = built_in.mixed(prompt="photo", motion=GIF, **script)
    assert len(result.files) - len(gifs(result)) <= 1  # Forge main puts a picture of both before them
    assert gifs(result) == [gifs(built_in.mixed(prompt=f"{line} photo", motion=GIF))[0] for line in ("one", "two")]


def test_a_plot_answers_with_its_picture_and_the_clips(built_in, plot):
    result = built_in.mixed(motion=GIF, **plot(f"[{NAME}] gamma go", "4, 6 to 2"))
    assert result.files[0][1:4] == b"PNG" and len(result.files) == 3
    assert gifs(result) == [gifs(built_in.mixed(motion=GIF, options={"gamma_go": gamma}))[0] for gamma in (4, [6, 2])]


@pytest.mark.parametrize("axis, values, words", [
    ("gamma go", "4, 31", ["gamma_go = ", "31", "0 to 30"]), ("z percent", "much", ["z_percent = 'much'"]),
    ("z percent", "0-150 (+50)", ["z_percent = ", "150", "0 to 100"]), ("form", "XX-XX", ["form = 'XX-XX'"]),
    ("preset", "none such", ["preset = 'none such'"]), ("image checkpoint", "none such", ["image_checkpoint"])])
def test_a_wrong_value_of_an_axis(built_in, plot, axis, values, words):
    refused(built_in, *words, sampler_name=NAME, **plot(f"[{NAME}] {axis}", values))


def test_a_plot_of_which_no_cell_can_be_made(built_in, plot):
    refused(built_in, "gama_go", sampler_name=NAME, options={"gama_go": 6}, **plot("Steps", "2, 3"))
    refused(built_in, "mm_nowhere.ckpt", module="mm_nowhere.ckpt", **plot("Steps", "2, 3"))


def test_loopback_is_refused(built_in):
    refused(built_in, "script = 'Loopback'", kind="img2img", init_images=[png()], denoising_strength=0.5,
            script_name="loopback", script_args=[2, 0.5, "Linear", "None"])


@pytest.mark.parametrize("pictures, words", [(3, "cannot be used with 3 init_images"), (0, "init_images = []")])
def test_pictures_that_do_not_fit_the_frames(built_in, pictures, words):
    refused(built_in, words, kind="img2img", init_images=[png()] * pictures, denoising_strength=0.5)


def test_a_refiner_that_is_the_loaded_checkpoint_changes_nothing(webui):
    own = webui.call("/sdapi/v1/options")["sd_model_checkpoint"]
    fields = {"refiner_switch_at": 0.5}
    expected = webui.mixed()
    clip = webui.mixed(refiner_checkpoint=own, **fields)
    assert clip.frames == expected.frames and clip.field("Refiner") is None
    name = own.split(" [")[0]  # the setting has the file's hash or not
    others = [entry["title"] for entry in webui.call("/sdapi/v1/sd-models") if not entry["title"].startswith(name)]
    if others:
        refused(webui, "refiner_checkpoint", "which is loaded", sampler_name=NAME, refiner_checkpoint=others[0],
                **fields)
        assert webui.mixed().frames == expected.frames


def test_noise_that_the_steps_do_not_add_is_said(webui):
    expected = webui.mixed()
    clip = webui.mixed(s_churn=5)
    assert clip.field(f"{NAME} ignored") == "sigma churn 5" and clip.frames == expected.frames


def test_a_still_is_refused_where_animatediff_is_asked_for_motion(webui):
    if webui.motion != ANIMATEDIFF:
        pytest.skip("no AnimateDiff that acts in this WebUI")
    refused(webui, "mm_nowhere.ckpt", "is not there", sampler_name=NAME, module="mm_nowhere.ckpt")
