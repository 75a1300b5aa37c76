/**
 * The dashboard in a real browser, of real servers. `SCREENSHOTS=DIRECTORY` keeps pictures of every look.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { browserMissing, launchBrowser, openPage, screenshot } from '../support/browser.js';
import { sumOf } from '../support/counters.js';
import { Load, numberIn, says, textOf } from '../support/dashboard-pages.js';
import { eventually } from '../support/eventually.js';
import { increment, send } from '../support/http.js';
import { scrape } from '../support/metrics.js';
import { SuiteServer } from '../support/suite-server.js';

const skip = browserMissing();

describe('the dashboard', { skip }, () => {
  const node = new SuiteServer({ HTTP_THREADS: '2', SHARDS: '2' });
  let browser: Browser;
  before(async () => {
    browser = await launchBrowser();
  });
  after(() => browser.close());

  test('the keyboard reaches everything, in the order of the page', async (context) => {
    const { page } = await openPage(context, browser, node.url);
    await says(page, '#health-title', /^Counting$/);
    const reached: string[] = [];
    for (let presses = 0; presses < 8; presses += 1) {
      await page.keyboard.press('Tab');
      reached.push(
        String(await page.evaluate('document.activeElement.textContent.trim() || document.activeElement.id')),
      );
    }
    assert.deepEqual(reached, [
      'Skip to the figures',
      'As a table',
      'As a table',
      'key',
      'Follow',
      'amount',
      'Add to this key',
      'Metrics',
    ]);
  });

  test('an empty server shows how to begin, and an increment by hand changes that', async (context) => {
    const { page, problems } = await openPage(context, browser, node.url);
    await says(page, '#health-title', /^Counting$/);
    assert.match(await textOf(page, '#empty'), /curl -X POST http:\/\/127\.0\.0\.1:\d+\/increment/);
    await screenshot(page, 'empty');
    await page.getByLabel('Key', { exact: true }).fill('by hand 😀');
    await page.getByLabel('Count by hand').fill('-0012');
    await page.getByLabel('Count by hand').press('Enter');
    await says(page, '#count-result', /^Counted: −12 to by hand 😀\.$/);
    await says(page, '#counter-sum', /^−12$/);
    await page.getByLabel('Count by hand').fill('9007199254740991');
    for (let times = 1; times <= 3; times += 1) {
      await page.getByRole('button', { name: 'Add to this key' }).click();
      await eventually(
        'it is counted',
        async () => (await sumOf(node.url, 'by hand 😀')) === 9007199254740991n * BigInt(times) - 12n,
      );
    }
    // Beyond 2^53, digit by digit.
    await says(page, '#counter-sum', /^27,021,597,764,222,961$/);
    await says(page, '#counter-note', /^Followed live; changed last at \d\d:\d\d:\d\d\.$/);
    assert.equal(await page.locator('#empty').isHidden(), true);
    await page.getByLabel('Count by hand').fill('9007199254740992');
    await page.getByRole('button', { name: 'Add to this key' }).click();
    await says(page, '#count-result', /2\^53/);
    assert.deepEqual(
      problems.filter((problem) => !problem.includes('status of 400')),
      [],
    );
  });

  test('figures, charts and hottest keys move under load; then they equal the metrics', async (context) => {
    const { page, problems } = await openPage(context, browser, node.url);
    const load = new Load(node.url);
    try {
      await says(page, '#increments', /^[1-9][0-9,]*$/);
      await says(page, '#p99', /^[0-9.]+$/);
      const first = page.locator('#hot-keys li').first();
      await eventually('the hottest key', async () => /page:\/home\s+[0-9,.]+\/s/.test(await first.innerText()));
      await eventually('the other keys', async () => (await page.locator('#hot-keys li').count()) >= 6);
      const before = await numberIn(page, '#balance [data-name=accepted]');
      await eventually('the total moves', async () => (await numberIn(page, '#balance [data-name=accepted]')) > before);
      await page.getByRole('button', { name: 'orders' }).click();
      const sum = await says(page, '#counter-sum', /^[1-9][0-9,]*$/);
      await eventually('the sum moves', async () => (await textOf(page, '#counter-sum')) !== sum);
      await eventually('some seconds in the chart', async () => (await numberIn(page, '#increments')) > 0);
      // For the pictures the charts have some more to show.
      if (process.env['SCREENSHOTS'] !== undefined) await sleep(60_000);
      await screenshot(page, 'light');
      await page.emulateMedia({ colorScheme: 'dark' });
      await sleep(500);
      await screenshot(page, 'dark');
    } finally {
      await load.end();
    }
    const said = await page.locator('#rate-chart .plot').getAttribute('aria-label');
    assert.match(said ?? '', /^Increments a second over the last five minutes\. Counted: now [\d,.K]+, lowest \d/);
    await page.locator('#rate-chart summary').click();
    await eventually('the table', async () => (await page.locator('#rate-chart tr').count()) > 4);
    const metrics = await scrape(node.url);
    const accepted = metrics.total('increments_accepted_total');
    await eventually(
      'the page shows the last increments',
      async () =>
        (await numberIn(page, '#balance [data-name=accepted]')) === accepted &&
        (await numberIn(page, '#balance [data-name=flushed]')) === accepted,
    );
    assert.match(await textOf(page, '#balance-text'), /0 are pending\. It adds up\.$/);
    // The sum comes with an event stream of its own, up to a second after the balance.
    const sum = String(await sumOf(node.url, 'orders'));
    await eventually(
      'the page shows the last sum',
      async () => (await textOf(page, '#counter-sum')).replaceAll(',', '') === sum,
    );
    assert.deepEqual(problems, []);
  });

  test('a screen of 360 pixels needs no sideways scrolling, and everything is there', async (context) => {
    const load = new Load(node.url, { clients: 2 });
    const viewport = { width: 360, height: 780 };
    const { page, problems } = await openPage(context, browser, node.url, {
      viewport,
      deviceScaleFactor: 2,
      hasTouch: true,
    });
    try {
      await says(page, '#increments', /^[1-9]/);
      // A key that is as long as a key can be.
      await increment(node.url, { ['k'.repeat(512)]: 1 });
      await page.getByLabel('Key', { exact: true }).fill('k'.repeat(512));
      await page.getByRole('button', { name: 'Follow' }).click();
      await says(page, '#counter-sum', /^1$/);
      const widths = await page.evaluate('[document.documentElement.scrollWidth, innerWidth]');
      assert.deepEqual(widths, [360, 360]);
      for (const heading of ['A counter', 'Hottest keys', 'Room', 'Shards', 'Balance'])
        assert.ok(await page.getByRole('heading', { name: heading }).isVisible());
      await screenshot(page, 'phone');
    } finally {
      await load.end();
    }
    assert.deepEqual(problems, []);
  });

  test('both HTTP threads serve the page, its files and its events', async (context) => {
    // Each page has connections of its own, which the system spreads over the threads.
    const pages = await Promise.all(Array.from({ length: 6 }, () => openPage(context, browser, node.url)));
    for (const { page, problems } of pages) {
      await says(page, '#health-title', /^Counting$/);
      assert.deepEqual(problems, []);
    }
    assert.equal((await scrape(node.url)).total('watchers'), 6);
  });

  test('the files are checked with the server, and not sent again', async () => {
    for (const path of ['/', '/dashboard/main.js', '/dashboard/uplot.js', '/dashboard/icon.svg']) {
      const whole = await send(node.url, path);
      const etag = String(whole.headers.etag);
      assert.deepEqual([whole.status, whole.headers['cache-control']], [200, 'no-cache']);
      assert.match(String(whole.headers['content-security-policy']), /^default-src 'none'; script-src 'self';/);
      const known = await send(node.url, path, { headers: { 'if-none-match': `W/"other", ${etag}` } });
      assert.deepEqual([known.status, known.body], [304, '']);
      const head = await send(node.url, path, { method: 'HEAD' });
      assert.deepEqual([head.status, head.headers['content-length']], [200, String(Buffer.byteLength(whole.body))]);
    }
    assert.equal((await send(node.url, '/', { method: 'POST' })).status, 405);
    assert.equal((await send(node.url, '/dashboard/package.json')).status, 404);
    assert.equal((await send(node.url, '/', { headers: { host: 'rebound.example' } })).status, 403);
  });
});

describe('the dashboard of a server with access control', { skip }, () => {
  const node = new SuiteServer({ AUTH_TOKENS: 'read:reader-token,write:writer-token,admin:admin-token' });
  let browser: Browser;
  before(async () => {
    browser = await launchBrowser();
  });
  after(() => browser.close());

  test('it asks for a bearer token, refuses a wrong one, and keeps a good one for the session', async (context) => {
    const { page } = await openPage(context, browser, node.url);
    await says(page, '#refused-title', /A bearer token is needed/);
    assert.equal(await page.locator('#live').isHidden(), true);
    await screenshot(page, 'locked');
    await page.locator('#token').fill('wrong');
    await page.getByRole('button', { name: 'Show figures' }).click();
    await says(page, '#refused-text', /does not know this token/);
    await page.locator('#token').fill('writer-token');
    await page.getByRole('button', { name: 'Show figures' }).click();
    await says(page, '#refused-text', /lacks the scope/);
    await page.locator('#token').fill('reader-token');
    await page.getByRole('button', { name: 'Show figures' }).click();
    await says(page, '#health-title', /^Counting$/);
    await page.reload();
    await says(page, '#health-title', /^Counting$/);
    assert.deepEqual(await page.evaluate('Object.keys(localStorage)'), []);
    // A token that may only read counts nothing.
    await page.getByLabel('Key', { exact: true }).fill('guarded');
    await page.getByRole('button', { name: 'Add to this key' }).click();
    await says(page, '#count-result', /lacks the scope/);
    assert.equal(await page.locator('#count-result').getAttribute('data-outcome'), 'bad');
    await says(page, '#counter-sum', /^not counted yet$/);
  });

  test('a token of an administrator shows and counts', async (context) => {
    const { page } = await openPage(context, browser, node.url);
    await page.locator('#token').fill('admin-token');
    await page.locator('#token').press('Enter');
    await says(page, '#health-title', /^Counting$/);
    await page.getByLabel('Key', { exact: true }).fill('guarded');
    await page.getByRole('button', { name: 'Add to this key' }).click();
    await says(page, '#counter-sum', /^1$/);
  });
});
