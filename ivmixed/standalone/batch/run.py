"""Makes what is missing of a batch, and keeps account: failures, progress, the page of clips."""
from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ...untrusted import Refusal
from . import store
from .engine import Done, EngineError, InProcess, OnRay, Work
from .index import write_index
from .jobs import Job
from .progress import Progress, duration
from .rows import RowsError, plain
from .worker import ClipWorker, Result, Task


@dataclass
class Summary:
    """What came of a batch, in clips."""

    clips: int
    there: int
    """Finished, now or before."""
    made: int = 0
    """By this run."""
    failed: int = 0
    stopped: str = ""
    """Why the run ended before its end."""
    failures: str | None = None
    """The file that lists them."""
    index: str | None = None
    """The page of all clips."""

    def describe(self) -> str:
        """In one line."""
        said = f"{self.there} of {self.clips} clips are there, {self.made} made now"
        said += f", {self.failed} failed (see {self.failures})" if self.failed else ""
        left = self.clips - self.there - self.failed
        return said + (f", {left} not tried: {self.stopped}" if left else "")


def missing(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The jobs whose clips are not there. Raises RowsError where other clips have their names."""
    left, problems = [], []
    for job in jobs:
        try:
            if not store.is_done(folder, job):
                left.append(job)
        except Refusal as error:
            problems.append(f"{job.where}: {plain(error)}")
    if problems:
        raise RowsError(problems)
    return left


def plan(jobs: Sequence[Job], folder: Path, workers: int) -> dict[str, float | None]:
    """What a batch costs: ``clips``, those ``there``, ``evaluations`` that are left, and ``seconds`` that these take
    ``workers``, from the clips of this folder; None where there are none yet."""
    left = missing(jobs, folder)
    known = [found["batch"] for found in store.records(folder)]
    timed = [(made["evaluations"], made["seconds"]) for made in known
             if all(isinstance(made.get(name), (int, float)) for name in ("evaluations", "seconds"))]
    evaluations, seconds = sum(job.evaluations for job in left), None
    if sum(count for count, _ in timed) > 0:
        seconds = evaluations * sum(took for _, took in timed) / sum(count for count, _ in timed)
        seconds /= max(1, min(workers, len(left)))
    return {"clips": len(jobs), "there": len(jobs) - len(left), "evaluations": evaluations, "workers": workers,
            "seconds": seconds}


def describe(cost: Mapping[str, float | None]) -> str:
    """A plan in one line."""
    time = "the time is known when the first clip is made" if cost["seconds"] is None else (
        f"about {duration(cost['seconds'])}")
    return (f"{cost['clips']} clips, {cost['there']} of them there, {cost['evaluations']} evaluations left, "
            f"{cost['workers']} at once: {time}")


def make(
    jobs: Sequence[Job], folder: Path, engine: AbstractContextManager[InProcess | OnRay], *, device: str = "auto",
    memory: Mapping[str, bool] | None = None, part: str = "", quiet: bool = False,
) -> Summary:
    """Makes the clips that are missing in ``folder``.

    ``engine``: see `engine.engine`; it is entered only where there is something to do. ``device``, ``memory``: those of
    `ClipWorker`. ``part``: the shard, which has a list of failures of its own. Raises RowsError and Refusal before the
    first evaluation; KeyboardInterrupt leaves all that is finished, and nothing else.
    """
    left = missing(jobs, folder)
    store.make_folders(folder, jobs)
    store.sweep(folder)
    summary = Summary(len(jobs), len(jobs) - len(left))
    failures = _Failures(folder / (f"failures-{part.replace('/', '-of-')}.jsonl" if part else "failures.jsonl"))
    try:
        if left:
            with engine as pool:
                progress = Progress(len(left), sum(job.evaluations for job in left), pool.workers, quiet=quiet)
                factory = functools.partial(ClipWorker, folder.absolute(), device, memory)
                tasks = [Task(job) for job in left]
                with closing(progress), closing(pool.run(tasks, factory)) as work:
                    _follow(work, tasks, summary, progress, failures)
    except EngineError as error:
        summary.stopped = str(error)
    finally:
        store.sweep(folder)
        page = write_index(folder, store.records(folder))
        summary.index = str(page) if page else None
        summary.failures = str(failures.path) if summary.failed else None
    return summary


def _follow(work: Work[Task, Result], tasks: list[Task], summary: Summary, progress: Progress,
            failures: _Failures) -> None:
    """Keeps account of what is done. What another run is at comes once more, after all that nobody is at."""
    for done in work:
        job, result = done.task.job, _result(done)
        if result.status == "claimed":
            tasks.append(Task(job, wait=True))
            continue
        if result.is_there:
            summary.there += 1
            summary.made += result.status == "made"
        else:
            summary.failed += 1
            failures.add(job, result, done.tries)
        progress.update(job.evaluations, made=result.status == "made", failed=not result.is_there)
        if result.status == "unwritable":
            summary.stopped = result.message
            return


def _result(done: Done[Task, Result]) -> Result:
    return done.result or Result(
        "failed", message=f"its worker was lost {done.tries} times, killed or out of memory ({done.lost})")


class _Failures:
    """The list of failures: a line of JSON each, written at once. There is no file where there is no failure."""

    def __init__(self, path: Path):
        self.path = path
        with suppress(OSError):
            path.unlink()

    def add(self, job: Job, result: Result, tries: int) -> None:
        row = {"row": job.where, "clip": job.clip, "field": result.field, "message": result.message, "tries": tries}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError:  # the disk may be what failed
            print(f"ivmixed: {job.where}: {result.message}", file=sys.stderr)


def as_json(summary: Summary) -> str:
    return json.dumps(asdict(summary))
