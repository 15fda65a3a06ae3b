/** What this browser remembers: theme, language, and whether the panel is open. */

import { en, type Texts } from '../i18n/en';
import { zh } from '../i18n/zh';

export type Theme = 'light' | 'dark';
export type Language = 'en' | 'zh';

const texts: Record<Language, Texts> = { en, zh };

/** Storage may be full or forbidden; the page works without it. */
function recall(key: string): string | null {
  try {
    return localStorage.getItem(`fluvial.${key}`);
  } catch {
    return null;
  }
}

function remember(key: string, value: string): void {
  try {
    localStorage.setItem(`fluvial.${key}`, value);
  } catch {
    return;
  }
}

class Preference {
  #system = matchMedia('(prefers-color-scheme: dark)');
  #systemDark = $state(this.#system.matches);
  #chosenTheme = $state<string | null>(recall('theme'));
  #language = $state<Language>('en');
  #panelOpen = $state(recall('panel') !== 'closed');

  constructor() {
    this.#system.addEventListener('change', (event) => (this.#systemDark = event.matches));
    const known = recall('language') ?? navigator.language;
    this.#language = known.toLowerCase().startsWith('zh') ? 'zh' : 'en';
  }

  get theme(): Theme {
    if (this.#chosenTheme === 'light' || this.#chosenTheme === 'dark') return this.#chosenTheme;
    return this.#systemDark ? 'dark' : 'light';
  }

  toggleTheme(): void {
    this.#chosenTheme = this.theme === 'dark' ? 'light' : 'dark';
    remember('theme', this.#chosenTheme);
  }

  get language(): Language {
    return this.#language;
  }

  toggleLanguage(): void {
    this.#language = this.#language === 'en' ? 'zh' : 'en';
    remember('language', this.#language);
  }

  get panelOpen(): boolean {
    return this.#panelOpen;
  }

  set panelOpen(open: boolean) {
    this.#panelOpen = open;
    remember('panel', open ? 'open' : 'closed');
  }

  get texts(): Texts {
    return texts[this.#language];
  }
}

export const preference = new Preference();

/** The texts of the language in use. Reactive: read it inside markup or an effect. */
export const t = (): Texts => preference.texts;
