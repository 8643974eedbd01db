from __future__ import annotations

from collections import Counter

import pytest

from dpo_core.training.plan import BatchPlan, Epochs, MicroBatch

BUCKETS = [[0, 2, 4, 6, 8], [1, 3], [5]]


def micro_batches(plan: BatchPlan, steps: int) -> list[MicroBatch]:
    return [micro_batch for step in range(steps) for micro_batch in plan.step(step)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_epoch_visits_every_pair_once(batch_size: int, accumulation: int) -> None:
    plan = BatchPlan(BUCKETS, batch_size, accumulation, seed=0)
    per_epoch = sum(-(-len(bucket) // batch_size) for bucket in BUCKETS)
    seen: dict[int, Counter[int]] = {}
    # As many steps as micro-batches of one epoch are exactly `accumulation` epochs.
    for micro_batch in micro_batches(plan, per_epoch):
        seen.setdefault(micro_batch.visit, Counter()).update(micro_batch.indices)
    assert sorted(seen) == list(range(accumulation))
    everything = Counter(index for bucket in BUCKETS for index in bucket)
    assert all(counts == everything for counts in seen.values())


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_buckets_never_mix_and_batches_are_as_large_as_they_can_be(batch_size: int) -> None:
    plan = BatchPlan(BUCKETS, batch_size, 1, seed=1)
    for micro_batch in micro_batches(plan, 40):
        assert any(set(micro_batch.indices) <= set(bucket) for bucket in BUCKETS)
        assert 1 <= len(micro_batch.indices) <= batch_size
    sizes = Counter(len(m.indices) for m in micro_batches(BatchPlan(BUCKETS, 2, 1, 0), 5))
    assert sizes == {2: 3, 1: 2}  # 5 = 2 + 2 + 1, 2 = 2, 1 = 1


def test_a_step_depends_on_nothing_but_seed_and_its_number() -> None:
    in_order = BatchPlan(BUCKETS, 2, 3, seed=7)
    steps = [in_order.step(step) for step in range(30)]
    jumping = BatchPlan(BUCKETS, 2, 3, seed=7)
    for step in (29, 0, 17, 3, 28, 3, 11, 29):
        assert jumping.step(step) == steps[step]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def epochs(seed: int) -> list[list[tuple[int, ...]]]:
        plan = BatchPlan([list(range(12))], 1, 12, seed)
        return [[micro_batch.indices for micro_batch in plan.step(epoch)] for epoch in range(3)]

    orders = epochs(0) + epochs(1)
    assert len({tuple(order) for order in orders}) == 6
    assert [(i,) for i in range(12)] not in orders


def test_pairs_change_company_between_epochs() -> None:
    plan = BatchPlan([list(range(12))], 4, 3, seed=0)
    groups = [{frozenset(m.indices) for m in plan.step(epoch)} for epoch in range(2)]
    assert groups[0] != groups[1]


def test_buckets_take_turns_in_an_order_drawn_from_the_seed() -> None:
    plan = BatchPlan([list(range(8)), list(range(8, 16))], 1, 16, seed=0)
    order = [m.indices[0] < 8 for m in plan.step(0)]
    assert order != sorted(order) and order != sorted(order, reverse=True)


def test_the_order_is_the_same_on_every_machine() -> None:
    # Drawn once; if this changes, resumed runs continue with other pairs than they began with.
    plan = BatchPlan(BUCKETS, 2, 5, seed=3)
    assert [m.indices for m in plan.step(0)] == [(5,), (8,), (3, 1), (0, 6), (2, 4)]


def test_epoch_counts_visits_of_the_whole_set() -> None:
    plan = BatchPlan(BUCKETS, 2, 2, seed=0)  # 5 micro-batches an epoch
    assert [plan.epoch_of(step) for step in (0, 1, 5, 10)] == [0.0, 0.4, 2.0, 4.0]


def test_no_pair_at_all_is_refused_and_an_empty_bucket_is_not_missed() -> None:
    nothings: list[list[list[int]]] = [[], [[]], [[], []]]
    for nothing in nothings:
        with pytest.raises(ValueError, match="no pair"):
            BatchPlan(nothing, 1, 1, 0)
    assert BatchPlan([[], [0]], 1, 1, 0).step(0) == [MicroBatch((0,), 0)]


def test_epochs_over_added_pairs_begin_at_once_and_visits_are_counted_on() -> None:
    before = BatchPlan([[0, 1]], 1, 2, seed=0)  # a visit is one step
    assert [before.visits_before(step) for step in (0, 1, 3)] == [0, 1, 3]
    after = BatchPlan([[0, 1, 2, 3]], 1, 2, 0, Epochs("", first_step=3, first_visit=3))
    first, second = after.step(3), after.step(4)
    assert sorted(m.indices for m in first + second) == [(0,), (1,), (2,), (3,)]
    assert {m.visit for m in first + second} == {3}
    assert after.step(5)[0].visit == 4
    assert [after.visits_before(step) for step in (3, 4, 5, 6)] == [3, 4, 4, 5]
    assert [after.epoch_of(step) for step in (3, 4, 5)] == [3.0, 3.5, 4.0]
