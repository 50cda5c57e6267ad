"""What rendering gives."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.nerf.cameras import Cameras
from jaxgen.typing import Tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rendering:
    """Images of cameras ([N, Y, X, ...]), or what single rays see ([R, ...]).

    Attributes:
      colour: [..., 3], in front of the background.
      opacity: [...], between 0 and 1.
      depth: [...], expected distance along the ray; see
        `jaxgen.nerf.volume_rendering.expected_depth`.
      weights: [..., S], of the samples that colour is the sum of. None where rays have no common
        number of samples (`jaxgen.nerf.packed_rays`), and distortion and other percentiles than
        the median are not to be had.
      normals: [..., 3], ``sum_i w_i n_i`` of the unit vectors n against the gradient of density (of
        fields over grids, a difference), in world coordinates: shorter than 1 where opacity is, or
        where n disagree. None unless they are wanted.
      edges: [..., S + 1], distances along the ray between which the samples' intervals are, for
        `jaxgen.nerf.volume_rendering.percentile_distance`. None where weights are.
      left_out: [...], whether some of a ray's samples did not fit into the budget, so that what it
        shows is not what is there. None where all samples always fit.
      median: [...], of packed rays within their budgets the distance at which half of the opacity
        is reached, the far end where a ray hits nothing. None of others: with weights it is
        `jaxgen.nerf.volume_rendering.percentile_distance`; rendering to the end and splats have
        none.
    """

    colour: Float[Array, "*B 3"]
    opacity: Float[Array, "*B"]
    depth: Float[Array, "*B"]
    weights: Float[Array, "*B S"] | None
    normals: Float[Array, "*B 3"] | None
    edges: Float[Array, "*B S1"] | None = None
    left_out: Bool[Array, "*B"] | None = None
    median: Float[Array, "*B"] | None = None


class RayWeights(NamedTuple):
    """How much of R rays is absorbed in their intervals.

    Attributes:
      edges: [R, S + 1], in s, from 0 to 1.
      weights: [R, S].
      colour: [R, 3] of a coarse network; None of a proposal, which has none.
    """

    edges: Float[Array, "R S1"]
    weights: Float[Array, "R S"]
    colour: Float[Array, "R 3"] | None = None


class RenderedRays(NamedTuple):
    """What rays see, and what losses on their samples need.

    Attributes:
      rendering: of the field, [R, ...].
      final: weights of the field; None of packed rays.
      earlier: weights by which its intervals were placed and which have gradients: of the coarse
        network, or of all proposals.
      gradient: of a field's signed distance at the samples, [R, S, 3]; None of other fields.
      samples: how many samples of packed rays were evaluated; None of other rays.
    """

    rendering: Rendering
    final: RayWeights | None
    earlier: tuple[RayWeights, ...] = ()
    gradient: Float[Array, "R S 3"] | None = None
    samples: Int[Array, ""] | None = None


class Render(Protocol):
    """A differentiable renderer, as `RadianceConfig.make_render` makes it."""

    def __call__(
        self,
        params: Tree,
        cameras: Cameras,
        *,
        key: Key[Array, ""] | None = None,
        background: Float[Array, "3"] | None = None,
        bounds: Float[Array, "2"] | None = None,
        cells: Bool[Array, "X Y Z"] | None = None,
    ) -> Rendering:
        """Images [N, Y, X, ...] of all cameras.

        Args:
          params: of the field.
          cameras: the cameras.
          key: where samples are in their intervals; a ray's depend on the key and on the ray's
            number in the images. None: midpoints.
          background: a colour; None: the configuration's.
          bounds: distances where rays begin and end; None: the configuration's.
          cells: which cells of the box are occupied, where the configuration has an occupancy grid
            (`jaxgen.nerf.occupancy`); None: all.
        """
        ...
