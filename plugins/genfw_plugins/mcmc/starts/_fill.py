"""Complete positions that hold the latent groups alone."""

from __future__ import annotations

import torch
from torch import Tensor

from genfw import ContractError, StartRequest


def with_fresh_x(request: StartRequest, latent: Tensor, who: str) -> Tensor:
    r"""Positions that fit the request: the latent groups as given, the decoder's noise ``x`` fresh where there is
    any.

    Arguments:
        request: What is asked for.
        latent: Noise of the latent groups :math:`(B, D_z)`, or whole positions :math:`(B, D)`.
        who: Name of the start, for the message.

    Raises:
        ContractError: The sizes fit neither.
    """
    layout = request.target.layout
    if latent.shape == (request.count, layout.size) and layout.names != ("x",):
        return latent
    width = sum(group.size for group in layout.groups if group.name != "x")
    if latent.shape != (request.count, width) or width == 0:
        raise ContractError(
            f"start '{who}' gives positions of shape {tuple(latent.shape)}, and the chains need {request.count} with "
            f"the groups {', '.join(f'{group.name} {group.shape}' for group in layout.groups)}"
        )
    noise = torch.randn(
        request.count,
        layout.size - width,
        generator=request.generator,
        device=latent.device,
        dtype=latent.dtype,
    )
    return torch.cat([latent, noise], dim=1)
