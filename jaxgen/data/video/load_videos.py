"""One front door for videos: a name or a path in, clips of one length out."""

from fractions import Fraction
from typing import Any

from jaxgen.data.archives import Path
from jaxgen.data.video.tfds_videos import TfdsVideos, open_tfds_videos
from jaxgen.data.video.video_folder import VideoFolder, open_video_folder
from jaxgen.errors import InputError


def load_videos(
    name: Path,
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    stride: int = 1,
    channels: int = 3,
    fps: float | Fraction | None = None,
    data_dir: Path | None = None,
) -> VideoFolder | TfdsVideos:
    """Opens a set of clips.

    Args:
      name: "tfds:NAME" (`open_tfds_videos`), or a folder, a zip archive or a manifest
        (`open_video_folder`).
      size: Y and X; see `open_video_folder`.
      frames: T; see `open_video_folder`.
      stride: Each how-manieth frame is kept.
      channels: 3 or 1.
      fps: Frames a second; tfds sets do not say how many they have, and take none.
      data_dir: Where prepared tfds sets lie.

    Raises:
      FileNotFoundError: There is no such path.
      InputError: As the two functions.
    """
    options: dict[str, Any] = {
        "size": size,
        "frames": frames,
        "stride": stride,
        "channels": channels,
    }
    if not isinstance(name, str) or not name.startswith("tfds:"):
        return open_video_folder(name, fps=fps, **options)
    if fps is not None:
        raise InputError(f"{name}: fps is {fps}, expected none, as tfds keeps no time stamps")
    return open_tfds_videos(name.removeprefix("tfds:"), data_dir=data_dir, **options)
