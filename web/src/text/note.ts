/** What is not as usual about a version, in words. */

import type { Note, Version } from '../api/type';
import { t } from '../state/preference.svelte';
import { formatFigure, formatPercent } from './format';

const FORMATS = ['fluvial', 'peft', 'gguf'] as const;

/** Tells how much of a version's change was kept, and every note; empty where all is as usual. */
export function tellNotes(version: Version): string {
  const kept = version.scale < 1 ? [t().panel.kept(formatPercent(version.scale))] : [];
  return [...kept, ...version.notes.map(tellNote)].join(t().panel.noteJoin);
}

function tellNote(note: Note): string {
  const words = t().note;
  switch (note.code) {
    case 'scaled_back':
      return words.scaledBack(note.drift === null ? null : formatFigure(note.drift), formatFigure(note.budget));
    case 'over_budget':
      return words.overBudget(formatFigure(note.budget));
    case 'not_finite':
      return words.notFinite;
    case 'chunk_not_finite':
      return words.chunkNotFinite;
    case 'reads_worse':
      return (note.halved ? words.halved : words.readsWorse)(formatPercent(note.excess, 0));
    case 'compressed':
      return words.compressed(note.rank, note.from_rank, formatPercent(note.loss, 2));
    case 'unmeasured':
      return words.unmeasured;
    case 'imported': {
      const known = FORMATS.find((format) => format === note.format);
      return words.imported(known ? t().panel.formats[known] : note.format);
    }
    case 'adopted':
      return words.adopted(note.name);
    case 'canary_failed':
      return words.canaryFailed(note.failed, note.counted, note.back_to);
    case 'old_drift':
      return words.oldDrift(formatFigure(note.change));
    case 'parent_deleted':
      return words.parentDeleted;
    case 'plain':
      return note.text;
  }
}
