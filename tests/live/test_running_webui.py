"""The extension in a running WebUI, through its API. 64 x 64 pixels and few frames: the claims, not the pictures."""
import io
import re
import time

import pytest
from PIL import Image

from .webui import ANIMATEDIFF, BUILT_IN, NAME, Refused, WebUI, pixels, png

pytestmark = pytest.mark.live

SOLVERS = ["DPM++ 2M", "DPM++ 2M SDE"]


@pytest.fixture(autouse=True)
def nothing_leaks(webui, before):
    """After every test the host makes the same still as before any of them, to the bit."""
    yield
    assert webui.generate(clip=False, steps=1).frames == before["still"]


def different(a, b):
    assert len(a) == len(b)
    return all(x != y for x, y in zip(a, b))


def furthest(a, b):
    """The largest difference of two clips' values, of 255."""
    return max(abs(x - y) for frames in zip(a, b, strict=True) for x, y in zip(*frames, strict=True))


def without_motion(webui, frames=2, **fields):
    """The clip's frames as stills of their own."""
    return webui.generate(clip=False, batch_size=frames, **fields).frames[-frames:]


def test_each_is_listed_once(webui):
    names = webui.samplers()
    assert [names.count(name) for name in (NAME, *(f"{NAME} {solver}" for solver in SOLVERS))] == [1, 1, 1]


def test_clip_differs_from_plain_and_repeats(webui, before, mixed):
    assert mixed.files[0][:3] == b"GIF"
    assert mixed.field("Sampler") == NAME
    assert mixed.field(NAME) == "4 evaluations"
    assert len(mixed.frames) == 2
    assert different(mixed.frames, before["clip"])
    assert different(before["clip"], without_motion(webui))
    assert webui.mixed().frames == mixed.frames


def test_every_motion_module(webui, before):
    still, made = without_motion(webui, steps=1), []
    for module in webui.motion_modules():
        try:
            plain = webui.generate(module=module, steps=1)
        except Refused as refused:  # the folders have other files too
            assert refused.status == 422 and "; choose a" in refused.text, module
            print(f"\n{module}: {refused.text}")
            continue
        clip = webui.mixed(module=module)
        assert different(plain.frames, still), module
        assert clip.field(NAME) == "4 evaluations"
        assert all(different(clip.frames, other) for other in made), module
        made.append(clip.frames)
        print(f"\n{module}: {NAME} {clip.seconds:.1f} s")
    assert made


def test_empty_interval_is_euler(webui, before, mixed):
    if webui.motion == ANIMATEDIFF and mixed.field("Version").startswith(("fclassic", "classic", "f1.", "f2.")):
        pytest.skip("this WebUI leaves Euler on the checkpoint's noise table, where AnimateDiff was not trained")
    assert webui.mixed(options={"interval": [0, 0]}).frames == before["clip"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_empty_interval_is_the_hosts_own_sampler(webui, mixed, solver):
    own = webui.generate(sampler_name=solver, steps=3)
    again = webui.mixed(sampler_name=f"{NAME} {solver}", steps=3, options={"interval": [0, 0]})
    assert again.field("Sampler") == f"{NAME} {solver}"
    assert again.field("Schedule type") == own.field("Schedule type")
    if solver == SOLVERS[1] and own.field("Version").startswith("neo"):
        assert furthest(again.frames, own.frames) <= 1  # it multiplies by sigma / sigma, which need not be 1
    else:
        assert again.frames == own.frames


def test_an_extra_loop_before_a_multistep_solver(webui, mixed):
    clip = webui.mixed(sampler_name=f"{NAME} {SOLVERS[0]}", steps=3, options={"interval": [0, 33]})
    assert clip.field(NAME) == "7 evaluations"
    assert different(clip.frames, mixed.frames)


def test_options_act_and_defaults_do_not(webui, mixed):
    assert webui.mixed(options={"gamma_go": 4, "form": "IV-IV", "interval": [0, 100]}).frames == mixed.frames
    other = webui.mixed(options={"form": "II-II", "gamma_go": [6, 2], "reuse_percent": 50})
    assert other.field(NAME) == "3 evaluations"
    assert different(other.frames, mixed.frames)


def test_infotext_round_trip(webui):
    try:
        webui.generate(clip=False, steps=1, infotext="a photo\nSteps: 1, Sampler: Euler, Size: 64x64")
    except Refused as refused:  # Forge main: its types of parameters are no types to compare with
        assert refused.status == 500
        pytest.skip(f"this WebUI's API takes no infotext, of stills neither: {refused.text}")
    options = {"form": "RR-IV", "gamma_go": [6, 2], "gamma_image_back": 3, "z_percent": 33.3, "interval": [0, 70]}
    clip = webui.mixed(options=options)
    assert clip.field("IV-mixed form") == "RR-IV"
    assert clip.field("IV-mixed gamma go") == "6 to 2"
    assert clip.field("IV-mixed rho") is None  # a default
    # the host takes from the infotext what the request leaves out: here all but AnimateDiff's settings
    left_out = "prompt", "negative_prompt", "sampler_name", "steps", "seed", "cfg_scale", "width", "height"
    again = webui.generate(clip=webui.motion == ANIMATEDIFF, infotext=clip.infotext, left_out=left_out)
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
    # motion was in the UNet already: it must be gone for the next image, in either tab
    assert webui.generate("img2img", clip=False, init_images=[png()], steps=1).infotext
    assert webui.generate(clip=False, steps=1).frames == before["still"]
    assert webui.generate().frames == before["clip"]


def test_bad_motion_is_refused(webui):
    if webui.motion != BUILT_IN:
        pytest.skip("the motion is another extension's, which refuses as it does")
    for clip, words in (({"module": "mm_nowhere.ckpt"}, ["mm_nowhere.ckpt", "is not in the folders"]),
                        ({"frames": 65, "context": 64}, ["frames at a time, not 64"]),
                        ({"frames": 1, "context": 2}, ["frames", "2 to 1024"])):
        with pytest.raises(Refused) as refused:
            webui.generate(**clip)
        assert refused.value.status == 422
        assert all(word in refused.value.text for word in words)


def test_motion_of_two_extensions_is_refused(webui):
    if not (webui.has(ANIMATEDIFF) and webui.has(BUILT_IN)):
        pytest.skip("no AnimateDiff in this WebUI")
    other = WebUI(webui.url, *({ANIMATEDIFF, BUILT_IN} - {webui.motion}))
    with pytest.raises(Refused) as refused:
        webui.generate(alwayson_scripts={other.motion: {"args": [other.motion_arguments()]}})
    assert refused.value.status == 422 and "cannot be used with AnimateDiff" in refused.value.text


def test_without_motion_it_is_euler_and_says_so(webui, before):
    still = webui.mixed(clip=False, steps=1)
    assert still.frames == before["still"]
    assert "off" in still.field(NAME)


def test_progress_counts_evaluations_and_an_interrupt_stops_within_one(webui, before, mixed):
    thread, box = webui.in_background(lambda: webui.mixed(steps=20))
    seen, totals, times = [], set(), {}
    while not seen or seen[-1] < 6:
        state = webui.call("/sdapi/v1/progress?skip_current_image=true")["state"]
        if state["job"] and state["sampling_steps"] and (seen or state["sampling_step"] < 6):  # not the still before it
            seen.append(state["sampling_step"])
            totals.add(state["sampling_steps"])
            times.setdefault(seen[-1], time.monotonic())
        time.sleep(0.1)
    webui.call("/sdapi/v1/interrupt", {})
    asked = time.monotonic()
    thread.join()
    one, stopped = (times[6] - times[1]) / 5, time.monotonic() - asked
    print(f"\nstopped {stopped:.1f} s after the interrupt; an evaluation takes {one:.1f} s")
    assert 94 in totals
    assert seen == sorted(seen) and len(set(seen)) >= 5  # a poll can miss one
    assert stopped < 5 * one + 5  # what is running, and the frames' decoding; nothing of the 88 that are left
    assert re.fullmatch(r"interrupted after \d{1,2} of 94 evaluations", box[0].field(NAME))
    assert different(box[0].frames, mixed.frames)
    assert webui.generate().frames == before["clip"]


def test_long_clip_and_closed_loop(webui):
    plain, loop = (webui.generate(frames=3, context=2, steps=1, closed_loop=kind) for kind in ("N", "A"))
    assert plain.frames != loop.frames  # a frame may lie in the same windows
    clip = webui.mixed(frames=3, context=2)
    assert clip.field(NAME) == "4 evaluations"
    assert len(clip.frames) == 3
    assert different(clip.frames, plain.frames)


def test_img2img(webui, mixed):
    fields = {"init_images": [png()], "denoising_strength": 0.75}
    clip = webui.mixed("img2img", **fields)
    assert clip.field("Sampler") == NAME and clip.field("Denoising strength") == "0.75"
    assert clip.field(NAME) == "4 evaluations"
    assert different(clip.frames, mixed.frames)


def test_hires_fix(webui, mixed):
    latent = [mode["name"] for mode in webui.call("/sdapi/v1/latent-upscale-modes")]  # Forge Neo has none
    fields = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": (latent or ["None"])[0], "hr_second_pass_steps": 2,
              "denoising_strength": 0.8}
    if "hr_additional_modules" in webui.fields():  # Forge main fails without
        fields["hr_additional_modules"] = ["Use same choices"]
    clip = webui.mixed(**fields)
    assert clip.field(NAME) == "4 evaluations"
    assert clip.field("IV-mixed hires") == "4 evaluations"
    assert Image.open(io.BytesIO(clip.files[1])).size == (128, 128)


def test_batch_count(webui, mixed):
    one, two = webui.mixed(steps=1), webui.mixed(steps=1, n_iter=2)
    first, second = (pixels(file) for file in two.files if file[:3] == b"GIF")
    assert first == pixels(one.files[0])
    assert different(second, first)


def test_prompt_travel(webui, mixed):
    prompt = "a photo\n0: of an astronaut\n1: of a horse"
    assert different(webui.mixed(prompt=prompt).frames, mixed.frames)


def test_prompts_of_unequal_length(webui, before):
    clip = webui.mixed(prompt="a photo of an astronaut, " * 20, steps=1)
    assert len(clip.frames) == 2
    padded = webui.is_a1111 and webui.motion == ANIMATEDIFF  # whose windows want both of one length
    assert clip.field("Pad conds") == ("True" if padded else None)
    if webui.motion == BUILT_IN:
        fields = {"prompt": "a photo of an astronaut, " * 20, "negative_prompt": "blurry BREAK grey", "steps": 2}
        assert webui.mixed(options={"interval": [0, 0]}, **fields).frames == webui.generate(**fields).frames


def test_host_options_that_drop_the_negative_prompt(webui, before, mixed):
    if not webui.has_setting("skip_early_cond"):
        pytest.skip("this WebUI has no such option")
    with webui.settings(skip_early_cond=0.5):
        # AnimateDiff's windows cannot do without it, by Euler either
        if not webui.is_a1111 or webui.motion == BUILT_IN:
            assert webui.mixed(steps=1).frames == webui.generate(steps=1).frames
        clip = webui.mixed()
    # the extra moves guide all the same; the ordinary ones do where AnimateDiff's windows cannot do without
    assert clip.field(NAME) == "4 evaluations"
    windows = webui.is_a1111 and webui.motion == ANIMATEDIFF
    assert clip.frames == mixed.frames if windows else different(clip.frames, before["clip"])


def test_cond_and_uncond_apart(webui, before):
    if not webui.has_setting("batch_cond_uncond"):
        pytest.skip("this WebUI has no such option")
    with webui.settings(batch_cond_uncond=False):
        assert different(webui.mixed().frames, before["clip"])


def test_reload_leaves_one_that_works(webui, before, mixed):
    webui.reload_page()
    test_each_is_listed_once(webui)
    assert webui.mixed().frames == mixed.frames
    assert webui.generate().frames == before["clip"]
