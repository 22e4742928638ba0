"""Hooks of the documentation site (mkdocs.yml), so that one Markdown file serves both readers.

On the code host every relative link points to a file of the repository. On the site, a link to
another page of the site stays relative, and a link to any other file leads to the code host.
Some pages, such as ARCHITECTURE.md, are not in docs/: the site has copies of them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
COPIES = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LOG.md": "log.md",
}
"""Pages outside docs/, by their path in the repository, and their path on the site."""

LINK = re.compile(r"(\]\()([^()\s]+)(\))")
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for source, page in COPIES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of one page."""
    originals = {copy: source for source, copy in COPIES.items()}
    source = originals.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {f"docs/{file.src_uri}" for file in files}
    assert config.repo_url is not None
    return rewritten(markdown, source, page.file.src_uri, pages, config.repo_url)


def rewritten(markdown: str, source: str, page: str, pages: set[str], repository: str) -> str:
    """`markdown` with the relative links of `source` as the site needs them on `page`.

    `pages` are the files of the site by their paths in the repository. Code is left as it is.
    """

    def replaced(match: re.Match[str]) -> str:
        opening, link, closing = match.groups()
        return opening + site_link(link, source, page, pages, repository) + closing

    parts = CODE.split(markdown)
    return "".join(part if part.startswith("`") else LINK.sub(replaced, part) for part in parts)


def site_link(link: str, source: str, page: str, pages: set[str], repository: str) -> str:
    """What the relative link `link` of the file `source` is on the page `page` of the site.

    >>> site_link("../src/tinyzero/train.py", "docs/tutorial.md", "tutorial.md", set(), "https://x.org")
    'https://x.org/blob/main/src/tinyzero/train.py'
    """
    path, hash_sign, heading = link.partition("#")
    if not path or "://" in link:
        return link

    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    folder = posixpath.dirname(page)
    if target in COPIES:
        return posixpath.relpath(COPIES[target], folder or ".") + hash_sign + heading
    if target in pages:
        inside = target.removeprefix("docs/")
        return posixpath.relpath(inside, folder or ".") + hash_sign + heading
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"{repository}/{kind}/main/{target}{hash_sign}{heading}"
