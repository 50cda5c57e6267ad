"""Surfaces in space: triangle meshes, how they are cleaned and textured, rays that meet them."""
