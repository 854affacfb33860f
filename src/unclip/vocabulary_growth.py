"""Tokens for words that a tokenizer has never seen, beside those that it has.

Byte-pair encoding reads any text: what it does not know it spells, by bytes if need be. A word of
six such pieces takes six places of the context, and a text encoder that was trained without it has
never seen them together. Here merges are learned from new captions (Sennrich et al. 2016, algorithm
1) and put after the old ones, which so come first: words that were known are read as before, to the
last id.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise

Spelled = Callable[[str], list[str]]
"""A word's tokens."""
Pair = tuple[str, str]
_OFTEN = 2  # times that a pair must occur


def new_merges(
    words: Mapping[str, int],
    known: Collection[str],
    spelled: Spelled,
    taken: Collection[str],
    most: int,
) -> list[Pair]:
    """Merges for words, by how often they occur, that change nothing of how known words are read.

    Args:
        words: word → how often.
        known: words that stay as they are.
        spelled: by the merges that are there.
        taken: tokens that are there.
        most: merges.
    """
    fixed = {pair for word in known for pair in _pairs(spelled(word))}
    spellings = [(spelled(word), count) for word, count in words.items()]
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, (tokens, count) in enumerate(spellings):
        for pair in _pairs(tokens):
            counts[pair] += count
            where[pair].add(number)
    merges: list[Pair] = []
    made = set(taken)
    while len(merges) < most:
        best = _best(counts, fixed, made)
        if best is None:
            break
        merges.append(best)
        made.add("".join(best))
        for number in where.pop(best):
            tokens, count = spellings[number]
            for pair in _pairs(tokens):
                counts[pair] -= count
            tokens = joined(tokens, best)
            spellings[number] = tokens, count
            for pair in _pairs(tokens):
                counts[pair] += count
                where[pair].add(number)
        del counts[best]
    return merges


def _best(
    counts: Mapping[Pair, int], fixed: Collection[Pair], made: Collection[str]
) -> Pair | None:
    """The most frequent pair that may be merged, the first of the alphabet among equals."""
    able = (
        (-count, pair)
        for pair, count in counts.items()
        if count >= _OFTEN and pair not in fixed and "".join(pair) not in made
    )
    found = min(able, default=None)
    return found and found[1]


def joined(tokens: list[str], pair: Pair) -> list[str]:
    """Tokens with each place of the pair, from the left, made one token."""
    out: list[str] = []
    for token in tokens:
        if out and (out[-1], token) == pair:
            out[-1] += token
        else:
            out.append(token)
    return out


def _pairs(tokens: list[str]) -> list[Pair]:
    return list(pairwise(tokens))
