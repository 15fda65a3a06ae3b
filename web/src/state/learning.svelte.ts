/** What one conversation has read and learned: readings, scores, versions. */

import { client } from '../api/client';
import type { Reading, Score, Version, VersionList } from '../api/type';
import { orderScores, summarise, type Summary } from '../learning/score';

/** What the chart shows: one reading, all messages together, or everything. */
export type Subject = { kind: 'all' } | { kind: 'messages' } | { kind: 'reading'; id: string };

export class Learning {
  readings = $state<Reading[]>([]);
  versions = $state<Version[]>([]);
  /** Nats a token; 0 until the server told. */
  driftBudget = $state(0);
  limitBytes = $state(0);
  #scores = $state.raw<Score[]>([]);
  #chosen = $state<Subject | null>(null);

  scores = $derived(orderScores(this.#scores));
  documents = $derived(this.readings.filter((reading) => reading.kind === 'document'));
  summaries = $derived(this.#summarise());
  usedBytes = $derived(this.versions.reduce((sum, version) => sum + version.bytes, 0));
  underway = $derived(this.readings.some((one) => one.status === 'reading' || one.status === 'queued'));

  async load(session: string): Promise<void> {
    const [readings, scores, versions] = await Promise.all([
      client.readings(session),
      client.scores(session),
      client.versions(session),
    ]);
    this.readings = readings;
    this.#scores = scores;
    this.#takeVersions(versions);
  }

  async reloadVersions(session: string): Promise<void> {
    this.#takeVersions(await client.versions(session));
  }

  #takeVersions(list: VersionList): void {
    this.versions = list.data;
    this.driftBudget = list.drift_budget;
    this.limitBytes = list.limit_bytes;
  }

  putReading(reading: Reading): void {
    const at = this.readings.findIndex((other) => other.id === reading.id);
    if (at < 0) this.readings.push(reading);
    else this.readings[at] = reading;
  }

  putScore(score: Score): void {
    this.#scores = [...this.#scores.filter((other) => other.index !== score.index), score];
  }

  putVersion(version: Version): void {
    const at = this.versions.findIndex((other) => other.number === version.number);
    if (at < 0) this.versions.push(version);
    else this.versions[at] = version;
  }

  dropVersion(number: number): void {
    this.versions = this.versions.filter((version) => version.number !== number);
  }

  forget(): void {
    this.versions = [];
    this.#scores = [];
  }

  /** The subject in view: the one chosen, else the newest document with scores, else everything. */
  get subject(): Subject {
    if (this.#chosen) return this.#chosen;
    const newest = this.documents.filter((one) => this.summaries.has(one.id)).at(-1);
    return newest ? { kind: 'reading', id: newest.id } : { kind: 'all' };
  }

  set subject(subject: Subject) {
    this.#chosen = subject;
  }

  /** The scores of the subject in view. */
  get selected(): Score[] {
    const subject = this.subject;
    if (subject.kind === 'all') return this.scores;
    if (subject.kind === 'reading') return this.scores.filter((score) => score.reading === subject.id);
    const ids = new Set(this.readings.filter((one) => one.kind === 'message').map((one) => one.id));
    return this.scores.filter((score) => ids.has(score.reading));
  }

  #summarise(): Map<string, Summary> {
    const byReading = groupByReading(this.scores);
    const summaries = new Map<string, Summary>();
    for (const [reading, scores] of byReading) {
      const summary = summarise(scores);
      if (summary) summaries.set(reading, summary);
    }
    return summaries;
  }
}

function groupByReading(scores: readonly Score[]): Map<string, Score[]> {
  const groups = new Map<string, Score[]>();
  for (const score of scores) {
    const known = groups.get(score.reading);
    if (known) known.push(score);
    else groups.set(score.reading, [score]);
  }
  return groups;
}
