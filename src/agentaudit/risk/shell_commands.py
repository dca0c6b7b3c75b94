"""Programs with commands of their own: which of these only read, and with which options.

A row is `commands | class | options | findings`, with options in the notation of `shell_tools`. A
command that has no row is of the class that is said for its program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from agentaudit.risk.shell_effects import (
    Effect,
    Input,
    Options,
    Program,
    below,
    literal,
    read_options,
    texts_of,
    unknown,
)
from agentaudit.risk.shell_reading import Word
from agentaudit.risk.shell_tools import options


class Commands:
    """The commands of a program, and with which options each of them is of which class."""

    def __init__(
        self,
        rows: str,
        before: str,
        otherwise: str = "unknown",
        *findings: str,
        alone: str = "unknown",
        pages: bool = False,
    ) -> None:
        self.before = options(before)
        self.otherwise = otherwise
        self.findings = findings
        self.alone = alone
        self.pages = pages
        self.rows: dict[str, list[tuple[str, Options, tuple[str, ...]]]] = {}
        for row in rows.replace("\n  ", " ").splitlines():
            if row.strip():
                names, cls, listed, *shown = (part.strip() for part in row.split("|"))
                found = tuple(shown[0].split(", ")) if shown else ()
                for each in names.split(","):
                    row_of = (cls, options(listed), found)
                    self.rows.setdefault(each.strip(), []).append(row_of)

    def effect(self, name: str, words: Sequence[Word], given: Input) -> Effect:
        before = read_options(replace(self.before, ends_at_operand=True), words)
        if before.findings:
            return unknown(*before.findings, *self.findings)
        rest = before.operands
        if not rest:
            is_asked = before.has("version", "help", "v", "V")
            cls = "read" if is_asked else self.alone
            return Effect(
                cls=cls,
                findings=self.findings if cls == "unknown" else (),
                is_paged=self.pages and not before.has("no-pager"),
            )
        texts = [word.text or "" for word in rest]
        for length in (3, 2, 1):
            command = " ".join(texts[:length])
            rows = self.rows.get(command, ()) if length <= len(texts) else ()
            for number, (cls, known, found) in enumerate(rows, 1):
                read = read_options(known, rest[length:])
                # A row with `--none` is about the command without operands.
                fits = not read.findings and not ("none" in known.kinds and read.operands)
                if not fits and number < len(rows):
                    continue
                if not fits:
                    return unknown(
                        *(read.findings or ["unknown option"]),
                        *self.findings,
                        operation=f"{name} {command}",
                    )
                return Effect(
                    cls="write" if cls == "read" and read.writes else cls,
                    operation=f"{name} {command}",
                    reads=tuple(read.reads),
                    writes=tuple(read.writes),
                    findings=found,
                    is_paged=self.pages
                    and cls == "read"
                    and not (before.has("no-pager", "P") or read.has("no-pager")),
                )
        operation = f"{name} {texts[0]}".strip()
        if self.otherwise == "unknown" or not texts[0]:
            return unknown(*self.findings, operation=operation)
        return Effect(cls=self.otherwise, operation=operation, findings=self.findings)


_LOG: Final = (
    "-pPsuwbgiMmrq -# -n: -S: -G: -L: -U? -C? --oneline --graph --all --decorate --stat --shortstat"
    " --numstat --name-only --name-status --patch --no-patch --format: --pretty --abbrev-commit"
    " --since: --until: --after: --before: --author: --grep: --follow --reverse --merges"
    " --first-parent --max-count: --cached --staged --color --no-color --no-ext-diff --no-textconv"
    " --diff-filter: --date: --word-diff --ignore-all-space --summary --unified --branches --tags"
    " --remotes --not --quiet --exit-code --check --raw --abbrev --left-right --no-merges"
)
_GIT: Final = Commands(
    f"""
    status | read | -sbuvz --short --branch --porcelain --untracked-files --ignored --long
    log, show, diff, shortlog, whatchanged, reflog show, range-diff | read | {_LOG}
    reflog | read | --none
    diff-tree, diff-index, diff-files | read | {_LOG} -t
    blame, annotate | read | -wslfneptMC -L: --date: --porcelain --line-porcelain
    rev-parse | read | -q --abbrev-ref --short --verify --show-toplevel --git-dir --show-prefix
      --is-inside-work-tree --show-cdup --symbolic-full-name --is-bare-repository
    rev-list | read | {_LOG} --count --objects
    ls-files | read | -cdmoiskutvz --others --exclude-standard --cached --modified --deleted --stage
    ls-tree | read | -rdtlz --name-only --full-tree
    cat-file | read | -tpse
    describe | read | --tags --always --dirty --long --abbrev --all --exact-match --match:
    grep | read | -niIlLcwvEFPhHqA: -e: -A: -B: -C: --count --name-only --line-number --cached
    branch | read | --none -avrv --all --list --remotes --show-current --merged --contains
    branch -a, branch --list, branch -l, branch --contains, branch --merged | read | -avr --format:
    tag | read | --none -ln --list --sort: --format:
    tag -l, tag --list | read | -n --sort: --format:
    remote | read | --none -v --verbose
    remote get-url | read | --all --push
    stash list | read | --oneline
    stash show | read | -p --stat
    config --get, config --list, config -l, config --get-all, config --get-regexp | read |
      --global --system --local --show-origin --name-only
    config get, config list | read | --global --local --show-origin
    worktree list | read | --porcelain -v
    submodule status | read | --recursive
    for-each-ref | read | --format: --sort: --count: --points-at:
    show-ref, name-rev, merge-base, var, version, check-ignore, count-objects | read |
      -vd --heads --tags --is-ancestor --all --hash
    add, stage | write | -Aufvpn --all --update --force
    commit | write | -amvqsSn -F< --amend --no-edit --message: --all --allow-empty --no-verify
      --author: --date: -m:
    checkout, switch, restore, reset, revert, cherry-pick, merge, rm, mv, stash, tag, branch
      | write | -bBfqcCdDmMlurnxsSaAve --hard --soft --mixed --force --staged --worktree --source:
      --ours --theirs --abort --continue --no-edit --no-ff --ff-only --squash --delete --cached
      --track --detach --create: | overwrites
    init | write | -q --bare --initial-branch: -b:
    fetch, pull | write | -apqtv --all --prune --tags --depth: --rebase --ff-only --no-rebase
      --no-tags --unshallow | contacts host
    clean | write | -dfxXnqe | deletes, deletes recursively
    gc, prune, reflog expire, reflog delete | write | --auto --prune --now --expire: --all | deletes
    push | write | -uqnfv --set-upstream --tags --all --force --force-with-lease --delete
      --follow-tags | sends data, contacts host
    """.replace("\n    ", "\n"),
    "-C: -P --no-pager --version --help --no-optional-locks",
    "unknown",
    pages=True,
)


def _git(name: str, words: Sequence[Word], given: Input) -> Effect:
    effect = _GIT.effect(name, words, given)
    texts = [word.text or "" for word in words]
    if any("::" in each for each in texts):
        return unknown("runs code", operation=effect.operation)  # a transport of its own
    if effect.cls != "write":
        return effect
    folder = next((b for a, b in pairwise(words) if a.text == "-C"), literal("."))
    return replace(effect, writes=(*effect.writes, below(folder)))


_DOCKER: Final = Commands(
    """
ps, images, image ls, container ls, volume ls, network ls, compose ls, context ls, service ls
  | read | -aqnlsf --all --quiet --no-trunc --format: --filter: --size --digests -f:
node ls, stack ls, stack ps, service ps, system df | read | -qv --format: --filter: -f: --verbose
logs, container logs, service logs, compose logs | read | -ft -n: --tail: --since: --until: --follow
  --timestamps --details --no-color --no-log-prefix
inspect, image inspect, container inspect, network inspect, volume inspect, service inspect, history
  | read | -s -f: --format: --type: --size --no-trunc --pretty
version, info, system info | read | -f: --format:
top, stats, port, diff, events, compose ps, compose top, compose images, compose config
  | read | -aqf: --all --no-stream --format: --no-trunc --since: --until: --filter: --services
""",
    "--version --help -v",
    "admin",
    "manages containers",
)

_KUBECTL: Final = Commands(
    """
get, describe, top, top pod, top pods, top node, top nodes, api-resources, api-versions, explain
  | read | -Awo: -n: -l: --all-namespaces --namespace: --selector: --output: --watch --show-labels
  --sort-by: --field-selector: --no-headers --context: --containers --namespaced --recursive
logs | read | -fp -n: -c: -l: --tail: --since: --previous --follow --namespace: --container:
  --timestamps --all-containers --context: --prefix --selector:
version, cluster-info, config current-context, config get-contexts, config view, auth can-i
  | read | -A -n: -o: --client --short --minify --output: --namespace: --list --context:
rollout status, rollout history | read | -n: --namespace: --watch --timeout: --revision: --context:
diff | write | -n: -f<
apply, create, delete, scale, patch, label, annotate, set, rollout restart, rollout undo, expose,
  edit, autoscale, taint, drain, cordon, uncordon, replace | admin | -n: -f: -k: -l: -A -R -p: -o:
  --all --force --namespace: --grace-period: --replicas: --type: --patch: --from-literal: --image:
  --now --ignore-daemonsets --filename: --recursive --wait | manages containers
""",
    "-n: --namespace: --context: --version --help",
)

_HELM: Final = Commands(
    """
list, ls, status, history, get values, get manifest, get notes, get all, version, env
  | read | -aAq -n: -o: --all --all-namespaces --namespace: --output: --revision: --short --max:
""",
    "-n: --namespace: --version --help",
    "unknown",
    "manages containers",
)

_SYSTEMCTL: Final = Commands(
    """
status, show, cat, is-active, is-enabled, is-failed, list-units, list-unit-files, list-timers,
  list-sockets, list-jobs, list-dependencies, get-default, is-system-running
  | read | -alqn: -t: -p: -o: --all --type: --state: --no-pager --failed --user --property: --value
  --lines: --full --no-legend --plain --reverse --output:
""",
    "-al -t: --user --system --no-pager --version --failed --type: --state: --all",
    "admin",
    "manages services",
    alone="read",
    pages=True,
)


def _service(name: str, words: Sequence[Word], given: Input) -> Effect:
    texts = texts_of(words)
    # A name with a slash leads to a file elsewhere.
    if texts == ["--status-all"] or (
        texts and len(texts) == 2 and texts[1] == "status" and re.fullmatch(r"[\w@.-]+", texts[0])
    ):
        return Effect(cls="read", operation="service status")
    return Effect(cls="admin", findings=("manages services",))


_PACKAGES: Final = {
    "apt": Commands(
        "list, show, search, policy, depends | read | -a --installed --upgradable --all-versions",
        "--version",
        "admin",
        "manages packages",
        pages=True,
    ),
    "apt-cache": Commands(
        "show, search, policy, depends, rdepends, madison, showpkg, stats | read | -n --names-only",
        "--version",
        "admin",
        "manages packages",
    ),
    "pip": Commands(
        "list, freeze, show, check | read | -fv --format: --files --verbose --local --user",
        "-V --version --help",
        "unknown",
        "manages packages",
        "runs code",
    ),
    "npm": Commands(
        "ls, list, root, prefix | read | -ag --all --depth: --global --json --prod --long",
        "-v --version --help",
        "unknown",
        "manages packages",
        "runs code",
    ),
    "go": Commands("version | read |", "", "unknown", "runs code"),
    "cargo": Commands("version | read |", "-V --version", "unknown", "runs code"),
    "gem": Commands("list, env | read | --local", "-v --version", "unknown", "manages packages"),
    "brew": Commands("list | read | --versions", "--version", "unknown", "manages packages"),
    "aws": Commands(
        """
sts get-caller-identity, s3 ls, ec2 describe-instances, ec2 describe-volumes,
  rds describe-db-instances
  | read | --region: --output: --query: --max-items: --recursive --human-readable --filters:
  --instance-ids: --db-instance-identifier: --no-cli-pager --summarize
""",
        "--region: --output: --query: --version --no-cli-pager",
    ),
}
_PACKAGES["pip3"] = _PACKAGES["pip"]


def _packages(name: str, words: Sequence[Word], given: Input) -> Effect:
    return _PACKAGES[name].effect(name, words, given)


def _dpkg(name: str, words: Sequence[Word], given: Input) -> Effect:
    asks = {
        "dpkg": "-l -L -s -S --list --listfiles --status --search --print-architecture --version",
        "rpm": "-q -qa -qi -ql -qf -qc -qd -qR --version",
    }[name].split()
    texts = texts_of(words)
    if texts and texts[0] in asks and not any(text.startswith("-") for text in texts[1:]):
        return Effect(cls="read", operation=f"{name} query", is_paged=name == "dpkg")
    return Effect(cls="admin", findings=("manages packages",))


PROGRAMS: Final[dict[str, Program]] = {
    "git": _git,
    "docker": _DOCKER.effect,
    "podman": _DOCKER.effect,
    "kubectl": _KUBECTL.effect,
    "helm": _HELM.effect,
    "systemctl": _SYSTEMCTL.effect,
    "service": _service,
    **dict.fromkeys(_PACKAGES, _packages),
    "dpkg": _dpkg,
    "rpm": _dpkg,
}
"""By name."""
