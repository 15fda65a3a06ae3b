/** What is visible at this width: the list becomes a drawer on phones, the panel a sheet below desktops. */

import { MediaQuery } from 'svelte/reactivity';
import { preference } from './preference.svelte';

class Layout {
  #phone = new MediaQuery('max-width: 767px');
  #compact = new MediaQuery('max-width: 1119px');
  drawerOpen = $state(false);
  sheetOpen = $state(false);

  get isPhone(): boolean {
    return this.#phone.current;
  }

  get isCompact(): boolean {
    return this.#compact.current;
  }

  /** A drawer or sheet lies over the page. */
  get hasModal(): boolean {
    return (this.isPhone && this.drawerOpen) || (this.isCompact && this.sheetOpen);
  }

  get panelOpen(): boolean {
    return this.isCompact ? this.sheetOpen : preference.panelOpen;
  }

  set panelOpen(open: boolean) {
    if (this.isCompact) this.sheetOpen = open;
    else preference.panelOpen = open;
  }
}

export const layout = new Layout();
