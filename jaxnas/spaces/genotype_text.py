"""Reads the texts `Genotype(normal=[…], …)` that people keep as data: nothing in them is executed."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxnas.errors import ArchitectureError

_EXPECTED = "expected one text Genotype(normal=[…], normal_concat=range(2, 6), reduce=[…], reduce_concat=range(2, 6))"
_LONGEST = 10_000  # characters; a genotype has about 500
_CALL = re.compile(r"(?:\w+\.)*\bGenotype\s*\(")
_NUMBERS = re.compile(r"int|u?int\d+|int_|intp|uintp|longlong")
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")


def parts_of(text: str, fields: Sequence[str]) -> dict[str, Any]:
    """The parts of a text by their names.

    It reads the calls that occur in programs (with a name before them, an annotation, a module, a trailing comma,
    comments, a byte order mark), what NumPy 2 prints (`np.int64(1)`, `np.str_('…')`, `array([…])`), `range`,
    `list(range(…))` and `np.arange`, and one call within a line of a log.

    Raises:
      ArchitectureError: if it is not such a text, or has other parts; says what and where.
    """
    if not isinstance(text, str):
        raise ArchitectureError(f"a genotype is read from a text; got {type(text).__name__}.")
    if len(text) > _LONGEST:
        raise ArchitectureError(f"{_EXPECTED}; got a text of {len(text):,} characters.")
    source = text.removeprefix("\ufeff")
    _refuse_json(source)
    call, origin = _call(source)
    names = [*fields[: len(call.args)], *(word.arg for word in call.keywords)]
    if sorted(map(str, names)) != sorted(fields) or len(call.args) > len(fields):
        raise ArchitectureError(f"a Genotype has the parts {list(fields)}; got {names}.")
    parts = zip(names, [*call.args, *(word.value for word in call.keywords)], strict=True)
    return {str(name): _Reader(str(name), origin).read(part) for name, part in parts}


def _refuse_json(text: str) -> None:
    """Refuses a JSON file of genotype texts, and explains it."""
    if not text.lstrip().startswith("{"):
        return
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(values, dict) and any(isinstance(value, str) and _CALL.search(value) for value in values.values()):
        raise ArchitectureError(
            f"{_EXPECTED}; got a JSON object of {len(values)} texts, with the keys {list(values)[:5]}: read each of "
            "its values."
        )


def _call(text: str) -> tuple[ast.Call, tuple[int, int]]:
    """The call `Genotype(…)` in a text, and where its first line starts: (line, column), from 0."""
    stripped = text.strip()
    start = len(text) - len(text.lstrip())
    try:
        statements = _parsed(stripped)
    except SyntaxError as e:
        begin = _within(stripped)
        if begin is None:
            at = _place(text, start, e.lineno or 1, (e.offset or 1) - 1)
            raise ArchitectureError(f"{_EXPECTED}; {at[0]} cannot be read: {e.msg}{at[1]}.") from None
        stripped, start = stripped[begin[0] : begin[1]], start + begin[0]
        statements = _parsed(stripped)
    except (ValueError, RecursionError, MemoryError):  # a null byte, too deeply nested
        raise ArchitectureError(f"{_EXPECTED}; got {stripped[:80]!r}.") from None
    found = [_called(statement) for statement in statements]
    if len(found) != 1 or found[0] is None:
        several = sum(call is not None for call in found)
        more = f" It holds {several} genotypes: give one." if several > 1 else ""
        raise ArchitectureError(f"{_EXPECTED}; got {stripped[:80]!r}.{more}")
    before = text[:start]
    return found[0], (before.count("\n"), start - before.rfind("\n") - 1)


def _parsed(text: str) -> list[ast.stmt]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for strange escapes
        return ast.parse(text).body


def _place(text: str, start: int, line: int, column: int) -> tuple[str, str]:
    """A position in the stripped text, in words, as one in the complete text."""
    before = text[:start]
    if line == 1:
        column += start - before.rfind("\n") - 1
    return f"line {line + before.count(chr(10))}", f" (column {column + 1})"


def _within(text: str) -> tuple[int, int] | None:
    """Where the single call in a line of a log begins and ends; None if there is none, or several, or it is cut off."""
    found = list(_CALL.finditer(text))
    if len(found) != 1:
        return None
    blank = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), text)
    depth = 0
    for position in range(found[0].end() - 1, len(blank)):
        depth += (blank[position] in "([{") - (blank[position] in ")]}")
        if not depth:
            end = position + 1
            break
    else:
        return None
    try:
        _parsed(text[found[0].start() : end])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return found[0].start(), end


def _called(statement: ast.stmt) -> ast.Call | None:
    """The call of `Genotype` that a statement is, or assigns to a name."""
    value: ast.expr | None = None
    if isinstance(statement, (ast.Expr, ast.Assign)):
        value = statement.value
    elif isinstance(statement, ast.AnnAssign):  # `X: Genotype = Genotype(…)`, or the `genotype: Genotype(…)` of a log
        value = statement.annotation if statement.value is None else statement.value
    if isinstance(value, ast.Tuple) and len(value.elts) == 1:  # a trailing comma
        value = value.elts[0]
    if not isinstance(value, ast.Call):
        return None
    function = value.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return value if name == "Genotype" and _is_dotted(function) else None


def _is_dotted(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_dotted(node.value))


class _Reader:
    """Reads the value of one part: constants, lists, and the few calls that stand for these."""

    def __init__(self, name: str, origin: tuple[int, int]):
        self.name = name
        self.origin = origin

    def read(self, node: ast.expr) -> Any:
        """The value.

        Raises:
          ArchitectureError: if it is anything else.
        """
        try:
            return self._value(node)
        except (RecursionError, MemoryError):
            self._refuse(node)

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, (ast.List, ast.Tuple)):
            items = [self._value(item) for item in node.elts]
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.Call):
            return self._of_call(node)
        try:
            return ast.literal_eval(node)  # constants, and numbers with a sign
        except (ValueError, TypeError):
            self._refuse(node)

    def _of_call(self, node: ast.Call) -> Any:
        function = node.func
        numpy = isinstance(function, ast.Attribute) and getattr(function.value, "id", None) in ("np", "numpy")
        name = function.attr if isinstance(function, ast.Attribute) and numpy else getattr(function, "id", "")
        dtype_only = all(word.arg == "dtype" for word in node.keywords) and name in ("array", "asarray", "arange")
        if node.keywords and not dtype_only:
            self._refuse(node)
        values = [self._value(argument) for argument in node.args]
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        if name in ("range", "arange") and whole:
            try:
                return range(*values)  # never expanded, however long
            except (TypeError, ValueError):
                self._refuse(node)
        one = values[0] if len(values) == 1 else None
        if name in ("list", "tuple", "array", "asarray") and isinstance(one, (list, tuple, range)):
            return one
        if name in ("str_", "str") and isinstance(one, str):
            return one
        if _NUMBERS.fullmatch(name) and isinstance(one, int) and whole:
            return one
        self._refuse(node)

    def _refuse(self, node: ast.expr) -> NoReturn:
        line, column = node.lineno, node.col_offset
        column += self.origin[1] if line == 1 else 0
        raise ArchitectureError(
            f"{self.name}: not a list of constants (line {line + self.origin[0]}, column {column + 1})."
        )
