"""The text that a string input of a ComfyUI graph had, through the nodes that put it together.

Only what has one outcome is worked out. Regular expressions are not: one can run for ever.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any

from .bounded_json import read_object
from .comfyui_graph import MAX_DEPTH, MAX_HOPS, Graph, Node, is_link
from .prompt_text import MAX_PROMPT_CHARS

_FIELDS = ("value", "text", "string", "prompt")
_PASSING_ON = {
    "CustomCombo": "choice",
    "ImpactWildcardProcessor": "populated_text",
    "PreviewAny": "source",
    "SaveText": "text",
    "ShowText|pysssss": "text",
}
"""Nodes that hand on one text as it came, whatever else is stored with them."""
_CASES: dict[str, Callable[[str], str]] = {
    "UPPERCASE": str.upper,
    "lowercase": str.lower,
    "Capitalize": str.capitalize,
    "Title Case": str.title,
}
_TRIMS: dict[str, Callable[[str], str]] = {
    "Both": str.strip,
    "Left": str.lstrip,
    "Right": str.rstrip,
}


def string_of(graph: Graph, field: object, depth: int = 0) -> str | None:
    """A text widget's value, or what the nodes it is linked to make of theirs; None if unsure."""
    for _ in range(MAX_HOPS):
        if isinstance(field, str):
            return _as_sent(field, graph.as_typed)
        link: Any = graph.routed(field) if is_link(field) else None
        node = graph.node(link)
        # Strings leave their node by its first output; of another it cannot be told what it is.
        if node is None or link[1] != 0 or depth > MAX_DEPTH:
            return None
        kind = node["class_type"]
        if kind in _NODES:
            made = _NODES[kind](_Inputs(graph, node, depth))
            return made if made is None or len(made) <= MAX_PROMPT_CHARS else None
        passed = _PASSING_ON.get(kind)
        field = node["inputs"].get(passed) if passed else _only_field(node)
    return None


def _only_field(node: Node) -> object:
    """The input of a node that holds a text and nothing else."""
    # Any further setting may change the text on its way (a separator, a seed, a position).
    others = [item for item in node["inputs"].items() if not isinstance(item[1], bool)]
    return others[0][1] if len(others) == 1 and others[0][0].lower() in _FIELDS else None


def _as_sent(text: str, as_typed: bool) -> str | None:
    """A text as the page sends it: comments dropped, one of {several|alternatives} chosen."""
    changed = as_typed and any(mark in text for mark in ("{", "//", "/*"))
    return None if changed or len(text) > MAX_PROMPT_CHARS else text


class _Inputs:
    """The inputs of a string node, worked out as they are asked for."""

    def __init__(self, graph: Graph, node: Node, depth: int) -> None:
        self._graph = graph
        self._inputs: Mapping[str, Any] = node["inputs"]
        self._depth = depth

    def text(self, name: str) -> str | None:
        return string_of(self._graph, self._inputs.get(name), self._depth + 1)

    def texts(self, *names: str) -> tuple[str, ...] | None:
        """All of them, None if one cannot be told."""
        found = [self.text(name) for name in names]
        return None if None in found else tuple(text for text in found if text is not None)

    def number(self, name: str) -> int | None:
        value = self._graph.plain(self._inputs.get(name))
        return value if type(value) is int else None

    def named(self, prefix: str) -> dict[str, str | None]:
        names = [name for name in self._inputs if name.startswith(prefix)]
        return {name[len(prefix) :]: self.text(name) for name in names[:64]}


def _concatenate(given: _Inputs) -> str | None:
    texts = given.texts("string_a", "string_b", "delimiter")
    return None if texts is None else texts[2].join(texts[:2])


def _substring(given: _Inputs) -> str | None:
    text, start, end = given.text("string"), given.number("start"), given.number("end")
    return None if text is None or start is None or end is None else text[start:end]


def _change_case(given: _Inputs) -> str | None:
    texts = given.texts("string", "mode")
    return None if texts is None else _CASES.get(texts[1], str)(texts[0])


def _trim(given: _Inputs) -> str | None:
    texts = given.texts("string", "mode")
    return None if texts is None else _TRIMS.get(texts[1], str)(texts[0])


def _replace(given: _Inputs) -> str | None:
    texts = given.texts("string", "find", "replace")
    if texts is None:
        return None
    text, old, new = texts
    grown = len(text) + text.count(old) * len(new)
    return text.replace(old, new) if grown <= 2 * MAX_PROMPT_CHARS else None


def _format(given: _Inputs) -> str | None:
    """`{a}` and no more: a width in braces could ask for any amount of memory."""
    pattern, values = given.text("f_string"), given.named("values.")
    if pattern is None:
        return None
    made = ""
    try:
        for before, name, form, conversion in string.Formatter().parse(pattern):
            made += before
            value = "" if name is None else values.get(name)
            if value is None or form or conversion or len(made) > MAX_PROMPT_CHARS:
                return None
            made += value
    except ValueError:
        return None
    return made


def _from_json(given: _Inputs) -> str | None:
    texts = given.texts("json_string", "key")
    value = None if texts is None else read_object(texts[0]).get(texts[1])
    return value if isinstance(value, str) else None


def _join_two(first: str, second: str, between: str) -> Callable[[_Inputs], str | None]:
    def join(given: _Inputs) -> str | None:
        texts = given.texts(first, second, between)
        # Packs differ in whether an empty text still gets its separator.
        return None if texts is None or not all(texts[:2]) else texts[2].join(texts[:2])

    return join


_NODES: dict[str, Callable[[_Inputs], str | None]] = {
    "StringConcatenate": _concatenate,
    "StringSubstring": _substring,
    "CaseConverter": _change_case,
    "StringTrim": _trim,
    "StringReplace": _replace,
    "StringFormat": _format,
    "JsonExtractString": _from_json,
    "JoinStrings": _join_two("string1", "string2", "delimiter"),
    "CR Text Concatenate": _join_two("text1", "text2", "separator"),
}
