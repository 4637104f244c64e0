"""Kinds of bug that users of other projects have reported: each has a test here, named beside the report."""

import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genfw.errors import ContractError
from genfw.models.targets import FunctionTarget
from genfw_plugins.mcmc.hmc import HMC
from genfw_plugins.mcmc.langevin import Langevin
from genfw_plugins.mcmc.mala import MALA
from genfw_plugins.metrics.fidelity.fidelity import KID
from places import ROOT

#: Project and issue: what was wrong -> the test that has the right value.
REPORTS = {
    "JEM 4: training blows up, and nobody goes back": "test_a_stage_that_blows_up_is_rolled_back_and_finished",
    "JEM 8: a run dies for good": "test_an_incurable_stage_stops_with_a_reason_and_its_healthy_weights_can_be_loaded",
    "normalized-autoencoders 11: CD diverges unseen": "test_any_value_that_is_not_finite_is_ill_at_once",
    "DIG 69: weights with spectral norm do not match": "test_weights_that_do_not_fit_are_told_of",
    "NVAE 2: NaN in training": "test_weights_that_break_after_the_last_row_are_not_kept",
    "benchmark_VAE 132: NaN, and back to zero": "test_a_rollback_that_did_not_help_goes_further_back",
    "energy_based_generative_models 4: which target a chain has": "test_noise_and_joint_space_hold_the_same_law",
    "energy_based_generative_models 8: MALA without its test": "test_mala_is_hmc_with_one_leapfrog_step",
    "improved_contrastive_divergence 5: FID of a replay buffer": "test_protocol_says_how_samples_were_drawn",
    "NVAE 30: FID 40 or 30, by the decoder": (
        "test_the_mean_and_a_sample_of_the_decoder_are_not_ranked_and_the_reason_is_said"
    ),
    "ebm_code_release 11: another FID from the same weights": "test_numbers_taken_alike_are_ranked",
    "improved_contrastive_divergence 3: sampling flags differ": "test_means_are_ranked_where_protocols_agree",
    "flow_matching 68: the batch is per device": "test_a_run_of_two_processes_is_that_of_one_with_the_whole_batch",
    "torcheval 192: FIDs disagree": "test_equal_to_torch_fidelity_called_directly_bit_for_bit",
    "k-diffusion 78: FID's matrix root": "test_the_factor_of_a_covariance_without_full_rank",
    "srVAE 6: how images are saved": "test_grids_of_samples_and_data_have_one_range",
    "conditional-flow-matching 176: train or test statistics": "test_the_protocol_says_what_would_change_the_number",
    "torchebm 239, k-diffusion 108: samplers wait for the device": "test_no_step_of_a_chain_reads_a_number_back",
    "benchmark_VAE 92: no way to resume": "test_chains_resume_bit_for_bit",
    "torchtitan 1194: random states are not saved": "test_every_piece_of_state_is_restored",
    "NVAE 18: statistics are computed again at every run": "test_readjusted_statistics_are_those_of_cold_draws",
    "NVAE 55: a temperature is ignored": "test_temperature_scales_the_latent_alone",
    "stylegan2-ada 97: pickles need CUDA extensions": "test_code_in_a_pickle_is_refused_by_name",
    "torch-fidelity 61: weights do not load": "test_a_whole_checkpoint_is_imported",
    "torch-fidelity 4: what shape is expected": "test_wrong_positions_are_refused_with_both_shapes",
    "torch-fidelity 45: KID of a small set": "test_a_subset_is_no_larger_than_the_set",
    "KempnerForge 174: parts from outside are unknown to the check": "test_unknown_name_says_what_exists",
}


def test_every_report_has_its_test():
    known = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), flags=re.MULTILINE)
    }
    assert {report: name for report, name in REPORTS.items() if name not in known} == {}


class _ReadBack(TorchDispatchMode):
    """Counts numbers that go from tensors into Python, each of which waits for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", [Langevin(step_size=0.1), MALA(step_size=0.1), HMC(leapfrog_steps=2)])
def test_no_step_of_a_chain_reads_a_number_back(sampler):
    target = FunctionTarget(3, lambda position: 0.5 * (position - 1.0).square().sum(1))
    rng = torch.Generator().manual_seed(0)
    state = sampler.init(target, torch.zeros(5, 3), rng)
    with _ReadBack() as read:
        for _ in range(3):
            state, _ = sampler.step(target, state, rng)
    assert read.count == 0
    with _ReadBack() as read:
        state.position.sum().item()
    assert read.count == 1


def test_a_subset_is_no_larger_than_the_set():
    with pytest.raises(ContractError, match="subset_size must be at most samples, got 1000 of 64"):
        KID(samples=64)
