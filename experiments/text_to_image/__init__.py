"""Texts as conditions of images, from which text belongs to which picture to pictures of texts."""
