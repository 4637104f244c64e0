"""Feature extractors by name: where their weights are found, how they are proved, what to do when they are absent."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs

from genfw import ContractError, DataError, Dataset, Evaluation, Settings, Size
from genfw.nn.torchvision import import_torchvision
from genfw.plugins.validators import at_least
from genfw.randomness import isolated_rng
from genfw_plugins.metrics.common.classifier import Classifier, check_images
from genfw_plugins.metrics.common.content import digest_of_tensors
from genfw_plugins.metrics.common.weights import fetched, proved

#: Names of genfw's own, for which torch-fidelity need not be asked.
OWN = ("inception", "classifier", "random")
_REFERENCE = "inception-v3-compat"
#: First figures of the SHA-256 of the reference weights, which torch-fidelity's file name states.
_REFERENCE_HASH = "6726825d"


@attrs.frozen(eq=False)
class Extractor:
    """An extractor ready for use.

    Arguments:
        name: As recipes call it.
        module: torch-fidelity's object.
        layers: Layers that it gives, in order.
        digest: SHA-256 of its weights.
        rgb: Whether it takes images of three channels alone; grey ones are repeated.
        facts: What the protocol says of it.
        note: What is to be said of the data it was trained on.
    """

    name: str
    module: Any
    layers: tuple[str, ...]
    digest: str
    rgb: bool
    facts: dict[str, Any]
    note: str = ""

    def layer(self, metric: str, wanted: str | None) -> str:
        """The layer that a metric reads: the one named, else the extractor's own choice.

        Raises:
            ContractError: The extractor has no such layer, or makes no choice.
        """
        layer = wanted or _choice(self.module, metric)
        if layer not in self.layers:
            known = ", ".join(type(self.module).get_provided_features_list())
            raise ContractError(
                f"extractor '{self.name}' has no layer '{layer}'; its layers are {known}"
                if layer
                else f"extractor '{self.name}' does not say which layer is meant; name a 'layer', one of {known}"
            )
        return layer


@attrs.frozen(kw_only=True, eq=False)
class Features(Settings):
    """Network whose features images are compared by.

    Arguments:
        extractor: ``inception`` (the reference), ``classifier`` (trained on labelled data when first needed),
            ``random`` (for smoke runs), or a name registered with torch-fidelity.
        weights: File of its weights; looked for in the usual places, then downloaded, where absent.
        sha256: SHA-256 of that file, or its first figures; known for ``inception``.
        layer: Layer that is read; the extractor's own choice for the metric where absent.
        dataset: Labelled data that ``classifier`` is trained on; the recipe's where absent.
        batch: Images extracted at once.
    """

    smoke: ClassVar[Mapping[str, Any]] = {"extractor": "random", "weights": None, "sha256": None, "layer": None}

    extractor: str = "inception"
    weights: Path | None = None
    sha256: str | None = None
    layer: str | None = None
    dataset: Dataset | None = None
    batch: int = attrs.field(default=64, validator=at_least(1))

    def __attrs_post_init__(self) -> None:
        """Refuse a name that nothing answers to, and weights that nothing vouches for, before any work is done."""
        name, given = self.extractor, self.weights is not None or self.sha256 is not None
        if name not in OWN:
            known = [*OWN, *import_torchvision("torch_fidelity.registry").FEATURE_EXTRACTORS_REGISTRY]
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f" - did you mean '{near[0]}'?" if near else ""
                raise ContractError(f"there is no extractor '{name}'{hint}; there are {', '.join(known)}")
        if name in ("classifier", "random") and given:
            raise ContractError(f"extractor '{name}' makes its own weights; leave 'weights' and 'sha256' out")
        if name not in OWN and self.weights is not None and self.sha256 is None:
            raise ContractError(
                "weights of torch-fidelity are pickles, which can run code; say by 'sha256' which file you trust"
            )

    def examine(self, data: Dataset | None, shape: Size, *, smoke: bool = False) -> None:
        """Refuse data that a classifier can't be trained on for these images.

        Arguments:
            data: The recipe's data.
            shape: Shape of the images that are compared.
            smoke: Whether this is a smoke run, where images may be smaller.

        Raises:
            ContractError: There are no data, or they have another shape.
        """
        if self.extractor != "classifier":
            return
        data = self.dataset or data
        if data is None:
            raise ContractError("extractor 'classifier' is trained on labelled data; name a 'dataset'")
        check_images(data.data_shape)
        if tuple(data.data_shape) not in (tuple(shape), (1, *shape[1:])) and not smoke:
            raise ContractError(
                f"the classifier would be trained on images of shape {tuple(data.data_shape)}, and these have "
                f"{tuple(shape)}"
            )

    @property
    def key(self) -> tuple[Any, ...]:
        """What an evaluation remembers the extractor by."""
        return "extractor", self.extractor, self.weights, self.sha256, self.layer, id(self.dataset)


def make_extractor(evaluation: Evaluation, features: Features, shape: Size) -> Extractor:
    """Build an extractor.

    Arguments:
        evaluation: The evaluation: its device, and its data for a classifier.
        features: Which one.
        shape: Shape of the images.

    Raises:
        DataError: Weights are absent or not those wanted.
        ContractError: The extractor does not fit the images.
    """
    cuda, name = evaluation.device.type == "cuda", features.extractor
    if name in ("classifier", "random"):
        module, facts, note = _own(evaluation, features, shape)
        layers = tuple(module.features_list)
    else:
        (module, layers, facts), note = _registered(features, cuda), ""
    module = module.to(evaluation.device if cuda else "cpu").requires_grad_(False).eval()
    digest = digest_of_tensors(module.state_dict())
    facts = {"extractor": name, "extractor_weights": digest, **facts}
    return Extractor(name, module, layers, digest, name not in ("classifier", "random"), facts, note)


def _own(evaluation: Evaluation, features: Features, shape: Size) -> tuple[Any, dict[str, Any], str]:
    from genfw_plugins.metrics.fidelity.own_extractors import ClassifierExtractor, RandomExtractor

    layers = _layers(RandomExtractor, features.extractor, features.layer)
    facts = {"resize": "none"}
    if features.extractor == "random":
        return RandomExtractor(shape, layers), facts, ""
    data = features.dataset or evaluation.data
    if data is None:
        raise ContractError("extractor 'classifier' is trained on labelled data; name a 'dataset'")
    # The recipe's seed has no part in it: runs of several seeds are measured by one classifier.
    trained = Classifier().train(evaluation, data)
    more = {"classifier_accuracy": round(trained.accuracy, 6), "classifier_classes": trained.classes}
    return ClassifierExtractor(trained, shape, layers), facts | more, trained.note


def _registered(features: Features, cuda: bool) -> tuple[Any, tuple[str, ...], dict[str, Any]]:
    name, weights = features.extractor, features.weights
    registered = _REFERENCE if name == "inception" else name
    registry = import_torchvision("torch_fidelity.registry").FEATURE_EXTRACTORS_REGISTRY
    layers = _layers(registry[registered], name, features.layer)
    if name == "inception" and weights is None:
        weights = _reference()
    facts: dict[str, Any] = {"resize": "by the extractor" + (", 299x299 bilinear" if name == "inception" else "")}
    if weights is not None:
        facts["weights_sha256"] = proved(weights, features.sha256 or _REFERENCE_HASH)
    options = {} if weights is None else {"feature_extractor_weights_path": str(weights)}
    create = import_torchvision("torch_fidelity.utils").create_feature_extractor
    try:
        with isolated_rng("cuda" if cuda else "cpu"):
            module = create(registered, list(layers), cuda=cuda, verbose=False, **options)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise DataError(
            f"extractor '{name}' can't be made: {reason}. Where there is no network, fetch its weights elsewhere and "
            "name the file: 'weights: PATH' and 'sha256: HASH'"
        ) from error
    return module, layers, facts


def _layers(kind: Any, name: str, layer: str | None) -> tuple[str, ...]:
    """The layers that any of the metrics reads by default, so that one pass serves them all, and the one named."""
    provided = list(kind.get_provided_features_list())
    if layer is not None and layer not in provided:
        raise ContractError(f"extractor '{name}' has no layer '{layer}'; its layers are {', '.join(provided)}")
    wanted = {layer, *(_choice(kind, metric) for metric in ("isc", "fid", "kid", "prc"))}
    return tuple(one for one in provided if one in wanted)


def _choice(kind: Any, metric: str) -> str | None:
    try:
        return str(kind.get_default_feature_layer_for_metric(metric))
    except (KeyError, NotImplementedError):
        return None


def _reference() -> Path:
    """The reference Inception weights."""
    return fetched(
        import_torchvision("torch_fidelity.feature_extractor_inceptionv3").URL_INCEPTION_V3,
        begins=_REFERENCE_HASH,
        what="the weights of extractor 'inception' (about 96 MB)",
        instead="name the file by 'weights'; 'features: {extractor: classifier}' needs no download",
    )
