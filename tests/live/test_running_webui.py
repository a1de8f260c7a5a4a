"""The extension in a running WebUI, through its API. 64 x 64 pixels and a few frames: the claims, not the pictures."""
import base64
import io
import time

import pytest
from PIL import Image

from .webui import NAME, Refused, pixels

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def nothing_leaks(webui, before):
    """After every test the host makes the same still as before any of them, to the bit."""
    yield
    assert webui.generate(clip=False).frames == before["still"]


@pytest.fixture(scope="module")
def mixed(webui, before):
    return webui.mixed()


def different(a, b):
    assert len(a) == len(b)
    return all(x != y for x, y in zip(a, b))


def png(size=64):
    image = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_listed_once(webui):
    assert webui.samplers().count(NAME) == 1


def test_clip_differs_from_plain_and_repeats(webui, before, mixed):
    assert mixed.files[0][:3] == b"GIF"
    assert mixed.field("Sampler") == NAME
    assert len(mixed.frames) == 4
    assert different(mixed.frames, before["clip"])
    assert webui.mixed().frames == mixed.frames


def test_every_motion_module(webui, mixed):
    modules = webui.motion_modules()
    assert modules
    for module in modules:
        plain, clip = webui.generate(module=module), webui.mixed(module=module)
        assert different(plain.frames, clip.frames), module
        print(f"\n{module}: plain {plain.seconds:.1f} s, {NAME} {clip.seconds:.1f} s, {clip.field(NAME)}")


def test_empty_interval_is_euler(webui, before):
    assert webui.mixed(options={"interval": [0, 0]}).frames == before["clip"]


def test_options_act_and_defaults_do_not(webui, mixed):
    assert webui.mixed(options={}).frames == mixed.frames
    assert webui.mixed(options={"gamma_go": 4, "form": "IV-IV", "interval": [0, 100]}).frames == mixed.frames
    for options in ({"form": "II-II"}, {"gamma_go": [6, 2]}, {"gamma_image_back": 1}, {"z_percent": 50},
                    {"schedule_match": "timestep"}):
        assert different(webui.mixed(options=options).frames, mixed.frames), options


def test_infotext_round_trip(webui):
    options = {"form": "II-II", "gamma_go": [6, 2], "gamma_video_back": 3, "z_percent": 33.3, "interval": [0, 70]}
    clip = webui.mixed(options=options)
    assert clip.field("IV-mixed form") == "II-II"
    assert clip.field("IV-mixed gamma go") == "6 to 2"
    assert clip.field("IV-mixed rho") is None  # a default
    # the host takes from the infotext what the request leaves out: here all but AnimateDiff's settings
    left_out = "prompt", "negative_prompt", "sampler_name", "steps", "seed", "cfg_scale", "width", "height"
    again = webui.generate(infotext=clip.infotext, left_out=left_out)
    assert again.field("Sampler") == NAME
    assert again.frames == clip.frames


def test_bad_input_is_refused(webui, before):
    for options, words in (
        ({"gamma_go": 40}, ["gamma_go", "40", "0 to 30"]),
        ({"gamma_back": [4, None]}, ["gamma_back", "None", "0 to 30"]),
        ({"gama_go": 4}, ["gama_go", "gamma_go"]),
        ({"interval": [60, 20]}, ["interval", "[60, 20]", "0 to 100"]),
        ({"form": "IV-XX"}, ["form", "IV-XX", "IV-IV"]),
        ({"z_percent": "much"}, ["z_percent", "much", "0 to 100"]),
        ("IV-IV", ["args", "IV-IV"]),
    ):
        with pytest.raises(Refused) as refused:
            webui.mixed(options=options)
        assert refused.value.status == 422
        assert all(word in refused.value.text for word in words)
        # AnimateDiff had injected its motion into the UNet: it must be gone for the next image, in either tab
        assert webui.generate("img2img", clip=False, init_images=[png()]).infotext
        assert webui.generate(clip=False).frames == before["still"]
    assert webui.generate().frames == before["clip"]


def test_without_motion_it_is_euler_and_says_so(webui, before):
    still = webui.mixed(clip=False)
    assert still.frames == before["still"]
    assert "off" in still.field(NAME)


def test_progress_counts_evaluations_and_never_falls(webui):
    thread, box = webui.in_background(lambda: webui.mixed(steps=4, options={"interval": [0, 50]}))
    seen, totals = [], set()
    while thread.is_alive():
        answer = webui.call("/sdapi/v1/progress?skip_current_image=true")
        if answer["state"]["job"] and answer["state"]["sampling_steps"]:
            seen.append(answer["state"]["sampling_step"])
            totals.add(answer["state"]["sampling_steps"])
        time.sleep(0.1)
    assert box[0].field(NAME) == "12 evaluations"
    assert 12 in totals
    assert len(set(seen)) >= 9  # a poll can miss one
    assert sum(b < a for a, b in zip(seen, seen[1:])) <= 1  # once, where the job ends


def test_interrupt_stops_within_an_evaluation(webui, before):
    whole = webui.mixed(steps=6)
    one = whole.seconds / 23
    thread, box = webui.in_background(lambda: webui.mixed(steps=6))
    while webui.call("/sdapi/v1/progress?skip_current_image=true")["state"]["sampling_step"] < 7:
        time.sleep(0.05)
    asked = time.monotonic()
    webui.call("/sdapi/v1/interrupt", {})
    thread.join()
    print(f"\nstopped {time.monotonic() - asked:.1f} s after the interrupt; an evaluation takes {one:.1f} s")
    assert box[0].seconds < 0.8 * whole.seconds
    assert different(box[0].frames, whole.frames)
    assert webui.generate().frames == before["clip"]


def test_long_clip_and_closed_loop(webui):
    plain = webui.generate(frames=6, context=4)
    clip = webui.mixed(frames=6, context=4)
    assert len(clip.frames) == 6
    assert different(clip.frames, plain.frames)
    loop = webui.mixed(frames=6, context=4, animatediff={"closed_loop": "A"})
    assert different(loop.frames, clip.frames)


def test_img2img(webui):
    fields = {"init_images": [png()], "denoising_strength": 0.7, "steps": 4}
    plain, clip = webui.generate("img2img", **fields), webui.mixed("img2img", **fields)
    assert clip.field("Sampler") == NAME and clip.field("Denoising strength") == "0.7"
    assert different(clip.frames, plain.frames)


def test_hires_fix(webui, mixed):
    clip = webui.mixed(enable_hr=True, hr_scale=2, hr_upscaler="Latent", hr_second_pass_steps=2, denoising_strength=0.8)
    assert clip.field(NAME) == "9 evaluations"
    assert clip.field("IV-mixed hires").endswith("evaluations")
    assert Image.open(io.BytesIO(clip.files[1])).size == (128, 128)


def test_batch_count(webui, mixed):
    first, second = webui.mixed(n_iter=2).files[:2]
    assert pixels(first) == pixels(mixed.files[0])
    assert different(pixels(second), pixels(first))


def test_prompt_travel(webui, mixed):
    prompt = "a photo\n0: of an astronaut\n2: of a horse"
    clip = webui.mixed(prompt=prompt)
    assert different(clip.frames, mixed.frames)
    assert different(clip.frames, webui.generate(prompt=prompt).frames)


def test_prompts_of_unequal_length_are_padded(webui):
    clip = webui.mixed(prompt="a photo of an astronaut, " * 20)
    assert clip.field("Pad conds") == "True"


def test_host_options_that_drop_the_negative_prompt(webui, mixed):
    assert webui.mixed(s_min_uncond=4).frames == mixed.frames
    with webui.settings(skip_early_cond=0.5):
        assert webui.mixed().frames == mixed.frames


def test_cond_and_uncond_apart(webui, before):
    with webui.settings(batch_cond_uncond=False):
        assert different(webui.mixed().frames, webui.generate().frames)


def test_reload_leaves_one(webui, before, mixed):
    for _ in range(2):
        webui.reload_page()
    assert webui.samplers().count(NAME) == 1
    assert webui.mixed().frames == mixed.frames
    assert webui.generate().frames == before["clip"]
