"""Short names of the classes in saved configurations, and where each class is defined now.

A saved file holds a short name, never the path of a module. A class that moves or is renamed
changes its line of `CLASSES`, and every file written before still opens. Programs name classes of
their own with `register_config`.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from jaxgen.errors import InputError

CLASSES: dict[str, str] = {
    "nplm": "jaxgen.lm.nplm:NPLMConfig",
    "nplm-energy": "jaxgen.lm.outputs.energy:EnergyNPLMConfig",
    "nplm-sampled": "jaxgen.lm.outputs.importance_sampling:SampledNPLMConfig",
    "nplm-short-list": "jaxgen.lm.outputs.short_list:ShortListConfig",
    "nplm-tree": "jaxgen.lm.outputs.tree_softmax:TreeNPLMConfig",
    "tree-code": "jaxgen.lm.outputs.tree_softmax:TreeCode",
    "denoiser": "jaxgen.diffusion.model:DenoiserConfig",
    "text-to-image": "jaxgen.diffusion.text_to_image:TextToImageConfig",
    "noise-augmentation": "jaxgen.diffusion.conditioning.noise_augmentation:Augmentation",
    "image-decoder": "jaxgen.diffusion.image_decoder:ImageDecoderConfig",
    "dit": "jaxgen.spacetime.dit:DiTConfig",
    "uvit": "jaxgen.spacetime.uvit:UViTConfig",
    "mdt": "jaxgen.spacetime.mdt:MDTConfig",
    "diffit": "jaxgen.spacetime.diffit:DiffiTConfig",
    "video-dit": "jaxgen.spacetime.video_dit:VideoDiTConfig",
    "unet": "jaxgen.unet.unet:UNetConfig",
    "cosine": "jaxgen.diffusion.process.schedules:CosineSchedule",
    "inverse-cosine": "jaxgen.diffusion.process.schedules:InverseCosineSchedule",
    "sigmoid": "jaxgen.diffusion.process.schedules:SigmoidSchedule",
    "karras": "jaxgen.diffusion.process.schedules:KarrasSchedule",
    "rectified-flow": "jaxgen.diffusion.process.schedules:RectifiedFlow",
    "linear-beta": "jaxgen.diffusion.process.sde_schedules:LinearBetaSchedule",
    "geometric": "jaxgen.diffusion.process.sde_schedules:GeometricSchedule",
    "blended": "jaxgen.diffusion.process.derived_schedules:Blended",
    "bounded": "jaxgen.diffusion.process.derived_schedules:Bounded",
    "reframed": "jaxgen.diffusion.process.derived_schedules:Rescaled",
    "shifted": "jaxgen.diffusion.process.derived_schedules:Shifted",
    "table": "jaxgen.diffusion.process.table_schedules:DiscreteSchedule",
    "custom-table": "jaxgen.diffusion.process.table_schedules:CustomTable",
    "learnt-schedule": "jaxgen.diffusion.process.learned_schedule:LearnedScheduleConfig",
    "radiance-field": "jaxgen.nerf.renderer:RadianceConfig",
    "splats": "jaxgen.nerf.splat_rendering:SplatConfig",
    "proposal": "jaxgen.nerf.renderer:ProposalConfig",
    "occupancy": "jaxgen.nerf.occupancy:OccupancyConfig",
    "views": "jaxgen.nerf.view_parameters:ViewConfig",
    "surroundings": "jaxgen.nerf.surroundings:SurroundingsConfig",
    "ndc": "jaxgen.nerf.ndc:NdcConfig",
    "nerf-field": "jaxgen.nerf.network_field:NeRFFieldConfig",
    "hash-field": "jaxgen.nerf.grid_field:HashFieldConfig",
    "distance-field": "jaxgen.nerf.distance_field:DistanceFieldConfig",
    "hash-grid": "jaxgen.nerf.hash_grid:HashGridConfig",
    "dense-grid": "jaxgen.nerf.dense_grids:DenseGridConfig",
    "tri-plane": "jaxgen.nerf.dense_grids:TriPlaneConfig",
    "compressor": "jaxgen.compressors.compressor:CompressorConfig",
    "causal-autoencoder": "jaxgen.compressors.causal_autoencoder:CausalAutoencoderConfig",
    "frame-autoencoder": "jaxgen.compressors.frame_autoencoder:FrameAutoencoderConfig",
    "temporal-decoder": "jaxgen.compressors.temporal_decoder:TemporalDecoderConfig",
    "tiny-autoencoder": "jaxgen.compressors.tiny_autoencoder:TinyAutoencoderConfig",
    "kl": "jaxgen.compressors.bottlenecks.gaussian_bottleneck:KLConfig",
    "vq": "jaxgen.compressors.bottlenecks.vector_quantizer:VQConfig",
    "fsq": "jaxgen.compressors.bottlenecks.finite_scalar:FSQConfig",
    "lfq": "jaxgen.compressors.bottlenecks.lookup_free:LFQConfig",
    "clip": "jaxgen.encoders.clip_model:CLIPConfig",
    "clip-text": "jaxgen.encoders.clip_text:CLIPTextConfig",
    "clip-image": "jaxgen.encoders.clip_image:CLIPImageConfig",
    "t5-encoder": "jaxgen.encoders.t5:T5Config",
    "coca": "jaxgen.encoders.coca_model:CoCaConfig",
    "coca-text": "jaxgen.encoders.coca_text:CoCaTextConfig",
    "coca-image": "jaxgen.encoders.coca_image:CoCaImageConfig",
    "causal-text": "jaxgen.encoders.causal_text:CausalTextConfig",
    "image-prior": "jaxgen.encoders.image_prior:ImagePriorConfig",
    "code-prior": "jaxgen.encoders.code_prior:CodePriorConfig",
    "text-to-vector": "jaxgen.encoders.text_to_vector:TextToVectorConfig",
    "decoding": "jaxgen.nn.decoding:Decoding",
    "classifier": "jaxgen.evaluation.classifier:ClassifierConfig",
    "optimizer": "jaxgen.training.optimizers:OptimizerConfig",
}
"""Saved name -> ``module:class``. Names are for ever; only what they lead to may change."""

FIRST_FORMAT: dict[str, str] = {
    "jaxgen.lm.nplm:NPLMConfig": "nplm",
    "jaxgen.lm.energy:EnergyNPLMConfig": "nplm-energy",
    "jaxgen.lm.importance_sampling:SampledNPLMConfig": "nplm-sampled",
    "jaxgen.lm.short_list:ShortListConfig": "nplm-short-list",
    "jaxgen.lm.tree_softmax:TreeNPLMConfig": "nplm-tree",
    "jaxgen.lm.tree_softmax:TreeCode": "tree-code",
    "experiments.image_networks:ImageModelConfig": "denoiser",
    "jaxgen.spacetime.dit:DiTConfig": "dit",
    "jaxgen.spacetime.uvit:UViTConfig": "uvit",
    "jaxgen.spacetime.mdt:MDTConfig": "mdt",
    "jaxgen.spacetime.diffit:DiffiTConfig": "diffit",
    "jaxgen.spacetime.unet_config:UNetConfig": "unet",
    "jaxgen.diffusion.schedules:CosineSchedule": "cosine",
    "jaxgen.diffusion.schedules:InverseCosineSchedule": "inverse-cosine",
    "jaxgen.diffusion.schedules:SigmoidSchedule": "sigmoid",
    "jaxgen.diffusion.schedules:KarrasSchedule": "karras",
    "jaxgen.diffusion.schedules:RectifiedFlow": "rectified-flow",
    "jaxgen.diffusion.sde_schedules:LinearBetaSchedule": "linear-beta",
    "jaxgen.diffusion.sde_schedules:GeometricSchedule": "geometric",
    "jaxgen.diffusion.derived_schedules:Blended": "blended",
    "jaxgen.diffusion.derived_schedules:Bounded": "bounded",
    "jaxgen.diffusion.derived_schedules:Reframed": "reframed",
    "jaxgen.diffusion.derived_schedules:Shifted": "shifted",
    "jaxgen.diffusion.discrete:DiscreteSchedule": "table",
    "jaxgen.diffusion.discrete:CustomTable": "custom-table",
    "jaxgen.diffusion.learnt_schedule:LearntScheduleConfig": "learnt-schedule",
    "jaxgen.evaluation.classifier:ClassifierConfig": "classifier",
    "jaxgen.training.optimizers:OptimizerConfig": "optimizer",
}
"""What files of the first format called the classes, their modules at that time -> saved name."""

RENAMED_FIELDS: dict[str, dict[str, str]] = {
    "denoiser": {"strength_channels": "guidance_channels"},
    "learnt-schedule": {"frame": "scaling"},
}
"""Saved name -> what a field was called before -> what it is called now."""

ClassT = TypeVar("ClassT", bound=type)

_registered: dict[str, type] = {}


def register_config(
    name: str, *, first_format: Sequence[str] = (), renamed: Mapping[str, str] | None = None
) -> Callable[[ClassT], ClassT]:
    """A decorator that gives a class of a program its name in saved configurations.

    Args:
      name: short, and not taken; it must not change once files hold it.
      first_format: what files of the first format called the class, ``module:class``.
      renamed: what a field was called before -> what it is called now.

    Raises:
      InputError: when applied, for a name that another class has.
    """

    def register(cls: ClassT) -> ClassT:
        taken = _registered.get(name)
        if name in CLASSES or not (taken is None or _identity(taken) == _identity(cls)):
            raise InputError(f"saved name {name!r} is taken, expected another for {cls.__name__}")
        if taken is None or taken.__module__ != "__main__":  # the running program's class stays
            _registered[name] = cls
        for former in first_format:
            FIRST_FORMAT[former] = name
        if renamed:
            RENAMED_FIELDS[name] = dict(renamed)
        return cls

    return register


def saved_name(cls: type) -> str:
    """The name of a class in saved configurations.

    Raises:
      InputError: for a class that has none.
    """
    where = ":".join(_identity(cls))
    for name, location in CLASSES.items():
        if location == where:
            return name
    for name, registered in _registered.items():
        if _identity(registered) == _identity(cls):
            return name
    raise InputError(
        f"{where} has no saved name, expected a class named with "
        "jaxgen.training.register_config(NAME)"
    )


def class_of(name: str) -> type | None:
    """The class of a saved name, or None."""
    if name not in CLASSES:
        return _registered.get(name)
    module, _, qualified = CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), qualified)


def _identity(cls: type) -> tuple[str, str]:
    """Module and name, the same for a program run with ``python -m`` and imported."""
    module = cls.__module__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name if spec else module
    return module, cls.__qualname__
