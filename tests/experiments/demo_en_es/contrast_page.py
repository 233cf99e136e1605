"""The page on the demo's number and negation controls, from what `contrast_evaluate` measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARTS = ("seen words", "unseen words")
Results = Mapping[str, Any]


def write_page(results: Results, path: Path) -> None:
    """Writes `docs/results/contrasts.md`.

    Args:
        results: concept → its figures, as `contrast_evaluate` writes them.
        path: of the page.
    """
    tables = "\n\n".join(_concept(concept, measured) for concept, measured in results.items())
    pairs = next(iter(next(iter(next(iter(results.values()))[PARTS[0]].values())).values()))["n"]
    path.write_text(f"{_OPENING.format(pairs=pairs).strip()}\n\n{tables}\n\n{_CLOSING.strip()}\n", encoding="utf-8")


_OPENING = """
# Number and negation control, measured

What `{{"set": "number", "to": "plural"}}` and `{{"set": "negation", "to": "negative"}}` do to the demo model's
translations. `make evaluate-contrasts DATA=…` makes this page and `tests/benchmarks/results/contrasts.json`.

- **Pairs**: {pairs} of each part, from the built-in grammars, none of which a set was made with: unseen sentences of
  *seen words*, and pairs about *unseen words* (nouns for number, verbs for negation).
- **Switched**: for number, the first determiner of the output and its first verb of unambiguous number both have the
  target number; for negation, *no* is there, or is not, and a verb lemma is shared with the uncontrolled output.
  Brackets are 95 % bootstrap intervals. Bau et al. (2019) report 37 % for number.
- **Ceiling**: the model translates the other sentence of the pair. It often says a plural in the singular, which is why
  some pairs have switched without control. **Of able**: the share among the pairs in which the ceiling is right.
- **As direct**: the output is the translation of the other sentence to the word. **chrF** compares the two.
- **Not gated**: the same control at every position. **Permuted**: the set's values on other neurons of the site, mean
  of three permutations. **10, 30 neurons**: the set with a smaller `top`.
"""

_CLOSING = """
## How the sets were made

`make contrast-sets`, about five minutes of one core each: 4,000 pairs of a grammar, without a tenth of the words
and a fifth of the rest; those are kept of which the model's two translations show the two labels. `neurodial discover`
trains the gate at `encoder.2.resid` and ridge maps, and `--tune` fits the maps through the frozen model, whose own
translation of the other sentence is the target. The hundred neurons whose writing matters most are kept. No data, no
reference and no weight of the model is involved.

## Where it fails

Nouns that the model hardly knows lose what spelling they had, a verb may stay behind (*Los chicos abre*), and *gustar*
is not negated. Controls of different concepts compose where they touch different words (*Los chicos altos estaban
parados*); on one verb tense and negation often do not: the first one wins.
"""


def _concept(concept: str, measured: Results) -> str:
    labels = [name.removeprefix("to_") for name in next(iter(measured[PARTS[0]].values()))]
    head = " | ".join(f"to {label}: switched % | of able % | as direct % | chrF" for label in labels)
    rows = []
    for part in PARTS:
        for name, both in measured[part].items():
            shown = f"**{name}**" if name.endswith(" set") else name
            cells = " | ".join(_cells(scores) for scores in both.values())
            rows.append(f"| {part} | {shown} | {cells} |")
    table = "\n".join(rows)
    rule = "|---" * (2 + 4 * len(labels))
    return f"## {concept.capitalize()}\n\n| Pairs | Control | {head} |\n{rule}|\n{table}"


def _cells(scores: Results) -> str:
    low, high = scores["switched_95"]
    able = "–" if scores["switched_of_able"] is None else f"{100 * scores['switched_of_able']:.1f}"
    switched = f"{100 * scores['switched']:.1f} [{100 * low:.0f}–{100 * high:.0f}]"
    return f"{switched} | {able} | {100 * scores['as_direct']:.1f} | {scores['chrf_direct']:.1f}"
