"""Formulas as MathML, converted while the site is built: no script, no font, no network.

GitHub's inline formulas (a dollar sign and a backtick on both sides) become MyST's role; its blocks
are directives already (`myst_fence_as_directive`). `\tag{n}` becomes the number at the margin.
"""

import re
from html import escape
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging

_INLINE = re.compile(r"\$`([^`]*)`\$")
_TAG = re.compile(r"\\tag\{([^}]*)\}")
_CONVERTER = LatexToMathML()
_LOGGER = logging.getLogger(__name__)


def to_mathml(formula: str, *, display: bool) -> str:
    """A formula in LaTeX as MathML; the number of its ``\\tag``, if any, beside it.

    Raises:
      LatexError: for what is no LaTeX.
    """
    untagged = _TAG.sub("", formula)
    mathml = _CONVERTER.convert_with_local_state(untagged, displaystyle=display)
    tag = _TAG.search(formula)
    return mathml + (f'<span class="eqno">({escape(tag[1])})</span>' if tag else "")


def convert_inline_formulas(app: Sphinx, page: str, source: list[str]) -> None:
    """Rewrites a page's inline formulas; cells of tables escape their bars."""
    source[0] = _INLINE.sub(lambda found: f"{{math}}`{found[1]}`", source[0])


def _visit(self: Any, node: nodes.Element, *, display: bool) -> None:
    formula = node.astext()
    try:
        mathml = to_mathml(formula, display=display)
    except LatexError:
        _LOGGER.warning("no LaTeX: %s", " ".join(formula.split()), location=node)
        mathml = f"<code>{escape(formula)}</code>"
    self.body.append(f'<div class="math">{mathml}</div>' if display else mathml)
    raise nodes.SkipNode


def visit_inline(self: Any, node: nodes.Element) -> None:
    """Writes a formula in a line."""
    _visit(self, node, display=False)


def visit_block(self: Any, node: nodes.Element) -> None:
    """Writes a formula in a block of its own."""
    _visit(self, node, display=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer."""
    app.connect("source-read", convert_inline_formulas)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config["html_math_renderer"] = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
