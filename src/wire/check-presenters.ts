import type { z } from 'zod';

import type { Attestation, Diagnosis } from '../index.js';
import type { attestationAnswer, diagnosisAnswer } from './check-answers.js';

export function presentDiagnosis({ at, ok, checks }: Diagnosis): z.output<typeof diagnosisAnswer> {
  return {
    at: at.toISOString(),
    ok,
    checks: checks.map(({ check, expected, found, severity, fix }) => ({ check, expected, found, severity, fix })),
  };
}

export function presentAttestation(attestation: Attestation): z.output<typeof attestationAnswer> {
  const { sandboxId, at, runtime, ok, drift, checks } = attestation;
  return {
    sandbox_id: sandboxId,
    at: at.toISOString(),
    runtime,
    ok,
    drift,
    checks: checks.map(({ check, expected, found, source, status, fix }) => ({
      check,
      expected,
      found,
      source,
      status,
      fix,
    })),
  };
}
