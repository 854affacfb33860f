"""How a browser shows its key: once, in a form; a cookie that no script reads stands for it."""

from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from unclip.interfaces.server.desk import Desk
from unclip.interfaces.server.keys import COOKIE, cookie_of

_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>unclip: your key</title>
<meta name=viewport content='width=device-width'><style>
body{{font:16px/1.5 system-ui,sans-serif;color-scheme:light dark;min-height:100vh;margin:0;
display:grid;place-items:center;background:light-dark(#f8fafc,#0c0f17)}}
form{{background:light-dark(#fff,#141927);border:1px solid light-dark(#e2e8f0,#232a3d);
border-radius:16px;padding:2rem;width:min(22rem,calc(100vw - 4rem));display:grid;gap:1rem}}
h1{{margin:0;font-size:1.4rem}}input,button{{font:inherit;padding:.6rem .8rem;border-radius:10px;
border:1px solid #94a3b8}}button{{background:#7c3aed;color:#fff;border:0;cursor:pointer}}
p{{margin:0}}[role=alert]{{color:light-dark(#b91c1c,#fca5a5)}}
</style><form method=post action=login><h1>unclip</h1>
<p>This server asks for a key, the same that programs send.</p>{wrong}
<label>Key <input type=password name=key autofocus required autocomplete=current-password
 style='width:100%;box-sizing:border-box'></label><button>Go on</button></form></html>"""
_MOST = 4096  # bytes of the form


def who(scope: Scope, desk: Desk) -> str | None:
    """Whose session a browser's cookie is."""
    return desk.keys.session(cookie_of(scope["headers"]))


async def login(request: Request) -> Response:
    """GET and POST /login; also what `/` shows to who has no session."""
    request.state.endpoint = "/login"
    desk: Desk = request.app.state.desk
    if request.method != "POST":
        return _form("")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _MOST:
            break
    given = parse_qs(data[:_MOST].decode("utf-8", "replace")).get("key", [""])[0]
    token = desk.keys.opened(given.strip())
    if token is None:
        return _form("The key is wrong.", 401)
    answer = RedirectResponse(str(request.base_url), 303)
    answer.set_cookie(
        COOKIE, token, max_age=desk.keys.SESSION, httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return answer


def _form(wrong: str, status: int = 200) -> Response:
    said = f"<p role=alert>{escape(wrong)}</p>" if wrong else ""
    # With "no-referrer" browsers would send the form with `Origin: null`, as if of another site.
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "same-origin"}
    return HTMLResponse(_PAGE.format(wrong=said), status, headers)
