"""Pages of the API: blocks of module patterns become sections, and every public name is looked for.

A package that has ``__all__`` begins with a list of its names; they are in the site's inventory as
``package.name`` too. A public name without a place on a page is a warning, so an error in CI.
"""

from typing import Any

from docstrings import escape_markup
from library_names import BLOCK, definitions, exported, library_modules, matching
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)


def module_section(module: str) -> str:
    """A section in MyST: the module's docstring, what its package exports, its members."""
    name = module.removeprefix("jaxgen.")
    lines = [f"## {name}", "", "```{eval-rst}", f".. automodule:: {module}"]
    lines += ["   :ignore-module-all:", ""]  # what is imported has a place of its own
    names = {alias: home for alias, home in exported(module).items() if home != module}
    if names:
        lines += ["Public names:", ""]
        for alias, home in names.items():
            summary = definitions(library_modules()[home]).get(alias, "")
            lines += [f"* :py:obj:`{alias} <{home}.{alias}>`: {escape_markup(summary)}"]
    return "\n".join([*lines, "```", "", ""])


def write_sections(app: Sphinx, page: str, source: list[str]) -> None:
    """Replaces the blocks of a page of the API by the sections of its modules."""
    folder, _, stem = page.rpartition("/")
    if folder == "api":
        source[0] = BLOCK.sub(
            lambda block: "".join(map(module_section, matching(block[1].split(), stem))), source[0]
        )


def add_exported_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Puts ``package.name`` of everything exported into the inventory; warns of what has no page."""
    domain: Any = env.get_domain("py")
    for module, tree in library_modules().items():
        for name in definitions(tree):
            if f"{module}.{name}" not in domain.objects:
                _LOGGER.warning("%s.%s has no place on a page of the API", module, name)
        for alias, home in exported(module).items():
            entry = domain.objects.get(f"{home}.{alias}")
            if entry is None:
                _LOGGER.warning("%s.%s has no place on a page of the API", module, alias)
            else:
                domain.objects.setdefault(f"{module}.{alias}", entry._replace(aliased=True))


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers both steps."""
    app.connect("source-read", write_sections)
    app.connect("env-check-consistency", add_exported_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
