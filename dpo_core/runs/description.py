"""A run's settings in words, for the panel and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..evaluation.validation import ValidationSettings
from ..training.adapter import AdapterSettings
from ..training.noise import NoiseSettings
from ..training.objectives import LOSSES, Objective
from ..training.optimizer import OptimizerSettings
from .run_record import RunRecord

Group = tuple[str, list[tuple[str, str]]]
"""A heading, and lines of a name and a value."""

_OWN = {
    "simpo_gamma": ("simpo",),
    "cpo_alpha": ("cpo",),
    "mapo_lambda": ("orpo",),
    "exo_epsilon": ("exo_pair",),
    "rating_scale": ("rpo_bwd", "rpo_fwd", "rpo_squared"),
    "divergence_alpha": ("alpha_divergence",),
    "dpop_lambda": ("dpop",),
    "davidson_nu": ("davidson",),
    "discopop_tau": ("discopop",),
}
"""Settings that only some losses read."""


def described(content: Mapping[str, Any], record: RunRecord) -> list[Group]:
    """Every setting that had a part in the run, by groups; what is not known is left out.

    Args:
        content: of the run's settings file.
        record: what was noted down of it.
    """
    settings = _part(content, "settings")
    groups = [
        ("Data", _data(record)),
        *_objectives(_part(settings, "objective")),
        ("LoRA", _adapter(_part(content, "adapter"))),
        ("Steps", _steps(settings, record)),
        ("Optimiser", _optimizer(_part(settings, "optimizer"))),
        ("Noise", _noise(_part(settings, "noise"), settings)),
        ("Validation", _validation(_part(settings, "validation"))),
    ]
    return [(title, lines) for title, lines in groups if lines]


def base_name(content: Mapping[str, Any], record: RunRecord) -> str:
    """What the base model is called, as far as it is known."""
    return record.model or str(_part(content, "base").get("kind") or "") or "unknown model"


def losses(content: Mapping[str, Any]) -> list[str]:
    """The losses that were added up, by name."""
    objective = _part(_part(content, "settings"), "objective")
    return [str(term.get("loss", "?")) for term in _terms(objective)]


def _data(record: RunRecord) -> list[tuple[str, str]]:
    if not record.pairs:
        return []
    lines = [(f"{record.noun}s trained on", str(record.pairs))]
    if record.held_out:
        lines.append(("kept for validation", str(record.held_out)))
    return lines


def _objectives(settings: Mapping[str, Any]) -> list[Group]:
    terms = list(_terms(settings))
    return [
        ("Objective" if i == 0 else f"Objective {i + 1}", _objective(term, len(terms)))
        for i, term in enumerate(terms)
    ]


def _terms(settings: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    term = settings
    for _ in range(100):
        if not term:
            return
        yield term
        term = _part(term, "also")


def _objective(term: Mapping[str, Any], terms: int) -> list[tuple[str, str]]:
    usual = asdict(Objective())
    loss = str(term.get("loss", ""))
    known = LOSSES.get(loss)
    lines = [("loss", loss)] if loss else []
    if known is None or known.beta:
        beta = "beta" if known is None else known.beta
        if term.get("beta_per_epoch"):
            betas = ", ".join(_number(one) for one in term["beta_per_epoch"])
            lines.append(("beta for each look at all pairs", betas))
        elif beta in term:
            lines.append((beta, _number(term[beta])))
    for name in ("label_smoothing", "supervised_mix", "safeguard"):
        lines += _line(term, name)
    for name, losses in _OWN.items():
        if loss in losses:
            lines += _line(term, name)
    if term.get("adaptive_beta", "off") != usual["adaptive_beta"]:
        lines += _line(term, "adaptive_beta")
        if term["adaptive_beta"] == "target":
            lines += _line(term, "gradient_target")
    return lines + (_line(term, "weight") if terms > 1 else [])


def _adapter(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    if settings and "rank" not in settings:
        return [("refines", "a LoRA of its own rank and alpha"), *_line(settings, "dropout")]
    names = ("rank", "alpha", "kind", "targets", "pattern", "dropout")
    return _but_for_empty(settings, names, asdict(AdapterSettings()), ("pattern",))


def _steps(settings: Mapping[str, Any], record: RunRecord) -> list[tuple[str, str]]:
    names = ("batch_size", "grad_accumulation_steps", "seed")
    lines = [line for name in names for line in _line(settings, name)]
    if record.execution_mode:
        lines.append(("execution mode", record.execution_mode))
        lines.append(("gradient checkpointing", _value(record.gradient_checkpointing)))
    return lines


def _optimizer(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = (
        "algorithm", "learning_rate", "schedule", "warmup_steps", "total_steps", "weight_decay",
        "beta1", "beta2", "max_grad_norm", "ema",
    )  # fmt: skip
    hidden = ("total_steps", "weight_decay", "ema")
    return _but_for_empty(settings, names, asdict(OptimizerSettings()), hidden)


def _noise(settings: Mapping[str, Any], all_of_it: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("sigmas", "low", "high", "draws_per_pair", "cached_draws")
    lines = _but_for_empty(
        settings, names, asdict(NoiseSettings()), ("low", "high", "draws_per_pair", "cached_draws")
    )
    return lines + _line(all_of_it, "shared_noise")


def _validation(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = (
        "percent", "split_seed", "every", "at_start", "patience", "patience_mode", "save_best",
    )  # fmt: skip
    hidden = ("patience_mode",) if not settings.get("patience") else ()
    usual = asdict(ValidationSettings()) | {name: settings.get(name) for name in hidden}
    return _but_for_empty(settings, names, usual, hidden)


def _but_for_empty(
    settings: Mapping[str, Any], names: tuple[str, ...], usual: Mapping[str, Any],
    hidden: tuple[str, ...],
) -> list[tuple[str, str]]:
    """The lines of these names, but for those of ``hidden`` that are as usual."""
    return [
        line
        for name in names
        if not (name in hidden and settings.get(name) == usual.get(name))
        for line in _line(settings, name)
    ]


def _line(settings: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _value(settings[name]))] if name in settings else []


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return _number(value)
    return str(value)


def _number(value: Any) -> str:
    """As a person writes it: 5e-05 as 0.00005, 5000.0 as 5000."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(value)
    text = f"{value:.10f}".rstrip("0").rstrip(".")
    return text if value == 0 or (text.strip("-0.") and abs(value) < 1e9) else f"{value:g}"


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}
