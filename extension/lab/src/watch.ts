/** Looks at what changes by itself: archives, live sessions of the chosen one, what waits. */

import { type ISignal, Signal } from "@lumino/signaling";
import type { IDisposable } from "@lumino/disposable";

import type { Archive, Listed, Server, Waiting } from "./server.ts";

const HIDDEN_FACTOR = 4;
const LIVE_ROWS = 50;

export class Watch implements IDisposable {
  archives: readonly Archive[] = [];
  isCut = false;
  live: readonly Listed[] = [];
  waiting: Waiting = { has_control: false, may_decide: false };
  trouble: { message: string; hint: string } | null = null;
  refreshSeconds = 5;
  /** Folders that settings name, which looking does not find. */
  folders: readonly string[] = [];
  isDisposed = false;

  private timer = 0;
  private looking: Promise<void> | null = null;
  private chosen = "";
  private told = new Signal<this, void>(this);

  constructor(private readonly server: Server) {}

  /** Tells after each look, and when another archive is chosen. */
  get changed(): ISignal<this, void> {
    return this.told;
  }

  /** The archive that lists are of: the chosen one, or the first. */
  get archive(): Archive | null {
    return this.archives.find((one) => one.id === this.chosen) ?? this.archives[0] ?? null;
  }

  get pendingCount(): number {
    return this.waiting.count ?? 0;
  }

  choose(id: string): void {
    if (id === this.chosen) return;
    this.chosen = id;
    this.live = [];
    this.told.emit();
    void this.look();
  }

  /** Look now; where a look is under way, its end is waited for. */
  look(): Promise<void> {
    this.looking ??= this.lookOnce().finally(() => {
      this.looking = null;
      this.later();
    });
    return this.looking;
  }

  dispose(): void {
    this.isDisposed = true;
    window.clearTimeout(this.timer);
    Signal.clearData(this);
  }

  private later(): void {
    window.clearTimeout(this.timer);
    if (this.isDisposed) return;
    const seconds = this.refreshSeconds * (document.hidden ? HIDDEN_FACTOR : 1);
    this.timer = window.setTimeout(() => void this.look(), seconds * 1_000);
  }

  private async lookOnce(): Promise<void> {
    try {
      const [found, waiting] = await Promise.all([this.server.archives(), this.server.waiting()]);
      const pointed = await Promise.all(this.folders
        .filter((path) => !found.archives.some((one) => one.path === path))
        .map((path) => this.server.archiveAt(path).catch(() => null)));
      this.archives = [...found.archives, ...pointed.filter((one) => one !== null)];
      this.isCut = found.is_cut;
      this.waiting = waiting;
      this.trouble = null;
      const archive = this.archive;
      if (archive) {
        const source = this.server.source(archive.id, "sessions");
        const { data } = await source.request<{ rows: Listed[] }>("list", { live: true, limit: LIVE_ROWS });
        this.live = data.rows;
      } else this.live = [];
    } catch (error) {
      const { message, hint } = error as { message: string; hint?: string };
      this.trouble = { message, hint: hint ?? "" };
    }
    if (!this.isDisposed) this.told.emit();
  }
}
