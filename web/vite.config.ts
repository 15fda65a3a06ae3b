import { svelte } from '@sveltejs/vite-plugin-svelte';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

const address = process.env.FLUVIAL_ADDRESS ?? 'http://127.0.0.1:8420';

/** Every browser that runs this page reads woff2: leave KaTeX's older font formats out of the wheel. */
function keepWoff2(): Plugin {
  return {
    name: 'keep-woff2',
    enforce: 'pre',
    transform(code, id) {
      if (!id.endsWith('katex.min.css')) return undefined;
      return code.replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\("[^"]*"\)/g, '');
    },
  };
}

export default defineConfig({
  plugins: [keepWoff2(), svelte()],
  build: {
    outDir: '../fluvial/server/page',
    emptyOutDir: true,
    // The server's policy allows no data: fonts, and no inline code.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'es2022',
    // One file from one's own machine: splitting it would cost more requests than it saves bytes.
    chunkSizeWarningLimit: 800,
  },
  server: { proxy: { '/v1': address, '/healthz': address } },
  // Components are drawn in tests as in a browser.
  ...(process.env.VITEST ? { resolve: { conditions: ['browser'] } } : {}),
  test: { environment: 'jsdom', include: ['tests/**/*.test.ts'] },
});
