"""Names over time, as pure data: what every change does to a name, and what must hold after any of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurodial.control.errors import BadInput, InternalError, NotFound
from neurodial.service.sets import aliases
from neurodial.service.sets.aliases import HISTORY, Alias, Version

DIGESTS = [f"sha256:{i:x}" + "0" * 63 for i in range(16)]
CHANGES = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(DIGESTS)),
    st.tuples(st.just("configure"), st.sampled_from([*DIGESTS, None])),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("rollback"), st.sampled_from([*DIGESTS, None])),
)


def apply(alias: Alias, action: str, digest: str | None) -> Alias:
    """One change; the alias as it was where the change is refused or changes nothing."""
    try:
        if action == "publish":
            return aliases.published(alias, str(digest)) or alias
        if action == "configure":
            return aliases.configured(alias, digest) or alias
        return aliases.deleted(alias, "x") if action == "delete" else aliases.rolled_back(alias, "x", digest)
    except (BadInput, NotFound):
        return alias


@given(st.lists(CHANGES, max_size=40))
def test_what_holds_after_any_changes(changes: list[tuple[str, str | None]]) -> None:
    alias = Alias()
    for action, digest in changes:
        before, alias = alias, apply(alias, action, digest)
        assert len(set(alias.history)) == len(alias.history) <= HISTORY
        assert alias.digest not in alias.history
        if before.digest is not None and before.digest != alias.digest:
            assert alias.history[-1] == before.digest  # what was left can be brought back
            assert aliases.rolled_back(alias, "x", None).digest == before.digest
        assert alias.references == (frozenset() if alias.digest is None else {alias.digest, *alias.history})


def test_rollback_twice_is_back_where_it_was_and_to_reaches_every_kept_version() -> None:
    alias = Alias()
    for digest in DIGESTS[:3]:
        alias = aliases.published(alias, digest) or alias
    once = aliases.rolled_back(alias, "x", None)
    assert (once.digest, aliases.rolled_back(once, "x", None)) == (DIGESTS[1], alias)
    assert aliases.rolled_back(alias, "x", DIGESTS[0][:12]).digest == DIGESTS[0]
    with pytest.raises(BadInput, match="no earlier version"):
        aliases.rolled_back(alias, "x", DIGESTS[9])
    with pytest.raises(BadInput, match="several earlier"):
        aliases.rolled_back(alias, "x", "sha256:")
    with pytest.raises(BadInput, match="no earlier version"):
        aliases.rolled_back(Alias(DIGESTS[0]), "x", None)
    with pytest.raises(NotFound):
        aliases.rolled_back(Alias(), "x", None)


def test_a_deleted_name_comes_back_by_a_rollback() -> None:
    gone = aliases.deleted(Alias(DIGESTS[0]), "x")
    assert gone.references == frozenset()
    assert aliases.rolled_back(gone, "x", None).digest == DIGESTS[0]
    with pytest.raises(NotFound):
        aliases.deleted(gone, "x")


def test_the_configuration_loses_to_later_changes_and_wins_when_it_changes_itself() -> None:
    first = aliases.configured(Alias(), DIGESTS[0])
    assert first == Alias(DIGESTS[0], (), DIGESTS[0])
    assert aliases.configured(first, DIGESTS[0]) is None
    uploaded = aliases.published(first, DIGESTS[1])
    assert uploaded is not None
    assert aliases.configured(uploaded, DIGESTS[0]) is None  # a restart keeps what was published
    gone = aliases.deleted(uploaded, "x")
    assert aliases.configured(gone, DIGESTS[0]) is None  # and what was deleted stays away
    changed = aliases.configured(uploaded, DIGESTS[2])
    assert changed is not None
    assert (changed.digest, changed.history, changed.configured) == (DIGESTS[2], (DIGESTS[0], DIGESTS[1]), DIGESTS[2])
    removed = aliases.configured(first, None)
    assert removed is not None
    assert (removed.digest, removed.configured) == (None, None)
    kept = aliases.configured(uploaded, None)
    assert kept is not None
    assert (kept.digest, kept.configured) == (DIGESTS[1], None)


def test_a_version_is_what_it_was_after_a_round_trip() -> None:
    version = Version().changed("m", "x", Alias(DIGESTS[0], (DIGESTS[1],), DIGESTS[0]), action="configure", by="c")
    version = version.changed("org/m", "y", Alias(DIGESTS[2]), action="publish", by="anna")
    again = Version.decode(version.encode(), "the file")
    assert again == version
    assert again.number == 2
    assert again.references == frozenset(DIGESTS[:3])
    assert again.alias("m", "y") == Alias()
    for broken in (version.encode()[:-5], b"", b"{}x", b'{"number": "a"}', b'{"schema": 2}'):
        with pytest.raises(InternalError, match="the file in the store"):
            Version.decode(broken, "the file")
