"""The extension's routes in the host's API, on the real FastAPI and a double of the host (tests/host)."""
import json
import sys
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from ivmixed import OptionError, Options, Schedule, make_plan
from ivmixed.cost import OUTER, WHOLE, times_plain, work
from ivmixed.presets import PRESETS
from ivmixed.standalone.pipeline import plan_of
from ivmixed.webui.options import OPTIONS, WebUIOptions

from . import hostile
from .host import loaded
from .host.forge_host import HOSTS, loaded_forge
from .hostile import assert_in_words
from .test_options import any_options


@pytest.fixture(scope="module")
def host():
    with loaded() as host:
        yield host


@pytest.fixture(scope="module")
def client(host):
    return TestClient(host.start())


def plan(client, **request):
    answer = client.post("/ivmixed/v1/plan", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- the door

def test_without_the_hosts_api_there_is_none(host):
    client = TestClient(host.start(api=False))
    assert [client.get(f"/ivmixed/v1/{name}").status_code for name in ("options", "presets")] == [404, 404]
    assert client.post("/ivmixed/v1/plan", json={}).status_code == 404


def test_the_hosts_users_and_passwords_are_asked_for(host, monkeypatch):
    monkeypatch.setattr(host.shared.cmd_opts, "api_auth", "kite:beach,box:ring")
    client = TestClient(host.start())
    for call in (lambda **more: client.get("/ivmixed/v1/options", **more),
                 lambda **more: client.get("/ivmixed/v1/presets", **more),
                 lambda **more: client.post("/ivmixed/v1/plan", json={}, **more)):
        assert [call().status_code, call(auth=("kite", "ring")).status_code] == [401, 401]
        assert [call(auth=("kite", "beach")).status_code, call(auth=("box", "ring")).status_code] == [200, 200]


@pytest.mark.parametrize("kind", HOSTS)
def test_on_the_forge_family(kind):
    with loaded_forge(kind) as host:
        made = plan(TestClient(host.start()), steps=5)
        assert made["description"] == "IV-IV, 4 of 5 steps active, 19 evaluations (12 video, 7 image)"


def test_the_hosts_documents_have_them(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {path: list(methods) for path, methods in paths.items() if "ivmixed" in path} == {
        "/ivmixed/v1/options": ["get"], "/ivmixed/v1/presets": ["get"], "/ivmixed/v1/plan": ["post"]}
    assert all(method["summary"] and method["description"]
               for path, methods in paths.items() if "ivmixed" in path for method in methods.values())


def test_asking_changes_nothing_in_the_host(host, client):
    before = host.snapshot()
    client.get("/ivmixed/v1/options"), client.get("/ivmixed/v1/presets"), plan(client, steps=9)
    assert not before.changed(host.snapshot())
    assert host.evaluations == [] and host.errors.reports == []


# --- options

def test_the_schema_has_every_option(client):
    schema = client.get("/ivmixed/v1/options").json()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == [option.name for option in OPTIONS]
    assert {name: part["default"] for name, part in schema["properties"].items()} == WebUIOptions().to_dict()
    for option in OPTIONS:
        assert option.help in schema["properties"][option.name]["description"]
        assert option.allowed in schema["properties"][option.name]["description"]
    jsonschema.validate({}, schema)


@settings(max_examples=25)
@given(any_options(WebUIOptions))
def test_the_schema_accepts_every_allowed_set(client, options):
    jsonschema.validate(options.to_dict(), client.get("/ivmixed/v1/options").json())


ANYTHING = st.one_of(
    st.none(), st.floats(-10, 120), st.sampled_from([
        *WebUIOptions().to_dict().values(), "IV-VV", "R", "", "6 to 2", "0=6 50=2", [[0, 6], [50, 2]]]),
    st.integers(-1, 101), st.lists(st.floats(-1, 101), max_size=3))


@given(st.dictionaries(st.sampled_from([*(option.name for option in OPTIONS), "gama_go"]), ANYTHING, max_size=3))
def test_the_schema_accepts_what_the_options_do(client, values):
    """But for a rule that it has no word for: an interval does not run backwards."""
    valid = jsonschema.Draft202012Validator(client.get("/ivmixed/v1/options").json()).is_valid(values)
    try:
        WebUIOptions.from_dict(values)
        assert valid
    except OptionError as error:
        assert not valid or (error.field == "interval" and error.value[0] > error.value[1])


# --- plan

@pytest.mark.parametrize("sampler", ["IV-mixed", "IV-mixed DPM++ 2M"])
@pytest.mark.parametrize("scheduler", ["Automatic", "Karras", "Simple"])
@pytest.mark.parametrize("denoising_strength", [None, 0.0, 0.55, 1.0])
def test_the_plan_is_what_a_clip_runs(host, client, sampler, scheduler, denoising_strength):
    options = {"gamma_go": [6, 2], "z_percent": 50, "interval": [10, 90]}
    fields = {}
    if denoising_strength is not None:
        fields = {"init_latent": host.processing.torch.zeros(4, 4, 4, 4), "denoising_strength": denoising_strength}
    host.run(host.clip(sampler, options=options, frames=4, context=4, steps=9, scheduler=scheduler, **fields))
    made = plan(client, options=options, steps=9, sampler=sampler, scheduler=scheduler,
                denoising_strength=denoising_strength)
    assert made["cost"]["evaluations"] == len(host.evaluations)
    asked = [evaluation.sigma[0].item() for evaluation in host.evaluations]
    assert [move["sigma"] for move in made["moves"]] == pytest.approx(asked, rel=1e-4)


@settings(max_examples=25)
@given(any_options(WebUIOptions, finish_smoothing=0), st.integers(1, 40))  # which may be refused, see below
def test_the_plan_is_the_cores(client, options, steps):
    video, image = Schedule.linear(), Schedule.scaled_linear()
    ends = max(steps - 1, 1)
    sigmas = [video.timestep_to_sigma(999 * k / ends) for k in range(ends, ends - steps, -1)] + [0.0]
    made, expected = plan(client, options=options.to_dict(), steps=steps), make_plan(options, sigmas, video, image)
    assert made["description"] == expected.describe()
    assert [(move["model"], move["kind"], move["guidance"], move["reuse"]) for move in made["moves"]] == [
        (move.model, move.kind, move.guidance, move.reuse) for move in expected.moves]
    for level in ("sigma", "sigma_from", "sigma_to"):
        levels = [getattr(move, level) for move in expected.moves]
        assert [move[level] for move in made["moves"]] == pytest.approx(levels, rel=1e-4)
    assert made["cost"] == {
        "evaluations": expected.evaluations, "video": expected.count("video"), "image": expected.count("image"),
        "times_plain": round(times_plain(expected), 2), "seconds": None}


@pytest.mark.parametrize("table", ["predictor", "model_sampling"])
def test_a_schedule_that_looks_into_the_network_for_its_table(client, monkeypatch, table):
    """The Forge family's "Turbo"."""
    def turbo(n, sigma_min, sigma_max, inner_model, device):
        network = inner_model.inner_model.forge_objects.unet.model
        return torch.cat([getattr(network, table).sigma(torch.tensor([999, 666, 333])), torch.zeros(1)])

    def of_another(n, sigma_min, sigma_max, inner_model, device):
        return inner_model.inner_model.conditioner

    def rising(n, sigma_min, sigma_max, inner_model, device):
        return torch.tensor([25.0, 14.0, 22.0, 0.0])

    def by_size(n, width, height, sigma_min, sigma_max, inner_model, device):  # Forge Neo's "Flux2"
        return torch.linspace(1, 0, n + 1)

    schedules = sys.modules["modules.sd_schedulers"].schedulers
    monkeypatch.setitem(sys.modules, "modules.sd_schedulers", SimpleNamespace(schedulers=[*schedules, *(
        SimpleNamespace(name=name, label=name, function=function, need_inner_model=True)
        for name, function in (("turbo", turbo), ("another", of_another), ("rising", rising), ("by_size", by_size)))]))
    made = plan(client, steps=3, scheduler="turbo")
    assert [move["sigma"] for move in made["moves"] if move["kind"] == "ordinary"] == pytest.approx(
        [Schedule.linear().sigmas[timestep] for timestep in (999, 666, 333)], rel=1e-6)
    for name in ("another", "rising", "by_size"):
        answer = client.post("/ivmixed/v1/plan", json={"steps": 3, "scheduler": name})
        assert answer.status_code == 422 and f"scheduler = '{name}' is not allowed" in answer.json()["detail"][0]["msg"]


def test_levels_may_be_given(client):
    made = plan(client, sigmas=[10, 3, 1, 0], steps=77, scheduler="none such")
    assert [move["sigma_from"] for move in made["moves"] if move["kind"] == "ordinary"] == [10, 3, 1]


@pytest.mark.parametrize("request_, place, words", [
    ({"options": {"z_percent": 120}}, ["options", "z_percent"],
     "IV-mixed: z_percent = 120 is not allowed; allowed: a number from 0 to 100 %."),
    ({"options": {"gama_go": 4}}, ["options", "gama_go"],
     "IV-mixed: gama_go = 4 is no option (did you mean gamma_go?)"),
    ({"scheduler": "Kerras"}, ["scheduler"],
     "IV-mixed: scheduler = 'Kerras' is not allowed; allowed: one of Automatic, Karras"),
    ({"sampler": "Euler"}, ["sampler"],
     "IV-mixed: sampler = 'Euler' is not allowed; allowed: one of IV-mixed, IV-mixed DPM++ 2M"),
    ({"sigmas": [1, 2]}, ["sigmas"], "IV-mixed: sigmas = [1.0, 2.0] is not allowed"),
    ({"sigmas": [1]}, ["sigmas"], "IV-mixed: sigmas = [1.0] is not allowed"),
    ({"video_table": "zeroscope"}, ["video_table"],
     "IV-mixed: video_table = 'zeroscope' is not allowed; allowed: one of "),
    ({"options": {"finish_percent": 50, "image_size": "64x64"}, "width": 512, "height": 512}, ["options", "image_size"],
     "IV-mixed: image_size = '8x8' cannot be used with finish_percent: "),
    ({"options": {"finish_percent": 100, "finish_smoothing": 50}}, ["options", "finish_smoothing"],
     "IV-mixed: finish_smoothing = 50.0 cannot be used with finish_percent = 100.0: no step of the video model"),
])
def test_a_wrong_request_is_refused(client, request_, place, words):
    answer = client.post("/ivmixed/v1/plan", json=request_)
    assert answer.status_code == 422
    detail, = answer.json()["detail"]
    assert detail["loc"] == ["body", *place] and detail["msg"].startswith(words)


@pytest.mark.parametrize("request_, field", [
    ({"steps": 0}, "steps"), ({"steps": 1001}, "steps"), ({"denoising_strength": 1.5}, "denoising_strength"),
    ({"options": 3}, "options"), ({"frames": 0}, "frames"),
])
def test_a_number_out_of_range_is_refused(client, request_, field):
    answer = client.post("/ivmixed/v1/plan", json=request_)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]


@pytest.mark.parametrize("body, place, words", [
    ('{"steps": 1' + "0" * 400 + "}", [], "too large"), ('{"steps": 1' + "0" * 5000 + "}", [], "too large"),
    ('{"sigmas": [1' + "0" * 400 + ", 1]}", [], "too large"), ('{"sigmas": [NaN, 1]}', [], "NaN"),
    ('{"options": {"z_percent": 1e999}}', [], "too large"), (r'{"sampler": "\ud800"}', [], "surrogate"),
    ("[" * 200_000, [], "nested too deep"), ("", [], "is no JSON"), ("[]", ["fields"], "an object with field names"),
    ("null", ["fields"], "an object with field names"), ("{" + " " * (2 << 20) + "}", [], "has more than"),
    ('{"step": 5}', ["step"], "step = 5 is no field (did you mean steps?); allowed: steps, sampler"),
    ('{"steps": "25"}', ["steps"], "steps = '25' is not allowed; allowed: a whole number from 1 to 1000"),
    ('{"steps": true}', ["steps"], "steps = True"), ('{"steps": 2.5}', ["steps"], "steps = 2.5"),
    ('{"steps": null}', ["steps"], "steps = None"), ('{"sampler": 5}', ["sampler"], "sampler = 5"),
    ('{"sigmas": [true, 0]}', ["sigmas"], "sigmas = [True, 0]"), ('{"sigmas": 5}', ["sigmas"], "2 to 1001 levels"),
    ('{"options": null}', ["options"], "an object with option names"), ('{"width": 1e300}', ["width"], "8 to 8192"),
])
def test_a_body_that_is_none_is_refused_in_words(client, body, place, words):
    answer = client.post("/ivmixed/v1/plan", content=body)
    assert answer.status_code == 422
    detail, = answer.json()["detail"]
    assert detail["loc"] == ["body", *place] and words in detail["msg"]
    assert_in_words(detail["msg"])


@pytest.mark.parametrize("request_, words", [
    ({"sigmas": list(range(16_000, -1, -1))}, "2 to 1001 levels of noise"),
    ({"options": {"gamma_go": [[k / 1000, 1] for k in range(10**5 // 3)]}}, "at most 1000 keyframes"),
    ({"options": {"gamma_go": "0=1 " * 10**5}}, "has 400000 characters"),
    ({"options": {"form": "x" * 10**5}}, "two of I, V, R"),
])
def test_small_requests_for_endless_work_are_refused(client, request_, words):
    answer = client.post("/ivmixed/v1/plan", json=request_)
    assert answer.status_code == 422 and words in answer.text and len(answer.text) < 1000


@settings(max_examples=40)
@given(hostile.texts(["steps", "sampler", "scheduler", "sigmas", "options", "frames", "width", "denoising_strength",
                      "form", "gamma_go", "rho"]))
def test_any_body_is_answered(client, body):
    answer = client.post("/ivmixed/v1/plan", content=body)
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        assert_in_words(answer.json()["detail"][0]["msg"])


def test_the_hosts_documents_say_what_a_plan_may_be_asked(client):
    asked = client.get("/openapi.json").json()["paths"]["/ivmixed/v1/plan"]["post"]["requestBody"]
    properties = asked["content"]["application/json"]["schema"]["properties"]
    assert list(properties) == ["steps", "sampler", "scheduler", "denoising_strength", "frames", "width", "height",
                                "free_init", "video_table", "sigmas", "options"]
    assert (properties["steps"]["minimum"], properties["steps"]["maximum"]) == (1, 1000)


@pytest.mark.parametrize("name, table", [
    ("animatediff", Schedule.linear()), ("modelscope", Schedule.scaled_linear()),
    ("videocrafter2", Schedule.videocrafter2())])
def test_the_plan_may_be_another_video_models(client, name, table):
    """With the levels of its own table, as `ivmixed.standalone` has them; no clip of it was timed here."""
    made = plan(client, video_table=name, steps=9, options={"finish_percent": 30}, frames=16, width=512, height=320)
    expected = plan_of(table, Schedule.scaled_linear(), 9, Options(finish_percent=30))
    assert made["description"] == expected.describe()
    assert name == "animatediff" or made["cost"]["seconds"] is None
    for level in ("sigma", "sigma_from", "sigma_to"):
        levels = [getattr(move, level) for move in expected.moves]
        assert [move[level] for move in made["moves"]] == pytest.approx(levels, rel=1e-4)
    karras = plan(client, video_table=name, steps=9, scheduler="Karras")["moves"]
    assert karras[0]["sigma_from"] == pytest.approx(table.sigma_max, rel=1e-5)


# --- presets

def test_presets_are_those_of_the_samplers_own_moves(client):
    given = client.get("/ivmixed/v1/presets").json()
    assert [preset["name"] for preset in given] == [
        "paper", "fast", "balanced", "quality", "paper-videocrafter", "distilled", "plain"]
    assert [preset["cfg_scale"] for preset in given] == [7.5, None, None, None, 9.0, 1.0, None]
    assert [WebUIOptions.from_dict(preset["options"]) for preset in given] == [
        PRESETS[preset["name"]].options for preset in given]
    assert not any(preset["own"] for preset in given)


def test_own_presets_follow(host, client):
    presets = host.module("presets")
    presets.save("mine", WebUIOptions(gamma_go=6), 5.0)
    try:
        last = client.get("/ivmixed/v1/presets").json()[-1]
        assert last == {"name": "mine", "own": True, "help": "", "cfg_scale": 5.0,
                        "options": WebUIOptions(gamma_go=6).to_dict()}
    finally:
        presets.delete("mine")


# --- cost

def test_cost_of_plans():
    sigmas = [8.0, 4.0, 2.0, 1.0, 0.0]
    assert work(make_plan(Options(interval=(0, 0)), sigmas)) == 4
    assert times_plain(make_plan(Options(interval=(0, 0)), sigmas)) == 1
    full = make_plan(Options(), sigmas)
    assert work(full) == full.count("video") + WHOLE["image"] * full.count("image")
    reused = make_plan(Options(reuse_percent=50, reused="features"), sigmas)
    outer = [move.model for move in reused.moves if move.reuse]
    whole = [move.model for move in reused.moves if not move.reuse]
    assert work(reused) == pytest.approx(sum(OUTER[model] for model in outer) + sum(WHOLE[model] for model in whole))
    assert work(make_plan(Options(reuse_percent=50), sigmas)) < work(reused) < work(full)
    small = make_plan(Options(image_size=(256, 128)), sigmas)
    assert work(small, (64, 64)) == small.count("video") + WHOLE["image"] * small.count("image") / 8
    assert work(small) == work(full) == work(full, (64, 64))


# --- time

def test_the_time_is_estimated_from_the_latest_clip(host, client):
    request = {"steps": 20, "frames": 16, "width": 512, "height": 512}
    store = host.module("timing")._store
    store.path.unlink(missing_ok=True)
    assert plan(client, **request)["cost"]["seconds"] is None
    made = host.module("preview").plan_of(Options(interval=(0, 0)), 10)
    host.module("timing").note(host.model, made, 16, 512, 512, 20.0)
    plain = {**request, "options": {"interval": [0, 0]}}
    assert plan(client, **plain)["cost"]["seconds"] == pytest.approx(40)
    assert plan(client, **{**plain, "frames": 8, "width": 256})["cost"]["seconds"] == pytest.approx(10)
    ratio = plan(client, **request)["cost"]["seconds"] / 40
    assert ratio == pytest.approx(plan(client, **request)["cost"]["times_plain"], abs=0.01)
    assert plan(client, steps=20)["cost"]["seconds"] is None
    host.run(host.clip(frames=4, context=4))
    (circumstances, noted), = store.read().items()
    assert circumstances == "SD 1.5, cpu, float32"
    assert (noted["frames"], noted["width"], noted["height"]) == (4, 32, 32)
    assert noted["work"] == pytest.approx(sum(WHOLE[move.model] for move in host.module("preview").plan_of(
        Options(), 4).moves))
    assert 0 < noted["seconds"] < 60
    host.run(host.still())
    assert store.read() == {circumstances: noted}
    flat = {"seconds": 1, "work": 0, "frames": 1, "width": 1, "height": 1}
    for broken in ("{}", "[", json.dumps(flat), json.dumps({circumstances: flat}), "[]"):
        store.path.write_text(broken)
        assert plan(client, **request)["cost"]["seconds"] is None
    store.path.unlink()


@pytest.mark.parametrize("change", ["kind", "device", "precision", "chosen"])
def test_the_time_of_another_kind_of_clip_is_no_estimate(host, client, monkeypatch, change):
    request = {"steps": 20, "frames": 16, "width": 512, "height": 512, "options": {"interval": [0, 0]}}
    timing = host.module("timing")
    store, made = timing._store, host.module("preview").plan_of(Options(interval=(0, 0)), 20)
    store.path.unlink(missing_ok=True)
    timing.note(host.model, made, 16, 512, 512, 20.0)
    assert plan(client, **request)["cost"]["seconds"] == pytest.approx(20)
    with monkeypatch.context() as patch:
        if change == "kind":
            patch.setattr(host.model, "is_sd1", False)
            patch.setattr(host.model, "is_sdxl", True)
        elif change == "device":
            patch.setattr(timing.devices, "device", "meta")
        elif change == "precision":
            host.model.model.diffusion_model.half()
        else:  # and not loaded yet, as on Forge main
            patch.setattr(host.shared.opts, "sd_model_checkpoint", "other")
            patch.setitem(host.sd_models.checkpoint_aliases, "other", SimpleNamespace(filename="other.safetensors"))
        assert plan(client, **request)["cost"]["seconds"] is None
        if change != "chosen":
            timing.note(host.model, made, 16, 512, 512, 7.0)
            assert plan(client, **request)["cost"]["seconds"] == pytest.approx(7)
    host.model.model.diffusion_model.float()
    assert plan(client, **request)["cost"]["seconds"] == pytest.approx(20)
    store.path.unlink()
