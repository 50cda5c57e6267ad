"""The Fréchet distance between sets of clips, and what it depends on besides the clips.

The distance is that of `jaxgen.evaluation.frechet` with one row of features for each clip: the 400
logits of I3D (`jaxgen.evaluation.i3d`; then it is the FVD of Unterthiner et al. 2018), or the
features of a classifier of clips that an experiment trains (`Classifier` with `temporal`). Its
value changes with the number of clips, their length, the frames that are left out between two of
them and how frames are resized, so a distance is given together with all four (`ClipProtocol`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxgen.errors import InputError
from jaxgen.evaluation.features import check_features
from jaxgen.evaluation.frechet import feature_moments, frechet_distance


@dataclass(frozen=True)
class ClipProtocol:
    """What a distance of clips was taken of; as text it is the caption of a table.

    Attributes:
      features: whose features they are, such as "I3D".
      count: clips of each of both sets.
      length: frames of a clip.
      stride: frames of a video from one frame of the clip to the next; 1 leaves none out.
      resize: what was done to frames, such as "224 x 224, bilinear".
    """

    features: str
    count: int
    length: int
    stride: int = 1
    resize: str = "none"

    def __post_init__(self) -> None:
        """Validates the fields."""
        for field, least in (("count", 2), ("length", 1), ("stride", 1)):
            if getattr(self, field) < least:
                raise InputError(f"{field} is {getattr(self, field)}, expected {least} or more")

    def __str__(self) -> str:
        return (
            f"features: {self.features}; {self.count:,} clips of {self.length} frames in each set, "
            f"stride {self.stride}, resize: {self.resize}"
        )


def frechet_video_distance(
    real_ND: Float[np.ndarray, "N D"],
    generated_ND: Float[np.ndarray, "N D"],
    protocol: ClipProtocol,
) -> float:
    """The squared Fréchet distance between real and generated clips, 0 or more.

    Args:
      real_ND: features of real clips.
      generated_ND: features of generated clips.
      protocol: what is stated with the distance; both sets have its count.

    Raises:
      InputError: A set has another number of clips than the protocol, features that are not finite,
        or the sets have different widths.
    """
    moments = []
    for name, features in (("real", real_ND), ("generated", generated_ND)):
        features_ND = check_features(features, f"features of {name} clips")
        if len(features_ND) != protocol.count:
            raise InputError(
                f"features are of {len(features_ND)} {name} clips, expected {protocol.count}, the "
                "count of the protocol"
            )
        moments.append(feature_moments([features_ND]))
    return frechet_distance(*moments)
