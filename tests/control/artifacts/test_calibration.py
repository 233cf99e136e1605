from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from neurodial.control.addresses import Site
from neurodial.control.artifacts.calibration import Calibration, SiteStatistics
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.errors import CalibrationError, FingerprintError, NeuronSetError
from neurodial.control.models.lineage import Lineage
from neurodial.control.models.loading import LoadedModel

FFN, RESID = Site.parse("encoder.0.ffn"), Site.parse("encoder.0.resid")
GOLDEN = Path(__file__).parent / "golden" / "calibration_v1.safetensors"
GOLDEN_DIGEST = "sha256:d0d5aa8972ac5bc4af9a02ff3dcc91cc62e24a25b106aa5e049907ff7b4ad89b"


def make_calibration(fingerprint: str = "sha256:" + "0" * 64) -> Calibration:
    nan = float("nan")
    ffn = SiteStatistics(9, np.array([0.5, nan, 2.0], np.float32), np.array([1.0, nan, 0.0], np.float32))
    resid = SiteStatistics(9, np.array([-0.25, 0.75], np.float32), np.array([0.5, 1.5], np.float32))
    corpus = {"name": "text:a.txt", "digest": "sha256:1", "size": 3}
    return Calibration(
        "tiny", fingerprint, {FFN: ffn, RESID: resid}, corpus, "words", "own", {"numpy": "2"}, "2026-01-01"
    )


def test_golden_file_of_version_1_still_reads() -> None:
    found = Calibration.load(GOLDEN)
    assert found.digest == GOLDEN_DIGEST == make_calibration().digest
    assert (found.count(FFN), found.tokens, found.decoder, found.corpus["size"]) == (9, "words", "own", 3)


def test_round_trip_keeps_values_and_order(tmp_path: Path) -> None:
    made = make_calibration()
    made.save(tmp_path / "a.safetensors")
    again = Calibration.load(tmp_path / "a.safetensors")
    assert again.digest == made.digest
    np.testing.assert_array_equal(again.mean(FFN), made.mean(FFN))
    np.testing.assert_array_equal(again.std(RESID), made.std(RESID))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert replace(made, created="later").digest == made.digest
    assert replace(made, corpus={"name": "other"}).digest != made.digest


def test_a_site_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(CalibrationError, match=r"no statistics of decoder\.0\.ffn"):
        make_calibration().mean(Site.parse("decoder.0.ffn"))


def test_only_the_measured_model_and_its_descendants_are_accepted(tiny_marian: LoadedModel) -> None:
    made = make_calibration(tiny_marian.fingerprint)
    assert made.check_model(tiny_marian) is False
    step = {"kind": "pruned"}
    lineage = Lineage.derive(None, fingerprint=made.fingerprint, name="x", step=step, weights_changed=False)
    child = replace(tiny_marian, fingerprint="sha256:child", lineage=lineage)
    assert made.check_model(child) is True
    baked = Lineage.derive(None, fingerprint=made.fingerprint, name="x", step=step, weights_changed=True)
    changed = replace(child, lineage=baked)
    assert made.check_model(changed, allow_changed_weights=True) is True
    with pytest.raises(FingerprintError, match="its weights were changed"):
        made.check_model(changed)
    with pytest.raises(FingerprintError, match="not for this model"):
        make_calibration().check_model(tiny_marian)


@pytest.mark.parametrize("content", [b"", b"not a file", b'\x08\0\0\0\0\0\0\0{"a": 1'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="not a readable calibration"):
        Calibration.load(path)


def test_sets_and_calibrations_are_not_taken_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    make_calibration().save(path)
    with pytest.raises(NeuronSetError, match="not a neuron set"):
        NeuronSet.load(path)
    with pytest.raises(CalibrationError, match="not a calibration"):
        Calibration.load(GOLDEN.parent / "neuron_set_v1.safetensors")
    with pytest.raises(CalibrationError, match="no such calibration"):
        Calibration.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("document", "message"), [("{}", "schema version None"), ('{"schema_version": 2}', "upgrade|not known")]
)
def test_another_version_is_refused(tmp_path: Path, document: str, message: str) -> None:
    path = tmp_path / "new.safetensors"
    save_file({"x": np.zeros(1)}, path, metadata={"neurodial.calibration": document})
    with pytest.raises(CalibrationError, match=message):
        Calibration.load(path)


def test_an_incomplete_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_file({"x": np.zeros(1)}, path, metadata={"neurodial.calibration": '{"schema_version": 1}'})
    with pytest.raises(CalibrationError, match="not a complete calibration"):
        Calibration.load(path)


@pytest.mark.parametrize(
    ("mean", "std"), [([1.0], [1.0, 2.0]), ([np.inf], [1.0]), ([1.0], [-1.0]), ([np.nan], [1.0]), ([1.0], [np.nan])]
)
def test_values_that_do_not_fit_are_refused(mean: list[float], std: list[float]) -> None:
    bad = SiteStatistics(3, np.array(mean, np.float32), np.array(std, np.float32))
    with pytest.raises(CalibrationError, match=r"encoder\.0\.ffn"):
        replace(make_calibration(), sites={FFN: bad})
