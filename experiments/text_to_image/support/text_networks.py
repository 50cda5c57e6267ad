"""Text-to-image models as flags: the network that reads texts, and the encoder of the texts."""

import dataclasses
import pathlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from experiments.shared.unet_sizes import heads_of
from experiments.text_to_image.support.captioned_data import make_tokenizer
from jaxgen.data import CaptionedSet
from jaxgen.data.captions.captioned_set import CAPTION_KINDS
from jaxgen.data.tokenizers import Tokenizer, open_tokenizer
from jaxgen.diffusion.model import DenoiserConfig
from jaxgen.diffusion.process.predictions import channels_of, check_target
from jaxgen.diffusion.text_to_image import TextToImageConfig
from jaxgen.encoders import CLIPConfig, CLIPTextConfig, T5Config
from jaxgen.errors import InputError
from jaxgen.interop.model_configs import read_model_config
from jaxgen.interop.t5_weights import MODEL_TYPES
from jaxgen.interop.weight_folders import network_folder
from jaxgen.pretrained import load_clip, load_t5
from jaxgen.pretrained.encoder_folders import TEXT_FOLDERS
from jaxgen.spacetime import DiTConfig, UViTConfig
from jaxgen.spacetime.text_context import TextUse
from jaxgen.training import load_model
from jaxgen.training.saved_names import register_config
from jaxgen.typing import Tree

NetworkName = Literal["dit", "uvit"]


class TextEncoder(NamedTuple):
    """An encoder of texts.

    Attributes:
      config: what it is.
      tokenizer: of its texts.
      params: its parameters; None for one that is trained with the denoiser.
    """

    config: CLIPTextConfig | T5Config
    tokenizer: Tokenizer
    params: Tree | None = None

    @property
    def pooled_width(self) -> int:
        """Width of the pooled vector."""
        return getattr(self.config, "projection", None) or self.config.width


@register_config("text_to_image.network")
@dataclass(frozen=True, kw_only=True)
class TextNetworkFlags:
    """The network, and the transformer that reads its texts.

    Attributes:
      network: "dit" or "uvit"; a U-ViT has an even number of blocks and one in the middle.
      width: of a token.
      depth: blocks.
      patch: pixels along the side of a patch.
      text: of "dit", whether texts are attended to in each block ("cross") or are tokens beside the
        patches ("in_context").
      text_width: of the text transformer that is trained with the network.
      text_depth: its blocks.
      dtype: the compute dtype of products.
    """

    network: NetworkName = "dit"
    width: int = 128
    depth: int = 4
    patch: int = 4
    text: TextUse = "cross"
    text_width: int = 128
    text_depth: int = 2
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.network not in get_args(NetworkName):
            raise InputError(f"network is {self.network!r}, expected dit or uvit")
        for name in ("width", "text_width"):
            heads_of(getattr(self, name), name)

    def encoder(self, tokenizer: Tokenizer) -> TextEncoder:
        """The text transformer for a vocabulary, to be trained with the network."""
        config = CLIPTextConfig(
            width=self.text_width,
            depth=self.text_depth,
            heads=heads_of(self.text_width),
            mlp_units=4 * self.text_width,
            vocabulary=tokenizer.size,
            length=tokenizer.length,
            end_id=tokenizer.end,
            projection=None,
            dtype=self.dtype,
        )
        return TextEncoder(config, tokenizer)

    def config(
        self,
        shape: tuple[int, ...],
        target: str,
        encoder: TextEncoder,
        *,
        null_text: bool = True,
    ) -> TextToImageConfig:
        """The whole model for images of a shape.

        Args:
          shape: of the images.
          target: what is predicted.
          encoder: of the texts.
          null_text: whether the empty text is trained on.

        Raises:
          InputError: for sizes that do not fit each other or the images.
        """
        checked = check_target(target)
        common: dict[str, Any] = {
            "in_channels": shape[2],
            "out_channels": channels_of(checked, shape[2]),
            "patch": self.patch,
            "width": self.width,
            "depth": self.depth,
            "heads": heads_of(self.width),
            "num_classes": 0,
            "text_width": encoder.config.width,
            "dtype": self.dtype,
        }
        if shape[0] % self.patch or shape[1] % self.patch:
            raise InputError(
                f"patch is {self.patch}, expected a divisor of both sides of the images "
                f"({shape[0]} x {shape[1]})"
            )
        network: Any
        if self.network == "dit":
            network = DiTConfig(**common, text=self.text, pooled_width=encoder.pooled_width)
        else:
            common["depth"] += 1 - self.depth % 2
            length = encoder.tokenizer.length
            network = UViTConfig(**common, input_size=shape[:2], text_length=length)
        denoiser = DenoiserConfig(network, shape, (), checked)
        return TextToImageConfig(denoiser, encoder.config, null_text=null_text)


def encoder_of(given: str | None, flags: TextNetworkFlags, pictures: CaptionedSet) -> TextEncoder:
    """The encoder that is given, or a new one for the words of all captions of a set.

    Args:
      given: a folder for `open_text_encoder`, or None.
      flags: of a new encoder.
      pictures: the set.
    """
    captions = sorted({text for kind in CAPTION_KINDS for text in pictures.distinct(kind)})
    if given is None:
        return flags.encoder(make_tokenizer(captions))
    found = open_text_encoder(given)
    if found.tokenizer.length is None:  # T5's: as long as the longest caption, for one program
        longest = found.tokenizer.encode(captions).ids.shape[1]
        tokenizer = dataclasses.replace(found.tokenizer, length=longest)
        found = found._replace(tokenizer=tokenizer)
    return found


def open_text_encoder(path: str) -> TextEncoder:
    """A text encoder that stays as it is: of a run of CLIP, or a published folder.

    Args:
      path: the working folder of ``experiments.text_to_image.clip``, or a folder that
        `jaxgen.pretrained.load_clip` or `jaxgen.pretrained.load_t5` opens, with a tokenizer.

    Raises:
      FileNotFoundError: there is no such folder.
      InputError: it holds no text encoder, or a tokenizer with more ids than the encoder has rows.
    """
    folder = pathlib.Path(path)
    if (folder / "checkpoints").is_dir():
        model, words = load_model(folder / "checkpoints"), folder / "tokenizer"
        found, params = model.config, model.params
    else:
        fields = read_model_config(network_folder(path, TEXT_FOLDERS)) or {}
        is_t5 = fields.get("model_type") in MODEL_TYPES
        found, params = load_t5(path) if is_t5 else load_clip(path)
        words = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    if isinstance(found, CLIPConfig):
        found, params = found.text, params["text"]
    if not isinstance(found, CLIPTextConfig | T5Config):
        raise InputError(f"{path}: {type(found).__name__}, expected a text encoder")
    tokenizer = open_tokenizer(words)
    if tokenizer.size > found.vocabulary:
        raise InputError(
            f"{words}: {tokenizer.size:,} ids, expected at most {found.vocabulary:,}, the rows of "
            "the encoder's table"
        )
    return TextEncoder(found, tokenizer, params)
