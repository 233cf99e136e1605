"""The contract of the methods from neurons to concepts, and those that are registered."""

from abc import abstractmethod
from typing import Any, ClassVar

from neurodial.control.errors import BadInput
from neurodial.interpret.methods.explanations import Explanation
from neurodial.interpret.methods.observations import Observations
from neurodial.interpret.methods.registry import Method, all_methods, make
from neurodial.interpret.methods.responding import NeuronModel


class ExplanationMethod(Method):
    """A method that says what neurons answer to.

    Attributes:
        needs_model: whether it asks the model about text of its own making, and cannot do without.
        uses_model: whether it says more with the model.
        explanations_: one per neuron, in the order of the observations' neurons.
    """

    needs_model: ClassVar[bool] = False
    uses_model: ClassVar[bool] = False

    explanations_: tuple[Explanation, ...]

    @abstractmethod
    def fit(self, X: Observations, model: NeuronModel | None = None) -> "ExplanationMethod":
        """Explains the neurons.

        Args:
            X: texts with the neurons' activations, read once.
            model: the model that the neurons belong to.

        Raises:
            BadInput: for shapes that do not fit, NaN, too few words, or a model that is missing.
        """

    def _model(self, model: NeuronModel | None) -> NeuronModel:
        if model is None:
            raise BadInput(f"{self.slug} asks the model about text of its own making: give it the model")
        return model


def explanation_methods() -> dict[str, type[ExplanationMethod]]:
    """The registered methods that explain neurons, by slug."""
    return {slug: method for slug, method in all_methods().items() if issubclass(method, ExplanationMethod)}


def make_explanation_method(slug: str, **params: Any) -> ExplanationMethod:
    """An explanation method with its settings.

    Raises:
        BadInput: for an unknown slug or parameter.
    """
    return make(slug, explanation_methods(), params)
