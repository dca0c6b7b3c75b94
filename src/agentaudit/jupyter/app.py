"""The server extension: its configuration, and what all of its routes share."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from jupyter_server.extension.application import ExtensionApp
from tornado.ioloop import PeriodicCallback
from traitlets import Bool, List, Unicode

from agentaudit.client import tokens
from agentaudit.client.control import Control
from agentaudit.errors import QuestionError
from agentaudit.jupyter.archives import Archives
from agentaudit.jupyter.reporting import Reports
from agentaudit.jupyter.routes import ROUTES, Shared
from agentaudit.jupyter.sockets import at_once
from agentaudit.jupyter.verifying import Verifications
from agentaudit.jupyter.work import Work
from agentaudit.widgets.approvals import ApprovalQuestions

CLOSING_EVERY_MS = 60_000


class AgentauditApp(ExtensionApp):
    """Configured as all of Jupyter is, in `jupyter_agentaudit_config.py` or at the command line."""

    name = "agentaudit"
    load_other_extensions = True

    archives = List(
        Unicode(),
        help="Archives outside the server's root folder that may be read, by their paths.",
    ).tag(config=True)
    keys = List(
        Unicode(),
        help="Files with verifier keys to check archives with; one beside an archive never counts.",
    ).tag(config=True)
    control = Unicode(
        help="The control API of a gateway, for approvals (default: AGENTAUDIT_CONTROL)."
    ).tag(config=True)
    token_file = Unicode(
        help="What proves to it who decides (default: AGENTAUDIT_TOKEN, then agentaudit login)."
    ).tag(config=True)
    audience = Unicode(help="Of the tokens of agentaudit login, that for this.").tag(config=True)
    ca_file = Unicode(
        help="Certificates, PEM, for the control API instead of the system's authorities."
    ).tag(config=True)
    decides = Bool(
        True,
        help="Whether pages may approve and deny. Whoever may use this server decides as whoever "
        "runs it: say False where others may use it too.",
    ).tag(config=True)
    sends_at_once = Bool(
        True,
        help="Whether messages of kernels go to pages at once, each in a packet of its own "
        "(TCP_NODELAY). Without it each answer of a widget takes some 40 ms longer.",
    ).tag(config=True)

    def initialize_settings(self) -> None:
        # What a case warns of, pages show: `contradictions`.
        warnings.filterwarnings("ignore", message=".*run verify before you rely on this archive")
        assert self.serverapp is not None
        root = Path(self.serverapp.root_dir)
        archives = Archives(root, [Path(path) for path in self.archives])
        keys = [Path(path).expanduser() for path in self.keys]
        shared = Shared(
            archives=archives,
            work=Work(),
            verifications=Verifications(keys),
            reports=Reports(archives, keys),
            approvals=ApprovalQuestions(self._asked, decides=self.decides),
            has_control=bool(self._control_url()),
            may_decide=self.decides,
        )
        self.settings["agentaudit_shared"] = shared
        if self.sends_at_once:
            found = self.settings["kernel_websocket_connection_class"]
            self.settings["kernel_websocket_connection_class"] = at_once(found)
        self._shared = shared
        self._closing = PeriodicCallback(shared.archives.close_unused, CLOSING_EVERY_MS)
        self._closing.start()

    def initialize_handlers(self) -> None:
        self.handlers.extend(ROUTES)

    async def stop_extension(self) -> None:
        self._closing.stop()
        self._shared.verifications.close()
        self._shared.reports.close()
        self._shared.work.close()

    def _control_url(self) -> str:
        return (self.control or os.environ.get("AGENTAUDIT_CONTROL", "")).rstrip("/")

    def _asked(self) -> Control:
        """Return the control API with a token as it is now: logging in needs no new server."""
        url = self._control_url()
        if not url:
            raise QuestionError(
                "no control API is named", hint="set AGENTAUDIT_CONTROL, or AgentauditApp.control"
            )
        token = tokens.given(
            Path(self.token_file).expanduser() if self.token_file else None,
            control=url,
            audience=self.audience or None,
        )
        ca_file = Path(self.ca_file).expanduser() if self.ca_file else None
        return Control(url, token, ca_file=ca_file)
