"""Tests for plugin authors: conformance suites, analytic targets, a tiny model, fixtures.

Subclass the suite of your component's interface, fill in ``make()``, and pytest runs every law of the interface::

    from genfw.testing import EnergySuite

    class TestQuadraticWell(EnergySuite):
        shape = (3,)

        def make(self):
            return QuadraticWell(data_shape=(3,))
"""

from genfw.testing.kernels import BiasedSampler, SamplerSuite, StartSuite
from genfw.testing.networks import AmortizerSuite, DecoderSuite, EncoderSuite, EnergySuite, PriorSuite
from genfw.testing.pipeline import DatasetSuite, MetricSuite, OptimizerSuite, StageSuite, TrackerSuite
from genfw.testing.suite import ComponentSuite, ModuleSuite
from genfw.testing.targets import discrepancy, standard_targets
from genfw.testing.tiny import tiny_evaluation, tiny_model

__all__ = [
    "AmortizerSuite",
    "BiasedSampler",
    "ComponentSuite",
    "DatasetSuite",
    "DecoderSuite",
    "EncoderSuite",
    "EnergySuite",
    "MetricSuite",
    "ModuleSuite",
    "OptimizerSuite",
    "PriorSuite",
    "SamplerSuite",
    "StageSuite",
    "StartSuite",
    "TrackerSuite",
    "discrepancy",
    "standard_targets",
    "tiny_evaluation",
    "tiny_model",
]
