/** Which conversation is open, and the address that names it: `#/s/<id>`. */

import { client } from '../api/client';
import { Conversation } from './conversation.svelte';
import { health } from './health.svelte';
import { list } from './list.svelte';

/** A tab that nobody looks at gives its event stream back after this time: browsers allow few. */
const HIDDEN_MS = 30_000;

function readAddress(): string | null {
  const match = /^#\/s\/([^/?]+)$/.exec(location.hash);
  return match?.[1] ? decodeURIComponent(match[1]) : null;
}

class App {
  current = $state.raw(this.#make(null));
  #kept = new Set<Conversation>();
  #hiddenTimer: ReturnType<typeof setTimeout> | undefined;

  start(): void {
    health.start(() => this.#rejoin());
    list.start();
    addEventListener('hashchange', () => this.#show(readAddress()));
    document.addEventListener('visibilitychange', () => this.#onVisibility());
    this.#show(readAddress());
  }

  /** Opens a conversation; null: a new one. */
  open(id: string | null): void {
    const address = id ? `#/s/${encodeURIComponent(id)}` : '#/';
    if (location.hash !== address) history.pushState(null, '', address);
    this.#show(id);
  }

  async remove(id: string): Promise<void> {
    await client.deleteSession(id);
    list.drop(id);
    if (this.current.id === id) this.open(null);
  }

  #make(id: string | null): Conversation {
    return new Conversation(id, (created) => this.#onCreate(created));
  }

  #show(id: string | null): void {
    const old = this.current;
    const isFresh = id === null && old.id === null && !old.answering;
    if ((id !== null && old.id === id) || isFresh) return this.current.enter();
    old.leave();
    // An answer goes on while another conversation is looked at; dropping it would stop it.
    for (const one of this.#kept) if (!one.answering && !one.uploads.active) this.#kept.delete(one);
    if (old.answering || old.uploads.active) this.#kept.add(old);
    this.current = [...this.#kept].find((one) => id !== null && one.id === id) ?? this.#make(id);
    this.current.enter();
  }

  #onCreate(created: Conversation): void {
    if (created !== this.current) return;
    history.replaceState(null, '', `#/s/${encodeURIComponent(created.id ?? '')}`);
    created.enter();
  }

  #rejoin(): void {
    void list.refresh();
    this.current.leave();
    this.current.enter();
  }

  #onVisibility(): void {
    clearTimeout(this.#hiddenTimer);
    if (document.hidden) this.#hiddenTimer = setTimeout(() => this.current.leave(), HIDDEN_MS);
    else this.current.enter();
  }
}

export const app = new App();
