import { collectDefaultMetrics, Counter, Histogram, Registry, type CounterConfiguration } from 'prom-client';

import { ERROR_CODES } from '../errors.js';
import { ENGINE_OPERATIONS, type ManagerGauges, type Telemetry } from '../telemetry.js';
import { SandboxGauges } from './sandbox-gauges.js';

/*
 * What Prometheus is told. Labels have few values, all of them from the sets below or from our own routes: whatever else
 * comes is counted as `other`, so that no client and no sandbox can make the number of series grow.
 */

export const METRICS_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

const OTHER = 'other';
const METHODS = words('GET HEAD POST PUT DELETE PATCH OPTIONS');
const CODES = new Set<string>(ERROR_CODES);
const OPERATIONS = new Set<string>(ENGINE_OPERATIONS);
const OUTCOMES = words('exited signaled timed_out oom_killed killed disk_full sandbox_died error');
const REAP_REASONS = words(
  'lease_expired idle max_lifetime stopped_too_long lost half_created image_gone sandbox_gone unused',
);
const EVENTS = words('created started stopped paused unpaused renewed oom disk_full destroyed');
const MEASURES = ['sandboxes', 'memory', 'cpus', 'pids'];
const REFUSALS = new Set([
  ...words('queue memory disk'),
  ...['owner', 'manager', 'tenant'].flatMap((scope) => MEASURES.map((measure) => `${scope}.${measure}`)),
]);

/** A fork takes half a millisecond, and a command minutes. */
const WORK_SECONDS = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800,
];
const CALL_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/** Of Node's own: `promtool` takes a gauge that is called a total for a fault. */
const MISNAMED = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total'];

type DeliveryOutcome = 'sent' | 'refused' | 'failed';

export interface MetricsOptions {
  /** Whether the process itself is measured, too: once in a program. */
  readonly process?: boolean;
}

/** Counts what a manager and the service do, and tells it in Prometheus' text format. */
export class Metrics implements Telemetry {
  readonly #registry = new Registry();
  readonly #gauges = new SandboxGauges(this.#registry);
  readonly #counters = defineCounters(this.#registry);
  readonly #seconds = defineHistograms(this.#registry);

  constructor({ process = false }: MetricsOptions = {}) {
    if (!process) return;
    collectDefaultMetrics({ register: this.#registry });
    for (const name of MISNAMED) this.#registry.removeSingleMetric(name);
  }

  /** All in text. What `readGauges` doesn't give in time is left out. Settles within two seconds. */
  async scrape(readGauges: () => Promise<ManagerGauges>): Promise<string> {
    await this.#gauges.refresh(readGauges);
    return this.#registry.metrics();
  }

  execution({ type, status, seconds }: Parameters<Telemetry['execution']>[0]): void {
    this.#counters.executions.inc({ type, status: oneOf(OUTCOMES, status) });
    this.#seconds.execution.observe({ type }, seconds);
  }

  create({ source, status, seconds }: Parameters<Telemetry['create']>[0]): void {
    this.#counters.creates.inc({ source, status });
    this.#seconds.create.observe({ source }, seconds);
  }

  claim(result: Parameters<Telemetry['claim']>[0]): void {
    this.#counters.claims.inc({ result });
  }

  rejected(reason: Parameters<Telemetry['rejected']>[0]): void {
    this.#counters.rejections.inc({ reason: oneOf(REFUSALS, reason) });
  }

  engineCall({ operation: given, status, seconds }: Parameters<Telemetry['engineCall']>[0]): void {
    const operation = oneOf(OPERATIONS, given);
    this.#counters.engineCalls.inc({ operation, status });
    this.#seconds.engineCall.observe({ operation }, seconds);
  }

  reaped(reason: string): void {
    this.#counters.reaped.inc({ reason: oneOf(REAP_REASONS, reason) });
  }

  event(type: string): void {
    this.#counters.events.inc({ type: oneOf(EVENTS, type) });
  }

  /** A webhook was called: it took the event, it answered with another status, or there was no answer. */
  webhookDelivery(outcome: DeliveryOutcome): void {
    this.#counters.webhookDeliveries.inc({ outcome });
  }

  /** An event that a webhook will never get. */
  webhookDropped(): void {
    this.#counters.webhookDrops.inc();
  }

  error(code: string): void {
    this.#counters.errors.inc({ code: oneOf(CODES, code) });
  }

  /** A request was answered. `route` is the template that it met, where it met one. */
  request(measured: { route: string | undefined; method: string; status: number; seconds: number }): void {
    const { route = OTHER, status, seconds } = measured;
    const method = oneOf(METHODS, measured.method);
    this.#counters.requests.inc({ route, method, status: `${Math.floor(status / 100)}xx` });
    this.#seconds.request.observe({ route, method }, seconds);
  }
}

function defineCounters(registry: Registry) {
  const counter = <Label extends string>(
    name: string,
    { help, labelNames }: Omit<CounterConfiguration<Label>, 'name'>,
  ) => new Counter({ name, help, ...(labelNames && { labelNames }), registers: [registry] });
  return {
    executions: counter('sandbox_executions_total', {
      help: 'Commands and processes that ended, by what started them and how they ended.',
      labelNames: ['type', 'status'],
    }),
    creates: counter('sandbox_creates_total', {
      help: 'Sandboxes that were asked for, by whether they came from the pool.',
      labelNames: ['source', 'status'],
    }),
    claims: counter('sandbox_pool_claims_total', { help: 'Tries to claim a warm sandbox.', labelNames: ['result'] }),
    rejections: counter('sandbox_create_rejections_total', {
      help: 'Creates that were refused for want of room.',
      labelNames: ['reason'],
    }),
    engineCalls: counter('sandbox_engine_calls_total', {
      help: 'Calls of the Docker engine.',
      labelNames: ['operation', 'status'],
    }),
    requests: counter('sandbox_http_requests_total', {
      help: 'HTTP requests, by the route that they met and the class of their status.',
      labelNames: ['route', 'method', 'status'],
    }),
    errors: counter('sandbox_errors_total', {
      help: 'Errors that requests were answered with.',
      labelNames: ['code'],
    }),
    reaped: counter('sandbox_reaped_total', { help: 'What a reaper removed, and why.', labelNames: ['reason'] }),
    webhookDeliveries: counter('sandbox_webhook_deliveries_total', {
      help: 'Calls of webhooks, by whether they took the event.',
      labelNames: ['outcome'],
    }),
    webhookDrops: counter('sandbox_webhook_drops_total', {
      help: 'Events that a webhook was not sent, for all tries or for want of room in its queue.',
    }),
    events: counter('sandbox_events_total', { help: 'What happened to sandboxes.', labelNames: ['type'] }),
  };
}

function defineHistograms(registry: Registry) {
  const registers = [registry];
  return {
    execution: new Histogram({
      name: 'sandbox_execution_duration_seconds',
      help: 'How long commands and processes ran.',
      labelNames: ['type'],
      buckets: WORK_SECONDS,
      registers,
    }),
    create: new Histogram({
      name: 'sandbox_create_duration_seconds',
      help: 'From the call to the sandbox that can be used.',
      labelNames: ['source'],
      buckets: CALL_SECONDS,
      registers,
    }),
    engineCall: new Histogram({
      name: 'sandbox_engine_call_duration_seconds',
      help: 'How long the Docker engine took to answer.',
      labelNames: ['operation'],
      buckets: CALL_SECONDS,
      registers,
    }),
    request: new Histogram({
      name: 'sandbox_http_request_duration_seconds',
      help: 'From the head of a request to the end of its answer; for a stream or terminal that is when it ends.',
      labelNames: ['route', 'method'],
      buckets: CALL_SECONDS,
      registers,
    }),
  };
}

function words(text: string): ReadonlySet<string> {
  return new Set(text.split(' '));
}

function oneOf(known: ReadonlySet<string>, value: string): string {
  return known.has(value) ? value : OTHER;
}
