"""Merging: the numbers, the same bytes whatever the threads, crashes, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ares_p2p.datadir import DataDirLock
from ares_p2p.errors import (
    BaseDigestMismatch,
    BaseUnsupported,
    DataDirLocked,
    MergeRefused,
    NonFinite,
)
from ares_p2p.ids import sha256
from ares_p2p.training.base import BaseSpec, load_base
from ares_p2p.training.base_files import base_files_digest
from ares_p2p.training.exact_product import ExactProduct, fixed_point_bits
from ares_p2p.training.layout import layout_of_shapes
from ares_p2p.training.lora import attach_lora, layout_of_model, write_parameters
from ares_p2p.training.lora_spec import LoraSpec, layout_of_folder, save_adapter
from ares_p2p.training.merge import MERGE_FILE, merge_base
from ares_p2p.training.parameters import count_parameters
from ares_p2p.training.safetensors_stream import read_head
from ares_p2p.training.stack import concatenate, module_shapes, read_adapter
from ares_p2p.training.stored_floats import decode_floats, encode_floats
from tinybase import build_tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SPECS = (LoraSpec(4, 8), LoraSpec(3, 5), LoraSpec(8, 4, ("down_proj", "q_proj")))
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TOKENS = torch.arange(3, 43)[None]  # (1, 40)
CHILD = """
import os, signal, sys
from pathlib import Path
from ares_p2p.training.merge import merge_base

base, out, kill_in, *adapters = sys.argv[1:]

def look(name, done, total):
    # die with the file half written
    if name == kill_in and done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

merged = merge_base(Path(base), [Path(a) for a in adapters], Path(out), on_progress=look)
print(merged.files.digest_sha256.hex())
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_tiny_base(folder)
    return folder


def in_dtype(base: Path, folder: Path, dtype: str, *, shard_kb: int = 0) -> Path:
    """Return a copy of the base that is stored in `dtype`, in shards if asked for."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype])
    model.save_pretrained(folder, **({"max_shard_size": f"{shard_kb}KB"} if shard_kb else {}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [
        adapter(root / f"cycle-{number}", base, spec, seed=number)
        for number, spec in enumerate(SPECS)
    ]


def adapter(folder: Path, base: Path, spec: LoraSpec, *, seed: int, size: float = 0.05) -> Path:
    layout = layout_of_folder(base, spec)
    vector = np.random.default_rng(seed).standard_normal(layout.size, dtype=np.float32) * size
    save_adapter(folder, layout, vector, spec=spec, base_name="tiny")
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def changes(folders: list[Path]) -> dict[str, np.ndarray]:
    """Return what the adapters add, by the weight's name, in float64."""
    total: dict[str, np.ndarray] = {}
    for folder in folders:
        one = read_adapter(folder)
        tensors = one.layout.split(one.vector)
        for stem in module_shapes(one.layout):
            b = tensors[f"{stem}.lora_B.weight"].astype(np.float64)
            a = tensors[f"{stem}.lora_A.weight"].astype(np.float64)
            name = stem.removeprefix("base_model.model.") + ".weight"
            total[name] = total.get(name, 0) + one.scale * (b @ a)
    return total


# --- the numbers ------------------------------------------------------------------------------


def test_exact_product_has_the_same_bits_in_any_order_of_its_terms() -> None:
    rng = np.random.default_rng(0)
    left = rng.standard_normal((64, 700)).astype(np.float32)
    right = rng.standard_normal((700, 96)).astype(np.float32)
    whole = ExactProduct(left, right).rows(0, 64)
    order = rng.permutation(700)
    assert np.array_equal(ExactProduct(left[:, order], right[order]).rows(0, 64), whole)
    # row blocks of any size, and sums without BLAS
    assert np.array_equal(ExactProduct(left, right).rows(10, 17), whole[10:17])
    plain = left.astype(np.float64) @ right.astype(np.float64)
    assert not np.array_equal(
        left[:, order].astype(np.float64) @ right[order].astype(np.float64), plain
    )  # which is why a plain product would not do
    # b = 21 bits for 700 terms: at most 2^-22 of the largest in a row or column, per term and factor
    assert fixed_point_bits(700) == 21
    bound = np.sqrt(700) * 2.0**-21 * np.abs(left).max() * np.abs(right).max()
    assert np.abs(whole - plain).max() < bound


def test_exact_product_of_a_case_by_hand() -> None:
    left = np.array([[1.5, -2.0], [0.0, 0.0]], dtype=np.float32)
    right = np.array([[4.0], [0.25]], dtype=np.float32)
    assert ExactProduct(left, right).rows(0, 2).tolist() == [[5.5], [0.0]]
    with pytest.raises(NonFinite):
        ExactProduct(left, np.array([[np.inf], [1]], dtype=np.float32))
    # the largest sums that 2 b + ceil(log2 K) <= 53 allows are still exact
    for inner in (1, 2, 3, 1024, 1025):
        bits = fixed_point_bits(inner)
        assert inner * 4**bits <= 2**53 < inner * 4 ** (bits + 1)
        ones = np.full((1, inner), np.float32(1 - 2.0**-21))
        scaled = np.rint((1 - 2.0**-21) * 2**bits)
        expected = inner * int(scaled) ** 2  # Python's integers
        assert ExactProduct(ones, ones.T).rows(0, 1)[0, 0] * 4**bits == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_floats_round_to_nearest_even_as_torch_does(dtype: str) -> None:
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 2**32, size=20_000, dtype=np.uint32)  # every kind of float32
    single = raw.view(np.float32)
    single = single[np.isfinite(single) & (np.abs(single) < 6e4)]
    # exact ties of bfloat16: half of its last place, even and odd
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000], dtype=np.uint32).view(np.float32)
    values = np.concatenate([single, ties, np.float32([0.0, -0.0, 1e-45])])
    expected = torch.from_numpy(values).to(DTYPES[dtype])
    found = encode_floats(values.astype(np.float64), dtype, what="w")
    assert found == expected.view(torch.uint8).numpy().tobytes()
    back = decode_floats(found, dtype)
    assert np.array_equal(back, expected.double().numpy())


@pytest.mark.parametrize(("dtype", "large"), [("F32", 1e39), ("F16", 7e4), ("BF16", 3.4e38)])
def test_numbers_that_do_not_fit_are_refused(dtype: str, large: float) -> None:
    for value in (large, np.nan, np.inf):
        with pytest.raises(NonFinite, match="weight of layer 3"):
            encode_floats(np.array([1.0, value]), dtype, what="weight of layer 3")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shard_kb", [0, 60])
def test_merged_base_is_base_plus_stack_within_its_rounding(
    base: Path, adapters: list[Path], tmp_path: Path, dtype: str, shard_kb: int
) -> None:
    stored = in_dtype(base, tmp_path / "base", dtype, shard_kb=shard_kb)
    assert (len(list(stored.glob("*.safetensors"))) > 1) == bool(shard_kb)
    merged = merge_base(stored, adapters, tmp_path / "out")
    before, after = tensors_of(stored), tensors_of(tmp_path / "out")
    total = changes(adapters)
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert weight.dtype == DTYPES[dtype]
        if name not in total:
            assert torch.equal(weight, before[name])
            continue
        exact = before[name].double().numpy() + total[name]
        # half a unit in the last place of the stored type, and what fixed point leaves out
        bits = {"F32": 24, "F16": 11, "BF16": 8}[dtype]
        bound = np.maximum(np.abs(exact) * 2.0**-bits, 2.0**-25 if dtype == "F16" else 0) + 3e-8
        assert (np.abs(weight.double().numpy() - exact) <= bound).all()
        assert not torch.equal(weight, before[name])
    # names, types, places and the index are the old ones
    for path in stored.glob("*.safetensors"):
        assert read_head(tmp_path / "out" / path.name) == read_head(path)
    for path in stored.glob("*.json"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert merged.files == base_files_digest(tmp_path / "out")
    assert merged.source == base_files_digest(stored)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_merged_base_computes_what_base_and_stack_do(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    merge_base(base, adapters, tmp_path)
    with torch.inference_mode():
        stacked = attach_lora(load_base(plain(base)), LoraSpec(2, 4), stack=adapters)
        layout = layout_of_model(stacked)
        write_parameters(stacked, layout, np.zeros(layout.size, dtype=np.float32))
        expected = stacked(input_ids=TOKENS, use_cache=False).logits
        found = load_base(plain(tmp_path))(input_ids=TOKENS, use_cache=False).logits
    # float32 weights are rounded once, sums of logits of about 10 in another order: 1e-5 of them
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def plain(folder: Path) -> BaseSpec:
    return BaseSpec(str(folder), quantization="none", compute_dtype="float32")


# --- the same bytes everywhere ----------------------------------------------------------------


def child(base: Path, out: Path, adapters: list[Path], *, threads: int = 1, kill_in: str = "-"):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(base), str(out), kill_in, *map(str, adapters)],
        env={**os.environ, **dict.fromkeys(names, str(threads))},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_processes_with_other_threads_make_the_same_base(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    stored = in_dtype(base, tmp_path / "base", "BF16", shard_kb=60)
    digests = set()
    for number, threads in enumerate((1, 2, 4)):
        done = child(stored, tmp_path / f"out{number}", adapters, threads=threads)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
        assert digests == {base_files_digest(tmp_path / f"out{number}").digest_sha256.hex()}
    # the order of the adapters does not matter, nor do they as one adapter change but its rounding
    again = merge_base(stored, adapters[::-1], tmp_path / "reversed")
    assert digests == {again.files.digest_sha256.hex()}


def test_digest_of_a_merge_never_changes(tmp_path: Path) -> None:
    """A golden value: another one means that peers of two versions disagree; see docs/growth.md."""
    rng = np.random.Generator(np.random.Philox(key=7))
    # raw words only: numpy promises their stream, not its distributions
    words = (rng.bit_generator.random_raw(48 * 64) >> np.uint64(40)).astype(np.float32)
    weight = torch.from_numpy((words * np.float32(2.0**-24) - np.float32(0.5)).reshape(48, 64))
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({"m.weight": weight.to(torch.bfloat16)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    layout = layout_of_shapes(
        {
            "base_model.model.m.lora_A.weight": (5, 64),
            "base_model.model.m.lora_B.weight": (48, 5),
        }
    )
    words = (rng.bit_generator.random_raw(layout.size) >> np.uint64(40)).astype(np.float32)
    vector = (words * np.float32(2.0**-24) - np.float32(0.5)) * np.float32(0.25)
    save_adapter(tmp_path / "a", layout, vector, spec=LoraSpec(5, 7, ("m",)), base_name="x")
    merge_base(folder, [tmp_path / "a"], tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        merged = file.get_tensor("m.weight")
    assert sha256(merged.view(torch.uint8).numpy().tobytes()).hex() == (
        "42765cbcca1783686d71dde4370316332d64d18b2a092a864b33958b8a497d1b"
    )


# --- crashes ----------------------------------------------------------------------------------


def test_killed_merge_goes_on_and_keeps_what_was_finished(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    stored = in_dtype(base, tmp_path / "base", "F32", shard_kb=60)
    shards = sorted(path.name for path in stored.glob("*.safetensors"))
    assert len(shards) > 3
    out = tmp_path / "out"
    done = child(stored, out, adapters, kill_in=shards[-2])
    assert done.returncode == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert kept  # some were finished, not all
    assert set(kept) < set(shards)
    assert list(out.glob(".*.part"))  # cut off in the middle of one
    with pytest.raises(BaseUnsupported, match=r"config\.json"):
        base_files_digest(out)  # no folder that anybody takes for a base
    # what was finished is not taken on trust
    first = min(kept)
    data = bytearray((out / first).read_bytes())
    data[-1] ^= 1
    (out / first).write_bytes(data)
    merged = merge_base(stored, adapters, out)
    assert merged.files == merge_base(stored, adapters, tmp_path / "fresh").files
    assert merged.files == base_files_digest(out)
    for name, mtime_ns in kept.items():
        assert ((out / name).stat().st_mtime_ns == mtime_ns) == (name != first)
    assert not list(out.glob(".*.part"))
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert merge_base(stored, adapters, out).files == merged.files  # finished: nothing to do
    assert times == {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}


def test_folder_of_another_merge_is_refused(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    merge_base(base, adapters[:1], tmp_path)
    with pytest.raises(MergeRefused, match="other adapters"):
        merge_base(base, adapters, tmp_path)
    (tmp_path / MERGE_FILE).unlink()
    with pytest.raises(MergeRefused, match="another model"):
        merge_base(base, adapters[:1], tmp_path)
    (tmp_path / MERGE_FILE).write_text('{"key": 1}')
    with pytest.raises(MergeRefused, match="does not read"):
        merge_base(base, adapters[:1], tmp_path)
    with DataDirLock(tmp_path), pytest.raises(DataDirLocked):
        merge_base(base, adapters[:1], tmp_path)


def test_generations_of_merges_keep_the_count(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    merge_base(base, adapters[:2], tmp_path / "one")
    merge_base(tmp_path / "one", adapters[2:], tmp_path / "two")
    sizes = [read_adapter(folder).layout.size for folder in adapters]
    count = count_parameters(tmp_path / "two", adapters[:1])
    assert (count.merged, count.stacked) == (sum(sizes), sizes[0])
    assert count.base == count_parameters(base).base
    assert count.effective == count.base + sum(sizes) + sizes[0]


# --- refusals ---------------------------------------------------------------------------------


def test_what_cannot_be_merged_is_refused(base: Path, adapters: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(folder: Path, with_adapters: list[Path], match: str, kind: type = MergeRefused):
        with pytest.raises(kind, match=match):
            merge_base(folder, with_adapters, out)
        assert not out.exists()  # nothing is written before all is known to fit

    refused(base, [], "no adapter")
    quantized = Path(shutil.copytree(base, tmp_path / "quantized"))
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (quantized / "config.json").write_text(json.dumps(config))
    refused(quantized, adapters, "quantized")

    tensors = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"

    def variant(label: str, changed: dict[str, torch.Tensor]) -> Path:
        folder = Path(shutil.copytree(base, tmp_path / label))
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    lacking = {key: value for key, value in tensors.items() if key != name}
    refused(variant("lacking", lacking), adapters, "does not hold")
    packed = {**tensors, name: torch.zeros(64, 64, dtype=torch.uint8)}
    refused(variant("packed", packed), adapters, "stored as U8")
    refused(variant("wide", {**tensors, name: torch.zeros(64, 65)}), adapters, "shape")
    with pytest.raises(BaseDigestMismatch):
        merge_base(base, adapters, out, expected_base_sha256=bytes(32))
    assert not out.exists()

    cut = Path(shutil.copytree(base, tmp_path / "cut"))
    data = (cut / "model.safetensors").read_bytes()
    for broken in (data[:-1], data[:100], b"", b"\xff" * 16, data + b"\0"):
        (cut / "model.safetensors").write_bytes(broken)
        refused(cut, adapters, "safetensors", BaseUnsupported)
    (cut / "model.safetensors").write_bytes(data)
    shutil.copy(cut / "model.safetensors", cut / "again.safetensors")
    refused(cut, adapters, "stored twice", BaseUnsupported)


def test_merge_that_leaves_the_type_is_refused(base: Path, tmp_path: Path) -> None:
    stored = in_dtype(base, tmp_path / "base", "F16")
    huge = adapter(tmp_path / "huge", base, LoraSpec(4, 8), seed=0, size=500.0)
    with pytest.raises(NonFinite, match="F16"):
        merge_base(stored, [huge], tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_base_that_changes_meanwhile_is_noticed(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    stored = Path(shutil.copytree(base, tmp_path / "base"))

    def change(name: str, _done: int, _total: int) -> None:
        path = stored / "model.safetensors"
        if path.stat().st_size and name == path.name:
            with path.open("r+b") as file:
                file.seek(-4, 2)
                file.write(b"\1\2\3\4")

    with pytest.raises(BaseDigestMismatch, match="changed"):
        merge_base(stored, adapters, tmp_path / "out", on_progress=change)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_concatenated_stack_merges_to_the_same_weights_but_for_its_rounding(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    one = concatenate([read_adapter(folder) for folder in adapters])
    save_adapter(tmp_path / "one", one.layout, one.vector, spec=one.spec, base_name="tiny")
    merge_base(base, adapters, tmp_path / "many")
    merge_base(base, [tmp_path / "one"], tmp_path / "single")
    many, single = tensors_of(tmp_path / "many"), tensors_of(tmp_path / "single")
    for name, weight in many.items():
        assert torch.allclose(single[name], weight, rtol=0, atol=1e-6)
