/** A real Chromium, driven by Playwright. Debian has it in the package chromium. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/** The path of a Chromium on this machine; `CHROMIUM` names another one. */
function chromiumPath(): string | undefined {
  const given = process.env['CHROMIUM'];
  if (given !== undefined) return given;
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  return NAMES.flatMap((name) => folders.map((folder) => join(folder, name))).find((path) => existsSync(path));
}

/** Why a test with a browser must be skipped on this machine, or false. In continuous integration it must not. */
export function browserMissing(): string | false {
  return chromiumPath() !== undefined || process.env['CI'] === 'true'
    ? false
    : 'no Chromium is installed (Debian: apt-get install chromium; or name one with CHROMIUM=PATH)';
}

/** Starts the browser. */
export function launchBrowser(): Promise<Browser> {
  const executablePath = chromiumPath();
  assert.ok(executablePath !== undefined, 'no Chromium is installed');
  // Chromium refuses its sandbox to root, as which continuous integration may run.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({ executablePath, args });
}

/** A page, and what went wrong in it. */
export interface WatchedPage {
  readonly page: Page;
  /** Errors and warnings of the console, uncaught errors, and requests to other origins. */
  readonly problems: string[];
}

/** Opens a page in a context of its own, which is closed after the test. */
export async function openPage(
  test: { after(close: () => Promise<void>): void },
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<WatchedPage> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  test.after(() => context.close());
  const page = await context.newPage();
  const problems: string[] = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) problems.push(`${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => problems.push(`uncaught: ${error.message}`));
  page.on('request', (request) => {
    if (!request.url().startsWith(url)) problems.push(`foreign request: ${request.url()}`);
  });
  await page.goto(url);
  return { page, problems };
}

/** Saves a picture of the whole page in `SCREENSHOTS`, if that is set: a directory. */
export async function screenshot(page: Page, name: string): Promise<void> {
  const directory = process.env['SCREENSHOTS'];
  if (directory === undefined) return;
  mkdirSync(directory, { recursive: true });
  await page.screenshot({ path: join(directory, `${name}.png`), fullPage: true });
}
