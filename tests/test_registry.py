"""The registry: what every component must bring, and how plugins get in."""

from __future__ import annotations

import pytest

from bench import registry
from bench.environment import plugins
from bench.errors import UserError
from bench.registry import entries, get, register

ALL = [(kind, name) for kind in ("method", "target", "metric") for name in entries(kind)]


@pytest.mark.parametrize("kind, name", ALL)
def test_every_component_says_what_it_is_and_where_it_comes_from(kind, name):
    entry = get(kind, name)
    assert len(entry.description) > 15 and "\n" not in entry.description
    assert len(entry.source) > 5
    assert entry.version >= 1
    assert all(p.annotation is not None for p in entry.parameters.values())


def test_unknown_name_lists_the_choices_and_guesses():
    with pytest.raises(UserError, match="did you mean 'meanfield'.*choose from: .*meanfield"):
        get("method", "meanfeild")


def test_a_hyper_parameter_needs_a_default_and_a_name_belongs_to_one_class():
    with pytest.raises(ValueError, match="'width' needs a default"):

        @register("method", "widthless", source="nobody")
        class Widthless:
            """No default."""

            def __init__(self, target, *, width: int):
                pass

    with pytest.raises(ValueError, match="already registered"):

        @register("method", "meanfield", source="nobody")
        class Impostor:
            """Takes a name that is taken."""


def test_a_package_registers_through_the_entry_point(monkeypatch):
    """The module an entry point names is loaded by ``discover`` like our own."""

    class Point:
        def load(self):
            @register("metric", "from_a_package", source="a package")
            class FromAPackage:
                """A metric that lives elsewhere."""

    monkeypatch.setattr(registry, "_ENTRIES", {kind: dict(found) for kind, found in registry._ENTRIES.items()})
    monkeypatch.setattr(registry, "_discovered", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "sivibench.plugins" else [])
    assert get("metric", "from_a_package").source == "a package"


def test_a_hyper_parameter_must_be_keyword_only():
    with pytest.raises(ValueError, match="put `\\*` before 'lr'"):

        @register("method", "positional", source="made up")
        class Positional:
            """Takes its rate by position."""

            def __init__(self, target, lr: float = 0.1): ...


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef f(:\n", "line 2"),
        ("\n\nraise RuntimeError('no')\n", "line 3"),
        ("from bench.registry import register\n\nregister('method', 'ksivi', source='me')(dict)\n", "line 3"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_says_where(tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match="broken.py cannot be loaded") as problem:
        registry._import_file(path)
    assert said in str(problem.value)


def test_a_plugin_that_was_refused_is_not_taken_as_loaded(tmp_path, stub_registry):
    path = tmp_path / "half.py"
    known = (
        "from bench.registry import register\n@register('method', 'half', source='nobody')\nclass Half:\n    'None.'\n"
    )
    path.write_text(known + "from bench.errors import UserError\nraise UserError('no licence')\n")
    for _ in range(2):
        with pytest.raises(UserError, match="no licence"):
            registry._import_file(path)
        assert "half" not in entries("method")
    path.write_text(known)
    registry._import_file(path)
    assert "half" in entries("method")


def test_a_plugin_path_that_is_no_file_says_so(monkeypatch):
    monkeypatch.setenv("SIVIBENCH_PLUGINS", "/nowhere/at_all.py")
    monkeypatch.setattr(registry, "_discovered", False)
    with pytest.raises(UserError, match="not a file"):
        registry.discover()


def test_a_plugin_that_is_no_python_says_so(tmp_path):
    (tmp_path / "README.md").write_text("# not code")
    with pytest.raises(UserError, match="not a Python file"):
        registry._import_file(tmp_path / "README.md")


def test_plugins_of_one_name_in_two_folders_are_both_loaded(tmp_path, stub_registry):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        plugin = tmp_path / str(number) / "mine.py"
        source = f"@register('method', 'mine_{number}', source='nobody')\nclass Mine{number}:\n    'It does nothing.'\n"
        plugin.write_text("from bench.registry import register\n" + source)
        registry._import_file(plugin)
    assert {"mine_1", "mine_2"} <= entries("method").keys()
    assert plugins(*(entries("method")[name].obj for name in ("mine_1", "mine_2"))).keys() == {"1/mine.py", "2/mine.py"}
    assert plugins(entries("method")["mine_1"].obj).keys() == {"mine.py"}
