"""The panel in a real browser: real gradio of both versions, on doubles of the hosts."""
import json
import re

import pytest

from ivmixed import PRESETS, Options

PREFIX = "#script_txt2img_ivmixed_"


FIELD = ":is(input[type=number], input[type=text], textarea)"
"""What is typed into."""


class Tab:
    """The panel of the txt2img tab."""

    PREFIX = PREFIX
    """How the panel's ids begin."""
    WAIT = 120_000
    """Milliseconds."""

    def __init__(self, browser, url, theme="light", width=900, height=1400):
        self.errors, self.asking = [], []
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(self.WAIT)
        # fonts and scripts of other servers are no part of the page
        self.page.route(lambda address: not address.startswith(url), lambda route: route.abort())
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("request", lambda request: self.asking.append(request) if "/run/predict" in request.url else None)
        for end in ("requestfinished", "requestfailed"):
            self.page.on(end, lambda request: self.asking.remove(request) if request in self.asking else None)
        self.page.goto(f"{url}?__theme={theme}")
        self.page.wait_for_selector(f"{self.PREFIX}price p", state="attached")

    def _said(self, message):
        if message.type == "error" and "ERR_FAILED" not in message.text and "preload CSS" not in message.text:
            self.errors.append(message.text)

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self.page.close()
        if kind is None:
            assert self.errors == []

    def find(self, name):
        return self.page.locator(self.PREFIX + name)

    def open(self):
        self.find("open").locator("> .label-wrap").click()
        self.page.wait_for_selector(f"{self.PREFIX}picture svg")
        return self

    def rest(self):
        """A moment by the page's own clock, longer than it waits after a change before it asks the server."""
        self.page.evaluate("new Promise((done) => setTimeout(done, 300))")

    def settle(self):
        """Waits until the server is asked nothing any more: each answer draws the panel anew."""
        answer, price = None, self.find("price").locator("p")
        while self.asking or price.get_attribute("data-answer") != answer:
            answer = price.get_attribute("data-answer")
            self.rest()
        return self

    def set(self, selector, value):
        field = self.page.locator(f"{selector} {FIELD}")
        field.fill(str(value))
        field.press("Tab")

    def choose(self, selector, text):
        field = self.page.locator(f"{selector} input")
        field.click()
        field.fill("")
        choice = re.compile(rf"^\s*(✓)?\s*{re.escape(text)}\s*$", re.IGNORECASE)  # X/Y/Z plot or Plot
        self.page.locator(f"{selector} li", has_text=choice).click()

    def recognises(self, preset):
        """Waits until the settings are recognised as a preset's."""
        self.page.wait_for_function(
            "([id, preset]) => document.querySelector(id + 'preset input').value === preset", arg=[self.PREFIX, preset])

    def number(self, name):
        return float(self.find(name).locator(FIELD).input_value())

    def says(self, name, words):
        """Waits until an element says these words."""
        self.page.wait_for_function(
            "([id, words]) => document.querySelector(id).textContent.includes(words)", arg=[self.PREFIX + name, words])

    def picture(self):
        """(its data, the classes of the blocks that are drawn)."""
        box = self.find("picture").locator(".ivmixed-drawing")
        blocks = box.locator("> svg .ivmixed-move")
        return (json.loads(box.get_attribute("data-picture")),
                blocks.evaluate_all("all => all.map((block) => block.getAttribute('class'))"))


@pytest.fixture
def tab(browser, url):
    with Tab(browser, url) as tab:
        yield tab


@pytest.fixture(scope="module")
def opened(browser, url):
    """One for all tests that only look."""
    with Tab(browser, url) as tab:
        yield tab.open()


def test_closed_the_title_has_what_matters(tab):
    tab.says("price", "not in use: the sampling method is DPM++ 2M")
    tab.choose("#txt2img_sampling", "IV-mixed")
    tab.says("price", "94 evaluations, about 4.2 times plain AnimateDiff")
    tab.set("#txt2img_steps", 10)
    tab.says("price", "44 evaluations, about 3.9 times plain AnimateDiff")


def test_the_picture_draws_the_plan(opened):
    opened.says("picture", "94 evaluations")
    data, blocks = opened.picture()
    assert len(data["steps"]) == 20
    drawn = [block.removeprefix("ivmixed-move ") for block in blocks]
    assert drawn == [move for step in data["steps"] for move in (step[-1], *step[:-1])]
    assert opened.find("picture").locator(".ivmixed-legend > span").all_inner_texts() == [
        "image model", "video model", "ordinary step, at the CFG scale"]


def test_blocks_stand_in_their_columns_and_within_the_picture(opened):
    width = opened.find("picture").locator(".ivmixed-drawing").evaluate("box => box.clientWidth")
    places = opened.find("picture").locator(".ivmixed-drawing > svg .ivmixed-move").evaluate_all(
        "all => all.map(b => ['x', 'y', 'width', 'height'].map(name => +b.getAttribute(name)))")
    assert all(x >= 0 and x + wide <= width and y >= 0 for x, y, wide, high in places)
    assert len({round(x, 3) for x, *_ in places}) == 20
    assert len({(round(x, 3), round(y, 3)) for x, y, *_ in places}) == len(places)  # none lies on another


def test_the_picture_follows_every_kind_of_setting(tab):
    tab.open()
    tab.set(PREFIX + "interval_end", 50)
    tab.says("picture", "10 of 20 steps run the loop")
    tab.choose(PREFIX + "form", "RR-IV")
    tab.says("picture", "fresh noise")
    tab.set(PREFIX + "finish_percent", 20)
    tab.says("picture", "ordinary step by the image model")
    assert [block for block in tab.picture()[1] if "ordinary" in block][-5:] == [
        "ivmixed-move video ordinary"] + ["ivmixed-move image ordinary"] * 4
    tab.set(PREFIX + "gamma_go", "9 to 2")
    tab.page.wait_for_function(
        "id => JSON.parse(document.querySelector(id + 'picture .ivmixed-drawing').dataset.picture)"
        ".curves['image go'][0] === 9", arg=PREFIX)
    tab.set("#txt2img_cfg_scale", 12)
    tab.page.wait_for_function(
        "id => JSON.parse(document.querySelector(id + 'picture .ivmixed-drawing').dataset.picture).cfg === 12",
        arg=PREFIX)
    tab.recognises("custom")


def test_a_form_that_the_list_does_not_have_is_typed(tab):
    tab.open()
    field = tab.page.locator(f"{PREFIX}form input")
    field.fill("RV-IV")
    field.press("Enter")
    tab.page.wait_for_function(
        "id => JSON.parse(document.querySelector(id + 'picture .ivmixed-drawing').dataset.picture)"
        ".steps[0].join() === 'image go,video go,noise back,video back,video ordinary'", arg=PREFIX)


def test_what_is_refused_is_said_at_once(tab):
    tab.open()
    tab.set(PREFIX + "interval_start", 60)
    tab.set(PREFIX + "interval_end", 20)
    tab.says("picture", "interval = [60, 20] is not allowed")
    tab.set(PREFIX + "interval_end", 80)
    tab.says("picture", "evaluations")


def test_a_late_answer_does_not_undo_a_newer_one(tab):
    tab.open().settle().recognises("paper")
    held = []
    tab.page.route("**/run/predict*", lambda route: route.continue_() if held else held.append(route))
    tab.set(PREFIX + "gamma_back", 9)
    for _ in range(tab.WAIT // 100):
        if held:
            break
        tab.page.wait_for_timeout(100)
    tab.set(PREFIX + "gamma_back", 4)
    tab.rest()
    held[0].continue_()
    tab.recognises("custom")
    tab.recognises("paper")


@pytest.mark.parametrize("name", ["paper-videocrafter", "plain"])
def test_a_preset_in_one_click(tab, name):
    tab.open()
    tab.set(PREFIX + "gamma_back", 9)
    tab.recognises("custom")
    tab.choose(PREFIX + "preset", name)
    tab.says("picture", PRESETS[name].help)
    options = PRESETS[name].options
    assert (tab.number("gamma_back"), tab.number("z_percent"), tab.number("interval_end")) == (
        options.gamma_back, options.z_percent, options.interval[1])
    if PRESETS[name].cfg_scale:
        assert float(tab.page.locator("#txt2img_cfg_scale input[type=number]").input_value()) == PRESETS[name].cfg_scale


def test_a_preset_of_ones_own_is_saved_chosen_renamed_and_deleted(tab):
    tab.open()
    tab.set(PREFIX + "gamma_go", 6.5)
    tab.recognises("custom")
    tab.find("own_presets").locator("> .label-wrap").click()
    tab.find("preset_name").locator("input, textarea").fill("kite over a beach")
    tab.find("preset_save").click()
    tab.says("preset_message", "Saved as kite over a beach.")
    tab.recognises("kite over a beach")

    tab.choose(PREFIX + "preset", "paper")
    tab.says("picture", PRESETS["paper"].help)
    assert tab.number("gamma_go") == 4
    tab.choose(PREFIX + "preset", "kite over a beach")
    tab.page.wait_for_function(
        "id => document.querySelector(id + 'gamma_go textarea').value === '6.5'", arg=PREFIX)

    tab.find("preset_name").locator("input, textarea").fill("kite")
    tab.find("preset_rename").click()
    tab.says("preset_message", "kite over a beach is kite now.")
    tab.find("preset_delete").click()
    tab.says("preset_message", "kite is deleted.")
    assert tab.number("gamma_go") == 6.5
    tab.find("preset_delete").click()
    tab.says("preset_message", "is not one of your own presets")


def test_the_gamma_of_the_image_model_is_under_advanced(tab):
    tab.open()
    assert not tab.find("gamma_image_go").is_visible()
    tab.find("open").get_by_text("Advanced", exact=True).click()
    tab.find("gamma_image_go").wait_for(state="visible")
    tab.set(PREFIX + "gamma_image_go", "0=8 50=1")
    tab.page.wait_for_function(
        "id => { const c = JSON.parse(document.querySelector(id + 'picture .ivmixed-drawing').dataset.picture).curves;"
        "return c['image go'][0] === 8 && c['video go'][0] === 4 }", arg=PREFIX)


@pytest.mark.parametrize("theme, width", [("light", 400), ("dark", 900)])
def test_it_fits_the_page_and_can_be_read(browser, url, theme, width):
    with Tab(browser, url, theme, width) as tab:
        tab.open().settle()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        panel = tab.find("open").bounding_box()
        drawn = tab.find("picture").locator(".ivmixed-drawing > svg").bounding_box()
        price = tab.find("price").locator("p").bounding_box()
        for box in (drawn, price):
            assert panel["x"] <= box["x"] and box["x"] + box["width"] <= panel["x"] + panel["width"]
        lines = """title => {
            const range = document.createRange();
            range.selectNodeContents(title);
            return new Set([...range.getClientRects()].map((box) => box.top)).size;
        }"""
        assert tab.find("open").locator("> .label-wrap > span").first.evaluate(lines) == 1
        background = colour(tab, f"{PREFIX}open", "backgroundColor")
        for selector in (".ivmixed-total", ".ivmixed-detail", ".ivmixed-legend span span"):
            assert contrast(colour(tab, f"{PREFIX}picture {selector}", "color"), background) >= 4.5
        for selector in (".ivmixed-move.image", ".ivmixed-move.video"):
            assert contrast(colour(tab, f"{PREFIX}picture {selector}", "fill"), background) >= 3


def colour(tab, selector, which):
    """(red, green, blue) from 0 to 1; of a background, the first that is painted."""
    text = tab.page.evaluate("""([selector, which]) => {
        let element = document.querySelector(selector), found;
        do { found = getComputedStyle(element)[which] } while (
            which === "backgroundColor" && found === "rgba(0, 0, 0, 0)" && (element = element.parentElement));
        return found;
    }""", [selector, which])
    return [float(part) / 255 for part in re.findall(r"[\d.]+", text)[:3]]


def contrast(one, other):
    """Contrast ratio of two colours. Source: WCAG 2.1, relative luminance."""
    def luminance(rgb):
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_the_picture_is_drawn_anew_where_the_page_is_made_narrower(tab):
    tab.open()
    svg = tab.find("picture").locator(".ivmixed-drawing > svg")
    wide = svg.bounding_box()["width"]
    tab.page.set_viewport_size({"width": 420, "height": 1400})
    tab.page.wait_for_function(
        "([id, wide]) => document.querySelector(id + 'picture .ivmixed-drawing > svg').clientWidth < wide - 100",
        arg=[PREFIX, wide])
    assert len(tab.picture()[1]) == 94


def test_the_picture_is_described_for_screen_readers(opened):
    drawing = opened.find("picture").locator(".ivmixed-drawing")
    assert drawing.get_attribute("role") == "img"
    assert "image model, denoising: 4 throughout" in drawing.get_attribute("aria-label")
    assert drawing.locator("> svg").get_attribute("aria-hidden") == "true"


def test_the_defaults_are_the_published_ones(opened):
    opened.says("picture", PRESETS["paper"].help)
    assert PRESETS["paper"].options == Options()
    opened.recognises("paper")
