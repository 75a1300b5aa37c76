/**
 * Hottest keys, room, shards and balance.
 */
import { bytes, count, duration, milliseconds, shortCount } from './text.js';

/** @typedef {import('../documents.js').DashboardDocument} DashboardDocument */

/** @type {Readonly<Record<string, string>>} */
const BOUND_NAMES = {
  pendingKeys: 'Pending keys',
  pendingBytes: 'Pending bytes',
  journalBytes: 'Journal',
  connections: 'Connections',
  watchers: 'Event streams',
  idempotencyRows: 'Idempotency keys',
};
const BALANCE_NAMES = /** @type {const} */ ({
  accepted: 'accepted',
  recovered: 'recovered',
  adopted: 'adopted',
  flushed: 'flushed',
  pending: 'pending',
  deduplicated: 'deduplicated',
  handedOver: 'handed over',
  rejected: 'rejected',
  lost: 'lost',
});

/**
 * Changes the texts of a list in place, so that focus stays where it is.
 * @param {HTMLElement} list
 * @param {number} length
 * @param {() => HTMLElement} make
 */
function fit(list, length, make) {
  while (list.children.length > length) list.lastElementChild?.remove();
  while (list.children.length < length) list.append(make());
}

/**
 * @param {string} tag
 * @param {string} [className]
 */
function element(tag, className) {
  const made = document.createElement(tag);
  if (className !== undefined) made.className = className;
  return made;
}

/**
 * @param {HTMLElement} list
 * @param {DashboardDocument['hotKeys']} keys
 * @param {(key: string) => void} follow
 */
export function showHotKeys(list, keys, follow) {
  fit(list, keys.length, () => {
    const item = element('li');
    const button = /** @type {HTMLButtonElement} */ (element('button', 'key'));
    button.type = 'button';
    button.addEventListener('click', () => follow(button.dataset['key'] ?? ''));
    item.append(button, element('span', 'rate'), element('span', 'bar'));
    return item;
  });
  const most = keys[0]?.perSecond ?? 1;
  keys.forEach(({ key, perSecond }, index) => {
    const [button, rate, bar] = /** @type {HTMLElement[]} */ ([...(list.children[index]?.children ?? [])]);
    if (button === undefined || rate === undefined || bar === undefined) return;
    button.textContent = key;
    button.dataset['key'] = key;
    button.title = `Follow ${key}`;
    rate.textContent = `${perSecond < 10 ? perSecond.toFixed(1) : shortCount(perSecond)}/s`;
    bar.style.inlineSize = `${Math.max(1, (100 * perSecond) / most)}%`;
  });
}

/**
 * @param {HTMLElement} list
 * @param {DashboardDocument['bounds']} bounds
 */
export function showBounds(list, bounds) {
  fit(list, bounds.length, () => {
    const item = element('div');
    const meter = element('meter');
    meter.setAttribute('min', '0');
    const value = element('dd');
    value.append(element('span'), meter);
    item.append(element('dt'), value);
    return item;
  });
  bounds.forEach(({ name, now, most, setting }, index) => {
    const item = list.children[index];
    const [term, text, meter] = [item?.querySelector('dt'), item?.querySelector('span'), item?.querySelector('meter')];
    if (!term || !text || !meter) return;
    const shown = name.endsWith('Bytes') ? bytes : shortCount;
    term.textContent = BOUND_NAMES[name] ?? name;
    text.textContent = most === null ? `${shown(now)}, no limit` : `${shown(now)} of ${shown(most)}`;
    text.title = most === null ? '' : setting;
    meter.hidden = most === null;
    meter.max = most ?? 1;
    meter.low = meter.max * 0.7;
    meter.high = meter.max * 0.9;
    meter.optimum = 0;
    meter.value = Math.min(now, meter.max);
    meter.setAttribute('aria-label', `${term.textContent}: ${text.textContent}`);
  });
}

/**
 * @param {HTMLElement} body
 * @param {DashboardDocument['shards']} shards
 */
export function showShards(body, shards) {
  const head = [...(body.parentElement?.querySelectorAll('th') ?? [])].map((cell) => cell.textContent ?? '');
  fit(body, shards.length, () => {
    const row = element('tr');
    const number = element('th');
    number.setAttribute('scope', 'row');
    row.append(number, ...Array.from({ length: 8 }, () => element('td')));
    return row;
  });
  shards.forEach((shard, index) => {
    const texts = [
      String(index),
      count(shard.increments),
      count(shard.pending),
      duration(shard.oldestPendingSeconds),
      bytes(shard.journalBytes),
      shard.syncMs === null ? '–' : `${milliseconds(shard.syncMs)} ms`,
      shard.flushMs === null ? '–' : `${milliseconds(shard.flushMs)} ms`,
      count(shard.flushRetries),
      count(shard.restarts),
    ];
    const cells = /** @type {HTMLElement[]} */ ([...(body.children[index]?.children ?? [])]);
    cells.forEach((cell, column) => {
      cell.textContent = texts[column] ?? '';
      // Narrow screens show each cell with its name.
      cell.dataset['name'] = head[column] ?? '';
    });
  });
}

/**
 * @param {HTMLElement} list
 * @param {HTMLElement} text
 * @param {DashboardDocument['balance']} balance
 */
export function showBalance(list, text, balance) {
  const names = /** @type {(keyof typeof BALANCE_NAMES)[]} */ (Object.keys(BALANCE_NAMES));
  fit(list, names.length, () => {
    const item = element('div');
    item.append(element('dt'), element('dd'));
    return item;
  });
  names.forEach((name, index) => {
    const [term, value] = [...(list.children[index]?.children ?? [])];
    if (term) term.textContent = BALANCE_NAMES[name];
    if (!(value instanceof HTMLElement)) return;
    value.textContent = count(balance[name]);
    value.dataset['name'] = name;
  });
  const came = balance.accepted + balance.recovered + balance.adopted;
  const went = balance.flushed + balance.deduplicated + balance.handedOver + balance.rejected + balance.lost;
  const left = came - went - balance.pending;
  text.textContent =
    left === 0
      ? `Since the start: ${count(came)} came in, ${count(went)} went out, ${count(balance.pending)} are pending. It adds up.`
      : `Since the start: ${count(came)} came in and ${count(went)} went out, which leaves ${count(left)} unexplained.`;
}
