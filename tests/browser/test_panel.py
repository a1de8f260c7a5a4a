"""The panel in a real browser: real gradio of both versions, on doubles of the hosts."""
import json
import re
from contextlib import contextmanager

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
    POLL = 50
    """Milliseconds between two looks of a wait: one at every frame would keep the browser drawing."""
    left = None
    """What the test before left as it found it, see `kept`."""

    def __init__(self, page, url, theme="light", width=900, height=1400):
        self.page, self.url, self.errors, self.asking = page, url, [], []
        Tab.left = None
        page.set_default_timeout(self.WAIT)
        page.set_viewport_size({"width": width, "height": height})
        self._listen(page.on)
        page.goto(f"{url}?__theme={theme}")
        page.wait_for_selector(f"{self.PREFIX}price p", state="attached")

    def _listen(self, change):
        for event, listener in (("pageerror", self._failed), ("console", self._said), ("request", self._asked),
                                ("requestfinished", self._answered), ("requestfailed", self._answered)):
            change(event, listener)

    def _failed(self, error):
        self.errors.append(str(error))

    def _said(self, message):
        source = message.location["url"]
        elsewhere = source and not source.startswith(self.url)  # other servers are not reached
        if message.type == "error" and not elsewhere and "preload CSS" not in message.text:
            self.errors.append(message.text)

    def _asked(self, request):
        if "/run/predict" in request.url:
            self.asking.append(request)

    def _answered(self, request):
        if request in self.asking:
            self.asking.remove(request)

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self._listen(self.page.remove_listener)
        self.page.unroute_all()
        if kind is None:
            assert self.errors == []

    @classmethod
    @contextmanager
    def kept(cls, page, url, theme="light", width=900, height=1400):
        """The page as the test before left it, if by this too; else loaded anew. The test has to leave all settings as
        they were: it only looks, or puts back what it sets."""
        tab = Tab.left
        if type(tab) is cls and tab.url == url:
            tab._listen(page.on)
        else:
            tab = cls(page, url).settle()
        Tab.left = None  # after a failure nobody knows
        with tab:
            tab.show(theme, width, height)
            yield tab
        Tab.left = tab

    def show(self, theme, width, height):
        """What another theme and another window would show of the page."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.evaluate("""async (dark) => {
            scrollTo(0, 0);
            document.body.classList.toggle("dark", dark); // which is what gradio does for ?__theme=dark
            const changes = document.getAnimations().filter((one) => one instanceof CSSTransition);
            await Promise.allSettled(changes.map((one) => one.finished));
            const frame = () => new Promise((done) => requestAnimationFrame(done));
            await frame().then(frame); // what is drawn by size is drawn anew
        }""", theme == "dark")

    def wait(self, condition, *arguments):
        """Waits until a JavaScript function of these arguments is true."""
        self.page.wait_for_function(f"(all) => ({condition})(...all)", arg=arguments, polling=self.POLL)

    def find(self, name):
        return self.page.locator(self.PREFIX + name)

    def open(self):
        self.unfold("open")
        self.page.wait_for_selector(f"{self.PREFIX}picture svg")
        return self

    def unfold(self, name, opened=True):
        """Opens or closes an accordion."""
        label = self.find(name).locator("> .label-wrap")
        if ("open" in label.get_attribute("class").split()) != opened:
            label.click()

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
        field.blur()

    def choose(self, selector, text):
        field = self.page.locator(f"{selector} input")
        field.click()
        field.fill("")
        choice = re.compile(rf"^\s*(✓)?\s*{re.escape(text)}\s*$", re.IGNORECASE)  # X/Y/Z plot or Plot
        self.page.locator(f"{selector} li", has_text=choice).click()

    def recognises(self, preset):
        """Waits until the settings are recognised as a preset's."""
        self.wait("(id, preset) => document.querySelector(id + 'preset input').value === preset", self.PREFIX, preset)

    def held(self):
        """Holds back what the page asks the server from now on: gives what waits for the next question."""
        routes = []
        self.page.route("**/run/predict*", lambda route: routes.append(route))

        def wait():
            for _ in range(self.WAIT // 50):
                if routes:
                    return routes.pop(0)
                self.page.wait_for_timeout(50)
            pytest.fail("the page asks nothing")
        return wait

    def shown(self):
        """Gives all that the list of presets shows from now on."""
        self.page.evaluate("""id => {
            window.shown = new Set();
            const look = () => {
                shown.add(document.querySelector(id + "preset input").value);
                requestAnimationFrame(look);
            };
            look();
        }""", self.PREFIX)
        return lambda: self.page.evaluate("[...shown]")

    def number(self, name):
        return float(self.find(name).locator(FIELD).input_value())

    def says(self, name, words):
        """Waits until an element says these words."""
        self.wait("(id, words) => document.querySelector(id).textContent.includes(words)", self.PREFIX + name, words)

    def draws(self, condition):
        """Waits until this is true of the data of the picture."""
        self.wait(f"""(id) => {{
            const {{steps, curves, cfg}} = JSON.parse(document.querySelector(id).dataset.picture);
            return {condition};
        }}""", f"{self.PREFIX}picture .ivmixed-drawing")

    def put_back(self):
        """Sets all of the panel as it is when the page is loaded."""
        self.choose(self.PREFIX + "preset", "paper")
        self.says("picture", PRESETS["paper"].help)
        self.settle().recognises("paper")

    def picture(self):
        """(its data, the classes of the blocks that are drawn)."""
        box = self.find("picture").locator(".ivmixed-drawing")
        blocks = box.locator("> svg .ivmixed-move")
        return (json.loads(box.get_attribute("data-picture")),
                blocks.evaluate_all("all => all.map((block) => block.getAttribute('class'))"))


@pytest.fixture
def tab(page, url):
    with Tab(page, url) as tab:
        yield tab


def test_closed_the_title_has_what_matters(tab):
    tab.says("price", "not in use: the sampling method is DPM++ 2M")
    tab.choose("#txt2img_sampling", "IV-mixed")
    tab.says("price", "94 evaluations, about 4.2 times plain AnimateDiff")
    tab.set("#txt2img_steps", 10)
    tab.says("price", "44 evaluations, about 3.9 times plain AnimateDiff")


def test_the_picture_draws_the_plan(page, url):
    with Tab.kept(page, url) as tab:
        tab.open()
        tab.says("picture", "94 evaluations")
        data, blocks = tab.picture()
        assert len(data["steps"]) == 20
        drawn = [block.removeprefix("ivmixed-move ") for block in blocks]
        assert drawn == [move for step in data["steps"] for move in (step[-1], *step[:-1])]
        assert tab.find("picture").locator(".ivmixed-legend > span").all_inner_texts() == [
            "image model", "video model", "ordinary step, at the CFG scale"]


def test_blocks_stand_in_their_columns_and_within_the_picture(page, url):
    with Tab.kept(page, url) as tab:
        tab.open()
        width = tab.find("picture").locator(".ivmixed-drawing").evaluate("box => box.clientWidth")
        places = tab.find("picture").locator(".ivmixed-drawing > svg .ivmixed-move").evaluate_all(
            "all => all.map(b => ['x', 'y', 'width', 'height'].map(name => +b.getAttribute(name)))")
        assert all(x >= 0 and x + wide <= width and y >= 0 for x, y, wide, high in places)
        assert len({round(x, 3) for x, *_ in places}) == 20
        assert len({(round(x, 3), round(y, 3)) for x, y, *_ in places}) == len(places)  # none lies on another


def test_the_defaults_are_the_published_ones(page, url):
    with Tab.kept(page, url) as tab:
        tab.open()
        tab.says("picture", PRESETS["paper"].help)
        assert PRESETS["paper"].options == Options()
        tab.recognises("paper")


def test_the_picture_is_described_for_screen_readers(page, url):
    with Tab.kept(page, url) as tab:
        tab.open()
        drawing = tab.find("picture").locator(".ivmixed-drawing")
        assert drawing.get_attribute("role") == "img"
        assert "image model, denoising: 4 throughout" in drawing.get_attribute("aria-label")
        assert drawing.locator("> svg").get_attribute("aria-hidden") == "true"


def test_the_picture_is_drawn_anew_where_the_page_is_made_narrower(page, url):
    with Tab.kept(page, url) as tab:
        tab.open()
        svg = tab.find("picture").locator(".ivmixed-drawing > svg")
        wide = svg.bounding_box()["width"]
        tab.page.set_viewport_size({"width": 420, "height": 1400})
        tab.wait("(id, wide) => document.querySelector(id + 'picture .ivmixed-drawing > svg').clientWidth < wide - 100",
                 PREFIX, wide)
        assert len(tab.picture()[1]) == 94


@pytest.mark.parametrize("theme, width", [("light", 400), ("dark", 900)])
def test_it_fits_the_page_and_can_be_read(page, url, theme, width):
    with Tab.kept(page, url, theme, width) as tab:
        tab.open()
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


def test_what_is_refused_is_said_at_once(page, url):
    with Tab.kept(page, url) as tab:
        tab.open()
        tab.set(PREFIX + "interval_start", 60)
        tab.set(PREFIX + "interval_end", 20)
        tab.says("picture", "interval = [60, 20] is not allowed")
        tab.set(PREFIX + "interval_end", 80)
        tab.says("picture", "evaluations")
        tab.put_back()


def test_a_form_that_the_list_does_not_have_is_typed(page, url):
    with Tab.kept(page, url) as tab:
        tab.open()
        field = tab.page.locator(f"{PREFIX}form input")
        field.fill("RV-IV")
        field.press("Enter")
        tab.draws("steps[0].join() === 'image go,video go,noise back,video back,video ordinary'")
        tab.put_back()


def test_the_gamma_of_the_image_model_is_under_advanced(page, url):
    with Tab.kept(page, url) as tab:
        tab.open()
        assert not tab.find("gamma_image_go").is_visible()
        advanced = tab.find("open").get_by_text("Advanced", exact=True)
        advanced.click()
        tab.find("gamma_image_go").wait_for(state="visible")
        tab.set(PREFIX + "gamma_image_go", "0=8 50=1")
        tab.draws("curves['image go'][0] === 8 && curves['video go'][0] === 4")
        advanced.click()
        tab.put_back()


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
    tab.draws("curves['image go'][0] === 9")
    tab.set("#txt2img_cfg_scale", 12)
    tab.draws("cfg === 12")
    tab.recognises("custom")


def test_a_late_answer_does_not_undo_a_newer_one(tab):
    tab.open().settle().recognises("paper")
    tab.page.evaluate("""id => {
        window.answers = new Set();
        const price = document.querySelector(id + "price");
        const seen = () => price.querySelectorAll("p").forEach((answer) => answers.add(answer.dataset.answer));
        new MutationObserver(seen).observe(price, {childList: true, subtree: true});
        seen();
    }""", PREFIX)
    held = tab.held()
    tab.set(PREFIX + "gamma_back", 9)
    late = held()
    tab.set(PREFIX + "gamma_back", 4)
    tab.rest()
    assert tab.page.evaluate("answers.size") == 1
    late.continue_()
    held().continue_()
    tab.wait("() => answers.size === 3")  # the late one came, and one for what changed since
    tab.recognises("paper")


def test_a_late_answer_does_not_undo_the_choice_of_a_preset(tab):
    tab.open().settle().recognises("paper")
    held = tab.held()
    tab.set(PREFIX + "gamma_back", 9)
    late = held()  # its answer: the settings are custom
    tab.choose(PREFIX + "preset", "plain")
    shown = tab.shown()
    late.continue_()
    held().continue_()  # the choice
    tab.page.unroute_all()
    tab.says("picture", PRESETS["plain"].help)
    assert shown() == ["plain"]
    assert tab.number("gamma_back") == PRESETS["plain"].options.gamma_back


def test_an_answer_that_comes_with_a_change_of_the_presets_does_not_undo_it(tab):
    """Gradio 4 shows all answers of a moment at once."""
    tab.open().settle().recognises("paper")
    shown = tab.shown()
    tab.page.evaluate("""id => {
        const price = document.querySelector(id + "price p"), answer = price.cloneNode(true);
        delete answer.dataset.seen;
        answer.dataset.preset = "custom";
        price.replaceWith(answer);
        document.querySelector(id + "preset_message").innerHTML = "<p role=status>Saved as paper.</p>";
    }""", PREFIX)
    tab.rest()
    tab.settle()
    assert shown() == ["paper"]


def test_a_preset_in_one_click(tab):
    tab.open()
    for name in ("paper-videocrafter", "plain"):
        tab.set(PREFIX + "gamma_back", 9)
        tab.recognises("custom")
        tab.choose(PREFIX + "preset", name)
        tab.says("picture", PRESETS[name].help)
        options, cfg_scale = PRESETS[name].options, PRESETS[name].cfg_scale
        assert (tab.number("gamma_back"), tab.number("z_percent"), tab.number("interval_end")) == (
            options.gamma_back, options.z_percent, options.interval[1])
        if cfg_scale:
            assert float(tab.page.locator("#txt2img_cfg_scale input[type=number]").input_value()) == cfg_scale


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
    tab.wait("id => document.querySelector(id + 'gamma_go textarea').value === '6.5'", PREFIX)

    tab.settle()
    tab.find("preset_name").locator("input, textarea").fill("kite")
    tab.find("preset_rename").click()
    tab.says("preset_message", "kite over a beach is kite now.")
    tab.settle().recognises("kite")
    tab.find("preset_delete").click()
    tab.says("preset_message", "kite is deleted.")
    tab.settle().recognises("custom")
    assert tab.number("gamma_go") == 6.5
    tab.find("preset_delete").click()
    tab.says("preset_message", "is not one of your own presets")


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
