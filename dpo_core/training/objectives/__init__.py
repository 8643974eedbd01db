"""Preference objectives: pure functions of per-pair errors."""

from .errors import PairErrors
from .objective import Objective, ObjectiveLoss
from .sigmoid import sigmoid

__all__ = ["Objective", "ObjectiveLoss", "PairErrors", "sigmoid"]
