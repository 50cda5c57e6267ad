"""The Gaussians that flags ask for, and flags that have no meaning with them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments.nerf.support.field_flags import FieldFlags
from experiments.nerf.support.field_training import FieldTrainingFlags
from jaxgen.data import Scene
from jaxgen.errors import InputError
from jaxgen.evaluation.image_similarity import WINDOW
from jaxgen.nerf import SplatConfig
from jaxgen.training.saved_names import register_config


@register_config("nerf.splats")
@dataclass(frozen=True, kw_only=True)
class SplatFlags:
    """Gaussians, where the field is "splats".

    Attributes:
      gaussians: how many; their number stays.
      harmonics_degree: of their colours, 0 to 3.
      crop: height and width of the random part of an image that an update sees; None: all of it.
    """

    gaussians: int = 10_000
    harmonics_degree: int = 3
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < WINDOW:
            raise InputError(f"crop is {self.crop}, expected {WINDOW} or more, the window of SSIM")
        SplatConfig(self.gaussians, self.harmonics_degree)

    def config(self, scene: Scene, field: FieldFlags) -> SplatConfig:
        """Gaussians that begin in the box of a scene.

        Args:
          scene: the scene.
          field: whose ``box`` may take the place of the scene's.

        Raises:
          InputError: for flags of other fields, or images smaller than the crop.
        """
        _check_defaults(field, ("field", "box"))
        least = min(scene.part("train").images.shape[1:3])
        if max(self.crop or 0, WINDOW) > least:
            raise InputError(
                f"{scene.name}: images have sides of {least} pixels, expected "
                f"{max(self.crop or 0, WINDOW)} or more"
            )
        box = scene.box
        if field.box is not None:
            box = (-field.box,) * 3, (field.box,) * 3
        return SplatConfig(self.gaussians, self.harmonics_degree, box=box)


def flags_of_splats(flags: FieldTrainingFlags) -> FieldTrainingFlags:
    """The flags of a training without averages: what is moved has no mean with what it was.

    Raises:
      InputError: for flags that have no meaning for Gaussians.
    """
    own = ("training_steps", "minutes", "learning_rate", "ema_decay", "weight_decay")
    _check_defaults(flags, own)
    return dataclasses.replace(flags, ema_decay=0.0)


def check_no_splats(flags: SplatFlags) -> None:
    """Raises InputError where another field is trained with flags of Gaussians."""
    if flags != SplatFlags():
        raise InputError(f"flags of Gaussians are {flags}, expected field 'splats' with them")


def _check_defaults(flags: Any, own: tuple[str, ...]) -> None:
    """Refuses flags that have no meaning for Gaussians."""
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if field.name not in own and value != field.default:
            raise InputError(
                f"{field.name} is {value} with field 'splats', which has none, "
                "expected another field"
            )
