/** The conversations kept on the server, newest first. */

import { client } from '../api/client';
import type { Session } from '../api/type';

const PAGE = 100;
const REFRESH_MS = 15_000;

class SessionList {
  sessions = $state<Session[]>([]);
  loaded = $state(false);
  failed = $state(false);
  hasMore = $state(false);

  /** Loads the newest page, then keeps it fresh while the page is looked at. */
  start(): void {
    void this.refresh();
    setInterval(() => !document.hidden && void this.refresh(), REFRESH_MS);
    document.addEventListener('visibilitychange', () => !document.hidden && void this.refresh());
  }

  async refresh(): Promise<void> {
    try {
      const page = await client.sessions();
      const full = page.length >= PAGE;
      // What is older than a full page stays as it was loaded; what is newer is exactly the page.
      const oldest = page.at(-1)?.updated_at ?? 0;
      const older = full ? this.sessions.filter((session) => session.updated_at < oldest) : [];
      if (!this.loaded) this.hasMore = full;
      this.#set([...page, ...older]);
      this.loaded = true;
      this.failed = false;
    } catch {
      this.failed = true;
    }
  }

  async loadMore(): Promise<void> {
    const oldest = this.sessions.at(-1)?.updated_at;
    const page = await client.sessions(oldest);
    this.hasMore = page.length >= PAGE;
    this.#set([...this.sessions, ...page]);
  }

  put(session: Session): void {
    this.#set([session, ...this.sessions.filter((other) => other.id !== session.id)]);
  }

  drop(id: string): void {
    this.sessions = this.sessions.filter((session) => session.id !== id);
  }

  #set(sessions: Session[]): void {
    const unique = [...new Map(sessions.map((session) => [session.id, session])).values()];
    this.sessions = unique.sort((a, b) => b.updated_at - a.updated_at);
  }
}

export const list = new SessionList();
