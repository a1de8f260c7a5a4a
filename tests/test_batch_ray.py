"""Many clips on Ray: two logical GPUs on this machine's CPU, real processes, real kills."""
from __future__ import annotations

import contextlib
import functools
import signal

import psutil
import pytest

from ivmixed.standalone.batch.engine import EngineError, OnRay
from ivmixed.standalone.cli import main

from .test_batch import batch, files, no_leftovers, rows_file, started, wait_for
from .workers import Doubler, stillborn

ROWS = [{"prompt": "a red circle turns", "id": "x", "count": 6}]
SMALL = ["--steps", "6", "--frames", "2", "--device", "cpu", "--quiet"]


def children(process=None, what="ray"):
    """Living descendants whose command line has `what`; a process may end at any time, also while it is asked."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if what in " ".join(child.cmdline()):
                found.append(child)
    return found


def listens_on(process):
    try:
        return {connection.laddr.ip for connection in process.net_connections()
                if connection.status == psutil.CONN_LISTEN}
    except psutil.NoSuchProcess:
        return set()


def test_lost_workers_are_replaced_and_nobody_listens_to_the_network(capsys, tmp_path):
    factory = functools.partial(Doubler, tmp_path)
    with OnRay(2, retries=1) as pool:
        done = list(pool.run([*range(6), 13, 20], factory))
        found = {one.task: one.result and one.result[0] for one in done}
        assert found == {**{k: 2 * k for k in range(6)}, 13: None, 20: 40}
        assert {one.task: one.tries for one in done}[13] == 2  # a retry, and no more
        assert {one.result[1] for one in done if one.result} == {"0", "1"}
        with pytest.raises(ValueError, match="seven"):
            list(pool.run([7], factory))
        with pytest.raises(EngineError, match="end before they begin"):
            list(pool.run([1], stillborn))
        processes = children()
        addresses = set().union(*map(listens_on, processes))
        assert addresses and addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    psutil.wait_procs(processes, timeout=20)
    assert not children()
    assert capsys.readouterr().out == ""  # standard output is for results


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The files of a run in one process."""
    folder = tmp_path_factory.mktemp("serial")
    assert main(["batch", str(rows_file(folder, ROWS)), "--out", str(folder / "out"), *SMALL]) == 0
    return files(folder / "out")


def test_a_killed_actor_costs_nothing_but_time(tmp_path, serial):
    out = tmp_path / "out"
    process = started(rows_file(tmp_path, ROWS), "--out", out, *SMALL, "--workers", 2)
    wait_for(lambda: list(out.glob("x-*.json")), process)
    actor = next(iter(children(process.pid, "ray::_Actor.run")))
    actor.kill()
    said, error = process.communicate()
    assert process.returncode == 0, error
    assert "6 of 6 clips are there, 6 made now" in said
    assert files(out) == serial
    no_leftovers(out)


def test_a_killed_driver_is_gone_on_with(capsys, tmp_path, serial):
    rows, out = rows_file(tmp_path, ROWS), tmp_path / "out"
    process = started(rows, "--out", out, *SMALL, "--workers", 2)
    wait_for(lambda: list(out.glob("x-*.json")), process)
    actors = children(process.pid, "ray::_Actor")
    assert len(actors) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(actors, timeout=60)
    assert not alive
    assert len(list(out.glob("x-*.json"))) < 6
    assert batch(capsys, rows, "--out", out, *SMALL)[0] == 0
    assert files(out) == serial
    no_leftovers(out)


def test_ctrl_c_leaves_nothing_but_finished_clips(tmp_path, serial):
    out = tmp_path / "out"
    process = started(rows_file(tmp_path, ROWS), "--out", out, *SMALL, "--workers", 2)
    wait_for(lambda: list(out.glob("x-*.json")), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and "and the same command makes the others" in error
    made = files(out)
    assert 2 <= len(made) < len(serial) and made == {name: serial[name] for name in made}
    no_leftovers(out)


def test_wrong_flags_of_the_engine_are_refused(capsys, tmp_path):
    rows = rows_file(tmp_path, ROWS)
    for flag, value in (
            ("--workers", "0"), ("--workers", "x"), ("--retries", "-1"), ("--address", "127.0.0.1:1")):
        code, _, error = batch(capsys, rows, "--out", tmp_path / "out", *SMALL, flag, value)
        assert code == 2 and f"{flag[2:]} = '{value}'" in error
