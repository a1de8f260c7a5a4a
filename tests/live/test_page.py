"""The page of a running WebUI in a browser, where one is found: the panel, and the tab txt2vid with tiny clips."""
import os

import pytest

from ivmixed import PRESETS
from ivmixed.clips.media import write_clip

from ..browser.conftest import browser  # noqa: F401  a fixture
from ..browser.test_panel import PREFIX, Tab
from ..browser.test_txt2vid import OWN, ClipTab
from ..test_webui_start import colours

pytestmark = pytest.mark.live


class LiveTab(Tab):
    """The panel in txt2img. The host's own scripts may err; what counts is what mentions ours."""

    WAIT = 300_000

    def __exit__(self, kind, *error):
        self.errors = [error for error in self.errors if "ivmixed" in error.lower()]
        super().__exit__(kind, *error)


class LiveClipTab(LiveTab, ClipTab):
    SETTINGS = (("steps", 3), ("seed", 7), ("motion_frames", 4), ("width", 64), ("height", 64))
    PRICE = "9 evaluations"
    SIZE = 64

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        field = self.page.locator(f"{OWN}motion_model input").first
        field.click()
        field.fill("v3")
        self.page.locator(f"{OWN}motion_model li").first.click()


@pytest.fixture
def url(webui):
    return os.environ["WEBUI_URL"].rstrip("/") + "/"


@pytest.fixture
def page(browser, url):  # noqa: F811
    """One for each test, as each begins with what the host shows to somebody new."""
    page = browser.new_page()
    page.route(lambda address: not address.startswith(url), lambda route: route.abort())
    yield page
    page.close()


@pytest.fixture
def tab(page, url):
    with LiveClipTab(page, url, width=1300) as tab:
        yield tab


def test_a_preset_changes_the_curves_and_the_price(page, url):
    with LiveTab(page, url) as tab:
        tab.settle()  # Forge Neo sets its own steps when the page is there
        tab.choose("#txt2img_sampling", "IV-mixed")
        tab.set("#txt2img_steps", 20)
        tab.says("price", "94 evaluations")
        tab.open()
        tab.choose(PREFIX + "preset", "plain")
        tab.says("picture", PRESETS["plain"].help)
        tab.says("price", "20 evaluations, the price of plain AnimateDiff")
        assert len(tab.picture()[1]) == 20


def test_a_preset_of_ones_own(page, url):
    with LiveTab(page, url) as tab:
        tab.open()
        tab.set(PREFIX + "gamma_go", 6.5)
        tab.recognises("custom")
        tab.find("own_presets").locator("> .label-wrap").click()
        tab.find("preset_name").locator("input, textarea").fill("a live test's")
        tab.find("preset_save").click()
        tab.says("preset_message", "Saved as a live test's.")
        tab.recognises("a live test's")
        tab.find("preset_delete").click()
        tab.says("preset_message", "a live test's is deleted.")


def test_an_infotext_is_pasted(page, url):
    line = ("Steps: 7, Sampler: IV-mixed, Schedule type: Automatic, CFG scale: 6, Seed: 3, Size: 64x64, "
            "IV-mixed form: II-II, IV-mixed gamma go: 6 to 2, IV-mixed interval: 0 to 50")
    with LiveTab(page, url) as tab:
        tab.page.locator("#txt2img_prompt textarea").fill(f"a kite\nNegative prompt: blurry\n{line}")
        tab.page.locator("#txt2img_tools #paste").click()
        tab.says("picture", "II-II")
        tab.says("price", "23 evaluations")
        assert tab.find("gamma_go").locator("textarea, input").first.input_value() == "6 to 2"
        assert tab.number("interval_end") == 50
        assert tab.page.locator("#txt2img_prompt textarea").input_value() == "a kite"


def test_a_grid(webui, page, url):
    with LiveTab(page, url, width=1300) as tab:
        tab.choose("#txt2img_sampling", "IV-mixed")
        for name, value in (("steps", 2), ("width", 64), ("height", 64), ("seed", 7)):
            tab.set(f"#txt2img_{name}", value)
        tab.page.locator("#script_txt2img_ivmixed_motion_open > .label-wrap").click()
        tab.set("#script_txt2img_ivmixed_motion_frames", 2)
        tab.choose("#script_txt2img_ivmixed_motion_model", webui.module)
        tab.choose("#txt2img_script_container #script_list", "X/Y/Z plot")
        tab.choose("#script_txt2img_xyz_plot_x_type", "[IV-mixed] gamma go")
        tab.page.wait_for_timeout(5000)  # the host empties the values of an axis that is chosen anew
        tab.page.locator("#script_txt2img_xyz_plot_x_values textarea").fill("4, 6 to 2")
        tab.page.locator("#script_txt2img_xyz_plot_x_values textarea").press("Tab")
        tab.page.locator("#txt2img_generate").click()
        tab.page.wait_for_function(
            "() => document.querySelector('#html_info_txt2img')?.textContent.includes('IV-mixed: 4 evaluations')")
        grid = tab.page.locator("#txt2img_gallery img").first
        assert grid.evaluate("image => [image.naturalWidth >= 2 * 64, image.naturalHeight >= 64]") == [True, True]


def test_a_comparison(tab):
    tab.press("compare", clips=2)
    assert tab.page.locator(f"{OWN}clip figcaption").all_inner_texts() == ["plain", "IV-mixed"]
    assert "Evaluations\t3\t9" in tab.text("clip") and "Flicker" in tab.text("clip")
    assert "Seed: 7" in tab.text("clip")
    tab.page.locator(f"{OWN}send").click()
    tab.page.wait_for_function("() => document.querySelector('#txt2img_prompt textarea').value.includes('a kite')")
    tab.page.wait_for_function("() => document.querySelector('#txt2img_steps input[type=number]').value === '3'")


def test_an_interrupt(tab):
    tab.set(OWN + "steps", 12)
    tab.says("price", "54 evaluations")
    tab.page.locator(f"{OWN}generate").click()
    tab.page.wait_for_function("() => /^[1-9]/.test(document.querySelector('.progressDiv')?.textContent)")
    tab.page.locator(f"{OWN}interrupt").click()
    tab.page.wait_for_selector(f"{OWN}clip figure img")
    assert "interrupted" in tab.text("clip")


@pytest.fixture
def clip(tmp_path):
    """Half a second to start from: every third frame is taken at the tab's 8 a second."""
    write_clip(tmp_path / "in.gif", colours(12, 64), 24, {})
    return tmp_path / "in.gif"


def test_a_clip_is_dropped_and_started_from(tab, clip):
    tab.page.locator(f"{OWN}motion_start > .label-wrap").click()
    tab.page.locator(f"{OWN}motion_init_video input[type=file]").set_input_files(clip)
    preview = tab.page.locator(f"{OWN}motion_start_preview")
    preview.get_by_text("4 frames of init_video.gif, 8 a second from its start.").wait_for()
    assert preview.locator("img").evaluate("image => image.naturalWidth") > 200
    tab.set(OWN + "denoising_strength", 0.5)
    tab.says("price", "4 evaluations")  # 2 of 3 steps
    tab.press("compare", clips=2)
    assert "Denoising strength: 0.5" in tab.text("clip") and "Evaluations\t2\t4" in tab.text("clip")


def test_the_clip_on_the_page_starts_the_next(tab):
    assert not tab.page.locator(f"{OWN}restart").is_visible()
    tab.press("generate")
    for button, said, size, words in (
            ("restart", "The next clip starts from this one", 64, "IV-mixed motion start"),
            ("extend", "begins with the last 1 frame of this one", 64, "IV-mixed motion extend: 1"),
            ("upscale", "The next clip is this one at 128x128 pixels", 128, "Size: 128x128")):
        tab.page.locator(OWN + button).click()
        tab.page.locator(f"{OWN}message").get_by_text(said).wait_for()
        tab.page.locator(f"{OWN}motion_start_preview").get_by_text("of init_video.png").wait_for()
        tab.SIZE = size
        tab.press("generate")
        assert words in tab.text("clip")
    assert tab.page.locator(f"{OWN}strip img").count() == 4


def test_img2img_starts_from_a_clip(webui, page, url, clip):
    motion = "#script_img2img_ivmixed_motion_"
    with LiveTab(page, url, width=1300) as tab:
        tab.page.locator("#tabs button", has_text="img2img").first.click()
        tab.choose("#img2img_sampling", "IV-mixed")
        for name, value in (("steps", 3), ("width", 64), ("height", 64), ("seed", 7), ("denoising_strength", 0.5)):
            tab.set(f"#img2img_{name}", value)
        tab.page.locator(f"{motion}open > .label-wrap").click()
        tab.set(f"{motion}frames", 4)
        tab.choose(f"{motion}model", webui.module)
        tab.page.locator(f"{motion}start > .label-wrap").click()
        tab.page.locator(f"{motion}init_video input[type=file]").set_input_files(clip)
        tab.page.locator(f"{motion}start_preview").get_by_text("4 frames of init_video.gif").wait_for()
        tab.page.locator("#img2img_generate").click()
        tab.page.wait_for_function(
            "() => document.querySelector('#html_info_img2img')?.textContent.includes('IV-mixed: 4 evaluations')")
        assert "IV-mixed motion start: " in tab.page.locator("#html_info_img2img").first.inner_text()  # gradio 3: two


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone(page, url, theme):
    with LiveClipTab(page, url, theme, 400) as tab:
        tab.find("basic").locator("> .label-wrap").click()
        tab.set(tab.PREFIX + "interval_end", 0)
        tab.says("price", "3 evaluations")
        tab.press("generate")
        box = tab.page.locator(f"{OWN}clip figure").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 400


def test_a_reload_leaves_one_tab(webui, page, url):
    webui.reload_page()
    with LiveClipTab(page, url) as tab:
        assert tab.page.locator("#tabs button", has_text="txt2vid").count() == 1
