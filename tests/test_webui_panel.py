"""The panel and the infotext in AUTOMATIC1111, with the real gradio and a double of the host (tests/host)."""
import html

import gradio.context
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivmixed import OptionError, Options
from ivmixed.kinds import Choice, Range
from ivmixed.webui.options import OPTIONS, WebUIOptions

from . import hostile
from .host import NAME, loaded
from .hostile import assert_in_words
from .test_options import any_options


@pytest.fixture(scope="module")
def host():
    with loaded() as host:
        yield host


@pytest.fixture(scope="module")
def page(host):
    return Panel(host)


class Panel:
    """The components in the order of the script's arguments, by the ends of their element ids."""

    def __init__(self, host):
        self.host, self.page = host, host.page
        self.script = host.script(NAME)
        self.components = host.runner.inputs[self.script.args_from:self.script.args_to]
        self.fields = [field for field in host.runner.infotext_fields if field.component in self.components]
        prefix = self.script.elem_id("")
        self.names = [component.elem_id.removeprefix(prefix).removesuffix("-checkbox") for component in self.components]

    def defaults(self):
        return {name: component.value for name, component in zip(self.names, self.components)}

    def showing(self, options):
        """The values of the components that a user sets for these options, by name."""
        values = {"open": True}
        for option in OPTIONS:
            value = getattr(options, option.name, option.default)
            if isinstance(option.kind, Range):
                values[f"{option.name}_start"], values[f"{option.name}_end"] = value
            else:
                values[option.name] = option.to_text(value) if option.kind.typed else value
        return values

    def sent(self, values):
        """The script's arguments as the page sends these values."""
        assert values.keys() == set(self.names)
        return [component.preprocess(component.postprocess(values[name]))
                for name, component in zip(self.names, self.components)]

    def paste(self, params, values):
        """The values after the paste button was pressed."""
        updates = self.host.infotext_utils.pasted(self.fields, params)
        names = dict(zip(self.components, self.names))
        return values | {names[component]: update["value"]
                         for (component, _), update in zip(self.fields, updates) if "value" in update}

    def options(self, values):
        return self.host.panel.from_arguments(self.sent(values))


def infotext(options, **more):
    return {"Steps": "20", "Sampler": NAME, **options.to_infotext(), **more}


def ancestors(block):
    while block.parent is not None:
        block = block.parent
        yield block


# --- the components

def test_the_components_are_those_of_the_declared_options(page):
    expected = {"open"}
    for option in OPTIONS:
        ends = ("_start", "_end") if isinstance(option.kind, Range) else ("",)
        expected |= {option.name + end for end in ends}
    assert set(page.names) == expected
    assert len(page.names) == len(expected)
    ids = [component.elem_id for component in page.components]
    assert len(set(ids)) == len(ids)
    assert all(id.startswith("script_txt2img_ivmixed_") for id in ids)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_component_offers_what_its_option_allows(page, option):
    for name, component in zip(page.names, page.components):
        if name not in (option.name, f"{option.name}_start", f"{option.name}_end"):
            continue
        kind = option.kind
        if isinstance(kind, Choice):
            assert component.choices == list(kind.shown or kind.choices)
            assert component.allow_custom_value == bool(kind.shown)
        elif kind.typed:
            assert component.value == option.to_text(option.default)
        else:
            assert (component.minimum, component.maximum, component.step) == (kind.minimum, kind.maximum, kind.step)
        if isinstance(kind, Range):  # said once, below both
            assert component.info is None
            assert any(html.escape(option.help) in str(getattr(block, "value", ""))
                       for block in page.page.blocks.values())
        else:
            assert component.info == option.help


def test_the_page_can_be_sent_to_the_browser(page):
    page.page.get_config_file()


def test_defaults_pass_through(page):
    defaults = page.defaults()
    assert defaults["open"] is False
    assert page.options(defaults) == Options()
    assert page.options({**defaults, "open": True}) == Options()
    assert page.defaults() == {**page.showing(Options()), "open": False}


def test_making_the_panel_again_changes_nothing(page):
    """The API does, to learn the defaults."""
    host = page.host
    fields = list(host.runner.infotext_fields)
    before = host.snapshot()
    assert host.defaults[page.script.args_from:page.script.args_to] == list(page.defaults().values())
    host.script(NAME).show(False)
    assert not before.changed(host.snapshot())
    assert host.runner.infotext_fields == fields
    assert {field.component for field in page.fields} == set(page.components)


# --- values to options

@settings(max_examples=25)
@given(any_options(WebUIOptions))
def test_every_option_set_in_the_panel_arrives(page, options):
    assert page.options(page.showing(options)) == options


def test_a_closed_panel_does_not_act(page):
    assert page.options({**page.showing(Options(form="II-II", gamma_go=6)), "open": False}) == Options()


@settings(max_examples=25)
@given(any_options(WebUIOptions))
def test_the_apis_object_is_the_options(page, options):
    host, given_by_api = page.host, {NAME: [options.to_dict()]}
    arguments = host.arguments(given_by_api)[page.script.args_from:page.script.args_to]
    assert host.panel.from_arguments(arguments) == options


@settings(max_examples=25)
@given(any_options(WebUIOptions), st.data())
def test_the_apis_object_may_leave_options_out(page, options, data):
    kept = data.draw(st.sets(st.sampled_from([option.name for option in OPTIONS])))
    values = {name: value for name, value in options.to_dict().items() if name in kept}
    assert page.host.panel.from_arguments([values]) == WebUIOptions.from_dict(values)


@pytest.mark.parametrize("arguments", [
    ["IV-IV"], [None], [1], [0.0], [[]], [["IV-IV"]], [{"form": "IV-IV"}, {}], [{}, {}], [{"form": "IV-IV"}, []],
    [{"open": True}], [{"form": "IV-IV", "gama_go": 4}], [{"form": "II-II"}, "VV-VV"], [{"form": "II-II"}, "IV-IV", 6],
    [False, {"form": "II-II"}], [True, "IV-IV"], [True], [True, "IV-IV", {}], [{}, *[None] * 60], [False, *[None] * 60],
    [10**400], ["\ud800"], [{"rho": 10**400}],
])
def test_wrong_shapes_are_refused(page, arguments):
    with pytest.raises(OptionError) as error:
        page.host.panel.from_arguments(arguments)
    assert str(error.value).startswith("IV-mixed: ")
    assert_in_words(str(error.value))


@settings(max_examples=40)
@given(st.data())
def test_any_arguments_are_options_or_refused_in_words(page, data):
    """Of the API: the host puts the defaults behind those that are given."""
    given_by_api = data.draw(st.lists(hostile.values([option.name for option in OPTIONS]) | st.booleans(), max_size=4))
    defaults = list(page.defaults().values())
    whole = [*given_by_api, *defaults[len(given_by_api):]] if data.draw(st.booleans()) else given_by_api
    try:
        assert isinstance(page.host.panel.from_arguments(whole), Options)
    except OptionError as error:
        assert_in_words(str(error))


@pytest.mark.parametrize("name, value, field", [
    ("gamma_go", "30.5", "gamma_go"), ("gamma_go", "4, 5", "gamma_go"), ("z_percent", None, "z_percent"),
    ("form", "IV-RR", "form"),
    ("interval_start", 100.5, "interval"), ("rho", float("nan"), "rho"),
    ("gamma_image_back", "4 to", "gamma_image_back"),
])
def test_wrong_values_of_the_panel_are_refused(page, name, value, field):
    values = {**page.defaults(), "open": True, name: value}
    with pytest.raises(OptionError) as error:
        page.host.panel.from_arguments([values[name] for name in page.names])
    assert error.value.field == field


@pytest.mark.parametrize("arguments", [[], (), None])
def test_no_arguments_are_the_defaults(page, arguments):
    assert page.host.panel.from_arguments(arguments) == Options()


# --- infotext and back

@settings(max_examples=25)
@given(any_options(WebUIOptions), any_options(WebUIOptions))
def test_infotext_round_trip(page, options, before):
    """Infotext pasted over a panel that shows other options, with the paste button and through the API."""
    host = page.host
    params = host.infotext_utils.parse(host.infotext_utils.line_of(infotext(options)))
    assert page.options(page.paste(params, page.showing(before))) == options
    arguments = list(host.defaults)
    for index, value in host.api.script_arguments_of_infotext(host.runner, params).items():
        arguments[index] = value
    assert host.panel.from_arguments(arguments[page.script.args_from:page.script.args_to]) == options


@pytest.mark.parametrize("others", [
    {"Sampler": "Euler"}, {"Sampler": "Euler", "Hires sampler": "Use same sampler"}, {"Sampler": "IV-mixed 2"}, {},
])
def test_infotext_of_another_sampler_leaves_the_panel_alone(page, others):
    params = {**others, **Options(form="II-II", gamma_go=7, gamma_image_go=3).to_infotext()}
    before = page.showing(Options(form="VV-VV", gamma_back=(1, 2), gamma_image_go=3))
    assert page.paste(params, before) == before
    assert all(field.function(params) is None for field in page.fields)


def test_infotext_of_a_hires_pass_is_pasted(page):
    options = Options(form="II-II", z_percent=66.7)
    params = infotext(options, **{"Sampler": "Euler", "Hires sampler": NAME})
    assert page.options(page.paste(params, page.defaults())) == options


def test_the_defaults_close_the_panel(page):
    before = page.showing(Options(form="II-II", gamma_image_go=3))
    after = page.paste(infotext(Options()), before)
    assert (after["open"], after["gamma_image_go"]) == (False, "")
    assert page.options(after) == Options()
    assert page.options({**after, "open": True}) == Options()


@pytest.mark.parametrize("field, text", [
    ("form", "IV-XX"), ("gamma_go", "much"), ("gamma_go", "1 to 2 to 3"), ("interval", "60 to 20"),
    ("z_percent", "101"), ("gamma_image_go", "31"),
])
def test_a_broken_value_is_told_and_not_pasted(page, field, text):
    good = Options(rho=3, gamma_back=(5, 6), gamma_image_back="0=1 50=2")
    before = page.showing(Options(form="VV-VV", gamma_go=(8, 9), gamma_image_go=7, interval=(10, 20), z_percent=5))
    page.host.log.lines.clear()
    after = page.paste(infotext(good, **{f"IV-mixed {field.replace('_', ' ')}": text}), before)
    kept = [name for name in page.names if name in (field, f"{field}_start", f"{field}_end")]
    assert kept
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert (after["rho"], after["gamma_back"], after["gamma_image_back"]) == (3, "5 to 6", "0=1 50=2")
    assert after["open"] is True
    assert page.host.log.lines
    assert len(page.host.log.lines) == 1
    assert page.host.log.lines[0].startswith(f"not pasted: IV-mixed: {field} = ")
    assert page.host.errors.reports == []


def test_the_page_that_pastes_is_told(page, monkeypatch):
    said = []
    monkeypatch.setattr(page.host.panel.gr, "Warning", said.append)
    for event in (None, "the paste button's"):
        monkeypatch.setattr(gradio.context.thread_data, "event_id", event, raising=False)
        page.paste(infotext(Options(), **{"IV-mixed form": "<b>"}), page.defaults())
    assert len(said) == 1 and "form = '&lt;b&gt;' is not allowed" in said[0]


def test_fields_named_for_the_api_are_fields_of_its_requests(page):
    """The host sets a field with an ``api`` name on the request, which has no attributes but its own."""
    params = infotext(Options(form="II-II", gamma_image_go=3))
    assert page.host.api.script_arguments_of_infotext(page.host.runner, params)
