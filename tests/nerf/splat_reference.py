"""Images of Gaussians by a direct sum over all of them at every pixel, in numpy and float64."""

import numpy as np


def harmonics_of(direction):
    """The real harmonics to degree 3, with the constants of the published code."""
    x, y, z = direction
    c2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005)
    c2 += (-1.0925484305920792, 0.5462742152960396)
    c3 = (-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154)
    c3 += (-0.4570457994644658, 1.445305721320277, -0.5900435899266435)
    xx, yy, zz = x * x, y * y, z * z
    second = (x * y, y * z, 2 * zz - xx - yy, x * z, xx - yy)
    third = (y * (3 * xx - yy), x * y * z, y * (4 * zz - xx - yy), z * (2 * zz - 3 * xx - 3 * yy))
    third += (x * (4 * zz - xx - yy), z * (xx - yy), x * (xx - 3 * yy))
    c1 = 0.4886025119029199
    return np.array(
        [
            *(0.28209479177387814, -c1 * y, c1 * z, -c1 * x),
            *(c * value for c, value in zip(c2, second, strict=True)),
            *(c * value for c, value in zip(c3, third, strict=True)),
        ]
    )


def rotation_of(quaternion):
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def image_of(params, pose, focal, centre, height, width, background, near=0.01):
    """Colour [Y, X, 3], opacity [Y, X] and depth [Y, X]."""
    to_camera = np.diag([1, -1, -1]) @ pose[:, :3].T
    row, column = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    left, total = np.ones((height, width)), np.zeros((height, width, 4))
    stopped = np.zeros((height, width), bool)
    depths = (params["means"] - pose[:, 3]) @ to_camera[2]
    sides = np.array([width, height])
    for i in np.argsort(depths):
        if depths[i] <= near:
            continue
        x, y, z = p = to_camera @ (params["means"][i] - pose[:, 3])
        u, v = np.clip(p[:2] / z, (-0.15 * sides - centre) / focal, (1.15 * sides - centre) / focal)
        jacobian = np.array(
            [[focal[0] / z, 0, -focal[0] * u / z], [0, focal[1] / z, -focal[1] * v / z]]
        )
        root = rotation_of(params["quaternions"][i]) * np.exp(params["log_scales"][i])
        first = jacobian @ to_camera @ root
        inverse = np.linalg.inv(first @ first.T + 0.3 * np.eye(2))
        dx = column - (focal[0] * x / z + centre[0])
        dy = row - (focal[1] * y / z + centre[1])
        form = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
        opacity = 1 / (1 + np.exp(-params["opacity_logits"][i]))
        alpha = np.minimum(0.99, opacity * np.exp(-form / 2))
        alpha = np.where(alpha >= 1 / 255, alpha, 0)
        distance = np.linalg.norm(p)
        values = harmonics_of((params["means"][i] - pose[:, 3]) / distance)
        colour = values[: len(params["harmonics"][i])] @ params["harmonics"][i] + 0.5
        after = left * (1 - alpha)
        stopped |= after < 1e-4
        weight = np.where(stopped, 0, left * alpha)
        total += weight[..., None] * np.append(np.maximum(colour, 0), distance)
        left = np.where(stopped, left, after)
    opacity = 1 - left
    colour = total[..., :3] + left[..., None] * background
    return colour, opacity, total[..., 3] / np.maximum(opacity, 1e-6)
