"""Padding on either side, and batches of similar lengths within a budget."""

from hypothesis import given
from hypothesis import strategies as st

from neurodial.control.text.batching import EFFICIENT, by_length, padded


def test_rows_are_filled_up_on_either_side() -> None:
    ids, mask = padded([(5, 6, 7), (8,)], 0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    ids, mask = padded([[5, 6, 7], [8]], 1, left=True)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert padded([()], 9)[0].tolist() == [[9]]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.sampled_from([16, 64, 400]))
def test_batches_hold_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    numbers = range(len(lengths))
    batches = list(by_length(numbers, lambda i: lengths[i], budget))
    flat = [i for batch in batches for i in batch]
    assert flat == sorted(numbers, key=lambda i: lengths[i])
    assert all(len(batch) == 1 or len(batch) * lengths[batch[-1]] <= budget for batch in batches)


def test_a_large_batch_ends_where_padding_grows() -> None:
    lengths = [10] * (EFFICIENT // 10 + 1) + [100]
    assert len(list(by_length(lengths, int, 10**6))) == 1
    assert [len(batch) for batch in by_length(lengths, int, 10**6, most_padding=0.2)] == [len(lengths) - 1, 1]
