"""Architectures as other tools write them. One function that recognises the form, and says which it was."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnas.benchmarks import nasbench201
from jaxnas.errors import ArchitectureError
from jaxnas.model.serialization import parse_json, read_text, read_values, short
from jaxnas.model.space import Space
from jaxnas.spaces import genotypes
from jaxnas.spaces.genotypes import Genotype

_NASBENCH301 = "NetworkSelectorDatasetInfo:"
_STRING = re.compile(r"\|[^|~\s]+~\d+\|(?:[^|~\s]+~\d+\|)*(?:\+\|[^|~\s]+~\d+\|(?:[^|~\s]+~\d+\|)*)*")
_LOOKS_LIKE_TEXT = re.compile(r"[\n{}()|]|^\s*\[")

_LONGEST_LITERAL = 10_000  # characters; NASLib's pairs have about 200

NASLIB_201 = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""NASLib's order of NAS-Bench-201's operations (`naslib/search_spaces/nasbench201`)."""

_NASLIB_201_EDGES = ("1<-0", "2<-0", "3<-0", "2<-1", "3<-1", "3<-2")
"""NASLib's order of the edges: by their sources."""


class ReadArchitecture(dict[str, Any]):
    """A fixed architecture, `{key: int | str | tuple}`, that was read.

    Attributes:
      form: what it was recognised as, in words.
    """

    def __init__(self, arch: Mapping[str, Any], form: str):
        super().__init__(arch)
        self.form = form


def read_architecture(
    source: str | os.PathLike | Mapping[str, Any] | Sequence[Any],
    *,
    space: Space | None = None,
    entry: str | None = None,
) -> ReadArchitecture:
    """Reads an architecture that another tool has written. Nothing in it is executed.

    ===============================================  =====================================================
    form                                             needs
    ===============================================  =====================================================
    JSON of jaxnas and of NNI 1 to 3                 nothing; without a space its keys are not checked
    `Genotype(…)`: Python, a line of a log, YAML     nothing, or a space of `spaces.darts`
    a JSON object with the parts of a genotype       the same
    a JSON object of genotype texts (C-DARTS)        the same, and `entry` if they differ
    a configuration of NAS-Bench-301                 the same
    `|op~0|+|op~0|op~1|+…`, also in a log or in      nothing, or the space of `spaces.nasbench201`
    AutoDL's `Structure(4 nodes with …)`
    NASLib's six numbers, for NAS-Bench-201          the space, since it is not in the file
    NASLib's pairs (source, operation), for DARTS    the space
    ===============================================  =====================================================

    Args:
      source: a file's path, or its text, or what was decoded from it.
      space: which it has to be a member of. Default: that which the form belongs to, if it belongs to one.
      entry: which of several, by its name in the file.

    Returns:
      The architecture, a dict whose attribute `form` says what it was recognised as:

      >>> arch = read_architecture("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|")
      >>> arch["1<-0"], arch.form
      ('nor_conv_3x3', 'a string of NAS-Bench-201')

    Raises:
      FileNotFoundError: if it looks like a path and there is no such file.
      ArchitectureError: if it is in none of these forms, or no member of the space; says what does not fit, and where.
    """
    value, name = _content(source)
    if isinstance(value, str):
        arch, form = _of_text(value, name, space)
    else:
        arch, form = _of_value(value, name, space, entry)
        entry = None
    if entry is not None:
        raise ArchitectureError(f"{name}: is {form}; it has no entries, so no entry {entry!r}.")
    if space is not None:
        try:
            arch = space.fixed(arch)
        except ArchitectureError as e:
            raise ArchitectureError(f"{name}: is {form}, but no member of the space: {e}") from None
    return ReadArchitecture(arch, form)


def _content(source: Any) -> tuple[Any, str]:
    """What is to be read, decoded if it is JSON or a literal, and what messages call it."""
    if isinstance(source, os.PathLike) or (isinstance(source, str) and _is_path(source)):
        path = Path(source)
        return _decoded(read_text(path), str(path)), str(path)
    if isinstance(source, str):
        return _decoded(source, "the text"), "the text"
    if isinstance(source, (Mapping, Sequence)) and not isinstance(source, (bytes, bytearray)):
        return source, "the architecture"
    raise ArchitectureError(f"an architecture is read from a path, a text, a dict or a list; got {short(source)}.")


def _is_path(source: str) -> bool:
    if not _LOOKS_LIKE_TEXT.search(source):
        return True
    try:
        return "\n" not in source and Path(source).is_file()
    except (OSError, ValueError):  # too long, or a null byte
        return False


def _decoded(text: str, name: str) -> Any:
    start = text.lstrip("\ufeff \t\r\n")[:1]
    if start in ("{", "["):
        try:
            return parse_json(text.removeprefix("\ufeff").encode(), source=name)
        except ArchitectureError:
            if "Genotype" in text and start == "[":  # a line of a log that begins with a time, say
                return text
            if start == "{":
                raise
    if start in ("[", "(") and len(text) < _LONGEST_LITERAL:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return text
    return text


def _of_text(text: str, name: str, space: Space | None) -> tuple[dict[str, Any], str]:
    if "Genotype" in text:
        return _of_genotype(Genotype.parse(text), name, space, "a genotype of the DARTS space")
    found = {each.group() for each in _STRING.finditer(re.sub(r"\s*([|~+])\s*", r"\1", text))}
    if len(found) > 1:
        raise ArchitectureError(f"{name}: holds {len(found)} different strings of NAS-Bench-201; give one.")
    if found:
        _check_space(name, "a string of NAS-Bench-201", nasbench201.SPACE, space)
        return nasbench201.to_arch(found.pop()), "a string of NAS-Bench-201"
    raise ArchitectureError(
        f"{name}: no form of an architecture that is known here: {short(text.strip())}. Expected JSON, Genotype(…), "
        "|op~0|+|op~0|op~1|+…, or NASLib's numbers."
    )


def _of_value(value: Any, name: str, space: Space | None, entry: str | None) -> tuple[dict[str, Any], str]:
    if isinstance(value, Mapping):
        if any(isinstance(key, str) and key.startswith(_NASBENCH301) for key in value):
            form = "a configuration of NAS-Bench-301"
            return _of_genotype(Genotype.from_nasbench301(value), name, space, form)
        if value and all(isinstance(each, str) and "Genotype" in each for each in value.values()):
            return _of_entries(value, name, space, entry)
        if entry is not None:
            raise ArchitectureError(f"{name}: holds one architecture and no entries; got entry={entry!r}.")
        if {"normal", "reduce"} <= set(value) <= set(Genotype._fields):
            whole = range(2, 2 + genotypes.NODES)
            parts = {"normal_concat": whole, "reduce_concat": whole, **value}
            return _of_genotype(Genotype(**parts), name, space, "a genotype of the DARTS space, as an object")
        return read_values(value, source=name), "decisions by key, as jaxnas and NNI write them"
    if entry is not None:
        raise ArchitectureError(f"{name}: holds one architecture and no entries; got entry={entry!r}.")
    return _of_naslib(value, name, space)


def _of_entries(
    texts: Mapping[str, str], name: str, space: Space | None, entry: str | None
) -> tuple[dict[str, Any], str]:
    if entry is not None and entry not in texts:
        raise ArchitectureError(f"{name}: has no entry {entry!r}; it has {short(list(texts), 200)}.")
    chosen = {entry: texts[entry]} if entry is not None else texts
    found = {}
    for key, text in chosen.items():
        try:
            found[key] = Genotype.parse(text)
        except ArchitectureError as e:
            raise ArchitectureError(f"{name}, entry {key!r}: {e}") from None
    if len({str(each) for each in found.values()}) > 1:
        raise ArchitectureError(
            f"{name}: holds {len(texts)} genotypes that differ; say which by entry=, one of {short(list(texts), 200)}."
        )
    which = f"{len(texts)} equal" if entry is None else f"entry {entry!r} of {len(texts)}"
    return _of_genotype(next(iter(found.values())), name, space, f"{which} genotypes of the DARTS space")


def _of_genotype(genotype: Genotype, name: str, space: Space | None, form: str) -> tuple[dict[str, Any], str]:
    arch = genotypes.arch_of(genotype)
    if space is None:
        return arch, form
    if not set(space) <= set(genotypes.CHOICES):
        _check_space(name, form, genotypes.CHOICES, space)
    return {key: arch[key] for key in space}, form  # a small network may lack a kind of cell


def _of_naslib(value: Sequence[Any], name: str, space: Space | None) -> tuple[dict[str, Any], str]:
    form = f"{name}: a list of this form is read as NASLib writes architectures"
    if space is None:
        raise ArchitectureError(f"{form}, and these do not say of which space they are: give space=.")
    if set(space) == set(nasbench201.SPACE):
        if len(value) != len(_NASLIB_201_EDGES):
            raise ArchitectureError(f"{form}: six numbers for this space; got {len(value)}.")
        for place, operation in enumerate(value):
            if isinstance(operation, bool) or not isinstance(operation, int) or not 0 <= operation < len(NASLIB_201):
                raise ArchitectureError(
                    f"{form}: number {place} (edge {_NASLIB_201_EDGES[place]}) is {short(operation)}; expected 0 to "
                    f"{len(NASLIB_201) - 1}, which stand for {list(NASLIB_201)}."
                )
        arch = {edge: NASLIB_201[operation] for edge, operation in zip(_NASLIB_201_EDGES, value, strict=True)}
        return arch, "six numbers of NASLib for NAS-Bench-201"
    if not set(space) <= set(genotypes.CHOICES):
        raise ArchitectureError(f"{form}, which are of NAS-Bench-201 or of the DARTS space; the space is another one.")
    if len(value) != len(genotypes.KINDS):
        raise ArchitectureError(f"{form}: two lists of pairs, for the normal and the reduction cell; got {len(value)}.")
    cells = [_naslib_cell(kind, edges, form) for kind, edges in zip(genotypes.KINDS, value, strict=True)]
    whole = range(2, 2 + genotypes.NODES)
    said = "pairs (source, operation) of NASLib for the DARTS space"
    return _of_genotype(Genotype(cells[0], whole, cells[1], whole), name, space, said)


def _naslib_cell(kind: str, edges: Any, form: str) -> list[tuple[str, Any]]:
    """NASLib counts the operations without `none`; older code (BANANAS) counts it, so that 7 occurs."""
    operations = genotypes.OPERATIONS[1:]
    cell = []
    for place, edge in enumerate(edges if isinstance(edges, Sequence) else ()):
        if not isinstance(edge, Sequence) or len(edge) != 2:
            raise ArchitectureError(f"{form}: {kind}, pair {place} is {short(edge)}; expected (source, operation).")
        operation = edge[1]
        if isinstance(operation, bool) or not isinstance(operation, int) or not 0 <= operation < len(operations):
            older = (
                " (7 occurs where `none` is counted as operation 0, which NASLib does not)" if operation == 7 else ""
            )
            raise ArchitectureError(
                f"{form}: {kind}, pair {place} has the operation {short(operation)}{older}; expected 0 to "
                f"{len(operations) - 1}, which stand for {list(operations)}."
            )
        cell.append((operations[operation], edge[0]))
    return cell


def _check_space(name: str, form: str, expected: Space, space: Space | None) -> None:
    if space is None or set(space) <= set(expected):
        return
    strange = next(key for key in space if key not in expected)
    raise ArchitectureError(f"{name}: is {form}, but the space is another one: it has a choice {strange!r}.")
