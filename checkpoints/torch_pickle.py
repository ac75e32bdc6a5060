"""The pickle inside of a `torch.save` file, walked without running any of it.

Python's own unpickler follows what a file says: a memo of 2**28 places in a file of 270 bytes takes 4 GB,
nested tuples as keys take for ever to hash. Here a machine of a page knows the few opcodes that `torch.save`
writes for tensors in plain containers, and refuses everything else. `pickletools` splits the bytes.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from checkpoints.headers import TYPES, TensorInfo, is_shape

MAX_PICKLE = 8 * 2**20  # bytes; RAM's, the longest of the released ones, has 1,042 tensors and an optimizer

# Storage classes of torch.save's pickles.
STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_REBUILD = ("_rebuild_tensor_v2", "_rebuild_parameter")
_MARK: object = object()
_VALUES = {
    "BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINBYTES",
    "BINBYTES",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "NONE": lambda: None,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class CodeInPickle(Exception):
    """The pickle asks for something that is neither a tensor nor a plain container."""


class DamagedPickle(Exception):
    """The pickle is none, or does not add up."""


@dataclass(frozen=True)
class _Name:
    """Something of Python's that the pickle names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    elements: int


def read_pickle(content: bytes) -> tuple[Any, dict[str, int]]:
    """Walk a pickle.

    Args:
        content: of ``data.pkl``, at most `MAX_PICKLE` bytes.

    Returns:
        What was saved, each tensor replaced by its `TensorInfo`; and the bytes of every storage by its key.

    Raises:
        CodeInPickle: names what is neither a tensor nor a plain container.
        DamagedPickle: anything else that `torch.save` does not write.
    """
    walker = _Walker()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return walker.pop(), walker.storages
            walker.step(opcode.name, argument)
    except DamagedPickle:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedPickle(type(error).__name__) from None
    raise DamagedPickle("it has no end")


class _Walker:
    """The stack machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, int] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            if argument > MAX_PICKLE:  # more places than the pickle has bytes
                raise DamagedPickle("a memo of too many places")
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = tuple(self.stack[-count:])
            del self.stack[-count:]
            self.stack.append(items)
        elif name == "TUPLE":
            self.stack.append(tuple(self.pop_to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items_ = [self.pop()] if name == "APPEND" else self.pop_to_mark()
            self._container(list).extend(items_)
        elif name in ("SETITEM", "SETITEMS"):
            pairs = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_to_mark()
            self._set_items(pairs)
        elif name == "GLOBAL":
            self.stack.append(_known(argument))
        elif name == "BINPERSID":
            self.stack.append(self._storage(self.pop()))
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            self.stack.append(_call(function, arguments))
        elif name == "BUILD":  # what a state dict notes about itself (_metadata); nobody needs it
            self.pop()
            self._container(dict)
        elif name != "PROTO":
            raise DamagedPickle(f"torch.save writes no {name}")

    def _container(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise DamagedPickle(f"no {kind.__name__} to fill")
        return self.stack[-1]

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._container(dict)
        keys, values = pairs[::2], pairs[1::2]
        if len(keys) != len(values) or not all(type(key) in (str, int) for key in keys):
            raise DamagedPickle("a key that is no name")
        target.update(zip(keys, values, strict=True))

    def _storage(self, pid: Any) -> _Storage:
        kind, name, key, _location, elements = pid
        if kind != "storage" or not isinstance(name, _Name) or name.name not in STORAGES:
            raise DamagedPickle("an unknown persistent id")
        if type(key) is not str or type(elements) is not int or not 0 <= elements < 2**48:
            raise DamagedPickle("a storage of no size")
        storage = _Storage(STORAGES[name.name], key, elements)
        size = elements * TYPES[storage.dtype]
        if self.storages.setdefault(key, size) != size:
            raise DamagedPickle("a storage of two sizes")
        return storage


def _known(argument: str) -> _Name:
    module, _, name = argument.partition(" ")
    allowed = {
        "collections": ("OrderedDict",),
        "torch._utils": _REBUILD,
        "torch": tuple(STORAGES),
    }
    if name not in allowed.get(module, ()):
        raise CodeInPickle(f"{module}.{name}")
    return _Name(name)


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, _Name) or type(arguments) is not tuple:
        raise DamagedPickle("a call of nothing")
    if function.name == "OrderedDict" and arguments == ():
        return {}
    if function.name == "_rebuild_parameter" and isinstance(arguments[0], TensorInfo):
        return arguments[0]
    if function.name != "_rebuild_tensor_v2":
        raise DamagedPickle(f"{function.name} of something else")
    storage, offset, shape, strides = arguments[:4]
    if not (isinstance(storage, _Storage) and type(offset) is int and offset >= 0):
        raise DamagedPickle("a tensor without data")
    if not (is_shape(shape) and is_shape(strides) and len(shape) == len(strides)):
        raise DamagedPickle("a tensor without a shape")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.elements:
        raise DamagedPickle("a tensor larger than its data")
    return TensorInfo(tuple(shape), storage.dtype)
