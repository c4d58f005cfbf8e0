"""What the published scripts compute, for the speed baseline only: the logistic score by an [N, B, d] broadcast."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.registry import register
from targets.base import Target


def _logistic_score(target: Target, x: Tensor) -> Tensor:
    """sum_i y_i-signed x_i sigmoid(-x_i' beta) over an [N, B, d] array, then the prior; [B, d] -> [B, d]."""
    design = target.signed_design.unsqueeze(1)
    weights = torch.sigmoid(-(design * x.unsqueeze(0)).sum(-1, keepdim=True))
    return (weights * design).sum(0) - target.prior_precision * x


for _name in ("blr_waveform", "blr_breast_cancer"):
    register("baseline", _name, source="longinYu/KSIVI, SIVISM: score of the logistic target by broadcasting")(
        _logistic_score
    )
