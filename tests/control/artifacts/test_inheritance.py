"""Neuron sets on checkpoints that derive from the model they were made for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import NeuronSet
from neurodial.control.controls import parse_controls
from neurodial.control.errors import FingerprintError
from neurodial.control.models.lineage import Lineage
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import compile_controls

ORIGINAL, PARENT = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TO_PAST = parse_controls([{"set": "tense", "to": "past"}])


def derived(loaded: LoadedModel, *, pruning_changes: bool = False, adapting_changes: bool = True) -> LoadedModel:
    """The model as if it had been adapted and then pruned."""
    step = {"kind": "adapted"}
    adapted = Lineage.derive(None, fingerprint=ORIGINAL, name="base", step=step, weights_changed=adapting_changes)
    step = {"kind": "pruned"}
    lineage = Lineage.derive(adapted, fingerprint=PARENT, name="-", step=step, weights_changed=pruning_changes)
    return replace(loaded, lineage=lineage)


def test_a_set_of_the_model_itself_is_not_inherited(
    tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet]
) -> None:
    own = set_factory(tiny_marian.fingerprint)
    assert own.check_model(tiny_marian) is False
    assert own.check_model(derived(tiny_marian, pruning_changes=True)) is False
    compiled = compile_controls(tiny_marian, TO_PAST, SetCatalogue({"tense": own}))
    assert "inherited" not in compiled.controls[0].facts


def test_a_set_of_an_ancestor_is_inherited_and_the_report_says_so(
    tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet]
) -> None:
    child = derived(tiny_marian)
    assert set_factory(PARENT).check_model(child) is True
    compiled = compile_controls(child, TO_PAST, SetCatalogue({"tense": set_factory(PARENT)}))
    assert compiled.controls[0].facts["inherited"] is True
    assert set_factory(ORIGINAL).check_model(derived(tiny_marian, adapting_changes=False)) is True


def test_where_weights_were_changed_since_it_must_be_allowed(
    tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet]
) -> None:
    child, sets = derived(tiny_marian), SetCatalogue({"tense": set_factory(ORIGINAL)})
    with pytest.raises(FingerprintError, match="its weights were changed"):
        set_factory(ORIGINAL).check_model(child)
    with pytest.raises(FingerprintError) as caught:
        compile_controls(child, TO_PAST, sets)
    assert caught.value.param == "controls[0].set"
    assert "allow_changed_weights" in caught.value.hint
    compiled = compile_controls(child, TO_PAST, sets, allow_changed_weights=True)
    assert compiled.controls[0].facts["inherited"] is True
    with pytest.raises(FingerprintError):
        set_factory(PARENT).check_model(derived(tiny_marian, pruning_changes=True))


def test_a_stranger_is_refused_whatever_is_allowed(
    tiny_marian: LoadedModel, set_factory: Callable[..., NeuronSet]
) -> None:
    for loaded in (tiny_marian, derived(tiny_marian)):
        with pytest.raises(FingerprintError, match="not for this model"):
            set_factory().check_model(loaded, allow_changed_weights=True)


def test_a_derived_checkpoint_never_has_its_parents_fingerprint(tiny_marian: LoadedModel, tmp_path: Path) -> None:
    """Not even where the sampled values are all the same."""
    tiny_marian.model.save_pretrained(tmp_path)
    tiny_marian.tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path).fingerprint == tiny_marian.fingerprint
    step = {"kind": "baked"}
    lineage = Lineage.derive(
        None, fingerprint=tiny_marian.fingerprint, name="tiny", step=step, weights_changed=True
    )  # fmt: skip
    lineage.save(tmp_path)
    child = load_model(tmp_path)
    assert child.fingerprint != tiny_marian.fingerprint
    assert child.lineage == lineage
