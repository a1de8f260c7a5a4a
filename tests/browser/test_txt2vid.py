"""The tab txt2vid in a real browser: real gradio of both versions, on doubles of the hosts, which make tiny clips."""
import numpy as np
import pytest

from ivmixed import PRESETS
from ivmixed.clips.media import write_clip

from .test_panel import FIELD, Tab, colour, contrast

OWN = "#ivmixed_txt2vid_"


class ClipTab(Tab):
    """The tab txt2vid, with a small clip asked for."""

    PREFIX = f"{OWN}ivmixed_"
    SETTINGS = (("steps", 6), ("seed", 7), ("motion_frames", 4))
    PRICE = "24 evaluations"
    SIZE = 32
    """Of its clips, in pixels."""

    def __init__(self, *args, untouched=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.page.locator("#tabs button", has_text="txt2vid").first.click()
        if untouched:
            return
        self.page.locator(f"{OWN}prompt textarea").fill("a kite over a beach")
        for name, value in self.SETTINGS:
            self.set(OWN + name, value)
        by = self.page.locator(f"{OWN}by")
        if by.is_visible():
            by.get_by_text("built-in motion").click()
        self.says("price", self.PRICE)

    def press(self, name, clips=1):
        """Presses a button and waits for so many new clips to play; the ones before it do not count."""
        self.page.evaluate(
            "id => document.querySelectorAll(id + 'clip figure').forEach((old) => old.dataset.old = '')", OWN)
        self.page.locator(OWN + name).click()
        self.wait("""(id, clips, size) => {
            const all = [...document.querySelectorAll(id + "clip figure:not([data-old]) img")];
            return all.length === clips && all.every((clip) => clip.complete && clip.naturalWidth === size);
        }""", OWN, clips, self.SIZE)
        self.page.wait_for_selector(".progressDiv", state="detached")

    def open(self):
        """Opens what is folded at first: the sampler's settings."""
        self.unfold("basic")
        self.find("gamma_go").locator("textarea").wait_for(state="visible")
        return self

    def in_view(self, selector):
        """Whether the window comes to show all of an element, and stays there."""
        shown = """selector => {
            const {top, bottom} = document.querySelector(selector).getBoundingClientRect();
            return -1 < top && top < bottom && bottom < innerHeight + 1;
        }"""
        self.wait(shown, selector)
        self.rest()
        return self.page.evaluate(shown, selector)

    def text(self, name):
        # gradio 4's own words about a request are hidden, but there until it has ended
        self.wait("id => [...document.querySelectorAll(id + ' > .wrap')].every((status) => !status.innerText.trim())",
                  OWN + name)
        self.page.evaluate("document.querySelectorAll('details').forEach((folded) => folded.open = true)")
        return self.page.locator(OWN + name).first.inner_text()  # gradio 3 gives the id twice


@pytest.fixture
def tab(page, url):
    with ClipTab(page, url) as tab:
        yield tab


def test_a_clip_in_one_click(page, url):
    with ClipTab.kept(page, url) as tab:
        before = tab.page.locator(f"{OWN}strip img").count()
        tab.press("generate")
        assert "Evaluations\t24" in tab.text("clip")
        assert "a kite over a beach" in tab.text("clip") and "Seed: 7" in tab.text("clip")
        assert tab.page.locator(f"{OWN}strip img").count() == before + 1


def test_compare_with_plain(page, url):
    with ClipTab.kept(page, url) as tab:
        tab.press("compare", clips=2)
        assert tab.page.locator(f"{OWN}clip figcaption").all_inner_texts() == ["plain", "IV-mixed"]
        assert "Evaluations\t6\t24" in tab.text("clip")
        for words in ("Seconds", "Sharpness", "Flicker", "Motion"):
            assert words in tab.text("clip")
        left, right = (clip.bounding_box() for clip in tab.page.locator(f"{OWN}clip figure img").all())
        assert left["y"] == right["y"] and left["x"] < right["x"]


def test_the_strip_brings_a_clip_back(page, url):
    with ClipTab.kept(page, url) as tab:
        tab.press("generate")
        first = tab.text("clip")
        tab.press("compare", clips=2)
        assert tab.text("clip") != first
        tab.page.locator(f"{OWN}strip img").nth(1).click()
        tab.wait("id => document.querySelectorAll(id + 'clip figure').length === 1", OWN)
        assert tab.text("clip") == first


@pytest.mark.parametrize("theme, width", [("light", 400), ("dark", 1300)])
def test_it_fits_the_page_and_can_be_read(page, url, theme, width):
    with ClipTab.kept(page, url, theme, width) as tab:
        tab.press("compare", clips=2)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        left, right = (clip.bounding_box() for clip in tab.page.locator(f"{OWN}clip figure img").all())
        assert left["y"] == right["y"] and right["x"] + right["width"] <= width
        background = colour(tab, f"{OWN}results", "backgroundColor")
        for selector in ("figcaption", ".ivmixed-table td"):
            assert contrast(colour(tab, f"{OWN}clip {selector}", "color"), background) >= 4.5


def test_the_sliders_of_a_pair_line_up(page, url):
    with ClipTab.kept(page, url) as tab:
        tab.open()
        start, end = (
            tab.find(f"interval_{end}").locator("input[type=range]").bounding_box() for end in ("start", "end"))
        assert start["y"] == end["y"] and start["x"] < end["x"]
        tab.unfold("basic", opened=False)


def test_while_it_is_made_the_buttons_are_interrupt_and_skip(page, url):
    with ClipTab.kept(page, url) as tab:
        tab.set(OWN + "steps", 150)
        tab.says("price", "744 evaluations")
        tab.page.locator(f"{OWN}generate").click()
        tab.wait("() => /^[1-9]/.test(document.querySelector('.progressDiv')?.textContent)")
        tab.page.locator(f"{OWN}interrupt").click()
        tab.page.wait_for_selector(".progressDiv", state="detached")
        tab.page.locator(f"{OWN}clip").get_by_text("interrupted").first.wait_for(state="attached")
        tab.page.wait_for_selector(f"{OWN}clip figure img")
        assert tab.page.locator(f"{OWN}interrupt").evaluate("button => button.style.display") == "none"
        tab.set(OWN + "steps", 6)
        tab.says("price", tab.PRICE)
        tab.settle()


def test_a_preset_is_the_clips_and_sets_its_cfg_scale(tab):
    tab.set(OWN + "cfg_scale", 6)
    tab.says("picture", "CFG scale is 6 on this page, 7.5 in the preset")
    tab.choose(tab.PREFIX + "preset", "plain")
    tab.says("picture", PRESETS["plain"].help)
    tab.press("generate")
    assert "Evaluations\t6" in tab.text("clip") and "IV-mixed preset: plain" in tab.text("clip")
    tab.choose(tab.PREFIX + "preset", "paper")
    tab.wait("id => document.querySelector(id + 'cfg_scale input[type=number]').value === '7.5'", OWN)


def test_settings_go_to_txt2img(tab):
    tab.open()
    tab.set(tab.PREFIX + "gamma_go", 6)
    tab.recognises("custom")
    tab.press("generate")
    tab.page.locator(f"{OWN}send").click()
    tab.wait("() => document.querySelector('#txt2img_prompt textarea').value.includes('a kite')")
    tab.page.locator("#txt2img_steps").wait_for(state="visible")
    tab.wait("() => document.querySelector('#txt2img_steps input[type=number]').value === '6'")
    assert tab.page.locator("#script_txt2img_ivmixed_gamma_go textarea").input_value() == "6"


def test_the_other_panels_learn_of_a_new_preset(tab):
    tab.open()
    tab.set(tab.PREFIX + "gamma_go", 5.5)
    tab.recognises("custom")
    tab.find("own_presets").locator("> .label-wrap").click()
    tab.find("preset_name").locator("input, textarea").fill("beach")
    tab.page.locator("#tabs button", has_text="txt2img").first.click()
    txt2img = "#script_txt2img_ivmixed_"
    tab.page.locator(f"{txt2img}open > .label-wrap").click()
    tab.page.locator(f"{txt2img}preset input").click()
    tab.page.wait_for_selector(f"{txt2img}preset ul")
    tab.find("preset_save").evaluate("save => save.click()")  # it is in the other tab
    tab.wait("id => document.querySelector(id + 'price p').dataset.presets.includes('beach')", txt2img)
    answer = tab.page.evaluate("""id => { // a list is left open, and learns of it afterwards
        if (!document.querySelector(id + "preset ul")) throw Error("the list was closed");
        document.activeElement.blur();
        return document.querySelector(id + "price p").dataset.answer;
    }""", txt2img)
    tab.wait("(id, before) => document.querySelector(id + 'price p').dataset.answer !== before", txt2img, answer)
    tab.choose(txt2img + "preset", "beach")
    tab.wait("id => document.querySelector(id + 'gamma_go textarea').value === '5.5'", txt2img)
    tab.page.locator("#tabs button", has_text="txt2vid").first.click()
    tab.says("preset_message", "Saved as beach.")
    tab.find("preset_delete").click()
    tab.says("preset_message", "beach is deleted.")
    tab.wait("id => document.querySelector(id + 'preset input').value === 'custom'", txt2img)


def has_own_colour(tab, selector, name):
    """The style's. Gradio's `.prose *` has a colour for all that HTML components hold."""
    made, wanted, ordinary = tab.page.evaluate("""([selector, name]) => {
        const element = document.querySelector(selector);
        const wanted = element.parentElement.appendChild(document.createElement("i"));
        wanted.style.setProperty("color", `var(--ivmixed-${name})`, "important");
        const colours = [element, wanted, document.body].map((one) => getComputedStyle(one).color);
        wanted.remove();
        return colours;
    }""", [selector, name])
    assert made == wanted != ordinary, selector


def test_what_is_refused_is_said_where_the_clip_is(tab):
    message = f"{OWN}message [role=alert]"
    for theme in ("dark", "light"):
        tab.show(theme, 900, 800)
        has_own_colour(tab, f"{OWN}clip .ivmixed-detail", "subdued")  # there is no clip yet
    for theme, width in (("light", 400), ("dark", 1300)):
        tab.show(theme, width, 800)
        has_own_colour(tab, ".ivmixed-info", "subdued")
        tab.press("generate")
        tab.open()
        tab.set(tab.PREFIX + "interval_start", 60)
        tab.set(tab.PREFIX + "interval_end", 20)
        tab.says("picture", "is not allowed")
        for _ in range(2):  # the second time the same is said again
            tab.page.evaluate("id => document.querySelectorAll(id).forEach((old) => old.dataset.old = '')", message)
            tab.page.locator(f"{OWN}generate").click()
            tab.page.wait_for_selector(f"{message}:not([data-old])")
            tab.page.wait_for_selector(".progressDiv", state="detached")
        assert tab.text("message").startswith("No clip was made: interval = [60, 20] is not allowed")
        assert tab.in_view(message) and tab.page.locator(f"{OWN}clip figure").count() == 1
        assert colour(tab, message, "color") != colour(tab, f"{OWN}clip figcaption", "color")
        has_own_colour(tab, f"{OWN}message .ivmixed-error", "bad")
        has_own_colour(tab, tab.PREFIX + "picture .ivmixed-error", "bad")
        tab.set(tab.PREFIX + "interval_end", 80)
        tab.press("generate")
        tab.page.wait_for_selector(message, state="detached")


@pytest.mark.parametrize("width", [400, 1400])
def test_the_first_click_makes_a_clip_that_is_in_view(page, url, width):
    """The page as it is opened: nothing is chosen, nothing is written."""
    with ClipTab(page, url, width=width, height=900, untouched=True) as tab:
        assert tab.page.evaluate("document.documentElement.scrollHeight") < (2100 if width > 1000 else 3100)
        tab.page.locator(f"{OWN}generate").click()
        tab.page.wait_for_selector(f"{OWN}clip figure img")
        tab.page.wait_for_selector(".progressDiv", state="detached")
        assert tab.in_view(f"{OWN}clip figure img")


def test_an_infotext_is_pasted(tab):
    by = tab.page.locator(f"{OWN}by")
    if by.is_visible():
        by.get_by_text("AnimateDiff extension").click()
    line = ("Steps: 9, Sampler: IV-mixed, CFG scale: 6, Seed: 3, IV-mixed form: II-II, IV-mixed motion: "
            "v3.safetensors, IV-mixed motion frames: 5, IV-mixed motion fps: 12")
    tab.page.locator(f"{OWN}prompt textarea").fill(f"a boat\nNegative prompt: blurry\n{line}")
    tab.page.locator(f"{OWN}paste").click()
    tab.says("picture", "II-II")
    assert tab.page.locator(f"{OWN}prompt textarea").input_value() == "a boat"
    assert [tab.page.locator(f"{OWN}{name} {FIELD}").input_value() for name in (
        "steps", "seed", "motion_frames", "motion_fps")] == ["9", "3", "5", "12"]
    if by.is_visible():
        assert by.locator("input:checked").input_value() == "Built-in motion"


def test_a_clip_is_dropped_shown_and_started_from(tab, tmp_path):
    frames = np.stack([np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)])
    write_clip(tmp_path / "in.gif", frames, 24, {})
    tab.page.locator(f"{OWN}motion_start > .label-wrap").click()
    tab.page.locator(f"{OWN}motion_init_video input[type=file]").set_input_files(tmp_path / "in.gif")
    preview = tab.page.locator(f"{OWN}motion_start_preview")
    preview.get_by_text("4 frames of init_video.gif, 8 a second from its start.").wait_for()
    tab.wait("id => document.querySelector(id + 'motion_start_preview img').naturalWidth > 200", OWN)
    tab.set(OWN + "denoising_strength", 0.5)
    tab.says("price", "14 evaluations")  # 4 of 6 steps
    tab.press("generate")
    assert "Denoising strength: 0.5" in tab.text("clip") and "Evaluations\t14" in tab.text("clip")


def test_the_clip_on_the_page_starts_the_next(tab):
    of_clip = [tab.page.locator(OWN + name) for name in ("restart", "extend", "upscale", "send")]
    assert not any(button.is_visible() for button in of_clip)
    tab.press("generate")
    assert all(button.is_visible() for button in of_clip)
    tab.page.locator(f"{OWN}extend").click()
    tab.page.locator(f"{OWN}message").get_by_text("begins with the last 1 frame of this one").wait_for()
    tab.page.locator(f"{OWN}motion_start_preview").get_by_text("The last 1 frame of init_video.png").wait_for()
    tab.says("price", "24 evaluations")
    tab.press("generate")
    assert "IV-mixed motion extend: 1" in tab.text("clip")
