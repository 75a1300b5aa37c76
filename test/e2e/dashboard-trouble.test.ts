/**
 * The dashboard in a real browser while the server, or what it needs, is not well. `SCREENSHOTS=DIRECTORY` keeps pictures.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { browserMissing, launchBrowser, openPage, screenshot } from '../support/browser.js';
import { Load, numberIn, says, textOf } from '../support/dashboard-pages.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { increment } from '../support/http.js';
import { scrape } from '../support/metrics.js';
import { freePort } from '../support/free-port.js';
import { OutagePostgres } from '../support/outage-postgres.js';
import { assertCreated } from '../support/problem.js';
import { startServer, type TestServer } from '../support/server.js';

const skip = browserMissing();

describe('the dashboard when things go wrong', { skip }, () => {
  let browser: Browser;
  let postgres: OutagePostgres;
  let server: TestServer;
  let port: number;
  before(async () => {
    browser = await launchBrowser();
    postgres = await OutagePostgres.prepare();
    await postgres.start();
    port = await freePort();
    server = await start();
  });
  after(async () => {
    await browser.close();
    await server.dispose();
    await postgres.dispose();
  });

  function start(): Promise<TestServer> {
    return startServer({
      env: { DATABASE_URL: postgres.url, PORT: String(port), SHARDS: '1', MAX_PENDING_KEYS: '3000', MAX_WATCHERS: '2' },
    });
  }

  test('an outage of PostgreSQL, a full server, its end and its return are said in words', async (context) => {
    const { page } = await openPage(context, browser, server.url);
    const load = new Load(server.url);
    try {
      await says(page, '#health-title', /^Counting$/);
      await postgres.stop('fast');
      await says(page, '#health-title', /^PostgreSQL unavailable for \d+(\.\d)? s$/);
      await says(page, '#health-detail', /^[\d,]+ increments wait in the journal, room for .+\.$/);
      await says(page, '#health-detail', /room for \d+ (s|min|h|days) at this rate\.$/);
      await sleep(3_000);
      await screenshot(page, 'outage');
      const keys = Object.fromEntries(Array.from({ length: 2_900 }, (_, index) => [`fill-${index}`, 1]));
      assertCreated(await increment(server.url, keys));
      // A busy machine refuses requests for other reasons, too, before the bound is reached.
      await eventually('the bound is reached', async () => {
        await increment(server.url, { [`one-${performance.now()}`]: 1, [`two-${performance.now()}`]: 1 });
        return (await textOf(page, '#health-title')) === 'New increments are refused';
      });
      await says(page, '#health-detail', /MAX_PENDING_KEYS/);
      await says(page, '#refusals-note', /since the start: overloaded \d+/);
      await screenshot(page, 'refusing');
      await postgres.start();
      await says(page, '#health-title', /^Counting$/);
    } finally {
      await load.end();
    }
    const accepted = (await scrape(server.url)).total('increments_accepted_total');
    await eventually('all is flushed', async () => (await numberIn(page, '#balance [data-name=flushed]')) === accepted);
    await server.stop();
    await says(page, '#health-title', /^Not connected$/);
    await says(page, '#health-detail', /the figures are \d+ s old/);
    await screenshot(page, 'disconnected');
    await server.dispose();
    server = await start();
    await says(page, '#health-title', /^Counting$/);
  });

  test('one dashboard more than MAX_WATCHERS says why it shows nothing', async (context) => {
    const pages = [];
    for (let count = 0; count < 3; count += 1) pages.push(await openPage(context, browser, server.url));
    const last = pages.at(-1);
    assert.ok(last !== undefined);
    await says(last.page, '#refused-text', /MAX_WATCHERS/);
    assert.equal(await last.page.locator('#token-form').isHidden(), true);
    await screenshot(last.page, 'refused');
    await pages[0]?.page.context().close();
    // It tries again by itself.
    await says(last.page, '#health-title', /^Counting$/);
  });
});

describe('the dashboard of a server that starts', { skip }, () => {
  let database: TestDatabase;
  before(async () => {
    database = await createTestDatabase();
  });
  after(() => database.drop());

  test('it is there before the database answers, and says what the server waits for', async (context) => {
    const browser = await launchBrowser();
    const closed = await freePort();
    const env = { DATABASE_URL: `postgres://nobody@127.0.0.1:${closed}/none`, JOURNAL: 'memory' };
    const server = await startServer({ env, until: 'Database postgresql://' });
    try {
      const { page, problems } = await openPage(context, browser, server.url);
      await says(page, '#health-title', /^Starting$/);
      await says(page, '#health-detail', /^It waits for PostgreSQL: .*(ECONNREFUSED|refused)/);
      await screenshot(page, 'starting');
      assert.deepEqual(problems, []);
    } finally {
      await browser.close();
      await server.dispose();
    }
  });
});
