"""The project's words: the field's terms, one form of errors, docstrings and annotations."""

import re
from pathlib import Path

import pytest

from jaxgen.axes import LETTERS

ROOT = Path(__file__).parent.parent
PYTHON = [
    path for top in ("jaxgen", "experiments", "benchmarks") for path in (ROOT / top).rglob("*.py")
]
TESTS = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
PROSE = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]

WRITE_INSTEAD = {
    r"questions? (to|per|of) (the |a )?(network|denoiser|step|sample)": "network evaluations, NFE",
    r"asks? the (network|denoiser)|(network|denoiser) is asked": "evaluates, calls",
    r"\b(is|are|was) told\b|told_config": "conditioning, guidance-conditioned",
    r"randomness hangs": "example indices, folded into the key",
    r"the house\b|moves in\b|at the door|on the same floor": "architecture, package, public API",
    r"what is no (network|classifier)|cannot be meant": "validates the fields; invalid options",
    r"numbers in (a token|a row|the feature|the embedding)": "width, embedding dimension",
    r"(products?|convolutions) (is|are) computed in\b": "compute dtype",
    r"(network|denoiser) says": "prediction, estimate",
    r"born sharded|\blies? (over|as)\b": "initialised with its sharding; sharded over, follows",
    r"what travels|travels? along|tell each other": "collectives, communication volume",
    r"class is withheld|no class given|told no class": "condition dropout, null label",
    r"\bjudg(e|es|ed|ing)\b|Judge\b": "evaluator, sample quality",
    r"\brivals?\b": "baselines",
    r"strengths? of guidance|guidance strength": "guidance weight (w), guidance scale",
    r"frames? \W{0,2}(vp|ve|flow)\b|check_frame|Reframed": "scaling of the latents",
    r"\banew\b|\bgoes on\b": "recomputed, resampled, does not recompile, resumes",
    r"perceptron of a|block's perceptron|on the way back|slips? of the pen": "MLP, backward, typo",
    r"optimiser|\blearnt_\w|\bLearnt[A-Z]|\bColourise": "optimizer, learned_, Learned, Colorize",
    r"\bFrechet\b": "Fréchet",
}
FORMS = {
    r"[;:] ?(\"\n *[rf]*\")? ?expected\b": 'an error reads "X is V, expected E"',
    r"InputError\(\s*f?\"[\w.{}]+=": 'an error reads "X is V, expected E"',
    r"\n( *)(Args|Attributes|Returns|Raises|Yields):\n(?!\1  \S)": "entries are indented by two",
    r"\b[A-Z]\w+\[[\w.| ]+, \" ": "shapes begin without a blank",
}


def found(patterns, paths):
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for pattern, instead in patterns.items():
            for hit in re.finditer(pattern, text):
                line = text.count("\n", 0, hit.start()) + 1
                yield f"{path.relative_to(ROOT)}:{line}: {hit[0].strip()!r}, write: {instead}"


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [(WRITE_INSTEAD, [*PYTHON, *PROSE]), (FORMS, [*PYTHON, *TESTS])],
    ids=["words", "forms"],
)
def test_everything_is_written_in_one_way(patterns, paths):
    wrong = [
        f"{path.relative_to(ROOT)}: {hit[0].strip()!r}, write: {instead}"
        for path in paths
        for pattern, instead in patterns.items()
        for hit in re.finditer(pattern, path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_letters_of_shapes_are_in_the_table():
    suffix = re.compile(r"\b[a-z]\w*_([A-Z][A-Z0-9]*)\b|einsum\(\s*\"([A-Z,>-]*)\"")
    used = {letter for path in PYTHON for hit in suffix.findall(path.read_text()) for letter in hit}
    assert {letter for letter in "".join(used) if letter.isalpha()} <= set(LETTERS)
