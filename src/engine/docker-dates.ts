/** The engine says "never" by the first day of year 1. */
export function toDate(text: string | number | undefined): Date | undefined {
  const date = new Date(text ?? '');
  return Number.isNaN(date.getTime()) || date.getUTCFullYear() < 1971 ? undefined : date;
}

/** When something was made. What has no date counts as new: nothing is removed for an age that nobody knows. */
export function toCreationDate(text: string | number | undefined): Date {
  return toDate(text) ?? new Date();
}
