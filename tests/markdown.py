"""The pages of the repository, taken apart: blocks of code, commands, links."""

from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from tests.tiny import ROOT

_BLOCK = re.compile(r"^( *)```(\w*)(?: title=\"(.*?)\")?\n(.*?)^\1```$", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.M)
# Words of the shell that stand before a command.
_BEFORE = ("do", "time", "nice", "sudo", "then")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


class Block(NamedTuple):
    """A fenced block: its language ("sh", "python", ""), its file's name, its text."""

    language: str
    title: str
    text: str


def tracked(*suffixes: str) -> list[pathlib.Path]:
    """The files of the repository, those not yet committed too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.splitlines()]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


PAGES = {name_of(path): path for path in tracked(".md") if "tests" not in path.parts}
GUIDES = [name for name in PAGES if name.startswith(("docs/guides/", "docs/in", "README"))]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    return [Block(*match) for match in (m[1:] for m in _BLOCK.findall(PAGES[page].read_text()))]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", PAGES[page].read_text())


def commands(page: str) -> list[list[str]]:
    """Every command of a page's `sh` blocks, as words; without what the shell itself does."""
    texts = (block.text for block in blocks(page) if block.language == "sh")
    return [command for text in texts for command in commands_of(text)]


def commands_of(text: str) -> Iterator[list[str]]:
    """The commands of a shell's program; of a command for another machine, those inside, too."""
    text = text.replace("\\\n", " ")
    for line in [text] if "'\n" in text else text.splitlines():  # or a text in quotes over lines
        reader = shlex.shlex(line, posix=True, punctuation_chars=";&|\n")
        reader.whitespace_split, reader.whitespace = True, " \t"
        words: list[str] = []
        for word in [*reader, ";"]:
            if word and set(word) <= set(";&|\n"):
                yield from _command(words)
                words = []
            else:
                words.append(word)


def _command(words: list[str]) -> Iterator[list[str]]:
    words = list(words)
    while words and (words[0] in _BEFORE or _ASSIGNMENT.match(words[0])):
        del words[0]
    if words and words[0] not in ("for", "done", "wait", "export", "cd", "."):
        yield [pathlib.PurePath(words[0]).name, *words[1:]]
    inside = [word.partition("=")[2] for word in words if word.startswith("--command=")]
    for text in inside:
        yield from commands_of(text)


def links(page: str) -> list[str]:
    """The targets of a page's links and pictures."""
    return _LINK.findall(prose(page))


def anchors(page: str) -> set[str]:
    """What a page's headings are called in links, on GitHub and on the site."""
    headings = _HEADING.findall(_BLOCK.sub("", PAGES[page].read_text()))
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-")
        for heading in headings
    }
