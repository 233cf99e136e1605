"""Where the work of a long pass is done: in this process, or by an executor that a caller brings along."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from neurodial.control.models.loading import LoadedModel

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function on pieces of work wherever there is a copy of the model, such as in the workers of a cluster."""

    def map(self, function: Callable[[LoadedModel, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The function's results, in the order of the items; a few items are read ahead.

        Function, items and results travel between processes: an iterator that the function returns arrives as a list,
        and arrays may be read-only.
        """
