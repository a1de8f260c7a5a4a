"""Many clips on Ray: two logical GPUs on this machine's CPU, real processes, real kills."""
from __future__ import annotations

import contextlib
import functools
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from ivmixed.standalone.batch.engine import EngineError, OnRay

from .test_batch import SMALL, batch, files, held, no_leftovers, prepared, rows_file, started, wait_for
from .workers import Doubler, stillborn

ROWS = [{"prompt": "a red circle turns", "id": "x", "count": 3}]


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


WAITING = """
import functools, pathlib, sys
from ivmixed.standalone.batch.engine import OnRay
from tests.workers import Waiter

try:
    with OnRay(2) as pool:
        list(pool.run(range(4), functools.partial(Waiter, pathlib.Path(sys.argv[1]))))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_actors_end_with_their_driver(tmp_path, sent, code):
    """Both are at a task, which is never done, when the driver is told to stop, or is killed."""
    process = started(WAITING, tmp_path)
    wait_for(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists(), process)
    actors = [psutil.Process(int((tmp_path / name).read_text())) for name in "12"]
    process.send_signal(sent)
    _, error = process.communicate()
    assert process.returncode == code, error
    _, alive = psutil.wait_procs(actors, timeout=60)
    assert not alive and not (tmp_path / "3").exists()


def test_a_killed_actor_costs_nothing_but_time(capsys, tmp_path):
    """The last clip is held until the actor that is at it is killed, or another one that is at its end."""
    rows, serial, out = rows_file(tmp_path, ROWS), tmp_path / "serial", tmp_path / "out"
    assert batch(capsys, rows, "--out", serial, *SMALL)[0] == 0
    ended = threading.Event()

    def kill_one():
        for actor in children(what="ray::_Actor.run"):
            actor.kill()
            return True
        return False

    def kill():
        with last:
            wait_for(lambda: ended.is_set() or (len(list(out.glob("x-*.json"))) == 2 and kill_one()))
        return not ended.is_set()

    with ThreadPoolExecutor() as threads, held(out, prepared(tmp_path, rows)[-1]) as last:
        killed = threads.submit(kill)
        try:
            code, said, error = batch(capsys, rows, "--out", out, *SMALL, "--workers", 2)
        finally:
            ended.set()
    assert killed.result()
    assert code == 0, error
    assert re.search("3 of 3 clips are there, [23] made now", said)
    assert files(out) == files(serial)
    no_leftovers(out)


def test_wrong_flags_of_the_engine_are_refused(capsys, tmp_path):
    rows = rows_file(tmp_path, ROWS)
    for flag, value in (
            ("--workers", "0"), ("--workers", "x"), ("--retries", "-1"), ("--address", "127.0.0.1:1")):
        code, _, error = batch(capsys, rows, "--out", tmp_path / "out", *SMALL, flag, value)
        assert code == 2 and f"{flag[2:]} = '{value}'" in error
