/** GET /dashboard/events: an event a second with the data of the dashboard. HTTP thread. */
import { CounterError } from '../../core/errors.js';
import type { CounterOperations } from '../../core/counter-operations.js';
import { eventText, type EventStream } from './event-stream.js';
import { Phases } from './phases.js';

interface Dashboard {
  readonly stream: EventStream;
  /** The number of the last point sent; 0 before the first event. */
  through: number;
}

/** The open dashboards of an HTTP server. */
export class DashboardEvents {
  readonly #operations: Pick<CounterOperations, 'dashboard'>;
  readonly #reportBug: (error: unknown) => void;
  /** Dashboards that wait for an event. */
  readonly #busy = new Set<Dashboard>();
  readonly #dashboards = new Phases<Dashboard>((dashboards) => {
    for (const dashboard of dashboards) void this.#tell(dashboard);
  });

  constructor(operations: Pick<CounterOperations, 'dashboard'>, reportBug: (error: unknown) => void) {
    this.#operations = operations;
    this.#reportBug = reportBug;
  }

  /** Sends events on `stream` until the returned function is called. */
  add(stream: EventStream): () => void {
    const dashboard = { stream, through: 0 };
    void this.#tell(dashboard);
    this.#dashboards.add(dashboard);
    return () => {
      this.#dashboards.delete(dashboard);
    };
  }

  async #tell(dashboard: Dashboard): Promise<void> {
    if (this.#busy.has(dashboard)) return;
    this.#busy.add(dashboard);
    try {
      const { text, through } = await this.#operations.dashboard(dashboard.through);
      dashboard.through = through;
      dashboard.stream.write(eventText('dashboard', text));
    } catch (error) {
      // The server is busy; the next event has the numbers.
      if (!(error instanceof CounterError)) this.#reportBug(error);
    } finally {
      this.#busy.delete(dashboard);
    }
  }
}
