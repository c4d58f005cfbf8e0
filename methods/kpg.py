"""KPG: semi-implicit VI along a kernel-smoothed path gradient (Pielok et al. 2025, arXiv:2506.05088)."""

from __future__ import annotations

from torch import Tensor

from bench.registry import register
from methods.base import Clock, Noise
from methods.parts.directed import Directed
from methods.parts.families import anneal
from methods.parts.stein import stein_backend, stein_discrepancy


@register("method", "kpg", source="Pielok et al. 2025, arXiv:2506.05088; settings of the 2-D experiments of its code")
class KPG(Directed):
    """Kernel path gradient: the reverse KL's path gradient with a kernel-smoothed score difference.

        Delta_k(x) = E_{(x', z')}[k(x, x') (s_c(x' | z') - s_p(x'))],   direction E[Delta_k(x) grad_phi x]

    In the mean -Delta_k is the direction of amortised SVGD, and a step descends along Delta_k.  It is estimated on a
    second batch and held constant, so that a step differentiates neither the target's score nor the kernel.  (The code
    sums over x'; the mean here gives Adam the same step.)

    Args:
        batch: N, rows of each of the two batches; N target evaluations per step.
    """

    paper_name = "KPG"

    def operations(self) -> dict[str, str]:
        log_var = self.q.log_var
        return {"stein_pairs": stein_backend(log_var.device, log_var.dtype)}

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """(1 / N^2) sum_ji k(x_j, x'_i) <s_c - s_p at x'_i, x_j>, constant but for the last x_j.

        It has the form of the Stein pair block with x_j in the place of one of its two vectors.
        """
        x, _ = self.q.draw(self.batch, noise)
        y, u = (t.detach() for t in self.q.draw(self.batch, noise))
        f = anneal(clock, self.anneal) * self.target.subsample(noise).score(y) + u
        return -stein_discrepancy(x.detach(), y, x, f.detach(), kernel="gaussian", bandwidth=self.bandwidth)
