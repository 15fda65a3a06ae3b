import { beforeEach, describe, expect, it, vi } from 'vitest';

import type { Note } from '../src/api/type';
import { makeVersion } from './fake';

const NOTES: [Note, string, string][] = [
  [{ code: 'scaled_back', drift: 0.161, budget: 0.04 }, 'drift was 0.16, over the budget of 0.04', '偏移曾为 0.16，超出预算 0.04'],
  [{ code: 'scaled_back', drift: null, budget: 0.04 }, 'not a finite number', '不是有限的数'],
  [{ code: 'over_budget', budget: 0.04 }, 'over the budget of 0.04 nats a token', '每词元 0.04 奈特'],
  [{ code: 'not_finite' }, 'its numbers went wrong', '数值异常'],
  [{ code: 'chunk_not_finite' }, 'the numbers of one step went wrong', '某一步的数值异常'],
  [{ code: 'reads_worse', excess: 0.124, halved: false }, 'version before: it read 12% worse', '退回前一版本：预测所读文本比基础模型差 12%'],
  [{ code: 'reads_worse', excess: 1.5, halved: true }, 'halved the version before: it read 150% worse', '减半：从第一部分起，预测所读文本就比基础模型差 150%'],
  [{ code: 'compressed', rank: 8, from_rank: 16, loss: 0.0312 }, 'from rank 16 to 8, which lost 3.12%', '秩从 16 压缩到 8，损失 3.12%'],
  [{ code: 'compressed', rank: 8, from_rank: null, loss: 0.0312 }, 'to rank 8, which lost 3.12%', '压缩到秩 8，损失 3.12%'],
  [{ code: 'unmeasured' }, 'not measured', '未测量'],
  [{ code: 'imported', format: 'gguf' }, 'imported from GGUF', '从 GGUF 文件导入'],
  [{ code: 'imported', format: 'later' }, 'imported from later', '从 later 文件导入'],
  [{ code: 'adopted', name: 'rivers' }, 'adopted from “rivers”', '采用自“rivers”'],
  [
    { code: 'canary_failed', failed: 5, counted: 20, back_to: 3 },
    'failed 5 of 20 hidden test questions that the base model passes; version 3 is in force again, and learning is frozen',
    '基础模型答对的 20 道隐藏测试题中，有 5 道答错；已恢复版本 3，并冻结学习',
  ],
  [{ code: 'canary_failed', failed: 5, counted: 20, back_to: 0 }, 'the base model is in force again', '已恢复基础模型'],
  [{ code: 'canary_failed', failed: 5, counted: 20, back_to: null }, 'that the base model passes', '有 5 道答错'],
  [{ code: 'old_drift', change: 0.00123 }, 'weights had changed by 0.0012', '权重的变化为 0.0012'],
  [{ code: 'parent_deleted' }, 'its parent was deleted', '上一版本已被删除'],
  [{ code: 'plain', text: 'old words' }, 'old words', 'old words'],
];

beforeEach(() => {
  // jsdom has none of it.
  vi.stubGlobal('matchMedia', () => Object.assign(new EventTarget(), { matches: false }));
});

describe('tellNotes', () => {
  it.each(NOTES)('tells %j in both languages', async (note, english, chinese) => {
    const { preference } = await import('../src/state/preference.svelte');
    const { tellNotes } = await import('../src/text/note');
    const version = makeVersion(1, { notes: [note] });
    expect(tellNotes(version)).toContain(english);
    preference.toggleLanguage();
    expect(tellNotes(version)).toContain(chinese);
    if (note.code !== 'plain') expect(tellNotes(version)).not.toMatch(/[a-z]{5,} [a-z]{3,}/);
    preference.toggleLanguage();
  });

  it('joins what was kept and all notes, and is empty where all is as usual', async () => {
    const { tellNotes } = await import('../src/text/note');
    const notes: Note[] = [{ code: 'adopted', name: 'a' }, { code: 'unmeasured' }];
    expect(tellNotes(makeVersion(1, { scale: 0.5, notes }))).toBe('50.0% of its change was kept; adopted from “a”; its drift was not measured');
    expect(tellNotes(makeVersion(1))).toBe('');
  });
});
