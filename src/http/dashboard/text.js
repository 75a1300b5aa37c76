/**
 * Numbers and times as text.
 */

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumSignificantDigits: 3, notation: 'compact' });
const precise = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

/** @param {number} value */
export function count(value) {
  return whole.format(value);
}

/**
 * Few digits, for places that are narrow.
 * @param {number} value
 */
export function shortCount(value) {
  return Math.abs(value) < 10_000 ? whole.format(value) : short.format(value);
}

/**
 * A count with its noun.
 * @param {number} value
 * @param {string} one
 * @param {string} many
 */
export function counted(value, one, many) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** @param {number | null} value */
export function milliseconds(value) {
  return value === null ? '–' : precise.format(value);
}

/** @param {number} value */
export function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let rest = value;
  while (rest >= 1024 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${precise.format(rest)} ${units[unit]}`;
}

/**
 * A time span in one unit.
 * @param {number} seconds
 */
export function duration(seconds) {
  if (seconds < 10) return `${Math.round(seconds * 10) / 10} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${whole.format(seconds / 86_400)} days`;
}

/**
 * An integer of any length with its digits in groups of three. The text comes from JSON and may exceed a double.
 * @param {string} digits
 */
export function grouped(digits) {
  return digits.replace(/\B(?=(\d{3})+$)/g, ',').replace('-', '−');
}
