"""The store: writers that collide, readers in between, the size cap, and stores that cannot be used."""

import errno
import itertools
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurodial.control.errors import BadInput, ConfigError, InternalError, NotFound, Unavailable
from neurodial.service.sets import aliases
from neurodial.service.sets.aliases import Alias, Version
from neurodial.service.sets.files import Files
from neurodial.service.sets.store import SetStore, StoreFull


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def num_bytes(uri: str) -> int:
    """Bytes of all neuron sets."""
    return sum(Files(uri).sizes("sets").values())


def naming(name: str, number: int | None, by: str = "anna") -> Callable[[Version], Version | None]:
    """A change that lets a name stand for a set, or deletes it."""

    def make(version: Version) -> Version | None:
        alias = version.alias("m", name).at(None if number is None else digest(number))
        return version.changed("m", name, alias, action="publish" if number is not None else "delete", by=by)

    return make


@pytest.fixture(params=["folder", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, and what stands for a bucket."""
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def test_what_is_put_is_read(uri: str) -> None:
    store = SetStore(uri)
    assert store.newest() == Version()
    assert num_bytes(uri) == 0
    store.put(digest(1), b"content", b"{}")
    store.put(digest(1), b"content", b"{}")
    again = SetStore(uri)
    assert (again.read(digest(1)), again.card(digest(1)), num_bytes(uri)) == (b"content", b"{}", 9)
    with pytest.raises(NotFound, match="does not hold"):
        store.read(digest(2))
    for wrong in ("sha256:../../x", "../x", "sha256:" + "A" * 64, digest(1) + "0", ""):
        with pytest.raises(BadInput, match="not a digest"):
            store.read(wrong)


def test_writers_that_collide_lose_no_change_and_readers_see_whole_versions(uri: str) -> None:
    writers, each, seen, failures = 4, 12, [0], []
    is_over = threading.Event()

    def write(writer: int) -> None:
        store = SetStore(uri)
        for number in range(each):
            store.change(naming(f"{writer}-{number}", number, by=f"w{writer}"))

    def read() -> None:
        store, version = SetStore(uri), Version()
        try:
            while not is_over.is_set():
                version = store.newest(version)
                assert len(version.aliases.get("m", {})) == version.number
                seen.append(version.number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(w,)) for w in range(writers)]
    reader = threading.Thread(target=read)
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    is_over.set()
    reader.join(60)
    assert failures == []
    assert seen == sorted(seen)
    versions = list(SetStore(uri).versions())
    assert [v.number for v in versions] == list(range(writers * each, 0, -1))
    assert set(versions[0].aliases["m"]) == {f"{w}-{n}" for w in range(writers) for n in range(each)}
    for later, earlier in itertools.pairwise(versions):  # every version is its predecessor and one change
        assert later.event is not None
        added = {later.event.name: Alias(later.event.digest)}
        assert later.aliases["m"] == {**earlier.aliases["m"], **added}


def test_processes_that_collide_lose_no_change(tmp_path: Path) -> None:
    code = (
        "import sys; from neurodial.service.sets.store import SetStore\n"
        "from neurodial.service.sets.aliases import Alias\n"
        "store, who = SetStore(sys.argv[1]), sys.argv[2]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(25): store.change("
        "lambda v: v.changed('m', f'{who}{n}', Alias('sha256:' + '0' * 64), action='publish', by=who))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for who in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
        assert writer.returncode == 0
    newest = SetStore(str(tmp_path)).newest()
    assert newest.number == len(newest.aliases["m"]) == 50


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9)), st.integers(1, 40)), max_size=25
    )
)
def test_the_cap_is_never_passed_and_nothing_in_use_is_dropped(
    changes: list[tuple[str, int | None, int]],
) -> None:
    uri = f"memory://{uuid.uuid4().hex}"
    store = SetStore(uri, max_bytes=100, grace_s=0)
    contents: dict[str, bytes] = {}
    for name, number, size in changes:
        if number is not None:
            content = contents.get(digest(number), bytes(size))
            try:
                store.put(digest(number), content, b"")
            except StoreFull:
                in_use = sum(len(contents[d]) for d in store.newest().references - {digest(number)})
                assert in_use + len(content) > 100  # only what is in use is a reason to refuse
                continue
            contents[digest(number)] = content
        store.change(naming(name, number))
        assert num_bytes(uri) <= 100
        for kept in store.newest().references:
            assert store.read(kept) == contents[kept]


def test_what_nobody_refers_to_goes_oldest_first_and_not_at_once(tmp_path: Path) -> None:
    store = SetStore(str(tmp_path), max_bytes=100, grace_s=0)
    for number in (1, 2, 3):
        store.put(digest(number), bytes(30), b"")
        os.utime(tmp_path / "sets" / f"{number:064x}.safetensors", (number, number))
    store.change(naming("a", 1))
    store.put(digest(4), bytes(30), b"")
    assert store.read(digest(1))
    assert store.read(digest(3))
    with pytest.raises(NotFound):
        store.read(digest(2))
    patient = SetStore(str(tmp_path), max_bytes=100)  # 3 had no name for long, 4 is new
    patient.put(digest(5), bytes(30), b"")
    with pytest.raises(NotFound):
        store.read(digest(3))
    with pytest.raises(StoreFull, match="holds 90 of 100 bytes; 30 more") as full:
        patient.put(digest(6), bytes(30), b"")
    assert full.value.status == 507
    assert num_bytes(str(tmp_path)) == 90


def test_what_had_a_name_a_moment_ago_is_kept_for_requests_that_run(tmp_path: Path) -> None:
    store = SetStore(str(tmp_path), max_bytes=100, grace_s=900)
    store.put(digest(1), bytes(60), b"")
    os.utime(tmp_path / "sets" / f"{1:064x}.safetensors", (1, 1))
    store.change(naming("a", 1))
    store.change(naming("a", None))
    with pytest.raises(StoreFull):
        store.put(digest(2), bytes(60), b"")
    SetStore(str(tmp_path), max_bytes=100, grace_s=0).put(digest(2), bytes(60), b"")


def test_a_folder_that_cannot_create_exclusively_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(ConfigError, match="without hard links"):
        SetStore(str(tmp_path)).append(Version(1))


@pytest.mark.parametrize("uri", ["nosuch://bucket/x", "http://example.org/x", "zip://x::y.zip"])
def test_stores_that_cannot_be_used(uri: str) -> None:
    with pytest.raises(ConfigError) as refused:
        SetStore(uri)
    assert refused.value.param == "store"
    assert "\n" not in refused.value.message


def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "sets").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="does not answer"):
        SetStore(str(tmp_path)).put(digest(1), b"x", b"")


def test_what_a_crash_leaves_is_no_version_and_damage_is_named(tmp_path: Path) -> None:
    store = SetStore(str(tmp_path))
    store.change(naming("a", 1))
    (tmp_path / "catalogue" / ".00000002.json.0123abcd").write_bytes(b'{"numb')
    assert SetStore(str(tmp_path)).newest().number == 1
    assert store.change(naming("b", 2))[0].number == 2
    assert sorted(p.name for p in (tmp_path / "catalogue").iterdir() if p.name[0] != ".") == [
        "00000001.json",
        "00000002.json",
    ]
    (tmp_path / "catalogue" / "00000002.json").write_bytes(b'{"numb')
    with pytest.raises(InternalError, match=r"catalogue/00000002\.json"):
        SetStore(str(tmp_path)).newest()


def test_versions_can_be_read_page_by_page(uri: str) -> None:
    store = SetStore(uri)
    for number in range(5):
        store.change(naming("a", number))
    assert [v.number for v in store.versions()] == [5, 4, 3, 2, 1]
    assert [v.number for v in store.versions(before=3)] == [2, 1]
    assert [v.number for v in store.versions(before=99)] == [5, 4, 3, 2, 1]
    assert aliases.HISTORY >= 4
