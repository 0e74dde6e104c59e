"""Frozen text encoders of the library transformers: the text part of a CLIP, or the encoder of a T5."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from artart import ArtError
from artart.features.pretrained import transformers_for

NAMES = {"clip": "openai/clip-vit-large-patch14", "t5": "google-t5/t5-large"}
CHUNK = 64  # texts
CLASSES = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}  # by model_type


class FrozenTextEncoder:
    """Radford et al. 2021 (arXiv 2103.00020) or Raffel et al. 2020 (arXiv 1910.10683), without gradients."""

    def __init__(self, name: str, key: str = "data.text_encoder", known: tuple[str, int] | None = None) -> None:
        """
        Args:
            name: a folder of transformers, a model in its cache, or clip or t5. Nothing is downloaded.
            key: what names it, for errors.
            known: its `sha256` and `channels`, with which it is read only when there is something to encode.
        """
        folder = Path(name).expanduser()
        self.name = str(folder.resolve()) if folder.is_dir() else NAMES.get(name, name)
        self.key = key
        self.known = known

    @cached_property
    def _parts(self) -> tuple[Any, Any, str]:
        """Tokenizer, network and the SHA-256 of its weights.

        Raises ArtError if they are not here or of another kind.
        """
        with transformers_for(self.key, self.name) as (transformers, options):
            kind = transformers.AutoConfig.from_pretrained(self.name, **options).model_type
            if kind not in CLASSES:
                raise ArtError(f"{self.key}={self.name}: is of kind {kind}; name a CLIP or a T5")
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.name, **options)
            net = getattr(transformers, CLASSES[kind]).from_pretrained(self.name, use_safetensors=True, **options)
        digest = sha256()
        for name, value in sorted(net.state_dict().items()):
            digest.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        if self.known and self.known[0] != digest.hexdigest():
            raise ArtError(f"{self.key}={self.name}: has other weights than those of the training")
        return tokenizer, net.requires_grad_(False).eval(), digest.hexdigest()

    @property
    def sha256(self) -> str:
        return self.known[0] if self.known else self._parts[2]

    @property
    def channels(self) -> int:
        """D, of an embedding."""
        return self.known[1] if self.known else self._parts[1].config.hidden_size

    def num_tokens(self, texts: Sequence[str]) -> int:
        """The number of tokens of the longest text."""
        tokenizer = self._parts[0]
        return max(len(ids) for part in batched(texts, CHUNK) for ids in tokenizer(part, truncation=True)["input_ids"])

    def encode(self, texts: Sequence[str], num_tokens: int) -> Iterator[Tensor]:
        """The embeddings of each text (num_tokens, D), on the CPU; NaN beyond its end. Uses a GPU if there is one."""
        tokenizer, net, _ = self._parts
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net.to(device)
        try:
            for part in batched(texts, CHUNK):
                options = {"padding": True, "truncation": True, "max_length": num_tokens, "return_tensors": "pt"}
                tokens = tokenizer(part, **options).to(device)
                with torch.inference_mode():
                    found = net(**tokens).last_hidden_state.float()
                found = found.masked_fill(tokens["attention_mask"][..., None] == 0, torch.nan)
                yield from F.pad(found, (0, 0, 0, num_tokens - found.shape[1]), value=torch.nan).cpu()
        finally:
            net.to("cpu")


def batched(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Parts of at most `size` texts."""
    return (list(texts[start : start + size]) for start in range(0, len(texts), size))
