"""Builds a tiny random Llama with a ChatML tokenizer: a base for tests, made in about a second.

It knows nothing, so it learns something from any text. All linear layers have multiples of 64
inputs, so it can be quantized to NF4.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|pad|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_WORDS = (
    "system user assistant what is the sum of and sorted list answer question number word "
    "name color river mountain city bread music please say repeat count letters green red blue"
).split()


def tiny_chats(count: int, *, seed: int = 0) -> list[list[dict[str, str]]]:
    """Return `count` small chats with a rule that can be learnt: the answer repeats two words."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(_WORDS), (count, 3), generator=generator).tolist()
    return [
        [
            {"role": "user", "content": f"repeat the {_WORDS[a]} and the {_WORDS[b]}"},
            {"role": "assistant", "content": f"{_WORDS[a]} {_WORDS[b]} {_WORDS[a]}"},
        ]
        for a, b, _ in picks
    ]


def build_tiny_base(folder: Path, seed: int = 0) -> None:
    """Write the model and its tokenizer to `folder`, as safetensors.

    Args:
        folder: created if missing.
        seed: of the random weights; the tokenizer is always the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [message["content"] for chat in tiny_chats(200) for message in chat]
    tokenizer.train_from_iterator([*text, " ".join(_WORDS)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL_TOKENS[0],
        eos_token=SPECIAL_TOKENS[2],
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # logits of a useful size: an adapter cannot touch the embedding that makes them
        model.get_input_embeddings().weight.data.mul_(15)
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    assert written["model_type"] == "llama"
