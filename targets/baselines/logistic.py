"""What the published scripts compute, for the speed baseline only: the logistic score by an [N, B, d] broadcast."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.registry import register
from targets.blr import LogisticRegression


def _logistic_score(target: LogisticRegression, x: Tensor) -> Tensor:
    """Sum over data of weight times row through an [N, B, d] array, then the prior; [B, d] -> [B, d]."""
    weights = torch.sigmoid(-(target.signed_design @ x.T))
    likelihood = (weights.unsqueeze(2) * target.signed_design.unsqueeze(1)).sum(0)
    return likelihood - target.prior_precision * x


for _name in ("blr_waveform", "blr_breast_cancer"):
    register("baseline", _name, source="longinYu/KSIVI, SIVISM: score of the logistic target by broadcasting")(
        _logistic_score
    )
