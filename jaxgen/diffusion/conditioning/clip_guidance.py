"""CLIP guidance (Nichol et al. 2022, GLIDE, section 2.3): samples that CLIP finds near to a text.

A CLIP whose image tower was trained on noisy images and their level gives unit vectors i(z) of
images and c of texts; with its scale l = exp(logit_scale), softmax of ``l <i(z), c>`` over texts is
p(text | z). Its numerator stands where classifier guidance has its classifier::

    e~ = e(z) - w s grad l <i(z), c>
    x~ = x(z) + w s^2/a grad l <i(z), c>

The denoiser may read the text itself (GLIDE's does), or not. A step evaluates the denoiser once and
CLIP once, with a gradient; classifier-free guidance evaluates the denoiser twice.

A CLIP of clean pictures has no place here: what it says of noise is arbitrary, and samples that
follow its gradient become adversarial examples.
"""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxgen.diffusion.conditioning.guidance import GuidanceWeight, classifier_guidance
from jaxgen.diffusion.denoiser import Denoiser
from jaxgen.diffusion.process.levels import Level
from jaxgen.errors import InputError

NoisyImageVectors = Callable[[Array, Level], Float[Array, "B D"]]
"""``(z [B, ...], level of [] or [B] each) -> unit vectors [B, D]`` of noisy images."""


def clip_guidance(
    denoiser: Denoiser,
    image_vectors: NoisyImageVectors,
    text_BD: Float[Array, "B D"],
    w: GuidanceWeight,
    *,
    scale: float | Array = 1.0,
) -> Denoiser:
    """Follows the gradient of the similarity of noisy images and texts.

    Args:
      denoiser: what is guided.
      image_vectors: the image tower of a CLIP of noisy images.
      text_BD: the unit vector of each example's text.
      w: the weight of the gradient; 0 is the denoiser itself.
      scale: l, the scale of CLIP's logits.

    Returns:
      The guided denoiser, for latents of the same B. Texts, weight and scale may be traced.

    Raises:
      InputError: when called, where images have vectors of another shape than the texts.
    """

    def log_likelihood(z: Float[Array, "B ..."], level: Level) -> Float[Array, "B"]:
        image_BD = image_vectors(z, level)
        if image_BD.shape != text_BD.shape:
            raise InputError(
                f"images have vectors of shape {image_BD.shape} and texts {text_BD.shape}, "
                "expected [B, D] both"
            )
        return scale * (image_BD * text_BD).sum(axis=1)

    return classifier_guidance(denoiser, log_likelihood, w)
