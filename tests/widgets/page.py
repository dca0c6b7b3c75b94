"""A page for one component, without Jupyter: the built module, and its questions over HTTP.

It asks as a widget asks, through anywidget's interface, so what is tested is what notebooks load.
A question is a POST of its message; the answer is one body: 32 bits, little-endian, that say how
long the head is, the head (JSON: `answer`, and `sizes` of the buffers), and the buffers.

The page's policy lets it load what this server has and nothing else, run no inline script and
apply no inline style: what a component needs beyond that fails its test.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

from agentaudit.widgets.questions import Questions
from agentaudit.widgets.view import STATIC
from tests.widgets.conftest import ARTIFACTS, ROOT

AXE = ROOT / "extension" / "node_modules" / "axe-core" / "axe.min.js"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'"
)

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A component</title>
<link rel="stylesheet" href="/widget.css"><link rel="stylesheet" href="/page.css">
</head><body><main id="root"></main><script type="module" src="/page.js"></script></body></html>
"""

_STYLE = """\
body { margin: 0; padding: 16px; background: #fff; }
body[data-jp-theme-light="false"] { background: #111317; }
"""

_SCRIPT = """\
import widget from "/widget.js";

const traits = await (await fetch("/traits")).json();
const listeners = new Map();
const of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
const fire = (event, ...args) => of(event).forEach((listener) => listener(...args));

async function ask(message) {
  const reply = await fetch("/ask", { method: "POST", body: JSON.stringify(message) });
  const body = await reply.arrayBuffer();
  const length = new DataView(body).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)));
  let at = 4 + length;
  const buffers = head.sizes.map((size) => new DataView(body, (at += size) - size, size));
  fire("msg:custom", head.answer, buffers);
}

const model = {
  get: (name) => traits[name],
  set: (name, value) => { traits[name] = value; fire(`change:${name}`); },
  save_changes: () => {},
  on: (event, listener) => of(event).add(listener),
  off: (event, listener) => of(event).delete(listener),
  send: (message) => { for (const question of message.batch ?? [message]) void ask(question); },
};
const isDark = new URLSearchParams(location.search).get("theme") === "dark";
document.body.dataset.jpThemeLight = String(!isDark);
Object.assign(window, { traits, model });
window.leave = await widget.render({ model, el: document.getElementById("root") });
"""


PATHS = (
    "/",
    "/page.js",
    "/page.css",
    "/widget.js",
    "/widget.css",
    "/traits",
    "/favicon.ico",
    "/ask",
)
"""All that such a page asks for."""


@contextmanager
def serving(asked: Questions, name: str, traits: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Serve the widget `name` over `asked` on a free port; gives the page's address.

    `?theme=dark` after it makes the page dark, as JupyterLab says that it is.
    """
    files = {
        "/": ("text/html", _PAGE.encode()),
        "/page.js": ("text/javascript", _SCRIPT.encode()),
        "/page.css": ("text/css", _STYLE.encode()),
        "/widget.js": ("text/javascript", (STATIC / f"{name}.js").read_bytes()),
        "/widget.css": ("text/css", (STATIC / f"{name}.css").read_bytes()),
        "/traits": ("application/json", json.dumps(dict(traits or {})).encode()),
        "/favicon.ico": ("image/x-icon", b""),
    }

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, content = files.get(self.path.partition("?")[0], ("", None))
            if content is None:
                self.send_error(404)
                return
            self._send(kind, content)

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            replies: list[tuple[Any, list[bytes]]] = []
            asked.answer(message, lambda answer, buffers: replies.append((answer, buffers)))
            self._send("application/octet-stream", packed(*replies[0]))

        def _send(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing: a test's output is its own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def packed(answer: Any, buffers: list[bytes]) -> bytes:
    """Return an answer with its buffers as one body."""
    sizes = [len(each) for each in buffers]
    head = json.dumps({"answer": answer, "sizes": sizes}).encode()
    return len(head).to_bytes(4, "little") + head + b"".join(buffers)


def require_accessible(page: Page, where: str = ".aa-view") -> None:
    """Let axe-core look at what is shown: no serious violation of WCAG 2.1, levels A and AA."""
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate(
        """(where) => axe.run(where, {
            runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
            resultTypes: ["violations"],
        })""",
        where,
    )
    assert found["testEngine"]["name"] == "axe-core"
    grave = [
        f"{each['id']}: {each['help']}: {node['html'][:200]}: {node['failureSummary'][:300]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:3]
    ]
    assert not grave, "\n".join(grave)


def keep(shown: Page | Locator, name: str) -> Path:
    """Keep a screenshot in `artifacts/`, and return where."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"{name}.png"
    shown.screenshot(path=path)
    return path
