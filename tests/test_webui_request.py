"""What is kept with a request of the host: what a copy of it gets, what begins anew, what is put back."""
import copy
import gc
import weakref

import pytest
import torch

from .host import NAME, loaded
from .host.forge_host import loaded_forge

SMALL = {"frames": 4, "context": 4, "steps": 3}


@pytest.fixture(scope="module")
def host():
    with loaded() as host:
        yield host


@pytest.fixture
def p(host):
    return host.clip(**SMALL)


def test_a_request_has_one_and_a_copy_its_own(host, p):
    of = host.module("request").of
    kept, other = of(p), copy.copy(p)
    assert of(p) is kept and kept.p is p
    assert other.iv_mixed is kept, "this is what a copy shares"
    assert of(other) is not kept and of(other).p is other
    assert of(other) is of(other) and of(p) is kept


def test_a_copy_belongs_to_the_run_and_has_the_options_of_the_cell(host, p):
    of, run = host.module("request").of, object()
    of(p).script_run = run
    of(p).cell["rho"] = 3.0
    cell = copy.copy(p)
    of(cell).cell["gamma_go"] = 6.0
    last = copy.copy(cell)
    assert of(last).script_run is run and of(last).cell == {"rho": 3.0, "gamma_go": 6.0}
    assert of(p).cell == {"rho": 3.0}


def test_a_copy_has_nothing_that_was_made_for_the_other(host, p):
    of = host.module("request").of
    kept = of(p)
    kept.clip = kept.image_model = object()
    kept.noise_tables, kept.frames, kept.asks_video = [(object(), "sigmas", torch.zeros(1))], [], False
    kept.sampled = host.module("request").Sampled(1, 2, 3.0)
    cell = of(copy.copy(p))
    fresh = of(host.clip(**SMALL))
    for name in ("clip", "image_model", "noise_tables", "frames", "asks_video", "sampled"):
        assert getattr(cell, name) == getattr(fresh, name) != getattr(kept, name)


def test_a_copy_of_a_changed_request_can_be_put_back_and_the_other_stays_changed(host, p):
    of = host.module("request").of
    of(p).change(steps=9, sample=print)
    cell = copy.copy(p)
    of(cell).restore()
    assert (cell.steps, cell.sample.__self__) == (3, cell)
    assert (p.steps, p.sample) == (9, print)
    of(p).restore()
    assert (p.steps, p.sample.__self__) == (3, p)


def test_a_request_that_was_finished_can_be_asked_again_and_copied(host, p):
    """Loopback asks with one request many times, and other scripts with copies of one that was made."""
    first = host.run(p)
    assert {"sample", "close"}.isdisjoint(vars(p))
    cell = copy.copy(p)
    cell.seed = 5
    other = host.run(cell)
    assert torch.equal(host.run(p), first)
    assert torch.equal(host.run(host.clip(seed=5, **SMALL)), other) and not torch.equal(first, other)


def test_a_request_is_not_kept_alive(host):
    p = host.clip(**SMALL)
    host.module("request").of(p)
    alive = weakref.ref(p)
    del p
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("kind", ["a1111", "forge_previous"])
def test_an_error_after_the_sampling_is_put_back_when_the_request_is_closed(kind, monkeypatch):
    with loaded() if kind == "a1111" else loaded_forge(kind) as host:
        failed, found = [], host.module("hosts").find()
        monkeypatch.setattr(type(found), "failed", lambda self, p: failed.append(p))
        p = host.clip(NAME, **SMALL)
        host.run(p)
        p.close()
        assert failed == []
        host.runner.before_process(p)
        host.runner.process(p)
        p.close()
        assert failed == [p]
