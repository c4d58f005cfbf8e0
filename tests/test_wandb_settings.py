"""What the mirror decides without the client: modes, keys, rows, what counts as delivered."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.config import compose
from bench.errors import UserError
from bench.mirror import content, ledger
from bench.mirror.access import has_key, resolve, server
from bench.mirror.figures import figures
from bench.mirror.options import wandb_settings
from bench.store import Store
from stubs import PAIR, record_of

pytestmark = pytest.mark.usefixtures("stub_registry")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WANDB_CONFIG_DIR", raising=False)
    return tmp_path


def test_the_mode_is_offline_without_a_key_and_online_with_one(home, monkeypatch):
    assert compose(PAIR).wandb["mode"] == "auto"
    assert resolve("auto") == ("offline", None)
    mode, remark = resolve("online")
    assert mode == "offline" and "no key for https://api.wandb.ai" in remark
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert resolve("auto") == resolve("online") == ("online", None)
    assert resolve("offline") == ("offline", None)


def test_a_key_of_another_server_is_none_for_this_one(home, monkeypatch):
    (home / ".netrc").write_text("machine wandb.example.org login user password " + "k" * 40 + "\n")
    (home / ".netrc").chmod(0o600)
    assert not has_key()
    settings = home / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nbase_url = https://wandb.example.org/\n")
    assert (server(), has_key()) == ("https://wandb.example.org", True)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1234")
    assert (server(), has_key()) == ("http://127.0.0.1:1234", False)


def test_the_environment_sets_the_default_and_no_setting_enters_the_identity(monkeypatch):
    plain = compose(PAIR)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    other = compose([*PAIR, "wandb.project=else", "wandb.wait=3", "wandb.artifacts=true"])
    assert other.wandb == {"mode": "disabled", "project": "else", "entity": "team", "artifacts": True, "wait": 3.0}
    assert other.config_id == plain.config_id
    assert wandb_settings(["wandb.project=else", "wandb.wait=3", "wandb.artifacts=true"]) == other.wandb


@pytest.mark.parametrize("override", ["wandb.mode=later", "wandb.wait=-1", "wandb.nope=1"])
def test_wrong_settings_are_refused(override):
    with pytest.raises(UserError, match=override.split("=")[0]):
        compose([*PAIR, override])
    with pytest.raises(UserError):
        wandb_settings([override])


def test_settings_that_cannot_be_read_are_refused():
    with pytest.raises(UserError, match="keys of wandb"):
        wandb_settings(["wandb.project=[a"])


def test_rows_join_losses_and_metrics_by_step_and_leave_out_what_is_not_known():
    curve = {
        "loss": {"q": {"step": [1, 2, 4], "value": [0.5, None, math.nan]}, "f": {"step": [1, 4], "value": [7, 8]}},
        "metrics": {"ks": {"step": [3, 4], "value": [0.25, 0.125], "protocol": "p"}},
    }
    assert content.rows(curve) == [
        (1, {"loss/q": 0.5, "loss/f": 7.0}),
        (3, {"metric/ks": 0.25}),
        (4, {"loss/f": 8.0, "metric/ks": 0.125}),
    ]


def test_a_failed_run_shows_its_error_and_needs_no_curves():
    config = compose(PAIR)
    record = record_of(config, 0, "failed") | {"error": "Traceback ...\nValueError: no luck"}
    assert content.rows(record["curve"]) == [] and figures(record) == {}
    shown = content.summary(record)
    assert shown["status"] == "failed" and shown["error"].endswith("no luck")
    assert content.table(record | {"skipped_metrics": {"ks": "why"}})[1] == [["ks", None, None, None, "why"]]


def test_delivered_means_this_record_at_this_place(tmp_path):
    store, record = Store(tmp_path), record_of(compose(PAIR), 0)
    digest = content.digest(record)
    entry = ledger.Entry(record["run_id"], digest, "offline", "here", 101, "offline-run-x")

    def delivered(entry, mode="offline", place="here", record=digest):
        return ledger.delivered(store.artifacts, entry, record=record, mode=mode, place=place)

    assert not delivered(None)
    assert not delivered(entry)  # its folder has been deleted
    folder = store.artifacts / "wandb" / "offline-run-x"
    folder.mkdir(parents=True)
    (folder / "run-x.wandb").touch()
    assert delivered(entry) and not delivered(entry, mode="online")
    ledger.mark_synced(store.artifacts, entry.folder)
    assert delivered(entry, mode="online")
    online = replace(entry, mode="online", folder=None)
    assert delivered(online) and delivered(online, mode="online")
    assert not delivered(online, place="there") and not delivered(online, record=content.digest(record | {"seed": 1}))
    ledger.write(store.artifacts, online)
    assert ledger.read(store.artifacts, record["run_id"]) == online and ledger.read(store.artifacts, "other") is None
