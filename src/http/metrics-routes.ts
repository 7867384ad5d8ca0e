import { z } from 'zod';

import { METRICS_TYPE } from './metrics.js';
import { operation, type Operation } from './operation.js';

/** Behind the token, unlike health: how much goes on, and what fails, is nobody else's business. */
export const metricsOperations: readonly Operation[] = [
  operation({
    method: 'get',
    path: '/metrics',
    operationId: 'metrics',
    tag: 'Service',
    summary: 'What goes on, for Prometheus',
    description:
      'In the text format 0.0.4. No metric has an id as a label. What can not be had within two seconds, such as the ' +
      'number of sandboxes while the engine hangs, is left out.',
    answers: {
      200: { description: 'All metrics.', content: { 'text/plain': z.string() } },
    },
    errors: [],
    async handle({ manager, metrics, response }) {
      const text = await metrics.scrape(() => manager.gauges());
      response.set('Content-Type', METRICS_TYPE).send(text);
    },
  }),
];
