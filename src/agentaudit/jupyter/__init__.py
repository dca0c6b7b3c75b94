"""The workbench inside Jupyter: archives, live sessions and approvals, for its browser pages.

A Jupyter Server extension with routes below `/agentaudit`, and the JupyterLab plugin that asks
them, which is built from `extension/lab` and needs no Node where it is installed.

Jupyter says who somebody is: each route asks its identity provider and its authorizer, as
Jupyter's own do, and none adds an identity. What may be read is a list of archives; what may be
asked of them are questions by name. What goes to a gateway goes in the name of whoever's token
`agentaudit login` has kept for the user that runs the server
(docs/decisions/0025-a-jupyter-server-extension.md).
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from agentaudit.jupyter.app import AgentauditApp

    return [{"module": "agentaudit.jupyter", "app": AgentauditApp}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "../labextension", "dest": "@agentaudit/lab"}]
