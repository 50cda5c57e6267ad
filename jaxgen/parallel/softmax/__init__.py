"""The softmax over output units partitioned over the mesh axis ``model``."""
