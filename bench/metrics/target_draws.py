"""What q says of draws of p: their negative log likelihood, and the forward KL divergence that follows from it."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.log_q import exact_log_q, log_q
from bench.metrics.reasons import implicit
from bench.registry import register
from methods.base import Method
from targets.base import Target, Unsupported


def _reason(method: Method, target: Target) -> str | None:
    if "sample" not in target.provides:
        return "the target has no exact sampler"
    if target.original() is not target:
        return "the target is reparametrised: q and the exact draws are in different coordinates"
    return implicit(method)


def _log_p(q: Fitted, x: Tensor) -> Tensor:
    assert q.target.log_z is not None
    return q.target.log_prob(x).double() - q.target.log_z


@register("metric", "nll_target_draws", source="Pielok et al. 2025, arXiv:2506.05088, Table 3")
class NLLTargetDraws(Metric):
    """Mean of -log q over 100,000 exact draws of p, q a mixture over 100,000 draws of z (nats).

    Less p's entropy it is the forward KL divergence: nothing can be below the entropy but by noise.  The floor is p in
    place of q, the Monte Carlo entropy over the same draws (the papers' row "DGP"); None where p's normaliser is
    unknown.  Dominated by draws of p where q is thin: its mean over seeds has heavy tails.

    Args:
        n: draws of p.
        latents: draws of z behind log q of a semi-implicit family; families with a density use that.
    """

    unit: ClassVar[str] = "nats"
    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("nll_target_draws", "nll-100k"),)
    floor_is_noise: ClassVar[bool] = False

    def __init__(self, *, n: int = 100_000, latents: int = 100_000) -> None:
        self.n, self.latents = n, latents

    def applies(self, method: Method, target: Target) -> str | None:
        return _reason(method, target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        x = q.truth(self.n, "nll draws")
        floor = None if q.target.log_z is None else float(-_log_p(q, x).mean())
        return Value(float(-log_q(q, x, self.latents, "nll latents").mean()), floor)


@register("metric", "kl_forward_mc", source="Pielok et al. 2025, arXiv:2506.03839, Table 1")
class KLForwardMC(Metric):
    """KL(p || q) = E_p[log p - log q] over 100,000 exact draws of p, q a mixture over 40,960 draws of z (nats).

    Above the divergence of the true q by the finite mixture, which is thin where few z lead.  The floor is the Monte
    Carlo error of the value: the standard error over the draws of p and, for a mixture, half the difference between the
    two halves of its latents.

    Args:
        n: draws of p.
        latents: draws of z behind log q of a semi-implicit family; families with a density use that.
    """

    unit: ClassVar[str] = "nats"
    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("kl_forward", "fkl-100k"),)

    def __init__(self, *, n: int = 100_000, latents: int = 40_960) -> None:
        self.n, self.latents = n, latents

    def applies(self, method: Method, target: Target) -> str | None:
        return "the target's normaliser is not known" if target.log_z is None else _reason(method, target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        x = q.truth(self.n, "kl draws")
        found, between = exact_log_q(q, x), 0.0
        if found is None:
            if self.latents < 2 or self.latents % 2:
                raise Unsupported("the number of latents must be even: the floor compares its halves")
            halves = [log_q(q, x, self.latents // 2, f"kl latents {half}") for half in (0, 1)]
            found = torch.logaddexp(*halves) - math.log(2)
            between = float((halves[0] - halves[1]).mean()) / 2
        ratio = _log_p(q, x) - found
        return Value(float(ratio.mean()), math.hypot(between, float(ratio.std()) / math.sqrt(self.n)))
