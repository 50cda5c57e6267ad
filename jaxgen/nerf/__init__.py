"""Radiance fields: cameras, fields over positional encodings and hash grids, the renderer."""

from jaxgen.nerf.camera_paths import (
    average_pose,
    focus_depth,
    key_pose_cameras,
    orbit_cameras,
    spiral_cameras,
)
from jaxgen.nerf.cameras import (
    Box,
    Cameras,
    Rays,
    camera_rays,
    check_box,
    look_at,
    make_cameras,
    pixel_rays,
    project,
    ray_box,
    ray_sphere,
)
from jaxgen.nerf.encodings import encode_position, spherical_harmonics
from jaxgen.nerf.fields import (
    FieldOutput,
    HashField,
    HashFieldConfig,
    NeRFField,
    NeRFFieldConfig,
    contract,
)
from jaxgen.nerf.footprints import (
    cylinder_moments,
    frustum_gaussian,
    frustum_moments,
    lift_moments,
)
from jaxgen.nerf.hash_grid import HashGrid, HashGridConfig
from jaxgen.nerf.ndc import ndc_points, ndc_rays, ndc_shares
from jaxgen.nerf.ray_losses import distortion_loss, interlevel_loss
from jaxgen.nerf.ray_samples import (
    even_edges,
    inverse_cdf,
    ray_jitter,
    resampled_edges,
    stratified_distances,
)
from jaxgen.nerf.renderer import (
    ProposalConfig,
    RadianceConfig,
    Render,
    RenderedRays,
    Rendering,
    render_rays,
    shard_rays,
)
from jaxgen.nerf.volume_rendering import (
    composite,
    expected_depth,
    percentile_distance,
    render_weights,
)

__all__ = [
    "Box",
    "Cameras",
    "FieldOutput",
    "HashField",
    "HashFieldConfig",
    "HashGrid",
    "HashGridConfig",
    "NeRFField",
    "NeRFFieldConfig",
    "ProposalConfig",
    "RadianceConfig",
    "Rays",
    "Render",
    "RenderedRays",
    "Rendering",
    "average_pose",
    "camera_rays",
    "check_box",
    "composite",
    "contract",
    "cylinder_moments",
    "distortion_loss",
    "encode_position",
    "even_edges",
    "expected_depth",
    "focus_depth",
    "frustum_gaussian",
    "frustum_moments",
    "interlevel_loss",
    "inverse_cdf",
    "key_pose_cameras",
    "lift_moments",
    "look_at",
    "make_cameras",
    "ndc_points",
    "ndc_rays",
    "ndc_shares",
    "orbit_cameras",
    "percentile_distance",
    "pixel_rays",
    "project",
    "ray_box",
    "ray_jitter",
    "ray_sphere",
    "render_rays",
    "render_weights",
    "resampled_edges",
    "shard_rays",
    "spherical_harmonics",
    "spiral_cameras",
    "stratified_distances",
]
