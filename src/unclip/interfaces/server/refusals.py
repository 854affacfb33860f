"""What is refused, and how: OpenAI's error envelope, whatever went wrong."""

from typing import Any

from starlette.responses import JSONResponse

from unclip.checks import printable
from unclip.serving.scheduler import ClosingError, FullError, LateError
from unclip.storage.folder import ReplacedError

_MOST = 600  # characters of a sentence


class RefusedError(Exception):
    """A request that is answered by a status and a sentence.

    Args:
        param: the field that is at fault.
        code: a word for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}


def refusal_of(error: BaseException) -> RefusedError:
    """The answer to what ended a request."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, FullError):
        wait = {"Retry-After": str(error.seconds)}
        return RefusedError(429, str(error), code="queue_full", headers=wait)
    if isinstance(error, ClosingError):
        wait = {"Retry-After": "5", "Connection": "close"}
        return RefusedError(503, str(error), code="shutting_down", headers=wait)
    if isinstance(error, LateError):
        return RefusedError(504, str(error), code="timeout")
    if isinstance(error, ReplacedError):
        return RefusedError(
            503, "the model's files were replaced while it was served: start the server anew",
            code="model_changed",
        )  # fmt: skip
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return RefusedError(400, str(error))
    if _is_memory(error):
        return RefusedError(
            503, "there is not enough memory for this: ask for a smaller size", code="out_of_memory"
        )
    return RefusedError(500, "a fault of the server's, not of your request", code="server_error")


def envelope(refused: RefusedError) -> dict[str, Any]:
    """As OpenAI's API says it."""
    sentence = printable(str(refused))
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    if refused.status == 429:
        kind = "rate_limit_error"
    return {
        "error": {
            "message": sentence if len(sentence) <= _MOST else f"{sentence[:_MOST]}…",
            "type": kind,
            "param": refused.param,
            "code": refused.code,
        }
    }


def answer_to(error: BaseException) -> JSONResponse:
    """The response for what ended a request."""
    refused = refusal_of(error)
    return JSONResponse(envelope(refused), refused.status, refused.headers)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )
