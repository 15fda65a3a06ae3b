/** Files on their way to the server, one after another; each has its own card, and its own error. */

import { RequestError, client } from '../api/client';
import type { Reading, Session } from '../api/type';
import { explain } from './explain';
import { health } from './health.svelte';
import { t } from './preference.svelte';

const PATIENCE_MS = 600_000;

/** A file on its way, or one that did not get there (`error`). */
export interface Upload {
  key: number;
  file: File;
  error: string | null;
  startedAt: number;
}

export class Uploads {
  list = $state<Upload[]>([]);
  #lastKey = 0;
  #queue: Promise<void> = Promise.resolve();
  #session: (title: string) => Promise<Session>;
  #onReading: (reading: Reading) => void;

  /** `session` finds or makes the session to read in; `onReading` takes each reading the server began. */
  constructor(session: (title: string) => Promise<Session>, onReading: (reading: Reading) => void) {
    this.#session = session;
    this.#onReading = onReading;
  }

  /** Some file is still on its way. */
  get active(): boolean {
    return this.list.some((upload) => upload.error === null);
  }

  add(files: readonly File[]): void {
    for (const file of files) {
      const key = ++this.#lastKey;
      this.list.push({ key, file, error: null, startedAt: Date.now() / 1000 });
      this.#enqueue(key);
    }
  }

  retry(key: number): void {
    const upload = this.#find(key);
    if (upload) upload.error = null;
    this.#enqueue(key);
  }

  dismiss(key: number): void {
    this.list = this.list.filter((upload) => upload.key !== key);
  }

  #find(key: number): Upload | undefined {
    return this.list.find((upload) => upload.key === key);
  }

  #enqueue(key: number): void {
    this.#queue = this.#queue.then(() => this.#send(key));
  }

  async #send(key: number): Promise<void> {
    const upload = this.#find(key);
    if (!upload) return;
    try {
      if (upload.file.size === 0) throw new RequestError(t().error.emptyFile, 400, 'invalid_request');
      const session = await this.#session(upload.file.name);
      this.#onReading(await client.readFile(session.id, upload.file, AbortSignal.timeout(PATIENCE_MS)));
      this.dismiss(key);
    } catch (error) {
      upload.error = explain(error);
      if (error instanceof RequestError && error.unreachable) void health.check();
    }
  }
}
