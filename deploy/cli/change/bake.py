"""`neurodial bake`: write controls that are the same for every request into a model's weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from neurodial.control.errors import BadInput
from neurodial.deploy.cli.inputs import demo_sets, load, open_calibration, parse_json
from neurodial.deploy.cli.options import AllowChangedWeights, AsJson, DtypeName, Model
from neurodial.deploy.cli.output import print_json

if TYPE_CHECKING:
    from neurodial.control.artifacts.catalogue import SetCatalogue
    from neurodial.control.models.loading import LoadedModel
    from neurodial.control.surgery.baking import BakingPlan


def command(
    model: Model,
    controls: Annotated[str, Option(help="Controls as JSON, or a JSON or YAML file with them.")],
    out: Annotated[Path | None, Option(help="Folder to write, new or empty.")] = None,
    set_: Annotated[
        list[str] | None, Option("--set", help="Neuron set that controls name, NAME=FILE; repeatable.")
    ] = None,
    calibration: Annotated[
        Path | None, Option(help="Calibration file, for pruning an address to the mean; the demo has its own.")
    ] = None,
    dtype: Annotated[DtypeName, Option(help="auto keeps the checkpoint's; float32, bfloat16 or float16.")] = "auto",
    allow_changed_weights: AllowChangedWeights = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be baked and what refused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write controls that are the same for every request into a model's weights."""
    if out is None and not dry_run:
        raise BadInput("--out is missing", hint="name a new folder, or use --dry-run")
    listed = _controls(controls)

    from neurodial.control.controls import parse_controls
    from neurodial.control.surgery.baking import bake, plan_baking, save_baked
    from neurodial.control.surgery.saving import check_place

    parsed = parse_controls(listed)
    if out is not None and not dry_run:
        check_place(out)
    sets = _sets(model, set_ or [])
    held_at = open_calibration(model, calibration)
    loaded = load(model, dtype=dtype)
    plan = plan_baking(loaded, parsed, sets, allow_changed_weights=allow_changed_weights, calibration=held_at)
    if not dry_run and out is not None:
        save_baked(bake(loaded, plan), out)
    _report(loaded, plan, None if dry_run else out, as_json)
    if plan.refused:
        raise typer.Exit(2)


def _controls(given: str) -> Any:
    """The list of controls: JSON on the command line, or a file; `{"controls": […]}` or one control do as well."""
    raw = parse_json(given) if given.lstrip()[:1] in ("[", "{") else _read(Path(given))
    if isinstance(raw, dict):
        raw = raw["controls"] if set(raw) == {"controls"} else [raw]
    return raw


def _read(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--controls {file}: cannot be read ({error.strerror})", hint="give JSON or a file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"--controls {file}: neither JSON nor YAML ({' '.join(str(error).split())})") from None


def _sets(model: str, items: list[str]) -> "SetCatalogue":
    from neurodial.control.artifacts.catalogue import SetCatalogue

    paths = demo_sets(model)
    for item in items:
        name, separator, file = item.partition("=")
        if not (name and separator and file):
            raise BadInput(f"--set {item}: not NAME=FILE", hint="--set tense=tense.safetensors")
        paths[name] = Path(file)
    return SetCatalogue.from_files(paths)


def _report(loaded: "LoadedModel", plan: "BakingPlan", out: Path | None, as_json: bool) -> None:
    sites = [
        {"site": str(change.info.site), "neurons": change.num_neurons, "bias": change.needs_bias}
        for change in plan.changes
    ]
    if as_json:
        refused = [{"field": error.param, "message": error.message, "hint": error.hint} for error in plan.refused]
        print_json(
            {
                "model": {"name": loaded.name, "fingerprint": loaded.fingerprint},
                "digest": plan.digest,
                "sites": sites,
                "config": dict.fromkeys(plan.switches, True),
                "refused": refused,
                "out": str(out) if out else None,
            }
        )
        return
    _print(sites, plan, out)


def _print(sites: list[dict[str, Any]], plan: "BakingPlan", out: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape

    console, doing = Console(highlight=False, soft_wrap=True), "baked" if out else "would be baked"
    for site in sites:
        parts = "weight and bias" if site["bias"] else "weight"
        console.print(f"{doing}: {site['neurons']} neurons at {site['site']} into the output projection's {parts}")
    for switch in plan.switches:
        console.print(f"{doing}: the config's {switch} is switched on, its other biases are zero")
    for error in plan.refused:
        console.print(
            f"refused: {escape(error.message)}" + (f" [dim]({escape(error.hint)})[/dim]" if error.hint else "")
        )
    if out:
        console.print(f"[bold]{escape(str(out))}[/bold]  [dim]{plan.digest[:19]}[/dim]")
