"""A page that is not Jupyter's, with a widget on it and its kernel's half in this process."""

from __future__ import annotations

import base64
import json
from typing import Any

from playwright.sync_api import Locator, Page

from agentaudit.widgets.view import STATIC, View

# What anywidget gives a bundle (anywidget.dev/en/afm), over a function that Playwright exposes.
PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A widget</title></head>
<body style="margin: 0"><div id="root"></div></body></html>
"""
DRAW = """\
async ([code, state]) => {
  const module = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const { default: widget } = await import(module);
  const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  let hear = () => {};
  const model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; },
    save_changes: () => {},
    on: (event, listener) => { if (event === "msg:custom") hear = listener; },
    off: () => {},
    send: async (message) => {
      const told = await window.askTheKernel(message);
      for (const [answer, buffers] of told) hear(answer, buffers.map(bytes));
    },
  };
  widget.render({ model, el: document.getElementById("root") });
}
"""


def draw(page: Page, widget: View, name: str) -> Locator:
    """Draw `widget`, whose bundle is `name`, on a page of its own; return what it is drawn in."""

    def ask(message: object) -> list[tuple[dict[str, Any], list[str]]]:
        told: list[tuple[dict[str, Any], list[str]]] = []
        widget._questions.answer(
            message,
            lambda answer, buffers: told.append(
                (answer, [base64.b64encode(buffer).decode() for buffer in buffers])
            ),
        )
        return told

    page.expose_function("askTheKernel", ask)
    page.set_content(PAGE)
    page.add_style_tag(content=sheet(name))
    state = {key: value for key, value in widget.get_state().items() if not key.startswith("_")}
    page.evaluate(DRAW, [(STATIC / f"{name}.js").read_text("utf-8"), json.loads(json.dumps(state))])
    return page.locator("#root > *")


def sheet(name: str) -> str:
    """Return a bundled style sheet."""
    return (STATIC / f"{name}.css").read_text("utf-8")
