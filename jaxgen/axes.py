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
    "A": "axes of a grid or of space",
    "B": "batch (examples)",
    "C": "channels; also classes, contexts and bins of contexts",
    "D": "model width (the features that enter a layer), or the features of a sample",
    "E": "examples of a pack",
    "F": "hidden width; also features of a word or of a patch, and faces of a mesh",
    "G": "members of a group (words of a class, classes beside a word); also Gaussians",
    "H": "attention heads",
    "I": "classes that two classes have in common as neighbours",
    "J": "models or components that are mixed; also moments",
    "K": "head size; also the k of a top-k, components of a density, steps of one call",
    "L": "length (tokens of a context or sequence); also levels of a hash grid",
    "M": "blocks of output units, one per device along `model`; also merges, and a second set",
    "N": "positions of a text, keys of an attention, steps of a table, or any flat count",
    "O": "outputs of a short list: its words and the tail",
    "P": "pairs, or parts of a joint projection",
    "Q": "queries; also columns of a sheet of images",
    "R": "rays; also rounds, and rows of a sheet of images",
    "S": "samples; also strokes",
    "T": "frames; also terms of a sum, tokens of a training text",
    "V": "vocabulary (output units); also vertices of a mesh",
    "W": "words outside of a short list",
    "X": "width",
    "Y": "height",
    "Z": "depth of a grid in space, whose X and Y are then its other axes",
}
"""What a letter stands for, as a suffix of a variable, in einsum strings and in annotations.

A digit is a size (``mean_B1``, ``box_N2``), a digit after a letter another size of the same kind
(``"B Y2 X2 C"``).
"""

DATA, FSDP, SEQUENCE, MODEL = "data", "fsdp", "sequence", "model"
MESH_AXES: tuple[str, ...] = (DATA, FSDP, SEQUENCE, MODEL)

BATCH_MESH_AXES: tuple[str, ...] = (DATA, FSDP)
"""Examples are spread over both: fully sharded parameters still mean data parallelism."""

Rules = Mapping[str, str | tuple[str, ...] | None]

DEFAULT_RULES: Rules = {
    "batch": BATCH_MESH_AXES,
    # Tokens of a sequence: activations alone, no parameter has this axis.
    "length": SEQUENCE,
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
    # Rows of a hash grid: looked up, and added to, by every device.
    "hash": None,
}
"""Logical axis -> mesh axis (or axes, or None for replicated)."""
