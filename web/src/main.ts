import { mount } from 'svelte';
import 'katex/dist/katex.min.css';
import './style/base.css';
import './style/prose.css';
import App from './components/App.svelte';
import { app } from './state/app.svelte';

const target = document.getElementById('app');
if (!target) throw new Error('the page has no #app element');
mount(App, { target });
app.start();
