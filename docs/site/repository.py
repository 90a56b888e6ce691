"""Shows the repository's documents at their own places in the site, and what they link to.

So links are the same there and in a plain view of the repository: a page leads to another, and to
the source files and pictures that it names, which are copied.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Exchange what lies in `docs` for the documents of the navigation and all they lead to."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    # A notebook's page has no file of its own.
    waiting = [ROOT / name.replace(".ipynb.md", ".ipynb") for name in _names(config.nav)]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue  # mkdocs reports what is missing
        seen.add(path)
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
        if path.suffix == ".ipynb":
            page = _notebook(path)
            files.append(File.generated(config, f"{name}.md", content=page))
        elif path.suffix == ".md":
            page = path.read_text(encoding="utf-8")
        else:
            continue
        links = LINK.findall(FENCE.sub("", page))
        waiting += [(path.parent / link).resolve() for link in links]
    return files


def _notebook(path: Path) -> str:
    """The cells of a notebook as a page."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    parts = [f"```python\n{text}\n```" if kind == "code" else text for kind, text in texts]
    return "\n\n".join(parts)


def _names(nav: object) -> list[str]:
    """The files of a navigation."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return [name for part in parts for name in _names(part)]
