"""References: names of the library wherever they stand as code, and links to its files.

`name` in a docstring and code in a page link to the one public thing of that name. A link to a file
of the library (``../jaxgen/nn/mlp.py``) leads to its section of the API; one to a folder, or to
a file outside docs/, stays as its text.
"""

import re
from functools import cache
from typing import Any

from docutils import nodes
from library_names import ROOT, definitions, library_modules
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

_FILE_LINK = re.compile(r"\[(`?)([^]`]+)\1\]\(\.\./([\w./-]*)(?:#[\w-]*)?\)")
_CODE = re.compile(r"([A-Za-z_][\w.]*)(?:\(.*\))?")


@cache
def full_names() -> dict[str, str]:
    """Short or partly dotted name -> dotted name, where there is one only."""
    found: dict[str, set[str]] = {}
    for module, tree in library_modules().items():
        for name in ["", *definitions(tree)]:
            parts = module.split(".") + ([name] if name else [])
            for i in range(len(parts)):
                short = ".".join(parts[i:])
                if name or i < len(parts) - 1:  # a module's last word alone is no reference
                    found.setdefault(short, set()).add(".".join(parts))
    return {short: names.pop() for short, names in found.items() if len(names) == 1}


def link_files(app: Sphinx, page: str, source: list[str]) -> None:
    """Rewrites a page's links to files of the repository."""

    def link(found: re.Match[str]) -> str:
        tick, text, path = found.groups()
        module = path.removesuffix("/").removesuffix(".py").replace("/", ".")
        if module in library_modules():
            return f"{{py:mod}}`{text} <{module}>`"
        return found[0] if (ROOT / path).is_file() and "/" not in path else f"{tick}{text}{tick}"

    if "/" not in page:  # in docs/ itself, so that ../ is the repository
        source[0] = _FILE_LINK.sub(link, source[0])


def find_by_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Resolves what Python's own rules of scope do not find."""
    if node.get("refdomain") != "py":
        return None
    return _reference(app, env, node["refdoc"], node["reftarget"], content)


def _reference(
    app: Sphinx, env: BuildEnvironment, page: str, target: str, content: nodes.Node
) -> nodes.Element | None:
    objects: Any = env.get_domain("py").objects  # type: ignore[attr-defined]
    name, *member = [full_names().get(target, "")]
    if not name and "." in target:  # Class.method
        owner, _, attribute = target.rpartition(".")
        name, member = full_names().get(owner, ""), [attribute]
    entry = objects.get(".".join([name, *member])) if name else None
    if entry is None:
        return None
    return make_refnode(app.builder, page, entry.docname, entry.node_id, content, target)


def link_code(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Links code in the text of a page whose whole is the name of one thing, or a call of it."""
    for literal in list(doctree.findall(nodes.literal)):
        found = _CODE.fullmatch(literal.astext())
        within = literal.parent
        while within is not None and not isinstance(within, nodes.reference | nodes.title):
            within = within.parent
        if found and within is None:
            reference = _reference(app, app.env, page, found[1], literal.deepcopy())
            if reference is not None:
                literal.replace_self(reference)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers all three."""
    app.connect("source-read", link_files)
    app.connect("missing-reference", find_by_short_name)
    app.connect("doctree-resolved", link_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
