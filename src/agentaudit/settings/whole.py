"""A whole `agentaudit.toml` as frozen models, and the policy that follows from it.

Here is what takes more than one table: names that are given twice or lead nowhere, rules that are
never reached, and the document that says what is in force for sessions.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr, model_validator

from agentaudit.settings.masks import Mask
from agentaudit.settings.rules import Rule
from agentaudit.settings.tables import (
    MAX_WEBHOOKS,
    Anchor,
    AnyTarget,
    Gateway,
    Issuer,
    Limits,
    Listen,
    Retention,
    Roles,
    Webhook,
    Witness,
)
from agentaudit.settings.values import MICROSECOND, Table


class Settings(Table):
    """A whole `agentaudit.toml`; paths are absolute once `load` has returned it."""

    gateway: Gateway
    listen: Listen = Listen()
    limits: Limits = Limits()
    roles: Roles = Roles()
    issuer: tuple[Issuer, ...] = ()
    target: tuple[AnyTarget, ...] = ()
    retention: tuple[Retention, ...] = ()
    witness: tuple[Witness, ...] = ()
    anchor: tuple[Anchor, ...] = ()
    webhook: Annotated[tuple[Webhook, ...], Field(max_length=MAX_WEBHOOKS)] = ()
    rule: tuple[Rule, ...] = ()
    mask: tuple[Mask, ...] = ()

    _path: Path | None = PrivateAttr(default=None)

    @property
    def path(self) -> Path | None:
        """The file that `load` read, or None."""
        return self._path

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        for what, names in (
            ("issuer url", [issuer.url for issuer in self.issuer]),
            ("target name", [target.name for target in self.target]),
            ("rule name", [rule.name for rule in self.rule]),
            ("mask name", [mask.name for mask in self.mask]),
            ("retention name", [retention.name for retention in self.retention]),
            ("witness url", [witness.url for witness in self.witness]),
            ("witness key", [witness.key for witness in self.witness]),
            ("anchor url", [anchor.url for anchor in self.anchor]),
            ("webhook url", [webhook.url for webhook in self.webhook]),
        ):
            for name in sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f'{what} "{name}" is given twice')
        if self.limits.journal_max < 2 * self.gateway.segment_bytes:
            raise ValueError(
                "limits.journal_max must be at least twice gateway.segment_bytes: one segment is "
                "written while another is sealed"
            )
        classes = [retention.name for retention in self.retention]
        for target in self.target:
            if target.retention is not None and target.retention not in classes:
                near = difflib.get_close_matches(target.retention, classes, n=1, cutoff=0)
                there = f'the nearest is "{near[0]}"' if near else "there is no [[retention]]"
                raise ValueError(
                    f'target "{target.name}": retention "{target.retention}" is no class, {there}'
                )
        self._reaches_every_rule()
        if self.webhook and self.listen.control is None:
            raise ValueError("[[webhook]] needs listen.control: the control API's process does it")
        if self.listen.ssh is not None and self.gateway.ssh_host_key_file is None:
            raise ValueError("listen.ssh needs gateway.ssh_host_key_file, by which clients know it")
        if self.listen.postgres_oauth and not self.issuer:
            raise ValueError("listen.postgres_oauth is true, and there is no [[issuer]] to name")
        for key in ("postgres", "control"):
            address = getattr(self.listen, key)
            if address is None or address.is_loopback or self.gateway.tls_cert_file is not None:
                continue
            raise ValueError(
                f"listen.{key} is {address}, and without gateway.tls_cert_file"
                " only loopback may be listened on: tokens would cross the network in clear"
            )
        return self

    def _require_targets(self, where: str, names: Sequence[str]) -> None:
        targets = [target.name for target in self.target]
        for name in names:
            if name not in targets:
                near = difflib.get_close_matches(name, targets, n=1, cutoff=0)
                there = f'the nearest is "{near[0]}"' if near else "there is no [[target]]"
                raise ValueError(f'{where}: "{name}" is no target, {there}')

    def _reaches_every_rule(self) -> None:
        for mask in self.mask:
            self._require_targets(f'mask "{mask.name}"', mask.target or ())
        for number, rule in enumerate(self.rule):
            where = f'rule "{rule.name}"'
            self._require_targets(where, rule.when.target or ())
            for before in self.rule[:number]:
                if before.hides(rule):
                    raise ValueError(
                        f'{where} is never reached: all that it is about, rule "{before.name}" '
                        "decides before it"
                    )

    @property
    def needs_state(self) -> bool:
        """Whether people decide on something here, so that it must be known who decided what."""
        return (
            self.listen.control is not None
            or self.gateway.ssh_ca_key_file is not None
            or any(rule.action == "hold" for rule in self.rule)
            or any(t.default == "hold" or t.has_windows for t in self.target)
        )

    def policy_document(self) -> bytes:
        """Return what is in force for sessions as canonical JSON (RFC 8785), without secrets."""
        document = {
            "default": "allow",
            "masks": [mask.document() for mask in self.mask],
            "retention": {
                "classes": {
                    r.name: {
                        "keep_us": r.keep // MICROSECOND,
                        "payload_keep_us": None
                        if r.payload_keep is None
                        else r.payload_keep // MICROSECOND,
                        "notice_us": r.notice // MICROSECOND,
                    }
                    for r in self.retention
                },
                "targets": {t.name: t.retention for t in self.target if t.retention is not None},
            },
            "rules": [rule.document() for rule in self.rule],
            "targets": [
                {
                    "access": t.access,
                    "default": t.default,
                    "groups": list(t.groups),
                    "name": t.name,
                    "payload_limit": t.payload_limit,
                }
                | t.window_document()
                | t.protocol_document()
                # Named only where they say something, so that other policies keep their digests.
                | ({"tags": t.tags} if t.tags else {})
                | ({"approvers": list(t.approvers)} if t.approvers else {})
                for t in sorted(self.target, key=lambda t: t.name)
            ],
        }
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    def mask_digest(self) -> str:
        """Return the SHA-256 of the policy document's `masks`, empty where there are none."""
        masks = [mask.document() for mask in self.mask]
        text = json.dumps(masks, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest() if masks else ""

    def policy_digest(self) -> str:
        """Return the SHA-256 of `policy_document` in lower-case hex: what sessions refer to."""
        return hashlib.sha256(self.policy_document()).hexdigest()
