"""The contest: entries that run once, as much judged for every arm, its table and its plot."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toykit.half_size import half_size

from dpo_core import __main__ as command
from dpo_core.demo.contest import entries, run_contest
from dpo_core.demo.contest_plot import PANEL_WIDTH, plot_contest
from dpo_core.demo.contest_table import contest_table, duels, win_rate
from dpo_core.demo.network import FlowNetwork
from dpo_core.demo.online import RoundSettings
from dpo_core.demo.plot import COLOURS
from dpo_core.demo.taste import TASTES, Taste, warm
from dpo_core.demo.trial_file import Row

WARM = TASTES["warm"]
SMALL = RoundSettings(rounds=2, prompts_per_round=1, images_per_prompt=2, steps_per_round=1)
CONTEST = ["online", "offline", "supervised"]


def quiet(stage: str, done: int, total: int) -> None:
    """No progress bar."""


@pytest.fixture(scope="module")
def network() -> Iterator[FlowNetwork]:
    with half_size(euler_steps=4) as half:
        yield half


def row(arm: str, scores: list[float], **others: Any) -> Row:
    """A result; the base model's pictures all score 0."""
    return {
        "arm": arm, "seed": 0, "judged": 64, "learning_rate": 0.0, "reward": 1.0, "drift": 1.0,
        "cpu_seconds": 7.4, "scores": scores, "base_scores": [0.0] * len(scores),
    } | others


@pytest.fixture(scope="module")
def arms(network: FlowNetwork, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    """Five seeds of the contest in small: 48 judged pictures, 24 steps, one rate for all arms."""
    size = RoundSettings(rounds=4, prompts_per_round=3, images_per_prompt=4, steps_per_round=6)
    wanted = entries(CONTEST, [size], range(5), held_out=8, learning_rates=[1e-3])
    rows = run_contest(network, WARM, wanted, tmp_path_factory.mktemp("contest"), quiet)
    return {arm: [each for each in rows if each["arm"] == arm] for arm in CONTEST}


def reward(rows: list[Row]) -> float:
    return statistics.mean(each["reward"] for each in rows)


def share_won(rows: list[Row], against: list[Row]) -> float:
    """Of pictures from the same prompts and seeds."""
    found = list(duels(rows, against))
    assert len(found) == 5
    return sum(wins for wins, _ in found) / sum(count for _, count in found)


# Measured on seeds 0 to 9: online gained 0.84 on average and offline 0.47, and the difference had a
# spread of 0.5 over seeds, so 0.2 over five of them.
def test_online_is_at_least_as_good_as_offline(arms: dict[str, list[Row]]) -> None:
    online, offline = arms["online"], arms["offline"]
    assert win_rate(online).value >= win_rate(offline).value - 0.05
    assert share_won(online, offline) >= 0.5
    assert reward(online) >= reward(offline) - 0.1


def test_offline_is_above_supervised_training(arms: dict[str, list[Row]]) -> None:
    offline, supervised = arms["offline"], arms["supervised"]
    assert win_rate(offline).value >= win_rate(supervised).value - 0.05
    assert share_won(offline, supervised) > 0.6
    assert reward(offline) > reward(supervised) + 0.1 > 0.1


def test_nobody_drifts_far_from_the_base(arms: dict[str, list[Row]]) -> None:
    assert all(0.5 < each["drift"] < 2 for rows in arms.values() for each in rows)


def test_online_pictures_score_higher_from_round_to_round(arms: dict[str, list[Row]]) -> None:
    """Of prompts that are others each time, so only first and last over all seeds are compared."""
    first, last = (
        statistics.mean(each["round_scores"][i] for each in arms["online"]) for i in (0, -1)
    )
    assert last > first


def test_an_entry_runs_once_and_one_cut_short_leaves_nothing(
    network: FlowNetwork, tmp_path: Path
) -> None:
    wanted = entries(CONTEST, [SMALL], [0], held_out=2)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_contest(network, WARM, wanted, tmp_path, stop)
    assert len(list((tmp_path / "trials").iterdir())) == 2
    first = run_contest(network, WARM, wanted, tmp_path, quiet)
    assert [each["arm"] for each in first] == CONTEST
    assert len(list((tmp_path / "trials").iterdir())) == 3
    assert (tmp_path / "plot.png").exists() and (tmp_path / "table.md").exists()
    again = run_contest(network, WARM, wanted, tmp_path, quiet)
    assert again == first  # seconds included: nothing ran again
    other = entries(["supervised"], [SMALL], [0], held_out=2, learning_rates=[1e-4])
    (another,) = run_contest(network, WARM, other, tmp_path, quiet)
    assert another["learning_rate"] == 1e-4
    assert len(list((tmp_path / "trials").iterdir())) == 4


def test_as_many_pictures_are_judged_for_every_arm(network: FlowNetwork, tmp_path: Path) -> None:
    seen: dict[str, int] = {}
    for arm in CONTEST:
        asked = []

        def count(picture: np.ndarray, asked: list[int] = asked) -> float:
            asked.append(1)
            return warm(picture)

        counting = Taste("counting", "what it is asked about", count)
        run_contest(network, counting, entries([arm], [SMALL], [0], 2), tmp_path / arm, quiet)
        seen[arm] = len(asked)
    held_out = 2 * 2 * 2  # two pictures with and two without the LoRA, looked at twice
    assert seen == dict.fromkeys(CONTEST, SMALL.judged + held_out)


def test_unknown_arms_and_sizes_out_of_range_are_refused_all_at_once() -> None:
    with pytest.raises(ValueError, match="(?s)rounds is 0.*judged is 0.*no arm magic.*supervised"):
        entries(["magic"], [RoundSettings(rounds=0)], [0], held_out=0)


def test_the_command_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = ["--images", "1", "--steps", "0", "--prompts", "0", "--out", str(tmp_path)]
    assert command.main(["online", *wrong]) == 1
    said = capsys.readouterr().err
    for name in ("images_per_prompt is 1", "steps_per_round is 0", "prompts_per_round is 0"):
        assert name in said
    assert list(tmp_path.iterdir()) == []


def test_a_tie_counts_one_half() -> None:
    assert win_rate([row("online", [1.0, 0.0, -1.0, 2.0])]).value == 2.5 / 4


def test_the_table_pools_pictures_over_seeds_and_tells_who_is_ahead() -> None:
    table = contest_table([
        row("online", [1.0] * 9 + [-1.0], reward=1.0),
        row("online", [1.0] * 7 + [-1.0] * 3, seed=1, reward=2.0),
        row("offline", [0.5] * 10),
        row("offline", [0.5] * 5 + [2.0] * 5, seed=1),
    ])
    lines = table.splitlines()
    assert lines[0] == "### 64 judged pictures"
    # 16 of 20 wins: Wilson's interval is 58 to 92 %. 20 of 20: 84 to 100 %.
    assert lines[4] == "| online | 80 % (58 to 92 %) | 1.50 ± 0.71 | 1.00 ± 0.00 | 7 | 2 |"
    assert lines[5].startswith("| offline | 100 % (84 to 100 %) |")
    # Online wins 9 rows of seed 0, and 5 of seed 1, which is no more than half. 14 of 20.
    assert lines[9] == "| online against offline | 70 % (48 to 85 %) | 1 of 2 seeds |"


def test_arms_that_share_no_seed_are_not_compared() -> None:
    table = contest_table([row("online", [1.0]), row("offline", [1.0], seed=1)])
    assert "online against offline" not in table


def test_the_plot_shows_who_wins_more_further_up_at_each_size() -> None:
    plot = np.array(plot_contest([
        row(arm, [1.0] * wins + [-1.0] * (10 - wins), judged=judged)
        for judged in (32, 64) for arm, wins in (("online", 9), ("offline", 4))
    ]))
    panel = plot[:280, :PANEL_WIDTH]
    online, offline = (np.argwhere((panel == colour).all(axis=2)) for colour in COLOURS[:2])
    assert online[:, 0].mean() < offline[:, 0].mean() - 40
    for arm in (online, offline):  # a line from one size to the other
        assert np.ptp(arm[:, 1]) > 100
