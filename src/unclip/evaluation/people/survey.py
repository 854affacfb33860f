"""A person's questions in their order, and what a page shows of them: never whose images they are.

An image is named by a keyed hash of its file, and its pixels are encoded anew, since notes and file
names say which model made it.
"""

import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from unclip.data.transforms import open_image
from unclip.evaluation.people.answers import Answers
from unclip.evaluation.people.questions import Question, seat

_LONGEST = 24 * 3600.0  # seconds of thought that are believed


class Survey:
    """What one person is asked.

    Args:
        questions: those of `questions_of`.
        answers: where answers are kept.
        seed: of the order and of the sides, with the person's name.
    """

    def __init__(
        self, questions: Sequence[Question], answers: Answers, rater: str, seed: int
    ) -> None:
        self.rater, self.answers = rater, answers
        self.order = seat(questions, seed, rater)
        self._numbers = {one.question.key: number for number, one in enumerate(self.order)}
        self.secret = answers.secret()
        files = {file for one in self.order for side in one.sides for file in side}
        self._files = {self._name(file): file for file in files}
        self.image = lru_cache(64)(self._image)

    def state(self, number: int | None = None) -> dict[str, Any]:
        """What the page shows: the question of this number, or the first that has no answer.

        Returns:
            number (None where all are answered and none was asked for), total, done, and of the
            question key, kind, caption, sides (two lists of names of images) and choice ("" yet).
        """
        chosen = self._chosen()
        if number is None or not 0 <= number < len(self.order):
            number = self._next(chosen, 0)
        facts = {"number": number, "total": len(self.order), "done": len(chosen)}
        if number is None:
            return facts
        seated = self.order[number]
        return {
            **facts,
            "key": seated.question.key,
            "kind": seated.question.kind,
            "caption": seated.question.caption,
            "sides": [[self._name(file) for file in side] for side in seated.sides],
            "choice": chosen.get(seated.question.key, ""),
        }

    def answer(self, key: str, choice: str, seconds: float, nonce: str) -> dict[str, Any]:
        """Keep an answer; gives the number of the next question that has none, None after the last.

        Raises:
            ValueError: no such question or choice; the file cannot be written.
        """
        if key not in self._numbers:
            raise ValueError("there is no such question any more; load the page again")
        number = self._numbers[key]
        seconds = min(max(seconds, 0.0), _LONGEST)
        self.answers.append(self.order[number], self.rater, choice, seconds, nonce)
        return {"next": self._next(self._chosen(), number + 1)}

    def _chosen(self) -> dict[str, str]:
        """Answers to these questions; the file may hold others."""
        given = self.answers.chosen(self.rater)
        return {key: choice for key, choice in given.items() if key in self._numbers}

    def _next(self, chosen: dict[str, str], start: int) -> int | None:
        """The first question without an answer from `start` on, and from the first one on."""
        count = len(self.order)
        turned = ((start + step) % count for step in range(count))
        return next((n for n in turned if self.order[n].question.key not in chosen), None)

    def _name(self, file: Path) -> str:
        return hmac.new(self.secret.encode(), bytes(file), hashlib.sha256).hexdigest()[:32]

    def _image(self, name: str) -> bytes:
        """A PNG of the pixels alone, by the name that `state` gives.

        Raises:
            ValueError: there is none of this name, or it cannot be read any more.
        """
        if name not in self._files:
            raise ValueError("there is no such image")
        encoded = BytesIO()
        open_image(self._files[name]).save(encoded, "PNG", compress_level=1)
        return encoded.getvalue()
