"""Radiance fields: cameras, fields over positional encodings and hash grids, the renderer."""

from jaxgen.nerf.cameras import (
    Box,
    Cameras,
    Rays,
    camera_rays,
    check_box,
    look_at,
    make_cameras,
    orbit_cameras,
    pixel_rays,
    project,
    ray_box,
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
from jaxgen.nerf.hash_grid import HashGrid, HashGridConfig
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
from jaxgen.nerf.splat_relocation import add_noise_to_means, relocate
from jaxgen.nerf.splat_rendering import SplatConfig, SplatRendering, SplatStatistics
from jaxgen.nerf.volume_rendering import composite, expected_depth, render_weights

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
    "SplatConfig",
    "SplatRendering",
    "SplatStatistics",
    "add_noise_to_means",
    "camera_rays",
    "check_box",
    "composite",
    "contract",
    "distortion_loss",
    "encode_position",
    "even_edges",
    "expected_depth",
    "interlevel_loss",
    "inverse_cdf",
    "look_at",
    "make_cameras",
    "orbit_cameras",
    "pixel_rays",
    "project",
    "ray_box",
    "ray_jitter",
    "relocate",
    "render_rays",
    "render_weights",
    "resampled_edges",
    "shard_rays",
    "spherical_harmonics",
    "stratified_distances",
]
