"""The `cdal` command. Commands of the other packages arrive through the entry points of group `cdal.commands`.

Nothing heavy is imported here or at the top of any command's module, so that `cdal --help` is instant.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from cdal_sdk import __version__
from cdal_sdk.cli.example import example
from cdal_sdk.cli.import_published import import_published
from cdal_sdk.cli.info import info
from cdal_sdk.cli.output import tell
from cdal_sdk.cli.segment import segment
from cdal_sdk.cli.verify import verify
from cdal_sdk.errors import CdalError, GateError, OutputError, TrainingError

__all__ = ["app", "main"]

app = typer.Typer(
    name="cdal",
    help="Few-step conditional diffusion for medical image segmentation. Research software, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(segment)
app.command()(verify)
app.command()(info)
app.command()(example)
app.command("import-published")(import_published)
for _entry in sorted(entry_points(group="cdal.commands"), key=lambda entry: entry.name):
    app.command(_entry.name)(_entry.load())


def _tell_version(wanted: bool) -> None:
    if wanted:
        tell(f"cdal {__version__}\n")
        raise typer.Exit


@app.callback()
def _configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell what happens inside.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    handler = _handler()
    handler.addFilter(_is_ours)
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("cdal_sdk").setLevel(level)
    logging.getLogger("nibabel.global").addFilter(_is_ours)  # which has a handler of its own
    warnings.simplefilter("ignore")
    warnings.showwarning = _drop  # also of those for which a library changes the filters


def _handler() -> logging.Handler:
    """On a terminal, records in colour and wrapped; elsewhere one line each, to be searched."""
    console = Console(stderr=True)
    if console.is_terminal:
        return RichHandler(console=console, show_path=False)
    plain = logging.StreamHandler()
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return plain


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record may be shown: libraries quote what they find in files, such as names.

    Their levels would not keep them quiet, since some set them again when they are imported.
    """
    return record.name.startswith("cdal")


def _drop(*_: object, **__: object) -> None:
    """Show no warning."""


def main() -> None:
    """Run the command line; an error is one sentence and an exit code, its place only comes with --verbose."""
    try:
        app()
    except CdalError as error:
        _fail(str(error), _exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - nothing but a sentence may come out
        if logging.getLogger("cdal_sdk").isEnabledFor(logging.DEBUG):
            place = "".join(traceback.format_tb(error.__traceback__))  # without its text, which may quote the input
            logging.getLogger("cdal_sdk").debug("%s at\n%s", type(error).__name__, place)
        if isinstance(error, OSError) and isinstance(error.filename, str | Path):  # such as a folder of somebody else's
            what, remedy = f"this cannot be used ({error.strerror})", "check the path and its permissions"
            _fail(str(CdalError(what, where=error.filename, remedy=remedy)), 2)
        _fail(f"unexpected {type(error).__name__}; run it again with 'cdal --verbose' and report what that shows", 2)


def _exit_code(error: CdalError) -> int:
    """1 where the work itself failed, 2 where it could not begin."""
    return 1 if isinstance(error, GateError | OutputError | TrainingError) else 2


def _fail(text: str, code: int) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]Error:[/]", escape(text))
    sys.exit(code)
