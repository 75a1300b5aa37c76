/**
 * One counter: its sum live, and increments by hand.
 */
import { followEvents } from './event-source.js';
import { grouped } from './text.js';

const SUM = /,"sum":(-?\d+|null),"committed":/;

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** The panel of one counter. */
export class CounterPanel {
  /** @type {() => string} */
  #token;
  /** @type {(() => void) | undefined} */
  #stop;
  #key = '';

  /** @param {() => string} token the bearer token, '' for none */
  constructor(token) {
    this.#token = token;
    const key = /** @type {HTMLInputElement} */ (byId('key'));
    byId('search-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.follow(key.value);
    });
    byId('count-form').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#count(key.value, /** @type {HTMLInputElement} */ (byId('amount')).value);
    });
  }

  /**
   * Shows the sum of a key from now on.
   * @param {string} key
   */
  follow(key) {
    if (key === '') return;
    this.#stop?.();
    this.#key = key;
    /** @type {HTMLInputElement} */ (byId('key')).value = key;
    byId('counter').hidden = false;
    byId('counter-key').textContent = key;
    byId('counter-sum').textContent = '–';
    byId('counter-note').textContent = 'Reading …';
    let isRefused = false;
    this.#stop = followEvents(`/watch?${new URLSearchParams({ key }).toString()}`, this.#token(), {
      event: (_, data) => this.#show(data),
      open: () => {
        isRefused = false;
      },
      lost: () => {
        if (!isRefused) byId('counter-note').textContent = 'Not connected; trying again …';
      },
      refused: (_, { detail }) => {
        isRefused = true;
        byId('counter-note').textContent = detail ?? 'The server refuses to show it.';
      },
    });
  }

  /** Connects again, with another token. */
  restart() {
    if (this.#stop !== undefined) this.follow(this.#key);
  }

  /** @param {string} data */
  #show(data) {
    const sum = SUM.exec(data)?.[1] ?? '';
    const isKnown = sum !== 'null';
    byId('counter-sum').textContent = isKnown ? grouped(sum) : 'not counted yet';
    byId('counter-note').textContent = isKnown
      ? `Followed live; changed last at ${new Date().toLocaleTimeString('en-GB')}.`
      : 'This key was never counted, or its counter was deleted.';
  }

  /**
   * @param {string} key
   * @param {string} amount
   */
  async #count(key, amount) {
    const result = byId('count-result');
    if (key === '') {
      result.textContent = 'Give the key above first.';
      byId('key').focus();
      return;
    }
    if (key !== this.#key) this.follow(key);
    const digits = amount
      .trim()
      .replace(/^\+/, '')
      .replace(/^(-?)0+(?=\d)/, '$1');
    /** @type {Record<string, string>} */
    const headers = { 'content-type': 'application/json', 'idempotency-key': randomId() };
    if (this.#token() !== '') headers['authorization'] = `Bearer ${this.#token()}`;
    try {
      const body = `{${JSON.stringify(key)}:${digits}}`;
      const response = await fetch('/increment', { method: 'POST', headers, body });
      const problem = response.ok ? {} : await response.json().catch(() => ({}));
      result.dataset['outcome'] = response.ok ? 'ok' : 'bad';
      result.textContent = response.ok
        ? `Counted: ${grouped(digits)} to ${key}.`
        : (problem.detail ?? `The server answered ${response.status}.`);
    } catch {
      result.dataset['outcome'] = 'bad';
      result.textContent = 'The server cannot be reached; whether it was counted is not known.';
    }
  }
}

/** `crypto.randomUUID` exists on pages of https and localhost only. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
