"""Random rays of posed photographs that stay on the devices."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.data import Views
from jaxgen.data.scenes.views import unit_colours
from jaxgen.errors import InputError
from jaxgen.nerf import (
    Cameras,
    RadianceConfig,
    Rays,
    camera_rays,
    make_cameras,
    pixel_rays,
    refine_cameras,
)
from jaxgen.nerf.renderer import VIEWS
from jaxgen.parallel import current_mesh, replicated
from jaxgen.typing import Batch, Tree


class DrawnRays(NamedTuple):
    """R random pixels.

    Attributes:
      rays: through the pixels.
      truth: what the photographs show, over the background.
      background: behind field and photographs; None: the field's own.
      counts: whether a pixel counts, 0 or 1.
      view: which photograph.
    """

    rays: Rays
    truth: Float[Array, "R 3"]
    background: Float[Array, "R 3"] | None
    counts: Float[Array, "R"]
    view: Int[Array, "R"]


def cameras_of(views: Views) -> Cameras:
    """The cameras of posed photographs."""
    _, height, width, _ = views.images.shape
    lens = views.intrinsics
    return make_cameras(
        views.camera_to_world,
        lens.focal,
        lens.centre,
        height=height,
        width=width,
        model=lens.model,
        distortion=lens.distortion,
    )


def mask_unseen(views: Views) -> Views:
    """The views with masks that leave out, too, where a distorted camera sees nothing."""
    cameras, see = cameras_of(views), jax.jit(lambda cameras: camera_rays(cameras).valid)
    if jax.eval_shape(see, cameras) is None:
        return views
    # One by one: the inverse of a distortion takes much memory.
    seen = np.concatenate([see(cameras.take(slice(i, i + 1))) for i in range(len(views))])
    if seen.all():
        return views
    return dataclasses.replace(views, masks=seen if views.masks is None else views.masks & seen)


def resident_views(sizes: Sequence[Views]) -> Batch:
    """Pixels, masks where there are any, and cameras, on every device, of views of each size."""
    arrays = []
    for views in sizes:
        one = {"images": views.images, "cameras": cameras_of(views)}
        if views.masks is not None:
            one["masks"] = views.masks
        arrays.append(one)
    return jax.device_put({"sizes": tuple(arrays)}, replicated(current_mesh()))


def draw_rays(
    config: RadianceConfig, params: Tree, sizes: Sequence[Batch], number_R: Array, key: Array
) -> DrawnRays:
    """Random pixels of resident views, as many of each size.

    Ray r is drawn from the key and r alone. Where views have an alpha, both the field and the view
    are laid over one random colour for each ray: over a fixed one, a field could paint the
    background instead of leaving it empty. Pixels that a mask leaves out, or where a distorted
    camera sees nothing, do not count.

    Args:
      config: the radiance field.
      params: its parameters, for corrections of cameras.
      sizes: of `resident_views`.
      number_R: numbers of the rays.
      key: of the update.

    Raises:
      InputError: where rays do not divide by the sizes.
    """
    if len(number_R) % len(sizes):
        raise InputError(f"rays is {len(number_R)}, expected a multiple of {len(sizes)} sizes")
    parts = jnp.split(number_R, len(sizes))
    drawn = [
        _drawn(config, params, views, part, key) for views, part in zip(sizes, parts, strict=True)
    ]
    return drawn[0] if len(drawn) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *drawn)


def _drawn(
    config: RadianceConfig, params: Tree, views: Batch, number_R: Array, key: Array
) -> DrawnRays:
    images, cameras = views["images"], views["cameras"]
    place_R3, background_R3 = random_pixels(key, number_R, images.shape[:3])
    if VIEWS in params:
        cameras = refine_cameras(params[VIEWS], cameras)
    rays = pixel_rays(cameras, *place_R3.T, footprints=config.footprints)
    camera_R, row_R, column_R = place_R3.T
    counts_R = jnp.ones(len(number_R)) if rays.valid is None else rays.valid.astype(float)
    if "masks" in views:
        counts_R *= views["masks"][camera_R, row_R, column_R]
    behind_R3 = None
    if images.shape[-1] == 4:
        behind_R3 = background_R3
    elif config.surroundings is None:
        behind_R3 = jnp.broadcast_to(jnp.asarray(config.background), background_R3.shape)
    truth_R3 = laid_over(images[camera_R, row_R, column_R], background_R3)
    return DrawnRays(rays, truth_R3, behind_R3, counts_R, camera_R)


def random_pixels(key: Array, number_R: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """View, row and column of each ray, int32 [R, 3], and a colour for it, [R, 3]."""

    def of_ray(number: Array) -> tuple[Array, Array]:
        place_key, colour_key = jax.random.split(jax.random.fold_in(key, number))
        place_3 = jax.random.randint(place_key, (3,), 0, jnp.asarray(shape))
        return place_3, jax.random.uniform(colour_key, (3,))

    return jax.vmap(of_ray)(number_R)


def laid_over(pixels: Array, background: Array) -> Array:
    """Pixels with straight alpha, or without any, over a background."""
    unit = unit_colours(pixels)
    if unit.shape[-1] == 3:
        return unit
    alpha = unit[..., 3:]
    return unit[..., :3] * alpha + background * (1 - alpha)
