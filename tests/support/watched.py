"""A page in a browser, watched for anything that recorded text has made it do.

`Watched` hears what runs, what is asked for, where the page goes and what its policy stops; with
`look` it finds elements, attributes and characters that no view of ours has. A script of a page may
look too, with `aaLook(element)`, at each step of what it does.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Frame, Page, Request

from agentaudit.analysis.printable import printable

MADE = (
    *("main", "section", "article", "header", "footer", "nav", "div", "span", "p", "h1", "h2"),
    *("h3", "h4", "b", "i", "em", "strong", "small", "code", "pre", "mark", "br", "hr", "dl", "dt"),
    *("dd", "ol", "ul", "li", "table", "caption", "thead", "tbody", "tr", "th", "td", "button"),
    *("input", "select", "option", "textarea", "label", "details", "summary", "figure"),
    *("figcaption", "canvas", "output", "form", "svg", "path", "g", "rect", "line", "text"),
    *("title", "circle", "time", "h5", "progress"),
)
"""Elements that our views make. None loads anything by itself, and none runs without `on…`."""

_BEFORE = """\
(made) => {
  const saw = (window.aaSaw = new Set());
  const texts = (window.aaTexts = new Set());
  for (const name of ["alert", "confirm", "prompt", "open", "print"]) {
    window[name] = () => { saw.add(`${name} was called`); };
  }
  Object.defineProperty(window, "aaPwned", { set() { saw.add("it ran"); }, get() {} });
  addEventListener("securitypolicyviolation", (event) => {
    saw.add(`stopped: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
  }, true);
  const allowed = new Set(made);
  const leads = new Set(["href", "xlink:href", "src", "srcset", "srcdoc", "action", "formaction",
    "data", "background", "poster", "ping", "manifest", "http-equiv", "autofocus", "data-file"]);
  const said = new Set(["title", "aria-label", "aria-valuetext", "aria-description",
    "placeholder", "alt", "summary", "label"]);
  window.aaLook = (root) => {
    for (const node of [root, ...root.querySelectorAll("*")]) {
      const html = () => node.cloneNode(false).outerHTML.slice(0, 200);
      if (!allowed.has(node.localName)) saw.add(`element ${html()}`);
      for (const { name, value } of node.attributes) {
        const isWrong = name.startsWith("on") || leads.has(name)
          || (name === "style" && /url|import|expression/i.test(value));
        if (isWrong) saw.add(`attribute ${name} of ${html()}`);
        if (said.has(name)) texts.add(value);
      }
      for (const child of node.childNodes) if (child.nodeType === 3) texts.add(child.data);
    }
    return root.textContent;
  };
}
"""


@dataclass
class Watched:
    """What a page did; `page` was not opened yet when this was made.

    `home` is where its own files are: requests that go elsewhere count, and so do those for paths
    that are not in `paths`, where that is given. `logs` says whether what its console says as an
    error counts: JupyterLab's own code says much there.
    """

    page: Page
    home: str
    paths: Collection[str] | None = None
    logs: bool = True
    did: list[str] = field(default_factory=list)
    opened: int = 0

    def __post_init__(self) -> None:
        page, did = self.page, self.did
        page.add_init_script(f"({_BEFORE})({json.dumps(MADE)})")
        page.on("request", self._asked)
        page.on("framenavigated", self._went)
        page.on("popup", lambda popup: did.append(f"opened {popup.url}"))
        page.on("dialog", lambda dialog: (did.append(f"asked {dialog.message}"), dialog.dismiss()))
        page.on("download", lambda download: did.append(f"downloaded {download.url}"))
        page.on("pageerror", lambda error: did.append(f"failed: {error}"))
        page.on("console", self._said)

    def _asked(self, request: Request) -> None:
        url = request.url
        path = urlsplit(url).path
        if not url.startswith((self.home, "blob:", "data:")):
            self.did.append(f"asked {url}")
        elif self.paths is not None and path not in self.paths:
            self.did.append(f"asked for {path}")

    def _said(self, said: ConsoleMessage) -> None:
        if self.logs and said.type == "error":
            self.did.append(f"said: {said.text}")

    def _went(self, frame: Frame) -> None:
        if frame.parent_frame is not None:
            self.did.append(f"a frame of {frame.url}")
        elif frame.url.startswith(self.home):
            self.opened += 1
        elif frame.url != "about:blank":
            self.did.append(f"went to {frame.url}")

    def look(self, where: str = "body > main") -> str:
        """Look at what `where` matches, and return the text that is in it."""
        found = self.page.eval_on_selector_all(where, "roots => roots.map(aaLook).join('\\n')")
        assert found
        return str(found)

    def require_nothing(self, opened: int = 1) -> None:
        """Nothing ran, was asked for, was stopped or failed; the page was gone to so many times.

        In what was looked at is no element or attribute that no view of ours makes, and all that
        a reader would obey is written out, also where it is only read aloud.
        """
        saw = self.page.evaluate("() => [...aaSaw]")
        assert saw == [], saw
        texts = self.page.evaluate("() => [...aaTexts]")
        obeyed = [text for text in texts if printable(text, block=True) != text]
        assert obeyed == [], ascii(obeyed)
        assert self.did == [], self.did
        assert self.opened == opened
