"""The dimension key: letters for array dimensions, words for logical axes, rules to mesh axes.

Three vocabularies meet here and nowhere else:

* **Letters** name the dimensions of an array in forward and loss code, as a suffix of the variable
  (``hidden_BD``, ``logits_BV``) and in einsum strings.
* **Logical axes** are words that parameters carry (``vocab``, ``embed``): they name what a
  dimension *is*, not how it is sharded.
* **Mesh axes** are those of the devices: ``data``, ``fsdp`` and ``model``. The rules below map the
  second onto the third; `jaxgen.parallel` applies them.
"""

from collections.abc import Mapping

LETTERS: Mapping[str, str] = {
    "B": "batch (examples)",
    "L": "length (tokens of a context or sequence)",
    "D": "model width (the features that enter a layer)",
    "F": "hidden width",
    "H": "attention heads",
    "K": "head size; also the k of a top-k",
    "V": "vocabulary (output units)",
    "M": "blocks of output units, one per device along `model`",
    "N": "positions of a text, or any flat count",
    "T": "frames",
    "Y": "height",
    "X": "width",
    "C": "channels; also word classes",
    "R": "rays",
    "S": "samples",
}

DATA, FSDP, MODEL = "data", "fsdp", "model"
MESH_AXES: tuple[str, ...] = (DATA, FSDP, MODEL)

BATCH_MESH_AXES: tuple[str, ...] = (DATA, FSDP)
"""Examples are spread over both: fully sharded parameters still mean data parallelism."""

Rules = Mapping[str, str | tuple[str, ...] | None]

DEFAULT_RULES: Rules = {
    "batch": BATCH_MESH_AXES,
    "length": None,
    # Output units (Bengio et al. 2003, section 3.2): one block of rows of U, W and b per device.
    "vocab": MODEL,
    # Rows of an input table: looked up by every device, so never split over `model`.
    "words": None,
    # The dimension that enters a layer; what fully sharded parameters are cut along.
    "embed": FSDP,
    "hidden": None,
    "mlp": MODEL,
    "heads": MODEL,
    "kv": None,
    "layers": None,
    # Shifts, scales and gates of a block, and the numbers of a patch: few, used by every device.
    "modulation": None,
    "patch": None,
    # Rows of a table of classes (with the null class seldom a round number) or of positions.
    "classes": None,
    "positions": None,
    "rays": BATCH_MESH_AXES,
}
"""Logical axis -> mesh axis (or axes, or None for replicated)."""
