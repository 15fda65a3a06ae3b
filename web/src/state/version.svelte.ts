/** What people do with the versions of one conversation. One thing at a time; what fails is told in a toast. */

import { RequestError, client, type Exported } from '../api/client';
import type { Format, Session, Version } from '../api/type';
import { BASE, learnsGains } from '../learning/version';
import { saveFile } from '../text/download';
import { formatPercent } from '../text/format';
import { app } from './app.svelte';
import type { Conversation } from './conversation.svelte';
import { explain } from './explain';
import { t } from './preference.svelte';
import { questions } from './question.svelte';
import { toasts } from './toast.svelte';

/** Below this share a loss is not worth a word. */
const NOTABLE = 0.0005;

export class Versions {
  working = $state(false);
  readonly #conversation: Conversation;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
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
    if (!(await this.#mayStopReading())) return;
    await this.#attempt(async () => {
      const previous = this.#conversation.session?.version ?? session.version;
      const made = await client.importVersion(session.id, file);
      this.#conversation.learning.putVersion(made);
      this.#conversation.onSession(await client.session(session.id));
      const lost = made.loss > NOTABLE ? formatPercent(made.loss) : null;
      toasts.show(t().panel.imported(made.number, lost), this.#offerBack(session, previous, made.number));
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
    if (this.working) return;
    this.working = true;
    try {
      await action();
    } catch (error) {
      toasts.show(explain(error));
      if (error instanceof RequestError && error.status === 404) void this.#conversation.load();
    } finally {
      this.working = false;
    }
  }
}
