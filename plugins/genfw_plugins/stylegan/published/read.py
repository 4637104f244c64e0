"""Published StyleGANs and their encoders, in our words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from genfw.errors import DataError, shown
from genfw.weights.importing import Conversion, choose
from genfw_plugins.stylegan.layers import Mapping as MappingNetwork
from genfw_plugins.stylegan.layers import channels_at, sides_up_to
from genfw_plugins.stylegan.prior import triangular
from genfw_plugins.stylegan.published import names

#: Draws that the covariance of styles is measured with.
DRAWS = 32_768

_Tensors = Mapping[str, Tensor]


class _Part(Mapping[str, Tensor]):
    """The tensors under a prefix, by what follows it; read when asked for."""

    def __init__(self, tensors: _Tensors, prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._tensors if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._tensors


def read(tensors: _Tensors, arguments: Mapping[str, Any]) -> Conversion:
    """Generator and encoder in a published file, the recipe's blocks they fit, and a prior with measured statistics.

    Of several generators in a file the average is taken (``Gs``, ``G_ema``, ``g_ema``), unless another is picked.

    Arguments:
        tensors: Every tensor of the file by its path.
        arguments: The file's argument record; the constructor's arguments of NVIDIA's are refused where they describe
            what this plugin has not got.

    Raises:
        DataError: There are several generators, none an average and none picked, or one of an unknown architecture.
    """
    found = names.convention(tensors)
    state: dict[str, Tensor] = {}
    blocks: dict[str, Any] = {}
    generators = [each for each in found if each[0] != "idinvert-encoder"]
    if generators:
        kind, prefix = _one(tensors, generators, "generator")
        _refuse(arguments)
        decoder = _generator(kind, tensors, prefix)
        try:
            blocks |= {"decoder": architecture(decoder, _lod(kind, _Part(tensors, prefix)))}
        except KeyError as error:
            raise DataError(f"this generator lacks {error}; it is of no architecture that is known here") from None
        blocks["prior"] = {"use": "stylegan", "width": len(decoder["mapping.mean"])}
        state |= {f"decoder.{name}": value.float() for name, value in decoder.items()}
        state |= {f"prior.{name}": value for name, value in _statistics(decoder).items()}
    encoders = [each for each in found if each[0] == "idinvert-encoder"]
    if encoders:
        _, prefix = _one(tensors, encoders, "encoder")
        encoder = names.idinvert_encoder(_Part(tensors, prefix))
        state |= {f"encoder.{name}": value for name, value in encoder.items()}
        state["encoder.log_scale"] = torch.full((encoder["net.last.weight"].shape[0],), math.log(0.1))
        widths = [int(encoder["net.first.weight"].shape[0])]
        widths += [int(value.shape[0]) for name, value in encoder.items() if name.endswith(".second.weight")]
        blocks["encoder"] = {"use": "stylegan", "channels_base": widths[0], "channels_max": max(widths)}
    return Conversion(state, blocks)


def _one(tensors: _Tensors, found: list[tuple[str, str]], what: str) -> tuple[str, str]:
    kinds = {prefix: kind for kind, prefix in found}
    averages = [place for place in kinds if place.rpartition(".")[0].rpartition(".")[2] in ("Gs", "G_ema", "g_ema")]
    place = choose(tensors, list(kinds), what, default=averages[0] if len(averages) == 1 else None)
    assert place is not None
    return kinds[place], place


def _refuse(arguments: Mapping[str, Any]) -> None:
    for name, fine in (("c_dim", (0,)), ("label_size", (0,)), ("img_channels", (1, 3)), ("num_channels", (1, 3))):
        if name in arguments and arguments[name] not in fine:
            raise DataError(
                f"a generator with {name} = {shown(arguments[name])} can't be read: labels have no place in a style"
            )


def _generator(kind: str, tensors: _Tensors, prefix: str) -> dict[str, Tensor]:
    own = _Part(tensors, prefix)
    try:
        match kind:
            case "idinvert":
                return names.idinvert(own)
            case "ada":
                return names.ada(own)
            case "rosinality":
                beside = f"{prefix.removesuffix('.').rpartition('.')[0]}.latent_avg".lstrip(".")
                return names.rosinality(own, tensors.get(beside))
            case _:
                return names.tensorflow(own)
    except KeyError as error:
        raise DataError(f"this generator lacks {error}; it is of no architecture that is known here") from None


def _lod(kind: str, own: _Tensors) -> int:
    return math.ceil(float(own["synthesis.lod"])) if kind == "idinvert" and "synthesis.lod" in own else 0


def architecture(decoder: Mapping[str, Tensor], lod: int = 0) -> dict[str, Any]:
    """The recipe's block of a generator, read off the shapes of its state.

    Arguments:
        decoder: State of a :class:`~genfw_plugins.stylegan.decoder.StyleGANDecoder`.
        lod: How many of its last sides are left out.

    Raises:
        DataError: Its channels do not halve with every doubling of the side.
    """
    first = "synthesis.to_image" in decoder
    # Two layers to a side, but one to the first of StyleGAN2; the second of side k is number 2k of those with weights.
    sides = (sum(name.endswith(".strength") for name in decoder) + 1) // 2
    layers = "synthesis.weights.{}" if first else "synthesis.layers.{}.weight"
    kernels = [decoder[layers.format(2 * number)] for number in range(1, sides)]
    outputs = [decoder["synthesis.const"].shape[0], *(kernel.shape[0] for kernel in kernels)]
    side = 2 ** (sides + 1)
    channels = [int(each) for each in outputs]
    base, most = channels[-1] * side, max(channels)
    if [channels_at(each, base, most) for each in sides_up_to(side)] != channels:
        raise DataError(f"maps of {channels} channels from 4x4 to {side}x{side} are not those of a StyleGAN")
    kind = "stylegan" if first else "stylegan2-resnet" if "synthesis.shortcuts.0" in decoder else "stylegan2-skip"
    mapping = sum(name.startswith("mapping.layers.") and name.endswith(".weight") for name in decoder)
    block: dict[str, Any] = {"use": "stylegan", "architecture": kind, "channels_base": base, "channels_max": most}
    block["mapping_layers"] = mapping
    return block | ({"lod": lod} if lod else {})


def _statistics(decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean of styles as published, and their covariance, measured with a fixed seed."""
    own = {name.removeprefix("mapping."): value.float() for name, value in decoder.items() if "mapping." in name}
    network = MappingNetwork(len(own["mean"]), len(own) // 2)
    network.load_state_dict(own)
    mean, covariance = network.statistics(DRAWS, torch.Generator().manual_seed(0))
    return {"mean": own["mean"] if bool(own["mean"].any()) else mean, "factor": triangular(covariance)}
