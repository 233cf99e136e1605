"""Places that slots share: equal contents have one, and what nobody holds is taken again."""

import pytest

from neurodial.control.errors import Overloaded
from neurodial.control.runtime.pool import Pool


def test_equal_contents_share_a_place_until_the_last_lets_go() -> None:
    """A content stays where it is, and is not written again, while its place is not needed."""
    pool = Pool(2)
    assert pool.take(1, b"a") == (0, True)
    assert pool.take(2, b"a") == (0, False)
    assert pool.take(3, b"b") == (1, True)
    with pytest.raises(Overloaded):
        pool.take(4, b"c")
    pool.release(1)
    with pytest.raises(Overloaded):
        pool.take(4, b"c")
    pool.release(2)
    assert pool.take(5, b"a") == (0, False)
    pool.release(5)
    assert pool.take(4, b"c") == (0, True)
    assert pool.take(6, b"b") == (1, False)
