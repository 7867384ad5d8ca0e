import { createHmac } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

import type { WebhookSettings } from '../webhook-settings.js';
import { isSandyardError } from '../errors.js';
import type { LifecycleEvent, SandboxManager } from '../index.js';
import type { Log } from '../log.js';
import { presentLifecycleEvent } from '../wire/presenters.js';
import { within } from './calls.js';
import type { Metrics } from './metrics.js';

/*
 * Events of sandboxes, sent to whoever the operator named, and to nobody else: signed, and as they are told in
 * https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md (1.0.0).
 */

const MAX_QUEUE = 1000;
/** Of lost ones the first is logged, and then each of these many. */
const LOGGED_LOSSES = 100;

export interface WebhookTimes {
  readonly deadlineMs: number;
  readonly firstRetryMs: number;
  readonly maxRetryMs: number;
  /** With the waits between them about four minutes. */
  readonly tries: number;
  /** How long those that are on their way have when the service ends. */
  readonly closeMs: number;
}

const TIMES: WebhookTimes = {
  deadlineMs: 10_000,
  firstRetryMs: 1000,
  maxRetryMs: 60_000,
  tries: 10,
  closeMs: 1500,
};

interface Message {
  readonly id: string;
  readonly body: string;
}

type Counts = Pick<Metrics, 'webhookDelivery' | 'webhookDropped'>;

export interface WebhooksOptions extends WebhookSettings {
  readonly log: Log;
  readonly metrics: Counts;
  readonly times?: Partial<WebhookTimes>;
}

/** Sends each event to each URL: in order, again when that fails, and for a while only. */
export class Webhooks {
  readonly #endpoints: readonly Endpoint[];
  readonly #log: Log;
  readonly #stop = new AbortController();

  constructor({ urls, times, ...options }: WebhooksOptions) {
    this.#log = options.log;
    this.#endpoints = urls.map((url) => new Endpoint(url, { ...options, times: { ...TIMES, ...times } }));
  }

  /** Sends what happens from now on. */
  async follow(manager: Pick<SandboxManager, 'events'>): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        for await (const event of manager.events({ signal })) this.#send(event);
        return;
      } catch (error) {
        this.#log.error({ error }, 'some events were not sent to webhooks');
        if (!isSandyardError(error, 'output_lost')) return;
      }
    }
  }

  /** Gives what is left one more try, and up after a moment; says what was not sent. */
  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#endpoints.map((endpoint) => endpoint.close()));
  }

  #send(event: LifecycleEvent): void {
    const data = presentLifecycleEvent(event);
    const message = {
      id: event.id,
      body: JSON.stringify({ type: `sandbox.${event.type}`, timestamp: data.at, data }),
    };
    for (const endpoint of this.#endpoints) endpoint.send(message);
  }
}

interface EndpointOptions {
  readonly key: Uint8Array;
  readonly log: Log;
  readonly metrics: Counts;
  readonly times: WebhookTimes;
}

/** Why a message was not taken. `gone`: there is nobody any more who wants any. */
interface Refusal {
  readonly reason: string;
  readonly gone: boolean;
  readonly outcome: 'refused' | 'failed';
}

class Endpoint {
  readonly #url: string;
  /** For the log: the rest of a URL may be all that it takes to call it. */
  readonly #origin: string;
  readonly #options: EndpointOptions;
  readonly #queue: Message[] = [];
  readonly #closing = new AbortController();
  readonly #cut = new AbortController();
  #running: Promise<void> | undefined;
  #gone = false;
  #lost = 0;

  constructor(url: string, options: EndpointOptions) {
    this.#url = url;
    this.#origin = new URL(url).origin;
    this.#options = options;
  }

  send(message: Message): void {
    if (this.#gone || this.#closing.signal.aborted) return;
    this.#queue.push(message);
    if (this.#queue.length > MAX_QUEUE) {
      this.#queue.shift();
      this.#lose('the queue is full');
    }
    this.#running ??= this.#run();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const running = this.#running;
    if (running !== undefined && !(await within(this.#options.times.closeMs, running))) {
      this.#cut.abort();
      await running;
    }
    const { log } = this.#options;
    if (this.#lost > 0) log.warn({ webhook: this.#origin, lost: this.#lost }, 'a webhook was not sent all events');
  }

  async #run(): Promise<void> {
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) await this.#deliver(next);
    // Not a step later: what is sent then is to start it anew.
    this.#running = undefined;
  }

  async #deliver(message: Message): Promise<void> {
    const { tries, firstRetryMs, maxRetryMs } = this.#options.times;
    for (let tried = 1; !this.#gone; tried += 1) {
      const refusal = await this.#try(message);
      if (refusal === undefined) return;
      this.#gone ||= refusal.gone;
      if (refusal.gone || tried >= tries || this.#closing.signal.aborted) return this.#lose(refusal.reason);
      const waitMs = Math.min(firstRetryMs * 2 ** (tried - 1), maxRetryMs);
      // Between half of it and all: several services need not come back at once.
      await sleep(waitMs * (0.5 + Math.random() / 2), undefined, { signal: this.#closing.signal, ref: false }).catch(
        () => {}, // one more try, at once
      );
    }
    this.#lose('gone');
  }

  async #try(message: Message): Promise<Refusal | undefined> {
    if (this.#cut.signal.aborted) return CUT;
    const refusal = await this.#post(message);
    this.#options.metrics.webhookDelivery(refusal?.outcome ?? 'sent');
    return refusal;
  }

  async #post({ id, body }: Message): Promise<Refusal | undefined> {
    const timestamp = Math.floor(Date.now() / 1000);
    const signature = createHmac('sha256', this.#options.key).update(`${id}.${timestamp}.${body}`).digest('base64');
    // Not AbortSignal.any: in Node.js 20 and 22 that leaves something with the signal that lives on, each time.
    const ending = new AbortController();
    const end = () => ending.abort();
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      end();
    }, this.#options.times.deadlineMs).unref();
    this.#cut.signal.addEventListener('abort', end, { once: true });
    try {
      const response = await fetch(this.#url, {
        method: 'POST',
        redirect: 'manual',
        headers: {
          'content-type': 'application/json',
          'user-agent': 'sandyard',
          'webhook-id': id,
          'webhook-timestamp': String(timestamp),
          'webhook-signature': `v1,${signature}`,
        },
        body,
        signal: ending.signal,
      });
      await response.body?.cancel();
      if (response.ok) return undefined;
      return { reason: `status ${response.status}`, gone: response.status === 410, outcome: 'refused' };
    } catch (error) {
      const reason = isLate ? 'no answer in time' : describeFailure(error);
      return { reason, gone: false, outcome: 'failed' };
    } finally {
      clearTimeout(timer);
      this.#cut.signal.removeEventListener('abort', end);
    }
  }

  #lose(reason: string): void {
    this.#lost += 1;
    this.#options.metrics.webhookDropped();
    if (this.#lost % LOGGED_LOSSES !== 1) return;
    const { log } = this.#options;
    log.warn({ webhook: this.#origin, reason, lost: this.#lost }, 'an event was not sent to a webhook');
  }
}

const CUT: Refusal = { reason: 'the service ended', gone: false, outcome: 'failed' };

/** What the network says; `fetch` itself only says that it failed. */
function describeFailure(error: unknown): string {
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  if (cause instanceof Error && 'code' in cause && typeof cause.code === 'string') return cause.code;
  return cause instanceof Error ? cause.name : 'failed';
}
