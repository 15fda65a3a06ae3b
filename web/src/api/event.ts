/** Follows one session's event stream, and joins it again when it breaks. */

import { RequestError, request } from './client';
import { readEvents } from './sse';
import type { Message, Reading, Score, Session, Version } from './type';

export interface Listener {
  /** The stream is open: lists read from now on miss nothing. */
  onOpen(): void;
  onSession(session: Session): void;
  onMessage(message: Message): void;
  onReading(reading: Reading): void;
  onScore(score: Score): void;
  onVersion(version: Version): void;
  /** The session is gone; nothing will be tried again. */
  onGone(): void;
}

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

/**
 * Runs until `signal` aborts or the session no longer exists.
 *
 * A browser keeps at most six connections to one server, over all its tabs. A hidden tab gives its own back, so that
 * several conversations can be answered at once; it joins again, and misses nothing, when it is looked at.
 */
export async function follow(session: string, listener: Listener, signal: AbortSignal): Promise<void> {
  let waitMs = FIRST_WAIT_MS;
  while (!signal.aborted) {
    await untilVisible(signal);
    if (signal.aborted) return;
    const visit = new Visit(signal);
    try {
      const path = `/v1/sessions/${encodeURIComponent(session)}/events`;
      const response = await request(path, { signal: visit.signal, headers: { accept: 'text/event-stream' } });
      waitMs = FIRST_WAIT_MS;
      listener.onOpen();
      if (response.body) for await (const event of readEvents(response.body)) deliver(event.name, event.data, listener);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof RequestError && error.status === 404) return listener.onGone();
    } finally {
      visit.end();
    }
    if (visit.signal.aborted) continue;
    await pause(waitMs, signal);
    waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS);
  }
}

/** One connection; its signal aborts with the outer one, or when the tab is hidden. */
class Visit {
  readonly #own = new AbortController();
  readonly #outer: AbortSignal;
  readonly #leave = () => this.#own.abort();
  readonly #leaveHidden = () => document.hidden && this.#own.abort();

  constructor(outer: AbortSignal) {
    this.#outer = outer;
    if (outer.aborted) this.#leave();
    outer.addEventListener('abort', this.#leave);
    document.addEventListener('visibilitychange', this.#leaveHidden);
  }

  get signal(): AbortSignal {
    return this.#own.signal;
  }

  end(): void {
    this.#outer.removeEventListener('abort', this.#leave);
    document.removeEventListener('visibilitychange', this.#leaveHidden);
  }
}

/** Waits while the tab is hidden, or returns early when `signal` aborts. */
function untilVisible(signal: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener('visibilitychange', look);
      signal.removeEventListener('abort', look);
      resolve();
    };
    document.addEventListener('visibilitychange', look);
    signal.addEventListener('abort', look);
  });
}

function deliver(name: string, data: string, listener: Listener): void {
  const record: unknown = JSON.parse(data);
  if (name === 'session') listener.onSession(record as Session);
  else if (name === 'message') listener.onMessage(record as Message);
  else if (name === 'reading') listener.onReading(record as Reading);
  else if (name === 'score') listener.onScore(record as Score);
  else if (name === 'version') listener.onVersion(record as Version);
}

/** Waits, or returns early when `signal` aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}
