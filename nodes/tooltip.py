"""Tooltips from the docstrings of settings: one source for a setting's meaning."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import lru_cache


@lru_cache
def field_docs(settings: type) -> dict[str, str]:
    """The text under each field of a settings class and of those it extends, one line each."""
    docs: dict[str, str] = {}
    for part in reversed(settings.__mro__[:-1]):
        docs |= _own_docs(part)
    return docs


def _own_docs(settings: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(settings))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    field: str | None = None
    for statement in definition.body:
        value = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            field = statement.target.id
        elif field and isinstance(value, ast.Constant):
            docs[field] = " ".join(str(value.value).split())
            field = None
        else:
            field = None
    return docs
