"""A pickle is a program for a small stack machine; this is that machine with nothing in it that can go wrong.

    content = PlainReader(data, {("collections", "OrderedDict"): ordered}).load()

Python's own unpickler calls whatever a file names and sets whatever state it likes. This one knows numbers, texts,
bytes, lists, tuples, dicts and the functions it is given, which get plain values only. It refuses every other opcode;
state is built for arrays and their types alone. Work and memory stay in proportion to the file: keys are texts and
integers, no set is made, numbers have 64 bits, and what is shared is counted as often as it is reached.

The opcodes are those of Python's `pickletools`, protocols 0 to 5.
"""

import codecs
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.base.numbers import in_64_bits

MOST_OPCODES = 1_000_000  # a ranking of 5,000 heads has 130,000
MOST_DEPTH = 50  # containers in containers
MOST_DIGITS = 20
MOST_LINE = 2000

CONTAINERS = (list, tuple, dict, OrderedDict)


class Forbidden(Exception):
    """The file asks for this, which no plain file needs."""


@dataclass(frozen=True)
class Constant:
    """A name that stands for a value."""

    value: Callable[[], Any]


# (module, name) -> a function, a constant, or None if the file may mention but not call it
Names = Mapping[tuple[str, str], Callable[..., Any] | Constant | None]


@dataclass(frozen=True, eq=False)
class Named:
    """A name that the file has mentioned."""

    name: str
    function: Callable[..., Any] | None


@dataclass(eq=False)
class Unbuilt:
    """What becomes a value when its state arrives: an array or its type."""

    build: Callable[[Any], Any]
    memo_keys: list[int] = field(default_factory=list)


class PlainReader:
    """Reads one pickle that begins at `at`; afterwards `at` is the place behind it.

    `names` are the functions that the file may call. `text` is how the texts of Python 2 are decoded: encoding and
    errors. `persistent` gives the values that lie elsewhere. `load` raises Forbidden for what the file may not ask for,
    and ValueError, EOFError or the like for what is damaged.
    """

    def __init__(
        self,
        data: bytes,
        names: Names,
        *,
        at: int = 0,
        text: tuple[str, str] = ("ascii", "strict"),
        most_opcodes: int = MOST_OPCODES,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data, self.names, self.at, self.text = data, names, at, text
        self.most_opcodes, self.persistent = most_opcodes, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}
        self.opcodes = 0

    def load(self) -> Any:
        """The content: plain containers, numbers, texts, bytes, and what `names` make."""
        data = self.data
        for count in range(self.most_opcodes):
            if self.at >= len(data):
                raise EOFError("it ends before its end")
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                self.opcodes = count
                content = self.stack.pop()
                self._check(content)
                return content
            action = _ACTIONS.get(code)
            if action is None:
                raise _unknown(code)
            action(self)
        raise ValueError(f"more than {self.most_opcodes:,} opcodes")

    def _check(self, content: Any) -> None:
        """Raises ValueError if containers are too deep, hold themselves or hold something many times over."""
        most, seen = 4 * self.opcodes + 1000, 0
        rest = [([content], 0)]
        while rest:
            values, depth = rest.pop()
            seen += len(values)
            if seen > most or depth > MOST_DEPTH:
                raise ValueError("containers in containers without end")
            for value in values:
                kind = type(value)
                if kind in CONTAINERS:
                    rest.append((value if kind in (list, tuple) else list(value.values()), depth + 1))
                elif kind is Named:
                    raise Forbidden(value.name)
                elif kind is Unbuilt:
                    raise ValueError("an array without content")

    # Reading

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise EOFError("it ends in the middle of a value")
        found = self.data[self.at : end]
        self.at = end
        return found

    def size(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + MOST_LINE)
        if end < 0:
            raise EOFError("a line without an end")
        found = self.data[self.at : end]
        self.at = end + 1
        return found.decode("utf-8")

    def long_line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise EOFError("a line without an end")
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    def digits(self) -> str:
        line = self.line()
        if len(line) > MOST_DIGITS + 2:
            raise ValueError(f"a number of more than {MOST_DIGITS} digits")
        return line

    # The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.below) >= 4 * MOST_DEPTH:
            raise ValueError("containers in containers without end")
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        found = self.stack
        self.stack = self.below.pop()
        return found

    def top(self, kinds: tuple[type, ...]) -> Any:
        value = self.stack[-1]
        if type(value) not in kinds:
            raise ValueError(f"something is put into a {type(value).__name__}")
        return value

    def remember(self, key: int) -> None:
        value = self.stack[-1]
        if type(value) is Unbuilt:
            value.memo_keys.append(key)
        self.memo[key] = value

    # Opcodes

    def integer(self) -> None:
        line = self.digits()
        self.push(line == "01" if line in ("00", "01") else _whole(int(line)))  # so are truth values spelled

    def long_integer(self) -> None:
        self.push(_whole(int(self.digits().removesuffix("L"))))

    def short_long(self) -> None:
        width = self.size(1)
        if width > 10:
            raise ValueError("an integer of more than 64 bits")
        self.push(_whole(int.from_bytes(self.take(width), "little", signed=True)))

    def decoded(self, raw: bytes) -> None:
        self.push(raw.decode(*self.text))

    def quoted(self) -> None:
        raw = self.long_line().strip()
        if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
            raise ValueError("a text without its quotes")
        self.decoded(codecs.escape_decode(raw[1:-1])[0])

    def unicode(self, raw: bytes) -> None:
        self.push(raw.decode("utf-8", "surrogatepass"))

    def put_pairs(self, pairs: list[Any]) -> None:
        found = self.top((dict, OrderedDict))
        if len(pairs) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            found[_key(key)] = value

    def put_pair(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put_pairs([key, value])

    def marked_pairs(self) -> None:
        self.put_pairs(self.since_mark())

    def new_dict(self) -> None:
        pairs = self.since_mark()
        self.push({})
        self.put_pairs(pairs)

    def append(self) -> None:
        value = self.stack.pop()
        self.top((list,)).append(value)

    def extend(self) -> None:
        values = self.since_mark()
        self.top((list,)).extend(values)

    def new_tuple(self, count: int) -> None:
        if count > len(self.stack):
            raise EOFError("a tuple of more than there is")
        values = self.stack[-count:]
        del self.stack[-count:]
        self.push(tuple(values))

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        known = module.replace("numpy._core", "numpy.core"), name
        if known not in self.names:
            raise Forbidden(f"{module}.{name}"[:200])
        meant = self.names[known]
        self.push(meant.value() if isinstance(meant, Constant) else Named(f"{module}.{name}", meant))

    def stacked_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def old_object(self) -> None:
        raise Forbidden(f"{self.line()}.{self.line()}"[:200])

    def call(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if type(called) is not Named or type(arguments) is not tuple:
            raise ValueError("a call of something that is no function")
        if called.function is None:
            raise Forbidden(f"{called.name}()")
        self.push(called.function(*arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack.pop()
        if type(target) is Named:
            raise Forbidden(f"attributes of {target.name}")
        if type(target) is not Unbuilt:
            raise ValueError(f"state for a {type(target).__name__}")
        value = target.build(state)
        for key in target.memo_keys:
            self.memo[key] = value
        self.push(value)

    def persistent_value(self) -> None:
        if self.persistent is None:
            raise ValueError("a value that lies elsewhere")
        self.push(self.persistent(self.stack.pop()))


def _unknown(code: int) -> Exception:
    known = [opcode.name for opcode in pickletools.opcodes if opcode.code == chr(code)]
    return Forbidden(f"the opcode {known[0]}") if known else ValueError(f"{code:#04x} is no opcode")


def _whole(value: int) -> int:
    return value if value == MAGIC else in_64_bits(value)


def _key(value: Any) -> Any:
    """A key whose hash no file can choose: texts are hashed with a secret, and these integers all differ in theirs."""
    if type(value) is str or (type(value) in (int, bool) and abs(value) < 2**60):
        return value
    raise ValueError(f"a key of type {type(value).__name__}; expected texts and integers")


MAGIC = 0x1950A86A20F9469CFC6C  # the first value in files that torch.save wrote before it used zip
_STOP = ord(".")
_BY_CODE: dict[int | str, Callable[[PlainReader], Any]] = {
    0x80: lambda r: r.take(1),  # PROTO
    0x95: lambda r: r.take(8),  # FRAME
    "(": PlainReader.mark,
    "N": lambda r: r.push(None),
    0x88: lambda r: r.push(True),
    0x89: lambda r: r.push(False),
    "I": PlainReader.integer,
    "L": PlainReader.long_integer,
    "J": lambda r: r.push(int.from_bytes(r.take(4), "little", signed=True)),
    "K": lambda r: r.push(r.size(1)),
    "M": lambda r: r.push(r.size(2)),
    0x8A: PlainReader.short_long,
    "F": lambda r: r.push(float(r.line())),
    "G": lambda r: r.push(struct.unpack(">d", r.take(8))[0]),
    "S": PlainReader.quoted,
    "T": lambda r: r.decoded(r.take(r.size(4))),
    "U": lambda r: r.decoded(r.take(r.size(1))),
    "V": lambda r: r.push(r.long_line().decode("raw-unicode-escape")),
    "X": lambda r: r.unicode(r.take(r.size(4))),
    0x8C: lambda r: r.unicode(r.take(r.size(1))),
    0x8D: lambda r: r.unicode(r.take(r.size(8))),
    "B": lambda r: r.push(r.take(r.size(4))),
    "C": lambda r: r.push(r.take(r.size(1))),
    0x8E: lambda r: r.push(r.take(r.size(8))),
    0x96: lambda r: r.push(bytearray(r.take(r.size(8)))),
    "]": lambda r: r.push([]),
    "a": PlainReader.append,
    "e": PlainReader.extend,
    "l": lambda r: r.push(r.since_mark()),
    ")": lambda r: r.push(()),
    "t": lambda r: r.push(tuple(r.since_mark())),
    0x85: lambda r: r.new_tuple(1),
    0x86: lambda r: r.new_tuple(2),
    0x87: lambda r: r.new_tuple(3),
    "}": lambda r: r.push({}),
    "d": PlainReader.new_dict,
    "s": PlainReader.put_pair,
    "u": PlainReader.marked_pairs,
    "g": lambda r: r.push(r.memo[int(r.digits())]),
    "h": lambda r: r.push(r.memo[r.size(1)]),
    "j": lambda r: r.push(r.memo[r.size(4)]),
    "p": lambda r: r.remember(int(r.digits())),
    "q": lambda r: r.remember(r.size(1)),
    "r": lambda r: r.remember(r.size(4)),
    0x94: lambda r: r.remember(len(r.memo)),
    "c": lambda r: r.name(r.line(), r.line()),
    0x93: PlainReader.stacked_name,
    "i": PlainReader.old_object,
    "R": PlainReader.call,
    "b": PlainReader.build,
    "Q": PlainReader.persistent_value,
}
_ACTIONS = {ord(code) if isinstance(code, str) else code: action for code, action in _BY_CODE.items()}
