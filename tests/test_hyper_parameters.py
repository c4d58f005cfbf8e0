"""Hyper-parameters that no method or target can mean are refused, over the registry."""

from __future__ import annotations

import math

import pytest

from bench import checks
from bench.errors import UserError
from bench.registry import entries
from toy_gaussian import Gaussian
from toy_images import ToyImages

AVERAGES = ("beta1", "beta2", "beta2_critic", "ema", "smoothing")
"""Decays of running averages: at 1 the average never leaves its first value."""

SHARES = ("anneal", "decay", "jump")
"""Parts of a whole and factors on the learning rate: 1 is a choice like others."""


def of(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(method, hyper-parameter) of those methods that have it as a number."""
    found = entries("method").items()
    return [
        (n, k)
        for n, e in sorted(found)
        for k in names
        if k in e.parameters and "float" in str(e.parameters[k].annotation)
    ]


def make(name: str, **values: float):
    method = entries("method")[name].obj
    return method(ToyImages() if "images" in method.needs else Gaussian(), **{**method.cheap, **values})


@pytest.mark.parametrize("name, key", of(AVERAGES))
def test_an_average_that_would_stand_still_is_refused(name, key):
    with pytest.raises(UserError, match=rf"method\.{key}=1\.0 must be at least 0 and below 1"):
        make(name, **{key: 1.0})
    make(name, **{key: 0.999})


@pytest.mark.parametrize("name, key", of(SHARES))
def test_the_whole_is_a_share(name, key):
    make(name, **{key: 1.0})
    with pytest.raises(UserError, match=rf"method\.{key}=-0\.5 must"):
        make(name, **{key: -0.5})


@pytest.mark.parametrize("name", sorted(entries("method")))
def test_no_size_or_count_is_negative(name):
    for key, parameter in entries("method")[name].parameters.items():
        if parameter.annotation in (int, tuple[int, ...]) and key != "times":  # which the grid checks
            with pytest.raises(UserError, match=rf"method\.{key}="):
                make(name, **{key: -1 if parameter.annotation is int else (-1,)})


@pytest.mark.parametrize(
    "name, values",
    [
        ("blr_breast_cancer", {"prior_precision": 0.0}),
        ("blr_breast_cancer", {"prior_precision": -1.0}),
        ("blr_breast_cancer_t", {"prior_precision": 0.0}),
        ("blr_breast_cancer_t", {"degrees": 0}),
        ("funnel", {"s": -3.0}),
        ("funnel", {"dim": 1}),
        ("laplace_scale_mixture", {"dim": 0}),
        ("linear_pair", {"s": 0.0}),
        ("linear_pair", {"s_x": -1.0}),
    ],
)
def test_a_target_that_is_no_density_is_refused(name, values):
    ((key, value),) = values.items()
    with pytest.raises(UserError, match=rf"target\.{key}={value} must be"):
        entries("target")[name].obj(**values)


@pytest.mark.parametrize(
    "name, key",
    [
        ("funnel", "parametrization"),
        ("linear_pair", "parametrization"),
        ("eight_schools", "parametrization"),
        ("gamma_1d", "coordinate"),
        ("cond_diffusion_d50", "drift"),
        ("celeba64", "crop"),
    ],
)
def test_a_word_that_is_no_choice_is_refused(name, key):
    """Direct construction too, of which no configuration has looked at the types."""
    with pytest.raises(UserError, match=rf"target\.{key}=centred is unknown"):
        entries("target")[name].obj(**{key: "centred"})


def test_degrees_are_whole():
    with pytest.raises(UserError, match=r"target\.degrees=2\.5 is not a whole number"):
        entries("target")["blr_breast_cancer_t"].obj(degrees=2.5)


def test_a_regulariser_needs_log_p():
    class ScoreOnly(Gaussian):
        provides = frozenset({"score"})

    method = entries("method")["ksivi"].obj
    with pytest.raises(UserError, match=r"method\.regulariser=1\.0"):
        method(ScoreOnly(), **{**method.cheap, "regulariser": 1.0})
    make("ksivi", regulariser=1.0)


@pytest.mark.parametrize(
    "name, values",
    [("ksivi", {"statistic": "ustat", "batch": 2}), ("svgd", {"particles": 2}), ("asvgd", {"batch": 2})],
)
def test_two_points_have_no_median_bandwidth(name, values):
    """The lower median of [0, D, D, 0] is 0: the discrepancy would vanish, and nothing repel."""
    with pytest.raises(UserError, match="=2"):
        make(name, **values)
    make(name, **{key: value if value != 2 else 3 for key, value in values.items()})


def test_levels_above_the_sampler_are_refused():
    with pytest.raises(UserError, match=r"method\.level_low=10 is not below the start of the sampler, 5"):
        make("cosim", grid="explicit", times=(0.0, 5.0), nfe=1, level_low=10.0)


def test_a_full_covariance_starts_where_entry_says():
    with pytest.raises(UserError, match="singular"):
        make("sivi", covariance="full", entry=0.0)
    with pytest.raises(UserError, match=r"method\.log_var with covariance=full"):
        make("sivi", covariance="full", log_var=-1.0)


@pytest.mark.parametrize(
    "name, values, given",
    [
        ("sivi", {"entry": 0.1}, "covariance=diagonal"),
        ("sivi", {"lr_scale": 0.1}, "covariance=diagonal"),
        ("sivi", {"learn_var": True, "covariance": "full"}, "covariance=full"),
        ("sivi", {"warm_lr": 0.1}, "warm_start=0"),
        ("ksivi", {"warm_lr": 0.1}, "warm_start=0"),
        ("ksivi", {"regulariser_until": 5}, "regulariser=0"),
        ("sivism", {"warm_lr": 0.1}, "warm_start=0"),
        ("sivism", {"rms_eps": 0.1}, "optimiser=adam"),
        ("sivism", {"beta1": 0.5, "optimiser": "rmsprop"}, "optimiser=rmsprop"),
        ("sivism", {"beta2_critic": 0.5, "optimiser": "rmsprop"}, "optimiser=rmsprop"),
        ("pvi", {"hidden": (3,), "kernel": "const"}, "kernel=const"),
        ("pvi", {"log_var": -1.0, "covariance": "network"}, "covariance=network"),
        ("vdm", {"lr_schedule": 0.1}, "interior=linear"),
        ("cosim", {"eta": (0.5,)}, "the sampler of CoSIM"),
        ("cosim", {"references": 5}, "draws=current"),
        ("sivism_trick", {"critic_warm_lr": 0.1}, "critic_warm=0"),
    ],
)
def test_an_option_that_another_makes_idle_is_refused(name, values, given):
    with pytest.raises(UserError, match=rf"method\.{next(iter(values))} with {given} has no effect"):
        make(name, **values)


@pytest.mark.parametrize("name", ["ksivi", "hksivi"])
def test_riesz_has_no_bandwidth_in_one_dimension(name):
    method, line = entries("method")[name].obj, entries("target")["gaussian_1d"].obj()
    with pytest.raises(UserError, match=r"method\.kernel=riesz in one dimension"):
        method(line, **{**method.cheap, "kernel": "riesz"})
    method(line, **{**method.cheap, "kernel": "imq"})
    make(name, kernel="riesz")


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (checks.require_positive, 1e-9, 0.0),
        (checks.require_not_negative, 0.0, -1e-9),
        (checks.require_fraction, 0.0, 1.0),
        (checks.require_share, 1.0, 1.1),
    ],
)
def test_checks_take_each_element_pass_what_is_not_given_and_refuse_nan(check, good, bad):
    check(a=good, b=None, c=(good, good), d=())
    for value in (bad, (good, bad), math.nan):
        with pytest.raises(UserError, match=r"target\.c="):
            check("target", a=good, c=value)


def test_the_least_value_is_allowed():
    checks.require_at_least(2, b=2, c=None)
    with pytest.raises(UserError, match=r"method\.b=1 must be at least 2"):
        checks.require_at_least(2, b=1)
