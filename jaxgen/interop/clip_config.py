"""What transformers and open_clip write beside CLIP's weights: fields of both towers, and back.

* transformers: ``config.json``, of ``CLIPModel`` with ``text_config`` and ``vision_config`` in it
  (and, in old files, ``text_config_dict``, which then holds), or of a tower alone. The mean and
  deviation of pixels are in ``preprocessor_config.json``.
* open_clip: ``open_clip_config.json``, ``model_cfg`` and ``preprocess_cfg``.

``eos_token_id`` 2 is what old configurations say, Stable Diffusion's among them; transformers then
takes the token with the largest id, and otherwise the first with that id.
"""

from collections.abc import Mapping
from typing import Any

from jaxgen.errors import InputError
from jaxgen.interop.model_configs import check_agrees, check_model_type

OPEN_CLIP_CONFIG = "open_clip_config.json"
PREPROCESSOR = "preprocessor_config.json"

LARGEST_ID = 2
"""The ``eos_token_id`` that stands for the largest id of a text."""

MODEL_TYPES = {"clip": ("text", "image"), "clip_text_model": ("text",)}
MODEL_TYPES["clip_vision_model"] = ("image",)
"""transformers' names of models, and the towers that each has."""

TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49_408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49_407,
    "projection_dim": 512,
}
IMAGE_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
}
"""What transformers takes for fields that a configuration leaves out."""

ACTIVATIONS = ("quick_gelu", "gelu")

SHARED_FIELDS = {
    "width": "hidden_size",
    "mlp_units": "intermediate_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
}
TEXT_FIELDS = {
    **SHARED_FIELDS,
    "vocabulary": "vocab_size",
    "length": "max_position_embeddings",
}
IMAGE_FIELDS = {**SHARED_FIELDS, "size": "image_size", "patch": "patch_size"}
"""Fields here, and what transformers calls them."""

EPSILON = 1e-5
"""Added to variances in open_clip."""


def transformers_options(
    where: str,
    config: Mapping[str, Any],
    pixels: Mapping[str, Any] | None = None,
    projects: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """The fields of both towers that a ``config.json`` tells.

    Args:
      where: What errors call it.
      config: Its fields.
      pixels: The fields of ``preprocessor_config.json``; None: OpenAI's mean and deviation.
      projects: Whether the weights of a tower alone have a projection; None: as the name of the
        model's class says.

    Returns:
      Fields of `jaxgen.encoders.CLIPTextConfig` under "text" and of `CLIPImageConfig` under
      "image", of those that there are.

    Raises:
      InputError: For the configuration of another model, or a value that the towers have not.
    """
    check_model_type(where, config, MODEL_TYPES)
    parts = MODEL_TYPES[config["model_type"]]
    if len(parts) == 1:
        if projects is None:
            projects = any("WithProjection" in name for name in config.get("architectures") or ())
        fields = {parts[0]: config}
    else:
        projects = True
        width = {"projection_dim": config.get("projection_dim", TEXT_DEFAULTS["projection_dim"])}
        fields = {
            part: {**_object(where, config, key), **_object(where, config, f"{key}_dict"), **width}
            for part, key in (("text", "text_config"), ("image", "vision_config"))
        }
    found = {}
    if "text" in fields:
        found["text"] = _text_options(where, fields["text"], projects)
    if "image" in fields:
        found["image"] = _image_options(where, fields["image"], projects, pixels or {})
    return found


def _object(where: str, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: {name} is {found!r}, expected an object of fields")
    return found


def _text_options(where: str, config: Mapping[str, Any], projects: bool) -> dict[str, Any]:
    given = _given(where, config, TEXT_DEFAULTS)
    end_id = given["eos_token_id"]
    return {
        **{ours: given[theirs] for ours, theirs in TEXT_FIELDS.items()},
        "end_id": None if end_id == LARGEST_ID else end_id,
        "projection": given["projection_dim"] if projects else None,
    }


def _image_options(
    where: str, config: Mapping[str, Any], projects: bool, pixels: Mapping[str, Any]
) -> dict[str, Any]:
    given = _given(where, config, IMAGE_DEFAULTS)
    options = {ours: given[theirs] for ours, theirs in IMAGE_FIELDS.items()}
    options["projection"] = given["projection_dim"] if projects else None
    return {**options, **pixel_options(where, pixels, "image_mean", "image_std", given)}


def pixel_options(
    where: str, pixels: Mapping[str, Any], mean: str, std: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Mean and deviation, where they are told.

    Args:
      where: What errors call the configuration.
      pixels: Where they stand.
      mean: What the mean is called there.
      std: What the deviation is called there.
      given: Fields of the tower, of which the number of channels is looked at.

    Raises:
      InputError: For channels other than three without both.
    """
    channels = given.get("num_channels", 3)
    if pixels.get(mean) is None or pixels.get(std) is None:
        if channels != 3:
            raise InputError(
                f"{where}: num_channels is {channels} without {PREPROCESSOR}, expected 3, or "
                f"{mean} and {std} in that file"
            )
        return {}
    return {"mean": tuple(map(float, pixels[mean])), "deviation": tuple(map(float, pixels[std]))}


def _given(where: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: config.get(name) for name in defaults}
    given = {name: defaults[name] if found[name] is None else found[name] for name in defaults}
    if given["hidden_act"] not in ACTIVATIONS:
        raise InputError(
            f"{where}: hidden_act is {given['hidden_act']!r}, expected {' or '.join(ACTIVATIONS)}"
        )
    for name, default in defaults.items():
        if isinstance(default, int) and not isinstance(given[name], int):
            raise InputError(f"{where}: {name} is {given[name]!r}, expected one integer")
    return given


def transformers_fields(towers: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a ``CLIPModel`` or of a tower; the inverse of `transformers_options`.

    Args:
      towers: A `jaxgen.encoders.CLIPTextConfig` under "text", a `CLIPImageConfig` under "image", or
        one of the two.
    """
    if len(towers) == 2:
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": towers["text"].projection,
            "text_config": _text_fields(towers["text"]),
            "vision_config": _image_fields(towers["image"]),
        }
    suffix = "" if next(iter(towers.values())).projection is None else "WithProjection"
    if "text" in towers:
        return {"architectures": [f"CLIPTextModel{suffix}"], **_text_fields(towers["text"])}
    return {"architectures": [f"CLIPVisionModel{suffix}"], **_image_fields(towers["image"])}


def _text_fields(config: Any) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        **{theirs: getattr(config, ours) for ours, theirs in TEXT_FIELDS.items()},
        **_projection_field(config),
        "eos_token_id": LARGEST_ID if config.end_id is None else config.end_id,
    }


def _image_fields(config: Any) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        **{theirs: getattr(config, ours) for ours, theirs in IMAGE_FIELDS.items()},
        **_projection_field(config),
        "num_channels": config.channels,
    }


def _projection_field(config: Any) -> dict[str, Any]:
    return {} if config.projection is None else {"projection_dim": config.projection}


def preprocessor_fields(image: Any) -> dict[str, Any]:
    """The ``preprocessor_config.json`` of transformers' ``CLIPImageProcessor``.

    Args:
      image: A `jaxgen.encoders.CLIPImageConfig`.
    """
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image.size},
        "resample": 3,  # bicubic, in Pillow's numbers
        "do_center_crop": True,
        "crop_size": {"height": image.size, "width": image.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.deviation),
        "do_convert_rgb": image.channels == 3,
    }


def open_clip_options(
    where: str, config: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The fields of both towers that an ``open_clip_config.json`` adds to what shapes tell.

    Args:
      where: What errors call it.
      config: Its fields.
      shapes: The fields that shapes tell, by tower.

    Raises:
      InputError: For another model than a CLIP of two transformers, or another network than the
        shapes.
    """
    model = config.get("model_cfg") or {}
    text, vision = model.get("text_cfg") or {}, model.get("vision_cfg") or {}
    for fields, name in ((text, "hf_model_name"), (vision, "timm_model_name")):
        if fields.get(name):
            raise InputError(f"{where}: {name} is {fields[name]!r}, expected open_clip's own tower")
    check_agrees(where, {"pool_type": text.get("pool_type", "argmax")}, {"pool_type": "argmax"})
    known = {"width": "width", "layers": "depth"}
    check_fields(where, text, shapes["text"], {**known, "context_length": "length"})
    check_fields(where, vision, shapes["image"], {**known, "patch_size": "patch"})
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    pixels = config.get("preprocess_cfg") or {}
    return {
        "text": {"activation": activation, "heads": text.get("heads", 8)},
        "image": {
            "activation": activation,
            "heads": shapes["image"]["width"] // vision.get("head_width", 64),
            **pixel_options(where, pixels, "mean", "std", {}),
        },
    }


def check_fields(
    where: str, config: Mapping[str, Any], shapes: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Refuses a configuration that contradicts what shapes tell.

    Args:
      where: What errors call it.
      config: Its fields.
      shapes: Fields here and their values.
      names: Fields there, and what they are called here.

    Raises:
      InputError: Naming the field.
    """
    known = {theirs: shapes[ours] for theirs, ours in names.items()}
    check_agrees(where, {name: config.get(name) for name in known if name in config}, known)


def open_clip_fields(config: Any, custom_text: bool) -> dict[str, Any]:
    """The ``open_clip_config.json`` of a CLIP; the inverse of `open_clip_options`.

    Args:
      config: A `jaxgen.encoders.CLIPConfig`.
      custom_text: Whether the text tower's names begin with ``text.``.

    Raises:
      InputError: For a field that open_clip's towers have in one way alone.
    """
    text, image = config.text, config.image
    for tower in (text, image):
        if tower.epsilon != EPSILON or tower.activation != text.activation:
            raise InputError(
                f"epsilon is {tower.epsilon} and activation {tower.activation!r}, expected "
                f"{EPSILON} and one activation in both towers, which open_clip has"
            )
    if text.end_id not in (None, text.vocabulary - 1):
        raise InputError(
            f"end_id is {text.end_id}, expected the largest, {text.vocabulary - 1}, or None, which "
            "open_clip pools by"
        )

    def shared(tower: Any) -> dict[str, Any]:
        ratio = tower.mlp_units / tower.width
        return {"width": tower.width, "layers": tower.depth, "mlp_ratio": ratio}

    return {
        "model_cfg": {
            "embed_dim": text.projection,
            "quick_gelu": text.activation == "quick_gelu",
            "custom_text": custom_text,
            "vision_cfg": {
                **shared(image),
                "image_size": image.size,
                "patch_size": image.patch,
                "head_width": image.width // image.heads,
            },
            "text_cfg": {
                **shared(text),
                "context_length": text.length,
                "vocab_size": text.vocabulary,
                "heads": text.heads,
            },
        },
        "preprocess_cfg": {"mean": list(image.mean), "std": list(image.deviation)},
    }
