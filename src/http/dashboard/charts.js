/**
 * The moving charts, and what they say to those who do not see them.
 */

/** @typedef {import('../documents.js').DashboardPoint} DashboardPoint */
/** @typedef {{ label: string, of: (point: DashboardPoint) => number | null }} Series */

/** What a chart shows, in s: as much as there is, within these. */
const SPAN_MIN_SECONDS = 60;
const SPAN_MAX_SECONDS = 300;
const HEIGHT = 200;
/** How often the description for screen readers changes, in points. */
const DESCRIBED_EVERY = 10;
const TABLE_ROWS = 12;

/** One chart in its `figure`. */
export class Chart {
  /** @type {HTMLElement} */
  #figure;
  /** @type {HTMLElement} */
  #plotArea;
  /** @type {readonly Series[]} */
  #series;
  /** @type {(value: number) => string} */
  #text;
  /** @type {string} */
  #name;
  /** @type {number[]} */
  #steps;
  /** @type {uPlot | undefined} */
  #plot;
  /** @type {readonly DashboardPoint[]} */
  #points = [];
  #sinceDescribed = DESCRIBED_EVERY;

  /**
   * @param {HTMLElement} figure
   * @param {{ name: string, series: readonly Series[], text: (value: number) => string, step: number }} options `step`: the
   *   smallest step of the axis
   */
  constructor(figure, { name, series, text, step }) {
    this.#figure = figure;
    this.#plotArea = /** @type {HTMLElement} */ (figure.querySelector('.plot'));
    this.#series = series;
    this.#text = text;
    this.#name = name;
    this.#steps = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => step * digit * 10 ** power)).flat();
    figure.querySelector('details')?.addEventListener('toggle', () => this.#fillTable());
    new ResizeObserver(() => this.#resize()).observe(this.#plotArea);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#rebuild());
  }

  /** @param {readonly DashboardPoint[]} points */
  show(points) {
    this.#points = points;
    if (this.#plot === undefined) this.#rebuild();
    else this.#plot.setData(this.#data());
    this.#sinceDescribed += 1;
    if (this.#sinceDescribed >= DESCRIBED_EVERY) this.#describe();
    this.#fillTable();
  }

  /** @returns {uPlot.AlignedData} */
  #data() {
    return [
      this.#points.map(({ at }) => at / 1000),
      ...this.#series.map(({ of }) => this.#points.map((point) => of(point))),
    ];
  }

  #resize() {
    const width = this.#plotArea.clientWidth;
    if (width > 0) this.#plot?.setSize({ width, height: HEIGHT });
  }

  #rebuild() {
    this.#plot?.destroy();
    this.#plot = new uPlot(this.#options(), this.#data(), this.#plotArea);
  }

  /** @returns {uPlot.Options} */
  #options() {
    const style = getComputedStyle(document.documentElement);
    /** @param {string} name */
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour('--ink-soft'),
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { show: false },
      font: '12px system-ui, sans-serif',
    };
    return {
      width: Math.max(200, this.#plotArea.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      padding: [8, 20, 0, 0],
      scales: {
        // The clock of the server may differ from that of the browser, so the last point is now.
        x: { time: true, range: (_, min, max) => [max - spanOf(max - min), max] },
        y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] },
      },
      axes: [
        {
          ...axis,
          space: 80,
          size: 28,
          values: (plot, splits) => splits.map((at) => clockText(at).slice(0, isShort(plot) ? undefined : -3)),
        },
        { ...axis, size: 52, incrs: this.#steps, values: (_, splits) => splits.map((value) => this.#text(value)) },
      ],
      series: [
        {},
        ...this.#series.map(({ label }, index) => ({
          label,
          stroke: colour(`--series-${index + 1}`),
          width: 2,
          // Not told apart by colour alone.
          ...(index === 0 ? { fill: colour('--series-1-fill') } : { dash: [6, 4] }),
          // A second with silence before and behind it.
          points: {
            show: true,
            size: 5,
            filter: (/** @type {uPlot} */ plot, /** @type {number} */ at) => lonely(plot.data[at] ?? []),
          },
          spanGaps: false,
        })),
      ],
    };
  }

  #describe() {
    this.#sinceDescribed = 0;
    const said = this.#series.map(({ label, of }) => {
      const values = this.#points.map(of).filter((value) => value !== null);
      if (values.length === 0) return `${label}: none`;
      const now = values.at(-1) ?? 0;
      return `${label}: now ${this.#text(now)}, lowest ${this.#text(Math.min(...values))}, highest ${this.#text(Math.max(...values))}`;
    });
    this.#plotArea.setAttribute('aria-label', `${this.#name} over the last five minutes. ${said.join('. ')}.`);
  }

  #fillTable() {
    const details = this.#figure.querySelector('details');
    const table = this.#figure.querySelector('table');
    if (!details?.open || table === null) return;
    const head = row('th', ['Time', ...this.#series.map(({ label }) => label)]);
    const rows = this.#points.slice(-TABLE_ROWS).reverse();
    table.replaceChildren(
      head,
      ...rows.map((point) =>
        row('td', [
          clockText(point.at / 1000),
          ...this.#series.map(({ of }) => {
            const value = of(point);
            return value === null ? '–' : this.#text(value);
          }),
        ]),
      ),
    );
  }
}

/**
 * Whether the times need their seconds.
 * @param {uPlot} plot
 */
function isShort(plot) {
  return (plot.scales['x']?.max ?? 0) - (plot.scales['x']?.min ?? 0) <= 150;
}

/** @param {number} seconds */
function spanOf(seconds) {
  return Math.min(SPAN_MAX_SECONDS, Math.max(SPAN_MIN_SECONDS, seconds));
}

/**
 * The places of values with none on either side.
 * @param {ArrayLike<number | null | undefined>} values
 */
function lonely(values) {
  return Array.from(values, (_, at) => at).filter(
    (at) => values[at] != null && values[at - 1] == null && values[at + 1] == null,
  );
}

/** @param {number} atSeconds */
function clockText(atSeconds) {
  return new Date(atSeconds * 1000).toLocaleTimeString('en-GB');
}

/**
 * @param {'th' | 'td'} cell
 * @param {readonly string[]} texts
 */
function row(cell, texts) {
  const element = document.createElement('tr');
  for (const text of texts) element.append(Object.assign(document.createElement(cell), { textContent: text }));
  return element;
}
