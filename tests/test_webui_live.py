"""What moves in the panel: the picture's data, the price, presets; with the real gradio and a double of the host."""
import html
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivmixed import PRESETS
from ivmixed.cost import times_plain
from ivmixed.webui.options import WebUIOptions

from .host import NAME, loaded
from .test_options import any_options
from .test_webui_panel import Panel

TXT2IMG = {"sampler": NAME, "steps": 20, "scheduler": "Automatic", "cfg_scale": 7.5, "width": 512, "height": 512,
           "frames": 16}


@pytest.fixture(scope="module")
def host():
    with loaded() as host:
        yield host


@pytest.fixture(scope="module")
def page(host):
    return Panel(host)


@pytest.fixture
def stored(host):
    """The file of the user's presets, gone before and after."""
    path = host.module("presets")._store.path
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def look(host, options, preset="custom", opened=True, **fields):
    """(what the picture shows, its text, the price beside the title, the preset)."""
    arguments = host.module("page.panel").values_of(options)
    arguments[0] = opened
    figure, price = host.module("page.live").look(preset, {**TXT2IMG, **fields}, arguments)
    data = re.search(r'data-picture="([^"]*)"', figure)
    return data and json.loads(html.unescape(data[1])), text_of(figure), text_of(price), attributes(price)["preset"]


def attributes(markup):
    return {name: html.unescape(value) for name, value in re.findall('data-([a-z]*)="([^"]*)"', markup)}


def text_of(markup):
    return html.unescape(re.sub(r"<[^>]*>", " ", markup)).strip()


# --- values

@settings(max_examples=25)
@given(any_options(WebUIOptions))
def test_the_values_of_options_are_those_options(page, options):
    values = page.host.module("page.panel").values_of(options)
    assert page.options(dict(zip(page.names, values))) == options
    assert dict(zip(page.names, values)) == page.showing(options)


# --- the picture

# whatever is refused of some steps or of this size is left out
ANY_OPTIONS = (any_options(WebUIOptions, finish_smoothing=0, finish_percent=0.0)
               | any_options(WebUIOptions, finish_smoothing=0, image_size=None))


@settings(max_examples=25)
@given(ANY_OPTIONS, st.integers(1, 60))
def test_the_picture_is_of_the_plan(host, options, steps):
    data, text, price, _ = look(host, options, steps=steps)
    plan = host.module("preview").plan_of(options, steps)
    moves = [move for step in data["steps"] for move in step]
    assert len(data["steps"]) == steps
    assert [move.split()[:2] for move in moves] == [[move.model, move.kind] for move in plan.moves]
    asked = [move for move in moves if not move.startswith("noise") and "reused prediction" not in move]
    assert len(asked) == plan.evaluations
    assert all(step[-1].split()[1] == "ordinary" for step in data["steps"])
    times = round(times_plain(plan, (TXT2IMG["height"] // 8, TXT2IMG["width"] // 8)), 2)
    for words in (text, price):
        assert re.search(rf"(^|\s){plan.evaluations} evaluations?, ", words)
        assert times == 1 or f"about {times:.{2 if times < 1 else 1}f} times plain" in words


@settings(max_examples=25)
@given(ANY_OPTIONS, st.integers(2, 60))
def test_the_curves_are_the_guidance_of_the_moves(host, options, steps):
    data, *_ = look(host, options, steps=steps)
    plan = host.module("preview").plan_of(options, steps)
    for move in plan.moves:
        if move.guidance is not None:
            assert data["curves"][f"{move.model} {move.kind}"][move.step] == pytest.approx(move.guidance, abs=6e-4)
    assert data["curves"]["image back"][-1] == pytest.approx(-options.gamma("image", "back", 1), abs=6e-4)
    assert data["cfg"] == 7.5


def test_the_picture_is_told_in_words(host):
    arguments = host.module("page.panel").values_of(WebUIOptions(gamma_go=(6, 2), z_percent=50))
    figure, *_ = host.module("page.live").look("custom", TXT2IMG, arguments)
    label = re.search(r'aria-label="([^"]*)"', figure)[1]
    assert label == (
        "Guidance over the steps. image model, denoising: from 6 to 2; image model, inverting: -4 throughout; "
        "video model, denoising: from 6 to 2; video model, inverting: -4 throughout; the ordinary steps: 7.5.")
    assert "19 of 20 steps run the loop (9 IV-IV, 10 VV-VV); 76 evaluations of the video model, 18" in text_of(figure)
    arguments = host.module("page.panel").values_of(WebUIOptions(form="VV-VV"))
    figure, *_ = host.module("page.live").look("custom", TXT2IMG, arguments)
    assert re.search(r'aria-label="([^"]*)"', figure)[1] == (
        "Guidance over the steps. video model, denoising: 4 throughout; video model, inverting: -4 throughout; "
        "the ordinary steps: 7.5.")


@pytest.mark.parametrize("options, words", [
    (WebUIOptions(interval=(0, 0)), "20 evaluations, the price of plain AnimateDiff All 20 steps are plain; 20 "),
    (WebUIOptions(form="VV-VV"),
     "94 evaluations, about 4.7 times plain AnimateDiff 19 of 20 steps run the loop (19 VV-VV)"),
    (WebUIOptions(interval=(0, 0), finish_percent=20),
     "20 evaluations, about 0.94 times plain AnimateDiff the image model "
     "takes the ordinary step of the last 4 of 20 steps; 16 evaluations of the video model, 4 of the image model"),
    (WebUIOptions(active_percent=10, finish_percent=20),
     "2 of 20 steps run the loop (2 IV-IV); the image model takes the "),
])
def test_other_plans_in_words(host, options, words):
    assert words in re.sub(r"\s+", " ", look(host, options)[1])


def test_an_image_size_below_the_clips_is_refused_with_a_finish(host):
    options = WebUIOptions(finish_percent=20, image_size=(256, 256))
    figure, price = host.module("page.live").look("custom", TXT2IMG, host.module("page.panel").values_of(options))
    assert "image_size = '32x32' cannot be used with finish_percent" in text_of(figure)
    assert "refused: " in text_of(price)


def test_img2img_shows_the_steps_that_are_left(host):
    data, *_ = look(host, WebUIOptions(), denoising_strength=0.5)
    assert len(data["steps"]) == 11  # as the host takes them: half of 20, and one


def test_a_closed_panel_has_the_price_of_the_defaults(host):
    data, text, price, _ = look(host, WebUIOptions(interval=(0, 0)), opened=False)
    assert price.startswith("94 evaluations, about 4.2 times")
    assert "20 evaluations, the price of plain" in text
    assert [len(step) for step in data["steps"]] == [1] * 20


def test_another_sampling_method_is_told(host):
    assert look(host, WebUIOptions(), sampler="Euler a")[2] == "not in use: the sampling method is Euler a"


def test_the_time_stands_beside_the_price(host):
    store = host.module("timing")._store
    plan = host.module("preview").plan_of(WebUIOptions(), 20)
    for seconds, words in ((4.0, "4.0 s"), (40, "40 s"), (90, "1 min 30 s"), (7260, "2 h 1 min")):
        host.module("timing").note(host.model, plan, 16, 512, 512, seconds)
        assert look(host, WebUIOptions())[2].endswith(f"times plain AnimateDiff, about {words} a clip")
    built_in = {"built_in": True, "built_in_frames": 32, "frames": None}
    assert look(host, WebUIOptions(), **built_in)[2].endswith("about 4 h 2 min a clip")
    assert look(host, WebUIOptions(), **built_in, free_init=2)[2].endswith("about 8 h 4 min a clip")
    off = {**built_in, "built_in": False, "free_init": 2}
    assert look(host, WebUIOptions(), **off)[2].endswith("times plain AnimateDiff")
    store.path.unlink()


def test_what_is_refused_is_told_where_the_picture_stands(host):
    arguments = host.module("page.panel").values_of(WebUIOptions())
    at = host.module("page.panel").values_of(WebUIOptions(interval=(60, 61))).index(60)
    arguments[at:at + 2] = [60, 20]
    figure, price = host.module("page.live").look("paper", TXT2IMG, arguments)
    assert text_of(figure).startswith("interval = [60, 20] is not allowed")
    assert text_of(price).startswith("refused: interval")
    assert attributes(price)["preset"] == "paper"


def test_what_is_refused_of_these_steps_is_told_too(host):
    _, text, price, _ = look(host, WebUIOptions(finish_percent=100, finish_smoothing=50))
    for words in (text, price):
        assert "finish_smoothing = 50.0 cannot be used with finish_percent = 100.0" in words


@pytest.mark.parametrize("name, value", [("steps", None), ("steps", "x"), ("steps", 10**400), ("cfg_scale", None),
                                         ("width", -1), ("frames", 1e300), ("scheduler", 5)])
def test_what_the_host_has_beyond_a_plan_is_told_too(host, name, value):
    _, text, price, _ = look(host, WebUIOptions(), **{name: value})
    assert f"{name} = " in text
    assert name == "cfg_scale" or f"refused: {name} = " in price


# --- presets

def choose(host, page, name):
    """(the picture, the price, the values of the panel's components and of the CFG scale)."""
    return host.module("page.live").choose(name, TXT2IMG, list(page.defaults().values()))


def changed(page, values):
    """What the components show after a preset was chosen, which leaves those of what belongs to a clip alone."""
    left = {name for name, value in zip(page.names, values) if isinstance(value, dict)}
    assert left == {"image_prompt", "image_negative_prompt", "image_checkpoint"}
    return page.defaults() | {name: value for name, value in zip(page.names, values[:-1]) if name not in left}


@pytest.mark.parametrize("name", ["paper", "fast", "balanced", "quality", "paper-videocrafter", "distilled", "plain"])
def test_a_preset_sets_the_panel_and_is_recognised(host, page, name):
    figure, price, *values = choose(host, page, name)
    preset = host.module("presets").BUILT_IN[name]
    assert page.options(changed(page, values)) == preset.options == PRESETS[name].options
    if preset.cfg_scale is None:
        assert "value" not in values[-1]
    else:
        assert values[-1] == preset.cfg_scale
    assert preset.help in text_of(figure) and "in the preset: choose" not in text_of(figure)
    assert attributes(price)["preset"] == name
    assert look(host, preset.options)[3] == name
    assert preset.help in text_of(look(host, preset.options)[1])


def test_the_released_loops_are_not_offered(host):
    assert list(host.module("presets").BUILT_IN) == [
        "paper", "fast", "balanced", "quality", "paper-videocrafter", "distilled", "plain"]


def test_choosing_custom_changes_nothing(host, page):
    for name in ("custom", ["paper"], None):
        figure, price, *values = choose(host, page, name)
        assert len(values) == len(page.names) + 1
        assert not any("value" in value for value in values)
        assert attributes(price)["preset"] == "paper"
        assert text_of(figure).endswith(PRESETS["paper"].help)


@settings(max_examples=25)
@given(options=any_options(WebUIOptions))
def test_settings_are_saved_and_come_back(host, page, options):
    live, presets = host.module("page.live"), host.module("presets")
    update, said = live.save("mine", [6.5], host.module("page.panel").values_of(options))
    assert update["value"] == "mine" and update["choices"][-1] == "mine"
    assert text_of(said) == "Saved as mine."
    _, _, *values = choose(host, page, "mine")
    assert page.options(changed(page, values)) == options.setting()
    assert values[-1] == 6.5
    assert look(host, options, preset="mine")[3] == "mine"
    presets.delete("mine")
    assert look(host, options)[3] in ("custom", *presets.BUILT_IN)


def test_two_presets_with_the_same_settings_keep_their_names(host, stored):
    host.module("presets").save("copy", WebUIOptions(), 5.0)
    assert look(host, WebUIOptions(), preset="copy")[3] == "copy"
    assert look(host, WebUIOptions(), preset="paper")[3] == "paper"
    assert look(host, WebUIOptions(form="II-II"), preset="copy")[3] == "custom"


def test_the_page_learns_of_all_presets(host, stored):
    name = """<b>"I'm" & </b>"""
    host.module("presets").save(name, WebUIOptions(rho=3), None)
    values = host.module("page.panel").values_of(WebUIOptions(rho=3))
    _, price = host.module("page.live").look("paper", TXT2IMG, values)
    assert attributes(price)["preset"] == name
    assert json.loads(attributes(price)["presets"]) == ["custom", *host.module("presets").BUILT_IN, name]


def test_presets_are_renamed_in_their_place_and_deleted(host, stored):
    live, presets = host.module("page.live"), host.module("presets")
    for name in ("a", "b", "c"):
        presets.save(name, WebUIOptions(rho=3), None)
    update, said = live.rename("b", "  new   name ")
    assert update["value"] == "new name" and update["choices"][-3:] == ["a", "new name", "c"]
    assert text_of(said) == "b is new name now."
    update, said = live.delete("a")
    assert update["value"] == "custom" and update["choices"][-2:] == ["new name", "c"]
    assert text_of(said).startswith("a is deleted.")
    assert list(json.loads(stored.read_text())) == ["new name", "c"]


@pytest.mark.parametrize("change, words", [
    (lambda live: live.save("", [], [True]), "a preset's name has 1 to 60 characters"),
    (lambda live: live.save("x" * 61, [], [True]), "a preset's name has 1 to 60 characters"),
    (lambda live: live.save("a\x00b", [], [True]), "a preset's name has 1 to 60 characters"),
    (lambda live: live.rename("paper", "mine"), "'paper' is not one of your own presets"),
    (lambda live: live.rename("own", "paper"), "'paper' is taken by the extension"),
    (lambda live: live.rename("own", "other"), "there is a preset 'other' already"),
    (lambda live: live.delete("custom"), "'custom' is not one of your own presets"),
])
def test_what_cannot_be_done_is_told_and_not_done(host, stored, change, words):
    live, presets = host.module("page.live"), host.module("presets")
    presets.save("own", WebUIOptions(), None)
    presets.save("other", WebUIOptions(), None)
    before = stored.read_text()
    values = host.module("page.panel").values_of(WebUIOptions())
    live_with_values = type("Live", (), {**vars(live), "save": lambda name, cfg, _: live.save(name, cfg, values)})
    update, said = change(live_with_values)
    assert text_of(said).startswith(words)
    assert "value" not in update and "choices" not in update
    assert stored.read_text() == before


def test_names_are_text_in_the_page(host, stored):
    name = "<img src=x onerror=alert(1)>"
    _, said = host.module("page.live").save(name, [], host.module("page.panel").values_of(WebUIOptions()))
    assert "<img" not in said and text_of(said) == f"Saved as {name}."


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_file_that_cannot_be_read_is_told_and_kept(host, stored, text):
    stored.parent.mkdir(exist_ok=True)
    stored.write_text(text, "latin-1")
    host.log.lines.clear()
    assert list(host.module("presets").every()) == [
        "paper", "fast", "balanced", "quality", "paper-videocrafter", "distilled", "plain"]
    assert str(stored) in host.log.lines[0] and "repair it, or move it away" in host.log.lines[0]
    _, said = host.module("page.live").save("mine", [], host.module("page.panel").values_of(WebUIOptions()))
    assert str(stored) in text_of(said)
    assert stored.read_text("latin-1") == text


def test_an_entry_of_another_version_is_left_out_and_kept(host, stored):
    presets = host.module("presets")
    presets.save("good", WebUIOptions(rho=2), None)
    data = json.loads(stored.read_text())
    data |= {"later": {"options": {"new_option": 1}, "cfg_scale": 7}, "broken": 3, "half": {"options": {}}}
    stored.write_text(json.dumps(data))
    host.log.lines.clear()
    assert list(presets.every()) == [*presets.BUILT_IN, "good"]
    assert [line.split("'")[1] for line in host.log.lines] == ["later", "broken", "half"]
    presets.save("more", WebUIOptions(), None)
    assert list(json.loads(stored.read_text())) == ["good", "later", "broken", "half", "more"]


def test_a_write_that_fails_leaves_the_old_file(host, stored, monkeypatch):
    presets, store = host.module("presets"), host.module("json_store")
    presets.save("old", WebUIOptions(), None)
    before = stored.read_text()

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(presets.PresetError, match="no space left on device"):
        presets.save("new", WebUIOptions(), None)
    assert stored.read_text() == before
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


# --- the page

def test_every_setting_and_what_the_host_has_of_it_asks_for_a_new_picture(page):
    blocks, script = page.page.blocks, page.script
    asking = f"ivMixedChanged?.('{script.elem_id('')}'"
    hooks = [event for event in page.page.dependencies if asking in (event["js"] or "")]
    watched = {blocks[target if isinstance(target, int) else target[0]].elem_id
               for event in hooks for target in event["targets"]}
    assert watched == {component.elem_id for component in page.components} | {
        f"txt2img_{name}" for name in ("sampling", "steps", "scheduler", "cfg_scale", "width", "height")} | {
        "txt2img-ad-video-length", "script_txt2img_ivmixed_motion_open-checkbox",
        "script_txt2img_ivmixed_motion_frames", "script_txt2img_ivmixed_motion_free_init"}
