/** Reading the dashboard's page, and a load that makes it move. */
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Page } from 'playwright-core';
import { eventually } from './eventually.js';
import { increment } from './http.js';

/** The number in an element, without its separators. */
export async function numberIn(page: Page, selector: string): Promise<number> {
  return Number((await page.locator(selector).innerText()).replaceAll(/[^0-9.-]/g, ''));
}

/** The text of an element. */
export function textOf(page: Page, selector: string): Promise<string> {
  return page.locator(selector).innerText();
}

/** Waits until the text of an element matches. */
export function says(page: Page, selector: string, pattern: RegExp): Promise<string> {
  return eventually(`${selector} says ${String(pattern)}`, async () => {
    const text = await textOf(page, selector);
    return pattern.test(text) && text;
  });
}

/** Posts increments of a few keys, one of them far more often than the others, until `end` is called. */
export class Load {
  readonly #agent = new Agent({ keepAlive: true });
  readonly #clients: Promise<void>[];
  #ended = false;

  constructor(url: string, options: { readonly clients?: number; readonly headers?: Record<string, string> } = {}) {
    const { clients = 8, headers = {} } = options;
    this.#clients = Array.from({ length: clients }, async (_, client) => {
      const body = client < clients / 2 ? '{"page:/home":1}' : `{"page:/${client}":1,"orders":2}`;
      while (!this.#ended) {
        const answer = await increment(url, body, { agent: this.#agent, headers }).catch(() => undefined);
        await sleep(answer?.status === 202 ? 2 : 50);
      }
    });
  }

  async end(): Promise<void> {
    this.#ended = true;
    await Promise.all(this.#clients);
    this.#agent.destroy();
  }
}
