"""A page without network that shows a mesh, points or Gaussian splats, turned with the mouse.

Everything is in the one file: arrays as base64 of little-endian numbers, images as data URIs, and
the program that draws them with WebGL2 (``scene_viewer.html``). Meshes have the colours of their
vertices or a texture, as they are stored, without light unless it is asked for. Splats are drawn as
quads that face the camera, from far to near, each the Gaussian that its projection is on the
screen::

    covariance = J W S W^T J^T + 0.3 I        in pixels
    alpha      = min(0.99, o exp(-d^T covariance^-1 d / 2))

with S in space, W the camera's rotation, and J the derivative of the projection (Zwicker et al.
2001; Kerbl et al. 2023). Their projection and order are computed on the CPU, for each picture.
"""

import base64
import html
import importlib.resources
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from jaxgen.errors import InputError
from jaxgen.files import Path, replacing
from jaxgen.interop.mesh_files import Mesh
from jaxgen.interop.viewer_scenes import (
    ColouredPoints,
    GaussianSplats,
    Shown,
    shown_mesh,
    shown_points,
    shown_splats,
)

TEMPLATE = "scene_viewer.html"
ELEVATION = math.radians(30)
"""Of the first view, above the horizon; it looks from +x as the first camera of an orbit."""

POINT_SIZE = 0.015
"""Diameter of points, as a share of the radius of the whole."""

ImageFormat = Literal["png", "jpeg"]


def viewer_html(
    *,
    mesh: Mesh | None = None,
    points: ColouredPoints | None = None,
    splats: GaussianSplats | None = None,
    orbit: UInt8[np.ndarray, "T Y X 3"] | None = None,
    title: str = "Scene",
    up: Literal["y", "z"] = "z",
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    orbit_format: ImageFormat = "png",
) -> str:
    """The page as text.

    Args:
      mesh: what is shown, with ``uv_V2`` (from the upper left corner) and ``texture`` if it has
        them; or
      points: what is shown; or
      splats: what is shown.
      orbit: pictures beside it, or without it, with a slider.
      title: of the page.
      up: the axis that is upright.
      background: red, green, blue in [0, 1].
      orbit_format: "png" is exact; "jpeg" is smaller, for photographs of many pixels.

    Raises:
      InputError: for more than one of mesh, points and splats, for nothing to show, arrays that
        cannot be used (empty, not finite, of another shape), or if Pillow is not installed.
    """
    given = {"mesh": mesh, "points": points, "splats": splats}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1 or (not names and orbit is None):
        raise InputError(
            f"a viewer is given {' and '.join(names) or 'nothing'}, expected one of mesh, points"
            " and splats, or an orbit"
        )
    if not (len(background) == 3 and all(0 <= value <= 1 for value in background)):
        raise InputError(f"background is {background}, expected three numbers in [0, 1]")
    if up not in ("y", "z"):
        raise InputError(f"up is {up!r}, expected y or z")
    pictures = [] if orbit is None else _pictures(orbit, orbit_format)
    if mesh is not None:
        shown = shown_mesh(mesh)
    elif points is not None:
        shown = shown_points(points)
    elif splats is not None:
        shown = shown_splats(splats)
    else:
        shown = Shown("orbit", len(pictures), {}, None, np.zeros(3), 1.0)
    scene = {
        "kind": shown.kind,
        "count": shown.size,
        "arrays": {name: _encoded(array) for name, array in shown.arrays.items()},
        "texture": None if shown.texture is None else _data_uri("texture", shown.texture, "png"),
        "orbit": pictures,
        "centre": shown.centre.tolist(),
        "radius": shown.radius,
        "azimuth": 0.0,
        "elevation": ELEVATION,
        "pointSize": POINT_SIZE * shown.radius,
        "up": up,
        "background": background,
    }
    return _filled({"title": html.escape(title), "scene": json.dumps(scene)})


def write_viewer(path: Path, **shown: Any) -> None:
    """Writes the page, whole or not at all; equal scenes give equal files.

    Args:
      path: the file, ``.html``; its folder must exist.
      **shown: as for `viewer_html`.

    Raises:
      InputError: as `viewer_html`; nothing is written then.
    """
    page = viewer_html(**shown)
    with replacing(path) as handle:
        handle.write(page.encode())


@dataclass(frozen=True)
class NotebookViewer:
    """A viewer in a notebook, in a frame of its own.

    Attributes:
      page: the page.
      height: of the frame in pixels.
    """

    page: str = field(repr=False)
    height: int

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" sandbox="allow-scripts" width="100%"'
            f' height="{self.height}" style="border: 0"></iframe>'
        )


def notebook_viewer(*, height: int = 480, **shown: Any) -> NotebookViewer:
    """What a notebook shows where it is the value of a cell.

    Args:
      height: in pixels.
      **shown: as for `viewer_html`.

    Raises:
      InputError: as `viewer_html`, and for a height below 1.
    """
    if height < 1:
        raise InputError(f"height is {height}, expected 1 or more")
    return NotebookViewer(viewer_html(**shown), height)


def _filled(values: Mapping[str, str]) -> str:
    """The template with values in place of {{names}}."""
    template = importlib.resources.files("jaxgen.interop").joinpath(TEMPLATE)
    return re.sub(r"{{(\w+)}}", lambda found: values[found[1]], template.read_text("utf-8"))


def _encoded(array: np.ndarray) -> dict[str, Any]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def _pictures(orbit: np.ndarray, image_format: ImageFormat) -> list[str]:
    array = np.asarray(orbit)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or not array.size:
        raise InputError(
            f"orbit is {array.dtype} {list(array.shape)}, expected uint8 [T, Y, X, 3], not empty"
        )
    return [_data_uri("orbit", picture, image_format) for picture in array]


def _data_uri(name: str, image: np.ndarray, image_format: ImageFormat) -> str:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise InputError(
            f"{name} is {image.dtype} {list(image.shape)}, expected uint8 [Y, X, C], C of 3 or 4"
        )
    try:
        import PIL.Image
    except ImportError as error:
        raise InputError(
            f"pictures in a page need the package pillow, extra jaxgen[experiments] ({error})"
        ) from error
    content = io.BytesIO()
    PIL.Image.fromarray(image).save(content, image_format)
    return f"data:image/{image_format};base64,{base64.b64encode(content.getvalue()).decode()}"
