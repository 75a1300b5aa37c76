/**
 * The Prometheus page: the server's metrics from a snapshot, and the default metrics of Node.js. Main thread; owner of
 * prom-client, whose successor needs Node 22.
 *
 * The library renders and supplies the default metrics. It does not count, because its counters with labels cost sixty times an
 * addition in shared memory. The server's metrics take their values from the one snapshot of a scrape.
 */
import {
  collectDefaultMetrics,
  Gauge,
  Registry,
  type MetricObjectWithValues,
  type MetricValueWithName,
} from 'prom-client';
import type { HistogramReading } from '../../core/histogram.js';

/** The labels of a series. Their values are bounded: no keys, no bearer tokens. */
type Labels = Readonly<Record<string, string | number>>;

/** One series of a scrape. */
export interface Sample<T> {
  readonly labels?: Labels;
  readonly value: T;
}

/** A histogram with the upper bounds of its buckets. */
export interface HistogramSample extends HistogramReading {
  readonly bounds: readonly number[];
}

/** A metric: its description, and its series in a snapshot `S`. */
export type MetricDefinition<S> = { readonly name: string; readonly help: string } & (
  | { readonly type: 'counter' | 'gauge'; readonly samples: (snapshot: S) => readonly Sample<number>[] }
  | { readonly type: 'histogram'; readonly samples: (snapshot: S) => readonly Sample<HistogramSample>[] }
);

type PageValues = MetricObjectWithValues<MetricValueWithName<string>>;

/** `promtool check metrics` refuses these gauges, because they are named like counters. */
const REFUSED_DEFAULT_METRICS = [
  'nodejs_active_handles_total',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
];

/** The page of one process. Make it once; the default metrics count from then on. */
export class PrometheusPage<S> {
  readonly #registry = new Registry();
  readonly #values: SnapshotMetric<S>[] = [];

  constructor(definitions: readonly MetricDefinition<S>[]) {
    for (const definition of definitions) {
      const metric = new SnapshotMetric(definition);
      this.#registry.registerMetric(metric);
      this.#values.push(metric);
    }
    collectDefaultMetrics({ register: this.#registry });
    for (const name of REFUSED_DEFAULT_METRICS) this.#registry.removeSingleMetric(name);
  }

  /** The text of the page. */
  render(snapshot: S): Promise<string> {
    // First, because the library asks for values over several turns, and another scrape may begin meanwhile.
    for (const metric of this.#values) metric.take(snapshot);
    return this.#registry.metrics();
  }
}

/** A metric of the server, as the library needs it. */
class SnapshotMetric<S> extends Gauge {
  readonly #definition: MetricDefinition<S>;
  #values: PageValues['values'] = [];

  constructor(definition: MetricDefinition<S>) {
    const { name, help } = definition;
    super({ name, help, registers: [] });
    this.#definition = definition;
  }

  /** Takes its values from a snapshot. */
  take(snapshot: S): void {
    const definition = this.#definition;
    this.#values =
      definition.type === 'histogram'
        ? definition.samples(snapshot).flatMap((sample) => histogramValues(definition.name, sample))
        : definition
            .samples(snapshot)
            .map(({ labels = {}, value }) => ({ metricName: definition.name, labels, value }));
  }

  override get(): Promise<PageValues> {
    const { name, help, type } = this.#definition;
    // The library does not export the enumeration of types; its values are these words.
    const values = { name, help, type, values: this.#values, aggregator: 'sum' } as unknown as PageValues;
    return Promise.resolve(values);
  }
}

function histogramValues(name: string, { labels = {}, value }: Sample<HistogramSample>): PageValues['values'] {
  const { bounds, cumulative, sum, count } = value;
  const buckets = cumulative.map((values, bucket) => ({
    metricName: `${name}_bucket`,
    labels: { ...labels, le: String(bounds[bucket] ?? '+Inf') },
    value: values,
  }));
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels, value: sum },
    { metricName: `${name}_count`, labels, value: count },
  ];
}
