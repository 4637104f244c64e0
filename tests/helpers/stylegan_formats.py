"""Generators of StyleGAN under the names, and in the pickles, that others have published theirs in."""

import sys
import types

import torch

from genfw.interfaces.values import NoiseLayout
from genfw_plugins.stylegan.decoder import StyleGANDecoder

SIDE, WIDTH, LAYERS = 16, 6, 6
ROOT = 2.0**0.5


def decoder_of(architecture, side=SIDE, seed=0):
    torch.manual_seed(seed)
    layout = NoiseLayout.of(**{"z.0": (2 * (side.bit_length() - 2), WIDTH)})
    decoder = StyleGANDecoder(
        (3, side, side), layout, architecture, channels_base=4 * side, channels_max=8, mapping_layers=2
    )
    for name, parameter in decoder.named_parameters():
        if name.endswith(("strength", "bias")):
            torch.nn.init.normal_(parameter)
    decoder.mapping.mean.normal_()
    return decoder


# -- our weights under the published names ----------------------------------------------------------------------------


def sides_of(count):
    return [4 * 2**number for number in range(count)]


def as_idinvert(state):
    out = {"truncation.w_avg": state["mapping.mean"], "truncation.truncation": torch.ones(1, LAYERS, 1)}
    out |= {"synthesis.lod": torch.tensor(0.0), "synthesis.layer0.const": state["synthesis.const"][None]}
    for number in range(2):
        out[f"mapping.dense{number}.fc.weight"] = state[f"mapping.layers.{number}.weight"]
        out[f"mapping.dense{number}.wscale.bias"] = state[f"mapping.layers.{number}.bias"]
    for number in range(sum(name.endswith(".strength") for name in state)):
        theirs, ours = f"synthesis.layer{number}", f"synthesis.finishes.{number}"
        out[f"{theirs}.epilogue.apply_noise.noise"] = state[f"{ours}.noise"][None, None]
        out[f"{theirs}.epilogue.apply_noise.weight"] = state[f"{ours}.strength"]
        out[f"{theirs}.epilogue.bias"] = state[f"{ours}.bias"]
        out[f"{theirs}.epilogue.style_mod.dense.fc.weight"] = state[f"{ours}.style.weight"]
        out[f"{theirs}.epilogue.style_mod.dense.wscale.bias"] = state[f"{ours}.style.bias"]
        if number:
            weight, side = state[f"synthesis.weights.{number - 1}"], 4 * 2 ** (number // 2)
            if number % 2 == 0 and side >= 128:
                out[f"{theirs}.weight"] = weight.permute(2, 3, 0, 1)
            else:
                out[f"{theirs}.conv.weight"] = weight if number % 2 else weight.transpose(0, 1).flip(2, 3)
        if number % 2 == 0:
            out[f"{theirs}.blur.kernel"] = torch.ones(1, 1, 3, 3)
        else:
            out[f"synthesis.output{number // 2}.conv.weight"] = state["synthesis.to_image"]
            out[f"synthesis.output{number // 2}.bias"] = state["synthesis.image_bias"]
    return out


def layers_of(state):
    """Number of each layer of StyleGAN2, with its side and whether it is the first of it."""
    count = sum(name.endswith(".strength") for name in state)
    return [(n, 4 * 2 ** ((n + 1) // 2), n % 2 == 1) for n in range(count)]


def as_ada(state):
    out = {"mapping.w_avg": state["mapping.mean"], "synthesis.b4.const": state["synthesis.const"]}
    for number in range(2):
        out[f"mapping.fc{number}.weight"] = state[f"mapping.layers.{number}.weight"]
        out[f"mapping.fc{number}.bias"] = state[f"mapping.layers.{number}.bias"] / ROOT
    for number, side, first in layers_of(state):
        theirs, ours = f"synthesis.b{side}.conv{0 if first else 1}", f"synthesis.layers.{number}"
        for name, part in {"weight": "weight", "bias": "bias", "noise_const": "noise", "noise_strength": "strength",
                           "affine.weight": "style.weight", "affine.bias": "style.bias"}.items():  # fmt: skip
            out[f"{theirs}.{name}"] = state[f"{ours}.{part}"]
        out[f"{theirs}.resample_filter"] = torch.ones(4, 4)
    images = sum(name.startswith("synthesis.images.") and name.endswith("style.bias") for name in state)
    sides = sides_of((len(layers_of(state)) + 1) // 2)
    for number in range(images):
        theirs, ours = f"synthesis.b{sides[number - images]}.torgb", f"synthesis.images.{number}"
        for name, part in {"weight": "weight", "bias": "bias", "affine.weight": "style.weight",
                           "affine.bias": "style.bias"}.items():  # fmt: skip
            out[f"{theirs}.{name}"] = state[f"{ours}.{part}"]
    for number, side in enumerate(sides[1:]):
        if f"synthesis.shortcuts.{number}" in state:
            out[f"synthesis.b{side}.skip.weight"] = state[f"synthesis.shortcuts.{number}"]
    return out


def as_rosinality(state):
    out = {"input.input": state["synthesis.const"][None]}
    for number in range(2):
        out[f"style.{number + 1}.weight"] = state[f"mapping.layers.{number}.weight"]
        out[f"style.{number + 1}.bias"] = state[f"mapping.layers.{number}.bias"] / ROOT
    for number, _, first in layers_of(state):
        theirs, ours = f"convs.{number - 1}" if number else "conv1", f"synthesis.layers.{number}"
        out[f"{theirs}.conv.weight"] = state[f"{ours}.weight"][None]
        out[f"{theirs}.conv.modulation.weight"] = state[f"{ours}.style.weight"]
        out[f"{theirs}.conv.modulation.bias"] = state[f"{ours}.style.bias"]
        out[f"{theirs}.noise.weight"] = state[f"{ours}.strength"].reshape(1)
        out[f"{theirs}.activate.bias"] = state[f"{ours}.bias"]
        out[f"noises.noise_{number}"] = state[f"{ours}.noise"][None, None]
        if first:
            out[f"{theirs}.conv.blur.kernel"] = torch.ones(4, 4)
        else:
            image, ours = (f"to_rgbs.{number // 2 - 1}" if number else "to_rgb1"), f"synthesis.images.{number // 2}"
            out[f"{image}.conv.weight"] = state[f"{ours}.weight"][None]
            out[f"{image}.conv.modulation.weight"] = state[f"{ours}.style.weight"]
            out[f"{image}.conv.modulation.bias"] = state[f"{ours}.style.bias"]
            out[f"{image}.bias"] = state[f"{ours}.bias"][None, :, None, None]
    return out


def turned(weight):
    return weight.permute(2, 3, 1, 0)


def as_tensorflow(state):
    """Variables of mapping, synthesis, and of the whole."""
    first = "synthesis.to_image" in state
    gain = 1.0 if first else ROOT
    mapping, synthesis = {}, {"4x4/Const/const": state["synthesis.const"][None]}
    for number in range(2):
        mapping[f"Dense{number}/weight"] = state[f"mapping.layers.{number}.weight"].T
        mapping[f"Dense{number}/bias"] = state[f"mapping.layers.{number}.bias"] / gain
    if first:
        synthesis |= {"lod": torch.tensor(0.0), "ToRGB_lod0/weight": turned(state["synthesis.to_image"])}
        synthesis["ToRGB_lod0/bias"] = state["synthesis.image_bias"]
        for number in range(LAYERS if "synthesis.finishes.6.bias" not in state else 12):
            side = 4 * 2 ** (number // 2)
            name = ("Const", "Conv")[number % 2] if side == 4 else ("Conv0_up", "Conv1")[number % 2]
            theirs, ours = f"{side}x{side}/{name}", f"synthesis.finishes.{number}"
            synthesis[f"noise{number}"] = state[f"{ours}.noise"][None, None]
            synthesis[f"{theirs}/Noise/weight"] = state[f"{ours}.strength"]
            synthesis[f"{theirs}/bias"] = state[f"{ours}.bias"]
            synthesis[f"{theirs}/StyleMod/weight"] = state[f"{ours}.style.weight"].T
            synthesis[f"{theirs}/StyleMod/bias"] = state[f"{ours}.style.bias"]
            if number:
                weight = state[f"synthesis.weights.{number - 1}"]
                if number % 2 == 0:
                    weight = weight.transpose(0, 1) if side >= 128 else weight.transpose(0, 1).flip(2, 3)
                synthesis[f"{theirs}/weight"] = turned(weight)
        return mapping, synthesis
    images = sum(name.startswith("synthesis.images.") and name.endswith("style.bias") for name in state)
    count = len(layers_of(state))
    for number, side, up in layers_of(state):
        parts = [
            (f"synthesis.layers.{number}", f"{side}x{side}/{'Conv' if side == 4 else 'Conv0_up' if up else 'Conv1'}")
        ]
        synthesis[f"noise{number}"] = state[f"synthesis.layers.{number}.noise"][None, None]
        synthesis[f"{parts[0][1]}/noise_strength"] = state[f"synthesis.layers.{number}.strength"]
        if not up and (images > 1 or number == count - 1):
            parts.append((f"synthesis.images.{number // 2 if images > 1 else 0}", f"{side}x{side}/ToRGB"))
        for ours, theirs in parts:
            weight = state[f"{ours}.weight"]
            synthesis[f"{theirs}/weight"] = turned(weight.flip(2, 3) if up else weight)
            synthesis[f"{theirs}/bias"] = state[f"{ours}.bias"]
            synthesis[f"{theirs}/mod_weight"] = state[f"{ours}.style.weight"].T
            synthesis[f"{theirs}/mod_bias"] = state[f"{ours}.style.bias"] - 1.0
        if up and images == 1:
            synthesis[f"{side}x{side}/Skip/weight"] = turned(state[f"synthesis.shortcuts.{number // 2}"])
    return mapping, synthesis


# -- NVIDIA's pickles, written by stand-ins for their classes ---------------------------------------------------------


def module(monkeypatch, name, **content):
    made = types.ModuleType(name)
    for key, value in content.items():
        if isinstance(value, type):
            value.__module__, value.__qualname__ = name, key
        setattr(made, key, value)
    monkeypatch.setitem(sys.modules, name, made)
    return made


class EasyDict(dict):
    pass


def reconstruct(meta):
    raise AssertionError("the file's code has run")


class Persistent:
    """A network of the PyTorch program, pickled as its persistence module does it."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": "A", "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


class Network:
    """A network of the TensorFlow program."""

    def __getstate__(self):
        return self.state

    def __setstate__(self, state):
        raise AssertionError("the file's code has run")


def stand_in(monkeypatch):
    """Have NVIDIA's classes found by the names that pickles give them."""
    reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    module(monkeypatch, "torch_utils")
    module(monkeypatch, "torch_utils.persistence", _reconstruct_persistent_obj=reconstruct)
    for name in ("dnnlib", "dnnlib.tflib"):
        module(monkeypatch, name)
    module(monkeypatch, "dnnlib.util", EasyDict=EasyDict)
    module(monkeypatch, "dnnlib.tflib.network", Network=Network)


def as_module(tensors):
    """The nested state of a PyTorch network whose tensors have such names."""
    own = {name: value for name, value in tensors.items() if "." not in name}
    heads = dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name)
    parts = {h: {n.partition(".")[2]: v for n, v in tensors.items() if n.startswith(f"{h}.")} for h in heads}
    parameters = {name: torch.nn.Parameter(value) for name, value in own.items() if name in ("weight", "bias")}
    return Persistent(
        {
            "training": False,
            "_parameters": {**parameters, "absent": None},
            "_buffers": {name: value for name, value in own.items() if name not in parameters},
            "_modules": {name: as_module(part) for name, part in parts.items()},
            "_init_kwargs": EasyDict(z_dim=WIDTH, c_dim=0, img_channels=3),
            "_hooks": set(),
        }
    )


def as_network(variables, components=(), **settings):
    network = Network()
    arrays = [(name, value.numpy()[()] if value.ndim == 0 else value.numpy()) for name, value in variables.items()]
    network.state = {"version": 4, "name": "G", "static_kwargs": settings, "components": dict(components),
                     "build_module_src": "raise SystemExit", "build_func_name": "G", "variables": arrays}  # fmt: skip
    return network


def as_generator(decoder, **settings):
    state = {name: value.detach() for name, value in decoder.state_dict().items()}
    mapping, synthesis = as_tensorflow(state)
    parts = EasyDict(mapping=as_network(mapping), synthesis=as_network(synthesis))
    return as_network({"dlatent_avg": state["mapping.mean"]}, parts, label_size=0, **settings)
