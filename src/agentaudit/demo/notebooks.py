"""Executes a notebook into one HTML file that fetches nothing.

nbconvert's page loads RequireJS, MathJax, Mermaid and the widget manager from public servers. A
page that shows evidence must not, so those parts are left out; widgets appear as the HTML that
they offer beside themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import agentaudit.demo
from agentaudit.demo.processes import PeerError, temporary_folder

_TIMEOUT_SECONDS = 120

_TEMPLATE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""


def find_notebook(name: str) -> Path | None:
    """Return the path of one of the project's notebooks, or None where none are installed."""
    source = Path(agentaudit.demo.__file__).resolve().parents[3]
    path = source / "notebooks" / name
    return path if path.is_file() else None


def execute(notebook: Path, html: Path, *, environment: Mapping[str, str]) -> None:
    """Run `notebook` in a kernel with `environment` on top of ours, and write it as `html`.

    The notebook itself is not changed.

    Raises:
        PeerError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    read: Any = nbformat.read
    document = read(notebook, as_version=4)
    # A profile of its own: nothing of the user's start-up files, nothing left in their history.
    with temporary_folder("agentaudit-kernel-") as profile:
        kernel_environment = os.environ | {"IPYTHONDIR": str(profile)} | dict(environment)
        client = NotebookClient(
            document,
            timeout=_TIMEOUT_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(notebook.parent)}},
            store_widget_state=False,
            # Sockets in a private folder: over TCP, the kernel talks in the clear on loopback.
            config=Config({"KernelManager": {"transport": "ipc", "ip": str(profile / "kernel")}}),
        )
        try:
            client.execute(env=kernel_environment)
        except CellExecutionError as error:
            raise PeerError(
                f"{notebook.name}: a cell failed: {error.ename}: {error.evalue}",
                hint="open it in JupyterLab to see which: make lab",
            ) from None
    exporter: Any = HTMLExporter
    body, _ = exporter(raw_template=_TEMPLATE).from_notebook_node(document)
    html.write_text(body, encoding="utf-8")
