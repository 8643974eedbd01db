"""Preference objectives: pure functions of per-pair errors."""

from .catalogue import LOSSES
from .errors import Errors, Labels, certain
from .objective import Objective, ObjectiveLoss, Slopes
from .state import FRESH, ObjectiveState

__all__ = [
    "FRESH", "LOSSES", "Errors", "Labels", "Objective", "ObjectiveLoss", "ObjectiveState", "Slopes",
    "certain",
]
