"""Radiance fields: cameras, encodings, fields, samplers, the renderer."""

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
from jaxgen.nerf.contraction import contract, contract_gaussian
from jaxgen.nerf.dense_grids import DenseGridConfig, TriPlaneConfig
from jaxgen.nerf.distance_field import DistanceField, DistanceFieldConfig
from jaxgen.nerf.encodings import encode_position, integrated_encoding, spherical_harmonics
from jaxgen.nerf.fields import FieldOutput, SampleContext
from jaxgen.nerf.footprints import cylinder_moments, frustum_gaussian, frustum_moments, lift_moments
from jaxgen.nerf.grid_field import HashField, HashFieldConfig
from jaxgen.nerf.hash_grid import HashGrid, HashGridConfig
from jaxgen.nerf.ndc import NdcConfig, ndc_points, ndc_rays, ndc_shares
from jaxgen.nerf.network_field import NeRFField, NeRFFieldConfig
from jaxgen.nerf.occupancy import OccupancyConfig, measure_cells, occupied_cells, update_grid
from jaxgen.nerf.ray_chunks import shard_rays
from jaxgen.nerf.ray_losses import distortion_loss, eikonal_loss, interlevel_loss
from jaxgen.nerf.ray_samples import (
    even_edges,
    inverse_cdf,
    ray_jitter,
    resampled_edges,
    stratified_distances,
)
from jaxgen.nerf.renderer import ProposalConfig, RadianceConfig, render_rays
from jaxgen.nerf.rendering import RayWeights, Render, RenderedRays, Rendering
from jaxgen.nerf.splat_relocation import add_noise_to_means, relocate
from jaxgen.nerf.splat_rendering import SplatConfig, SplatRendering, SplatStatistics
from jaxgen.nerf.splat_similarity import move_splats
from jaxgen.nerf.surroundings import SurroundingsConfig
from jaxgen.nerf.view_parameters import ViewConfig, refine_cameras
from jaxgen.nerf.volume_rendering import (
    composite,
    expected_depth,
    percentile_distance,
    render_weights,
)

__all__ = [
    "Box",
    "Cameras",
    "DenseGridConfig",
    "DistanceField",
    "DistanceFieldConfig",
    "FieldOutput",
    "HashField",
    "HashFieldConfig",
    "HashGrid",
    "HashGridConfig",
    "NdcConfig",
    "NeRFField",
    "NeRFFieldConfig",
    "OccupancyConfig",
    "ProposalConfig",
    "RadianceConfig",
    "RayWeights",
    "Rays",
    "Render",
    "RenderedRays",
    "Rendering",
    "SampleContext",
    "SplatConfig",
    "SplatRendering",
    "SplatStatistics",
    "SurroundingsConfig",
    "TriPlaneConfig",
    "ViewConfig",
    "add_noise_to_means",
    "average_pose",
    "camera_rays",
    "check_box",
    "composite",
    "contract",
    "contract_gaussian",
    "cylinder_moments",
    "distortion_loss",
    "eikonal_loss",
    "encode_position",
    "even_edges",
    "expected_depth",
    "focus_depth",
    "frustum_gaussian",
    "frustum_moments",
    "integrated_encoding",
    "interlevel_loss",
    "inverse_cdf",
    "key_pose_cameras",
    "lift_moments",
    "look_at",
    "make_cameras",
    "measure_cells",
    "move_splats",
    "ndc_points",
    "ndc_rays",
    "ndc_shares",
    "occupied_cells",
    "orbit_cameras",
    "percentile_distance",
    "pixel_rays",
    "project",
    "ray_box",
    "ray_jitter",
    "ray_sphere",
    "refine_cameras",
    "relocate",
    "render_rays",
    "render_weights",
    "resampled_edges",
    "shard_rays",
    "spherical_harmonics",
    "spiral_cameras",
    "stratified_distances",
    "update_grid",
]
