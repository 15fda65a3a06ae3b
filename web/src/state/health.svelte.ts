/** Whether the server answers, which model it runs, and how its learner is. */

import { client } from '../api/client';
import type { Health } from '../api/type';

const CALM_MS = 10_000;
const URGENT_MS = 2_000;
const PATIENCE_MS = 8_000;

class HealthWatch {
  current = $state<Health | null>(null);
  gone = $state(false);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #onBack: () => void = () => undefined;

  /** Begins to watch; `onBack` runs each time the server answers again after silence. */
  start(onBack: () => void): void {
    this.#onBack = onBack;
    document.addEventListener('visibilitychange', () => !document.hidden && void this.check());
    void this.check();
  }

  /** Asks now. Call it when another request found nobody there. */
  async check(): Promise<void> {
    clearTimeout(this.#timer);
    const wasGone = this.gone;
    try {
      this.current = await client.health(AbortSignal.timeout(PATIENCE_MS));
      this.gone = false;
    } catch {
      this.gone = true;
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.check(), this.#waitMs());
    if (wasGone && !this.gone) this.#onBack();
  }

  #waitMs(): number {
    if (this.gone) return URGENT_MS;
    return document.hidden ? CALM_MS * 6 : this.current?.learner === 'ready' ? CALM_MS : URGENT_MS;
  }
}

export const health = new HealthWatch();
