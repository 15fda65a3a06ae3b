/** Numbers, sizes and times, as people read them. */

import { preference } from '../state/preference.svelte';

const locale = (): string => (preference.language === 'zh' ? 'zh-CN' : 'en');

export const formatNumber = (value: number, digits = 0): string =>
  value.toLocaleString(locale(), { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Two digits that count, however small: 0.0123 reads as 0.012. */
export const formatFigure = (value: number): string =>
  value.toLocaleString(locale(), { maximumSignificantDigits: 2 });

/** `share` 0.063 reads as 6.3 %. The sign is left to the words around it. */
export const formatPercent = (share: number, digits = 1): string =>
  Math.abs(share).toLocaleString(locale(), { style: 'percent', minimumFractionDigits: digits, maximumFractionDigits: digits });

export const formatSignedPercent = (share: number): string =>
  share.toLocaleString(locale(), {
    style: 'percent', minimumFractionDigits: 1, maximumFractionDigits: 1, signDisplay: 'exceptZero',
  });

export function formatBytes(bytes: number): string {
  const units = ['byte', 'kilobyte', 'megabyte', 'gigabyte'];
  const step = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), units.length - 1);
  const value = bytes / 1000 ** step;
  const unit = units[step] ?? 'byte';
  return value.toLocaleString(locale(), {
    style: 'unit', unit, unitDisplay: step === 0 ? 'long' : 'short', maximumFractionDigits: value < 10 && step > 0 ? 1 : 0,
  });
}

const part = (value: number, unit: string): string =>
  value.toLocaleString(locale(), { style: 'unit', unit, unitDisplay: 'narrow' });

/** 75 s reads as “1m 15s”. Never shows zero for something that still takes time. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return part(whole, 'second');
  if (whole < 3600) return `${part(Math.floor(whole / 60), 'minute')} ${part(whole % 60, 'second')}`;
  return `${part(Math.floor(whole / 3600), 'hour')} ${part(Math.floor((whole % 3600) / 60), 'minute')}`;
}

export const formatTime = (atSeconds: number): string =>
  new Date(atSeconds * 1000).toLocaleString(locale(), { dateStyle: 'medium', timeStyle: 'short' });

export const formatDate = (atSeconds: number): string =>
  new Date(atSeconds * 1000).toLocaleDateString(locale(), { dateStyle: 'medium' });

export const formatClock = (atSeconds: number): string =>
  new Date(atSeconds * 1000).toLocaleTimeString(locale(), { timeStyle: 'short' });
