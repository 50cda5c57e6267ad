"""Pictures changed through their image vectors: variations, interpolations, text differences."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.shared.figure_tables import write_rows
from experiments.shared.image_plots import plot_images
from experiments.text_to_image.support.attribute_evaluator import AttributeEvaluator, codes_of
from experiments.text_to_image.support.text_samples import prompts_of_part
from experiments.text_to_image.support.vector_decoder import PictureEditor, UnclipModels
from jaxgen.data import to_unit
from jaxgen.data.captions.shape_captions import read_captions, write_captions
from jaxgen.data.captions.shape_vocabulary import ShapeVocabulary
from jaxgen.diffusion.conditioning.editing import slerp
from jaxgen.diffusion.conditioning.image_vectors import text_difference

SHOWN, ETAS, BETWEEN = 8, (0.0, 0.5, 1.0), 7
"""Pictures that are shown; resampled noise of variations; steps between two pictures."""


def evaluate_edits(
    models: UnclipModels,
    folder: pathlib.Path,
    *,
    count: int,
    steps: int,
    shares: Sequence[float],
) -> dict[str, Any]:
    """Figures of variations and text differences, and pictures of them and of interpolations.

    Args:
      models: everything that was trained.
      folder: where tables and pictures are written.
      count: test pictures that are changed.
      steps: of DDIM, from a picture to noise and back.
      shares: of the way towards a text difference.
    """
    vectors, test = models.vectors, models.vectors.pictures.part("test")
    prompts = prompts_of_part(vectors.pictures, "test", "descriptive", count, shapes=True)
    x, vector_NC = to_unit(test.images[prompts.row_N]), vectors.of_part("test", prompts.row_N)
    editor = PictureEditor(models.decoder, vectors.clip.tokenizer, steps)
    z = editor.invert(x, vector_NC)
    varied = {f"eta {eta:g}": editor.draw(z, vector_NC, eta) for eta in ETAS}
    few = slice(0, None, max(1, len(x) // SHOWN))
    rows = np.stack([x[few][:SHOWN], *(each[few][:SHOWN] for each in varied.values())])
    names = ["original", *varied]
    plot_images(folder / "variations.png", rows, "Variations of test pictures", rows=names)
    was_NF = codes_of(test)[prompts.row_N]
    figures: dict[str, Any] = {
        f"variations, {name}": models.evaluator.figures(each, was_NF)
        for name, each in varied.items()
    }
    show_between(folder / "interpolations.png", editor, z, vector_NC)
    named_N, wanted_NF, captions = changed_captions(prompts.texts, was_NF, models.evaluator)
    texts_NC, before_NC = vectors.texts(captions), vectors.texts(prompts.texts)
    edited = {}
    for share in shares:
        moved_NC = np.asarray(text_difference(vector_NC, texts_NC, before_NC, share))
        edited[share] = editor.draw(z, moved_NC)
        _, found_NF = models.evaluator.look(edited[share])
        name = f"text difference, share {share:g}"
        figures[name] = difference_figures(
            models.evaluator.names, found_NF, was_NF, wanted_NF, named_N
        )
    chosen = {k: v for k, v in figures.items() if k.startswith("text difference")}
    write_rows(folder / "differences.md", "moved by", chosen)
    pictures = np.stack([x[:SHOWN], *(each[:SHOWN] for each in edited.values())])
    columns = [models.evaluator.values[f][wanted_NF[i, f]] for i, f in enumerate(named_N[:SHOWN])]
    plot_images(
        folder / "text_differences.png",
        pictures,
        "Test pictures moved towards what a caption with another word says",
        [f"to {value}" for value in columns],
        ["original", *(f"share {share:g}" for share in edited)],
    )
    return figures


def changed_captions(
    captions: Sequence[str], was_NF: Int[np.ndarray, "N F"], evaluator: AttributeEvaluator
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N F"], tuple[str, ...]]:
    """Captions with one attribute changed, each attribute in turn.

    Returns:
      Which attribute is changed, what is then asked for, and the captions that say so.
    """
    vocabulary, count = ShapeVocabulary(), len(captions)
    named_N = np.arange(count) % len(evaluator.names)
    wanted_NF = was_NF.copy()
    for i, f in enumerate(named_N):
        values = len(evaluator.values[f])
        step = 1 + (i // len(evaluator.names)) % (values - 1)
        wanted_NF[i, f] = (was_NF[i, f] + step) % values
    code_NF = read_captions(vocabulary, captions)
    said = list(vocabulary.values)
    for f, name in enumerate(evaluator.names):
        code_NF[:, said.index(name)] = wanted_NF[:, f]
    return named_N, wanted_NF, write_captions(vocabulary, code_NF)


def difference_figures(
    names: Sequence[str],
    found_NF: Int[np.ndarray, "N F"],
    was_NF: Int[np.ndarray, "N F"],
    wanted_NF: Int[np.ndarray, "N F"],
    named_N: Int[np.ndarray, "N"],
) -> dict[str, float]:
    """What text differences reached, by the attribute that was to change, and what else changed."""
    row_N = np.arange(len(named_N))
    reached_N = found_NF[row_N, named_N] == wanted_NF[row_N, named_N]
    other_NF = named_N[:, None] != np.arange(len(names))
    of_each = {
        f"{name} as asked": float(reached_N[named_N == f].mean())
        for f, name in enumerate(names)
        if (named_N == f).any()
    }
    changed_NF = found_NF != was_NF
    return of_each | {
        "named attribute as asked": float(reached_N.mean()),
        "others changed": float(changed_NF[other_NF].mean()),
    }


def show_between(
    path: pathlib.Path,
    editor: PictureEditor,
    z: Float[np.ndarray, "N Y X C"],
    vector_NC: Float[np.ndarray, "N C"],
) -> None:
    """Shows pictures from one to the next, noise and vectors both along the sphere."""
    shares = np.linspace(0, 1, BETWEEN)
    half = min(len(z) // 2, SHOWN // 2)
    if not half:
        return
    first, last = np.arange(half), len(z) - 1 - np.arange(half)
    rows = []
    for share in shares:
        between = np.asarray(slerp(vector_NC[first], vector_NC[last], share))
        noise = np.asarray(slerp(z[first], z[last], share))
        rows.append(editor.draw(noise, between))
    shown = np.stack(rows, axis=1)
    plot_images(
        path, shown, "From one test picture to another", [f"{share:.2f}" for share in shares]
    )
