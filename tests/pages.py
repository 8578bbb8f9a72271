"""Pages of Markdown as tests read them: their code by language, and Python that prints what its comments say."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent


class Code(NamedTuple):
    """A fenced block. line: of the page, where its text starts, counted from 1."""

    language: str
    text: str
    line: int


def code_of(page: Path) -> list[Code]:
    """The fenced blocks of a page in order."""
    text = page.read_text(encoding="utf8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Code(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in found]


def run(page: Path) -> int:
    """Run the Python of a page in one namespace; every `print(…)  # text` must print that text.

    Returns how many lines were printed. Tracebacks name the line of the page.
    """
    namespace: dict[str, Any] = {"__name__": page.stem}
    printed = 0
    for code in code_of(page):
        if code.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * (code.line - 1) + code.text, str(page), "exec"), namespace)
            promised = re.findall(r"^print\(.*\)  # (.*)$", code.text, flags=re.MULTILINE)
            assert out.getvalue().splitlines() == promised, f"{page.name}, line {code.line}"
            printed += len(promised)
    return printed
