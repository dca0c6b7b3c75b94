/**
 * The JupyterLab plugin: a sidebar, tabs for sessions, archives and approvals, commands, a status.
 *
 * What JupyterLab has and Notebook 7 lacks is optional, each by itself.
 */

import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from "@jupyterlab/application";
import { Dialog, ICommandPalette, MainAreaWidget, Notification, showDialog, WidgetTracker } from "@jupyterlab/apputils";
import { IDefaultFileBrowser, IFileBrowserFactory } from "@jupyterlab/filebrowser";
import { ILauncher } from "@jupyterlab/launcher";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { IStatusBar } from "@jupyterlab/statusbar";
import { ToolbarButton } from "@jupyterlab/ui-components";
import { Widget } from "@lumino/widgets";

import { el, withoutMarks } from "@agentaudit/components/dom.ts";
import { aboutOf, type About, type Wanted } from "@agentaudit/components/report-form.ts";
import { plain } from "@agentaudit/components/text.ts";
import { counted } from "@agentaudit/components/units.ts";

import { mark } from "./icons.ts";
import { Server, type Archive, type Job, type Listed, type Made, type Result } from "./server.ts";
import { checkedWord, Sidebar } from "./sidebar.ts";
import { ApprovalsView, ArchiveView, ExplorerView, ReportBody, ReportView, SessionView, VerificationView } from "./views.ts";
import { Watch } from "./watch.ts";

const PLUGIN = "@agentaudit/lab:plugin";
const CATEGORY = "agentaudit";
const JOB_POLL_MS = 400;

const Do = {
  showSidebar: "agentaudit:show-sidebar",
  openSession: "agentaudit:open-session",
  openArchive: "agentaudit:open-archive",
  explore: "agentaudit:explore-archive",
  openFolder: "agentaudit:open-folder",
  openApprovals: "agentaudit:open-approvals",
  verify: "agentaudit:verify-archive",
  investigate: "agentaudit:new-investigation",
  report: "agentaudit:export-report",
  refresh: "agentaudit:refresh",
} as const;

function activate(
  app: JupyterFrontEnd,
  restorer: ILayoutRestorer | null,
  palette: ICommandPalette | null,
  launcher: ILauncher | null,
  settings: ISettingRegistry | null,
  statusBar: IStatusBar | null,
  browser: IDefaultFileBrowser | null,
  browsers: IFileBrowserFactory | null,
): void {
  withoutMarks();
  const { commands, shell } = app;
  let notification = "";
  // Read before anything else: JupyterLab's router goes on to addresses without it.
  const asked = new URLSearchParams(window.location.search);
  const server = new Server(app.serviceManager.serverSettings);
  const watch = new Watch(server);
  const run = (command: string, args: Record<string, string | number | boolean> = {}) => void commands.execute(command, args);

  // -- tabs

  const sessions = new WidgetTracker<MainAreaWidget<SessionView>>({ namespace: "agentaudit-sessions" });
  const archives = new WidgetTracker<MainAreaWidget<ArchiveView>>({ namespace: "agentaudit-archives" });
  const inboxes = new WidgetTracker<MainAreaWidget<ApprovalsView>>({ namespace: "agentaudit-approvals" });

  function show<View extends Widget>(content: View, id: string, label: string, caption = label): MainAreaWidget<View> {
    const widget = new MainAreaWidget({ content });
    widget.id = id;
    widget.title.label = plain(label);
    widget.title.caption = plain(caption);
    widget.title.icon = mark;
    widget.title.closable = true;
    shell.add(widget, "main");
    shell.activateById(widget.id);
    return widget;
  }

  async function archiveOf(id: unknown): Promise<Archive | null> {
    if (!watch.archives.length) await watch.look();
    if (typeof id !== "string" || !id) return watch.archives.find((one) => one.id === archiveInFront()) ?? watch.archive;
    return watch.archives.find((one) => one.id === id) ?? null;
  }

  /** Ask for a report: what it would be about, as plain values that a command's arguments may be. */
  const exportReport = (archive: string, about: About) => run(Do.report, { archive, about: JSON.stringify(about) });
  const folderHere = () => (browser?.model.path ?? "").replace(/^[^/]*:/, "");
  const EXPORT = ["Export evidence report…", "Write a report for an auditor: what happened, what was checked, and how to check it again"] as const;

  const button = (label: string, tooltip: string, onClick: () => void) => new ToolbarButton({ label, tooltip, onClick });

  function openSession(archive: string, session: string, command: number): void {
    const open = sessions.find((one) => one.content.session === session && one.content.archive === archive);
    if (open) {
      if (command >= 0) open.content.goTo(command);
      shell.activateById(open.id);
      return;
    }
    const content = new SessionView(server, archive, session, command);
    const widget = show(content, `agentaudit-session-${archive}-${session}`, session.slice(0, 13), `session ${session}`);
    widget.toolbar.addItem("investigate", button("Investigate in a notebook", "Write a notebook that begins at the command shown", () =>
      run(Do.investigate, { archive, session, command: content.command })));
    widget.toolbar.addItem("report", button(...EXPORT, () => exportReport(archive, { scope: "sessions", sessions: [session] })));
    widget.toolbar.addItem("sessions", button("All sessions", "The sessions of this archive", () => run(Do.openArchive, { archive })));
    void sessions.add(widget);
  }

  commands.addCommand(Do.openSession, {
    label: "Open a recorded session",
    isVisible: () => false,
    execute: async ({ archive, session, command }) => {
      const found = await archiveOf(archive);
      if (found && typeof session === "string") openSession(found.id, session, typeof command === "number" ? command : -1);
    },
  });

  commands.addCommand(Do.openArchive, {
    label: "Sessions of an archive",
    caption: "A table of the recorded sessions of an archive",
    icon: (args) => (args.isPalette ? undefined : mark),
    execute: async ({ archive }) => {
      const found = await archiveOf(archive);
      if (!found) {
        Notification.warning("No archive is there to be opened.");
        return;
      }
      watch.choose(found.id);
      const open = archives.find((one) => one.content.archive.id === found.id);
      if (open) {
        shell.activateById(open.id);
        return;
      }
      const content = new ArchiveView(server, found, (session) => openSession(found.id, session, -1));
      const widget = show(content, `agentaudit-archive-${found.id}`, found.name, found.path);
      widget.toolbar.addItem("explore", button("Explore", "Filters, a timeline and lists of all commands", () => run(Do.explore, { archive: found.id })));
      widget.toolbar.addItem("verify", button("Verify", "Check this archive against its log and key", () => run(Do.verify, { archive: found.id })));
      widget.toolbar.addItem("investigate", button("New investigation", "Write a notebook for this archive", () => run(Do.investigate, { archive: found.id })));
      widget.toolbar.addItem("report", button(...EXPORT, () => exportReport(found.id, { scope: "archive" })));
      void archives.add(widget);
    },
  });

  const explorers = new WidgetTracker<MainAreaWidget<ExplorerView>>({ namespace: "agentaudit-explorers" });
  commands.addCommand(Do.explore, {
    label: "Explore an archive",
    caption: "Filters, a timeline and lists of all commands of an archive",
    icon: (args) => (args.isPalette ? undefined : mark),
    execute: async ({ archive }) => {
      const found = await archiveOf(archive);
      if (!found) {
        Notification.warning("No archive is there to be explored.");
        return;
      }
      const open = explorers.find((one) => one.content.archive.id === found.id);
      if (open) {
        shell.activateById(open.id);
        return;
      }
      const content = new ExplorerView(server, found);
      const widget = show(content, `agentaudit-explorer-${found.id}`, `${found.name}: explorer`, found.path);
      widget.toolbar.addItem("report", button(...EXPORT, () => exportReport(found.id, aboutOf(content.scope.filter, content.scope.selected))));
      void explorers.add(widget);
    },
  });

  /** The archive of the tab in front: what is asked without a name is asked of that. */
  function archiveInFront(): string | undefined {
    const front = shell.currentWidget;
    const session = sessions.find((one) => one === front)?.content.archive;
    const others: WidgetTracker<MainAreaWidget<Widget & { archive: Archive }>>[] = [archives, explorers];
    return session ?? others.map((each) => each.find((one) => one === front)?.content.archive.id).find(Boolean);
  }

  const selectedFolder = () => {
    const items = [...(browsers?.tracker.currentWidget?.selectedItems() ?? [])];
    return items.length === 1 && items[0]?.type === "directory" ? items[0] : null;
  };
  commands.addCommand(Do.openFolder, {
    label: "Open as an Archive",
    icon: mark,
    isVisible: () => selectedFolder() !== null,
    execute: async ({ path }) => {
      const folder = typeof path === "string" ? path : selectedFolder()?.path;
      if (folder === undefined) return;
      try {
        const found = await server.archiveAt(folder.replace(/^[^/]*:/, ""));
        if (!watch.archives.some((one) => one.id === found.id)) watch.archives = [...watch.archives, found];
        await commands.execute(Do.openArchive, { archive: found.id });
      } catch (error) {
        Notification.warning(plain((error as Error).message));
      }
    },
  });

  commands.addCommand(Do.openApprovals, {
    label: "Pending approvals",
    caption: "What waits for a decision",
    icon: (args) => (args.isPalette ? undefined : mark),
    execute: () => {
      unnotify(); // it would lie over the buttons
      const open = inboxes.currentWidget;
      if (open) {
        shell.activateById(open.id);
        return;
      }
      const content = new ApprovalsView(server, watch, (session, command) => void openWherever(session, command));
      const widget = show(content, "agentaudit-approvals", "Approvals");
      widget.toolbar.hide();
      void inboxes.add(widget);
    },
  });

  commands.addCommand(Do.showSidebar, {
    label: "Archives, sessions and approvals",
    caption: "The sidebar of agentaudit",
    // A palette that ran this gives the focus back to the main area, once this has returned.
    execute: () => void window.setTimeout(() => shell.activateById(sidebar.id)),
  });

  commands.addCommand(Do.refresh, { label: "Look again", execute: () => watch.look() });

  if (restorer) {
    void restorer.restore(sessions, {
      command: Do.openSession,
      args: ({ content }) => ({ archive: content.archive, session: content.session, command: content.command }),
      name: ({ content }) => `${content.archive}-${content.session}`,
    });
    void restorer.restore(archives, {
      command: Do.openArchive,
      args: ({ content }) => ({ archive: content.archive.id }),
      name: ({ content }) => content.archive.id,
    });
    void restorer.restore(inboxes, { command: Do.openApprovals, name: () => "approvals" });
  }

  /** Open a session that some archive has. */
  async function openWherever(session: string, command: number): Promise<boolean> {
    if (!watch.archives.length) await watch.look();
    const chosen = watch.archive;
    const order = [...(chosen ? [chosen] : []), ...watch.archives.filter((one) => one !== chosen)];
    for (const archive of order) {
      try {
        const { data } = await server.source(archive.id, "sessions").request<{ rows: Listed[] }>("list", { text: session, limit: 5 });
        if (data.rows.some((one) => one.session_id === session)) {
          openSession(archive.id, session, command);
          return true;
        }
      } catch {
        continue; // one that cannot be read has it not
      }
    }
    Notification.warning("No archive here has that session.");
    return false;
  }

  // -- what takes long

  /** Tell how far a job is until it ends; return it with the notification that told so, or null. */
  async function follow<Told>(kind: "verify" | "report", title: string, job: Job<Told>): Promise<{ id: string; told: Job<Told> } | null> {
    const words = (of: Job<Told>) => `${title}${of.step ? `: ${of.step}` : ""}`;
    const cancel = { label: "Stop", callback: () => void server.stop(kind, job.id), caption: `${title}: stop` };
    const id = Notification.emit(words(job), "in-progress", { autoClose: false, actions: [cancel] });
    let told = job;
    try {
      while (told.state === "waiting" || told.state === "running") {
        await new Promise((resolve) => window.setTimeout(resolve, JOB_POLL_MS));
        told = await server.job<Told>(kind, job.id);
        const progress = told.total > 0 ? Math.min(1, told.done / told.total) : 0;
        Notification.update({ id, message: words(told), progress });
      }
    } catch (error) {
      Notification.update({ id, message: plain((error as Error).message), type: "error", autoClose: 8_000, actions: [] });
      return null;
    }
    return { id, told };
  }

  // -- verify

  async function verify(archive: Archive, job: Job<Result>): Promise<void> {
    const followed = await follow("verify", `Verifying ${plain(archive.name)}`, job);
    if (!followed) return;
    const { id, told } = followed;
    await watch.look();
    const ok = told.result?.ok;
    const name = plain(archive.name);
    const [message, type] = told.state !== "done" ? [`${name}: ${told.state}`, "warning" as const]
      : ok === true ? [`${name}: consistent and signed`, "success" as const]
      : ok === false ? [`${name}: broken, ${counted(told.result?.findings_count ?? 0, "finding")}`, "error" as const]
      : told.result?.is_consistent ? [`${name}: consistent with itself; no key from outside was given`, "warning" as const]
      : [`${name}: could not tell`, "warning" as const];
    const details = { label: "Details", callback: () => showResult(archive, told), caption: "What was found" };
    Notification.update({ id, message, type, autoClose: ok === true ? 8_000 : false, actions: [details] });
    if (ok !== true) showResult(archive, told);
  }

  function showResult(archive: Archive, job: Job<Result>): void {
    const id = `agentaudit-verification-${job.id}`;
    if ([...shell.widgets("main")].some((one) => one.id === id)) shell.activateById(id);
    else show(new VerificationView(archive, job), id, `Verify ${plain(archive.name)}`).toolbar.hide();
  }

  commands.addCommand(Do.verify, {
    label: (args) => (args.deep ? "Verify archive, deeply" : "Verify archive"),
    caption: "Check an archive against its log and key",
    icon: (args) => (args.isPalette ? undefined : mark),
    execute: async ({ archive, deep }) => {
      const found = await archiveOf(archive);
      if (!found) {
        Notification.warning("No archive is there to be verified.");
        return;
      }
      try {
        void verify(found, await server.verify(found.id, deep === true));
      } catch (error) {
        Notification.error(plain((error as Error).message));
      }
    },
  });

  // -- investigate

  commands.addCommand(Do.investigate, {
    label: (args) => (args.isPalette ? "New investigation" : "New Investigation"),
    caption: "Write a notebook for a session of an archive, or for the newest one",
    icon: (args) => (args.isPalette ? undefined : mark),
    execute: async ({ archive, session, command, cwd }) => {
      const found = await archiveOf(archive);
      if (!found) {
        Notification.warning("No archive is there to be investigated.");
        return;
      }
      const folder = typeof cwd === "string" ? cwd.replace(/^[^/]*:/, "") : folderHere();
      try {
        const { path } = await server.investigate({
          archive: found.id,
          folder,
          ...(typeof session === "string" ? { session } : {}),
          ...(typeof command === "number" && command >= 0 ? { command } : {}),
        });
        await commands.execute("docmanager:open", { path });
      } catch (error) {
        Notification.error(plain((error as Error).message));
      }
    },
  });

  // -- report

  async function followReport(archive: Archive, job: Job<Made>): Promise<void> {
    const followed = await follow("report", `Evidence report of ${plain(archive.name)}`, job);
    if (!followed) return;
    const { id, told } = followed;
    const { result } = told;
    if (!result) {
      const message = told.state === "stopped" ? "The evidence report was stopped." : [told.error, told.hint].filter(Boolean).join(": ");
      Notification.update({ id, message: plain(message), type: told.state === "stopped" ? "warning" : "error", autoClose: false, actions: [] });
      return;
    }
    const [file] = result.files;
    const type = result.ok === true ? "success" as const : result.ok === false ? "error" as const : "warning" as const;
    const message = `${result.verdict}: evidence report in ${plain(file?.path ?? "")}`;
    Notification.update({ id, message, type, autoClose: 8_000, actions: [] });
    const place = `agentaudit-report-${told.id}`;
    show(new ReportView(archive, told, result, {
      open: (path, kind) => void commands.execute("docmanager:open", kind === "html" ? { path, factory: "HTML Viewer" } : { path }),
      download: async (path) => {
        const address = await app.serviceManager.contents.getDownloadUrl(path);
        el("a", { href: address, download: path.split("/").at(-1) ?? "report" }).click();
      },
    }), place, "Evidence report", file?.path).toolbar.hide();
  }

  commands.addCommand(Do.report, {
    label: "Export evidence report…",
    caption: EXPORT[1],
    icon: (args) => (args.isPalette ? undefined : mark),
    execute: async ({ archive, about }) => {
      const found = await archiveOf(archive);
      if (!found) {
        Notification.warning("No archive is there to report about.");
        return;
      }
      let asked: About = { ...(typeof about === "string" ? JSON.parse(about) as About : aboutShown(found.id)) };
      asked.folder ??= folderHere();
      let trouble: { message: string; hint?: string } | null = null;
      // Asked again until the server takes it: what was typed stays.
      for (;;) {
        const { button: pressed, value } = await showDialog<Wanted>({
          title: `Evidence report of ${plain(found.path)}`,
          body: new ReportBody(asked, trouble),
          buttons: [Dialog.cancelButton(), Dialog.okButton({ label: "Export" })],
          focusNodeSelector: "input:checked",
        });
        if (!pressed.accept || !value) return;
        try {
          void followReport(found, await server.report(found.id, value));
          return;
        } catch (error) {
          trouble = error as { message: string; hint?: string };
          asked = { ...asked, ...value };
        }
      }
    },
  });

  /** What is looked at of an archive in the tab in front; the whole of it where that is another's. */
  function aboutShown(archive: string): About {
    const front = shell.currentWidget;
    const session = sessions.find((one) => one === front && one.content.archive === archive);
    if (session) return { scope: "sessions", sessions: [session.content.session] };
    const explorer = explorers.find((one) => one === front && one.content.archive.id === archive);
    return explorer ? aboutOf(explorer.content.scope.filter, explorer.content.scope.selected) : { scope: "archive" };
  }

  // -- where commands are found

  if (palette) {
    for (const command of [Do.showSidebar, Do.openArchive, Do.explore, Do.openApprovals, Do.verify, Do.investigate, Do.report, Do.refresh]) {
      palette.addItem({ command, category: CATEGORY, args: { isPalette: true } });
    }
    palette.addItem({ command: Do.verify, category: CATEGORY, args: { isPalette: true, deep: true } });
  }
  if (launcher) {
    for (const [rank, command] of [Do.investigate, Do.openArchive, Do.verify, Do.openApprovals].entries()) {
      launcher.add({ command, category: CATEGORY, rank });
    }
  }

  const sidebar = new Sidebar(server, watch, {
    openSession,
    openArchive: (archive) => run(Do.openArchive, { archive }),
    openApprovals: () => run(Do.openApprovals),
    verify: (archive) => run(Do.verify, { archive }),
    investigate: (archive) => run(Do.investigate, { archive }),
    report: (archive) => exportReport(archive, { scope: "archive" }),
  });
  shell.add(sidebar, "left", { rank: 650 });
  restorer?.add(sidebar, "agentaudit-sidebar");

  // -- status

  const waitingText = el("button", { type: "button", class: "aal-status", onclick: () => run(Do.openApprovals) });
  const checkedText = el("button", { type: "button", class: "aal-status", onclick: () => run(Do.verify) });
  const status = new Widget({ node: el("div", { class: "aal-statuses", role: "group", "aria-label": "agentaudit" }, waitingText, checkedText) });
  statusBar?.registerStatusItem(`${PLUGIN}:status`, { item: status, align: "left", rank: 500, isActive: () => watch.archive !== null || watch.waiting.has_control });

  function drawStatus(): void {
    const { archive, waiting, pendingCount } = watch;
    waitingText.hidden = !waiting.has_control;
    waitingText.textContent = waiting.error ? "approvals: not known" : counted(pendingCount, "approval");
    waitingText.title = waiting.error ? waiting.error : `${counted(pendingCount, "request")} waiting for a decision`;
    waitingText.classList.toggle("aal-urgent", pendingCount > 0);
    checkedText.hidden = archive === null;
    if (archive) {
      const word = checkedWord(archive);
      checkedText.textContent = archive.checked ? word.text : "archive not checked";
      checkedText.title = `${archive.path}: ${word.title}; press to verify`;
      checkedText.className = `aal-status aal-${word.kind}`;
    }
    sidebar.title.caption = pendingCount ? `agentaudit: ${counted(pendingCount, "request")} waiting` : "agentaudit";
    sidebar.title.className = pendingCount ? "aal-tab-badge" : "";
    sidebar.title.dataset = { ...sidebar.title.dataset, pending: pendingCount ? String(Math.min(pendingCount, 99)) : "" };
    status.update();
  }

  // -- notifications

  function unnotify(): void {
    if (notification) Notification.dismiss(notification);
    notification = "";
  }

  let notifies = true;
  let seen = new Set<string>();
  function notify(): void {
    const requests = watch.waiting.requests ?? [];
    const mine = requests.filter((one) => one.may_decide);
    const fresh = mine.filter((one) => !seen.has(one.id));
    seen = new Set(requests.map((one) => one.id));
    const isRead = inboxes.currentWidget?.isVisible === true;
    if (!mine.length || isRead) unnotify();
    if (!notifies || !fresh.length || isRead) return;
    // Numbers alone: what an agent wrote is shown where all of it is.
    const message = `${counted(mine.length, "request")} waiting for your decision`;
    const review = { label: "Review", callback: () => run(Do.openApprovals), displayType: "accent" as const };
    unnotify();
    // It stays until somebody closes it or nothing waits: an agent is held up meanwhile.
    notification = Notification.emit(message, "warning", { autoClose: false, actions: [review] });
  }

  watch.changed.connect(() => {
    drawStatus();
    notify();
  });

  // -- begin

  void (async () => {
    if (settings) {
      try {
        const loaded = await settings.load(PLUGIN);
        const use = () => {
          watch.folders = loaded.composite.archives as string[];
          watch.refreshSeconds = loaded.composite.refreshSeconds as number;
          notifies = loaded.composite.notifications as boolean;
        };
        use();
        loaded.changed.connect(() => {
          use();
          void watch.look();
        });
      } catch {
        // Without its schema it goes on with what settings are by default.
      }
    }
    await watch.look();
    await app.restored;
    const session = asked.get("session");
    if (session && /^[0-9a-f-]{36}$/.test(session)) {
      const command = Number.parseInt(asked.get("command") ?? "", 10);
      await openWherever(session, Number.isNaN(command) ? -1 : command);
    }
  })();
}

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: "Recorded sessions of AI agents: archives, live sessions, approvals.",
  autoStart: true,
  optional: [
    ILayoutRestorer, ICommandPalette, ILauncher, ISettingRegistry, IStatusBar, IDefaultFileBrowser, IFileBrowserFactory,
  ],
  activate,
};

export default plugin;
