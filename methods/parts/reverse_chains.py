"""HMC chains on the reverse conditional q(z | x) of a Gaussian semi-implicit family: the inner loop of UIVI.

A step has (burn_in + samples) * leapfrog small gradients, one after the other.  On a CPU and in float32 all of them are
one fused pass (``methods.native.reverse_chains``) where mu is a ReLU network, with the same draws and the same numbers
to float rounding; a traced program then holds one node, however many there are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.checks import require_positive
from methods.base import Noise
from methods.native import reverse_chains as native
from methods.native.batched import require_one_dtype, with_seeds
from methods.parts import hmc
from methods.parts.relu_mlp import native_layers


def average_mean(
    net: nn.Module,
    sigma: Tensor,
    x: Tensor,
    z: Tensor,
    step: Tensor,
    noise: Noise,
    *,
    burn_in: int,
    samples: int,
    leapfrog: int,
    accept: float,
) -> tuple[Tensor, Tensor]:
    """Estimates E mu(z') over z' ~ q(z' | x) with one chain for each x; no gradients.

    Args:
        net: mu, [n, k] -> [n, d].
        sigma: standard deviation of q(x | z), [d].
        x: [n, d].
        z: where the chains start, [n, k].
        step: step size of the first transition, a scalar.
        burn_in: transitions thrown away, after each of which the step size is adapted.
        samples: transitions averaged over.
        leapfrog: leapfrog steps per transition.
        accept: acceptance probability that the adaptation aims at.

    Returns:
        The averages, [n, d], and the adapted step size.

    Raises:
        UserError: without samples or leapfrog steps.
        ValueError: arguments of different precision or of other shapes.
    """
    require_positive(samples=samples, leapfrog=leapfrog)
    sigma, x, z, step = sigma.detach(), x.detach(), z.detach(), step.detach()
    if chains_backend(net, z) == "fused":
        draws = [(noise.normal(*z.shape), noise.uniform(len(z))) for _ in range(burn_in + samples)]
        momenta, uniforms = (torch.stack(each) for each in zip(*draws, strict=True))
        require_one_dtype(z=z, sigma=sigma, x=x, step=step, momenta=momenta, uniforms=uniforms)
        parameters = _parameters(net, z)
        d = len(parameters[-1])
        if (sigma.shape, x.shape, step.shape) != ((d,), (len(z), d), ()):
            raise ValueError(
                f"sigma {sigma.shape}, x {x.shape} and step {step.shape} do not fit z {z.shape} and d = {d}"
            )
        tensors = [t.unsqueeze(0) for t in (sigma, x, z, momenta, uniforms, step, *parameters)]
        mean, step = _fused(tensors, burn_in, leapfrog, accept)
        return mean.squeeze(0), step.squeeze(0)

    constant = {name: p.detach() for name, p in net.named_parameters()}

    def mu(z: Tensor) -> Tensor:
        out: Tensor = functional_call(net, constant, (z,))
        return out

    def reverse(z: Tensor) -> Tensor:
        """log q(z) + log q(x | z), up to a constant."""
        return -0.5 * (z.square().sum(-1) + ((x - mu(z)) / sigma).square().sum(-1))

    chain = hmc.start(reverse, z)
    for _ in range(burn_in):
        chain, accepted = hmc.transition(reverse, chain, step, noise, leapfrog)
        step = hmc.adapted(step, accepted, target=accept)
    total = torch.zeros_like(x)
    for _ in range(samples):
        chain, _ = hmc.transition(reverse, chain, step, noise, leapfrog)
        total = total + mu(chain.z)
    return total / samples, step


def chains_backend(net: nn.Module, z: Tensor) -> Literal["fused", "torch"]:
    """Which implementation chains of this network with states like z [n, k] take; also for the run record."""
    return "fused" if native_layers(net, z) is not None and native.LIBRARY.get() is not None else "torch"


def _parameters(net: nn.Module, z: Tensor) -> list[Tensor]:
    """Weights, then biases."""
    linear = native_layers(net, z)
    assert linear is not None, "callers ask chains_backend() first"
    return [*(m.weight.detach() for m in linear), *(m.bias.detach() for m in linear)]


@torch.library.custom_op("sivibench::reverse_chains", mutates_args=())
def _fused(tensors: list[Tensor], burn_in: int, leapfrog: int, accept: float) -> list[Tensor]:
    """All seeds: sigma, x, z, momenta, uniforms, step sizes, then weights and biases; -> averages, step sizes."""
    state, parameters = tensors[:6], tensors[6:]
    layers = len(parameters) // 2
    mean, step = native.run(state, parameters[:layers], parameters[layers:], burn_in, leapfrog, accept, hmc.RATE)
    return [mean, step]


@_fused.register_fake
def _(tensors, burn_in, leapfrog, accept):
    return [torch.empty_like(tensors[i], memory_format=torch.contiguous_format) for i in (1, 5)]


@_fused.register_vmap
def _(info, in_dims, tensors, burn_in, leapfrog, accept):
    batched = [t.flatten(0, 1) for t in with_seeds(info, in_dims[0], tensors)]
    found = _fused(batched, burn_in, leapfrog, accept)
    return [t.unflatten(0, (info.batch_size, -1)) for t in found], [0, 0]
