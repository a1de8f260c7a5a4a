"""Tensors out of what ``torch.save`` wrote, with nothing run, whatever the release of PyTorch.

A pickle is a program. `pickletools` takes it apart, and the machine here carries out what builds dictionaries, lists,
texts, numbers and tensors. Nothing that a file names is imported or called: of what is known to be harmless, an empty
stand-in is left, and the rest is refused. `torch.load` is not asked, as before PyTorch 2.6 ``weights_only`` hands
TorchScript archives to their loader.

Both formats are read: a zip archive (PyTorch 1.6 and later), and pickles with the numbers behind them (before). The
numbers stay in the file until they are used. Sources: PyTorch's ``torch/serialization.py`` and ``torch/_utils.py``, and
the names that AUTOMATIC1111 allows in its ``modules/safe.py``.
"""
from __future__ import annotations

import io
import math
import mmap
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..untrusted import shown

MOST_BYTES = 1 << 24
"""Bytes of a file's pickles: those of a whole SD 1.5 training run, with its optimizer, take less than 1 MiB."""
MOST_STEPS = 1 << 20
"""Instructions in them; a tensor takes about 35."""
MOST_VIEWS = 4
"""How often the numbers of a file may be taken by tensors that share them."""

ZIP, LEGACY, TAR = b"PK\x03\x04", b"\x80", b"ustar"
MAGIC = 0x1950A86A20F9469CFC6C
"""What the pickles of the older format begin with."""

MEMBER = re.compile(
    r"data\.pkl|version|byteorder|data/\d+|\.data/serialization_id|\.format_version|\.storage_alignment")
"""What ``torch.save`` puts into an archive, without the name of its folder."""

STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8}
DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}

DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}
REBUILT = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
HARMLESS = re.compile(
    r"(numpy\.(_?core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)|dtype|ndarray|dtypes\.\w+)|_codecs\.encode"
    r"|(builtins|__builtin__)\.(set|frozenset|list|tuple|int|float|bool|str|bytes|complex|slice|range|object)"
    r"|torch\.(Size|device|Tensor|nn\.parameter\.(Parameter|Buffer)|nn\.modules\.container\.ParameterDict"
    r"|torch_version\.TorchVersion)"
    r"|(pytorch_lightning|lightning\.pytorch)\.(callbacks|utilities\.parsing)(\.\w+)*"
    r"|(lightning_fabric|lightning\.fabric)\.utilities\.data\.AttributeDict"
    r"|omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|base\.\w+|nodes\.\w+)|typing\.(Any|List|Dict|Optional|Union)"
    r"|argparse\.Namespace|pathlib\.\w*Path|datetime\.(datetime|date|timedelta|timezone))")
"""What training leaves beside weights: callbacks, settings, numpy's numbers. Stand-ins take their places."""


class PickleError(ValueError):
    """A file is refused. The message is one line that goes on after the file's name."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """What is left of something that is neither text, number, list, dictionary nor tensor."""

    name: str


def load(path: Path, device: str) -> Any:
    """What a file holds, its tensors on "cpu" (mapped from the disk) or "meta".

    Dictionaries keep the entries that have a text for a name. Raises PickleError, and others for damaged files.
    """
    with path.open("rb") as file:
        start = file.read(262)
        if start.startswith(ZIP):
            return _load_zip(file, device)
        if start[257:] == TAR:
            raise PickleError("is a tar archive; save it anew with a PyTorch of this decade")
        if not start.startswith(LEGACY):
            raise PickleError("is damaged or no model file")
        return _load_legacy(file, device)


def _load_zip(file: BinaryIO, device: str) -> Any:
    try:
        members = _members(file)
    except zipfile.BadZipFile as error:
        raise PickleError(f"is damaged or no model file ({shown(str(error))})") from error
    if "data.pkl" not in members:
        raise PickleError("is a zip archive without weights")
    start, size = members["data.pkl"]
    if "byteorder" in members and _part(file, *members["byteorder"], most=16) != b"little":
        raise PickleError("is written for another kind of processor (big-endian)")
    numbers = _Numbers(file, {name[5:]: place for name, place in members.items() if name.startswith("data/")}, device)
    return _Machine(_Stream(_part(file, start, size)), numbers).run()


def _members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where the members of an archive are, and how many bytes they have, by name. Raises PickleError for others than
    ``torch.save`` writes, which compresses none."""
    end = file.seek(0, io.SEEK_END)
    found: dict[str, tuple[int, int]] = {}
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    roots = {entry.filename.partition("/")[0] for entry in entries}
    for entry in entries:
        name = entry.filename.partition("/")[2]
        if name == "constants.pkl" or name.startswith("code/"):
            raise PickleError("is a TorchScript archive, whose code is never run; choose a file of weights alone")
        if len(roots) > 1 or name in found or not MEMBER.fullmatch(name):
            raise PickleError(f"is a zip archive with more than weights ({shown(entry.filename, 100)})")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise PickleError(f"is a compressed zip archive ({shown(entry.filename, 100)}); unpack it, or save it anew")
        file.seek(entry.header_offset)
        head = file.read(30)
        if len(head) < 30 or not head.startswith(ZIP):
            raise PickleError("is damaged or no model file (a member of the archive is not where it should be)")
        start = entry.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:], "little")
        if start + entry.file_size > end:
            raise PickleError("is cut off; download it again")
        found[name] = start, entry.file_size
    return found


def _load_legacy(file: BinaryIO, device: str) -> Any:
    """The older format: three pickles of its kind, that of the contents, that of the names of the storages, and these
    in the same order, each behind its length."""
    end = file.seek(0, io.SEEK_END)
    pickles = _Stream(_part(file, 0, min(end, MOST_BYTES)))
    none = _Numbers(file, {}, "meta")
    if _Machine(pickles, none).run() != MAGIC:
        raise PickleError("is damaged or no model file")
    _Machine(pickles, none).run()
    if (machine := _Machine(pickles, none).run()) and not machine.get("little_endian", True):
        raise PickleError("is written for another kind of processor (big-endian)")
    contents = pickles.tell()
    planned = _Numbers(file, None, "meta")
    found = _Machine(pickles, planned).run()
    keys = _Machine(pickles, none).run()
    place, places = pickles.tell(), {}
    for key in keys:
        count, size = planned.sizes[key]
        if place + 8 + size > end:
            raise PickleError("is cut off; download it again")
        if int.from_bytes(_part(file, place, 8), "little") != count:
            raise PickleError(f"is damaged or no model file (another count of the numbers {shown(key, 100)})")
        places[key] = place + 8, size
        place += 8 + size
    if missing := planned.sizes.keys() - places.keys():
        raise PickleError(f"is damaged or no model file (without the numbers {shown(min(missing), 100)})")
    if device == "meta":
        return found
    pickles.seek(contents)
    return _Machine(pickles, _Numbers(file, places, device)).run()


def _part(file: BinaryIO, start: int, size: int, most: int = MOST_BYTES) -> bytes:
    if size > most:
        raise PickleError(f"is no file of weights (its list of contents has {size} bytes, {most} are allowed)")
    file.seek(start)
    return file.read(size)


class _Numbers:
    """The numbers in a file, which tensors take parts of.

    ``places``: where each storage is and how many bytes it has; None: not known yet.
    """

    def __init__(self, file: BinaryIO, places: Mapping[str, tuple[int, int]] | None, device: str):
        self._file, self._places, self._device = file, places, device
        self._left = MOST_VIEWS * file.seek(0, io.SEEK_END)
        self._map: mmap.mmap | None = None
        self._storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        """How many numbers and how many bytes, of the storages asked for."""

    def storage(self, saved: Any) -> _Storage:
        """What a tensor's persistent id names. Raises PickleError."""
        if not (isinstance(saved, tuple) and len(saved) in (5, 6) and saved[0] == "storage"
                and isinstance(saved[1], StandIn) and isinstance(saved[2], str) and _is_count(saved[4])
                and (len(saved) == 5 or saved[5] is None)):
            raise PickleError("is damaged or no model file (a tensor without numbers)")
        name = saved[1].name.rpartition(".")[2].removesuffix("Storage")
        key, count, dtype = saved[2], saved[4], STORAGES[name]
        size = count * dtype.itemsize
        if self._places is not None and (key not in self._places or self._places[key][1] < size):
            raise PickleError(f"is damaged or no model file (without the numbers {shown(key, 100)})")
        if self.sizes.setdefault(key, (count, size)) != (count, size):
            raise PickleError(f"is damaged or no model file (two sizes of the numbers {shown(key, 100)})")
        return _Storage(key, dtype, size)

    def tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """A view of a storage. Raises PickleError where it claims more than there is."""
        if not (isinstance(storage, _Storage) and _is_count(offset) and isinstance(size, tuple) and len(size) <= 8
                and isinstance(stride, tuple) and len(stride) == len(size) and all(map(_is_count, (*size, *stride)))):
            raise PickleError("is damaged or no model file (a tensor of no shape)")
        dtype = dtype or storage.dtype
        there, count = storage.size // dtype.itemsize, math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride))
        if count > there or (count and last >= there):
            raise PickleError(f"claims more numbers than it holds (a tensor of {shown(list(size), 100)})")
        self._left -= count * dtype.itemsize
        if self._left < 0:
            raise PickleError("claims more numbers than it holds (too many tensors share them)")
        if self._device == "meta":
            return torch.empty_strided(size, stride, dtype=dtype, device="meta")
        if not count:
            return torch.empty(size, dtype=dtype)
        return self._numbers(storage.key, dtype, there).as_strided(size, stride, offset)

    def _numbers(self, key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        """One tensor for a storage, so that what is tied stays so."""
        if (key, dtype) not in self._storages:
            if self._map is None:
                self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
            assert self._places is not None
            self._storages[key, dtype] = torch.frombuffer(
                self._map, dtype=dtype, count=count, offset=self._places[key][0])
        return self._storages[key, dtype]


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    size: int
    """In bytes."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


class _Stream(io.BytesIO):
    """A line of it is a name: read as a number, one of a million digits would take minutes."""

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(1000)


class _Machine:
    """Carries out one pickle. A dictionary is a dict of what has a text for a name, a tensor is one of `numbers`."""

    def __init__(self, pickle: _Stream, numbers: _Numbers):
        self.pickle, self.numbers = pickle, numbers
        self.work = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the pickle describes; the stream stands behind it then. Raises PickleError, and others if damaged."""
        for opcode, argument, _ in pickletools.genops(self.pickle):
            self.count(1)
            if opcode.name == "STOP":
                break
            if opcode.name in _LITERALS:
                self.stack.append(_LITERALS[opcode.name] if argument is None else argument)
            else:
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise PickleError(f"is damaged or no model file ({opcode.name})")
                step(self, argument)
        return self.stack.pop()

    def count(self, work: int) -> None:
        self.work += work
        if self.work > MOST_STEPS:
            raise PickleError(f"is no file of weights (its list of contents has more than {MOST_STEPS} entries)")

    def marked(self) -> list[Any]:
        """What lies on the stack since the latest mark, taken off."""
        place = self.marks.pop()
        taken = self.stack[place:]
        del self.stack[place:]
        return taken

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.stack[len(self.stack) - count:] = [tuple(self.stack[len(self.stack) - count:])]

    def put(self, argument: int | None) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def name(self, argument: str) -> None:
        """Something outside the file: a stand-in where it is known. Raises PickleError."""
        name = argument.replace(" ", ".", 1)
        storage = name.startswith("torch.") and name.endswith("Storage")
        if not (name in DICTIONARIES or name in REBUILT or name in PARAMETERS or name == SUBCLASS or name in DTYPES
                or (storage and name.rpartition(".")[2].removesuffix("Storage") in STORAGES)
                or HARMLESS.fullmatch(name)):
            raise PickleError("holds Python code besides weights, which is never run: "
                              f"{shown(name, 100)} (look for its .safetensors)")
        self.stack.append(StandIn(name))

    def name_on_stack(self, _: None) -> None:
        name = self.stack.pop()
        self.name(f"{self.stack.pop()} {name}")

    def build(self, what: Any, arguments: Any) -> None:
        """What a call gives, of what is known."""
        name = what.name if isinstance(what, StandIn) else ""
        made: Any = StandIn(name)
        if name in REBUILT:
            storage, offset, size, stride, *more = arguments
            dtype = DTYPES[more[2].name] if name.endswith("_v3") else None
            made = self.numbers.tensor(storage, offset, size, stride, dtype)
        elif name in PARAMETERS:
            made = arguments[0]
        elif name == SUBCLASS:
            self.build(arguments[0], arguments[2])
            return
        elif name in DICTIONARIES:
            made = {}
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            self.count(len(pairs))
            self.enter(made, [part for pair in pairs for part in pair])
        elif not name or not HARMLESS.fullmatch(name):
            raise PickleError(f"is damaged or no model file (a call of {shown(name or type(what).__name__, 100)})")
        self.stack.append(made)

    def reduce(self, _: None) -> None:
        arguments = self.stack.pop()
        self.build(self.stack.pop(), arguments)

    def new_with_names(self, _: None) -> None:
        self.stack.pop()
        self.reduce(None)

    def enter(self, target: Any, parts: list[Any]) -> None:
        """Names and values into a dictionary; what has another name than a text is left out."""
        if isinstance(target, StandIn):
            return
        for name, value in zip(parts[::2], parts[1::2], strict=True):
            if isinstance(name, str) and target.setdefault(name, value) is not value:
                raise PickleError(f"holds {shown(name, 100)} twice")

    def enter_marked(self, _: None) -> None:
        parts = self.marked()
        self.enter(self.stack[-1], parts)

    def enter_one(self, _: None) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self.enter(self.stack[-1], [name, value])

    def append(self, parts: list[Any]) -> None:
        if not isinstance(self.stack[-1], StandIn):
            self.stack[-1].extend(parts)

    def set_of(self, _: None) -> None:
        self.marked()
        self.stack.append(StandIn("set"))


_LITERALS: dict[str, Any] = dict.fromkeys((
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "NONE"))
_LITERALS |= {"NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
"""What an instruction without an argument puts on the stack; others put that."""

_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.marked(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_SET": lambda machine, _: machine.stack.append(StandIn("set")),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "FROZENSET": _Machine.set_of,
    "SETITEM": _Machine.enter_one,
    "SETITEMS": _Machine.enter_marked,
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.marked()),
    "ADDITEMS": lambda machine, _: machine.marked(),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_names,
    "BUILD": lambda machine, _: machine.stack.pop(),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.numbers.storage(machine.stack.pop())),
}
