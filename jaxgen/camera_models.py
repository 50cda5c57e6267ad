"""The camera models of COLMAP by name: their numbers and what their parameters are.

The mathematics is in `jaxgen.nerf.projection`; files that name models are read in
`jaxgen.data.scenes`. A list of parameters begins with the focal lengths (f, or fx and fy) and the
principal point (cx, cy), in pixels, counted from the upper left corner of the image.
"""

from typing import NamedTuple


class CameraModel(NamedTuple):
    """A model's number and parameters.

    Attributes:
      id: in binary files of COLMAP; None: COLMAP has none.
      focals: how many focal lengths its list begins with.
      distortion: names of the parameters after focal lengths and centre.
    """

    id: int | None
    focals: int
    distortion: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Parameters in all."""
        return self.focals + 2 + len(self.distortion)


_OPENCV = "k1", "k2", "p1", "p2"

CAMERA_MODELS = {
    "SIMPLE_PINHOLE": CameraModel(0, 1),
    "PINHOLE": CameraModel(1, 2),
    "SIMPLE_RADIAL": CameraModel(2, 1, ("k",)),
    "RADIAL": CameraModel(3, 1, ("k1", "k2")),
    "OPENCV": CameraModel(4, 2, _OPENCV),
    "OPENCV_FISHEYE": CameraModel(5, 2, ("k1", "k2", "k3", "k4")),
    "FULL_OPENCV": CameraModel(6, 2, (*_OPENCV, "k3", "k4", "k5", "k6")),
    "FOV": CameraModel(7, 2, ("omega",)),
    "SIMPLE_RADIAL_FISHEYE": CameraModel(8, 1, ("k",)),
    "RADIAL_FISHEYE": CameraModel(9, 1, ("k1", "k2")),
    "THIN_PRISM_FISHEYE": CameraModel(10, 2, (*_OPENCV, "k3", "k4", "sx1", "sy1")),
    "RAD_TAN_THIN_PRISM_FISHEYE": CameraModel(
        11, 2, ("k0", "k1", "k2", "k3", "k4", "k5", "p0", "p1", "s0", "s1", "s2", "s3")
    ),
    "SIMPLE_DIVISION": CameraModel(12, 1, ("k",)),
    "DIVISION": CameraModel(13, 2, ("k",)),
    "SIMPLE_FISHEYE": CameraModel(14, 1),
    "FISHEYE": CameraModel(15, 2),
    "EUCM": CameraModel(16, 2, ("alpha", "beta")),
    "EQUIRECTANGULAR": CameraModel(17, 0),
    "ORTHOGRAPHIC": CameraModel(None, 2),
}
"""By COLMAP's names; "ORTHOGRAPHIC" has pixels per unit of length as focal lengths."""
