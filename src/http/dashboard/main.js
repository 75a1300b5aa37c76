/**
 * The page: connects, shows each event, and says what is wrong.
 *
 * ```text
 * connecting ──event──► live ◄──event── lost       the last figures stay, greyed
 *     └──401, 403, 503 of a bound──► refused       asks for a bearer token, or says why
 * ```
 */
import { Chart } from './charts.js';
import { followEvents } from './event-source.js';
import { CounterPanel } from './follow.js';
import { Growth, healthOf } from './health.js';
import { showBalance, showBounds, showHotKeys, showShards } from './tables.js';
import { bytes, count, counted, duration, milliseconds, shortCount } from './text.js';

/** @typedef {import('../documents.js').DashboardDocument} DashboardDocument */
/** @typedef {import('../documents.js').DashboardPoint} DashboardPoint */

const POINTS_MAX = 300;
/** An event comes each second; without one for so long the server is taken for gone. */
const SILENCE_MS = 5_000;
const TOKEN_ITEM = 'summing-counters bearer token';

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/**
 * @param {string} id
 * @param {string} text
 */
function write(id, text) {
  byId(id).textContent = text;
}

/** @type {DashboardPoint[]} */
let points = [];
let growth = new Growth();
let lastEventAtMs = 0;
/** @type {(() => void) | undefined} */
let stop;

const panel = new CounterPanel(() => sessionStorage.getItem(TOKEN_ITEM) ?? '');
const charts = [
  new Chart(byId('rate-chart'), {
    name: 'Increments a second',
    series: [
      { label: 'Counted', of: ({ increments }) => increments },
      { label: 'Refused requests', of: ({ refused }) => refused },
    ],
    text: shortCount,
    step: 1,
  }),
  new Chart(byId('latency-chart'), {
    name: 'Milliseconds to acknowledgement',
    series: [
      { label: 'Half of the requests', of: ({ p50Ms }) => p50Ms },
      { label: '99 %', of: ({ p99Ms }) => p99Ms },
    ],
    text: (value) => milliseconds(value),
    step: 0.01,
  }),
];

/** @param {'connecting' | 'live' | 'lost' | 'refused'} state */
function setState(state) {
  document.body.dataset['state'] = state;
  byId('refused').hidden = state !== 'refused';
  byId('live').hidden = state === 'refused';
  byId('live').setAttribute('aria-busy', String(state === 'connecting'));
}

/**
 * Written only where it changes: screen readers read it out.
 * @param {{ level: string, title: string, detail: string }} health
 */
function showHealth({ level, title, detail }) {
  byId('health').dataset['level'] = level;
  for (const [id, text] of [
    ['health-title', title],
    ['health-detail', detail],
  ]) {
    if (id !== undefined && text !== undefined && byId(id).textContent !== text) write(id, text);
  }
}

/** @param {DashboardDocument} document */
function showFigures({ balance, shards, refusals, server }) {
  const last = points.at(-1);
  const oldest = Math.max(0, ...shards.map((shard) => shard.oldestPendingSeconds));
  write('increments', count(last?.increments ?? 0));
  write('increments-note', `in ${counted(last?.requests ?? 0, 'request', 'requests')} a second`);
  write('p99', milliseconds(last?.p99Ms ?? null));
  byId('p99').toggleAttribute('data-none', last?.p99Ms == null);
  write(
    'p50-note',
    last?.p50Ms == null ? 'no request in the last second' : `half of them within ${milliseconds(last.p50Ms)} ms`,
  );
  write('pending', shortCount(balance.pending));
  byId('pending').title = `${count(balance.pending)} increments`;
  write(
    'pending-note',
    balance.pending === 0 ? 'all is in PostgreSQL' : `increments, the oldest for ${duration(oldest)}`,
  );
  write('refusals', count(last?.refused ?? 0));
  const total = refusals.reduce((sum, { requests }) => sum + requests, 0);
  const codes = refusals.map(({ code, requests }) => `${code} ${count(requests)}`).join(', ');
  write('refusals-note', total === 0 ? 'none since the start' : `since the start: ${codes}`);
  write(
    'server',
    `summing-counters ${server.version}, Node.js ${server.node}, uWebSockets.js ${server.uws}; journal ${server.journal}; ` +
      `up for ${duration(server.upSeconds)}; ${bytes(server.residentBytes)} of memory`,
  );
}

/** @param {string} data */
function show(data) {
  /** @type {DashboardDocument} */
  const shown = JSON.parse(data);
  lastEventAtMs = performance.now();
  const [first] = shown.points;
  // The clock of the server was set back.
  if (first !== undefined && first.at <= (points.at(-1)?.at ?? 0)) points = [];
  points = [...points, ...shown.points].slice(-POINTS_MAX);
  growth.add(performance.now(), shown.bounds);
  setState('live');
  showHealth(healthOf(shown, growth.secondsLeft(shown.bounds)));
  showFigures(shown);
  const { accepted, recovered, adopted } = shown.balance;
  byId('empty').hidden = accepted + recovered + adopted > 0;
  if (shown.points.length > 0) for (const chart of charts) chart.show(points);
  byId('hot-empty').hidden = shown.hotKeys.length > 0;
  showHotKeys(byId('hot-keys'), shown.hotKeys.slice(0, 10), (key) => panel.follow(key));
  showBounds(byId('bounds'), shown.bounds);
  showShards(byId('shards'), shown.shards);
  showBalance(byId('balance'), byId('balance-text'), shown.balance);
}

function showLost() {
  if (document.body.dataset['state'] === 'refused') return;
  if (lastEventAtMs === 0) {
    showHealth({ level: 'wait', title: 'Connecting', detail: 'The server does not answer yet; trying again …' });
    return;
  }
  setState('lost');
  const age = duration(Math.max(1, Math.round((performance.now() - lastEventAtMs) / 1000)));
  showHealth({
    level: 'bad',
    title: 'Not connected',
    detail: `The server is gone; the figures are ${age} old. Trying again …`,
  });
}

/**
 * @param {number} status
 * @param {{ code?: string, detail?: string }} problem
 */
function showRefused(status, { detail }) {
  setState('refused');
  const isToken = status === 401 || status === 403;
  const wasGiven = sessionStorage.getItem(TOKEN_ITEM) !== null;
  byId('token-form').hidden = !isToken;
  write('refused-title', isToken ? 'A bearer token is needed' : 'The server shows no figures now');
  if (status === 401 && !wasGiven) {
    write('refused-text', 'This server shows its figures to bearers of a token with the scope read.');
  } else {
    write(
      'refused-text',
      status === 401 ? 'The server does not know this token.' : (detail ?? `It answered ${status}.`),
    );
  }
  showHealth({ level: 'wait', title: isToken ? 'Locked' : 'Refused', detail: '' });
  if (isToken) byId('token').focus();
}

function connect() {
  stop?.();
  points = [];
  growth = new Growth();
  const token = sessionStorage.getItem(TOKEN_ITEM) ?? '';
  const handlers = {
    /** @type {(name: string, data: string) => void} */
    event: (_, data) => show(data),
    open: () => {
      // The server sends its last minutes again.
      points = [];
    },
    lost: showLost,
    refused: showRefused,
  };
  stop = followEvents('/dashboard/events', token, handlers, SILENCE_MS);
}

byId('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const input = /** @type {HTMLInputElement} */ (byId('token'));
  sessionStorage.setItem(TOKEN_ITEM, input.value.trim());
  input.value = '';
  connect();
  panel.restart();
});
// The age of the figures goes on while the server is gone.
setInterval(() => {
  if (document.body.dataset['state'] === 'lost') showLost();
}, 1_000);
write('empty-command', `curl -X POST ${location.origin}/increment -d '{"page:/home": 1}'`);
connect();
