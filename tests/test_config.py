"""Composition, identity and the messages for everything that can be given wrongly."""

from __future__ import annotations

import hashlib
import importlib
import shutil

import pytest
from hydra.core.global_hydra import GlobalHydra

from bench import registry
from bench.config import CONF, Unfit, build_method, build_target, compose
from bench.config.identity import config_id
from bench.config.overrides import tuned_file
from bench.errors import UserError
from stubs import PAIR

pytestmark = pytest.mark.usefixtures("stub_registry")


def test_defaults_come_from_the_signatures():
    config = compose(PAIR)
    assert config.method == {
        "name": "stub_plain",
        "version": 1,
        "lr": 1.0,
        "batch": 10,
        "hidden": [5, 5],
        "mode": "a",
        "clip": None,
        "flag": False,
    }
    assert config.target == {"name": "stub_gauss", "version": 3, "scale": 1.0}
    assert config.train == {"iterations": 10000, "dtype": "float32", "processes": 1}
    assert config.seeds == [0] and config.results == "results"
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("kind", ["method", "target"])
def test_every_registered_component_can_be_composed(kind, monkeypatch):
    monkeypatch.undo()  # the real registry
    other = {"method": "target", "target": "method"}[kind]
    partner = next(iter(registry.entries(other)))
    for name in registry.entries(kind):
        assert compose([f"{kind}={name}", f"{other}={partner}"]).identity[kind]["name"] == name


def test_the_shipped_defaults_compose(monkeypatch):
    monkeypatch.undo()
    assert compose().config_id


def test_identity_ignores_the_runtime_and_the_spelling_of_numbers():
    base = compose(PAIR).config_id
    for same in (["method.lr=1"], ["method.lr=1.0"], ["seeds=5"], ["device=cpu"], ["paths.results=x"], ["threads=2"]):
        assert compose(PAIR + same).config_id == base, same
    for other in (["method.lr=2"], ["train.iterations=5"], ["eval.samples=1"], ["target.scale=2"], ["method.clip=1"]):
        assert compose(PAIR + other).config_id != base, other
    assert compose(PAIR).run_id(3) == f"{base}-s3"


def test_an_identity_is_its_canonical_text_whatever_the_order_of_its_keys():
    text = b'{"method":{"lr":0.1,"name":"a"},"train":{"iterations":5}}'
    for values in (
        {"method": {"name": "a", "lr": 0.1}, "train": {"iterations": 5}},
        {"train": {"iterations": 5}, "method": {"lr": 0.1, "name": "a"}},
    ):
        assert config_id(values) == hashlib.sha256(text).hexdigest()[:10]


def test_versions_enter_the_identity(monkeypatch):
    before = compose(PAIR).config_id
    monkeypatch.setattr(registry.get("method", "stub_plain").obj, "version", 2)
    assert compose(PAIR).config_id != before


def test_objects_are_built_with_tuples():
    config = compose([*PAIR, "method.hidden=[7]", "target.scale=2"])
    target = build_target(config)
    assert target.scale == 2.0
    assert build_method(config, target).hidden == (7,)


def test_needs_are_checked_before_anything_runs():
    config = compose(["method=stub_hungry", "target=stub_gauss"])
    with pytest.raises(Unfit, match="needs noised, which target 'stub_gauss' does not provide"):
        build_method(config, build_target(config))


def test_tuned_file_of_the_chosen_pair_applies_and_the_command_line_wins(tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    text = "# @package _global_\nmethod:\n  batch: 77\ntrain:\n  iterations: 5\n"
    (conf / "tuned" / "stub_plain_stub_other.yaml").write_text(text)
    for module in ("bench.config.compose", "bench.config.overrides"):
        monkeypatch.setattr(importlib.import_module(module), "CONF", conf)
    assert compose(PAIR).method["batch"] == 10
    other = ["method=stub_plain", "target=stub_other"]
    tuned = compose(other)
    assert (tuned.method["batch"], tuned.train["iterations"]) == (77, 5)
    assert compose([*other, "train.iterations=8"]).train["iterations"] == 8
    assert compose([*other, "tuned=none"]).method["batch"] == 10
    assert tuned_file("stub_plain", "stub_other", other) == conf / "tuned" / "stub_plain_stub_other.yaml"
    assert tuned_file("stub_plain", "stub_gauss", PAIR) is None
    assert tuned_file("stub_plain", "stub_other", [*other, "tuned=none"]) is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=stub_plane"], ["unknown method 'stub_plane'", "did you mean 'stub_plain'"]),
        (["target=nope"], ["unknown target 'nope'", "choose from: stub_gauss, stub_other"]),
        (["method.bach=1"], ["unknown key 'method.bach'", "did you mean method.batch", "lr, batch, hidden"]),
        (["train.steps=1"], ["unknown key 'train.steps'", "iterations, dtype"]),
        (["sedes=1"], ["unknown key 'sedes'", "did you mean seeds"]),
        (
            ["results=x"],
            ["unknown key 'results' in 'results=x'", "did you mean --results DIR (as a key: paths.results)"],
        ),
        (["dtype=float64"], ["unknown key 'dtype'", "did you mean train.dtype? "]),
        (["eval.batch=1"], ["unknown key 'eval.batch'", "did you mean method.batch? "]),
        (["train.seeds=1"], ["unknown key 'train.seeds'", "did you mean seeds or launcher.seeds? "]),
        (["iteration=1"], ["unknown key 'iteration'", "did you mean train.iterations? "]),
        (["train=nope"], ["unknown train 'nope'", "default"]),
        (["tuned=nope"], ["unknown tuned configuration 'nope'"]),
        (["method.batch=many"], ["wrong type in 'method.batch=many'", "expects int"]),
        (["method.batch=1.5"], ["wrong type in 'method.batch=1.5'", "expects int"]),
        (["method.hidden=[1,x]"], ["wrong type", "tuple[int, ...]"]),
        (["train.iterations=null"], ["wrong type", "expects int"]),
        (["method.mode=c"], ["method.mode=c is not a choice", "a, b"]),
        (["method.lr=inf"], ["method.lr=inf is not a finite number"]),
        (["train.iterations=0"], ["train.iterations=0 is too small", "at least 1"]),
        (["train.dtype=float16"], ["train.dtype=float16", "float32, float64"]),
        (["seeds=0"], ["asks for no seed"]),
        (["seeds=-2"], ["asks for no seed"]),
        (["seeds=[1,-2]"], ["negative seed -2"]),
        (["seeds=[1,1]"], ["names 1 twice"]),
        (["seeds=few"], ["neither a whole number nor a list"]),
        (["device=tpu"], ["unknown device 'tpu'", "cpu"]),
        (["threads=0"], ["threads=0 is too small"]),
        (["eval.metrics=[nope]"], ["unknown metric 'nope'"]),
        (["eval.metrics=[nope,nope]"], ["eval.metrics names nope twice"]),
        (["checkpoint_seconds=nan"], ["checkpoint_seconds=nan is too small"]),
        (["method.lr"], ["cannot read the override 'method.lr'", "there is no '=' in it", "key=value"]),
        (["method.lr=2 method.mode='a"], ["cannot read the override", "the quote ' is not closed"]),
        (["method.lr method.mode=a"], ["cannot read the override", "unexpected ' ' (character 10)"]),
        (["method.hidden=[1,2"], ["cannot read the override", "a bracket is not closed"]),
        (["method.hidden=[1,2]]"], ["cannot read the override", "unexpected ']'"]),
        (["method.lr=1=2"], ["cannot read the override", "unexpected '='"]),
        (["seeds=1,"], ["cannot read the override 'seeds=1,'", "it ends too early"]),
        (["seeds=nope(1)"], ["cannot read the override", "Unknown function 'nope'"]),
        (["=3"], ["'=3' names no key"]),
        (["train=3"], ["'train=3' names no train configuration", "choose from: default"]),
        (["eval=null"], ["'eval=null' names no eval configuration", "choose from: default"]),
        (["method.lr=1,2"], ["asks for several values", "sivibench sweep"]),
        (["+method.new=1"], ["adds or deletes a key"]),
        (["method.name=x"], ["method.name cannot be set", "method=x"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else None,
)
def test_mistakes_are_named(overrides, words):
    with pytest.raises(UserError) as caught:
        compose(PAIR + overrides)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert len(message.splitlines()) <= 2 and "Traceback" not in message
