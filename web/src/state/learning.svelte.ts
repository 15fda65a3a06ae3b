/** What one conversation has read and learned: readings, scores, versions. */

import { client } from '../api/client';
import type { Reading, Score, Version } from '../api/type';
import { orderScores, summarise, type Summary } from '../learning/score';

/** What the chart shows: one reading, all messages together, or everything. */
export type Subject = { kind: 'all' } | { kind: 'messages' } | { kind: 'reading'; id: string };

export class Learning {
  readings = $state<Reading[]>([]);
  versions = $state<Version[]>([]);
  #scores = $state.raw<Score[]>([]);
  #chosen = $state<Subject | null>(null);

  scores = $derived(orderScores(this.#scores));
  documents = $derived(this.readings.filter((reading) => reading.kind === 'document'));
  summaries = $derived(this.#summarise());
  underway = $derived(this.readings.some((one) => one.status === 'reading' || one.status === 'queued'));

  async load(session: string): Promise<void> {
    const [readings, scores, versions] = await Promise.all([
      client.readings(session),
      client.scores(session),
      client.versions(session),
    ]);
    this.readings = readings;
    this.#scores = scores;
    this.versions = versions.data;
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
    if (!this.versions.some((other) => other.number === version.number)) this.versions.push(version);
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
