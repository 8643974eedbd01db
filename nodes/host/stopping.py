"""Other people's functions that Stop ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management


def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which does not begin once Stop is pressed."""

    def called(*arguments: Any) -> Any:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return function(*arguments)

    return called
