"""How rounds of online training are played."""

from __future__ import annotations

from dataclasses import dataclass

from ....dpo_core.metadata.prompt_text import MAX_PROMPT_CHARS, tidy_prompt
from ....dpo_core.ranking.vote import MAX_IMAGES
from ..sampling import SamplerSettings, prompts_of

REFERENCES = ("keep", "each_round")
MOST_HELD_OUT = 4
"""Prompts of the held-out pictures, where none are named."""


@dataclass(frozen=True)
class OnlineSettings(SamplerSettings):
    """As on the node."""

    prompts: str = "a photo of a cat"
    """What is drawn in every round, one prompt a line. Many different ones teach a taste; few teach
    those few pictures."""

    negative: str = ""
    """The negative prompt of all pictures."""

    rounds: int = 3
    """With a judge: how many rounds in all; raise it to go on. Where you rank yourself, every Run
    is a round, as many as you like."""

    images_per_prompt: int = 4
    """Pictures drawn of each prompt in a round, by the LoRA as it then is. More give clearer pairs
    and take longer."""

    steps_per_round: int = 50
    """Updates of the LoRA after each round, 50 to 100 as a rule."""

    seed: int = 0
    """Of the pictures: every round and prompt draws with other seeds that follow from it."""

    guidance: float = 3.5
    """For models that have guidance built in, such as Flux: what you generate with. Other models
    ignore it."""

    pairs_per_group: int = 1
    """Pairs made of each prompt's pictures, where they are told apart so far. An image is in one
    pair of its group."""

    min_gap: float = 0.0
    """With a judge: by how much the scores of two images must differ to make a pair. Groups in
    which none do are not trained on."""

    replay: float = 0.5
    """Share of earlier pairs, of the rounds before and of the trainer's own dataset, among those a
    round trains on. 0 trains on new pairs alone."""

    reference: str = "keep"
    """What the LoRA is held to. keep: the model as it was before all rounds. each_round: the LoRA
    at the beginning of the round, so that it may move further away, round by round."""

    prompts_per_round: int = 0
    """Draws so many of the prompts in each round, one after the other; 0 draws all."""

    held_out_prompts: str = ""
    """Drawn before the first and after every round with seeds that are never trained on, to see
    how far it has come; one a line. Left empty: the first four prompts."""

    held_out_seeds: int = 1
    """Held-out pictures of each such prompt; 0 draws none."""

    patience: int = 0
    """With a judge: stops after so many rounds without a better score on the held-out pictures. 0
    never stops early."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The prompts, each once."""
        return tuple(dict.fromkeys(map(tidy_prompt, prompts_of(self.prompts))))

    @property
    def held_out(self) -> tuple[tuple[str, int], ...]:
        """Prompt and seed of every held-out picture; the seeds are far from those of training."""
        lines = tuple(dict.fromkeys(map(tidy_prompt, prompts_of(self.held_out_prompts))))
        prompts = lines or self.lines[:MOST_HELD_OUT]
        first = (self.seed ^ 1 << 62) & (1 << 64) - 1
        return tuple(
            (prompt, first + self.held_out_seeds * i + k)
            for i, prompt in enumerate(prompts)
            for k in range(self.held_out_seeds)
        )

    def prompts_of_round(self, number: int) -> tuple[str, ...]:
        """The prompts of a round, counted from 1: all, or as many as are asked for, in turn."""
        lines = self.lines
        if not 0 < self.prompts_per_round < len(lines):
            return lines
        first = (number - 1) * self.prompts_per_round
        return tuple(lines[(first + i) % len(lines)] for i in range(self.prompts_per_round))

    def seed_of(self, place: int) -> int:
        """Of the pictures of a prompt, by its place among those of all rounds."""
        return (self.seed + place) & (1 << 62) - 1

    @property
    def tidy_negative(self) -> str:
        """The negative prompt as it is encoded."""
        return tidy_prompt(self.negative)

    def problems(self) -> list[str]:
        """Everything out of range, each with its fix."""
        found = [] if self.lines else ["There is no prompt: write at least one line."]
        if any(len(line) > MAX_PROMPT_CHARS for line in (*self.lines, self.tidy_negative)):
            found.append(f"A prompt is longer than {MAX_PROMPT_CHARS} characters: shorten it.")
        for name in ("rounds", "steps_per_round", "pairs_per_group"):
            if getattr(self, name) < 1:
                found.append(f"{name} is {getattr(self, name)}: use 1 or more.")
        for name in ("prompts_per_round", "held_out_seeds", "patience"):
            if getattr(self, name) < 0:
                found.append(f"{name} is {getattr(self, name)}: use 0 or more.")
        if not 2 <= self.images_per_prompt <= MAX_IMAGES:
            found.append(
                f"images_per_prompt is {self.images_per_prompt}: use 2 to {MAX_IMAGES}; one alone "
                "can be preferred to nothing."
            )
        if not 0 <= self.replay < 1:
            found.append(f"replay is {self.replay:g}: use 0 to below 1, 0.5 is usual.")
        if not self.min_gap >= 0:
            found.append(f"min_gap is {self.min_gap:g}: use 0 or more.")
        if self.patience > 0 and self.held_out_seeds == 0:
            found.append("patience needs held-out pictures: set held_out_seeds to 1 or more.")
        if self.reference not in REFERENCES:
            found.append(f"reference is {self.reference!r}: choose {', '.join(REFERENCES)}.")
        return found + super().problems()
