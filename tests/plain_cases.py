"""A pytest plugin: of tests over many values of one thing, a plain run takes the first few.

The other cases are marked slow: they repeat a path that the first ones cover. So are, with 0 cases,
some of the longest tests, whose paths shorter ones take.
"""

import pytest

PLAIN_CASES = {
    "test_gamma_noise.py::test_steps_of_the_forward_process_add_up": 1,
    "test_gamma_noise.py::test_finite_at_both_ends": 1,
    "test_samplers_stochastic.py::test_mean_and_covariance": 4,
    "test_orders.py::test_first_and_second_order": 1,
    "test_sampling.py::test_a_sample_depends_on_key_and_index_alone": 4,
    "test_sampling.py::test_nothing_is_recompiled": 4,
    "test_sampling.py::test_nor_on_the_mesh": 1,
    "test_sampling.py::test_one_evaluation_per_row": 4,
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
    "test_image_networks.py::test_the_loss_by_hand": 1,
    "test_dit.py::test_parameters_and_multiply_adds_are_the_published_ones": 4,
    "test_reconstruction.py::test_guidance_samples_the_exact_conditional_and_replacement_does_not": 0,  # noqa: E501
    "test_classifier.py::test_it_learns_digits": 0,
    "test_train.py::test_why_images_of_one_class_are_not_evaluated_is_reported": 0,
    "test_train.py::test_a_finished_run_is_trained_further_and_sampled_with_another_seed": 0,
    "test_edit_and_distil.py::test_no_inpainting_without_a_null_class": 0,
    "test_local_steps_run.py::test_fewer_averages_send_fewer_bytes": 0,
    "test_recipes.py::test_a_run_goes_on_where_the_mesh_has_another_shape": 0,
    "test_orders.py::test_third_order": 0,
    "test_gamma_noise.py::test_the_initial_noise": 0,
    "test_gamma_noise.py::test_moments_of_samples": 1,
    "test_learned_variance.py::test_the_bound_is_that_of_the_paper_step_by_step": 0,
    "test_variational.py::test_the_continuous_bound_of_a_mixture_is_tight": 0,
    "test_variational.py::test_the_discrete_bound_falls_to_the_entropy_as_steps_become_finer": 0,
    "test_variational.py::test_a_worse_denoiser_has_a_worse_bound": 0,
    "test_samplers_stochastic.py::test_langevin_steps_mend_a_coarse_predictor": 0,
    "test_predictions.py::test_long_names_are_the_short_ones_everywhere": 0,
    "test_samplers_adjusted.py::test_a_step_from_pure_noise_keeps_the_variance": 0,
    "test_unet.py::test_dropout_follows_its_key_and_remat_changes_nothing": 0,
    "test_unet.py::test_training_on_eight_devices_is_that_on_one": 0,
    "test_test_runs.py::test_a_worker_that_dies_names_its_test": 0,
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
