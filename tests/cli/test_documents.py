"""Commands as the documents show them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from cdal_sdk.cli.app import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("cdal_sdk/models/*/MODEL_CARD.md")], key=str
)
COMMANDS = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in typer.main.get_command(app).commands.items()
}


def calls(document: Path) -> list[tuple[str, str]]:
    """Each command with what follows it, up to a comment or the end of the quotation."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    names = "|".join(COMMANDS)
    return re.findall(rf"\bcdal (?:--verbose )?({names})\b((?: [^`#|\n]*)?)", text)


def test_every_command_is_told() -> None:
    assert {name for document in DOCUMENTS for name, _ in calls(document)} == COMMANDS.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_that_is_told_exists(document: Path) -> None:
    for command, rest in calls(document):
        unknown = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest)) - COMMANDS[command]
        assert not unknown, f"cdal {command} has no {unknown}"
