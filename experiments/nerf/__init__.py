"""Programs on radiance fields."""
