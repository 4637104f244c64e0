"""Weights of the published NVAE checkpoints, under this plugin's names.

Only names and shapes are read; nothing here unpickles. ``convert`` maps tensors, ``arguments`` the record of training
arguments, and ``load`` puts the former into a model made from the latter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from genfw.errors import DataError, shown
from genfw.weights.importing import Conversion, choose

#: Published path of a part -> ours; the rest of the path follows.
PARTS = (
    (r"prior_ftr0$", "prior.first"),
    (r"dec_tower\.(\d+)\.", r"prior.tower.\1."),
    (r"dec_sampler\.(\d+)\.1\.", r"prior.heads.\1."),
    (r"stem\.", "encoder.stem."),
    (r"pre_process\.(\d+)\.", r"encoder.before.\1."),
    (r"enc_tower\.(\d+)\.", r"encoder.tower.\1."),
    (r"enc0\.1\.", "encoder.top."),
    (r"enc_sampler\.(\d+)\.", r"encoder.heads.\1."),
    (r"nf_cells\.(\d+)\.cell1\.", r"encoder.flows.\1.forth."),
    (r"nf_cells\.(\d+)\.cell2\.", r"encoder.flows.\1.back."),
    (r"post_process\.(\d+)\.", r"decoder.cells.\1."),
    (r"image_conditional\.1\.", "decoder.head."),
)

#: Within a part. Layers of a widening cell are handled by :func:`_inverted`.
LAYERS = (
    (r"se\.se\.0\.", "gate.squeeze."),
    (r"se\.se\.2\.", "gate.excite."),
    (r"_ops\.(\d)\.bn_act\.", r"norms.\1."),
    (r"_ops\.(\d)\.conv_0\.", r"convs.\1."),
    (r"skip\.conv_1\.", "skip.convs.0."),
    (r"skip\.conv_2\.", "skip.convs.1."),
    (r"skip\.conv_3\.", "skip.convs.2."),
    (r"skip\.conv_4\.", "skip.convs.3."),
    (r"skip\.1\.", "skip.conv."),
    (r"conv\.convz\.0\.", "expand."),
    (r"conv\.convz\.2\.", "depthwise."),
    (r"mu\.conv_0\.", "shift."),
)

#: Layers of a widening cell, counted from its first batch norm; one that doubles the sides has one more before it.
WIDENING = {
    (0, "bn"): "norm_in",
    (1, "conv.0"): "expand",
    (1, "conv.1"): "norm_expand",
    (2, "conv.0"): "depthwise",
    (2, "conv.1"): "norm_depthwise",
    (3, ""): "project",
    (4, "bn"): "norm_out",
}


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under the names of a :class:`~genfw.models.model.Model` of this plugin's parts.

    Copies of normalised weights, which the published layers keep as buffers, are left out.

    Arguments:
        tensors: The published state, name -> tensor.

    Raises:
        DataError: A name is none of NVAE's.
    """
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        if name.endswith(".weight_normalized"):
            continue
        ours = _name(name, tensors)
        if ours is None:
            unknown.append(name)
        else:
            state[ours] = tensor
    if unknown:
        raise DataError(
            f"{len(unknown)} tensors are none of a published NVAE's, the first is '{unknown[0]}'; "
            "only the residual depthwise architecture (res_mbconv) can be read"
        )
    return state


def _name(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    for pattern, ours in PARTS:
        match = re.match(pattern, name)
        if match is None:
            continue
        head, rest = match.expand(ours), name[match.end() :]
        if rest.startswith("_ops.0.conv."):
            inner = _inverted(rest.removeprefix("_ops.0.conv."), name[: match.end()], tensors)
            if inner is None:
                return None
            rest = inner
        else:
            for before, after in LAYERS:
                rest = re.sub(f"^{before}", after, rest)
        return (head + rest).replace("log_weight_norm", "log_norm")
    return None


def _inverted(rest: str, part: str, tensors: Mapping[str, Tensor]) -> str | None:
    offset = 0 if f"{part}_ops.0.conv.0.bn.weight" in tensors else 1
    match = re.fullmatch(r"(\d)\.(?:(bn|conv\.\d)\.)?(\w+)", rest)
    if match is None:
        return None
    layer = WIDENING.get((int(match[1]) - offset, match[2] or ""))
    return None if layer is None else f"{layer}.{match[3]}"


def arguments(args: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Constructor arguments of ``prior``, ``decoder`` and ``encoder`` that a published record of arguments stands for.

    Arguments:
        args: The record; a field that older checkpoints lack has its published default.

    Raises:
        DataError: The record asks for what this plugin has not got, or lacks a field it must have.
    """
    if args.get("arch_instance", "res_mbconv") != "res_mbconv":
        raise DataError(
            f"only architecture 'res_mbconv' can be read, the checkpoint has '{shown(args['arch_instance'])}'"
        )
    if args["num_preprocess_blocks"] != args["num_postprocess_blocks"]:
        raise DataError("a checkpoint with unlike numbers of blocks before and after the latents can't be read")
    gate = bool(args.get("use_se", False))
    binary = args["dataset"] in ("mnist", "omniglot", "stacked_mnist")
    mixtures = int(args.get("num_mixture_dec", 10))
    bits = int(args.get("num_x_bits", 8))
    if not 1 <= bits <= 16:
        raise DataError(f"pixels of {shown(bits)} bits can't be read")
    likelihood = "bernoulli" if binary else "mixture" if mixtures > 1 else "gaussian"
    return {
        "prior": {
            "channels": args["num_channels_dec"],
            "scales": args["num_latent_scales"],
            "groups": args["num_groups_per_scale"],
            "ada_groups": bool(args.get("ada_groups", False)),
            "min_groups": args.get("min_groups_per_scale", 1),
            "latent_channels": args["num_latent_per_group"],
            "cells": args["num_cell_per_cond_dec"],
            "blocks": args["num_preprocess_blocks"],
            "gate": gate,
        },
        "decoder": {
            "likelihood": likelihood,
            "mixtures": mixtures if likelihood == "mixture" else 10,
            "levels": 2**bits,
            "postprocess_cells": args["num_postprocess_cells"],
            "gate": gate,
        },
        "encoder": {
            "channels": args["num_channels_enc"],
            "cells": args["num_cell_per_cond_enc"],
            "preprocess_cells": args["num_preprocess_cells"],
            "residual": bool(args.get("res_dist", False)),
            "flows": args.get("num_nf", 0),
            "gate": gate,
        },
    }


def read(tensors: Mapping[str, Tensor], args: Mapping[str, Any]) -> Conversion:
    """The three parts of a published checkpoint, and the recipe's blocks they fit.

    Arguments:
        tensors: Every tensor of the file by its path; the network's begin with ``state_dict.``, unless another is
            picked.
        args: The file's argument record.

    Raises:
        DataError: A name is none of NVAE's, the record lacks what describes the network, or there are several networks.
    """
    # Copies of normalised weights are not read at all, and so told of as unused.
    places = [name.removesuffix("prior_ftr0") for name in tensors if f".{name}".endswith(".prior_ftr0")]
    place = choose(tensors, places, "NVAE", default="state_dict.") or "state_dict."
    kept = [name for name in tensors if name.startswith(place) and not name.endswith(".weight_normalized")]
    state = {name.removeprefix(place): tensors[name] for name in kept}
    if not state:
        return Conversion({}, {})
    try:
        blocks = arguments(args)
    except KeyError as error:
        raise DataError(f"the checkpoint's argument record has no {error}; an NVAE's says how it was built") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"the checkpoint's argument record is no NVAE's: {shown(str(error))}") from error
    return Conversion(convert(state), {role: {"use": "nvae", **block} for role, block in blocks.items()})
