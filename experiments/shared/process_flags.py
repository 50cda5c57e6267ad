"""What a denoiser of images learns to predict, as flags."""

from dataclasses import dataclass
from typing import Literal

from jaxgen.diffusion.edm import EDM
from jaxgen.diffusion.objectives.weightings import weighting_named
from jaxgen.diffusion.process.predictions import LONG_NAMES
from jaxgen.errors import InputError
from jaxgen.training.saved_names import register_config


@register_config("images.process", first_format=["experiments.image_diffusion:ProcessFlags"])
@dataclass(frozen=True, kw_only=True)
class ProcessFlags:
    """What is predicted, and how errors are weighed.

    Attributes:
      preconditioning: "none", or "edm": schedule, preconditioning, weighting and times of Karras et
        al. (2022), in place of target and weighting.
      target: "v", "e" or "epsilon" (the noise), "x" or "x0" (the data), or "both" (x and e
        together).
      weighting: of the error of the data: "snr", "truncated_snr", "snr_plus_one", "constant",
        "min_snr", "soft_min_snr", "p2".
    """

    target: str = "v"
    weighting: str = "snr_plus_one"
    preconditioning: Literal["none", "edm"] = "none"

    def __post_init__(self) -> None:
        if self.preconditioning == "edm" and (self.target, self.weighting) != ("v", "snr_plus_one"):
            raise InputError(
                f"target is {self.target!r} and weighting {self.weighting!r} with preconditioning "
                "edm, expected none of them: it has its own"
            )
        target = LONG_NAMES.get(self.target, self.target)
        if target not in ("v", "e", "x", "both"):
            raise InputError(
                f"target is {self.target!r}, expected one of v, e, x, both (or epsilon, x0)"
            )
        object.__setattr__(self, "target", target)  # one name in what is saved and compared
        weighting_named(self.weighting)

    @property
    def edm(self) -> EDM | None:
        """The choices of Karras et al. (2022), if they are asked for."""
        return EDM() if self.preconditioning == "edm" else None
