"""Exports of really trained cycles: each format loads with plain tools and has the same loss."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from click.testing import Result
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ares_coordinator.cli import app
from ares_coordinator.exports.gguf_adapter import interleave_halves, write_gguf_adapter
from ares_coordinator.exports.manifest import check_export
from ares_coordinator.preparation import load_rows
from ares_p2p.errors import (
    BadSignature,
    BaseUnsupported,
    ConfigFault,
    HashMismatch,
    PayloadMalformed,
    WrongSigner,
)
from ares_p2p.training.data import build_dataset
from ares_p2p.training.evaluate import example_losses
from ares_p2p.training.lora_spec import LoraSpec, layout_of_config, load_adapter
from ares_p2p.training.parameters import count_parameters
from ares_p2p.training.stack import Adapter, read_stack
from exportfixtures import BASE, ROLLED_BACK, ExportWorld, make_world
from payloads import identity

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CYCLE = 2  # the newest promoted one
SAME_LOSS = 1e-5  # nats a token: float32 sums in another order; the loss is about 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExportWorld:
    return make_world(tmp_path_factory.mktemp("coordinator"))


@pytest.fixture(scope="module")
def exported(world: ExportWorld) -> Path:
    run(world, "--format", "all")
    return world.files.export(CYCLE)


def invoke(world: ExportWorld, *arguments: str) -> Result:
    return CliRunner().invoke(
        app, ["export", *arguments, "--data-dir", str(world.folder)], catch_exceptions=False
    )


def run(world: ExportWorld, *arguments: str) -> str:
    result = invoke(world, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def loss_of(model: Any, world: ExportWorld, *, cycle: int = CYCLE) -> float:
    """Return the mean loss on the cycle's held-out rows, as the gate computes it."""
    dataset = build_dataset(
        AutoTokenizer.from_pretrained(BASE),
        (row.messages for row in load_rows(world.files, cycle, "eval")),
        sequence_length=world.settings.training.sequence_length,
    )
    return example_losses(model, dataset).mean


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


# --- the same loss ----------------------------------------------------------------------------


def test_training_did_something(world: ExportWorld) -> None:
    before = loss_of(plain(BASE), world)
    first = PeftModel.from_pretrained(plain(BASE), str(world.files.adapter(1)))
    # both cycles changed the loss by far more than the tolerances below
    assert before - loss_of(first, world) > 0.02
    assert abs(loss_of(first, world) - world.loss[CYCLE]) > 0.02


def test_peft_folder_has_the_coordinators_loss(world: ExportWorld, exported: Path) -> None:
    model = PeftModel.from_pretrained(plain(BASE), str(exported / "peft"))
    assert loss_of(model, world) == pytest.approx(world.loss[CYCLE], abs=SAME_LOSS)


def test_merged_model_has_the_coordinators_loss(world: ExportWorld, exported: Path) -> None:
    model = plain(exported / "merged")
    assert loss_of(model, world) == pytest.approx(world.loss[CYCLE], abs=SAME_LOSS)
    AutoTokenizer.from_pretrained(exported / "merged")


def test_gguf_read_back_has_the_coordinators_loss(
    world: ExportWorld, exported: Path, tmp_path: Path
) -> None:
    from ares_p2p.training.lora_spec import save_adapter

    adapter = read_gguf(exported / "gguf" / "adapter.gguf")
    save_adapter(tmp_path, adapter.layout, adapter.vector, spec=adapter.spec, base_name="x")
    model = PeftModel.from_pretrained(plain(BASE), str(tmp_path))
    assert loss_of(model, world) == pytest.approx(world.loss[CYCLE], abs=SAME_LOSS)


def test_four_bit_network_exports_the_same_loss(tmp_path: Path) -> None:
    """The coordinator of a 4-bit network evaluates on the 4-bit base; so does its PEFT folder there.

    The merged model is in the base's own precision: it misses the rounding of the base to 4 bits,
    which the adapters were trained on. That is the 0.05 nats.
    """
    from ares_p2p.training.base import BaseSpec, load_base

    world = make_world(tmp_path, cycles=CYCLE, quantization="nf4")
    run(world, "--format", "all")
    folder = world.files.export(CYCLE)
    four_bit = load_base(BaseSpec(str(BASE), "nf4", "float32"))
    model = PeftModel.from_pretrained(four_bit, str(folder / "peft"))
    assert loss_of(model, world) == pytest.approx(world.loss[CYCLE], abs=SAME_LOSS)
    assert loss_of(plain(folder / "merged"), world) == pytest.approx(world.loss[CYCLE], abs=0.05)


# --- GGUF -------------------------------------------------------------------------------------


def read_gguf(path: Path) -> Adapter:
    """Read an adapter back, undoing llama.cpp's names and order of rows by hand."""
    reader = gguf.GGUFReader(path)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    config = json.loads((BASE / "config.json").read_text())
    heads = config["num_attention_heads"]
    modules = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    tensors: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        _, layer, place, _, factor = tensor.name.split(".")
        data = np.array(tensor.data)
        if factor == "lora_b" and place in ("attn_q", "attn_k"):
            # row 2 j + s of a head is row j of its half s
            rows, columns = data.shape
            data = data.reshape(heads, rows // heads // 2, 2, columns).transpose(0, 2, 1, 3)
            data = data.reshape(rows, columns)
        stem = f"base_model.model.model.layers.{layer}.{modules[place]}"
        tensors[f"{stem}.lora_{factor[-1].upper()}.weight"] = np.ascontiguousarray(data)
    rank = next(value.shape[0] for name, value in tensors.items() if ".lora_A." in name)
    spec = LoraSpec(rank, int(alpha))
    layout = layout_of_config(config, spec)
    return Adapter(spec, layout, layout.join(tensors))


def test_gguf_holds_the_adapter_tensor_by_tensor(world: ExportWorld, exported: Path) -> None:
    path = exported / "gguf" / "adapter.gguf"
    fields = gguf.GGUFReader(path).fields
    found = {
        key: fields[key].contents()
        for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha")
    }
    assert found == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 7.0,  # the sum of the ranks, so that alpha / rank is 1
    }
    expected = read_stack([world.files.adapter(1), world.files.adapter(2)])
    adapter = read_gguf(path)
    assert adapter.spec == expected.spec
    assert adapter.layout == expected.layout
    assert np.array_equal(adapter.vector, expected.vector)
    text = (exported / "gguf" / "Modelfile").read_text()
    assert "ADAPTER ./adapter.gguf" in text
    assert "{{- range .Messages }}<|im_start|>{{ .Role }}" in text


def test_rows_of_a_head_are_interleaved_by_its_halves() -> None:
    # two heads of four rows: (0, 1 | 2, 3) becomes 0, 2, 1, 3
    rows = np.arange(8, dtype=np.float32)[:, None] * np.ones((1, 3), dtype=np.float32)
    assert interleave_halves(rows, heads=2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_other_families_keep_their_rows_or_are_refused(tmp_path: Path) -> None:
    config = {**json.loads((BASE / "config.json").read_text()), "model_type": "qwen2"}
    spec = LoraSpec(2, 2, ("q_proj",))
    layout = layout_of_config(config, spec)
    vector = np.arange(layout.size, dtype=np.float32)
    path = tmp_path / "a.gguf"
    write_gguf_adapter(path, Adapter(spec, layout, vector), config=config, name="n")
    tensors = {one.name: one.data for one in gguf.GGUFReader(path).tensors}
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    assert np.array_equal(tensors["blk.0.attn_q.weight.lora_b"], layout.split(vector)[stem])
    with pytest.raises(BaseUnsupported, match="gemma"):
        write_gguf_adapter(
            path, Adapter(spec, layout, vector), config={**config, "model_type": "gemma"}, name="n"
        )


def write_base_gguf(path: Path) -> None:
    """Write the shipped base as GGUF, without a vocabulary: token ids go in."""
    config = json.loads((BASE / "config.json").read_text())
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    for name, weight in plain(BASE).state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        data = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            size = data.shape[0] // heads // 2
            data = data.reshape(heads, 2, size, -1).transpose(0, 2, 1, 3).reshape(data.shape)
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(data)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_llama_cpp_computes_the_logits_of_peft(exported: Path, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    write_base_gguf(tmp_path / "base.gguf")
    tokens = list(range(10, 42))
    found = {}
    for adapter in (None, str(exported / "gguf" / "adapter.gguf")):
        runtime = llama_cpp.Llama(
            str(tmp_path / "base.gguf"),
            lora_path=adapter,
            logits_all=True,
            n_ctx=64,
            n_threads=1,
            verbose=False,
        )
        runtime.eval(tokens)
        found[adapter] = np.array(runtime.scores[: len(tokens)])
        runtime.close()
    models = {None: plain(BASE)}
    models[adapter] = PeftModel.from_pretrained(plain(BASE), str(exported / "peft"))
    for key, model in models.items():
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
        # llama.cpp keeps its cache of keys and values in float16: about 1e-3 of logits of about 10
        assert np.abs(found[key] - expected).max() < 0.03  # measured: 0.007
    assert np.abs(found[None] - found[adapter]).max() > 0.5


# --- manifest, card, command ------------------------------------------------------------------


def test_manifest_is_signed_and_complete(world: ExportWorld, exported: Path) -> None:
    manifest = check_export(exported, signer=identity(1).peer_id)
    names = {file.name for file in manifest.files}
    assert {
        "peft/adapter_model.safetensors",
        "peft/adapter_config.json",
        "peft/README.md",
        "gguf/adapter.gguf",
        "gguf/Modelfile",
        "merged/model.safetensors",
        "merged/config.json",
        "merged/tokenizer.json",
        "merged/merge.json",
    } <= names
    content = manifest.content
    assert content["version"] == "ares-v2"
    assert content["cycles"] == [1, 2]
    assert content["evaluation"]["loss_after"] == world.loss[CYCLE]
    assert content["contributors"] == 3  # two a cycle, one of them in both
    parts = content["parameters"]
    assert parts["effective"] == parts["base"] + parts["stacked"] == 1_869_504 + parts["stacked"]
    assert parts["stacked"] == sum(
        load_adapter(world.files.adapter(cycle))[1].size for cycle in (1, 2)
    )
    # what is merged counts on in the next generation
    merged = count_parameters(exported / "merged")
    assert (merged.base, merged.merged) == (parts["base"], parts["stacked"])


def test_tampered_exports_are_refused(exported: Path, tmp_path: Path) -> None:
    def changed(label: str) -> Path:
        return Path(shutil.copytree(exported, tmp_path / label))

    folder = changed("byte")
    path = folder / "peft" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(HashMismatch, match="not the file that was signed"):
        check_export(folder)
    path.write_bytes(data[:-1])
    with pytest.raises(HashMismatch, match="bytes"):
        check_export(folder)
    path.unlink()
    with pytest.raises(HashMismatch, match="missing"):
        check_export(folder)
    folder = changed("more")
    (folder / "peft" / "extra.bin").write_bytes(b"x")
    with pytest.raises(HashMismatch, match=r"extra\.bin"):
        check_export(folder)
    folder = changed("manifest")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("ares-v2", "ares-v9"))
    with pytest.raises(BadSignature):
        check_export(folder)
    with pytest.raises(WrongSigner):
        check_export(exported, signer=identity(2).peer_id)
    for name, content in (("manifest.sig", "[]"), ("manifest.sig", "{"), ("manifest.json", None)):
        folder = changed(f"{name}{content}")
        (folder / name).write_text(content) if content else (folder / name).unlink()
        with pytest.raises(PayloadMalformed):
            check_export(folder)


def test_a_signed_manifest_cannot_point_outside(exported: Path, tmp_path: Path) -> None:
    from ares_coordinator.exports.manifest import PAYLOAD_TYPE
    from ares_p2p.crypto.envelope import sign_payload

    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("../secret", str(tmp_path / "secret")):
        payload = json.dumps({"files": [{"name": name, "size_bytes": 1, "sha256": "00"}]}).encode()
        envelope = sign_payload(identity(1), PAYLOAD_TYPE, payload)
        (folder / "manifest.json").write_bytes(payload)
        (folder / "manifest.sig").write_text(
            json.dumps(
                {
                    "payload_type": PAYLOAD_TYPE,
                    "public_key": envelope.public_key.hex(),
                    "signature": envelope.signature.hex(),
                }
            )
        )
        with pytest.raises(PayloadMalformed, match="leads out"):
            check_export(folder)


def test_cards_say_what_is_in_it(world: ExportWorld, exported: Path) -> None:
    card = (exported / "peft" / "README.md").read_text()
    for text in (
        "library_name: peft",
        "cycles 1 and 2",
        "rank 7 is the sum",
        f"{world.loss[CYCLE]:.4f}",
        "95 % interval",
        "3 contributors",
        "Apache-2.0",
        "| reasoning |",
    ):
        assert text in card
    assert str(world.folder) not in card  # nothing of the machine it was made on
    config = json.loads((exported / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "the-shipped-base"
    assert "merge.json" in (exported / "merged" / "README.md").read_text()


def test_command_exports_one_cycle_and_verifies(world: ExportWorld, tmp_path: Path) -> None:
    out = tmp_path / "first"
    facts = json.loads(run(world, "--cycle", "1", "--out", str(out), "--json"))
    assert (facts["version"], facts["cycles"]) == ("ares-v1", [1])
    assert {file["name"].split("/")[0] for file in facts["files"]} == {"peft"}
    model = PeftModel.from_pretrained(plain(BASE), str(out / "peft"))
    assert loss_of(model, world, cycle=1) == pytest.approx(world.loss[1], abs=SAME_LOSS)
    # a format more: the manifest covers both
    run(world, "--cycle", "1", "--out", str(out), "--format", "gguf")
    assert "All 5 files" in run(world, "--verify", str(out), "--signer", identity(1).peer_id)
    seen = json.loads(run(world, "--verify", str(out), "--json"))
    assert seen["signer"] == identity(1).peer_id


def test_exports_import_no_torch() -> None:
    code = (
        "import sys, ares_coordinator.exports.build, ares_coordinator.exports.scripts;"
        "print({'torch', 'transformers', 'peft', 'hivemind'} & sys.modules.keys())"
    )
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_cycles_that_are_no_model_are_refused(world: ExportWorld, tmp_path: Path) -> None:
    for number in (ROLLED_BACK, 9):
        with pytest.raises(ConfigFault, match="was not promoted; these were: 1, 2"):
            invoke(world, "--cycle", str(number), "--out", str(tmp_path))
    copy = ExportWorld(
        Path(shutil.copytree(world.folder, tmp_path / "copy")), world.settings, {}, {}
    )
    path = copy.files.adapter(1) / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(HashMismatch, match="later cycles"):
        invoke(copy)
    shutil.rmtree(copy.files.adapter(1))
    with pytest.raises(ConfigFault, match="holds no adapter"):
        invoke(copy)
