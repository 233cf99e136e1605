"""One way of naming a model and a corpus in every command: as options, or in this order without their names."""

from typing import Any

from typer.core import TyperCommand

NAMES = ("model", "corpus")


class EitherForm(TyperCommand):
    """A command that takes `--model M --corpus C` and `M C`, whichever of the two it was written with.

    A command whose arguments are something else, such as addresses, takes the options alone.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the command line."""
        arguments = {p.name for p in self.params if p.param_type_name == "argument"}
        given = {name: value for name in NAMES if name in arguments and (value := _taken(args, name)) is not None}
        args = [*([given["model"]] if "model" in given else []), *args]
        return super().parse_args(ctx, [*args, *([given["corpus"]] if "corpus" in given else [])])

    def make_parser(self, ctx: Any) -> Any:
        """A parser that gives what stands without a name to the options that were not given."""
        parser: Any = super().make_parser(ctx)
        options = {p.name: p for p in self.params if p.param_type_name == "option"}
        arguments = [p for p in self.params if p.param_type_name == "argument"]
        read = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            found, rest, order = read(args)
            for name in () if arguments else NAMES:
                if rest and name in options and name not in found:
                    value = rest.pop(0)
                    found[name] = [value] if options[name].multiple else value
            return found, rest, order

        parser.parse_args = parse_args
        return parser


def _taken(args: list[str], name: str) -> str | None:
    """The value of an option, which is taken out of the command line."""
    for place, arg in enumerate(args):
        if arg == "--":
            return None
        if arg == f"--{name}" and place + 1 < len(args):
            value = args[place + 1]
            del args[place : place + 2]
            return value
        if arg.startswith(f"--{name}="):
            del args[place]
            return arg.partition("=")[2]
    return None
