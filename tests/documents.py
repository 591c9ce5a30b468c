"""What the documents say: their blocks of code, the commands in them, their links and paths."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("bench", "methods", "configs", "tests", "results/reference", ".github")
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("README.md"))),
)

PLACEHOLDERS = {
    "digits-quick": "digits-smoke",  # the study of the fixture `smoke`
    "OTHER": "other",  # a copy of it
    "IMAGES": "images",  # a folder of images of digits' size
    "FILE": "file",  # something that exists
    "efflite0": "digits",  # the same in a tenth of the time
}
"""What stands in the documents, and what the tests put there: what is the user's, or quicker."""

ACTIVATE = "source .venv/bin/activate"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: Path
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.document)}-{self.language}{self.number}"

    def commands(self) -> list[list[str]]:
        """Return the block's commands as words, with its variables put in."""
        found: list[list[str]] = []
        variables: dict[str, str] = {}
        for line in self.text.replace("\\\n", " ").splitlines():
            for words in split(line):
                put = [re.sub(r"\$(\w+)", lambda m: variables[m[1]], word) for word in words]
                assigned = re.fullmatch(r"([A-Z]+)=(.*)", put[0])
                if assigned:
                    variables[assigned[1]] = assigned[2]
                else:
                    found.append(put)
        return found


def name(document: Path) -> str:
    """Return a document's path from the root."""
    return document.relative_to(ROOT).as_posix()


def split(line: str) -> list[list[str]]:
    """Return the commands of one line, joined by ``&&`` or ``;``, as words; comments go."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word in {"&&", ";"}:
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def blocks(*languages: str) -> list[Block]:
    """Return the fenced blocks of all documents in some languages; all if none is named."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for number, (language, body) in enumerate(_FENCE.findall(text), start=1):
            if not languages or language in languages:
                found.append(Block(document, number, language, body))
    return found


def prose(document: Path) -> str:
    """Return a document without its fenced blocks."""
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def spans(document: Path) -> list[str]:
    """Return what stands in backquotes in a document's prose, over the ends of lines too."""
    paragraphs = prose(document).split("\n\n")
    return [" ".join(span.split()) for text in paragraphs for span in _SPAN.findall(text)]


def links(document: Path) -> list[str]:
    """Return where a document's links and pictures point."""
    return _LINK.findall(prose(document))


def ours(text: str) -> str:
    """Return text with the placeholders replaced."""
    return re.sub(rf"\b({'|'.join(PLACEHOLDERS)})\b", lambda m: PLACEHOLDERS[m[1]], text)
