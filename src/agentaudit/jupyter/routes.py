"""The routes: thin, each authenticated, each authorized, each with limits on what it takes.

    GET    /agentaudit/archives                     which may be asked about
    POST   /agentaudit/archives                     {path}: of a folder below the root
    POST   /agentaudit/questions/ARCHIVE/COMPONENT[/SESSION][?page=…]
                                                    one question, one framed answer
    POST   /agentaudit/verify                       {archive, deep}: begins, answers the job
    GET    /agentaudit/verify/JOB                   how far it is, and its result
    DELETE /agentaudit/verify/JOB                   ends it
    POST   /agentaudit/report                       {archive, folder, scope, …}: begins to write an
                                                    evidence report, answers the job
    GET    /agentaudit/report/JOB                   how far it is, and where it was written
    DELETE /agentaudit/report/JOB                   ends it
    GET    /agentaudit/approvals                    what waits at the gateway
    POST   /agentaudit/approvals                    one question, as above
    POST   /agentaudit/investigation                {archive, folder, session?, command?}: writes
                                                    a notebook

A browser's requests carry Jupyter's XSRF token, which `APIHandler` checks. Nothing recorded and no
token is in a log line: of what fails unforeseen, only where and of what kind is logged.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from agentaudit.errors import AgentauditError, QuestionError
from agentaudit.jupyter import framing
from agentaudit.jupyter.archives import Archives, Found
from agentaudit.jupyter.components import COMPONENTS
from agentaudit.jupyter.jobs import Job, Jobs
from agentaudit.jupyter.reporting import Reports, Wanted
from agentaudit.jupyter.verifying import Verifications
from agentaudit.jupyter.work import Work
from agentaudit.widgets.approvals import ApprovalQuestions
from agentaudit.widgets.notebooks import write_investigation
from agentaudit.widgets.questions import VERSION, Data, Questions

MAX_BODY_BYTES: Final = 1 << 20
"""Of a question: rules of masks are the longest that a page sends."""

MAX_DEPTH: Final = 20
"""Of what stands in each other in a question's JSON."""

_ID = r"(?P<archive>[0-9a-f]{24})"
_SESSION = r"(?P<session>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_PAGE: Final = re.compile(r"[0-9a-zA-Z-]{0,64}")


@dataclass(frozen=True, slots=True)
class Shared:
    """What the routes share; one a server."""

    archives: Archives
    work: Work
    verifications: Verifications
    reports: Reports
    approvals: ApprovalQuestions
    has_control: bool
    may_decide: bool


class _Route(APIHandler):
    auth_resource = "agentaudit"

    @property
    def shared(self) -> Shared:
        found: Shared = self.settings["agentaudit_shared"]
        return found

    def body(self) -> dict[str, Any]:
        """Return the request's JSON object.

        Raises:
            HTTPError: 413 or 400, it is too long or none.
        """
        if len(self.request.body) > MAX_BODY_BYTES:
            raise web.HTTPError(413, f"at most {MAX_BODY_BYTES} bytes expected")
        try:
            value = json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise web.HTTPError(400, "a JSON object expected") from None
        if not isinstance(value, dict) or _is_deeper(value, MAX_DEPTH):
            raise web.HTTPError(400, "a JSON object expected")
        return value

    async def archive(self, id: object) -> Found:
        """Return the archive that a browser names.

        Raises:
            HTTPError: 404, it is none that may be asked about.
        """
        one = await self.shared.work.run(self.shared.archives.find, str(id))
        if one is None:
            raise web.HTTPError(404, "no archive of this id may be asked about here")
        return one

    async def answer(self, message: dict[str, Any], make: Callable[[], Questions]) -> None:
        """Answer a question, framed; what cannot be answered says why, in the answer."""
        if "batch" in message:
            raise web.HTTPError(400, "one question at a time expected")
        answer, buffers = await self.shared.work.run(self._answered, message, make)
        if answer is None:
            raise web.HTTPError(400, f"a question of version {VERSION} expected")
        body = await self.shared.work.run(framing.frame, answer, buffers)
        self.set_header("Cache-Control", "no-store")
        self.finish(body, set_content_type=framing.CONTENT_TYPE)

    def _answered(
        self, message: dict[str, Any], make: Callable[[], Questions]
    ) -> tuple[Data | None, list[bytes]]:
        sent: list[tuple[Data, list[bytes]]] = []
        try:
            make().answer(message, lambda answer, buffers: sent.append((answer, buffers)))
        except AgentauditError as error:
            told = {"v": VERSION, "id": message.get("id"), "ok": False}
            sent.append((told | {"error": str(error), "hint": error.hint}, []))
        except Exception as error:
            self.log.error(
                "agentaudit: a question failed: %s at %s", type(error).__name__, _where(error)
            )
            if not sent:
                told = {"v": VERSION, "id": message.get("id"), "ok": False}
                sent.append((told | {"error": f"failed: {type(error).__name__}"}, []))
        return sent[0] if sent else (None, [])

    def tell(self, value: Any, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(value))

    def begun(self, job: Job | None) -> None:
        """Tell of a job that was begun; None if too many wait."""
        if job is None:
            raise web.HTTPError(503, "too many of these wait; ask again")
        self.tell(job.told(), 202)

    def refuse(self, error: AgentauditError, status: int = 400) -> None:
        self.tell({"message": str(error), "hint": error.hint}, status)


class ArchivesRoute(_Route):
    """Archives that may be asked about, and whether the last check of each was well."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        archives = self.shared.archives
        found = await self.shared.work.run(archives.all)
        self.tell({"archives": [self._told(one) for one in found], "is_cut": archives.is_cut})

    @web.authenticated
    @authorized
    async def post(self) -> None:
        path = str(self.body().get("path", ""))
        try:
            one = await self.shared.work.run(self.shared.archives.at, path)
        except QuestionError as error:
            self.refuse(error, 404)
            return
        self.tell(self._told(one))

    def _told(self, one: Found) -> Data:
        job = self.shared.verifications.last_of(one.id)
        checked = None
        if job is not None and job.result is not None:
            result = {name: job.result[name] for name in ("ok", "is_consistent")}
            checked = result | {"at": job.ended_at, "job": job.id, "deep": job.asked["deep"]}
        key = one.key
        return {
            "id": one.id,
            "name": one.folder.name,
            "path": one.path,
            "is_below_root": one.is_below_root,
            "key": None if key is None else key.name,
            "checked": checked,
        }


class QuestionsRoute(_Route):
    """One question to one view of an archive."""

    @web.authenticated
    @authorized
    async def post(self, archive: str, component: str, session: str | None = None) -> None:
        message = self.body()
        page = self.get_query_argument("page", "")
        if component not in COMPONENTS or not _PAGE.fullmatch(page):
            raise web.HTTPError(404, "no such component")
        one = await self.archive(archive)
        of = None if session is None else UUID(session)
        archives = self.shared.archives
        await self.answer(message, lambda: archives.questions(one, component, of, page))


class VerifyRoute(_Route):
    """Begins a verification."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        asked = self.body()
        one = await self.archive(asked.get("archive"))
        self.begun(self.shared.verifications.start(one, deep=asked.get("deep") is True))


class ReportRoute(_Route):
    """Begins to make an evidence report."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        asked = self.body()
        one = await self.archive(asked.get("archive"))
        reports = self.shared.reports
        try:
            wanted = Wanted.of(asked)
            job = await self.shared.work.run(reports.start, one, wanted)
        except QuestionError as error:
            self.refuse(error)
            return
        self.begun(job)


class _JobRoute(_Route):
    """How far a job is; ends it."""

    @property
    def jobs(self) -> Jobs:
        raise NotImplementedError

    @web.authenticated
    @authorized
    async def get(self, job: str) -> None:
        self.tell(self._job(job).told())

    @web.authenticated
    @authorized
    async def delete(self, job: str) -> None:
        found = self._job(job)
        self.jobs.stop(found)
        self.tell(found.told())

    def _job(self, id: str) -> Job:
        found = self.jobs.job(id)
        if found is None:
            raise web.HTTPError(404, "no such job, or it was long ago")
        return found


class VerifyJobRoute(_JobRoute):
    """A verification."""

    @property
    def jobs(self) -> Jobs:
        return self.shared.verifications


class ReportJobRoute(_JobRoute):
    """An evidence report in the making."""

    @property
    def jobs(self) -> Jobs:
        return self.shared.reports


class ApprovalsRoute(_Route):
    """What waits for a decision, and decisions."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        shared = self.shared
        told: Data = {"has_control": shared.has_control, "may_decide": shared.may_decide}
        if shared.has_control:
            answer, _ = await shared.work.run(
                self._answered, {"v": VERSION, "id": 0, "op": "pending"}, lambda: shared.approvals
            )
            told |= (answer or {}).get("data") or {
                "error": (answer or {}).get("error", ""),
                "hint": (answer or {}).get("hint", ""),
            }
        self.tell(told)

    @web.authenticated
    @authorized
    async def post(self) -> None:
        message = self.body()
        shared = self.shared
        if message.get("op") not in ("pending", "outcome") and not shared.may_decide:
            raise web.HTTPError(403, "this server decides nothing: AgentauditApp.decides is False")
        await self.answer(message, lambda: shared.approvals)


class InvestigationRoute(_Route):
    """Writes a notebook for a session, or for the newest one."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        asked = self.body()
        one = await self.archive(asked.get("archive"))
        archives = self.shared.archives

        def write() -> str:
            session, command = _uuid(asked.get("session")), _number(asked.get("command"))
            folder = archives.place(str(asked.get("folder") or ""))
            if session is not None:
                archives.questions(one, "replay", session, "")  # it is there, and can be read
            written = write_investigation(
                one.folder,
                folder,
                session=session,
                command=command,
                key=self.shared.verifications.key,
            )
            return written.relative_to(archives.root).as_posix()

        try:
            path = await self.shared.work.run(write)
        except AgentauditError as error:
            self.refuse(error)
            return
        self.tell({"path": path}, 201)


ROUTES: Final = [
    (r"/agentaudit/archives", ArchivesRoute),
    (rf"/agentaudit/questions/{_ID}/(?P<component>[a-z-]+)(?:/{_SESSION})?", QuestionsRoute),
    (r"/agentaudit/verify", VerifyRoute),
    (r"/agentaudit/verify/(?P<job>[0-9a-f]{24})", VerifyJobRoute),
    (r"/agentaudit/report", ReportRoute),
    (r"/agentaudit/report/(?P<job>[0-9a-f]{24})", ReportJobRoute),
    (r"/agentaudit/approvals", ApprovalsRoute),
    (r"/agentaudit/investigation", InvestigationRoute),
]


def _uuid(value: object) -> UUID | None:
    if value is None:
        return None
    try:
        return UUID(str(value))
    except ValueError:
        raise QuestionError("a session's whole id expected") from None


def _number(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise QuestionError("a command's number expected")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    """Say whether lists and objects stand in each other deeper than `levels`."""
    within = [value]
    for _ in range(levels):
        within = [inner for outer in within for inner in _inside(outer)]
        if not within:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name}:{frame.lineno}"
