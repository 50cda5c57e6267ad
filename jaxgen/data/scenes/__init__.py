"""Posed photographs of one scene: views, files of them, a scene that needs no download."""
