"""What the site does with links that leave docs/: the files of the repository that pages name come along.

A page links to `../fxformer/stack.py`, which is right where the repository is browsed. In the site that file stands at
`source/fxformer/stack.py`, and pages of Markdown among them (CONTRIBUTING.md) are pages of the site.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(?=[)#])")
HOME = "source"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to outside docs/, and those that these link to."""
    root = Path(config.docs_dir).parent
    waiting = [(PurePosixPath("docs") / file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        page, text = waiting.pop()
        for target in LINK.findall(text):
            place = _resolved(page, target)
            uri = f"{HOME}/{place}"
            if place.startswith("docs/") or files.get_file_from_path(uri) is not None or not (root / place).is_file():
                continue
            content = (root / place).read_bytes()
            files.append(File.generated(config, uri, content=content))
            if place.endswith(".md"):
                waiting.append((PurePosixPath(place), content.decode()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are within the site."""
    here = page.file.src_uri
    own = PurePosixPath(here.removeprefix(f"{HOME}/")) if here.startswith(f"{HOME}/") else PurePosixPath("docs") / here

    def moved(match: re.Match[str]) -> str:
        place = _resolved(own, match[1])
        uri = place.removeprefix("docs/") if place.startswith("docs/") else f"{HOME}/{place}"
        return relpath(uri, str(PurePosixPath(here).parent))

    return LINK.sub(moved, markdown)


def _resolved(page: PurePosixPath, target: str) -> str:
    """Where a link of a page leads, from the root of the repository."""
    return relpath(str(page.parent / target), ".")
