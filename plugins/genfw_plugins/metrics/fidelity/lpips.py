"""Perceptual distance between data and what another metric has made of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal
from unittest import mock

import attrs
import torch
from torch import Tensor

from genfw import DataError, Evaluation, Metric, Result
from genfw.nn.torchvision import import_torchvision
from genfw.plugins.validators import at_least
from genfw.weights.torch_files import open_published
from genfw_plugins.metrics.common.pixels import (
    ROUNDING,
    TensorPixels,
    check_image,
    check_made,
    join_notes,
    made_of,
    protocol_of,
)
from genfw_plugins.metrics.common.weights import fetched, proved

#: torchvision's VGG16, and how the SHA-256 of the file begins.
_VGG, _VGG_HASH = "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"


@attrs.define(kw_only=True, eq=False, slots=False)
class LPIPS(Metric):
    r"""Learned perceptual distance: differences of normalised VGG16 features of five layers, each weighted per channel
    and averaged over the map, summed over layers.

    Computed by torch-fidelity, on 8-bit pixels, between data and their reconstructions or inversions, by the metric
    that stands before this one in the recipe. The weights are read as data from two files that are published: VGG16's
    by torchvision, the weights of channels by torch-fidelity.

    References: Zhang et al. 2018 (arXiv 1801.03924).

    Arguments:
        of: The metric whose images are compared with their data.
        weights: File of the channels' weights (``weights-vgg16-lpips.pth``); looked for in ``$GENFW_CACHE/weights`` and
            torch's hub folder, then downloaded, where absent.
        vgg: File of VGG16's weights (``vgg16-397923af.pth``); looked for likewise.
        sha256: How the hash of ``weights`` begins; not compared where absent.
        vgg_sha256: How that of ``vgg`` begins; torchvision's where absent.
        size: Side that images are brought to before; as they are where absent. The network needs 16 pixels.
        batch: Images at once.
    """

    smoke: ClassVar[Mapping[str, Any]] = {}

    of: Literal["reconstruction", "inversion"] = "reconstruction"
    weights: Path | None = None
    vgg: Path | None = None
    sha256: str | None = None
    vgg_sha256: str | None = None
    size: int | None = attrs.field(default=None, validator=at_least(16))
    batch: int = attrs.field(default=32, validator=at_least(1))

    def examine(self, evaluation: Evaluation) -> None:
        check_image(evaluation.model.data_shape)
        check_made(evaluation, self.of)

    def compute(self, evaluation: Evaluation) -> Sequence[Result]:
        self.examine(evaluation)
        pairs = made_of(evaluation, self.of)
        first, second = TensorPixels(pairs.x), TensorPixels(pairs.made)
        made = f"the {self.of}s"
        notes = first.extent.of_data(), second.extent.of_samples(made)
        files = self._files(download=not evaluation.smoke)
        # The channels' file has no hash in its name; it is read as data, so that nothing hangs on whose it is.
        weights, vgg = proved(files["weights"], self.sha256 or ""), proved(files["vgg"], self.vgg_sha256 or _VGG_HASH)
        values = []
        with torch.no_grad(), _single_precision():
            network = _network(files, self.size).to(evaluation.device)
            for index in torch.arange(len(first)).split(self.batch):
                one, other = (_rgb(side.read(index.tolist())).to(evaluation.device) for side in (first, second))
                values.append(network(one, other).double().flatten().cpu())
        each = torch.cat(values)
        protocol = evaluation.protocol(
            of=self.of,
            **protocol_of(evaluation, self.of),
            network="vgg16",
            weights_sha256=weights,
            vgg_sha256=vgg,
            resize="none" if self.size is None else f"to {self.size}",
            rounding=ROUNDING,
            torch_fidelity=str(import_torchvision("torch_fidelity").__version__),
        )
        note = join_notes(*notes, "Mean over images.")
        error = float(each.std()) / len(each) ** 0.5 if len(each) > 1 else None
        return [Result(f"lpips-{self.of}", float(each.mean()), "", protocol, error, "lower", note)]

    def _files(self, *, download: bool) -> dict[str, Path]:
        url = import_torchvision("torch_fidelity.sample_similarity_lpips").URL_VGG16_LPIPS
        said: dict[str, Any] = {"what": "the weights of LPIPS", "instead": "name the files by 'weights' and 'vgg'"}
        said["download"] = download
        return {
            "weights": self.weights or fetched(url, begins=self.sha256 or "", **said),
            "vgg": self.vgg or fetched(_VGG, begins=self.vgg_sha256 or _VGG_HASH, **said),
        }


def _rgb(pixels: Tensor) -> Tensor:
    return pixels.expand(-1, 3, -1, -1)


def _read(file: Path) -> dict[str, Tensor]:
    with open_published(file) as published:
        return {name: published.tensors[name] for name in published.tensors}


def _network(files: Mapping[str, Path], size: int | None) -> torch.nn.Module:
    """torch-fidelity's network with the weights of these files, which it would download by itself.

    Raises:
        DataError: A file does not fit.
    """
    with _weights_from(files):
        create = import_torchvision("torch_fidelity.sample_similarity_lpips").SampleSimilarityLPIPS
        try:
            network: torch.nn.Module = create("lpips-vgg16", sample_similarity_resize=size)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"{files['weights']} and {files['vgg']} don't fit LPIPS: {reason}") from error
    return network.eval()


@contextlib.contextmanager
def _single_precision() -> Iterator[None]:
    """Let what is made here be float32, as torch-fidelity takes it to be; a run may have set another default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _weights_from(files: Mapping[str, Path]) -> Iterator[None]:
    module = import_torchvision("torch_fidelity.sample_similarity_lpips")

    def channels(*_: Any, **__: Any) -> dict[str, Tensor]:
        return _read(files["weights"])

    def vgg16() -> Any:
        # Features alone: the classifier above them has nine tenths of the weights.
        with torch.device("meta"):
            network: Any = import_torchvision("torchvision.models").vgg16(weights=None, init_weights=False)
        tensors = {name: value for name, value in _read(files["vgg"]).items() if name.startswith("features.")}
        features = {name.removeprefix("features."): value for name, value in tensors.items()}
        network.features.load_state_dict(features, assign=True)
        return network

    with (
        mock.patch.object(module, "load_state_dict_from_url", channels),
        mock.patch.object(module, "torchvision_load_pretrained_vgg16", vgg16),
    ):
        yield
