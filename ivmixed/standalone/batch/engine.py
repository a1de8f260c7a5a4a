"""Work on one device or many: in this process, or by actors of Ray, one on each GPU.

Ray has the queues, places the actors and watches them; here is only what it leaves to its users: which task an actor
gets next, and that the task of a lost actor is done again. A task that raises is not: what it raises is the caller's.
"""
from __future__ import annotations

import logging
import os
import re
import socket
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ... import __version__
from ...options import OptionError
from ...untrusted import Refusal

Task = TypeVar("Task")
Found = TypeVar("Found")
Worker = Callable[[Task], Found]

_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for machines that may be part of a cluster. Where it is off, all listens at 127.0.0.1. To give that to
`ray.init` as the node's address does not help: it is resolved to the machine's own (Ray 2.50 to 2.60)."""
_STORE = 100 << 20  # bytes of Ray's object store: tasks and results are small


class Lost(RuntimeError):
    """A worker's device is of no use any more: the task is to be done by another worker."""


class EngineError(RuntimeError):
    """No worker could be started. The message is one line."""


@dataclass(frozen=True)
class Done(Generic[Task, Found]):
    """A task that came to an end. ``result`` is None where every worker that tried it was lost; ``tries``: how many."""

    task: Task
    result: Found | None
    tries: int = 1
    lost: str = ""


Work = Generator[Done[Task, Found], None, None]
"""To be closed by whoever leaves it before its end."""


class InProcess:
    """One worker, in this process."""

    workers = 1

    def run(self, tasks: Sequence[Task], factory: Callable[[], Worker[Task, Found]]) -> Work[Task, Found]:
        """Yields each task when it is done, in the order of ``tasks``. A list may get more of them meanwhile."""
        worker = factory()
        for task in tasks:
            try:
                yield Done(task, worker(task))
            except Lost as error:
                yield Done(task, None, lost=str(error))
                raise EngineError(f"the device is of no use any more: {error}") from error


class OnRay:
    """Actors of Ray, one on each GPU. A context manager: Ray begins and ends with it.

    ``workers``: how many, or None for all GPUs. ``address``: of a running cluster; without it Ray starts on this
    machine, within it alone (127.0.0.1), with ``workers`` logical GPUs. ``retries``: how often a task is done again
    when its actor was lost. Raises ModuleNotFoundError without Ray, OptionError where the cluster cannot be joined or
    has not as many GPUs, EngineError where Ray cannot be started.
    """

    def __init__(self, workers: int | None = None, address: str | None = None, retries: int = 2):
        if address is None:  # before Ray is imported, which reads it then; on Linux it would listen to the network
            os.environ[_LOOPBACK] = "0"
        import ray  # at once, so that it is said before anything else where it is missing

        self._ray, self._address, self.retries = ray, address, retries
        self._wanted = workers
        self.workers = workers or 1
        self._quiet = redirect_stdout(sys.stderr)  # Ray prints what it has to say, and results go to standard output

    def __enter__(self) -> OnRay:
        with ExitStack() as undone:
            undone.enter_context(self._quiet)
            self._join()
            undone.pop_all()
        return self

    def _join(self) -> None:
        ray = self._ray
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a hint on a coming release
            if self._address is None:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
                try:
                    ray.init(address="local", num_gpus=self.workers, include_dashboard=False, log_to_driver=False,
                             logging_level=logging.WARNING, object_store_memory=_STORE)
                except Exception as error:  # of any kind: Ray raises plain ones
                    raise EngineError(f"Ray could not be started ({_why(error)}); --workers 1 does without") from error
                if ray.util.get_node_ip_address() != "127.0.0.1":
                    ray.shutdown()
                    raise EngineError("Ray would listen to the network: it was imported by something else before")
                return
            _check_reachable(self._address)
            try:
                ray.init(address=self._address, log_to_driver=False, logging_level=logging.WARNING)
            except (ConnectionError, ValueError, RuntimeError) as error:
                problem = " ".join(str(error).split())[:200]
                raise OptionError("address", self._address, "auto, or the address of a running Ray cluster",
                                  f"cannot be joined ({problem})") from None
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if not 1 <= (self._wanted or gpus) <= gpus:
            ray.shutdown()
            raise OptionError("workers", self._wanted, f"1 to {gpus}, the GPUs of the cluster")
        self.workers = self._wanted or gpus

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()
        self._quiet.__exit__(None, None, None)

    def ask(self, question: Callable[[str], Found], about: str) -> Found:
        """The answer of one of the machines that have a GPU; ``question`` is a function."""
        answer: Found = self._ray.get(self._ray.remote(num_gpus=1)(question).remote(about))
        return answer

    def run(self, tasks: Sequence[Task], factory: Callable[[], Worker[Task, Found]]) -> Work[Task, Found]:
        """Yields each task when it is done. A list of tasks may get more of them meanwhile. Raises EngineError where no
        worker begins, Refusal for one of another version of this package."""
        ray = self._ray
        start = ray.remote(num_gpus=1, num_cpus=0)(_Actor).remote
        known = len(tasks)
        waiting = deque((task, 1) for task in tasks)
        busy: dict[Any, tuple[Any, tuple[Task, int] | None]] = {}  # a reference to what an actor is at: None begins
        idle: list[Any] = []
        stillborn = 0

        def begin() -> None:
            actor = start(factory)
            busy[actor.about.remote()] = actor, None

        for _ in range(min(self.workers, known)):
            begin()
        left = known
        try:
            while left:
                (reference,), _ = ray.wait(list(busy))
                actor, given = busy.pop(reference)
                try:
                    result = ray.get(reference)
                except (ray.exceptions.RayActorError, Lost) as error:
                    ray.kill(actor)
                    if given is None:
                        stillborn += 1
                        if stillborn > self.workers + self.retries:
                            raise EngineError(f"workers end before they begin: {_why(error)}") from error
                    elif given[1] <= self.retries:
                        waiting.appendleft((given[0], given[1] + 1))
                    else:
                        left -= 1
                        yield Done(given[0], None, given[1], _why(error))
                    if len(waiting) > len(idle):
                        begin()
                else:
                    if given is None:
                        _check_version(*result)
                    else:
                        left -= 1
                        yield Done(given[0], result, given[1])
                    idle.append(actor)
                added = tasks[known:]
                waiting.extend((task, 1) for task in added)
                known, left = known + len(added), left + len(added)
                while idle and waiting:
                    actor, given = idle.pop(), waiting.popleft()
                    busy[actor.run.remote(given[0])] = actor, given
        finally:
            actors = [*idle, *(actor for actor, _ in busy.values())]
            for actor in actors:
                ray.kill(actor)
            for actor in actors:  # gone, and with it what it held in a folder
                with suppress(Exception):
                    ray.get(actor.about.remote(), timeout=10)


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, factory: Callable[[], Worker[Any, Any]]):
        self._worker = factory()

    def about(self) -> tuple[str, str]:
        return __version__, socket.gethostname()

    def run(self, task: Any) -> Any:
        return self._worker(task)


def _check_reachable(address: str) -> None:
    """Ray tries for minutes before it says that nobody is there."""
    match = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:([0-9]{1,5})", address)
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise OptionError("address", address, "auto, or the address of a running Ray cluster",
                          f"cannot be reached ({problem})") from None


def _check_version(version: str, machine: str) -> None:
    if version != __version__:
        raise Refusal(f"{machine} has ivmixed {version}, and this machine {__version__}: install one version on all")


def _why(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def engine(
    workers: int | None, address: str | None = None, retries: int = 2,
) -> AbstractContextManager[InProcess | OnRay]:
    """What does the work: this process where one worker does on this machine, else Ray. Arguments and errors as of
    `OnRay`."""
    if address is None and workers == 1:
        return nullcontext(InProcess())
    return OnRay(workers, address, retries)
