"""The tab txt2vid, with the real gradio and doubles of the hosts (tests/host): what its buttons make."""
import html
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ivmixed import OptionError, Options
from ivmixed.clips.media import write_clip
from ivmixed.clips.source import take
from ivmixed.measures import pixels
from ivmixed.motion import MotionOptions

from .host import NAME, loaded
from .host.forge_host import HOSTS, loaded_forge
from .test_webui_motion import MOTION, with_modules
from .test_webui_start import colours

TAB = "ivmixed_txt2vid_"
PLAIN = {"interval": [0, 0]}


@pytest.fixture(params=["a1111", *HOSTS])
def any_host(request, tmp_path):
    with (loaded() if request.param == "a1111" else loaded_forge(request.param)) as host:
        yield prepared(host, tmp_path)


@pytest.fixture
def host(tmp_path):
    with loaded() as host:
        yield prepared(host, tmp_path)


def prepared(host, folder):
    with_modules(host, folder)
    host.shared.opts.outdir_txt2img_samples = str(folder / "pictures")
    host.load_scripts()
    return host


def wanted(host, **fields):
    motion = MotionOptions(**{"model": "v3.safetensors", "frames": 4, **fields.pop("motion", {})})
    own = {"prompt": "a kite", "negative_prompt": "blurry", "styles": [], "sampler": NAME, "scheduler": "Automatic",
           "steps": 4, "width": 32, "height": 32, "cfg_scale": 7.5, "seed": 5, "denoising_strength": 0.6,
           "by_extension": False, "motion": motion, "options": Options()}
    return host.module("page.clip_request").ClipSpec(**{**own, **fields})


def asked_of(host, wanted):
    """The clip that the API makes of the same."""
    script = {NAME: [wanted.options.to_dict()], MOTION: [wanted.motion.to_dict()]}
    p = host.processing.StableDiffusionProcessingTxt2Img(
        sd_model=host.model, is_api=True, sampler_name=wanted.sampler, scheduler=wanted.scheduler, steps=wanted.steps,
        cfg_scale=wanted.cfg_scale, seed=wanted.seed, prompt=wanted.prompt, negative_prompt=wanted.negative_prompt,
        scripts=host.runner, script_args=host.arguments(script))
    host.run(p)
    return frames_of(p.latents)


def frames_of(latents):
    pictures = (latents[:, :3].float() / 6 + 0.5).clamp(0, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return (255 * pictures.permute(0, 2, 3, 1).numpy()).astype(np.uint8)


def make(host, wanted, how="make"):
    host.shared.state.begin("task")
    return getattr(host.module("page.clip_request"), how)(wanted)


# --- the clips

def test_a_clip_is_that_of_the_api(any_host):
    given = wanted(any_host)
    clip, = make(any_host, given)
    frames = asked_of(any_host, given)
    assert clip.evaluations == 14 and clip.seed == 5 and not clip.interrupted
    assert np.array_equal(clip.poster, frames[0])
    assert clip.measures == {name: measure(frames) for name, measure in (
        ("sharpness", pixels.sharpness), ("flicker", pixels.flicker), ("motion", pixels.motion))}
    with Image.open(clip.file) as moving:
        assert moving.n_frames == 4
        assert f"{NAME}: 14 evaluations" in moving.info["comment"].decode()
    assert f"{NAME}: 14 evaluations" in clip.infotext and "Seed: 5" in clip.infotext


def test_any_sampler_makes_one(any_host):
    clip, = make(any_host, wanted(any_host, sampler="Euler"))
    assert clip.evaluations is None and clip.title == "Euler"
    assert len(any_host.evaluations) == 4


def test_a_comparison_is_of_one_seed(any_host):
    given = wanted(any_host, seed=-1)
    plain, mixed = make(any_host, given, "compare")
    assert (plain.title, mixed.title) == ("plain", NAME)
    assert (plain.evaluations, mixed.evaluations) == (4, 14)
    assert plain.seed == mixed.seed >= 0
    for clip, options in (plain, Options(interval=(0, 0))), (mixed, Options()):
        frames = asked_of(any_host, wanted(any_host, seed=plain.seed, options=options))
        assert np.array_equal(clip.poster, frames[0])
        assert clip.measures["flicker"] == pixels.flicker(frames)
    assert plain.file != mixed.file


def test_motion_may_be_animatediffs(host):
    clip, = make(host, wanted(host, by_extension=True))
    p = host.clip(frames=4, context=4, version="v3.safetensors", steps=4, seed=5, prompt="a kite", cfg_scale=7.5)
    frames = frames_of(host.run(p))
    assert np.array_equal(clip.poster, frames[0]) and clip.measures["flicker"] == pixels.flicker(frames)
    assert clip.evaluations == 14 and MOTION not in clip.infotext
    assert clip.file.parent.name == "AnimateDiff"
    with Image.open(clip.file) as moving:
        assert moving.n_frames == 4


@pytest.mark.parametrize("motion, field", [
    ({"loras": "zoom"}, "loras"), ({"fuse": "mean"}, "fuse"), ({"kind": "AnimateDiff v1"}, "kind"),
    ({"model": "elsewhere.safetensors"}, "model")])
def test_what_animatediff_cannot_is_refused(host, motion, field):
    with pytest.raises(OptionError) as refused:
        make(host, wanted(host, by_extension=True, motion=motion))
    assert refused.value.field == field and host.evaluations == []


def test_a_comparison_needs_a_sampler_of_ours(host):
    with pytest.raises(OptionError, match=r"sampler = 'Euler' cannot be used with a comparison.*IV-mixed DPM\+\+ 2M"):
        make(host, wanted(host, sampler="Euler"), "compare")
    assert host.evaluations == []


def test_what_the_sampler_refuses_is_said(any_host):
    with pytest.raises(any_host.sampler.RefusedError, match=r"model = 'gone\.safetensors'"):
        make(any_host, wanted(any_host, motion={"model": "gone.safetensors"}))


def test_clips_without_a_moving_file_play_all_the_same(host):
    clip, = make(host, wanted(host, motion={"formats": ["PNG"]}))
    assert clip.file.suffix == ".gif"
    with Image.open(clip.file) as moving:
        assert moving.n_frames == 4


def test_a_clip_that_cannot_be_played_is_shown_all_the_same(host, monkeypatch):
    """Its frames are saved; only the GIF for the page finds no room."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    clip, = make(host, wanted(host, motion={"formats": ["PNG"]}))
    assert clip.file is None
    shown = host.module("page.txt2vid").show([clip], [])
    assert "IV-mixed: no file could be written to play it" in shown[0] and "<img" not in shown[0]
    assert len(list(Path(host.shared.opts.outdir_txt2img_samples).rglob("*.png"))) == 4


def test_measures_can_be_left_out(host):
    host.shared.opts.set("ivmixed_measures", False)
    clip, = make(host, wanted(host))
    assert clip.measures == {}


# --- progress, interrupt

def test_progress_of_a_comparison_is_that_of_its_work(host):
    seen = []
    request = host.progress.Request(id_task="task(x)")
    host.progress.current = "task(x)"
    host.on_evaluated.append(lambda number: seen.append(host.progress.progressapi(request)["progress"]))
    make(host, wanted(host, steps=10), "compare")
    assert len(seen) == 54
    plain, mixed = 10, 27 + 17 * 0.72
    assert seen[9] == pytest.approx(plain / (plain + mixed) * 0.9, abs=0.1 * plain / (plain + mixed) + 1e-9)
    assert seen[10] == pytest.approx(plain / (plain + mixed), abs=0.02)
    assert seen[-1] == pytest.approx(1, abs=0.02)
    assert seen == sorted(seen)


def test_an_interrupt_ends_a_comparison(host):
    host.on_evaluated.append(lambda number: number == 2 and host.shared.state.interrupt())
    made = make(host, wanted(host), "compare")
    assert [clip.title for clip in made] == ["plain"] and made[0].interrupted
    assert (made[0].evaluations, made[0].planned) == (2, 4)
    assert f"{NAME}: interrupted after 2 of 4 evaluations" in made[0].infotext
    assert "plain, interrupted plain Evaluations 2 of 4" in text_of(host.module("page.txt2vid")._figures(made))


# --- the page

class Page:
    """The components of the tab by their ids, and what its events are given."""

    def __init__(self, host):
        self.host = host
        blocks = host.page.blocks
        self.components = {block.elem_id.removeprefix(TAB): block for block in blocks.values()
                           if getattr(block, "elem_id", None) and block.elem_id.startswith(TAB)}
        self.blocks = blocks

    def event(self, name):
        """The function that a button calls on the server, with its inputs and outputs."""
        target = self.components[name]._id
        found = [d for d in self.host.page.dependencies if d["backend_fn"] and any(
            t == target or (isinstance(t, (tuple, list)) and t[0] == target) for t in d["targets"])]
        index = self.host.page.dependencies.index(found[0])
        return self.host.page.fns[index].fn, [self.blocks[i] for i in found[0]["inputs"]], found[0]["outputs"]

    def press(self, name, shown=(), **values):
        function, inputs, outputs = self.event(name)
        given = []
        for component in inputs:
            elem_id = (getattr(component, "elem_id", None) or "").removeprefix(TAB)
            given.append(values[elem_id] if elem_id in values else getattr(component, "value", None))
        given[:2] = ["task(x)", list(shown)]
        result = function(*given)
        assert len(result) == len(outputs)
        return SimpleNamespace(**dict(zip(("message", "clip", "infotext", "strip", "shown", "of_clip", "log"), result)))


SMALL = {"steps": 4, "width": 32, "height": 32, "seed": 7, "motion_frames": 4, "motion_model": "v3.safetensors",
         "prompt": "a kite", "neg_prompt": "blurry"}


@pytest.fixture
def page(host):
    return Page(host)


def size_of(poster):
    """The strip is given files: a picture the host would put into its temporary folder, which need not be there."""
    assert isinstance(poster, str)
    with Image.open(poster) as picture:
        return picture.size


def text_of(markup):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", markup))).strip()


def test_the_tab_begins_with_the_sampler_and_its_panel(page):
    assert page.components["sampling"].value == NAME
    assert page.components["ivmixed_open-checkbox"].value is True
    assert page.components["by"].choices[0] in ("AnimateDiff extension", ("AnimateDiff extension",) * 2)


@pytest.mark.parametrize("kind", HOSTS)
def test_where_animatediff_has_no_effect_it_is_not_offered(kind, tmp_path):
    with loaded_forge(kind) as host:
        radio = Page(prepared(host, tmp_path)).components["by"]
    assert len(radio.choices) == (2 if kind == "forge_previous" else 1)
    assert radio.visible == (kind == "forge_previous")


def test_labels_are_written_as_the_field_writes_them(page):
    labels = {label for block in page.blocks.values() if (getattr(block, "elem_id", None) or "").find("ivmixed") >= 0
              and isinstance(label := getattr(block, "label", None), str) and label}
    assert {"ControlNet", "FPS", "Motion LoRAs", "FreeInit passes"} <= labels
    for label in labels:
        assert label[0].isupper() or label == "txt2vid", label
        for name in ("ControlNet", "FPS", "CFG", "LoRA", "FreeInit", "IV-mixed"):
            assert label.lower().count(name.lower()) == label.count(name), label
        assert not label.startswith("Rho"), label
    said = page.host.module("preview").evaluations
    assert [said(count) for count in (1, 2)] == ["1 evaluation", "2 evaluations"]


def test_generate_shows_the_clip_and_its_settings(page):
    shown = page.press("generate", by="Built-in motion", **SMALL)
    assert shown.clip.count("<figure>") == 1
    assert re.search(r'<img src="file=[^"]*/IV-mixed/[^"]*\.gif" alt="IV-mixed">', shown.clip)
    assert "Evaluations 14 Seconds" in text_of(shown.clip) and "Flicker" in shown.clip
    assert "a kite" in shown.infotext and "Seed: 7" in shown.infotext
    (poster, label), = shown.strip["value"]
    assert label == "seed 7" and size_of(poster) == (32, 32)
    assert page.host.errors.reports == [] and shown.message == ""


def test_compare_shows_both(page):
    first = page.press("generate", by="Built-in motion", **SMALL)
    shown = page.press("compare", shown=first.shown, by="Built-in motion", **SMALL)
    assert re.findall(r"<figcaption>([^<]*)", shown.clip) == ["plain", "IV-mixed"]
    assert "plain IV-mixed Evaluations 4 14 Seconds" in text_of(shown.clip)
    assert [size_of(poster) for poster, _ in shown.strip["value"]] == [(64, 32), (32, 32)]
    choose = page.host.module("page.txt2vid").choose
    assert choose(shown.shown, SimpleNamespace(index=1)) == [first.clip, first.infotext]


def test_the_panel_of_the_tab_acts(page):
    shown = page.press("generate", by="Built-in motion", ivmixed_gamma_go="6 to 4", ivmixed_interval_end=50, **SMALL)
    assert "IV-mixed gamma go: 6 to 4" in shown.infotext and "IV-mixed interval: 0 to 50" in shown.infotext


def test_the_strip_has_the_last_clips_alone(page, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "poster.png")
    entry = page.host.module("page.txt2vid").Shown(
        "page", "infotext", tmp_path / "poster.png", "label", (), 8.0, "this one")
    shown = page.press("generate", shown=[entry] * 12, by="Built-in motion", **SMALL)
    assert len(shown.shown) == len(shown.strip["value"]) == 12
    assert shown.shown[1] is entry and shown.shown[0] is not entry


def test_the_page_says_what_is_wrong(any_host, caplog):
    page = Page(any_host)
    shown = page.press("generate", by="Built-in motion", **{**SMALL, "ivmixed_interval_start": 80,
                                                          "ivmixed_interval_end": 20})
    assert text_of(shown.message).startswith("No clip was made: interval = [80, 20] is not allowed; allowed: [start")
    assert 'role="alert"' in shown.message and shown.log.startswith("<div class='performance'>")
    assert "value" not in shown.clip  # it stays as it is
    again = page.press("generate", by="Built-in motion", **{**SMALL, "motion_model": "gone"})
    assert "model = 'gone' is not in the folders" in html.unescape(again.message)
    assert any_host.errors.reports == []  # the host's has all that it was called with
    assert [record.getMessage().split(":")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "no clip", "no clip"]
    for name, value in ("steps", None), ("steps", 1001), ("width", "x"), ("height", -1), ("seed", 0.5), (
            "cfg_scale", [7]):
        shown = page.press("generate", by="Built-in motion", **{**SMALL, name: value})
        assert f"{name} = {value!r} is not allowed" in html.unescape(shown.message)
    assert page.press("generate", by="Built-in motion", **SMALL).infotext


def test_what_nobody_foresaw_is_said_too(page, monkeypatch, caplog):
    monkeypatch.setattr(page.host.processing, "process_images", lambda p: 1 / 0)
    shown = page.press("generate", by="Built-in motion", **SMALL)
    assert "the WebUI stopped with ZeroDivisionError (division by zero)" in text_of(shown.message)
    assert "Traceback" in caplog.text and "ivmixed-clips" not in caplog.text


def test_a_poster_that_cannot_be_written_loses_no_clip(page, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    first = page.press("generate", by="Built-in motion", **SMALL)
    monkeypatch.setattr(page.host.module("scratch"), "folder", full)
    shown = page.press("generate", shown=first.shown, by="Built-in motion", **SMALL)
    assert shown.clip.count("<figure>") == 1 and shown.message == ""
    assert shown.shown == first.shown and len(shown.strip["value"]) == 1


# --- the list of motion modules belongs to the source of motion

def with_sources(host, extension=(), built_in=()):
    """Puts AnimateDiff's folder beside that of built-in motion, with these files in them."""
    models = Path(host.built_in.paths.models_path)
    theirs = models / "theirs"
    theirs.mkdir()
    host.motion.mm_animatediff.get_model_dir = lambda: str(theirs)
    host.shared.opts.data["animatediff_model_path"] = str(theirs)
    for file in (models / "AnimateDiff").iterdir():
        file.unlink()
    for folder, names in ((theirs, extension), (models / "AnimateDiff", built_in)):
        for name in names:
            (folder / name).touch()
    host.load_scripts()
    return Page(host)


def choices_of(component):
    return [choice if isinstance(choice, str) else choice[0] for choice in component.choices]


@pytest.mark.parametrize("extension, built_in, by, listed", [
    (("theirs.ckpt",), ("v1.safetensors",), "AnimateDiff extension", ["theirs.ckpt"]),
    ((), ("v1.safetensors",), "Built-in motion", ["v1.safetensors"]),
    ((), (), "Built-in motion", []),
])
def test_the_first_source_that_has_a_module_is_the_default(host, extension, built_in, by, listed):
    page = with_sources(host, extension, built_in)
    assert page.components["by"].value == by
    assert choices_of(page.components["motion_model"]) == listed
    assert page.components["motion_model"].value == next(iter(listed), None)
    missing = page.components["motion_missing"]
    assert missing.visible is not bool(listed)
    assert listed or str(Path(host.built_in.paths.models_path, "AnimateDiff")) in missing.value


def test_another_source_has_another_list(host):
    page = with_sources(host, ["theirs.ckpt"], ["v1.safetensors"])
    change, inputs, _ = page.event("by")
    assert [component.elem_id for component in inputs] == [TAB + "motion_model", TAB + "by"]
    model, missing = change("theirs.ckpt", "Built-in motion")
    assert sorted(model["choices"]) == ["theirs.ckpt", "v1.safetensors"] and model["value"] == "theirs.ckpt"
    model, missing = change("v1.safetensors", "AnimateDiff extension")
    assert model["choices"] == ["theirs.ckpt"] and model["value"] == "theirs.ckpt" and not missing["visible"]


def test_a_module_that_comes_is_found_and_chosen(host):
    page = with_sources(host)
    refused = page.press("generate", **{**SMALL, "motion_model": None})
    home = Path(host.built_in.paths.models_path, "AnimateDiff")
    assert f"put one into {home}" in text_of(refused.message)
    (home / "v3.safetensors").touch()
    refresh, _, _ = page.event("motion_refresh_model")
    model, missing = refresh(page.components["motion_missing"].value, "Built-in motion")
    assert model["choices"] == ["v3.safetensors"] and model["value"] == "v3.safetensors" and not missing["visible"]
    assert "value" not in refresh("", "Built-in motion")[0]  # what is chosen stays
    assert page.press("generate", by="Built-in motion", **SMALL).message == ""


@pytest.mark.parametrize("kind, title", [("forge_main", "Txt2vid"), ("reforge", "txt2vid")])
def test_the_tab_is_named_as_its_neighbours_are(kind, title, tmp_path):
    with loaded_forge(kind) as host:
        assert host.module("hosts").find().tab_title("txt2vid") == title


def test_infotext_comes_back_into_the_tab(page):
    shown = page.press("generate", by="Built-in motion", ivmixed_z_percent=50, **{
        **SMALL, "steps": 5, "motion_fps": 12})
    fields = page.host.infotext_utils.paste_fields["ivmixed_txt2vid"]
    params = page.host.infotext_utils.parse(shown.infotext.split("\n")[-1])
    size = dict(zip(("Size-1", "Size-2"), params["Size"].split("x")))
    updates = page.host.infotext_utils.pasted(fields, {**params, **size})
    pasted = {component.elem_id.removeprefix(TAB): update.get("value")
              for (component, _), update in zip(fields, updates)}
    assert {name: pasted[name] for name in ("sampling", "steps", "seed", "width", "motion_frames", "motion_fps",
                                            "motion_model", "ivmixed_z_percent")} == {
        "sampling": NAME, "steps": 5, "seed": 7, "width": 32, "motion_frames": 4, "motion_fps": 12,
        "motion_model": "v3.safetensors", "ivmixed_z_percent": 50}


# --- a clip that starts from another

def with_clip(folder, count=4):
    (folder / "in").mkdir()
    write_clip(folder / "in" / "clip.webp", colours(count), 8, {})
    return folder / "in" / "clip.webp"


def test_a_clip_may_start_from_another(any_host, tmp_path):
    file = with_clip(tmp_path)
    given = wanted(any_host, motion={"init_video": file.read_bytes()}, denoising_strength=0.5)
    clip, = make(any_host, given)
    assert clip.evaluations == given.plan().evaluations == 9 < 14
    assert "Denoising strength: 0.5" in clip.infotext
    assert "4 frames of init_video.webp" in clip.infotext
    plain, mixed = make(any_host, given, "compare")
    assert (plain.evaluations, mixed.evaluations) == (3, 9) and np.array_equal(mixed.poster, clip.poster)


def test_the_extension_takes_no_clip_to_start_from(host, tmp_path):
    with pytest.raises(OptionError, match="cannot be used with motion of the AnimateDiff extension"):
        make(host, wanted(host, by_extension=True, motion={"init_video": with_clip(tmp_path).read_bytes()}))
    assert host.evaluations == []


def test_the_tab_shows_what_will_be_used(page, tmp_path):
    file = SimpleNamespace(name=str(with_clip(tmp_path)))
    show = page.host.module("page.motion_panel").preview_start
    shown = show(file, 0, 4, 8)
    assert text_of(shown) == "4 frames of init_video.webp, 8 a second from its start. The clip has 32x32 pixels."
    assert 'src="data:image/jpeg;base64,' in shown
    assert "the 8 of the clip are spread evenly" in show(file, 0, 8, 8)
    assert "The last 2 frames" in show(file, 2, 8, 8)
    (tmp_path / "in" / "no.mp4").write_bytes(b"nothing")
    assert 'role="alert"' in show(SimpleNamespace(name=str(tmp_path / "in" / "no.mp4")), 0, 4, 8)
    assert "drop it again" in show(SimpleNamespace(name=str(tmp_path / "gone.mp4")), 0, 4, 8)
    assert show(None, 0, 4, 8) == ""
    theirs = page.host.module("page.txt2vid").ANIMATEDIFF
    assert "Only built-in motion starts from a clip" in show(file, 0, 4, 8, theirs)
    assert show(None, 0, 4, 8, theirs) == ""


def test_the_price_in_the_tab_follows_the_clip(page, tmp_path):
    file = SimpleNamespace(name=str(with_clip(tmp_path)))
    look, values = page.host.module("page.live").look, page.host.module("page.panel").values_of(page.host.module(
        "options").WebUIOptions())
    for init_video, evaluations in ((None, 119), (file, 74)):
        host = {"steps": 25, "denoising_strength": 0.6, "init_video": init_video}
        assert f"{evaluations} evaluations" in text_of(look("custom", host, values)[1])


def test_generate_starts_from_the_clip(page, tmp_path):
    shown = page.press("generate", by="Built-in motion", motion_init_video=SimpleNamespace(
        name=str(with_clip(tmp_path))), denoising_strength=0.25, **SMALL)
    assert shown.message == "" and "Denoising strength: 0.25" in shown.infotext


def started(page, how, shown, infotext, frames=4, width=32, height=32):
    function, _, outputs = page.event(how)
    result = function(list(shown), infotext, frames, width, height)
    assert len(result) == len(outputs) == 9
    return SimpleNamespace(**dict(zip(("message", "by", "start", "init_video", "extend", "frames", "strength", "width",
                                       "height"), result)))


@pytest.mark.parametrize("formats", [["GIF", "PNG"], ["WebP"]])
def test_the_last_clip_starts_the_next_without_losses(page, formats):
    first = page.press("generate", by="Built-in motion", motion_formats=formats, **SMALL)
    start = started(page, "restart", first.shown, first.infotext)
    assert start.extend == 0 and "press generate" in start.message.lower() and start.start["open"] is True
    assert start.by == "Built-in motion"  # AnimateDiff's cannot
    with Image.open(first.shown[0].whole[0]) as picture:
        expected = np.asarray(picture.convert("RGB"))
    frames = take(start.init_video, 4, 8).frames
    assert np.array_equal(frames[0], expected) and len({frame.tobytes() for frame in frames}) == 4
    again = page.press("generate", shown=first.shown, by="Built-in motion", denoising_strength=0.25,
                       motion_init_video=SimpleNamespace(name=start.init_video), **SMALL)
    assert again.message == "" and "Denoising strength: 0.25" in again.infotext


def test_a_clip_is_extended(page):
    first = page.press("generate", by="Built-in motion", **SMALL)
    start = started(page, "extend", first.shown, first.infotext)
    assert (start.extend, start.strength) == (1, 1.0) and "last 1 frame of this one" in start.message
    again = page.press("generate", by="Built-in motion", denoising_strength=start.strength, motion_extend=start.extend,
                       motion_init_video=SimpleNamespace(name=start.init_video), **SMALL)
    assert again.message == "" and "IV-mixed motion extend: 1" in again.infotext
    files = first.shown[0].whole[-1], again.shown[0].whole[0]
    last, begun = (np.asarray(Image.open(file)).astype(int) for file in files)
    assert np.abs(last - begun).max() <= 2
    assert started(page, "extend", first.shown, first.infotext, frames=32).extend == 4


def test_which_of_two_clips_is_started_from_is_said(page):
    both = page.press("compare", by="Built-in motion", **SMALL)
    start = started(page, "restart", both.shown, both.infotext)
    assert "The next clip starts from the IV-mixed clip: " in start.message
    with Image.open(both.shown[0].whole[0]) as picture:
        assert take(start.init_video, 4, 8).frames[0].tobytes() == picture.convert("RGB").tobytes()


def test_a_clip_is_made_larger(page):
    first = page.press("generate", by="Built-in motion", **SMALL)
    start = started(page, "upscale", first.shown, first.infotext)
    assert (start.width, start.height, start.strength, start.extend) == (64, 64, 0.5, 0)
    assert "64x64 pixels" in start.message


def test_without_a_clip_nothing_starts(page):
    assert page.components["of_clip"].visible is False
    assert "press Generate first" in started(page, "restart", [], "gone").message
    refused = page.press("generate", by="Built-in motion", **{**SMALL, "steps": None})
    assert "visible" not in refused.of_clip
    first = page.press("generate", by="Built-in motion", **SMALL)
    assert first.of_clip["visible"] is True
    for file in first.shown[0].whole:
        file.unlink()
    assert "the files of this clip are gone" in started(page, "restart", first.shown, first.infotext).message
