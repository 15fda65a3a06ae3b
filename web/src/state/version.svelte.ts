/** What people do with the versions of one conversation. One thing at a time; what fails is told in a toast. */

import { RequestError, client, type Exported } from '../api/client';
import type { Format, Part, Session, Version } from '../api/type';
import { BASE, learnsGains } from '../learning/version';
import { saveFile } from '../text/download';
import { formatPercent } from '../text/format';
import { app } from './app.svelte';
import type { Conversation } from './conversation.svelte';
import { explain } from './explain';
import { t } from './preference.svelte';
import { published } from './published.svelte';
import { questions } from './question.svelte';
import { toasts } from './toast.svelte';

/** Where a dialog stays open: what went wrong is told there. Not done and no problem: the person thought better of it. */
export interface Outcome {
  done: boolean;
  problem: string;
}

/** Below this share a loss is not worth a word. */
const NOTABLE = 0.0005;
/** What is less is 0.00 %: the server counts it as exact, too. */
const LEAST_LOSS = 5e-5;

export class Versions {
  working = $state(false);
  readonly #conversation: Conversation;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
  }

  /** The versions of this conversation. */
  get known(): Version[] {
    return this.#conversation.learning.versions;
  }

  /** Puts a version in force; asks first where that stops a reading, and offers to take it back. */
  async restore(session: Session, number: number): Promise<void> {
    if (!(await this.#mayStopReading())) return;
    await this.#attempt(async () => {
      const previous = session.version;
      this.#conversation.onSession(await client.restore(session.id, number));
      toasts.show(t().panel.restored(number), this.#offerBack(session, previous, number));
    });
  }

  #offerBack(session: Session, previous: number, number: number): { label: string; run: () => void } | null {
    const known = previous === BASE || this.#conversation.learning.versions.some((one) => one.number === previous);
    if (!known || previous === number) return null;
    return { label: t().panel.revert, run: () => void this.restore({ ...session, version: number }, previous) };
  }

  async #mayStopReading(): Promise<boolean> {
    const { restoreTitle: title, restoreText: text, restoreConfirm: confirm } = t().panel;
    return !this.#conversation.learning.underway || questions.ask({ title, text, confirm, danger: false });
  }

  async pin(session: Session, version: Version): Promise<void> {
    await this.#attempt(async () => {
      const changed = await client.pinVersion(session.id, version.number, !version.pinned);
      this.#conversation.learning.putVersion(changed);
    });
  }

  /** Begins a conversation that has a copy of this version, and goes there. */
  async branch(session: Session, number: number): Promise<void> {
    const { branchTitle, branchText: text, branchConfirm: confirm, branchOption, branched, branchBack: label } = t().panel;
    const option = this.#conversation.messages.length ? { option: branchOption } : {};
    if (!(await questions.ask({ title: branchTitle(number), text, confirm, danger: false, ...option }))) return;
    const messages = questions.ticked;
    await this.#attempt(async () => {
      const made = await client.branch(session.id, number, { title: session.title, messages });
      app.open(made.id);
      toasts.show(branched(number), { label, run: () => app.open(session.id) });
    });
  }

  /** Downloads a version. Where the format can't hold all of it, asks before anything is lost. */
  async download(session: Session, version: Version, format: Format): Promise<void> {
    await this.#attempt(async () => {
      const number = version.number;
      const exact = format !== 'fluvial' && learnsGains(version) ? null : await this.#export(session, number, format);
      const made = exact ?? (await this.#exportAtLoss(session, number, format));
      if (!made) return;
      saveFile(made.name, made.data);
      if (made.loss > NOTABLE) toasts.show(t().panel.exportLoss(formatPercent(made.loss)));
    });
  }

  async #export(session: Session, number: number, format: Format): Promise<Exported | null> {
    try {
      return await client.exportVersion(session.id, number, format, false);
    } catch (error) {
      if (format !== 'fluvial' && error instanceof RequestError && error.code === 'unsupported') return null;
      throw error;
    }
  }

  async #exportAtLoss(session: Session, number: number, format: Format): Promise<Exported | null> {
    const { lossyTitle, lossyText: text, lossyConfirm: confirm } = t().panel;
    const agreed = await questions.ask({ title: lossyTitle(t().panel.formats[format]), text, confirm, danger: false });
    return agreed ? await client.exportVersion(session.id, number, format, true) : null;
  }

  /** Puts the adapter in a file in force; it stays undone as easily as any version. */
  async import(session: Session, file: File): Promise<void> {
    const tell = ({ number, loss }: Version & { loss: number }): string =>
      t().panel.imported(number, loss > NOTABLE ? formatPercent(loss) : null);
    await this.show(this.#take(session, () => client.importVersion(session.id, file), tell));
  }

  /** Tells in a toast what went wrong, where no dialog is open to say it. */
  async show(outcome: Promise<Outcome>): Promise<void> {
    const { problem } = await outcome;
    if (problem) toasts.show(problem);
  }

  /** Gives a copy of a version to everyone on this server. */
  publish(session: Session, number: number, name: string): Promise<Outcome> {
    return this.#try(async () => {
      published.put(await client.publish(session.id, number, name));
      toasts.show(t().share.done(name), { label: t().share.withdraw, run: () => void this.show(this.#withdraw(name, null)) });
    });
  }

  /** Takes a publication back after a yes. `number`: the version here that can be published again. */
  async withdraw(session: Session, name: string, number: number | null): Promise<Outcome> {
    const { withdrawTitle, withdrawText: text, withdraw: confirm } = t().share;
    if (!(await questions.ask({ title: withdrawTitle(name), text, confirm, danger: true }))) return { done: false, problem: '' };
    return this.#withdraw(name, number === null ? null : () => void this.show(this.publish(session, number, name)));
  }

  #withdraw(name: string, again: (() => void) | null): Promise<Outcome> {
    return this.#try(async () => {
      await client.withdraw(name);
      published.drop(name);
      toasts.show(t().share.withdrawn(name), again && { label: t().panel.revert, run: again });
    });
  }

  /** Puts a copy of what is published under a name in force. */
  adopt(session: Session, name: string): Promise<Outcome> {
    return this.#take(session, () => client.adopt(session.id, name), ({ number }) => t().share.adopted(name, number));
  }

  /** Puts the weighted sum of versions in force, and tells what compressing it lost. */
  merge(session: Session, parts: Part[], rank: number | null): Promise<Outcome> {
    return this.#take(
      session,
      () => client.merge(session.id, parts, rank),
      ({ number, loss }) => t().merge.done(number, loss >= LEAST_LOSS ? formatPercent(loss, 2) : null),
    );
  }

  /** Puts what `make` returns in force; it stays undone as easily as any version. */
  async #take<V extends Version>(session: Session, make: () => Promise<V>, tell: (made: V) => string): Promise<Outcome> {
    if (!(await this.#mayStopReading())) return { done: false, problem: '' };
    return this.#try(async () => {
      const previous = this.#conversation.session?.version ?? session.version;
      const made = await make();
      this.#conversation.learning.putVersion(made);
      this.#conversation.onSession(await client.session(session.id));
      toasts.show(tell(made), this.#offerBack(session, previous, made.number));
    });
  }

  async remove(session: Session, number: number): Promise<void> {
    const { removeTitle, removeText: text, remove: confirm, removed } = t().panel;
    if (!(await questions.ask({ title: removeTitle(number), text, confirm, danger: true }))) return;
    await this.#attempt(async () => {
      await client.deleteVersion(session.id, number);
      this.#conversation.learning.dropVersion(number);
      toasts.show(removed(number));
    });
  }

  async #attempt(action: () => Promise<void>): Promise<void> {
    await this.show(this.#try(action));
  }

  async #try(action: () => Promise<void>): Promise<Outcome> {
    if (this.working) return { done: false, problem: '' };
    this.working = true;
    try {
      await action();
      return { done: true, problem: '' };
    } catch (error) {
      if (error instanceof RequestError && error.status === 404) void this.#conversation.load();
      return { done: false, problem: explain(error) };
    } finally {
      this.working = false;
    }
  }
}
