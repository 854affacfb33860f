"""CLIP's byte-pair encoding, through the `tokenizers` library.

Text is put into NFC, white space is folded, letters are lowered; words are cut by CLIP's pattern,
written as bytes and merged, the last piece of each word carrying `</w>`. Sequences are
`<|startoftext|> … <|endoftext|>`, cut and padded to the context length L.

Shapes: N texts, L context length.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unclip.checks import of_kind, printable, real_number, shown, whole_number
from unclip.files import MAX_CONFIG, as_path, read_json, read_text, write_json, write_text
from unclip.vocabulary_growth import new_merges
from unclip.words import Vocabulary, read_vocabulary, write_subjects, write_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MAX_VOCABULARY = 2**20  # ids; models of text alone have a quarter of that
_LEARNED = 10_000  # characters of a caption that merges are learned from: words take quadratic time
_REASON = 200  # characters of what the library says that a sentence repeats
_TOKEN = 64  # characters that a token is shorter than, but for tokens of no language
# CLIP's pattern: special tokens, English contractions, runs of letters, single digits, other runs.
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@dataclass(frozen=True)
class Tokens:
    """Token ids (N, L), long, and their mask (N, L), bool: True from the start to the end token."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> "Tokens":
        return Tokens(self.ids.to(device), self.mask.to(device))

    def trimmed(self) -> "Tokens":
        """Cut to the longest text of the batch: padding is never attended, so this is exact."""
        longest = int(self.mask.sum(dim=1).max()) if len(self.mask) else 0
        return Tokens(self.ids[:, :longest], self.mask[:, :longest])


class Tokenizer:
    """Byte-pair encoding with CLIP's rules.

    Args:
        vocab: token → id.
        merges: pairs in order of priority.
        context_length: L, the length that texts are cut and padded to.
        pad_token: the padding token; Karlo uses "!" (id 0), OpenAI's folders `<|endoftext|>`.

    `vocabulary` is that of the captions that the model was trained with, if it is known.
    """

    vocabulary: Vocabulary | None = None

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        context_length: int = 77,
        pad_token: str = "!",
    ) -> None:
        from tokenizers import models, processors

        context_length = whole_number(context_length, "context_length", 2, 2**16)
        of_kind(vocab, dict, "vocab", "a dict of tokens and their ids")
        of_kind(pad_token, str, "pad_token", "a token")
        pairs = _several(merges, "merges")
        for token in (BOS, EOS, pad_token):
            if token not in vocab:
                raise ValueError(f"the tokenizer's vocabulary has no token {shown(token)}")
        self.vocab, self.merges = vocab, list(pairs)
        # Start, end, and one between.
        self.context_length = whole_number(context_length, "the context length", 3, 2**16)
        self.pad_token = pad_token
        self.eos_id = vocab[EOS]
        try:
            model = models.BPE(
                vocab=vocab,
                merges=self.merges,
                unk_token=EOS,
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                fuse_unk=False,
            )
        except Exception as error:  # the library raises no narrower kind
            reason = printable(str(error))[:_REASON]
            raise ValueError(f"vocabulary and merges do not fit together: {reason}") from None
        self._backend = _backend(model)
        # The padding token is special too, so that "!" in a text is id 0, as in transformers.
        self._backend.add_special_tokens([BOS, EOS, pad_token])
        self._backend.post_processor = processors.RobertaProcessing(
            (EOS, vocab[EOS]), (BOS, vocab[BOS]), trim_offsets=False, add_prefix_space=False
        )
        # It does not cut: `__call__` does, so that `dropped`, in any thread, sees what is cut.
        self._backend.enable_padding(
            length=self.context_length, pad_id=vocab[pad_token], pad_token=pad_token
        )

    def __call__(self, texts: str | Sequence[str]) -> Tokens:
        """Encode N texts; ids and mask are (N, L).

        Raises:
            ValueError: something is no text.
        """
        encodings = self._encoded([texts] if isinstance(texts, str) else texts)
        length = self.context_length
        ids = torch.tensor([self._cut(e.ids) for e in encodings], dtype=torch.long)
        mask = torch.tensor([e.attention_mask[:length] for e in encodings], dtype=torch.bool)
        return Tokens(ids.view(len(encodings), length), mask.view(len(encodings), length))

    def _encoded(self, texts: Iterable[str]) -> list[Any]:
        """Encodings, padded to the context length at least; longer ones are whole."""
        encodings: list[Any] = self._backend.encode_batch([*map(_text, _several(texts, "texts"))])
        return encodings

    def _cut(self, ids: list[int]) -> list[int]:
        longest = self.context_length
        return ids if len(ids) <= longest else [*ids[: longest - 1], self.eos_id]

    def __len__(self) -> int:
        return len(self.vocab)

    def dropped(self, text: str) -> str:
        """The tail of `text` that does not fit into the context; empty if all of it fits."""
        (encoding,) = self._encoded([text])
        if len(encoding.ids) <= self.context_length:
            return ""
        return text[encoding.offsets[self.context_length - 2][1] :].strip()

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the texts do not fit into the context, so that their end is cut."""
        longest = self.context_length * _TOKEN  # what lies beyond need not be encoded
        parts = (texts[i : i + 1000] for i in range(0, len(texts), 1000))
        return sum(
            len(encoding.ids) > self.context_length
            for part in parts
            for encoding in self._encoded(text[:longest] for text in part)
        )

    @property
    def words(self) -> tuple[str, ...] | None:
        """Those of the vocabulary, the most frequent first."""
        return self.vocabulary.words if self.vocabulary else None

    def unseen(self, text: str) -> list[str]:
        """The words of a text that no caption of the model's training had, as far as is known."""
        return self.vocabulary.unknown(text) if self.vocabulary else []

    def extended(self, captions: Iterable[str], most: int) -> tuple["Tokenizer", list[list[int]]]:
        """This tokenizer with tokens for the captions' words that its vocabulary does not have.

        Texts of known words are read as before. The new ids follow the old ones, so that the end
        token's is no longer the highest.

        Args:
            most: new tokens.

        Returns:
            The tokenizer, and for each new token the old ids that it stands for; none where it is
            not known which words the old tokens have been trained with.
        """
        if self.vocabulary is None:
            return self, []
        known = {piece for word in self.vocabulary.words for piece in self._pieces(word)}
        words = Counter(piece for text in map(_text, captions) for piece in self._pieces(text))
        new = {word: count for word, count in words.items() if word not in known}
        most = min(most, MAX_VOCABULARY - 1 - max(self.vocab.values()))
        merges = new_merges(new, known, self._spelled, self.vocab, most)
        vocab, stands_for = dict(self.vocab), {token: [i] for token, i in self.vocab.items()}
        first = max(vocab.values()) + 1
        for number, (left, right) in enumerate(merges):
            vocab[left + right] = first + number
            stands_for[left + right] = stands_for[left] + stands_for[right]
        made = Tokenizer(vocab, [*self.merges, *merges], self.context_length, self.pad_token)
        made.vocabulary = self.vocabulary
        return made, [stands_for["".join(pair)] for pair in merges]

    def _pieces(self, text: str) -> list[str]:
        """What a text is cut into before it is merged, bytes written as letters."""
        normal = self._backend.normalizer.normalize_str(text[:_LEARNED])
        cut: list[tuple[str, Any]] = self._backend.pre_tokenizer.pre_tokenize_str(normal)
        return [piece for piece, _ in cut]

    def _spelled(self, piece: str) -> list[str]:
        return [token.value for token in self._backend.model.tokenize(piece)]

    @classmethod
    def train(
        cls, captions: Iterable[str], vocab_size: int = 2048, context_length: int = 77
    ) -> "Tokenizer":
        """Learn merges from captions until `vocab_size` tokens (at least 514) are there.

        Fewer come out where the captions have no more pairs to merge.
        """
        from tokenizers import models, trainers

        smallest = 2 * 256 + 2  # bytes, bytes that end a word, two special tokens
        vocab_size = whole_number(vocab_size, "vocab_size", smallest, MAX_VOCABULARY)
        byte_tokens = _byte_alphabet()
        backend = _backend(models.BPE(end_of_word_suffix="</w>"))
        backend.train_from_iterator(
            _usable(_several(captions, "captions")),
            trainers.BpeTrainer(
                vocab_size=vocab_size,  # finds at least the merges that are kept below
                initial_alphabet=byte_tokens,
                end_of_word_suffix="</w>",
                show_progress=False,
            ),
        )
        state = json.loads(backend.to_str())["model"]
        merges = [(a, b) for a, b in state["merges"]][: vocab_size - smallest]
        # CLIP's order: bytes, bytes ending a word, merges, then the two special tokens, so that the
        # end token has the highest id (text features are pooled at the argmax of the ids).
        tokens = [*byte_tokens, *(b + "</w>" for b in byte_tokens), *("".join(m) for m in merges)]
        vocab = {token: i for i, token in enumerate([*dict.fromkeys(tokens), BOS, EOS])}
        return cls(vocab, merges, context_length)

    @classmethod
    def from_pretrained(cls, folder: str | Path, context_length: int | None = None) -> "Tokenizer":
        """Read `vocab.json` + `merges.txt`, or `tokenizer.json`, with `tokenizer_config.json`.

        Args:
            folder: where the files are.
            context_length: L, if the text encoder is known; else the files say it, or it is 77.

        Raises:
            ValueError: files that are missing, damaged, or not a byte-pair encoding.
        """
        folder = as_path(folder, "folder")
        config = _read_if_there(folder / "tokenizer_config.json")
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab: object = read_json(folder / "vocab.json")
            lines = read_text(folder / "merges.txt").split("\n")
            merges: object = [x for x in lines if x and not x.startswith("#version")]
        elif (folder / "tokenizer.json").is_file():
            model = read_json(folder / "tokenizer.json").get("model")
            if not isinstance(model, dict) or not {"vocab", "merges"} <= set(model):
                raise ValueError(f"{folder / 'tokenizer.json'} is not a byte-pair encoding")
            vocab, merges = model["vocab"], model["merges"]
        else:
            raise ValueError(f"{folder} holds no tokenizer (vocab.json and merges.txt)")
        length = context_length
        if length is None:
            named = f"{folder}: model_max_length"
            said = real_number(config.get("model_max_length", 77), named, 3, math.inf)
            length = int(said) if said < 2**16 else 77  # transformers writes 1e30 for "unknown"
        if "added_tokens_decoder" not in config:  # the older files: there the map has the last word
            config |= _read_if_there(folder / "special_tokens_map.json")
        pad = config.get("pad_token") or EOS
        pad = pad.get("content") if isinstance(pad, dict) else pad
        if not isinstance(pad, str):
            raise ValueError(f"{folder}: pad_token is {shown(pad)}; it must be a string")
        try:
            tokenizer = cls(_checked_vocabulary(vocab), _checked_merges(merges), length, pad)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        tokenizer.vocabulary = read_vocabulary(folder)
        return tokenizer

    def save_pretrained(self, folder: str | Path) -> None:
        """Write vocab.json, merges.txt and tokenizer_config.json, as `CLIPTokenizer` reads them,
        and what the vocabulary is."""
        folder = as_path(folder, "folder")
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.context_length,
            "bos_token": BOS,
            "eos_token": EOS,
            "unk_token": EOS,
            "pad_token": self.pad_token,
        }
        merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in self.merges)
        write_text(folder / "vocab.json", json.dumps(self.vocab, ensure_ascii=False))
        write_text(folder / "merges.txt", merges)
        write_json(folder / "tokenizer_config.json", config)
        if self.vocabulary:
            write_words(folder, self.vocabulary.words)
            if self.vocabulary.subjects:
                write_subjects(folder, self.vocabulary.subjects)


def _backend(model: Any) -> "Backend":
    from tokenizers import Regex, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    backend = Backend(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return backend


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes in CLIP's order, "!" first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def _usable(texts: Iterable[str]) -> Iterator[str]:
    """What is learned from texts: no empty ones, and nothing that no context holds."""
    return (text[:_LEARNED] for text in map(_text, texts) if text.strip())


def _text(text: Any) -> str:
    """A text that the library takes, or a ValueError."""
    of_kind(text, str, "a text", "a string")
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character
        raise ValueError(f"{shown(text)} is not valid Unicode text") from None
    return str(text)


def _several(texts: Any, name: str) -> Iterable[Any]:
    if isinstance(texts, str | bytes | Tensor) or not isinstance(texts, Iterable):
        raise ValueError(f"{name} must be several strings, not {type(texts).__name__}")
    return texts


def _checked_vocabulary(vocab: object) -> dict[str, int]:
    """Token → id as the library can take it: what it cannot, it answers by ending the program."""
    if not isinstance(vocab, dict):
        raise ValueError(f"the vocabulary is {shown(vocab)}; it must be an object of tokens")
    for token, number in vocab.items():
        whole_number(number, f"the id of the token {shown(token)}", 0, MAX_VOCABULARY - 1)
    return vocab


def _checked_merges(merges: object) -> list[tuple[str, str]]:
    """Pairs of tokens, of lines "a b" or of pairs."""
    if not isinstance(merges, list):
        raise ValueError(f"the merges are {shown(merges)}; they must be a list")
    pairs: list[Any] = [tuple(merge.split(" ") if isinstance(merge, str) else merge)
             if isinstance(merge, str | list) else () for merge in merges]  # fmt: skip
    for pair, merge in zip(pairs, merges, strict=True):
        if len(pair) != 2 or not all(isinstance(token, str) for token in pair):
            raise ValueError(f"{shown(merge)} is among the merges; each must be two tokens")
    return pairs


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path, MAX_CONFIG) if path.is_file() else {}
