"""The folder of finished clips: each there whole and once, whoever else is writing to it.

A clip is written in a hidden folder beside its place, on the disk before it is linked to its name, and never over a
file that is there. Its sidecar comes last: a clip with a sidecar is finished. The sidecar has, beside the settings,
``batch``: the identity, the file, evaluations and seconds.

Whoever makes a clip holds a lock on a hidden file meanwhile, so that another run on the folder makes another clip. The
system takes the lock from a process that ends, however it ends. Nothing else rests on locks: on a disk that has none
two runs may make the same clip, and one of them is kept.
"""
from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]

from ...clips import media
from ...clips.encode import MediaError
from ...untrusted import JsonError, Refusal, parse_object, shown
from ..pipeline import Clip
from .jobs import Job

HIDDEN = ".ivmixed-batch-"
_OLD = 24 * 3600  # seconds after which a hidden folder of another machine belongs to nobody
_LOCK = ".lock"  # after HIDDEN and the longest name of a clip: 255 bytes
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class NameTaken(Refusal):
    """Another clip has the name."""


def is_done(folder: Path, job: Job) -> bool:
    """Whether the clip of a job is there. Raises NameTaken where a file has its name that is not this clip."""
    clip, sidecar = folder / job.clip, folder / job.sidecar
    if not clip.exists():
        return False
    if not sidecar.exists():
        if clip.stat().st_size == 0:  # a name that was being taken where there are no links, see `_link`
            return False
        return _is_unfinished(clip, job)
    found = record(sidecar)
    if found is None or found["batch"].get("identity") != job.identity:
        raise NameTaken(f"{shown(str(clip))} is there, and was made {_otherwise(found, job)}; choose another --out or "
                        "id, or move it away")
    return True


def _otherwise(found: Mapping[str, Any] | None, job: Job) -> str:
    """In which way the clip of a sidecar is another one."""
    if found is None:
        return "by something else than a batch"
    theirs, ours = found["ivmixed"], json.loads(json.dumps(job.settings.to_dict()))
    for name, value in ours.items():
        if name == "size" and value is None:  # the model's own, which the finished clip says
            continue
        if name == "options" and isinstance(theirs.get(name), dict):
            differing = [key for key in value if theirs[name].get(key) != value[key]]
            if differing:
                return (f"with {differing[0]} = {shown(theirs[name].get(differing[0]), 60)}, not "
                        f"{shown(value[differing[0]], 60)}")
        elif theirs.get(name) != value:
            return f"with {name} = {shown(theirs.get(name), 60)}, not {shown(value, 60)}"
    return "with other model files, or by another version of ivmixed"


def _is_unfinished(clip: Path, job: Job) -> bool:
    """Whether a clip without a sidecar is that of the job: whoever made it was stopped in between. Raises NameTaken."""
    try:
        own = media.read_settings(clip)
    except (MediaError, JsonError):
        own = {}
    wanted = media.without_folders(job.settings.to_dict())
    if own and {**wanted, "size": wanted["size"] or own.get("size")} == own:
        return False
    raise NameTaken(f"{shown(str(clip))} is there, and is not of this batch; choose another --out or id, or move it "
                    "away")


def publish(folder: Path, job: Job, clip: Clip, facts: Mapping[str, Any]) -> bool:
    """Puts a finished clip into its place; False where another run was first.

    ``facts``: what the sidecar says of the making. Raises MediaError: it cannot be written; NameTaken.
    """
    place = folder / job.clip
    try:
        with hidden(place.parent) as own:
            made, sidecar = media.write_clip(own / place.name, clip.frames, clip.fps, clip.settings)
            said = json.loads(sidecar.read_text("utf-8"))
            said["batch"] = {"identity": job.identity, "clip": job.clip, **facts}
            with sidecar.open("w", encoding="utf-8") as file:
                json.dump(said, file, ensure_ascii=False, indent=2)
                file.flush()
                os.fsync(file.fileno())
            first = _link(made, place)
            if not first and is_done(folder, job):
                return False
            if first:
                os.replace(sidecar, folder / job.sidecar)  # one that is there is of a clip that somebody deleted
            else:
                _link(sidecar, folder / job.sidecar)
            _sync((folder / job.sidecar).parent)
            return first
    except OSError as error:
        raise MediaError(f"{shown(str(place))} could not be written: {error.strerror or error}") from error


def _link(file: Path, place: Path) -> bool:
    """The file under a name that nothing has; False where something has it."""
    try:
        os.link(file, place)
    except FileExistsError:
        if place.stat().st_size:
            return False
        os.replace(file, place)  # a name that was taken by one that is gone, see below
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:  # a disk without links: the name is taken first
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            if place.stat().st_size:
                return False
        os.replace(file, place)
    _sync(place.parent)
    return True


def _sync(folder: Path) -> None:
    """The names in a folder are on the disk, where the system can say so."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


# --- clips that are being made

@contextmanager
def claimed(folder: Path, job: Job, wait: bool) -> Iterator[bool]:
    """Whether the clip of a job is this process's to make for now; it is not while another process is at it.

    ``wait``: until that one has made it, or has ended. Always true on a disk, or a system, without locks.
    """
    place = folder / job.clip
    lock = place.with_name(f"{HIDDEN}{place.name}{_LOCK}")
    try:
        opened = _locked(lock, wait)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        _unlock(lock, opened)


def _locked(lock: Path, wait: bool) -> int | None:
    """The file, opened and locked; None where it cannot be. Raises BlockingIOError: another process has it."""
    while fcntl is not None:
        try:
            opened = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError:  # whatever it is, it is said of the clip when that is written
            return None
        try:
            fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(opened), lock.stat()):
                return opened
        except BlockingIOError:
            os.close(opened)
            raise
        except FileNotFoundError:
            pass
        except OSError:
            _unlock(lock, opened)
            return None
        os.close(opened)  # whoever had it has removed it meanwhile
    return None


def _unlock(lock: Path, opened: int | None) -> None:
    if opened is not None:
        with suppress(OSError):
            lock.unlink()  # before the lock is given back: what is there then is another one's
        os.close(opened)


# --- hidden files and folders

@contextmanager
def hidden(folder: Path) -> Iterator[Path]:
    """A folder for what is being written; its name says whose it is."""
    prefix = f"{HIDDEN}{_host()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True) as made:
        yield Path(made)


def _host() -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())[:60]


def sweep(folder: Path) -> None:
    """Removes what those left who were killed while they wrote, anywhere in the folder."""
    with suppress(OSError):
        for found in list(folder.rglob(HIDDEN + "*")):
            if found.name.endswith(_LOCK):
                with suppress(BlockingIOError):
                    _unlock(found, _locked(found, wait=False))
            elif _is_left(found):
                shutil.rmtree(found, ignore_errors=True)


def _is_left(found: Path) -> bool:
    host, _, rest = found.name.removeprefix(HIDDEN).rpartition("-")[0].rpartition("-")
    if os.name == "posix" and host == _host() and rest.isdigit():
        try:
            os.kill(int(rest), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
        return False
    with suppress(OSError):
        return time.time() - found.stat().st_mtime > _OLD
    return False


# --- sidecars

def record(sidecar: Path) -> dict[str, Any] | None:
    """What a sidecar of a batch says: ``ivmixed``, its settings, and ``batch``; None for any other file."""
    try:
        values = parse_object(sidecar.read_bytes())
    except (OSError, JsonError):
        return None
    whole = isinstance(values.get("ivmixed"), dict) and isinstance(values.get("batch"), dict)
    return values if whole else None


def records(folder: Path) -> list[dict[str, Any]]:
    """What the sidecars of all clips say that are anywhere in the folder, by the clips' names."""
    found = (record(sidecar) for sidecar in folder.rglob("*.json"))
    return sorted((one for one in found if one is not None), key=lambda one: str(one["batch"].get("clip")))


def make_folders(folder: Path, jobs: Sequence[Job]) -> None:
    """Makes the folders of clips and sidecars. Raises Refusal where a clip could not be written, before anything is
    computed."""
    clips = {os.path.dirname(job.clip) for job in jobs}
    try:
        for name in {*clips, *(os.path.dirname(job.sidecar) for job in jobs)}:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"out = {shown(str(folder))} is no folder that can be written to: "
                      f"{shown(str(error.filename or ''))}: {error.strerror}") from None
    for (_, fps), job in {(os.path.dirname(job.clip), _fps(job)): job for job in jobs}.items():
        media.check_out(folder / job.clip, fps, job.settings.to_dict())


def _fps(job: Job) -> float:
    return job.settings.playback_fps or job.settings.fps or Clip.fps
