"""The project's words: the field's terms, and one form of errors, docstrings and annotations."""

import re
from pathlib import Path

from jaxgen.axes import LETTERS

ROOT = Path(__file__).parent.parent
PYTHON = [p for top in ("jaxgen", "experiments", "benchmarks") for p in ROOT.glob(f"{top}/**/*.py")]
TESTS = [path for path in ROOT.glob("tests/**/*.py") if path != Path(__file__)]
PROSE = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb")]
SAVED_NAMES = ROOT / "jaxgen/training/saved_names.py"  # holds the names of the first format

WRITE_INSTEAD = {
    r"questions? (to|per) |asks? the (network|denoiser)|(network|denoiser) is asked": "evaluations",
    r"(networks?|students?|that) (is|are) told\b|\btold w\b|told_config": "conditioned on",
    r"randomness hangs": "example indices, folded into the key",
    r"the house\b|moves in\b|at the door|on the same floor": "architecture, package, public API",
    r"what is no (network|classifier)|cannot be meant": "validates the fields; invalid options",
    r"numbers in (a token|a row|the feature|the embedding)": "width, embedding dimension",
    r"(products?|convolutions) (is|are) computed in\b": "compute dtype",
    r"(network|denoiser) says": "prediction, estimate",
    r"born sharded|\blies? (over|as)\b": "initialised with its sharding; sharded over, follows",
    r"what travels|travels? along|tell each other": "collectives, communication volume",
    r"class is withheld|no class given|told no class": "condition dropout, null label",
    r"\bjudg(e|es|ed|ing)\b|Judge\b|\brivals?\b": "evaluator, sample quality; baselines",
    r"strengths? of guidance|guidance strength": "guidance weight (w), guidance scale",
    r"frames? \W{0,2}(vp|ve|flow)\b|Reframed": "scaling of the latents",
    r"\banew\b|\bgoes on\b": "recomputed, resampled, does not recompile, resumes",
    r"perceptron of a|block's perceptron|on the way back|slips? of the pen": "MLP, backward, typo",
    r"optimiser|\blearnt_\w|\bLearnt[A-Z]|\bColourise": "optimizer, learned_, Learned, Colorize",
    r"\bFrechet\b": "Fréchet",
}
FORMS = {
    r"[;:] ?(\"\n *[rf]*\")? ?expected\b|InputError\(\s*f?\"[\w.{}]+=": "X is V, expected E",
    r"\n( *)(Args|Attributes|Returns|Raises|Yields):\n(?!\1  \S)": "entries indented by two",
    r"\b[A-Z]\w+\[[\w.| ]+, \" ": "shapes that begin without a blank",
}


def test_everything_is_written_in_one_way():
    words = [path for path in [*PYTHON, *PROSE] if path != SAVED_NAMES]
    wrong = [
        f"{path.relative_to(ROOT)}: {hit[0].strip()!r}, write: {instead}"
        for patterns, paths in ((WRITE_INSTEAD, words), (FORMS, [*PYTHON, *TESTS]))
        for path in paths
        for pattern, instead in patterns.items()
        for hit in re.finditer(pattern, path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_letters_of_shapes_are_in_the_table():
    suffix = r"\b[a-z]\w*_([A-Z][A-Z0-9]*)\b|einsum\(\s*\"([A-Z,>-]+)\""
    used = {"".join(hit) for path in PYTHON for hit in re.findall(suffix, path.read_text())}
    assert set(filter(str.isalpha, "".join(used))) <= set(LETTERS)
