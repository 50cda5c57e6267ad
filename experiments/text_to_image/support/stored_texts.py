"""Training on the states of an encoder that were stored, and models that were trained so."""

import dataclasses
import pathlib
from typing import TypeVar

import jax

from experiments.shared.digests import digest_of, tree_digest
from experiments.shared.output import progress_bar
from experiments.shared.training_runs import OpenedModel, open_trained_model, plan_layout_of
from experiments.shared.workdir import saved_field
from experiments.text_to_image.support.text_networks import TextEncoder, open_text_encoder
from jaxgen.data.captions.caption_batches import CaptionTokens
from jaxgen.data.captions.state_files import StateFiles, open_states, write_states
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.encoders import make_encoder
from jaxgen.errors import InputError
from jaxgen.parallel import all_succeed, is_main_process
from jaxgen.typing import Batch

Model = TypeVar("Model", bound=OpenedModel)


def store_states(
    folder: str, encoder: TextEncoder, tokens: CaptionTokens, dtype: str
) -> StateFiles:
    """The states of all captions of a set, computed where the folder has them not.

    Args:
      folder: of the states; made if it does not exist.
      encoder: with its parameters.
      tokens: of the captions; the last row is the empty text.
      dtype: of the numbers that are kept.

    Raises:
      InputError: for a folder with states of another encoder or other captions, or of another type.
    """
    digest = digest_of(encoder.config, tree_digest(encoder.params), tokens.ids, tokens.mask)

    def write() -> None:
        if not is_main_process():
            return
        with progress_bar("states of captions", "text", len(tokens.ids)) as advance:
            write_states(
                folder,
                make_encoder(encoder.config, encoder.params),
                tokens.ids,
                tokens.mask,
                digest,
                dtype=dtype,
                advance=advance,
            )

    all_succeed(write)
    return open_states(folder, digest)


def with_states(batch: Batch, states: StateFiles | None) -> Batch:
    """A batch with the states of its captions in place of their ids; without states as it is."""
    if states is None:
        return batch
    found = states.rows(batch["caption"])
    kept = {name: value for name, value in batch.items() if name != "text_ids"}
    return {**kept, "text_states": found.states_BLD, "text_pooled": found.pooled_BD}


def with_text_encoder(model: Model, encoder: TextEncoder) -> Model:
    """A model that was trained on states, with the encoder that they are of."""
    config = dataclasses.replace(model.config, encoder=encoder.config)
    layout = plan_layout_of(config)
    params = jax.device_put(encoder.params, layout.shardings["encoder"])
    joined = {**model.params, "encoder": params}
    return dataclasses.replace(model, config=config, params=joined, layout=layout)


def open_text_to_image(folder: pathlib.Path) -> OpenedModel:
    """The model of a run of ``experiments.text_to_image.train``, with its encoder.

    Raises:
      FileNotFoundError: where there is no checkpoint, or the encoder has gone.
      InputError: where it is not one of such a model.
    """
    model = open_trained_model(folder, TextToImageConfig, "a text-to-image model")
    if model.config.encoder is not None:
        return model
    return with_text_encoder(model, open_text_encoder(saved_field(folder, "encoder")))


def check_run_of_shapes(folder: pathlib.Path) -> None:
    """Refuses a run of ``experiments.text_to_image.train`` on other data than captioned shapes.

    Raises:
      InputError: naming its data.
    """
    data = saved_field(folder, "data")
    if data != "shapes":
        raise InputError(f"{folder} was trained on {data}, expected a run on captioned shapes")
