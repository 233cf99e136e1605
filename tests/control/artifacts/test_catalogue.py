"""References to neuron sets: by name, and by digest from a store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from neurodial.control.artifacts.catalogue import SetCatalogue, StoredSets
from neurodial.control.artifacts.files import write_set_file
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import ControlError, NeuronSetError, NotFound


class Store:
    """A content-addressed store in memory that counts what is read."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.read_digests: list[str] = []

    def put(self, found: NeuronSet, folder: Path) -> str:
        """Stores a set; its digest."""
        found.save(folder / "set.safetensors")
        self.files[found.digest] = (folder / "set.safetensors").read_bytes()
        return found.digest

    def read(self, digest: str) -> bytes:
        """As `StoredSets` calls it."""
        self.read_digests.append(digest)
        if digest not in self.files:
            raise NotFound(f"the store has no {digest}")
        return self.files[digest]


@pytest.fixture
def store() -> Store:
    """An empty one."""
    return Store()


def test_a_set_is_read_once_whatever_it_is_called(
    store: Store, set_factory: Callable[..., NeuronSet], tmp_path: Path
) -> None:
    """The digest is the identity; names are for people."""
    digest = store.put(set_factory(), tmp_path)
    sets = StoredSets(store.read)
    assert sets.get(f"tense@{digest}").digest == digest
    assert sets.get(f"renamed@{digest}") is sets.get(f"tense@{digest}")
    assert store.read_digests == [digest]
    assert sets.names() == []


def test_memory_is_bounded(store: Store, set_factory: Callable[..., NeuronSet], tmp_path: Path) -> None:
    """The set that was used longest ago is read again; the latest stays even if it alone is too large."""
    first, second, third = (store.put(set_factory("sha256:" + f * 64), tmp_path) for f in "abc")
    size = len(store.files[first])
    sets = StoredSets(store.read, max_bytes=2 * size + 10)
    for digest in (first, second, first, third, first, second):
        sets.get(f"x@{digest}")
    assert store.read_digests == [first, second, third, second]
    tight = StoredSets(store.read, max_bytes=1)
    store.read_digests.clear()
    for digest in (first, first, second, first):
        tight.get(f"x@{digest}")
    assert store.read_digests == [first, second, first]


def test_what_the_store_holds_is_verified(store: Store, set_factory: Callable[..., NeuronSet], tmp_path: Path) -> None:
    """Another set, a truncated one, none at all."""
    digest = store.put(set_factory(), tmp_path)
    other = "sha256:" + "f" * 64
    store.files[other] = store.files[digest]
    with pytest.raises(NeuronSetError, match="the store holds"):
        StoredSets(store.read).get(f"tense@{other}")
    store.files[digest] = store.files[digest][:100]
    with pytest.raises(NeuronSetError, match="not a readable neuron set"):
        StoredSets(store.read).get(f"tense@{digest}")
    with pytest.raises(NotFound):
        StoredSets(store.read).get("tense@sha256:" + "e" * 64)


def test_names_and_first_digits_are_those_of_the_fixed_sets(
    store: Store, set_factory: Callable[..., NeuronSet], tmp_path: Path
) -> None:
    """A store has no names of its own."""
    found = set_factory()
    sets = StoredSets(store.read, fixed=SetCatalogue({"tense": found}))
    assert sets.names() == ["tense"]
    assert sets.get("tense") is sets.get(f"tense@{found.digest[:14]}") is sets.get(f"x@{found.digest}") is found
    assert SetCatalogue({"tense": found}).get(f"renamed@{found.digest}") is found
    for reference in ("mood", "tense@sha256:0000", "tense@", "tense@sha256:"):
        with pytest.raises(ControlError):
            sets.get(reference)
    assert store.read_digests == []


def test_bytes_are_read_as_files_are(set_factory: Callable[..., NeuronSet], tmp_path: Path) -> None:
    """And every part of a file that is damaged is a `NeuronSetError`, never anything else."""
    file = tmp_path / "set.safetensors"
    set_factory().save(file)
    content = file.read_bytes()
    assert NeuronSet.parse(content).digest == NeuronSet.load(file).digest
    damaged = [b"", b"\0" * 8, b"\xff" * 40, content[:7], content[:-1], b"not a set at all", content + b"x"]
    for start in range(0, 400, 7):
        damaged.append(content[:start] + bytes([content[start] ^ 0x15]) + content[start + 1 :])
    num_refused = 0
    for data in damaged:
        try:
            found = NeuronSet.parse(data)
        except NeuronSetError:
            num_refused += 1
        else:
            assert (found.digest, found.created) != (set_factory().digest, set_factory().created)
    assert num_refused > len(damaged) / 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concept", 5),
        ("evidence", ["much"]),
        ("labels", "ab"),
        ("labels", []),
        ("sites", [5]),
        ("sites", ["nowhere"]),
        ("readouts", [{"site": "encoder.embed"}]),
        ("recommended", {"op": "explode", "where": "all", "strength": {}, "top": None}),
        ("recommended", {"op": "shift", "where": "all", "strength": {"past": "much"}, "top": None}),
        ("recommended", "shift"),
        ("schema_version", None),
    ],
)
def test_metadata_of_the_wrong_kind_is_named(
    set_factory: Callable[..., NeuronSet], tmp_path: Path, name: str, value: object
) -> None:
    """Somebody else may have written it."""
    found, file = set_factory(), tmp_path / "set.safetensors"
    write_set_file(file, found._tensors(), found._metadata() | {name: value})
    with pytest.raises(NeuronSetError):
        NeuronSet.parse(file.read_bytes())


@pytest.mark.parametrize("document", ["[]", '"x"', "[" * 100_000])
def test_metadata_that_is_no_object_is_refused(tmp_path: Path, document: str) -> None:
    """Nor one that is nested without end."""
    from safetensors.numpy import save

    with pytest.raises(NeuronSetError, match="not a readable"):
        NeuronSet.parse(save({}, metadata={"neurodial": document}))
