"""The mix: pure, exact shares, whole passes, reproducible across processes."""

import itertools
import pickle

import numpy as np
import pytest

from hmrkit.data.mix import BLOCK_SIZE, Mix, MixSource

SOURCES = [MixSource("a", 5.0, 137), MixSource("b", 3.0, 2000), MixSource("c", 2.0, 64)]
GOLDEN = [(1, 1715), (0, 123), (1, 1886), (1, 1251), (0, 8)]
GOLDEN_AUGMENT = 213688440


def test_draw_t_does_not_depend_on_what_was_drawn_before():
    order = np.random.default_rng(0).permutation(4000)
    forward = [Mix(SOURCES, 7).draw(t) for t in (0, 1, 999, 1000, 3999)]
    mix = Mix(SOURCES, 7)
    shuffled = {int(t): mix.draw(int(t)) for t in order}
    assert [shuffled[t] for t in (0, 1, 999, 1000, 3999)] == forward


def test_draws_are_these_for_ever():
    # If a number here changes, no old run can be resumed or repeated.
    mix = Mix(SOURCES, 7)
    assert [mix.draw(t) for t in (0, 1, 2, 5000, 123456)] == GOLDEN
    assert mix.augmentation(3).integers(1 << 30) == GOLDEN_AUGMENT


def test_shares_are_exact_in_every_block():
    mix = Mix(SOURCES, 1)
    for block in range(3):
        drawn = [mix.draw(block * BLOCK_SIZE + slot)[0] for slot in range(BLOCK_SIZE)]
        assert np.bincount(drawn).tolist() == [500, 300, 200]


def test_quotas_add_up_for_weights_that_do_not_divide():
    mix = Mix([MixSource(str(i), 1.0, 5) for i in range(7)], 0)
    assert mix.quotas.sum() == BLOCK_SIZE
    assert set(mix.quotas.tolist()) == {142, 143}


@pytest.mark.parametrize("chunk_size", [0, 8])
def test_every_unit_comes_once_per_pass_and_passes_differ(chunk_size):
    mix = Mix(SOURCES, 3, chunk_size)
    units = [unit for source, unit in map(mix.draw, range(4000)) if source == 0]
    passes = np.array(units[: 137 * 14]).reshape(14, 137)
    assert (np.sort(passes, axis=1) == np.arange(137)).all()
    assert len({tuple(row) for row in passes.tolist()}) == 14


def test_seeds_and_purposes_are_independent():
    draws = {seed: [Mix(SOURCES, seed).draw(t) for t in range(200)] for seed in range(4)}
    assert len({tuple(d) for d in draws.values()}) == 4
    mix = Mix(SOURCES, 0)
    numbers = [mix.augmentation(t).integers(1 << 62) for t in range(1000)]
    assert len(set(numbers)) == 1000


SIZES = np.array([3, 1, 0, 4, 2] * 40)  # units of every group


@pytest.mark.parametrize("chunk_size", [0, 8])
def test_units_of_one_group_stay_together_and_come_once_per_pass(chunk_size):
    total = int(SIZES.sum())
    mix = Mix([MixSource("a", 1.0, total, SIZES)], 4, chunk_size)
    group_of_unit = np.repeat(np.arange(len(SIZES)), SIZES)
    orders = []
    for number in range(3):
        units = [mix.draw(t)[1] for t in range(number * total, (number + 1) * total)]
        assert sorted(units) == list(range(total))
        runs = [group for group, _ in itertools.groupby(group_of_unit[units])]
        assert len(runs) == len(set(runs)) == (SIZES > 0).sum()
        orders.append(tuple(runs))
    assert len(set(orders)) == 3
    if chunk_size:
        window = {group // chunk_size for group in orders[0][:64]}  # runs of neighbours
        assert len(window) <= 16


def test_chunk_shuffle_keeps_neighbours_near():
    mix = Mix([MixSource("a", 1.0, 64 * 200)], 0, chunk_size=64)
    window = np.sort([mix.draw(t)[1] for t in range(16 * 64)])
    assert (np.diff(window) == 1).sum() >= 16 * 63


def test_dropping_a_source_leaves_the_order_of_the_others():
    both, one = Mix(SOURCES[:2], 5), Mix(SOURCES[:1], 5)
    first = [unit for source, unit in map(both.draw, range(600)) if source == 0]
    assert first[:137] == [one.draw(t)[1] for t in range(137)]


def test_replacements_stay_in_the_source_and_are_deterministic():
    mix = Mix(SOURCES, 2)
    for t in range(50):
        source, _ = mix.draw(t)
        units = [mix.reserve(t, attempt) for attempt in range(5)]
        assert all(0 <= unit < SOURCES[source].num_units for unit in units)
        assert units == [Mix(SOURCES, 2).reserve(t, attempt) for attempt in range(5)]


def test_a_mix_survives_pickling():
    mix = Mix([*SOURCES, MixSource("d", 1.0, int(SIZES.sum()), SIZES)], 9)
    mix.draw(0)
    copy = pickle.loads(pickle.dumps(mix))
    assert [copy.draw(t) for t in range(100)] == [mix.draw(t) for t in range(100)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least one source"),
        ([MixSource("coco", 0.0, 5)], "coco.*weight 0.0 must be > 0"),
        ([MixSource("coco", float("nan"), 5)], "coco.*weight nan"),
        ([MixSource("big", 1.0, 5), MixSource("tiny", 1e-5, 5)], "tiny.*never be drawn"),
    ],
)
def test_bad_mixes_are_named(sources, message):
    with pytest.raises(ValueError, match=message):
        Mix(sources, 0)
