"""A pytest plugin: of tests over many values of one thing, a plain run takes the first few.

The other cases are marked slow: they repeat a path that the first ones cover.
"""

import pytest

PLAIN_CASES = {
    "test_gamma_noise.py::test_steps_of_the_forward_process_add_up": 1,
    "test_gamma_noise.py::test_finite_at_both_ends": 2,
    "test_samplers_stochastic.py::test_mean_and_covariance": 4,
    "test_orders.py::test_first_and_second_order": 1,
    "test_sampling.py::test_a_sample_depends_on_key_and_index_alone": 4,
    "test_sampling.py::test_nothing_is_recompiled": 4,
    "test_sampling.py::test_nor_on_the_mesh": 1,
    "test_sampling.py::test_one_evaluation_per_row": 4,
    "test_progressive.py::test_finite_at_both_ends": 6,
    "test_samplers.py::test_round_trip": 1,
    "test_samplers.py::test_from_pure_noise_to_clean_data": 6,
    "test_samplers.py::test_the_scaling_does_not_matter": 8,
    "test_samplers.py::test_samplers_that_are_the_same": 12,
    "test_wrong_use.py::test_samples_are_the_same_with_float64_enabled": 3,
    "test_image_to_image.py::test_a_task_is_a_function_of_image_and_key": 3,
    "test_editing.py::test_images_come_back_and_codes_are_noise": 1,
    "test_reconstruction.py::test_any_sampler_can_be_guided_and_replaced": 2,
    "test_reconstruction.py::test_moment_guidance_is_the_exact_conditional_denoiser": 4,
    "test_consistency.py::test_the_loss_is_zero_at_the_flow_to_the_order_of_the_solver": 2,
    "test_consistency.py::test_samples_of_the_exact_function_have_the_datas_distribution": 4,
    "test_losses.py::test_examples_of_any_shape": 1,
    "test_layers.py::test_derivatives_written_by_hand": 1,
    "test_time_distributions.py::test_the_density_is_that_of_the_quantiles": 3,
    "test_variational.py::test_the_estimate_does_not_depend_on_how_times_are_drawn": 2,
    "test_likelihood.py::test_methods_have_their_order": 1,
    "test_masks.py::test_a_mask_depends_on_its_key_alone": 1,
    "test_image_sharding.py::test_training_on_a_mesh_is_training_on_one_device": 1,
    "test_networks.py::test_gradients_are_finite_reach_every_parameter_and_survive_remat": 2,
    "test_networks.py::test_a_sharded_network_is_the_unsharded_one": 2,
    "test_dit.py::test_multiply_adds_of_the_four_blocks_are_the_published_ones": 1,
    "test_importance_sampling.py::test_sharded_equals_unsharded": 1,
}
"""File and test -> how many of its cases, in the order of the file."""


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen = dict.fromkeys(PLAIN_CASES, 0)
    for item in items:
        test = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
        if test in seen:
            seen[test] += 1
            if seen[test] > PLAIN_CASES[test]:
                item.add_marker(pytest.mark.slow)
