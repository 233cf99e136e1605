from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from neurodial.control.addresses import Site
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import NeuronSetError

GOLDEN = Path(__file__).parent / "golden" / "neuron_set_v1.safetensors"
GOLDEN_DIGEST = "sha256:63e77369db168c8677240330ef90846372fcdfff7c4c389f3ddf712aa69ddcf1"


def test_golden_file_of_version_1_still_reads(set_factory: Callable[..., NeuronSet]) -> None:
    loaded = NeuronSet.load(GOLDEN)
    assert loaded.digest == GOLDEN_DIGEST == set_factory().digest
    assert loaded.labels == ("present", "past")
    assert loaded.recommended.strength == {"past": 2.0, "present": 1.5}
    assert loaded.sites[0].maps["past"].weight.shape == (6, 4)


def test_round_trip(set_factory: Callable[..., NeuronSet], tmp_path: Path) -> None:
    made = set_factory()
    made.save(tmp_path / "a.safetensors")
    again = NeuronSet.load(tmp_path / "a.safetensors")
    assert again.digest == made.digest
    np.testing.assert_array_equal(again.sites[1].maps["past"].weight, made.sites[1].maps["past"].weight)
    assert again.ranked() == made.ranked()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.safetensors"]


def test_digest_covers_everything_but_the_time(set_factory: Callable[..., NeuronSet]) -> None:
    made = set_factory()
    assert replace(made, created="later").digest == made.digest
    assert replace(made, evidence={}).digest != made.digest
    moved = replace(made.sites[0], scores=made.sites[0].scores + 1)
    assert replace(made, sites=(moved, made.sites[1])).digest != made.digest


def test_top_ranks_over_sites(set_factory: Callable[..., NeuronSet]) -> None:
    made = set_factory()
    addresses = [address for address, _, _ in made.ranked()]
    for count in (1, 4, 7):
        chosen = {f"{s.site}[{s.indices[i]}]" for s, places in made.top(count) for i in places}
        assert chosen == set(addresses[:count])


def test_readout_is_the_nearest_before(set_factory: Callable[..., NeuronSet]) -> None:
    made = set_factory()
    readout = made.readout_for(Site.parse("encoder.1.resid"))
    assert readout is not None
    assert str(readout.site) == "encoder.embed"
    assert made.readout_for(Site.parse("decoder.1.ffn")) is None


def test_truncated_foreign_and_missing_files(set_factory: Callable[..., NeuronSet], tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    with pytest.raises(NeuronSetError, match="no such neuron set"):
        NeuronSet.load(path)
    set_factory().save(path)
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(NeuronSetError, match="not a readable neuron set"):
            NeuronSet.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(NeuronSetError, match="not a neuron set"):
        NeuronSet.load(path)
    save_file({"x": np.zeros(3)}, path, metadata={"neurodial": '{"schema_version": 99}'})
    with pytest.raises(NeuronSetError, match="schema version 99"):
        NeuronSet.load(path)
    save_file({"x": np.zeros(3)}, path, metadata={"neurodial": '{"schema_version": 1}'})
    with pytest.raises(NeuronSetError, match="not a complete neuron set"):
        NeuronSet.load(path)


def test_nan_and_misfits_are_refused(set_factory: Callable[..., NeuronSet]) -> None:
    made = set_factory()
    bad = made.sites[0].scores.copy()
    bad[2] = np.nan
    with pytest.raises(NeuronSetError, match=r"encoder\.1\.resid/scores holds NaN"):
        replace(made, sites=(replace(made.sites[0], scores=bad),))
    with pytest.raises(NeuronSetError, match="shape"):
        replace(made, sites=(replace(made.sites[0], scores=bad[:-1]),))
    with pytest.raises(NeuronSetError, match="no mean for past"):
        replace(made, sites=(replace(made.sites[0], mean={"present": made.sites[0].mean["present"]}),))
