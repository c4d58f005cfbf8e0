"""Hierarchical KSIVI: a kernel Stein discrepancy for every layer."""

from __future__ import annotations

from torch import Tensor

from bench.registry import register
from methods.base import Clock
from methods.parts.bridge_layers import BridgeLayers
from methods.parts.kernels import Bandwidth, Kernel, require_usable
from methods.parts.options import with_options_of
from methods.parts.stein import stein_backend, stein_discrepancy
from targets.base import Target


@register("method", "hksivi", source="after the multi-layer extension announced in arXiv:2601.12023 (abstract)")
class HKSIVI(BridgeLayers):
    """Layered KSIVI: layer t minimises KSD^2(q(x_t), p_t) with f = s_{p_t}(x_t) - s_{q(. | x_{t+1})}(x_t).

    Only the abstract of the journal version was at hand, so this is the extension that KSIVI (arXiv:2405.18997) and
    HSIVI (arXiv:2310.17153) suggest; with one layer, ``residual=false`` and KSIVI's ``log_var_min`` it is KSIVI with as
    many noise dimensions as x has.

    Args:
        kernel: as in KSIVI.
        bandwidth: as in KSIVI.
    """

    paper_name = "HKSIVI"
    cheap = {"batch": 32, "layers": 2, "hidden": (16,)}

    @with_options_of(BridgeLayers)
    def __init__(
        self, target: Target, *, kernel: Kernel = "gaussian", bandwidth: Bandwidth = "exact", **options: object
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_usable(kernel, target.dim)
        self.kernel, self.bandwidth = kernel, bandwidth

    @property
    def rows(self) -> int:
        return 2 * self.batch

    def operations(self) -> dict[str, str]:
        parameter = next(self.parameters())
        return {"stein_pairs": stein_backend(parameter.device, parameter.dtype)}

    def divergence(self, i: int, x: Tensor, u: Tensor, xi: Tensor, p: Target, clock: Clock) -> Tensor:
        """KSD^2 of layer i from two batches."""
        f, N = p.score(x) + u, self.batch
        return stein_discrepancy(x[:N], x[N:], f[:N], f[N:], kernel=self.kernel, bandwidth=self.bandwidth)
