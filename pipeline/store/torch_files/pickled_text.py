"""Reads what the pickle of a word file says, as data: nothing is imported, called or unpickled.

`torch.save` writes a word as a pickle that says which tensor is made of which numbers. Of the opcodes of a pickle only those that
it writes are known here, and of the names of Python objects only the few that words need; each stands for a record or a dict of
ours. Any other opcode or name refuses the file. `pickletools` of the standard library says how an opcode's argument is written.
"""

import pickletools
from dataclasses import dataclass
from typing import Any, BinaryIO

# A model's checkpoint of 10,000 tensors, which is told for what it is, stays below these.
MOST_BYTES, MOST_OPCODES = 4_000_000, 400_000
MOST_STACKED = (
    10_000  # values that wait for another, as the pairs of a dict do: torch.save writes a thousand pairs at a time
)
MOST_SIDES, LONGEST_SIDE = 8, 1 << 31  # of a tensor
PARAMETERS = "torch.nn.modules.container ParameterDict"
SETS = ("__builtin__ set", "builtins set")
CALLED = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict", *SETS)
# The name of a storage -> the name of its numbers' type in torch.
KINDS = {
    "torch DoubleStorage": "float64",
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS_AND_TEXTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
OPCODES = frozenset(
    (
        *CONSTANTS, *NUMBERS_AND_TEXTS, "PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
        "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
        "GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD",
    )
)  # fmt: skip
BY_CODE = {opcode.code: opcode for opcode in pickletools.opcodes}


class PickledTextError(ValueError):
    """The pickle says something that no word file needs, or is broken. The message is a clause."""


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a Python object, as "module name"; one of those that are known here."""

    name: str


@dataclass(frozen=True, slots=True)
class StoredNumbers:
    """kind: of KINDS' values. key: of the numbers in the file. count: how many the file is said to have under it."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it is described; whether `numbers` hold it has to be looked up. offset, size, stride: in numbers, not negative.

    negative: the file has the numbers with the opposite sign.
    """

    numbers: StoredNumbers
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool


@dataclass(frozen=True, slots=True)
class Pickled:
    """value: made of dict, list, tuple, str, int, float, bool, None, StoredTensor and Name; it can be nested deeply, or hold
    itself. numbers: by their keys, all that tensors are said to be made of.
    """

    value: Any
    numbers: dict[str, StoredNumbers]


def read_pickled(stream: BinaryIO) -> Pickled:
    """The pickle that begins here; the stream stands behind it afterwards. Raises PickledTextError."""
    reader, start = _Reader(), stream.tell()
    try:
        for _ in range(MOST_OPCODES):
            opcode, argument = _next(stream)
            if opcode == "STOP":
                (value,) = reader.stack
                return Pickled(value, reader.numbers)
            reader.take(opcode, argument)
            if stream.tell() - start > MOST_BYTES or len(reader.stack) + len(reader.marks) > MOST_STACKED:
                break
    except PickledTextError:
        raise
    except (ValueError, LookupError, TypeError) as error:  # an argument cut short, or a value that is not there
        raise PickledTextError("its pickle is broken or cut short") from error
    raise PickledTextError("its pickle is larger or nested deeper than that of any word")


def _next(stream: BinaryIO) -> tuple[str, Any]:
    """An opcode of those that are known, and its argument. Raises ValueError at the end of the stream."""
    code = stream.read(1)
    if not code:
        raise ValueError("it ends before its last opcode")
    opcode = BY_CODE.get(code.decode("latin-1"))
    if opcode is None or opcode.name not in OPCODES:
        said = f"the opcode {opcode.name}" if opcode else f"the byte {code.hex()}"
        raise PickledTextError(f"its pickle has {said}, which torch.save writes for no word")
    return opcode.name, opcode.arg.reader(stream) if opcode.arg else None


class _Reader:
    """The values on their way, the places of marks among them, and those that are remembered by number."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.numbers: dict[str, StoredNumbers] = {}

    def take(self, opcode: str, argument: Any) -> None:
        """One opcode. Raises PickledTextError, and LookupError or TypeError for a value that is missing or of another kind."""
        stack = self.stack
        match opcode:
            case "PROTO":
                if argument != 2:
                    raise PickledTextError(f"its pickle is of protocol {argument}, and torch.save writes 2")
            case "MARK":
                self.marks.append(len(stack))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(opcode[-1]))))
            case "APPEND" | "APPENDS":
                items = self._last(1) if opcode == "APPEND" else self._since_mark()
                _of(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                self._set_items(self._last(2) if opcode == "SETITEM" else self._since_mark())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_known(argument))
            case "BINPERSID":
                stack.append(self._stored(stack.pop()))
            case "REDUCE":
                function, arguments = self._last(2)
                stack.append(_made(_of(Name, function), _of(tuple, arguments)))
            case "NEWOBJ":
                if self._last(2) != [Name(PARAMETERS), ()]:
                    raise PickledTextError(f"its pickle makes an object that is no {PARAMETERS}")
                stack.append({})
            case "BUILD":  # what it is told to have: a ParameterDict its parameters, other dicts nothing that is of use
                state = _of(dict, stack.pop())
                stack[-1] = state.get("_parameters", _of(dict, stack[-1]))
            case _:
                stack.append(CONSTANTS.get(opcode, argument))

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise LookupError(count)
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def _set_items(self, items: list[Any]) -> None:
        target = _of(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # a key is hashed, which for nested tuples can take for ever
                raise PickledTextError("its pickle has a dict whose keys are neither texts nor whole numbers")
            target[key] = value

    def _stored(self, said: Any) -> Any:
        """What a persistent id stands for: numbers of the file, or a class whose source text was saved with it."""
        match said:
            case ("storage", Name(name), str() as key, str(), count, *view) if name in KINDS and view in ([], [None]):
                numbers = StoredNumbers(KINDS[name], key, *_sides((count,)))
                if self.numbers.setdefault(key, numbers) == numbers:
                    return numbers
            case ("module", Name() as name, str(), str()):
                return name
        raise PickledTextError("its pickle has numbers that are not described as torch.save describes them")


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}")
    return value


def _known(name: str) -> Name:
    if name not in KINDS and name not in CALLED and name != PARAMETERS:
        said = repr(name.replace(" ", ".")[:100])[1:-1]
        raise PickledTextError(f"its pickle asks for {said}, which no word needs; nothing of it was run")
    return Name(name)


def _made(function: Name, arguments: tuple[Any, ...]) -> Any:
    """What these functions of the known names return for the arguments that torch.save writes."""
    match function.name, arguments:
        case "collections OrderedDict", ():
            return {}
        case (("__builtin__ set" | "builtins set"), (list() as items,)):
            return items
        case "torch._utils _rebuild_parameter", (StoredTensor() as tensor, bool(), {}):
            return tensor
        case "torch._utils _rebuild_tensor_v2", (StoredNumbers() as numbers, offset, size, stride, bool(), {}, *more):
            negative = bool(more) and _is_negative(more)
            (start,) = _sides((offset,))
            size, stride = _sides(size), _sides(stride)
            if len(size) == len(stride):
                return StoredTensor(numbers, start, size, stride, negative)
    raise PickledTextError(f"its pickle gives {function.name.split(' ')[1]} what torch.save does not give it")


def _is_negative(metadata: list[Any]) -> bool:
    match metadata:
        case [{"neg": True, **other}] if not other:
            return True
    raise PickledTextError("its pickle says of a tensor that it is more than plain numbers")


def _sides(numbers: Any) -> tuple[int, ...]:
    sides: tuple[Any, ...] = _of(tuple, numbers)
    if len(sides) > MOST_SIDES or any(type(side) is not int or not 0 <= side <= LONGEST_SIDE for side in sides):
        raise PickledTextError("its pickle has a tensor with a size, stride or place that no tensor has")
    return sides
