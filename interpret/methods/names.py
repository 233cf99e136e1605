"""The methods' modules, and so their names, without importing one of them: a mistyped name is told at once."""

from neurodial.control.errors import BadInput, choices

MODULES = (  # of neurodial.interpret.methods
    "causal.ablation",
    "causal.activation_patching",
    "causal.attribution_patching",
    "causal.gradient_activation",
    "causal.knowledge_attribution",
    "causal.layer_conductance",
    "explanation.aligned_concepts",
    "explanation.compositional",
    "explanation.corpus_generation",
    "explanation.top_contexts",
    "explanation.visualization",
    "grouping.clustering",
    "grouping.multi_model",
    "grouping.nmf",
    "ranking.expert_units",
    "ranking.gaussian_probe",
    "ranking.linear_probe",
    "ranking.mean_difference",
    "ranking.probeless",
    "ranking.sparse_probing",
)


def slugs(*rooms: str) -> list[str]:
    """The names of the methods of some rooms, such as `ranking`; a method is called as its module is."""
    names = (module.partition(".") for module in MODULES)
    return sorted(name.replace("_", "-") for room, _, name in names if room in rooms)


def check_slug(slug: str, *rooms: str) -> None:
    """Refuses a name of no method of these rooms.

    Raises:
        BadInput: naming those that there are.
    """
    if slug not in (known := slugs(*rooms)):
        raise BadInput(f"there is no method {slug!r} here", hint=choices(slug, known), param="method")
