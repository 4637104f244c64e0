"""Published generators and encoders under this plugin's names: which tensor is which, and what it needs to fit.

Four conventions: ``idinvert`` (PyTorch, StyleGAN), ``ada`` (NVIDIA's PyTorch, StyleGAN2), ``rosinality`` (PyTorch,
StyleGAN2) and ``tf`` (NVIDIA's TensorFlow, both generations), whose matrices and kernels lie the other way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from genfw.errors import DataError

_State = dict[str, Tensor]

#: What our batch norms add to a variance.
_EPSILON = 1e-5

#: Convention -> tensors that every file of it has.
_MARKS = {
    "idinvert": ("mapping.dense0.fc.weight", "synthesis.layer0.const"),
    "idinvert-encoder": ("block0.conv.weight", "block1.wscale1.bias"),
    "ada": ("mapping.fc0.weight", "synthesis.b4.const"),
    "rosinality": ("style.1.weight", "input.input"),
    "tf": ("mapping.Dense0/weight", "synthesis.4x4/Const/const"),
}


def convention(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """``(convention, prefix)`` of every network in a file.

    Arguments:
        tensors: All of the file's, by path.
    """
    found = []
    for name, (first, *others) in _MARKS.items():
        prefixes = [path.removesuffix(first) for path in tensors if f".{path}".endswith(f".{first}")]
        found += [(name, prefix) for prefix in prefixes if all(f"{prefix}{other}" in tensors for other in others)]
    return found


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many tensors are named like that."""
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)


def _mapping(
    tensors: Mapping[str, Tensor], weight: str, bias: str, first: int, turned: bool = False, gain: float = 1.0
) -> Iterator[tuple[str, Tensor]]:
    pattern = re.escape(weight).replace(r"\{\}", r"\d+")
    for number in range(_count(tensors, pattern)):
        value = tensors[weight.format(number + first)]
        yield f"mapping.layers.{number}.weight", value.T if turned else value
        # An activation that ends in a factor sqrt 2 takes its bias with it.
        yield f"mapping.layers.{number}.bias", gain * tensors[bias.format(number + first)]


def turned_up(weight: Tensor) -> Tensor:
    """Weights ``(out, in, 3, 3)`` of pixels repeated and then convolved, as the transposed convolution takes them."""
    return weight.flip(2, 3).transpose(0, 1)


def idinvert(tensors: Mapping[str, Tensor]) -> _State:
    """State of a decoder with architecture ``stylegan``.

    Arguments:
        tensors: ``mapping.dense0.fc.weight``, ``truncation.w_avg``, ``synthesis.layer0.const``, ...
    """
    state: _State = dict(_mapping(tensors, "mapping.dense{}.fc.weight", "mapping.dense{}.wscale.bias", 0))
    state["mapping.mean"] = tensors["truncation.w_avg"].flatten()
    state["synthesis.const"] = tensors["synthesis.layer0.const"][0]
    count = _count(tensors, r"synthesis\.layer\d+\.epilogue\.bias")
    lod = math.ceil(float(tensors["synthesis.lod"])) if "synthesis.lod" in tensors else 0
    for number in range(count - 2 * lod):
        theirs, ours = f"synthesis.layer{number}", f"synthesis.finishes.{number}"
        part = f"{theirs}.epilogue"
        state[f"{ours}.noise"] = tensors[f"{part}.apply_noise.noise"][0, 0]
        state[f"{ours}.strength"] = tensors[f"{part}.apply_noise.weight"]
        state[f"{ours}.bias"] = tensors[f"{part}.bias"]
        state[f"{ours}.style.weight"] = tensors[f"{part}.style_mod.dense.fc.weight"]
        state[f"{ours}.style.bias"] = tensors[f"{part}.style_mod.dense.wscale.bias"]
        if number:
            # From 128 pixels on the published network doubles by a transposed convolution, weights (3, 3, in, out).
            fused = f"{theirs}.weight"
            weight = tensors[fused].permute(2, 3, 0, 1) if fused in tensors else tensors[f"{theirs}.conv.weight"]
            plain = number % 2 == 1 or fused in tensors
            state[f"synthesis.weights.{number - 1}"] = weight if plain else turned_up(weight)
    last = f"synthesis.output{count // 2 - 1 - lod}"
    state["synthesis.to_image"] = tensors[f"{last}.conv.weight"]
    state["synthesis.image_bias"] = tensors[f"{last}.bias"]
    return state


def idinvert_encoder(tensors: Mapping[str, Tensor]) -> _State:
    """State of an encoder's network.

    An encoder without batch norms gets some that change nothing once it is trained.

    Arguments:
        tensors: ``block0.conv.weight``, ``block1.wscale1.bias``, ``block1.bn1.bn.weight``, ...
    """
    last = max(int(match[1]) for name in tensors if (match := re.match(r"block(\d+)\.fc\.", name)))

    def norm(ours: str, theirs: str, before: Tensor) -> _State:
        one, zero = torch.ones(len(before)), torch.zeros(len(before))
        idle = {
            "weight": one,
            "bias": zero,
            "running_mean": zero,
            "running_var": one - _EPSILON,
            "num_batches_tracked": torch.tensor(0),
        }
        there = f"{theirs}.bn.weight" in tensors
        return {f"{ours}.{part}": tensors[f"{theirs}.bn.{part}"] if there else idle[part] for part in idle}

    first = tensors["block0.conv.weight"]
    state: _State = {"net.first.weight": first, **norm("net.first_norm", "block0.bn", first)}
    for number in range(1, last):
        theirs, ours = f"block{number}", f"net.blocks.{number - 1}"
        for digit, name in (("1", "first"), ("2", "second")):
            state[f"{ours}.{name}.weight"] = tensors[f"{theirs}.conv{digit}.weight"]
            state |= norm(f"{ours}.{name}_norm", f"{theirs}.bn{digit}", state[f"{ours}.{name}.weight"])
            # A bias before a batch norm only moves its mean.
            mean = f"{ours}.{name}_norm.running_mean"
            state[mean] = state[mean] - tensors[f"{theirs}.wscale{digit}.bias"]
        if f"{theirs}.conv.weight" in tensors:
            state[f"{ours}.shortcut.weight"] = tensors[f"{theirs}.conv.weight"]
            state |= norm(f"{ours}.shortcut_norm", f"{theirs}.bn", state[f"{ours}.shortcut.weight"])
    weight = tensors[f"block{last}.fc.weight"]
    # The published last layer has its scale beside it, the only one that has.
    state["net.last.weight"] = weight / math.sqrt(weight.shape[1])
    return state | norm("net.last_norm", f"block{last}.bn", weight)


def ada(tensors: Mapping[str, Tensor]) -> _State:
    """State of a decoder with architecture ``stylegan2-skip`` or ``stylegan2-resnet``.

    Arguments:
        tensors: ``mapping.fc0.weight``, ``mapping.w_avg``, ``synthesis.b4.const``, ...
    """
    root = math.sqrt(2.0)
    state: _State = dict(_mapping(tensors, "mapping.fc{}.weight", "mapping.fc{}.bias", 0, gain=root))
    state["mapping.mean"] = tensors["mapping.w_avg"]
    state["synthesis.const"] = tensors["synthesis.b4.const"]

    def take(ours: str, theirs: str, parts: Mapping[str, str]) -> None:
        for name, published in {**parts, "style.weight": "affine.weight", "style.bias": "affine.bias"}.items():
            state[f"{ours}.{name}"] = tensors[f"{theirs}.{published}"]

    layer = {"weight": "weight", "bias": "bias", "noise": "noise_const", "strength": "noise_strength"}
    place, images, shortcuts, side = 0, 0, 0, 4
    while f"synthesis.b{side}.conv1.weight" in tensors:
        block = f"synthesis.b{side}"
        for name in ("conv0", "conv1"):
            if f"{block}.{name}.weight" in tensors:
                take(f"synthesis.layers.{place}", f"{block}.{name}", layer)
                place += 1
        if f"{block}.torgb.weight" in tensors:
            take(f"synthesis.images.{images}", f"{block}.torgb", {"weight": "weight", "bias": "bias"})
            images += 1
        if f"{block}.skip.weight" in tensors:
            state[f"synthesis.shortcuts.{shortcuts}"] = tensors[f"{block}.skip.weight"]
            shortcuts += 1
        side *= 2
    return state


def rosinality(tensors: Mapping[str, Tensor], mean: Tensor | None) -> _State:
    """State of a decoder with architecture ``stylegan2-skip``.

    Arguments:
        tensors: ``style.1.weight``, ``input.input``, ``conv1.conv.weight``, ``noises.noise_0``, ...
        mean: Mean of the styles, which lies beside the generator; 0 where absent.
    """
    state: _State = dict(_mapping(tensors, "style.{}.weight", "style.{}.bias", 1, gain=math.sqrt(2.0)))
    width = tensors["style.1.weight"].shape[0]
    state["mapping.mean"] = torch.zeros(width) if mean is None else mean.flatten()
    state["synthesis.const"] = tensors["input.input"][0]
    layers = ["conv1", *(f"convs.{number}" for number in range(_count(tensors, r"convs\.\d+\.conv\.weight")))]
    for number, theirs in enumerate(layers):
        ours = f"synthesis.layers.{number}"
        state[f"{ours}.weight"] = tensors[f"{theirs}.conv.weight"][0]
        state[f"{ours}.bias"] = tensors[f"{theirs}.activate.bias"].flatten()
        state[f"{ours}.strength"] = tensors[f"{theirs}.noise.weight"].reshape(())
        state[f"{ours}.noise"] = tensors[f"noises.noise_{number}"][0, 0]
        for part in ("weight", "bias"):
            state[f"{ours}.style.{part}"] = tensors[f"{theirs}.conv.modulation.{part}"]
    images = ["to_rgb1", *(f"to_rgbs.{number}" for number in range(len(layers) // 2))]
    for number, theirs in enumerate(images):
        ours = f"synthesis.images.{number}"
        state[f"{ours}.weight"] = tensors[f"{theirs}.conv.weight"][0]
        state[f"{ours}.bias"] = tensors[f"{theirs}.bias"].flatten()
        for part in ("weight", "bias"):
            state[f"{ours}.style.{part}"] = tensors[f"{theirs}.conv.modulation.{part}"]
    return state


def tensorflow(tensors: Mapping[str, Tensor]) -> _State:
    """State of a decoder of either generation, out of NVIDIA's TensorFlow variables.

    Arguments:
        tensors: ``mapping.Dense0/weight``, ``dlatent_avg``, ``synthesis.4x4/Const/const``, ...

    Raises:
        DataError: A variable is missing.
    """
    try:
        second = "synthesis.4x4/Conv/mod_weight" in tensors
        return _tensorflow2(tensors) if second else _tensorflow1(tensors)
    except KeyError as error:
        raise DataError(
            f"this generator of NVIDIA's lacks the variable {error}; its configuration is unknown"
        ) from None


def _sides(tensors: Mapping[str, Tensor]) -> list[int]:
    found = (re.fullmatch(r"synthesis\.(\d+)x\d+/Conv1/bias", name) for name in tensors)
    return [4, *sorted(int(match[1]) for match in found if match is not None)]


def _kernel(weight: Tensor) -> Tensor:
    return weight.permute(3, 2, 0, 1)


def _tensorflow1(tensors: Mapping[str, Tensor]) -> _State:
    state: _State = dict(_mapping(tensors, "mapping.Dense{}/weight", "mapping.Dense{}/bias", 0, turned=True))
    state["mapping.mean"] = tensors["dlatent_avg"]
    state["synthesis.const"] = tensors["synthesis.4x4/Const/const"][0]
    if float(tensors.get("synthesis.lod", torch.zeros(()))) > 0.0:
        raise DataError("this StyleGAN is from the middle of progressive growing (lod is above 0)")
    sides = _sides(tensors)
    layers = [f"{side}x{side}/{name}" for side in sides for name in _pair(side, "Const", "Conv")]
    for number, theirs in enumerate(layers):
        part, ours = f"synthesis.{theirs}", f"synthesis.finishes.{number}"
        state[f"{ours}.noise"] = tensors[f"synthesis.noise{number}"][0, 0]
        state[f"{ours}.strength"] = tensors[f"{part}/Noise/weight"]
        state[f"{ours}.bias"] = tensors[f"{part}/bias"]
        state[f"{ours}.style.weight"] = tensors[f"{part}/StyleMod/weight"].T
        state[f"{ours}.style.bias"] = tensors[f"{part}/StyleMod/bias"]
        if number:
            weight = _kernel(tensors[f"{part}/weight"])
            fused = sides[number // 2] >= 128
            doubled: Callable[[Tensor], Tensor] = (lambda each: each.transpose(0, 1)) if fused else turned_up
            state[f"synthesis.weights.{number - 1}"] = weight if number % 2 else doubled(weight)
    state["synthesis.to_image"] = _kernel(tensors["synthesis.ToRGB_lod0/weight"])
    state["synthesis.image_bias"] = tensors["synthesis.ToRGB_lod0/bias"]
    return state


def _pair(side: int, first: str, second: str) -> tuple[str, ...]:
    return (first, second) if side == 4 else ("Conv0_up", "Conv1")


def _tensorflow2(tensors: Mapping[str, Tensor]) -> _State:
    root = math.sqrt(2.0)
    state: _State = dict(_mapping(tensors, "mapping.Dense{}/weight", "mapping.Dense{}/bias", 0, True, root))
    state["mapping.mean"] = tensors["dlatent_avg"]
    state["synthesis.const"] = tensors["synthesis.4x4/Const/const"][0]

    def take(ours: str, theirs: str, weight: Tensor) -> None:
        state[f"{ours}.weight"] = weight
        state[f"{ours}.bias"] = tensors[f"{theirs}/bias"]
        state[f"{ours}.style.weight"] = tensors[f"{theirs}/mod_weight"].T
        state[f"{ours}.style.bias"] = tensors[f"{theirs}/mod_bias"] + 1.0

    place = images = shortcuts = 0
    for side in _sides(tensors):
        block = f"synthesis.{side}x{side}"
        for name in _pair(side, "", "Conv"):
            if not name:
                continue
            weight, ours = _kernel(tensors[f"{block}/{name}/weight"]), f"synthesis.layers.{place}"
            # TensorFlow's doubling turns its weights, the transposed convolution does not.
            take(ours, f"{block}/{name}", weight.flip(2, 3) if name == "Conv0_up" else weight)
            state[f"{ours}.strength"] = tensors[f"{block}/{name}/noise_strength"]
            state[f"{ours}.noise"] = tensors[f"synthesis.noise{place}"][0, 0]
            place += 1
        if f"{block}/ToRGB/weight" in tensors:
            take(f"synthesis.images.{images}", f"{block}/ToRGB", _kernel(tensors[f"{block}/ToRGB/weight"]))
            images += 1
        if f"{block}/Skip/weight" in tensors:
            state[f"synthesis.shortcuts.{shortcuts}"] = _kernel(tensors[f"{block}/Skip/weight"])
            shortcuts += 1
    return state
