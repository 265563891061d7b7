"""The `cdal` command. Commands of the other packages arrive through the entry points of group `cdal.commands`.

Nothing heavy is imported here or at the top of any command's module, so that `cdal --help` is instant.
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from cdal_sdk.cli.example import example
from cdal_sdk.cli.import_published import import_published
from cdal_sdk.cli.info import info
from cdal_sdk.cli.segment import segment
from cdal_sdk.errors import CdalError, MissingExtraError, ModelError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="cdal",
    help="Few-step conditional diffusion for medical image segmentation. Research software, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(segment)
app.command()(info)
app.command()(example)
app.command("import-published")(import_published)
for _entry in sorted(entry_points(group="cdal.commands"), key=lambda entry: entry.name):
    app.command(_entry.name)(_entry.load())


@app.callback()
def _configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell what happens inside.")] = False,
) -> None:
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("cdal_sdk").setLevel(level)


def main() -> None:
    """Run the command line; an expected error is one sentence and an exit code, never a traceback."""
    try:
        app()
    except CdalError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]Error:[/] {_plain(str(error))}")
        sys.exit(2 if isinstance(error, UsageError | ModelError | MissingExtraError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _plain(text: str) -> str:
    """Text without meaning to rich's markup."""
    return text.replace("[", r"\[")
