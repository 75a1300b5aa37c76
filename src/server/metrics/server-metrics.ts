/**
 * GET /metrics: takes a snapshot and renders it. Main thread.
 */
import { readConnections } from '../../http/request-stats.js';
import { connectionsTo } from './connection-count.js';
import { metricDefinitions } from './metric-definitions.js';
import { takeSnapshot, type MetricsSnapshot, type MetricsSources } from './metrics-snapshot.js';
import { PrometheusPage } from './prometheus-page.js';

/** How the connections are counted. */
export interface ConnectionSources {
  /** Whether the HTTP servers count their connections. */
  readonly isCounted: () => boolean;
  /** The port of the server; 0 before it listens. */
  readonly port: () => number;
  /** The number estimated from open descriptors. */
  readonly byDescriptors: () => number;
}

/** The metrics of this process. */
export class ServerMetrics {
  readonly #sources: Omit<MetricsSources, 'connections'>;
  readonly #connections: ConnectionSources;
  readonly #page = new PrometheusPage<MetricsSnapshot>(metricDefinitions);

  constructor(sources: Omit<MetricsSources, 'connections'>, connections: ConnectionSources) {
    this.#sources = sources;
    this.#connections = connections;
  }

  /** The page. Rejects with CounterError `overloaded` if a shard does not finish a change of its numbers. */
  async page(): Promise<string> {
    return this.#page.render(await this.snapshot(true));
  }

  /** A snapshot, for other views. Without `countsConnections` it has no connections. */
  async snapshot(countsConnections: boolean): Promise<MetricsSnapshot> {
    const connections = countsConnections ? await this.#countConnections() : 0;
    return takeSnapshot({ ...this.#sources, connections });
  }

  async #countConnections(): Promise<number> {
    const { isCounted, port, byDescriptors } = this.#connections;
    if (isCounted()) return readConnections(this.#sources.requestStats);
    return (await connectionsTo(port())) ?? byDescriptors();
  }
}
