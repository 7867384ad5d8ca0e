import { checkService, isHealthy } from '../index.js';
import { attestationAnswer, diagnosisAnswer } from '../wire/check-answers.js';
import { presentAttestation, presentDiagnosis } from '../wire/check-presenters.js';
import { operation, type Operation } from './operation.js';

export const checkOperations: readonly Operation[] = [
  operation({
    method: 'get',
    path: '/api/doctor',
    operationId: 'diagnose',
    tag: 'Service',
    summary: 'What the engine and the service can and can not enforce',
    description:
      'Runs a sandbox on each runtime of the engine, and tries whether a disk can be bounded, so it takes seconds. That ' +
      'something fails is in the answer, which is 200 all the same.',
    answers: { 200: { description: 'What was found.', content: { 'application/json': diagnosisAnswer } } },
    errors: [],
    async handle({ manager, config, response, signal }) {
      const { at, checks: engine } = await manager.doctor({ signal });
      const checks = [...engine, ...checkService(() => config)];
      response.json(presentDiagnosis({ at, ok: isHealthy(checks), checks }));
    },
  }),
  operation({
    method: 'get',
    path: '/api/sandboxes/{id}/attestation',
    operationId: 'attestSandbox',
    tag: 'Sandboxes',
    summary: 'What is really enforced of a sandbox',
    description:
      'Read back from the engine, and tried in the sandbox with the rights of its user. What is not as it was made is drift: ' +
      'the answer is 200 then, too, with "ok" false.',
    answers: { 200: { description: 'What was found.', content: { 'application/json': attestationAnswer } } },
    errors: ['wrong_state'],
    async handle({ manager, id, response, signal }) {
      response.json(presentAttestation(await manager.attest(id, { signal })));
    },
  }),
];
