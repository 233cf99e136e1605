from pathlib import Path

import pytest

from neurodial.control.addresses import Site
from neurodial.control.errors import AddressError, ModelError
from neurodial.control.models.lineage import FILE_NAME, KeptNeurons, Lineage

FFN = Site.parse("decoder.1.ffn")


def pruned() -> Lineage:
    kept = {FFN: KeptNeurons(10, (7, 0, 1, 2))}
    return Lineage.derive(
        None, fingerprint="sha256:a", name="base", step={"kind": "pruned"}, weights_changed=False, kept=kept
    )


def test_original_numbers_lead_to_places_and_back() -> None:
    lineage = pruned()
    assert lineage.physical(FFN, [1, 7]) == (2, 0)
    assert lineage.original(FFN, [2, 0]) == (1, 7)
    assert lineage.physical(Site.parse("decoder.0.ffn"), [9]) == (9,)
    with pytest.raises(AddressError, match=r"decoder\.1\.ffn\[3-5\] was removed"):
        lineage.physical(FFN, [1, 3, 4, 5])
    with pytest.raises(AddressError, match="there is no 10, the last one is 9"):
        lineage.physical(FFN, [10])


def test_a_lineage_survives_its_file_and_grows(tmp_path: Path) -> None:
    child = Lineage.derive(
        pruned(), fingerprint="sha256:b", name="ignored", step={"kind": "baked"}, weights_changed=True
    )
    child.save(tmp_path)
    assert Lineage.load(tmp_path) == child
    assert child.ancestors == ("sha256:b", "sha256:a")
    assert child.original_name == "base"
    assert [step["kind"] for step in child.steps] == ["pruned", "baked"]
    assert child.weights_changed
    assert Lineage.load(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 2}', '{"format_version": 1, "kept": 3}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ModelError, match=FILE_NAME):
        Lineage.load(tmp_path)
